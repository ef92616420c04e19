/* The linear map on oneDNN: y = x W^T + b, dx = dy W, dw += dy^T x, split by our own team; see linear_dnnl.h for what makes the
 * results independent of that split.
 *
 * Packs of weights are in linear_pack_dnnl.c. Primitives for the planned number of rows exist from open on; others are made at
 * first use and kept, the least recently used giving way. Making one allocates inside oneDNN, and so does executing one; nothing
 * of ours does. A machine whose oneDNN has no bf16 products widens blocks of rows to f32 and multiplies those with weights that
 * stay in f32. */
#include "linear_dnnl.h"

#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "core/tensor.h"

enum { WIDE_BLOCK = 1024, NARROW_BLOCK = 384, LAYOUT_ROWS = 512 };

/* --- which results oneDNN gives here ------------------------------------------------------------------------------------ */

/* oneDNN takes the limit only before its first primitive in this process; later it keeps what it has, which is as correct. */
static void limit_isa(void)
{
    const char *isa = qn_kernels_isa();
    if (strcmp(isa, "avx2") == 0) (void)dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2);
    if (strcmp(isa, "portable") == 0) (void)dnnl_set_max_cpu_isa(dnnl_cpu_isa_sse41);
}

/* The instruction sets on which equal rows were found equal for any row count. Not among them: bf16 where it is emulated, AMX. */
static bool rows_are_free(bool bf16)
{
    switch (dnnl_get_effective_cpu_isa()) {
    case dnnl_cpu_isa_avx512_core:
    case dnnl_cpu_isa_avx512_core_vnni:
        return !bf16;
    case dnnl_cpu_isa_avx512_core_bf16:
        return true;
    default:
        return false;
    }
}

static void choose_helpers(qn_linear *lin)
{
    const bool rounded = lin->act_bf16 && !lin->mul_bf16;
#define QNI_CHOOSE(isa)                                                                                                          \
    do {                                                                                                                         \
        lin->softmax_loss = rounded         ? qni_softmax_loss_rounded_##isa                                                     \
                            : lin->act_bf16 ? qni_softmax_loss_bf16_##isa                                                        \
                                            : qni_softmax_loss_f32_##isa;                                                        \
        lin->softmax_part = lin->act_bf16 ? qni_softmax_part_bf16_##isa : qni_softmax_part_f32_##isa;                            \
        lin->column_sum = lin->act_bf16 ? qni_column_sum_bf16_##isa : qni_column_sum_f32_##isa;                                  \
        lin->step = qni_step_range_##isa;                                                                                        \
        lin->plain = lin->mul_bf16 ? qni_pack_pairs_##isa : qni_pack_plain_##isa;                                                \
        lin->transposed = lin->mul_bf16 ? qni_pack_pairs_transposed_##isa : qni_pack_plain_transposed_##isa;                     \
    } while (0)
    QNI_CHOOSE(portable);
#if defined(__x86_64__)
    if (strcmp(qn_kernels_isa(), "avx2") == 0) QNI_CHOOSE(avx2);
    if (strncmp(qn_kernels_isa(), "avx512", 6) == 0) QNI_CHOOSE(avx512);
#endif
#undef QNI_CHOOSE
}

/* --- primitives ---------------------------------------------------------------------------------------------------------- */

static qni_product_spec product_spec(const qn_linear *lin, qni_product_kind kind, int64_t m, int64_t k)
{
    const int64_t C = lin->shape.in, O = lin->shape.out;
    qni_product_spec s = {.m = m, .n = O, .k = C, .lda = C, .bf16 = lin->mul_bf16, .b = &lin->forward};
    switch (kind) {
    case QNI_FORWARD:
    case QNI_FORWARD_BIAS:
        s.c_bf16 = lin->mul_bf16;
        s.bias = kind == QNI_FORWARD_BIAS;
        break;
    case QNI_LOGITS:
        break;
    case QNI_INPUT:
    case QNI_INPUT_ADD:
        s.n = C;
        s.k = s.lda = O;
        s.b = &lin->backward;
        s.add = kind == QNI_INPUT_ADD;
        break;
    case QNI_WEIGHT:
        s = (qni_product_spec){.m = m, .n = C, .k = k, .lda = O, .a_transposed = true, .bf16 = lin->mul_bf16, .add = true};
        break;
    }
    return s;
}

static void product_drop(const qn_linear *lin, qni_product *p)
{
    qn_free_pages(p->own, (size_t)lin->shape.threads * p->own_bytes);
    p->own = NULL;
    p->own_bytes = 0;
    qni_product_close(p);
}

