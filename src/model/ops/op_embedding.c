/* Operations on the residual stream at its beginning: token embedding, and dropout of the stream itself (in place). */
#include "model/layer.h"

#include "core/compiler.h"

static void embedding_forward(const qn_op_run *r)
{
    for (int64_t i = 0; r->w[1] != NULL && i < r->R; i++) QN_ASSERT(r->pos[i] < r->op->size[0]);
    r->k->embedding_forward(r->ex, r->out[0], qni_ids_of(r, r->mb->tokens), r->pos, r->w[0], r->w[1], r->R, r->ld_out[0]);
}

static void embedding_backward_weight(const qn_op_run *r)
{
    const int32_t *row = qni_ids_of(r, r->mb->tokens);
    void *dwte = r->dw[0];
    if (r->rows != NULL) {
        row = qn_row_sums_find(r->rows, row, r->R);
        dwte = r->rows->sum;
    }
    r->k->embedding_backward_weight(r->ex, dwte, r->dw[1], row, r->pos, r->dout[0], r->R, r->ld_out[0]);
}

static const qn_op_kind embedding = {
    .name = "embedding",
    .forward = embedding_forward,
    .backward_weight = embedding_backward_weight,
};

int32_t qni_embedding(qn_build *b, const char *label, int64_t C, int32_t wte, int32_t wpe)
{
    qn_op *op = qni_op(b, &embedding, label);
    op->size[0] = b->m->config.context; /* rows of wpe */
    qni_op_use(op, wte);
    qni_op_use(op, wpe);
    const int32_t y = qni_value(b, C, QN_ELEM_RES);
    qni_op_out(op, y);
    return y;
}

static void dropout_forward(const qn_op_run *r)
{
    if (r->dropout > 0)
        r->k->dropout(r->ex, r->out[0], r->in[0], r->first * r->ld_in[0], r->R * r->ld_in[0], r->T * r->ld_in[0], r->dropout,
                      &r->key);
}

static void dropout_backward(const qn_op_run *r)
{
    if (r->dropout > 0)
        r->k->dropout(r->ex, r->din[0], r->dout[0], r->first * r->ld_in[0], r->R * r->ld_in[0], r->T * r->ld_in[0], r->dropout,
                      &r->key);
}

static const qn_op_kind dropout = {
    .name = "dropout",
    .forward = dropout_forward,
    .backward_input = dropout_backward,
    .grad_elem = QN_ELEM_RES,
    .drops = true,
};

void qni_dropout(qn_build *b, const char *label, int32_t x, double p)
{
    qn_op *op = qni_op(b, &dropout, label);
    op->real = p;
    qni_op_in(op, qni_whole(x));
    qni_op_out(op, x);
}
