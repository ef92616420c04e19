/* Matrix products and reorders through oneDNN 2.x, each on one thread; see dnnl_product.h. */
#include "dnnl_product.h"

#include <pthread.h>
#include <string.h>

#include "core/compiler.h"

/* Of libgomp, which oneDNN runs on; declared here so that Quern itself is not compiled with OpenMP. */
extern void omp_set_num_threads(int threads);
extern int omp_get_max_threads(void);

int qni_dnnl_enter(void)
{
    const int before = omp_get_max_threads();
    if (before != 1) omp_set_num_threads(1);
    return before;
}

void qni_dnnl_leave(int before)
{
    if (before != 1) omp_set_num_threads(before);
}

qn_status qni_dnnl_status(dnnl_status_t status, const char *what, qn_err *err)
{
    switch (status) {
    case dnnl_success:
        return QN_OK;
    case dnnl_out_of_memory:
        return QN_FAIL(err, QN_ENOMEM, "oneDNN: %s: out of memory", what);
    case dnnl_unimplemented:
        return QN_FAIL(err, QN_EUNSUPPORTED, "oneDNN: %s: this library or processor cannot do it", what);
    default:
        return QN_FAIL(err, QN_EINTERNAL, "oneDNN: %s: status %d", what, (int)status);
    }
}

typedef struct layouts {
    dnnl_memory_desc_t arg[QNI_PRODUCT_ARGS]; /* a, b, c, scratch, bias */
} layouts;

static const int arg_index[QNI_PRODUCT_ARGS] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD, DNNL_ARG_BIAS};

static dnnl_status_t describe(layouts *l, const qni_product_spec *s)
{
    const dnnl_data_type_t in = s->bf16 ? dnnl_bf16 : dnnl_f32, out = s->c_bf16 ? dnnl_bf16 : dnnl_f32;
    const dnnl_dims_t a = {s->m, s->k}, b = {s->k, s->n}, c = {s->m, s->n}, bias = {1, s->n};
    const dnnl_dims_t rows = {s->lda, 1}, columns = {1, s->lda};
    memset(l, 0, sizeof(*l));
    dnnl_status_t st = dnnl_memory_desc_init_by_strides(&l->arg[0], 2, a, in, s->a_transposed ? columns : rows);
    if (st != dnnl_success) return st;
    if (s->b != NULL)
        l->arg[1] = *s->b;
    else
        st = dnnl_memory_desc_init_by_tag(&l->arg[1], 2, b, in, dnnl_format_tag_any);
    if (st != dnnl_success) return st;
    st = dnnl_memory_desc_init_by_tag(&l->arg[2], 2, c, out, dnnl_ab);
    if (st != dnnl_success || !s->bias) return st;
    return dnnl_memory_desc_init_by_tag(&l->arg[4], 2, bias, dnnl_f32, dnnl_ab);
}

static dnnl_status_t attributes(dnnl_primitive_attr_t *out, bool add)
{
    dnnl_post_ops_t ops = NULL;
    dnnl_status_t st = dnnl_primitive_attr_create(out);
    if (st != dnnl_success) return st;
    st = dnnl_primitive_attr_set_scratchpad_mode(*out, dnnl_scratchpad_mode_user);
    if (st != dnnl_success || !add) return st;
    st = dnnl_post_ops_create(&ops);
    if (st != dnnl_success) return st;
    st = dnnl_post_ops_append_sum(ops, 1.0f);
    if (st == dnnl_success) st = dnnl_primitive_attr_set_post_ops(*out, ops);
    dnnl_post_ops_destroy(ops);
    return st;
}

/* oneDNN shares what it makes between threads through a cache whose locks a thread sanitizer cannot see; making is rare, so it
 * takes turns here. */
static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;

/* The primitive; layouts that the library chose are filled in. */
static dnnl_status_t create(qni_product *p, layouts *l, dnnl_engine_t engine, const qni_product_spec *s)
{
    dnnl_matmul_desc_t desc;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t st = describe(l, s);
    if (st != dnnl_success) return st;
    st = dnnl_matmul_desc_init(&desc, &l->arg[0], &l->arg[1], s->bias ? &l->arg[4] : NULL, &l->arg[2]);
    if (st != dnnl_success) return st;
    st = attributes(&attr, s->add);
    if (st == dnnl_success) st = dnnl_primitive_desc_create(&pd, &desc, attr, engine, NULL);
    if (st == dnnl_success) {
        l->arg[1] = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
        l->arg[3] = *dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
        p->scratch_bytes = dnnl_memory_desc_get_size(&l->arg[3]);
        p->b = l->arg[1];
        st = dnnl_primitive_create(&p->primitive, pd);
    }
    if (pd != NULL) dnnl_primitive_desc_destroy(pd);
    if (attr != NULL) dnnl_primitive_attr_destroy(attr);
    return st;
}