/* A primitive made after open that needs more scratch than was planned keeps its own. */
static qn_status product_own_scratch(const qn_linear *lin, qni_product *p, qn_err *err)
{
    if (p->scratch_bytes <= lin->dnnl_bytes) return QN_OK;
    p->own_bytes = (p->scratch_bytes + QN_CACHE_LINE - 1) / QN_CACHE_LINE * QN_CACHE_LINE;
    p->own = qn_alloc_pages((size_t)lin->shape.threads * p->own_bytes);
    if (p->own != NULL) return QN_OK;
    p->own_bytes = 0;
    qni_product_close(p);
    return QN_FAIL(err, QN_ENOMEM, "no memory for %zu bytes of scratch of a product", p->scratch_bytes);
}

static qn_status product_make(qni_product **out, qn_linear *lin, qni_product_kind kind, int64_t m, int64_t k, qn_err *err)
{
    qni_product *place = &lin->products[0];
    for (int i = 0; i < QNI_PRODUCTS; i++) {
        qni_product *p = &lin->products[i];
        if (p->used != 0 && p->kind == (int32_t)kind && p->m == m && (kind != QNI_WEIGHT || p->k == k)) {
            p->used = ++lin->clock;
            *out = p;
            return QN_OK;
        }
        if (p->used < place->used) place = p;
    }
    qni_product_spec spec = product_spec(lin, kind, m, k);
    dnnl_memory_desc_t rows;
    if (kind == QNI_WEIGHT) { /* x as it lies in memory */
        const dnnl_dims_t dims = {k, lin->shape.in};
        const qn_status st = qni_dnnl_status(
            dnnl_memory_desc_init_by_tag(&rows, 2, dims, lin->mul_bf16 ? dnnl_bf16 : dnnl_f32, dnnl_ab), "layout of x", err);
        if (st != QN_OK) return st;
        spec.b = &rows;
    }
    product_drop(lin, place);
    qn_status st = qni_product_open(place, lin->engine, &spec, err);
    if (st == QN_OK && lin->thread_bytes != 0) st = product_own_scratch(lin, place, err);
    if (st != QN_OK) return st;
    place->kind = (int32_t)kind;
    place->used = ++lin->clock;
    *out = place;
    return QN_OK;
}

qni_product *qni_linear_product(qn_linear *lin, qni_product_kind kind, int64_t m, int64_t k)
{
    qni_product *p = NULL;
    QN_ASSERT(product_make(&p, lin, kind, m, k, NULL) == QN_OK);
    return p;
}

int64_t qni_linear_weight_rows(const qn_linear *lin)
{
    const int64_t half = (lin->shape.out + 1) / 2, least = (half + QNI_ROW_GRAIN - 1) / QNI_ROW_GRAIN * QNI_ROW_GRAIN;
    return lin->shape.out > 8 * WIDE_BLOCK ? WIDE_BLOCK : qn_min64(least, NARROW_BLOCK);
}

int64_t qni_classifier_most(const qn_linear *lin)
{
    const int64_t bytes = lin->shape.out * (lin->mul_bf16 ? 2 : 4), bound = (int64_t)64 << 20;
    return qn_min64(lin->shape.rows, qn_max64(256, bound / bytes / QNI_ROW_GRAIN * QNI_ROW_GRAIN));
}

int64_t qni_classifier_rows(const qn_linear *lin, int64_t R)
{
    const int64_t most = qn_max64(1, qni_classifier_most(lin)), blocks = qn_max64(1, (R + most - 1) / most);
    const int64_t rows = (R + blocks - 1) / blocks;
    return qn_min64(most, (rows + QNI_ROW_GRAIN - 1) / QNI_ROW_GRAIN * QNI_ROW_GRAIN);
}

/* --- open and close ------------------------------------------------------------------------------------------------------ */

/* The layout in which the library wants W for a tall product, and whether it can do the product at all. */
static qn_status choose_layouts(qn_linear *lin, qn_err *err)
{
    qni_product *probe = &lin->products[0];
    const int64_t rows = lin->any_rows ? qn_min64(qn_max64(lin->shape.rows, QNI_ROW_GRAIN), LAYOUT_ROWS) : QNI_FIXED_ROWS;
    const qni_product_kind kinds[2] = {QNI_FORWARD, QNI_INPUT};
    dnnl_memory_desc_t *const layouts[2] = {&lin->forward, &lin->backward};
    for (int i = 0; i < 2; i++) {
        qni_product_spec spec = product_spec(lin, kinds[i], rows, 0);
        spec.b = NULL;
        const qn_status st = qni_product_open(probe, lin->engine, &spec, err);
        if (st != QN_OK) return st;
        *layouts[i] = probe->b;
        qni_product_close(probe);
    }
    return QN_OK;
}

