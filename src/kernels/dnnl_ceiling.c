/* Matrix products as oneDNN alone does them; see dnnl_ceiling.h. */
#include "dnnl_ceiling.h"

#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/compiler.h"
#include "dnnl_product.h"

extern void omp_set_num_threads(int threads);
extern int omp_get_max_threads(void);

enum { LAYOUTS = 2, MATRICES = 3 };

typedef struct variant {
    dnnl_primitive_t primitive;
    dnnl_memory_t memory[MATRICES];
    void *data[MATRICES];
    size_t bytes[MATRICES];
    int64_t best_ns;
} variant;

struct qni_ceiling {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    variant variant[LAYOUTS]; /* the library's layouts; plain rows with packed weights */
    int32_t threads, calls;
};

static const int arg_index[MATRICES] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST};

static dnnl_status_t fill_memory(variant *v, int i, const dnnl_memory_desc_t *md, dnnl_engine_t engine)
{
    v->bytes[i] = dnnl_memory_desc_get_size(md);
    v->data[i] = qn_alloc_pages(v->bytes[i]);
    if (v->data[i] == NULL) return dnnl_out_of_memory;
    const bool wide = md->data_type == dnnl_f32; /* ones, so that no product is denormal */
    for (size_t at = 0; at < v->bytes[i] / (wide ? 4 : 2); at++) {
        if (wide)
            ((float *)v->data[i])[at] = 1.0f;
        else
            ((uint16_t *)v->data[i])[at] = 0x3f80;
    }
    return dnnl_memory_create(&v->memory[i], md, engine, v->data[i]);
}

static dnnl_status_t open_variant(variant *v, dnnl_engine_t engine, const int64_t size[3], bool bf16, bool c_f32, bool own_layout)
{
    const dnnl_data_type_t in = bf16 ? dnnl_bf16 : dnnl_f32, out = bf16 && !c_f32 ? dnnl_bf16 : dnnl_f32;
    const dnnl_format_tag_t rows = own_layout ? dnnl_format_tag_any : dnnl_ab;
    const dnnl_dims_t a = {size[0], size[2]}, b = {size[2], size[1]}, c = {size[0], size[1]};
    dnnl_memory_desc_t md[MATRICES];
    dnnl_matmul_desc_t desc;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t st = dnnl_memory_desc_init_by_tag(&md[0], 2, a, in, rows);
    if (st == dnnl_success) st = dnnl_memory_desc_init_by_tag(&md[1], 2, b, in, dnnl_format_tag_any);
    if (st == dnnl_success) st = dnnl_memory_desc_init_by_tag(&md[2], 2, c, out, rows);
    if (st == dnnl_success) st = dnnl_matmul_desc_init(&desc, &md[0], &md[1], NULL, &md[2]);
    if (st == dnnl_success) st = dnnl_primitive_desc_create(&pd, &desc, NULL, engine, NULL);
    if (st == dnnl_success) st = dnnl_primitive_create(&v->primitive, pd);
    if (st == dnnl_success) st = fill_memory(v, 0, dnnl_primitive_desc_query_md(pd, dnnl_query_src_md, 0), engine);
    if (st == dnnl_success) st = fill_memory(v, 1, dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0), engine);
    if (st == dnnl_success) st = fill_memory(v, 2, dnnl_primitive_desc_query_md(pd, dnnl_query_dst_md, 0), engine);
    if (pd != NULL) dnnl_primitive_desc_destroy(pd);
    return st;
}

qn_status qni_ceiling_open(qni_ceiling **out, int64_t m, int64_t n, int64_t k, bool bf16, bool c_f32, int32_t threads,
                           qn_err *err)
{
    const int64_t size[3] = {m, n, k};
    qni_ceiling *c = qn_calloc(1, sizeof(*c));
    if (c == NULL) return QN_FAIL(err, QN_ENOMEM, "product of %lld x %lld x %lld", (long long)m, (long long)n, (long long)k);
    c->threads = threads;
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    dnnl_status_t st = dnnl_engine_create(&c->engine, dnnl_cpu, 0);
    if (st == dnnl_success) st = dnnl_stream_create(&c->stream, c->engine, dnnl_stream_default_flags);
    for (int i = 0; i < LAYOUTS && st == dnnl_success; i++)
        st = open_variant(&c->variant[i], c->engine, size, bf16, c_f32, i == 0);
    omp_set_num_threads(before);
    if (st == dnnl_success) {
        *out = c;
        return QN_OK;
    }
    qni_ceiling_close(c);
    return qni_dnnl_status(st, "ceiling of a matrix product", err);
}

void qni_ceiling_close(qni_ceiling *c)
{
    if (c == NULL) return;
    for (int i = 0; i < LAYOUTS; i++) {
        variant *v = &c->variant[i];
        for (int j = 0; j < MATRICES; j++) {
            if (v->memory[j] != NULL) dnnl_memory_destroy(v->memory[j]);
            qn_free_pages(v->data[j], v->bytes[j]);
        }
        if (v->primitive != NULL) dnnl_primitive_destroy(v->primitive);
    }
    if (c->stream != NULL) dnnl_stream_destroy(c->stream);
    if (c->engine != NULL) dnnl_engine_destroy(c->engine);
    qn_free(c);
}

static int64_t run_variant(const qni_ceiling *c, variant *v)
{
    dnnl_exec_arg_t args[MATRICES];
    for (int j = 0; j < MATRICES; j++) args[j] = (dnnl_exec_arg_t){.arg = arg_index[j], .memory = v->memory[j]};
    const int64_t began = qn_now_ns();
    QN_ASSERT(dnnl_primitive_execute(v->primitive, c->stream, MATRICES, args) == dnnl_success);
    QN_ASSERT(dnnl_stream_wait(c->stream) == dnnl_success);
    const int64_t ns = qn_now_ns() - began;
    if (v->best_ns == 0 || ns < v->best_ns) v->best_ns = ns;
    return ns;
}

int64_t qni_ceiling_run(qni_ceiling *c)
{
    enum { TRIALS = 3 };
    const int before = omp_get_max_threads();
    omp_set_num_threads(c->threads);
    for (; c->calls < TRIALS; c->calls++)
        for (int i = 0; i < LAYOUTS; i++) run_variant(c, &c->variant[i]);
    const int best = c->variant[1].best_ns < c->variant[0].best_ns;
    const int64_t ns = run_variant(c, &c->variant[best]);
    omp_set_num_threads(before);
    return ns;
}
