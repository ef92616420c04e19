/* The classifier: linear to the vocabulary, softmax, cross-entropy. size: C, V. Nothing in F; loss and input gradient in B; the
 * weight gradient in the same pass, or in W. */
#include "model/layer.h"

#include "core/compiler.h"
#include "core/half.h"

#include <string.h>

static void classify(const qn_op_run *r, unsigned what)
{
    double unused = 0.0;
    double *loss = what & QN_CLASS_LOSS ? r->mb->loss : &unused;
    const int32_t *targets = qni_ids_of(r, r->mb->targets);
    r->k->classifier(r->ex, r->lin, loss, r->din[0], r->dw[0], r->in[0], r->packed, targets, r->R, what);
}

static void evaluate(const qn_op_run *r)
{
    classify(r, QN_CLASS_LOSS);
}
static void backward_input(const qn_op_run *r)
{
    classify(r, QN_CLASS_LOSS | QN_CLASS_INPUT);
}
static void backward_weight(const qn_op_run *r)
{
    classify(r, QN_CLASS_WEIGHT);
}
static void backward(const qn_op_run *r)
{
    classify(r, QN_CLASS_LOSS | QN_CLASS_INPUT | QN_CLASS_WEIGHT);
}

typedef struct widening {
    float *y;
    const void *x;
    qn_dtype dt;
    int64_t n;
} widening;

/* In blocks, which the compiler turns into vectors. */
static void widen_part(void *ctx, int32_t thread, int32_t threads)
{
    enum { BLOCK = 64 };
    const widening *w = ctx;
    int64_t i, end;
    qn_split(&i, &end, w->n, BLOCK, thread, threads);
    if (w->dt == QN_BF16)
        for (; i + BLOCK <= end; i += BLOCK) {
            const qn_bf16 *x = (const qn_bf16 *)w->x + i;
            uint32_t bits[BLOCK];
            for (int j = 0; j < BLOCK; j++) bits[j] = (uint32_t)x[j] << 16;
            memcpy(w->y + i, bits, sizeof(bits));
        }
    for (; i < end; i++)
        w->y[i] = w->dt == QN_BF16 ? qn_bf16_to_f32(((const qn_bf16 *)w->x)[i]) : (float)((const double *)w->x)[i];
}

static void to_f32(const qn_exec *ex, float *y, const void *x, qn_dtype dt, int64_t n)
{
    widening w = {.y = y, .x = x, .dt = dt, .n = n};
    QN_ASSERT(dt == QN_BF16 || dt == QN_F64);
    qn_exec_run(ex, widen_part, &w);
}

/* The rows that logits are wanted of, one after the other in to. */
static void gather(char *to, const qn_op_run *r, size_t row)
{
    const char *x = r->in[0];
    int64_t first = 0, n = 0;
    for (int64_t b = 0; r->mb->segment == NULL && b < r->B; b++)
        memcpy(to + (size_t)n++ * row, x + (size_t)(b * r->T + r->T - 1) * row, row);
    for (int32_t i = 0; r->mb->segment != NULL && i < r->mb->segments; i++) {
        const qn_segment *g = &r->mb->segment[i];
        first += g->count;
        if (g->logits > 0) memcpy(to + (size_t)n * row, x + (size_t)(first - g->logits) * row, (size_t)g->logits * row);
        n += g->logits;
    }
}

static int64_t most_logits(const qn_stage_limits *l)
{
    return l->logits > 0 ? l->logits : l->B;
}

/* Logits of the last row of each sample, or of those rows that the segments name. */
static void infer(const qn_op_run *r)
{
    if (r->R == 0) return;
    const int64_t C = r->op->size[0], V = r->op->size[1];
    const size_t e = qn_dtype_bytes(r->k->act), mark = qn_arena_mark(r->ex->scratch);
    int64_t n = r->B;
    for (int32_t i = 0; r->mb->segment != NULL && i < r->mb->segments; i++) n = (i == 0 ? 0 : n) + r->mb->segment[i].logits;
    if (n == 0) return;
    char *rows = qn_arena_push(r->ex->scratch, (size_t)(n * C), e, QN_CACHE_LINE);
    void *y = r->k->act == QN_F32 ? r->logits : qn_arena_push(r->ex->scratch, (size_t)(n * V), e, QN_CACHE_LINE);
    QN_ASSERT(rows != NULL && y != NULL);
    gather(rows, r, (size_t)C * e);
    r->k->linear_forward(r->ex, r->lin, y, rows, r->packed, NULL, n);
    if (r->k->act != QN_F32) to_f32(r->ex, r->logits, y, r->k->act, n * V);
    qn_arena_release(r->ex->scratch, mark);
}

/* Nothing in F: the logits are computed in B, and again in W when that is a task of its own (not counted). */
static qn_op_flops flops(const qn_op *op, int64_t B, int64_t T)
{
    const int64_t n = 2 * B * T * op->size[0] * op->size[1];
    return (qn_op_flops){.input = 2 * n, .weight = n};
}

static size_t scratch(const qn_op *op, const qn_kernels *k, qn_linear *lin, const qn_stage_limits *limits, int32_t threads)
{
    (void)threads;
    qn_arena a = QN_ARENA_PROBE;
    const int64_t rows = most_logits(limits);
    qn_arena_push(&a, (size_t)(rows * op->size[0]), qn_dtype_bytes(k->act), QN_CACHE_LINE);
    if (k->act != QN_F32) qn_arena_push(&a, (size_t)(rows * op->size[1]), qn_dtype_bytes(k->act), QN_CACHE_LINE);
    qn_arena_push(&a, 1, k->linear_scratch(lin), QN_CACHE_LINE);
    const size_t train = limits->train ? k->classifier_scratch(lin) : 0;
    return a.used > train ? a.used : train;
}

static const qn_op_kind classifier = {
    .name = "classifier",
    .evaluate = evaluate,
    .infer = infer,
    .backward_input = backward_input,
    .backward_weight = backward_weight,
    .backward = backward,
    .input_reads_in = 1,
    .weight_reads_in = 1,
    .grad_elem = QN_ELEM_RES,
    .is_product = true,
    .flops = flops,
    .scratch = scratch,
};

void qni_classifier(qn_build *b, const char *label, int32_t x, int64_t V, int32_t w)
{
    qn_op *op = qni_op(b, &classifier, label);
    op->size[0] = b->layer->value[x].width;
    op->size[1] = V;
    qni_op_in(op, qni_whole(x));
    qni_op_use(op, w);
}
