/* Fused linear + softmax + cross-entropy on oneDNN, in row blocks: the [R, V] logits never exist as a whole.
 *
 * A block holds its gradients g = softmax - onehot in the type that oneDNN multiplies, within 64 MiB or 256 rows, whichever is
 * more: the weight gradient reads and writes all of dw once a block, so tall blocks are fast (bf16, V = 50,257: 64 rows 203
 * GFLOP/s, 256 rows 346). Within a block each thread takes steps of 64 rows: logits, then softmax, so that they are still in the
 * cache for it; in f32 they are overwritten by g. Blocks depend on R alone; what is asked for does not change how it is computed.
 */
#include "core/alloc.h"
#include "core/checked.h"
#include "linear_dnnl.h"

typedef struct classifier_call {
    qn_linear *lin;
    bool convert;                   /* act is bf16, products are f32 */
    qni_product *step;              /* logits of a whole step; a thread's last one is in lin->parts */
    double *losses;                 /* [rows of a block] */
    char *g;                        /* [rows of a block, V] as multiplied; NULL: loss alone */
    float *logits;                  /* [threads, step, V]; NULL: g serves */
    float *wide;                    /* [rows of a block, C] x in f32, when oneDNN cannot take it as it is */
    const void *forward, *backward; /* packed W */
    char *scratch;                  /* of the products */
    const char *x;                  /* from here on of the block: its rows, act */
    const int32_t *target;
    float *dx;
    int64_t rows;
} classifier_call;

static int64_t step_rows(const qn_linear *lin)
{
    return lin->any_rows ? QNI_CLASSIFIER_STEP : QNI_FIXED_ROWS;
}

static size_t mul_bytes(const qn_linear *lin)
{
    return lin->mul_bf16 ? sizeof(qn_bf16) : sizeof(float);
}

/* Logits, losses and gradients of rows, from row on. */
static void classify_step(const classifier_call *call, qni_product *p, int32_t thread, int64_t row, int64_t rows)
{
    qn_linear *lin = call->lin;
    const int64_t V = lin->shape.out, C = lin->shape.in;
    float *logits =
        call->logits != NULL ? call->logits + (int64_t)thread * step_rows(lin) * V : (float *)(void *)call->g + row * V;
    qni_linear_rows(lin, thread, p, logits, call->x + (size_t)(row * C) * (lin->act_bf16 ? 2 : 4), call->forward, NULL, rows,
                    call->convert, false, call->scratch + (size_t)thread * lin->thread_bytes);
    for (int64_t r = 0; r < rows; r++) {
        void *g = call->g != NULL ? call->g + (size_t)((row + r) * V) * mul_bytes(lin) : NULL;
        call->losses[row + r] = lin->softmax_loss(g, logits + r * V, V, call->target[row + r]);
    }
}

static void classify_part(void *ctx, int32_t thread, int32_t threads)
{
    const classifier_call *call = ctx;
    const qni_row_part *part = &call->lin->parts[thread];
    const int64_t step = step_rows(call->lin);
    (void)threads;
    for (int64_t r = part->begin; r < part->end; r += step)
        classify_step(call, part->end - r < step ? part->product : call->step, thread, r, qn_min64(step, part->end - r));
}

static void input_part(void *ctx, int32_t thread, int32_t threads)
{
    const classifier_call *call = ctx;
    qn_linear *lin = call->lin;
    const qni_row_part *part = &lin->parts[thread];
    (void)threads;
    if (part->begin == part->end) return;
    qni_linear_rows(lin, thread, part->product, call->dx + part->begin * lin->shape.in,
                    call->g + (size_t)(part->begin * lin->shape.out) * mul_bytes(lin), call->backward, NULL,
                    part->end - part->begin, false, false, call->scratch + (size_t)thread * lin->thread_bytes);
}

/* Each thread's rows, and the primitive for those beyond its last whole step. */
static void split_steps(const qn_exec *ex, classifier_call *call)
{
    qn_linear *lin = call->lin;
    const int64_t step = step_rows(lin);
    const int32_t threads = qn_exec_threads(ex);
    call->step = qni_linear_product(lin, QNI_LOGITS, step, 0);
    for (int32_t t = 0; t < threads; t++) {
        qni_row_part *part = &lin->parts[t];
        qn_split(&part->begin, &part->end, call->rows, lin->any_rows ? QNI_ROW_GRAIN : QNI_FIXED_ROWS, t, threads);
        const int64_t rest = (part->end - part->begin) % step;
        part->product = lin->any_rows && rest != 0 ? qni_linear_product(lin, QNI_LOGITS, rest, 0) : call->step;
    }
}

