/* Vocabulary parallelism (Yeung et al. 2024, arXiv:2411.05288): output layer and input embedding cut into n shards by rows.
 *
 * A model opened with config.vocab_shards = n >= 1 has, behind its chain, n side layers:
 *
 *   chain  0 input (positions, dropout) | 1 .. L blocks | L + 1 final norm          side  L + 2 + k: shard k
 *
 * Shard k holds rows k * O .. k * O + O - 1 of the embedding and of the output matrix (one matrix where they are tied), where O =
 * ceil(V / n); rows from V on are padding: no target, logits of -inf, never moved. The chain's first stage takes the sum of the
 * shards' look-ups as its x, its last stage gives the normed stream [R, C] act as its y and takes that one's gradient [R, C] res
 * as its dy. A side stage is opened, bound and packed as any other; the functions here are its passes.
 *
 * With t tensor shards each of the t shard models has n of them: n t shards of O = ceil(V / (n t)) rows, of which shard model k
 * has k n .. k n + n - 1. The sum of its look-ups is a part of x and the gradient that they give a part of dy; the chain's ends
 * make them whole in their passes. Statistics are wanted of all n t, in this order.
 *
 * Every result is a function of n and t and not of who computes it: folds go in shard order. */
#ifndef QN_MODEL_VOCAB_H
#define QN_MODEL_VOCAB_H

#include "model/model.h"

/* Sizes in bytes for so many rows: x [R, C] act, the normed stream; p [R, O] act, kept from scores to gradients; stats [3, R]
 * res; dx [R, C] res, or [2, R, C] with algorithm 2; part [R, C] res, a look-up or the gradient of the sum. */
typedef struct qn_vocab_sizes {
    size_t x, p, stats, dx, part;
} qn_vocab_sizes;
qn_vocab_sizes qn_vocab_sizes_of(const qn_model *m, const qn_kernels *k, int64_t rows, int32_t algorithm);

/* The use of a shard's rows for logits, or for look-ups. */
int32_t qn_vocab_use(const qn_model *m, int32_t shard, bool lookups);

/* S: logits of the shard, their local softmax into p, its statistics into stats. dx: NULL (algorithm 1), or what the input
 * gradient needs of this shard (algorithm 2). */
void qn_vocab_scores(qn_stage *side, const qn_mb *mb, void *p, void *stats, void *dx, const void *x);
/* T: the weight gradient is added to, unless frozen; dx: the shard's part of the input gradient (algorithm 1), or NULL. stats
 * [n t]: of all shards. The item's loss is added to *mb->loss unless it is NULL. Uses p up. */
void qn_vocab_gradients(qn_stage *side, const qn_mb *mb, void *dx, void *p, const void *x, const void *const *stats);
/* The item's loss alone, added to *mb->loss. */
void qn_vocab_loss(const qn_stage *side, const qn_mb *mb, const void *const *stats);
/* The shard's look-ups, zeros for the tokens of others; and their gradient, added to the table's unless frozen. */
void qn_vocab_lookup(qn_stage *side, const qn_mb *mb, void *part);
void qn_vocab_scatter(qn_stage *side, const qn_mb *mb, const void *dpart);

/* On the chain. x [R, C] res = the sum of the shards' look-ups, part [n]: one of them is not zero in each row, so it is exact.
 * (Of a tensor shard, where no look-up is its own, zeros.) */
void qn_vocab_input(const qn_stage *first, const qn_mb *mb, void *x, const void *const *part);
/* dy [R, C] res of the last stage, folded in shard order. dx [n]; stats [n t] with algorithm 2, else NULL. */
void qn_vocab_join(const qn_stage *last, const qn_mb *mb, void *dy, const void *const *dx, const void *const *stats);

#endif
