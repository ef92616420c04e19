/* Operations of a model with vocabulary shards: positions added to the shards' look-ups, and the shard itself, whose passes are
 * not part of a chain (model/vocab.c). */
#include "model/layer.h"

#include "core/compiler.h"

/* y = x + wpe[pos]: the embedding's kernel with x as the table that row r looks up in row r, so the bits are the same. */
static void position_forward(const qn_op_run *r)
{
    const size_t mark = qn_arena_mark(r->ex->scratch);
    int32_t *row = qn_arena_push(r->ex->scratch, (size_t)r->R, sizeof(*row), QN_CACHE_LINE);
    QN_ASSERT(row != NULL || r->R == 0);
    for (int64_t i = 0; i < r->R; i++) row[i] = (int32_t)i;
    r->k->embedding_forward(r->ex, r->out[0], row, r->pos, r->in[0], r->w[0], r->R, r->ld_out[0]);
    qn_arena_release(r->ex->scratch, mark);
}

static void position_backward_weight(const qn_op_run *r)
{
    if (r->dw[0] != NULL) r->k->embedding_backward_weight(r->ex, r->dw[0], NULL, r->pos, NULL, r->dout[0], r->R, r->ld_out[0]);
}

static size_t position_scratch(const qn_op *op, const qn_kernels *k, qn_linear *lin, const qn_stage_limits *limits,
                               int32_t threads)
{
    (void)op, (void)k, (void)lin, (void)threads;
    return (size_t)(limits->B * limits->T) * sizeof(int32_t) + QN_CACHE_LINE;
}

static const qn_op_kind position = {
    .name = "position",
    .forward = position_forward,
    .backward_weight = position_backward_weight,
    .passes_stream = true,
    .grad_elem = QN_ELEM_RES,
    .scratch = position_scratch,
};

int32_t qni_position(qn_build *b, const char *label, int32_t x, int32_t wpe)
{
    qn_op *op = qni_op(b, &position, label);
    qni_op_in(op, qni_whole(x));
    qni_op_use(op, wpe);
    const int32_t y = qni_value(b, b->layer->value[x].width, QN_ELEM_RES);
    qni_op_out(op, y);
    return y;
}

static qn_op_flops vocabulary_flops(const qn_op *op, int64_t B, int64_t T)
{
    const int64_t n = 2 * B * T * op->size[0] * op->size[1];
    return (qn_op_flops){.forward = n, .input = n, .weight = n};
}

static size_t vocabulary_scratch(const qn_op *op, const qn_kernels *k, qn_linear *lin, const qn_stage_limits *limits,
                                 int32_t threads)
{
    (void)op, (void)threads;
    const size_t scores = k->vocab_scratch(lin), products = k->linear_scratch(lin);
    return (scores > products ? scores : products) + (size_t)(limits->B * limits->T) * qn_dtype_bytes(k->res) + QN_CACHE_LINE;
}

static const qn_op_kind vocabulary = {
    .name = "vocabulary",
    .grad_elem = QN_ELEM_RES,
    .is_product = true,
    .flops = vocabulary_flops,
    .scratch = vocabulary_scratch,
};

void qni_vocabulary(qn_build *b, const char *label, int64_t rows, int32_t out, int32_t in)
{
    qn_op *op = qni_op(b, &vocabulary, label);
    op->size[0] = b->m->config.width;
    op->size[1] = rows;
    qni_op_in(op, qni_whole(0));
    qni_op_use(op, out);
    qni_op_use(op, in);
}
