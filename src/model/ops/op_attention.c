/* Causal attention with grouped queries, and the rotary embedding of its queries and keys. size: H, K, D.
 *
 * Cache of a sample, for one attention: k [cache_len, K * D] act, then v; or the kernel's own layout, where it has one. */
#include "model/layer.h"

#include <math.h>
#include <string.h>

#include "core/checked.h"
#include "core/compiler.h"

static qn_attention_shape shape_of(const qn_op_run *r)
{
    const qn_op *op = r->op;
    return (qn_attention_shape){.B = r->B,
                                .T = r->T,
                                .H = op->size[0],
                                .K = op->size[1],
                                .D = op->size[2],
                                .ldq = r->ld_in[0],
                                .ldk = r->ld_in[1],
                                .ldv = r->ld_in[2],
                                .ldo = r->ld_out[0],
                                .scale = op->real};
}

static void forward(const qn_op_run *r)
{
    const qn_attention_shape s = shape_of(r);
    r->k->attention_forward(r->ex, r->out[0], r->out[1], r->in[0], r->in[1], r->in[2], &s);
}

static void backward_input(const qn_op_run *r)
{
    const qn_attention_shape s = shape_of(r);
    r->k->attention_backward(r->ex, r->din[0], r->din[1], r->din[2], r->dout[0], r->out[0], r->out[1], r->in[0], r->in[1],
                             r->in[2], &s);
}

/* Appends T rows of n bytes, row stride ld bytes, to a cache that holds `past` rows. */
static void append(char *cache, int64_t past, const char *x, int64_t T, size_t n, size_t ld)
{
    for (int64_t t = 0; t < T; t++) memcpy(cache + (size_t)(past + t) * n, x + (size_t)t * ld, n);
}

/* T rows from row `first` on, of the sequence in that slot of the cache. */
static void infer_rows(const qn_op_run *r, int64_t slot, int64_t first, int64_t T, int64_t past)
{
    const size_t e = qn_dtype_bytes(r->k->act), row = (size_t)(r->op->size[1] * r->op->size[2]) * e;
    qn_attention_shape s = shape_of(r);
    QN_ASSERT(past >= 0 && past + T <= r->cache_len);
    s.B = 1;
    s.T = T;
    s.ldk = s.ldv = r->op->size[1] * r->op->size[2];
    char *kcache = r->cache + (size_t)slot * r->cache_stride, *vcache = kcache + (size_t)r->cache_len * row;
    const char *q = (const char *)r->in[0] + (size_t)(first * r->ld_in[0]) * e;
    append(kcache, past, (const char *)r->in[1] + (size_t)(first * r->ld_in[1]) * e, T, row, (size_t)r->ld_in[1] * e);
    append(vcache, past, (const char *)r->in[2] + (size_t)(first * r->ld_in[2]) * e, T, row, (size_t)r->ld_in[2] * e);
    r->k->attention_infer(r->ex, (char *)r->out[0] + (size_t)(first * s.ldo) * e, q, kcache, vcache, &s, past);
}

/* The k-th run of rows: of a segment, or of a sample. */
static qn_segment run_of(const qn_op_run *r, int64_t i)
{
    return r->mb->segment != NULL ? r->mb->segment[i] : (qn_segment){.slot = (int32_t)i, .past = r->past, .count = r->T};
}

/* Sequences in groups that share a call. */
static void infer_cached(const qn_op_run *r, int64_t runs)
{
    enum { GROUP = 64 };
    const qn_attention_shape s = shape_of(r);
    int64_t first = 0;
    for (int64_t i = 0; i < runs;) {
        qn_cached_rows rows[GROUP];
        int64_t n = 0;
        for (; n < GROUP && i < runs; n++, i++) {
            const qn_segment g = run_of(r, i);
            QN_ASSERT(g.past >= 0 && g.past + g.count <= r->cache_len);
            rows[n] = (qn_cached_rows){r->cache + (size_t)g.slot * r->cache_stride, first, g.count, g.past};
            first += g.count;
        }
        r->k->attention_cached(r->ex, r->out[0], r->in[0], r->in[1], r->in[2], &s, rows, n, r->cache_len, r->kv);
    }
}