static qn_status warm(qn_linear *lin, qni_product_kind kind, int64_t m, int64_t k, qn_err *err)
{
    qni_product *p = NULL;
    if (m == 0) return QN_OK;
    const qn_status st = product_make(&p, lin, kind, m, k, err);
    if (st == QN_OK && p->scratch_bytes > lin->dnnl_bytes) lin->dnnl_bytes = p->scratch_bytes;
    return st;
}

/* Shares of R rows on all threads of the plan. */
static qn_status warm_rows(qn_linear *lin, qni_product_kind kind, int64_t R, qn_err *err)
{
    for (int32_t t = 0; t < lin->shape.threads; t++) {
        int64_t begin, end;
        qn_split(&begin, &end, R, QNI_ROW_GRAIN, t, lin->shape.threads);
        const qn_status st = warm(lin, kind, lin->any_rows ? end - begin : QNI_FIXED_ROWS, 0, err);
        if (st != QN_OK) return st;
    }
    return QN_OK;
}

static qn_status warm_weight(qn_linear *lin, int64_t R, qn_err *err)
{
    const int64_t O = lin->shape.out, block = qni_linear_weight_rows(lin);
    if (R == 0) return QN_OK;
    qn_status st = warm(lin, QNI_WEIGHT, qn_min64(O, block), R, err);
    if (st == QN_OK) st = warm(lin, QNI_WEIGHT, O % block, R, err);
    return st;
}

/* Primitives of the planned rows, and from them the scratch. */
static qn_status warm_all(qn_linear *lin, qn_err *err)
{
    const qni_product_kind kinds[] = {QNI_FORWARD, QNI_FORWARD_BIAS, QNI_INPUT, QNI_INPUT_ADD};
    const int64_t R = lin->shape.rows, rows = qni_classifier_rows(lin, R);
    qn_status st = QN_OK;
    for (size_t i = 0; i < QN_COUNT(kinds); i++) QN_TRY(st, warm_rows(lin, kinds[i], R, err), out);
    QN_TRY(st, warm_weight(lin, R, err), out);
    QN_TRY(st, warm_rows(lin, QNI_INPUT, qn_min64(rows, R), err), out);
    QN_TRY(st, warm_weight(lin, qn_min64(rows, R), err), out);
    QN_TRY(st, warm(lin, QNI_LOGITS, lin->any_rows ? qn_min64(QNI_CLASSIFIER_STEP, R) : QNI_FIXED_ROWS, 0, err), out);
    lin->dnnl_bytes = (lin->dnnl_bytes + 65536 + 4095) / 4096 * 4096; /* shares of other sizes need about as much */
    if (!lin->any_rows) lin->pad_bytes = (size_t)QNI_FIXED_ROWS * (size_t)qn_max64(lin->shape.in, lin->shape.out) * sizeof(float);
    lin->pad_bytes = (lin->pad_bytes + QN_CACHE_LINE - 1) / QN_CACHE_LINE * QN_CACHE_LINE;
    lin->thread_bytes = lin->dnnl_bytes + 2 * lin->pad_bytes;
out:
    return st;
}

static qn_status open_arrays(qn_linear *lin, qn_err *err)
{
    const size_t threads = (size_t)lin->shape.threads;
    lin->streams = qn_calloc(threads, sizeof(dnnl_stream_t));
    lin->slots = qn_calloc(threads * QNI_PRODUCTS, sizeof(*lin->slots));
    lin->parts = qn_calloc(threads, sizeof(*lin->parts));
    if (lin->streams == NULL || lin->slots == NULL || lin->parts == NULL)
        return QN_FAIL(err, QN_ENOMEM, "no memory for a linear map on %d threads", (int)lin->shape.threads);
    for (int i = 0; i < QNI_PRODUCTS; i++) {
        lin->products[i].slots = lin->slots + (size_t)i * threads;
        lin->products[i].threads = lin->shape.threads;
    }
    qn_status st = qni_dnnl_status(dnnl_engine_create(&lin->engine, dnnl_cpu, 0), "engine", err);
    for (size_t t = 0; t < threads && st == QN_OK; t++)
        st = qni_dnnl_status(dnnl_stream_create(&lin->streams[t], lin->engine, dnnl_stream_default_flags), "stream", err);
    return st;
}

