/* The scores of a vocabulary shard on oneDNN: logits in steps of a few rows per thread, their local softmax while they are still
 * in the cache. Definition: vocab_shard.c. Nothing is kept in f32 beside the statistics: p is written in the type of act. */
#include "core/alloc.h"
#include "core/checked.h"
#include "linear_dnnl.h"

typedef struct scores_call {
    qn_linear *lin;
    qni_product *step; /* logits of a whole step; a thread's last one is in lin->parts */
    float *logits;     /* [threads, step, O] */
    char *scratch;     /* of the products */
    char *p;
    float *max, *sum, *hit;
    const char *x;
    const void *forward;
    const int32_t *target;
    int64_t first, n;
} scores_call;

static int64_t step_rows(const qn_linear *lin)
{
    return lin->any_rows ? QNI_CLASSIFIER_STEP : QNI_FIXED_ROWS;
}

static void scores_step(const scores_call *call, qni_product *product, int32_t thread, int64_t row, int64_t rows)
{
    qn_linear *lin = call->lin;
    const int64_t O = lin->shape.out, C = lin->shape.in;
    const size_t act = lin->act_bf16 ? 2 : 4;
    float *logits = call->logits + (int64_t)thread * step_rows(lin) * O;
    qni_linear_rows(lin, thread, product, logits, call->x + (size_t)(row * C) * act, call->forward, NULL, rows,
                    lin->act_bf16 && !lin->mul_bf16, false, call->scratch + (size_t)thread * lin->thread_bytes);
    for (int64_t r = 0; r < rows; r++) {
        const float *l = logits + r * O;
        const int64_t t = call->target[row + r] - call->first;
        lin->softmax_part(call->p + (size_t)((row + r) * O) * act, &call->max[row + r], &call->sum[row + r], l, call->n, O);
        call->hit[row + r] = t >= 0 && t < call->n ? l[t] : 0;
    }
}

static void scores_part(void *ctx, int32_t thread, int32_t threads)
{
    const scores_call *call = ctx;
    const qni_row_part *part = &call->lin->parts[thread];
    const int64_t step = step_rows(call->lin);
    (void)threads;
    for (int64_t r = part->begin; r < part->end; r += step)
        scores_step(call, part->end - r < step ? part->product : call->step, thread, r, qn_min64(step, part->end - r));
}

static void layout(scores_call *call, qn_arena *a)
{
    const qn_linear *lin = call->lin;
    const size_t threads = (size_t)lin->shape.threads;
    call->scratch = qn_arena_push(a, threads, lin->thread_bytes, QN_CACHE_LINE);
    call->logits = qn_arena_push(a, threads * (size_t)step_rows(lin) * (size_t)lin->shape.out, sizeof(float), QN_CACHE_LINE);
}

size_t qni_dnnl_vocab_scratch(const qn_linear *lin)
{
    scores_call call = {.lin = (qn_linear *)lin};
    qn_arena a = QN_ARENA_PROBE;
    layout(&call, &a);
    return a.used + QN_CACHE_LINE;
}

void qni_dnnl_vocab_scores(const qn_exec *ex, qn_linear *lin, void *p, void *stats, const void *x, const void *packed,
                           const int32_t *target, int64_t first, int64_t n, int64_t R)
{
    if (R == 0) return;
    const int32_t threads = qn_exec_threads(ex);
    const int64_t step = step_rows(lin);
    QN_ASSERT(threads <= lin->shape.threads && R <= lin->shape.rows);
    const size_t mark = qn_arena_mark(ex->scratch);
    scores_call call = {.lin = lin, .p = p, .max = stats, .x = x, .target = target, .first = first, .n = n};
    layout(&call, ex->scratch);
    QN_ASSERT(!ex->scratch->failed);
    call.sum = call.max + R;
    call.hit = call.sum + R;
    call.forward = qni_linear_packed_forward(lin, packed);
    call.step = qni_linear_product(lin, QNI_LOGITS, step, 0);
    for (int32_t t = 0; t < threads; t++) {
        qni_row_part *part = &lin->parts[t];
        qn_split(&part->begin, &part->end, R, lin->any_rows ? QNI_ROW_GRAIN : QNI_FIXED_ROWS, t, threads);
        const int64_t rest = (part->end - part->begin) % step;
        part->product = lin->any_rows && rest != 0 ? qni_linear_product(lin, QNI_LOGITS, rest, 0) : call.step;
    }
    qn_exec_run(ex, scores_part, &call);
    qn_arena_release(ex->scratch, mark);
}
