/* The chain's two ends in a tensor shard: each has 1/t of the vocabulary's rows of the embedding and of the output matrix
 * (Narayanan et al. 2021, arXiv:2104.04473, section 2.3; the local softmax and what makes it whole: Yeung et al. 2024,
 * arXiv:2411.05288, section 4.1).
 *
 *                                                                forward                 backward
 *   lookup         all rows; zeros for the tokens of others      -                       -
 *   lookup_sum     adds the positions                            SUM of the look-ups     -
 *   lookup_scatter the same for a slice of the rows              SCATTER in -> out       GATHER out -> in
 *   (shard_in or shard_gather: op_shard.c)                       GATHER with slices      SUM, or SCATTER with slices
 *   classifier     the shard's logits of all rows                -, when evaluated as    GATHER of the statistics
 *                                                                backward
 *
 * A sum of look-ups has one term that is not zero, so it is exact. The classifier does nothing in F. In B it computes its logits
 * and their local softmax p, tells the others its three statistics of each row, and makes p into the gradient of its logits: the
 * gradient of its input is a part, which the operation before sums. Each shard knows the loss, to the same bits. Between B and W
 * the statistics are kept, not p: W computes the logits once more. */
#include "core/checked.h"
#include "core/compiler.h"
#include "kernels/shard_sum.h"
#include "model/layer.h"

enum { C = 0, O = 1, FIRST = 2, COUNT = 3 }; /* sizes: width, rows of a shard; its first row, how many are no padding */
enum { STATS = 0, P = 1, VALUES = 3 };       /* outputs: [shards, VALUES, R] res and [R, O] act; statistics of a row */

/* --- look-ups */
static void lookup(const qn_op_run *r)
{
    const int64_t *size = r->op->size;
    r->k->range_gather(r->ex, r->out[0], r->mb->tokens, size[FIRST], size[COUNT], r->w[0], r->R, r->ld_out[0]);
}

static void lookup_weight(const qn_op_run *r)
{
    const int64_t *size = r->op->size;
    if (r->dw[0] != NULL)
        r->k->range_scatter(r->ex, r->dw[0], r->mb->tokens, size[FIRST], size[COUNT], r->dout[0], r->R, r->ld_out[0]);
}

static const qn_op_kind lookup_kind = {
    .name = "lookup",
    .forward = lookup,
    .backward_weight = lookup_weight,
};

/* The sum is there, in place: row r of it is what the embedding's kernel looks up. */
static void add_positions(const qn_op_run *r)
{
    if (r->w[0] == NULL || r->R == 0) return;
    const size_t mark = qn_arena_mark(r->ex->scratch);
    int32_t *row = qn_arena_push(r->ex->scratch, (size_t)r->R, sizeof(*row), QN_CACHE_LINE);
    QN_ASSERT(row != NULL);
    for (int64_t i = 0; i < r->R; i++) row[i] = (int32_t)i;
    r->k->embedding_forward(r->ex, r->out[0], row, r->pos, r->out[0], r->w[0], r->R, r->ld_out[0]);
    qn_arena_release(r->ex->scratch, mark);
}

static void positions_weight(const qn_op_run *r)
{
    if (r->dw[0] != NULL) r->k->embedding_backward_weight(r->ex, NULL, r->dw[0], NULL, r->pos, r->dout[0], r->R, r->ld_out[0]);
}

static void nothing(const qn_op_run *r)
{
    (void)r;
}

static size_t positions_scratch(const qn_op *op, const qn_kernels *k, qn_linear *lin, const qn_stage_limits *limits,
                                int32_t threads)
{
    (void)op, (void)k, (void)lin, (void)threads;
    return (size_t)(limits->B * limits->T) * sizeof(int32_t) + QN_CACHE_LINE;
}

static const qn_op_kind lookup_sum = {
    .name = "lookup_sum",
    .forward = add_positions,
    .backward_weight = positions_weight,
    .grad_elem = QN_ELEM_RES,
    .of_shards = true,
    .meets = QN_MEET_SUM,
    .scratch = positions_scratch,
};