static qn_status linear_open(qn_linear **out, const qn_linear_shape *shape, bool bf16, qn_err *err)
{
    qn_status st = QN_OK;
    qn_err unused;
    if (shape->in < 1 || shape->out < 1 || shape->rows < 0 || shape->threads < 1 || shape->in > INT32_MAX / 4 ||
        shape->out > INT32_MAX / 4 || shape->rows > INT32_MAX / 4)
        return QN_FAIL(err, QN_ERANGE, "linear map of %lld to %lld for %lld rows on %d threads: want sizes from 1 to %d",
                       (long long)shape->in, (long long)shape->out, (long long)shape->rows, (int)shape->threads, INT32_MAX / 4);
    qn_linear *lin = qn_calloc(1, sizeof(*lin));
    if (lin == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for a linear map of %zu bytes", sizeof(*lin));
    lin->shape = *shape;
    lin->act_bf16 = lin->mul_bf16 = bf16;
    limit_isa();
    lin->any_rows = rows_are_free(bf16);
    QN_TRY(st, open_arrays(lin, err), out);
    st = choose_layouts(lin, &unused);
    if (st == QN_EUNSUPPORTED && bf16) {
        lin->mul_bf16 = false;
        lin->any_rows = false;
        st = choose_layouts(lin, &unused);
    }
    if (st != QN_OK) {
        st = QN_FAIL(err, st, "%s", unused.text);
        goto out;
    }
    choose_helpers(lin);
    QN_TRY(st, qni_linear_open_packs(lin, err), out);
    QN_TRY(st, warm_all(lin, err), out);
    *out = lin;
    lin = NULL;
out:
    qni_dnnl_linear_close(lin);
    return st;
}

qn_status qni_dnnl_linear_open_f32(qn_linear **out, const qn_linear_shape *shape, qn_err *err)
{
    return linear_open(out, shape, false, err);
}

qn_status qni_dnnl_linear_open_bf16(qn_linear **out, const qn_linear_shape *shape, qn_err *err)
{
    return linear_open(out, shape, true, err);
}

void qni_dnnl_linear_close(qn_linear *lin)
{
    if (lin == NULL) return;
    if (lin->slots != NULL)
        for (int i = 0; i < QNI_PRODUCTS; i++)
            if (lin->products[i].slots != NULL) product_drop(lin, &lin->products[i]);
    qni_linear_close_packs(lin);
    for (int32_t t = 0; t < lin->shape.threads; t++)
        if (lin->streams != NULL && lin->streams[t] != NULL) dnnl_stream_destroy(lin->streams[t]);
    if (lin->engine != NULL) dnnl_engine_destroy(lin->engine);
    qn_free(lin->streams);
    qn_free(lin->slots);
    qn_free(lin->parts);
    qn_free(lin);
}

/* --- products ------------------------------------------------------------------------------------------------------------ */

static void widen_rows(float *dst, const qn_bf16 *src, int64_t n)
{
    for (int64_t i = 0; i < n; i++) dst[i] = qn_bf16_to_f32(src[i]);
}

static void narrow_rows(qn_bf16 *dst, const float *src, int64_t n)
{
    for (int64_t i = 0; i < n; i++) dst[i] = qn_f32_to_bf16(src[i]);
}

void qni_linear_split(const qn_exec *ex, qn_linear *lin, qni_product_kind kind, int64_t R, int64_t grain)
{
    const int32_t threads = qn_exec_threads(ex);
    QN_ASSERT(threads <= lin->shape.threads && R <= lin->shape.rows);
    for (int32_t t = 0; t < threads; t++) {
        qni_row_part *part = &lin->parts[t];
        qn_split(&part->begin, &part->end, R, lin->any_rows ? grain : QNI_FIXED_ROWS, t, threads);
        part->product = NULL;
        const int64_t m = lin->any_rows ? part->end - part->begin : QNI_FIXED_ROWS;
        if (part->end > part->begin) part->product = qni_linear_product(lin, kind, m, 0);
    }
}

/* One padded product: rows < p->m or a type to convert. */
static void padded_product(qn_linear *lin, int32_t thread, qni_product *p, void *c, const void *a, const void *b,
                           const float *bias, int64_t rows, bool widen, bool narrow, char *scratch)
{
    const qni_product_spec s = product_spec(lin, (qni_product_kind)p->kind, p->m, 0);
    const size_t a_row = (size_t)s.k * (s.bf16 ? 2 : 4), c_row = (size_t)s.n * (s.c_bf16 ? 2 : 4);
    char *pad_a = scratch + lin->dnnl_bytes, *pad_c = pad_a + lin->pad_bytes;
    if (widen)
        widen_rows((float *)pad_a, a, rows * s.k);
    else
        memcpy(pad_a, a, (size_t)rows * a_row);
    memset(pad_a + (size_t)rows * a_row, 0, (size_t)(p->m - rows) * a_row);
    if (s.add) {
        memcpy(pad_c, c, (size_t)rows * c_row);
        memset(pad_c + (size_t)rows * c_row, 0, (size_t)(p->m - rows) * c_row);
    }
    qni_product_run(p, lin->streams[thread], thread, pad_c, pad_a, b, bias, scratch);
    if (narrow)
        narrow_rows(c, (const float *)pad_c, rows * s.n);
    else
        memcpy(c, pad_c, (size_t)rows * c_row);
}

void qni_linear_rows(qn_linear *lin, int32_t thread, qni_product *p, void *c, const void *a, const void *b, const float *bias,
                     int64_t rows, bool widen, bool narrow, char *scratch)
{
    const qni_product_spec s = product_spec(lin, (qni_product_kind)p->kind, p->m, 0);
    const size_t a_row = (size_t)s.k * (widen || s.bf16 ? 2 : 4), c_row = (size_t)s.n * (narrow || s.c_bf16 ? 2 : 4);
    for (int64_t r = 0; r < rows; r += p->m) {
        char *cr = (char *)c + (size_t)r * c_row;
        const char *ar = (const char *)a + (size_t)r * a_row;
        const int64_t n = qn_min64(p->m, rows - r);
        if (n == p->m && !widen && !narrow)
            qni_product_run(p, lin->streams[thread], thread, cr, ar, b, bias, scratch);
        else
            padded_product(lin, thread, p, cr, ar, b, bias, n, widen, narrow, scratch);
    }
}

typedef struct rows_call {
    qn_linear *lin;
    char *c;
    const char *a;
    const void *b;
    const float *bias;
    size_t a_row, c_row;
    bool widen, narrow;
    char *scratch;
} rows_call;

static void rows_part(void *ctx, int32_t thread, int32_t threads)
{
    const rows_call *call = ctx;
    const qni_row_part *part = &call->lin->parts[thread];
    (void)threads;
    if (part->begin == part->end) return;
    qni_linear_rows(call->lin, thread, part->product, call->c + (size_t)part->begin * call->c_row,
                    call->a + (size_t)part->begin * call->a_row, call->b, call->bias, part->end - part->begin, call->widen,
                    call->narrow, call->scratch + (size_t)thread * call->lin->thread_bytes);
}

static char *push_scratch(const qn_exec *ex, const qn_linear *lin)
{
    char *p = qn_arena_push(ex->scratch, (size_t)lin->shape.threads, lin->thread_bytes, QN_CACHE_LINE);
    QN_ASSERT(p != NULL);
    return p;
}

size_t qni_dnnl_linear_scratch(const qn_linear *lin)
{
    size_t n = (size_t)lin->shape.threads * lin->thread_bytes + QN_CACHE_LINE;
    if (lin->act_bf16 && !lin->mul_bf16) /* backward_weight widens all of dy and x */
        n += (size_t)lin->shape.rows * (size_t)(lin->shape.in + lin->shape.out) * sizeof(float) + 2 * QN_CACHE_LINE;
    return n;
}

void qni_dnnl_linear_forward(const qn_exec *ex, qn_linear *lin, void *y, const void *x, const void *packed, const void *bias,
                             int64_t R)
{
    if (R == 0) return;
    const size_t mark = qn_arena_mark(ex->scratch), act = lin->act_bf16 ? 2 : 4;
    const bool convert = lin->act_bf16 && !lin->mul_bf16;
    rows_call call = {.lin = lin, .c = y, .a = x, .b = qni_linear_packed_forward(lin, packed), .bias = bias};
    call.a_row = (size_t)lin->shape.in * act;
    call.c_row = (size_t)lin->shape.out * act;
    call.widen = call.narrow = convert;
    call.scratch = push_scratch(ex, lin);
    qni_linear_split(ex, lin, bias != NULL ? QNI_FORWARD_BIAS : QNI_FORWARD, R, QNI_ROW_GRAIN);
    qn_exec_run(ex, rows_part, &call);
    qn_arena_release(ex->scratch, mark);
}

void qni_dnnl_linear_backward_input(const qn_exec *ex, qn_linear *lin, void *dx, const void *dy, const void *packed, int64_t R,
                                    bool add)
{
    if (R == 0) return;
    const size_t mark = qn_arena_mark(ex->scratch);
    rows_call call = {.lin = lin, .c = dx, .a = dy, .b = qni_linear_packed_backward(lin, packed)};
    call.a_row = (size_t)lin->shape.out * (lin->act_bf16 ? 2 : 4);
    call.c_row = (size_t)lin->shape.in * sizeof(float);
    call.widen = lin->act_bf16 && !lin->mul_bf16;
    call.scratch = push_scratch(ex, lin);
    qni_linear_split(ex, lin, add ? QNI_INPUT_ADD : QNI_INPUT, R, QNI_ROW_GRAIN);
    qn_exec_run(ex, rows_part, &call);
    qn_arena_release(ex->scratch, mark);
}

/* --- weight gradients ---------------------------------------------------------------------------------------------------- */

typedef struct weight_call {
    qn_linear *lin;
    qni_product *whole, *rest; /* blocks of dw: full ones, and the last */
    float *dw, *db;
    const char *dy, *x, *db_dy;
    int64_t R;
    char *scratch;
} weight_call;

static void weight_part(void *ctx, int32_t thread, int32_t threads)
{
    const weight_call *call = ctx;
    qn_linear *lin = call->lin;
    const int64_t O = lin->shape.out, C = lin->shape.in, block = qni_linear_weight_rows(lin);
    int64_t begin, end;
    qn_split(&begin, &end, O, block, thread, threads);
    for (int64_t o = begin; call->dw != NULL && o < end; o += block)
        qni_product_run(O - o < block ? call->rest : call->whole, lin->streams[thread], thread, call->dw + o * C,
                        call->dy + (size_t)o * (lin->mul_bf16 ? 2 : 4), call->x, NULL,
                        call->scratch + (size_t)thread * lin->thread_bytes);
    if (call->db == NULL) return;
    qn_split(&begin, &end, O, QNI_ROW_GRAIN, thread, threads);
    lin->column_sum(call->db + begin, call->db_dy + (size_t)begin * (lin->act_bf16 ? 2 : 4), call->R, end - begin, O);
}

void qni_linear_weight(const qn_exec *ex, qn_linear *lin, float *dw, float *db, const void *dy, const void *x, const void *db_dy,
                       int64_t R, char *scratch)
{
    const int64_t O = lin->shape.out, block = qni_linear_weight_rows(lin);
    weight_call call = {.lin = lin, .dw = dw, .db = db, .dy = dy, .x = x, .db_dy = db_dy, .R = R, .scratch = scratch};
    if (dw != NULL && O >= block) call.whole = qni_linear_product(lin, QNI_WEIGHT, block, R);
    if (dw != NULL && O % block != 0) call.rest = qni_linear_product(lin, QNI_WEIGHT, O % block, R);
    qn_exec_run(ex, weight_part, &call);
}

void qni_dnnl_linear_backward_weight(const qn_exec *ex, qn_linear *lin, void *dw, void *db, const void *dy, const void *x,
                                     int64_t R)
{
    if (R == 0) return;
    QN_ASSERT(qn_exec_threads(ex) <= lin->shape.threads && R <= lin->shape.rows);
    const size_t mark = qn_arena_mark(ex->scratch);
    char *scratch = push_scratch(ex, lin);
    const void *mul_dy = dy, *mul_x = x;
    if (lin->act_bf16 && !lin->mul_bf16) {
        float *wide_dy = qn_arena_push(ex->scratch, (size_t)(R * lin->shape.out), sizeof(float), QN_CACHE_LINE);
        float *wide_x = qn_arena_push(ex->scratch, (size_t)(R * lin->shape.in), sizeof(float), QN_CACHE_LINE);
        QN_ASSERT(wide_dy != NULL && wide_x != NULL);
        widen_rows(wide_dy, dy, R * lin->shape.out);
        widen_rows(wide_x, x, R * lin->shape.in);
        mul_dy = wide_dy;
        mul_x = wide_x;
    }
    qni_linear_weight(ex, lin, dw, db, mul_dy, mul_x, dy, R, scratch);
    qn_arena_release(ex->scratch, mark);
}
