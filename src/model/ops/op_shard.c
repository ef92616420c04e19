/* What tensor shards have besides (Narayanan et al. 2021, arXiv:2104.04473, section 2.3): the way into products cut by their
 * outputs (f: forward identity, backward a sum over the shards), and the product cut by its inputs with what follows it (g:
 * forward a sum over the shards, backward identity). The sums themselves come from the stage's exchange, just before the
 * operation.
 *
 * The bias of a summed product is added after the sum, by every shard alike; its gradient is that of the whole product. */
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
    .sums_backward = true,
};

void qni_shard_in(qn_build *b, const char *label, int32_t x)
{
    if (b->m->config.shards == 1) return;
    qn_op *op = qni_op(b, &shard_in, label);
    qni_op_in(op, qni_whole(x));
    qni_op_out(op, x);
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
    .sums_forward = true,
};

int32_t qni_linear_sum(qn_build *b, const char *label, int32_t x, int64_t out, int32_t w, int32_t bias)
{
    if (b->m->config.shards == 1) return qni_linear(b, label, x, out, w, bias);
    const int32_t y = qni_linear_part(b, label, x, out, w, bias);
    qn_op *op = qni_op(b, &shard_out, label);
    qni_op_in(op, qni_whole(y));
    qni_op_out(op, y);
    qni_op_use(op, bias);
    return y;
}
