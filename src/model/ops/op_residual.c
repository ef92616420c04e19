/* The residual join y = a + drop(branch). The gradient of a is that of y itself: one buffer, nothing to compute. */
#include "model/layer.h"

static void forward(const qn_op_run *r)
{
    r->k->residual_forward(r->ex, r->out[0], r->in[0], r->in[1], r->first * r->ld_in[0], r->R * r->ld_in[0], r->T * r->ld_in[0],
                           r->dropout, &r->key);
}

static void backward_input(const qn_op_run *r)
{
    r->k->residual_backward(r->ex, r->din[1], r->dout[0], r->first * r->ld_in[0], r->R * r->ld_in[0], r->T * r->ld_in[0],
                            r->dropout, &r->key);
}

static const qn_op_kind residual = {
    .name = "residual",
    .forward = forward,
    .backward_input = backward_input,
    .grad_elem = QN_ELEM_ACT,
    .cheap = true,
    .passes_stream = true,
    .drops = true,
};

int32_t qni_residual(qn_build *b, const char *label, int32_t a, int32_t branch, double dropout)
{
    qn_op *op = qni_op(b, &residual, label);
    op->real = dropout;
    qni_op_in(op, qni_whole(a));
    qni_op_in(op, qni_whole(branch));
    const int32_t y = qni_value(b, b->layer->value[a].width, QN_ELEM_RES);
    qni_op_out(op, y);
    return y;
}
