/* The classifier: linear to the vocabulary, softmax, cross-entropy. size: C, V. Nothing in F; loss and input gradient in B; the
 * weight gradient in the same pass, or in W. */
#include "model/layer.h"

#include "core/compiler.h"

#include <string.h>

static void classify(const qn_op_run *r, unsigned what)
{
    double unused = 0.0;
    double *loss = what & QN_CLASS_LOSS ? r->mb->loss : &unused;
    r->k->classifier(r->ex, r->lin, loss, r->din[0], r->dw[0], r->in[0], r->packed, r->mb->targets, r->R, what);
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

static void to_f32(float *y, const void *x, qn_dtype dt, int64_t n)
{
    QN_ASSERT(dt == QN_BF16 || dt == QN_F64);
    for (int64_t i = 0; i < n; i++)
        y[i] = dt == QN_BF16 ? qn_bf16_to_f32(((const qn_bf16 *)x)[i]) : (float)((const double *)x)[i];
}

/* Logits of the last row of each sample. */
static void infer(const qn_op_run *r)
{
    if (r->R == 0) return;
    const int64_t C = r->op->size[0], V = r->op->size[1];
    const size_t e = qn_dtype_bytes(r->k->act), mark = qn_arena_mark(r->ex->scratch);
    char *last = qn_arena_push(r->ex->scratch, (size_t)(r->B * C), e, QN_CACHE_LINE);
    void *y = r->k->act == QN_F32 ? r->logits : qn_arena_push(r->ex->scratch, (size_t)(r->B * V), e, QN_CACHE_LINE);
    QN_ASSERT(last != NULL && y != NULL);
    for (int64_t b = 0; b < r->B; b++) {
        const int64_t row = b * r->T + r->T - 1;
        memcpy(last + (size_t)(b * C) * e, (const char *)r->in[0] + (size_t)(row * C) * e, (size_t)C * e);
    }
    r->k->linear_forward(r->ex, r->lin, y, last, r->packed, NULL, r->B);
    if (r->k->act != QN_F32) to_f32(r->logits, y, r->k->act, r->B * V);
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
    qn_arena_push(&a, (size_t)(limits->B * op->size[0]), qn_dtype_bytes(k->act), QN_CACHE_LINE);
    if (k->act != QN_F32) qn_arena_push(&a, (size_t)(limits->B * op->size[1]), qn_dtype_bytes(k->act), QN_CACHE_LINE);
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
