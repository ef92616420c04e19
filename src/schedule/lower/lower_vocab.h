/* Side stages in a plan: what lower_vocab.c adds to the passes of lowering. Private to lower*.c. */
#ifndef QN_SCHEDULE_LOWER_VOCAB_H
#define QN_SCHEDULE_LOWER_VOCAB_H

#include "lower.h"

/* Values and channels of the side stages. Errors: QN_ENOMEM. fini accepts NULL. */
qn_status qni_vocab_values(qni_lower *l, qn_err *err) QN_MUST_USE;
void qni_vocab_fini(struct qni_vocab *v);
/* Whether a forward-only plan has that task: F, VI, VS, and VT of the last shard, for the loss. */
bool qni_lower_forward_task(const qn_order *o, const qn_order_task *t);
/* A task of a side stage at the end of its worker's comp lane. */
void qni_vocab_task(qni_lower *l, const qn_order_task *t, int32_t worker);
/* What task t of the chain's first or last stage reads and writes besides. */
void qni_vocab_forward(qni_lower *l, int32_t t, int32_t stage, int32_t item);
void qni_vocab_recompute(qni_lower *l, int32_t t, int32_t stage, int32_t item);
void qni_vocab_backward(qni_lower *l, int32_t t, int32_t op, int32_t stage, int32_t item);
/* The accumulators of the look-ups on worker w: read by task t (NORM, OPT). side: of this stage alone, or QN_NONE: all. */
void qni_vocab_pgrads(qni_lower *l, int32_t t, int32_t worker, int32_t side);

#endif
