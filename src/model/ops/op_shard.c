/* What tensor shards have besides: the way into products cut by their outputs, and the product cut by its inputs with what
 * follows it. How the shards meet, before the operation of that name (qn_meet; "the gradient of" in backward):
 *
 *                                                              forward                backward
 *   tensor parallelism alone, all rows in every shard
 *     shard_in       on the way in (f)                         -                      SUM of the input's gradient
 *     shard_out      on the way out (g)                        SUM of the output      -
 *   sequence parallelism, a slice of the rows outside
 *     shard_gather   on the way in (g bar)                     GATHER in -> out       SCATTER out -> in
 *     shard_scatter  on the way out (g bar)                    SCATTER in -> out      GATHER out -> in
 *
 * A sum is a scatter and a gather, so that both ways move the same bytes. What has been gathered is not kept: it is gathered once
 * more where backward reads it.
 *
 * The bias of a summed product is added after the sum, by every shard to the rows it has; its gradient is that of the whole
 * product, in every shard alike.
 *
 * Papers: Narayanan et al. 2021, arXiv:2104.04473, section 2.3; Korthikanti et al. 2022, arXiv:2205.05198, section 4.2. */
#include "core/compiler.h"
#include "model/layer.h"

/* --- the way in */
static void nothing(const qn_op_run *r)
{
    (void)r;
}

static const qn_op_kind shard_in = {
    .name = "shard_in",
    .backward_input = nothing,
    .grad_elem = QN_ELEM_RES,
    .of_shards = true,
    .meets_back = QN_MEET_SUM,
};

static const qn_op_kind shard_gather = {
    .name = "shard_gather",
    .forward = nothing,
    .backward_input = nothing,
    .grad_elem = QN_ELEM_RES,
    .cheap = true,
    .of_shards = true,
    .meets = QN_MEET_GATHER,
    .meets_back = QN_MEET_SCATTER,
};

int32_t qni_shard_in(qn_build *b, const char *label, int32_t x)
{
    const qn_model_config *c = &b->m->config;
    if (c->shards == 1) return x;
    b->sliced = false;
    qn_op *op = qni_op(b, c->sequence ? &shard_gather : &shard_in, label);
    qni_op_in(op, qni_whole(x));
    const int32_t y = c->sequence ? qni_value(b, b->layer->value[x].width, QN_ELEM_ACT) : x;
    qni_op_out(op, y);
    return y;
}

/* --- the way out: the sum is there, the bias is not */
static void add_bias(const qn_op_run *r)
{
    const int64_t O = r->ld_out[0];
    if (r->w[0] == NULL) return;
    for (int64_t i = 0; i < r->R; i++) {
        for (int64_t o = 0; o < O; o++) {
            const int64_t at = i * O + o;
            if (r->k->act == QN_F64)
                ((double *)r->out[0])[at] += ((const double *)r->w[0])[o];
            else if (r->k->act == QN_F32)
                ((float *)r->out[0])[at] += ((const float *)r->w[0])[o];
            else
                ((qn_bf16 *)r->out[0])[at] =
                    qn_f32_to_bf16(qn_bf16_to_f32(((qn_bf16 *)r->out[0])[at]) + ((const float *)r->w[0])[o]);
        }
    }
}

static const qn_op_kind shard_out = {
    .name = "shard_out",
    .forward = add_bias,
    .grad_elem = QN_ELEM_ACT,
    .of_shards = true,
    .meets = QN_MEET_SUM,
};

static const qn_op_kind shard_scatter = {
    .name = "shard_scatter",
    .forward = add_bias,
    .backward_input = nothing,
    .grad_elem = QN_ELEM_ACT,
    .of_shards = true,
    .meets = QN_MEET_SCATTER,
    .meets_back = QN_MEET_GATHER,
};

int32_t qni_linear_sum(qn_build *b, const char *label, int32_t x, int64_t out, int32_t w, int32_t bias)
{
    const qn_model_config *c = &b->m->config;
    if (c->shards == 1) return qni_linear(b, label, x, out, w, bias);
    const int32_t part = qni_linear_part(b, label, x, out, w, bias);
    b->sliced = c->sequence;
    qn_op *op = qni_op(b, c->sequence ? &shard_scatter : &shard_out, label);
    qni_op_in(op, qni_whole(part));
    const int32_t y = c->sequence ? qni_value(b, out, QN_ELEM_ACT) : part;
    qni_op_out(op, y);
    qni_op_use(op, bias);
    return y;
}