static const qn_op_kind lookup_scatter = {
    .name = "lookup_scatter",
    .forward = add_positions,
    .backward_input = nothing,
    .backward_weight = positions_weight,
    .grad_elem = QN_ELEM_RES,
    .of_shards = true,
    .meets = QN_MEET_SCATTER,
    .meets_back = QN_MEET_GATHER,
    .scratch = positions_scratch,
};

/* Which rows of the vocabulary the shard has. */
static void set_rows(qn_op *op, const qn_model_config *c, int64_t rows)
{
    op->size[FIRST] = rows * c->shard;
    op->size[COUNT] = qn_max64(0, qn_min64(rows, c->vocab - op->size[FIRST]));
}

/* part: the shard's, of all rows. */
static int32_t sum_lookups(qn_build *b, int32_t part, int32_t wpe)
{
    const qn_model_config *c = &b->m->config;
    b->sliced = c->sequence;
    qn_op *op = qni_op(b, c->sequence ? &lookup_scatter : &lookup_sum, "embedding.shards");
    qni_op_in(op, qni_whole(part));
    const int32_t y = c->sequence ? qni_value(b, c->width, QN_ELEM_RES) : part;
    qni_op_out(op, y);
    qni_op_use(op, wpe);
    return y;
}

int32_t qni_lookup(qn_build *b, const char *label, int32_t wte, int32_t wpe)
{
    const qn_model_config *c = &b->m->config;
    b->sliced = false;
    qn_op *op = qni_op(b, &lookup_kind, label);
    set_rows(op, c, qni_vocab_rows(c));
    qni_op_use(op, wte);
    const int32_t part = qni_value(b, c->width, QN_ELEM_RES);
    qni_op_out(op, part);
    return sum_lookups(b, part, wpe);
}

int32_t qni_lookup_sum(qn_build *b, int32_t x, int32_t wpe)
{
    if (!b->m->config.sequence) return sum_lookups(b, qni_position(b, "position", x, -1), wpe); /* a copy: x may be read again */
    b->layer->value[x].sliced = false;
    b->layer->off_input = true;
    b->keys++; /* where one shard has the positions */
    return sum_lookups(b, x, wpe);
}

/* --- the classifier */
static int64_t shards_of(const qn_op_run *r)
{
    return r->ld_out[STATS] / VALUES;
}

static int64_t shard_of(const qn_op_run *r)
{
    return r->op->size[FIRST] / r->op->size[O];
}

/* Statistics of all shards, and p, wherever the pass has them. */
static char *stats_of(const qn_op_run *r)
{
    return r->dout[STATS] != NULL ? r->dout[STATS] : r->out[STATS];
}

static void *p_of(const qn_op_run *r)
{
    return r->dout[P] != NULL ? r->dout[P] : r->out[P];
}

static size_t row_of_stats(const qn_op_run *r)
{
    return (size_t)(VALUES * r->R) * qn_dtype_bytes(r->k->res);
}

static void scores(const qn_op_run *r, void *stats)
{
    const int64_t *size = r->op->size;
    r->k->vocab_scores(r->ex, r->lin, p_of(r), stats, r->in[0], r->packed, r->mb->targets, size[FIRST], size[COUNT], r->R);
}

static void tell(const qn_op_run *r)
{
    scores(r, stats_of(r) + (size_t)shard_of(r) * row_of_stats(r));
}

static void fold(const qn_op_run *r, void *factor, double *loss)
{
    const void *stats[QN_MAX_SHARDS];
    const int32_t shards = (int32_t)shards_of(r);
    for (int32_t k = 0; k < shards; k++) stats[k] = stats_of(r) + (size_t)k * row_of_stats(r);
    r->k->vocab_fold(factor, loss, stats, shards, (int32_t)shard_of(r), r->mb->targets, r->R);
}