static void classify_block(const qn_exec *ex, classifier_call *call, double *loss, float *dw, unsigned what)
{
    qn_linear *lin = call->lin;
    split_steps(ex, call);
    qn_exec_run(ex, classify_part, call);
    if (what & QN_CLASS_LOSS)
        for (int64_t r = 0; r < call->rows; r++)
            if (call->target[r] >= 0) *loss += call->losses[r];
    if (what & QN_CLASS_INPUT) {
        qni_linear_split(ex, lin, QNI_INPUT, call->rows, QNI_ROW_GRAIN);
        qn_exec_run(ex, input_part, call);
    }
    if (!(what & QN_CLASS_WEIGHT)) return;
    const void *x = call->x;
    if (call->convert) {
        const qn_bf16 *narrow = (const qn_bf16 *)(const void *)call->x;
        for (int64_t i = 0; i < call->rows * lin->shape.in; i++) call->wide[i] = qn_bf16_to_f32(narrow[i]);
        x = call->wide;
    }
    qni_linear_weight(ex, lin, dw, NULL, call->g, x, call->g, call->rows, call->scratch);
}

/* What a call pushes; the same code measures and takes it. */
static void layout(classifier_call *call, qn_arena *a, int64_t rows, bool gradient)
{
    const qn_linear *lin = call->lin;
    const size_t V = (size_t)lin->shape.out, threads = (size_t)lin->shape.threads, n = (size_t)rows;
    call->scratch = qn_arena_push(a, threads, lin->thread_bytes, QN_CACHE_LINE);
    call->losses = qn_arena_push(a, n, sizeof(double), QN_CACHE_LINE);
    call->g = NULL;
    call->logits = NULL;
    call->wide = NULL;
    if (gradient) call->g = qn_arena_push(a, n * V, mul_bytes(lin), QN_CACHE_LINE);
    if (!gradient || lin->mul_bf16)
        call->logits = qn_arena_push(a, threads * (size_t)step_rows(lin) * V, sizeof(float), QN_CACHE_LINE);
    if (call->convert) call->wide = qn_arena_push(a, n * (size_t)lin->shape.in, sizeof(float), QN_CACHE_LINE);
}

size_t qni_dnnl_classifier_scratch(const qn_linear *lin)
{
    classifier_call call = {.lin = (qn_linear *)lin, .convert = lin->act_bf16 && !lin->mul_bf16};
    qn_arena with = QN_ARENA_PROBE, without = QN_ARENA_PROBE;
    const int64_t rows = qni_classifier_most(lin);
    layout(&call, &with, rows, true);
    layout(&call, &without, rows, false);
    return (with.used > without.used ? with.used : without.used) + QN_CACHE_LINE;
}

void qni_dnnl_classifier(const qn_exec *ex, qn_linear *lin, double *loss, void *dx, void *dw, const void *x, const void *packed,
                         const int32_t *target, int64_t R, unsigned what)
{
    const int64_t C = lin->shape.in, block = qni_classifier_rows(lin, R);
    const bool gradient = (what & (QN_CLASS_INPUT | QN_CLASS_WEIGHT)) != 0;
    if (R == 0) return;
    QN_ASSERT(qn_exec_threads(ex) <= lin->shape.threads && R <= lin->shape.rows);
    const size_t mark = qn_arena_mark(ex->scratch);
    classifier_call call = {.lin = lin, .convert = lin->act_bf16 && !lin->mul_bf16};
    layout(&call, ex->scratch, qn_min64(block, R), gradient);
    QN_ASSERT(!ex->scratch->failed);
    call.forward = qni_linear_packed_forward(lin, packed);
    if (what & QN_CLASS_INPUT) call.backward = qni_linear_packed_backward(lin, packed);
    for (int64_t r = 0; r < R; r += block) {
        call.rows = qn_min64(block, R - r);
        call.x = (const char *)x + (size_t)(r * C) * (lin->act_bf16 ? 2 : 4);
        call.target = target + r;
        call.dx = what & QN_CLASS_INPUT ? (float *)dx + r * C : NULL;
        classify_block(ex, &call, loss, dw, what);
    }
    qn_arena_release(ex->scratch, mark);
}