static void infer(const qn_op_run *r)
{
    const int64_t runs = r->mb->segment != NULL ? r->mb->segments : r->B;
    int64_t first = 0;
    if (r->k->attention_cached != NULL) {
        infer_cached(r, runs);
        return;
    }
    for (int64_t i = 0; i < runs; i++) {
        const qn_segment g = run_of(r, i);
        infer_rows(r, g.slot, first, g.count, g.past);
        first += g.count;
    }
}

/* Causal: half of the square. Forward has two products (scores, values); backward four, and the scores once more. */
static qn_op_flops flops(const qn_op *op, int64_t B, int64_t T)
{
    const int64_t product = B * T * T * op->size[0] * op->size[2];
    return (qn_op_flops){.forward = 2 * product, .input = 5 * product};
}

static size_t scratch(const qn_op *op, const qn_kernels *k, qn_linear *lin, const qn_stage_limits *limits, int32_t threads)
{
    (void)lin;
    const int64_t H = op->size[0], K = op->size[1], D = op->size[2];
    const qn_attention_shape s = {.B = limits->B,
                                  .T = qn_max64(limits->T, limits->cache_len),
                                  .H = H,
                                  .K = K,
                                  .D = D,
                                  .ldq = H * D,
                                  .ldk = K * D,
                                  .ldv = K * D,
                                  .ldo = H * D,
                                  .scale = op->real};
    const size_t plain = k->attention_scratch(&s, threads);
    const size_t cached =
        k->cached_scratch != NULL && limits->cache_len > 0 ? k->cached_scratch(&s, limits->cache_len, threads) : 0;
    return plain > cached ? plain : cached;
}

static const qn_op_kind attention = {
    .name = "attention",
    .group = QN_AGAIN_ATTENTION,
    .forward = forward,
    .infer = infer,
    .backward_input = backward_input,
    .input_reads_in = 1 | 2 | 4, /* q, k, v; o and lse */
    .input_reads_out = 1 | 2,
    .grad_elem = QN_ELEM_ACT,
    .has_cache = true,
    .flops = flops,
    .scratch = scratch,
};

int32_t qni_attention(qn_build *b, const char *label, qn_ref q, qn_ref k, qn_ref v, int64_t H, int64_t K, int64_t D)
{
    qn_op *op = qni_op(b, &attention, label);
    op->size[0] = H;
    op->size[1] = K;
    op->size[2] = D;
    op->real = 1.0 / sqrt((double)D);
    qni_op_in(op, q);
    qni_op_in(op, k);
    qni_op_in(op, v);
    const int32_t o = qni_value(b, H * D, QN_ELEM_ACT);
    qni_op_out(op, o);
    qni_op_out(op, qni_value(b, H, QN_ELEM_RES)); /* log of the sum of exponentials */
    return o;
}

/* Rotary embedding, in place; its backward rotates the gradient back, in place as well. size: H, D; real: theta. */
static void rope_forward(const qn_op_run *r)
{
    r->k->rope(r->ex, r->out[0], r->in[0], r->pos, r->R, r->op->size[0], r->op->size[1], r->ld_in[0], r->op->real, false);
}

static void rope_backward(const qn_op_run *r)
{
    r->k->rope(r->ex, r->din[0], r->dout[0], r->pos, r->R, r->op->size[0], r->op->size[1], r->ld_in[0], r->op->real, true);
}

static const qn_op_kind rope = {
    .name = "rope",
    .forward = rope_forward,
    .backward_input = rope_backward,
    .grad_elem = QN_ELEM_ACT,
};

void qni_rope(qn_build *b, const char *label, int32_t x, int64_t H, int64_t D, double theta)
{
    qn_op *op = qni_op(b, &rope, label);
    op->size[0] = H;
    op->size[1] = D;
    op->real = theta;
    qni_op_in(op, qni_whole(x));
    qni_op_out(op, x);
}