static void evaluate(const qn_op_run *r)
{
    fold(r, NULL, r->mb->loss);
}

/* p becomes the gradient of the logits; the item's loss is added to *loss, unless NULL. */
static void to_gradient(const qn_op_run *r, double *loss)
{
    const int64_t *size = r->op->size;
    const size_t mark = qn_arena_mark(r->ex->scratch);
    void *factor = qn_arena_push(r->ex->scratch, (size_t)r->R, qn_dtype_bytes(r->k->res), QN_CACHE_LINE);
    QN_ASSERT(factor != NULL || r->R == 0);
    fold(r, factor, loss);
    r->k->vocab_scale(r->ex, p_of(r), factor, r->mb->targets, size[FIRST], size[COUNT], r->R, size[O]);
    qn_arena_release(r->ex->scratch, mark);
}

static void to_input(const qn_op_run *r)
{
    r->k->linear_backward_input(r->ex, r->lin, r->din[0], p_of(r), r->packed, r->R, r->add[0]);
}

static void to_weight(const qn_op_run *r)
{
    r->k->linear_backward_weight(r->ex, r->lin, r->dw[0], NULL, p_of(r), r->in[0], r->R);
}

static void backward_input(const qn_op_run *r)
{
    to_gradient(r, r->mb->loss);
    to_input(r);
}

static void backward(const qn_op_run *r)
{
    backward_input(r);
    to_weight(r);
}

/* W: p is made again; the statistics that come with it have been gathered before. */
static void backward_weight(const qn_op_run *r)
{
    const size_t mark = qn_arena_mark(r->ex->scratch);
    void *again = qn_arena_push(r->ex->scratch, 1, row_of_stats(r), QN_CACHE_LINE);
    QN_ASSERT(again != NULL || r->R == 0);
    scores(r, again);
    to_gradient(r, NULL);
    to_weight(r);
    qn_arena_release(r->ex->scratch, mark);
}

/* In B the logits and the input's gradient; in W the logits once more (not counted) and the weight's. */
static qn_op_flops flops(const qn_op *op, int64_t B, int64_t T)
{
    const int64_t n = 2 * B * T * op->size[C] * op->size[O];
    return (qn_op_flops){.input = 2 * n, .weight = n};
}

static size_t scratch(const qn_op *op, const qn_kernels *k, qn_linear *lin, const qn_stage_limits *limits, int32_t threads)
{
    (void)op, (void)threads;
    const size_t kernel[] = {k->vocab_scratch(lin), k->linear_scratch(lin)};
    const size_t rows = (size_t)(limits->B * limits->T) * qn_dtype_bytes(k->res);
    return kernel[kernel[0] < kernel[1]] + (VALUES + 1) * rows + 3 * QN_CACHE_LINE;
}

static const qn_op_kind classifier = {
    .name = "classifier_shard",
    .evaluate = evaluate,
    .tell = tell,
    .backward_input = backward_input,
    .backward_weight = backward_weight,
    .backward = backward,
    .input_reads_in = 1,
    .weight_reads_in = 1,
    .grad_elem = QN_ELEM_RES,
    .is_product = true,
    .meets = QN_MEET_GATHER,
    .meets_back = QN_MEET_GATHER,
    .flops = flops,
    .scratch = scratch,
};

void qni_classifier_shard(qn_build *b, const char *label, int32_t x, int32_t w)
{
    const qn_model_config *c = &b->m->config;
    qn_op *op = qni_op(b, &classifier, label);
    op->size[C] = b->layer->value[x].width;
    op->size[O] = qni_vocab_rows(c);
    set_rows(op, c, op->size[O]);
    qni_op_in(op, qni_whole(x));
    qni_op_use(op, w);
    qni_op_out(op, qni_value(b, (int64_t)VALUES * c->shards, QN_ELEM_RES));
    qni_op_out(op, qni_value(b, op->size[O], QN_ELEM_ACT));
}