qn_status qni_product_open(qni_product *p, dnnl_engine_t engine, const qni_product_spec *spec, qn_err *err)
{
    layouts l;
    const int before = qni_dnnl_enter();
    p->primitive = NULL;
    p->m = spec->m;
    p->k = spec->k;
    memset(p->slots, 0, (size_t)p->threads * sizeof(*p->slots));
    pthread_mutex_lock(&making);
    dnnl_status_t st = create(p, &l, engine, spec);
    pthread_mutex_unlock(&making);
    for (int32_t t = 0; t < p->threads && st == dnnl_success; t++)
        for (int i = 0; i < QNI_PRODUCT_ARGS && st == dnnl_success; i++)
            st = dnnl_memory_create(&p->slots[t].memory[i], &l.arg[i], engine, DNNL_MEMORY_NONE);
    qni_dnnl_leave(before);
    if (st == dnnl_success) return QN_OK;
    qni_product_close(p);
    return qni_dnnl_status(st, "matrix product", err);
}

void qni_product_close(qni_product *p)
{
    for (int32_t t = 0; t < p->threads; t++)
        for (int i = 0; i < QNI_PRODUCT_ARGS; i++)
            if (p->slots[t].memory[i] != NULL) dnnl_memory_destroy(p->slots[t].memory[i]);
    memset(p->slots, 0, (size_t)p->threads * sizeof(*p->slots));
    if (p->primitive != NULL) dnnl_primitive_destroy(p->primitive);
    p->primitive = NULL;
    p->used = 0;
}

void qni_product_run(qni_product *p, dnnl_stream_t stream, int32_t thread, void *c, const void *a, const void *b,
                     const float *bias, void *scratch)
{
    qni_product_slot *slot = &p->slots[thread];
    if (p->own != NULL) scratch = p->own + (size_t)thread * p->own_bytes;
    void *const handle[QNI_PRODUCT_ARGS] = {(void *)a, (void *)b, c, scratch, (void *)bias};
    dnnl_exec_arg_t args[QNI_PRODUCT_ARGS];
    const int used = bias == NULL ? QNI_PRODUCT_ARGS - 1 : QNI_PRODUCT_ARGS;
    const int before = qni_dnnl_enter();
    for (int i = 0; i < used; i++) {
        if (slot->handle[i] != handle[i]) { /* setting a handle rewrites the padding of a blocked layout: only when it changes */
            QN_ASSERT(dnnl_memory_set_data_handle(slot->memory[i], handle[i]) == dnnl_success);
            slot->handle[i] = handle[i];
        }
        args[i] = (dnnl_exec_arg_t){.arg = arg_index[i], .memory = slot->memory[i]};
    }
    QN_ASSERT(dnnl_primitive_execute(p->primitive, stream, used, args) == dnnl_success);
    qni_dnnl_leave(before);
}

qn_status qni_reorder_open(qni_reorder *r, dnnl_engine_t engine, const dnnl_memory_desc_t *from, const dnnl_memory_desc_t *to,
                           qn_err *err)
{
    dnnl_primitive_desc_t pd = NULL;
    const int before = qni_dnnl_enter();
    memset(r, 0, sizeof(*r));
    dnnl_status_t st = dnnl_reorder_primitive_desc_create(&pd, from, engine, to, engine, NULL);
    if (st == dnnl_success) st = dnnl_primitive_create(&r->primitive, pd);
    if (st == dnnl_success) st = dnnl_memory_create(&r->from, from, engine, DNNL_MEMORY_NONE);
    if (st == dnnl_success) st = dnnl_memory_create(&r->to, to, engine, DNNL_MEMORY_NONE);
    if (pd != NULL) dnnl_primitive_desc_destroy(pd);
    qni_dnnl_leave(before);
    if (st == dnnl_success) return QN_OK;
    qni_reorder_close(r);
    return qni_dnnl_status(st, "reorder of weights", err);
}

void qni_reorder_close(qni_reorder *r)
{
    if (r->from != NULL) dnnl_memory_destroy(r->from);
    if (r->to != NULL) dnnl_memory_destroy(r->to);
    if (r->primitive != NULL) dnnl_primitive_destroy(r->primitive);
    memset(r, 0, sizeof(*r));
}

void qni_reorder_run(qni_reorder *r, dnnl_stream_t stream, void *dst, const void *src)
{
    const int before = qni_dnnl_enter();
    QN_ASSERT(dnnl_memory_set_data_handle(r->from, (void *)src) == dnnl_success);
    QN_ASSERT(dnnl_memory_set_data_handle(r->to, dst) == dnnl_success);
    const dnnl_exec_arg_t args[2] = {{.arg = DNNL_ARG_FROM, .memory = r->from}, {.arg = DNNL_ARG_TO, .memory = r->to}};
    QN_ASSERT(dnnl_primitive_execute(r->primitive, stream, 2, args) == dnnl_success);
    qni_dnnl_leave(before);
}
