/* LayerNorm and RMSNorm. Their input gradient adds to the gradient of the residual stream that they read. */
#include "model/layer.h"

static void layernorm_forward(const qn_op_run *r)
{
    r->k->layernorm_forward(r->ex, r->out[0], r->out[1], r->out[2], r->in[0], r->w[0], r->w[1], r->R, r->ld_in[0], r->op->real);
}

static void layernorm_backward_input(const qn_op_run *r)
{
    r->k->layernorm_backward_input(r->ex, r->din[0], r->dout[0], r->in[0], r->out[1], r->out[2], r->w[0], r->R, r->ld_in[0],
                                   r->add[0]);
}

static void layernorm_backward_weight(const qn_op_run *r)
{
    r->k->layernorm_backward_weight(r->ex, r->dw[0], r->dw[1], r->dout[0], r->in[0], r->out[1], r->out[2], r->R, r->ld_in[0]);
}

static const qn_op_kind layernorm = {
    .name = "layernorm",
    .cheap = true,
    .forward = layernorm_forward,
    .backward_input = layernorm_backward_input,
    .backward_weight = layernorm_backward_weight,
    .input_reads_in = 1, /* x; mean and rstd */
    .input_reads_out = 2 | 4,
    .weight_reads_in = 1,
    .weight_reads_out = 2 | 4,
    .grad_elem = QN_ELEM_RES,
    .can_add = true,
};

int32_t qni_layernorm(qn_build *b, const char *label, int32_t x, int32_t w, int32_t bias, double eps)
{
    qn_op *op = qni_op(b, &layernorm, label);
    op->real = eps;
    qni_op_in(op, qni_whole(x));
    qni_op_use(op, w);
    qni_op_use(op, bias);
    const int32_t y = qni_value(b, b->layer->value[x].width, QN_ELEM_ACT);
    qni_op_out(op, y);
    qni_op_out(op, qni_value(b, 1, QN_ELEM_RES)); /* mean */
    qni_op_out(op, qni_value(b, 1, QN_ELEM_RES)); /* rstd */
    return y;
}

static void rmsnorm_forward(const qn_op_run *r)
{
    r->k->rmsnorm_forward(r->ex, r->out[0], r->out[1], r->in[0], r->w[0], r->R, r->ld_in[0], r->op->real);
}

static void rmsnorm_backward_input(const qn_op_run *r)
{
    r->k->rmsnorm_backward_input(r->ex, r->din[0], r->dout[0], r->in[0], r->out[1], r->w[0], r->R, r->ld_in[0], r->add[0]);
}

static void rmsnorm_backward_weight(const qn_op_run *r)
{
    r->k->rmsnorm_backward_weight(r->ex, r->dw[0], r->dout[0], r->in[0], r->out[1], r->R, r->ld_in[0]);
}

static const qn_op_kind rmsnorm = {
    .name = "rmsnorm",
    .cheap = true,
    .forward = rmsnorm_forward,
    .backward_input = rmsnorm_backward_input,
    .backward_weight = rmsnorm_backward_weight,
    .input_reads_in = 1, /* x; rstd */
    .input_reads_out = 2,
    .weight_reads_in = 1,
    .weight_reads_out = 2,
    .grad_elem = QN_ELEM_RES,
    .can_add = true,
};

int32_t qni_rmsnorm(qn_build *b, const char *label, int32_t x, int32_t w, double eps)
{
    qn_op *op = qni_op(b, &rmsnorm, label);
    op->real = eps;
    qni_op_in(op, qni_whole(x));
    qni_op_use(op, w);
    const int32_t y = qni_value(b, b->layer->value[x].width, QN_ELEM_ACT);
    qni_op_out(op, y);
    qni_op_out(op, qni_value(b, 1, QN_ELEM_RES)); /* rstd */
    return y;
}
