/* The tasks of a plan with vocabulary shards (model/vocab.h), for training and evaluation. Internal to src/runtime.
 *
 * A task finds its memory by class and stage of the values in its spans; what several shards sent is taken in shard order. */
#ifndef QN_RUNTIME_VOCAB_TASKS_H
#define QN_RUNTIME_VOCAB_TASKS_H

#include "runtime/executor/executor.h"
#include "runtime/stage_set.h"

/* Cuts of a column, chain and shards: [stages of a column + 1] from the chain's [depth + 1]; one layer for each shard. Errors:
 * QN_ENOMEM. *out is freed with qn_free. */
qn_status qni_vocab_cuts(int32_t **out, const int32_t *first_layer, const qn_order *o, const qn_model *m,
                         qn_err *err) QN_MUST_USE;
/* Fills the sizes that lowering asks for; stash [stages], of whole columns: the shards' probabilities. rows: the most of an item.
 */
void qni_vocab_sizes(qn_lowering *how, int64_t *stash, int32_t stages, const qn_stage_set *s, int64_t rows, int32_t algorithm);
/* Bytes of a value for an item of so many rows. */
size_t qni_vocab_actual(const qn_stage_set *s, const qn_plan *p, const qn_value *v, int64_t rows);

/* What a task of the chain reads and writes at its stage's two ends. With vocabulary shards the chain's own ends are folded here
 * from what the shards sent: the first stage's x by F, the last one's dy by B or BW. NULL: nothing. */
typedef struct qni_ports {
    const void *x, *dy;
    void *y, *dx;
} qni_ports;
qni_ports qni_vocab_ports(const qn_stage *stage, const qn_plan *p, qn_executor *ex, const qn_task *task, const qn_mb *mb);
/* One VI, VS, VT or VJ. The last shard adds the item's loss up. */
void qni_vocab_side_task(const qn_stage_set *s, const qn_plan *p, qn_executor *ex, const qn_task *task, const qn_mb *mb);
/* Does the worker need tokens and targets: has it a shard, or an end of the chain? Also without shards. */
bool qni_vocab_reads(const qn_plan *p, int32_t worker);

#endif
