/* Activations of the MLP: GELU and SwiGLU. */
#include "model/layer.h"

static void gelu_forward(const qn_op_run *r)
{
    r->k->gelu_forward(r->ex, r->out[0], r->in[0], r->R * r->ld_in[0]);
}

static void gelu_backward(const qn_op_run *r)
{
    r->k->gelu_backward(r->ex, r->din[0], r->dout[0], r->in[0], r->R * r->ld_in[0]);
}

static const qn_op_kind gelu = {
    .name = "gelu",
    .cheap = true,
    .forward = gelu_forward,
    .backward_input = gelu_backward,
    .input_reads_in = 1,
    .grad_elem = QN_ELEM_ACT,
};

int32_t qni_gelu(qn_build *b, const char *label, int32_t x)
{
    qn_op *op = qni_op(b, &gelu, label);
    qni_op_in(op, qni_whole(x));
    const int32_t y = qni_value(b, b->layer->value[x].width, QN_ELEM_ACT);
    qni_op_out(op, y);
    return y;
}

static void swiglu_forward(const qn_op_run *r)
{
    r->k->swiglu_forward(r->ex, r->out[0], r->in[0], r->in[1], r->R * r->ld_in[0]);
}

static void swiglu_backward(const qn_op_run *r)
{
    r->k->swiglu_backward(r->ex, r->din[0], r->din[1], r->dout[0], r->in[0], r->in[1], r->R * r->ld_in[0]);
}

static const qn_op_kind swiglu = {
    .name = "swiglu",
    .cheap = true,
    .forward = swiglu_forward,
    .backward_input = swiglu_backward,
    .input_reads_in = 1 | 2, /* gate, up */
    .grad_elem = QN_ELEM_ACT,
};

int32_t qni_swiglu(qn_build *b, const char *label, int32_t gate, int32_t up)
{
    qn_op *op = qni_op(b, &swiglu, label);
    qni_op_in(op, qni_whole(gate));
    qni_op_in(op, qni_whole(up));
    const int32_t y = qni_value(b, b->layer->value[gate].width, QN_ELEM_ACT);
    qni_op_out(op, y);
    return y;
}
