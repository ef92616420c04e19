/* The operations of a low-rank adapter besides its first product: the scale, and the second product added in place. */
#include "core/compiler.h"
#include "model/layer.h"

/* --- y = real * x */
static void scale_forward(const qn_op_run *r)
{
    r->k->scale_forward(r->ex, r->out[0], r->in[0], r->R * r->ld_in[0], r->op->real);
}

static void scale_backward(const qn_op_run *r)
{
    r->k->scale_backward(r->ex, r->din[0], r->dout[0], r->R * r->ld_in[0], r->op->real);
}

static const qn_op_kind scale = {
    .name = "scale",
    .forward = scale_forward,
    .backward_input = scale_backward,
    .grad_elem = QN_ELEM_ACT,
};

int32_t qni_scale(qn_build *b, const char *label, int32_t x, double factor)
{
    qn_op *op = qni_op(b, &scale, label);
    op->real = factor;
    qni_op_in(op, qni_whole(x));
    const int32_t y = qni_value(b, b->layer->value[x].width, QN_ELEM_ACT);
    qni_op_out(op, y);
    return y;
}

/* --- y += x W^T. size: C, O. in[0] and out[0] are y, in[1] is x. */
static void adapter_forward(const qn_op_run *r)
{
    const size_t mark = qn_arena_mark(r->ex->scratch);
    void *t = qn_arena_push(r->ex->scratch, (size_t)(r->R * r->op->size[1]), qn_dtype_bytes(r->k->act), QN_CACHE_LINE);
    QN_ASSERT(t != NULL);
    r->k->linear_forward(r->ex, r->lin, t, r->in[1], r->packed, NULL, r->R);
    r->k->accumulate(r->ex, r->out[0], t, r->R * r->op->size[1]);
    qn_arena_release(r->ex->scratch, mark);
}

static void adapter_input(const qn_op_run *r)
{
    r->k->linear_backward_input(r->ex, r->lin, r->din[1], r->dout[0], r->packed, r->R, r->add[1]);
}

static void adapter_weight(const qn_op_run *r)
{
    r->k->linear_backward_weight(r->ex, r->lin, r->dw[0], NULL, r->dout[0], r->in[1], r->R);
}

static qn_op_flops flops(const qn_op *op, int64_t B, int64_t T)
{
    const int64_t n = 2 * B * T * op->size[0] * op->size[1];
    return (qn_op_flops){.forward = n, .input = n, .weight = n};
}

static size_t scratch(const qn_op *op, const qn_kernels *k, qn_linear *lin, const qn_stage_limits *limits, int32_t threads)
{
    qn_arena a = QN_ARENA_PROBE;
    (void)threads;
    qn_arena_push(&a, (size_t)(limits->B * limits->T * op->size[1]), qn_dtype_bytes(k->act), QN_CACHE_LINE);
    qn_arena_push(&a, 1, k->linear_scratch(lin), QN_CACHE_LINE);
    return a.used;
}

static const qn_op_kind adapter = {
    .name = "adapter",
    .forward = adapter_forward,
    .backward_input = adapter_input,
    .backward_weight = adapter_weight,
    .weight_reads_in = 2,
    .grad_elem = QN_ELEM_RES,
    .can_add = true,
    .is_product = true,
    .flops = flops,
    .scratch = scratch,
};

void qni_adapt(qn_build *b, const char *label, int32_t y, int32_t x, int32_t w)
{
    qn_op *op = qni_op(b, &adapter, label);
    op->size[0] = b->layer->value[x].width;
    op->size[1] = b->layer->value[y].width;
    qni_op_in(op, qni_whole(y));
    qni_op_in(op, qni_whole(x));
    qni_op_out(op, y);
    qni_op_use(op, w);
}
