/* A matrix product y = x W^T + b. size: C, O. */
#include "model/layer.h"

static void forward(const qn_op_run *r)
{
    r->k->linear_forward(r->ex, r->lin, r->out[0], r->in[0], r->packed, r->w[1], r->R);
}

static void backward_input(const qn_op_run *r)
{
    r->k->linear_backward_input(r->ex, r->lin, r->din[0], r->dout[0], r->packed, r->R, r->add[0]);
}

static void backward_weight(const qn_op_run *r)
{
    r->k->linear_backward_weight(r->ex, r->lin, r->dw[0], r->dw[1], r->dout[0], r->in[0], r->R);
}

static qn_op_flops flops(const qn_op *op, int64_t B, int64_t T)
{
    const int64_t n = 2 * B * T * op->size[0] * op->size[1];
    return (qn_op_flops){.forward = n, .input = n, .weight = n};
}

static size_t scratch(const qn_op *op, const qn_kernels *k, qn_linear *lin, const qn_stage_limits *limits, int32_t threads)
{
    (void)op, (void)limits, (void)threads;
    return k->linear_scratch(lin);
}

static const qn_op_kind linear = {
    .name = "linear",
    .forward = forward,
    .backward_input = backward_input,
    .backward_weight = backward_weight,
    .weight_reads_in = 1,
    .grad_elem = QN_ELEM_RES,
    .can_add = true,
    .is_product = true,
    .flops = flops,
    .scratch = scratch,
};

/* The product of the inputs that one tensor shard holds: the bias waits for the sum (op_shard.c) and is here for its gradient. */
static void part_forward(const qn_op_run *r)
{
    r->k->linear_forward(r->ex, r->lin, r->out[0], r->in[0], r->packed, NULL, r->R);
}

static const qn_op_kind linear_part = {
    .name = "linear_part",
    .forward = part_forward,
    .backward_input = backward_input,
    .backward_weight = backward_weight,
    .weight_reads_in = 1,
    .grad_elem = QN_ELEM_RES,
    .can_add = true,
    .is_product = true,
    .flops = flops,
    .scratch = scratch,
};

static int32_t product(qn_build *b, const qn_op_kind *kind, const char *label, int32_t x, int64_t out, int32_t w, int32_t bias)
{
    qn_op *op = qni_op(b, kind, label);
    op->size[0] = b->layer->value[x].width;
    op->size[1] = out;
    qni_op_in(op, qni_whole(x));
    qni_op_use(op, w);
    qni_op_use(op, bias);
    const int32_t y = qni_value(b, out, QN_ELEM_ACT);
    qni_op_out(op, y);
    return y;
}

int32_t qni_linear(qn_build *b, const char *label, int32_t x, int64_t out, int32_t w, int32_t bias)
{
    const int32_t y = product(b, &linear, label, x, out, w, bias);
    qni_lora(b, label, x, y, w, false);
    return y;
}

int32_t qni_linear_part(qn_build *b, const char *label, int32_t x, int64_t out, int32_t w, int32_t bias)
{
    const int32_t y = product(b, &linear_part, label, x, out, w, bias);
    qni_lora(b, label, x, y, w, true);
    return y;
}
