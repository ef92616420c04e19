/* Orders with vocabulary shards (Yeung et al. 2024, arXiv:2411.05288). Private to gen/.
 *
 * The chain's stages come first, shard k is stage chain + k on worker k mod P. A V pass j of a worker is VT of item j - 1 and VS
 * of item j, of each of its shards; there are M + 1 of them. */
#ifndef QN_SCHEDULE_VOCAB_PARTS_H
#define QN_SCHEDULE_VOCAB_PARTS_H

#include "schedule/ir.h"

/* By name: 1f1b and v-half. The pattern was checked for the plain schedule. Errors: QN_EINVAL (another name, an algorithm other
 * than 1 and 2, a number of shards), QN_ENOMEM. */
qn_status qni_generate_vocab(qn_order **out, const char *name, const qn_pattern *pat, qn_err *err) QN_MUST_USE;

/* Slots of 1F1B (vocab_1f1b.c): per worker whether its steady state runs B, V, F (else B, F, V), and how many V passes stand
 * before its first B. flag, warm [P]. */
void qni_vocab_slots(bool *flag, int32_t *warm, int32_t P, int64_t f, int64_t b);
/* Both fill an order of P + shards stages with F, BW, VS and VT. list: by list scheduling, for any costs. */
void qni_vocab_1f1b(qn_order *o, const qn_pattern *pat);
qn_status qni_vocab_list(qn_order *o, const qn_pattern *pat, qn_err *err) QN_MUST_USE;

/* Tasks that are added to an order at the simulated times of its tasks (vocab_place.c). */
/* V passes into an order of the chain alone: VS of an item once its last forward is done, VT one interval later, before its first
 * backward. */
qn_status qni_vocab_add_passes(qn_order **out, const qn_order *chain, const qn_pattern *pat, qn_err *err) QN_MUST_USE;
/* VI one item ahead of the first stage's forward, VJ a message after its backward. */
qn_status qni_vocab_add_inputs(qn_order **out, const qn_order *o, const qn_pattern *pat, qn_err *err) QN_MUST_USE;

/* One V pass of worker r: items 0 .. M - 1 exist. */
void qni_vocab_pass(qn_order *o, int32_t r, int32_t j);

#endif
