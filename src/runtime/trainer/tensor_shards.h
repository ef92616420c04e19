/* Tensor shards at run time: runs joint tasks, and the meetings of their shards. Internal to src/runtime.
 *
 *   worker 0: shards 0, 1                                        worker 1: shards 2, 3
 *   pass 0 .. meets, pass 1 .. meets                             pass 2 .. meets, pass 3 .. meets
 *   scatter: slices 2, 3 of what 0 and 1 have --- part channel ---> slices 0, 1 of what 2 and 3 have, the other way
 *            fold slices 0, 1: ((0 + 1) + (2 + 3))                fold slices 2, 3: ((0 + 1) + (2 + 3))
 *   gather:  sums of slices 0, 1 ---------------- part channel ---> sums of slices 2, 3, the other way
 *   pass 0 goes on, pass 1 goes on                               ...
 *
 * The members of a joint set that stand on one worker run together when the last of them is called, each until its next meeting.
 * A sum (QN_MEET_SUM) is a scatter, then a gather; either also comes alone. Shard k owns slice k: its worker folds what all
 * shards contribute to it. Contributions travel raw and are folded in the one tree of qn_shard_sum: the same bits for any
 * placement of the shards. With a worker for each of t shards a worker sends 2 (t - 1) / t of the numbers of a sum. A task that
 * has to wait says QN_EAGAIN; nothing is allocated, and no memory is needed beside the slots.
 *
 * Where shards of a stage receive one slice each (scatter/gather on the link between stages), they meet once before their passes
 * and hand on what they have, in the same way.
 *
 * Deadlock: all workers run joint sets in one order (the plan's validator sees to it), meetings within a set in the order of its
 * operations, phases within a meeting, and pieces within a phase in theirs; a piece is sent before one is waited for.
 *
 * Paper: Narayanan et al. 2021, arXiv:2104.04473, section 2.3. */
#ifndef QN_RUNTIME_TENSOR_SHARDS_H
#define QN_RUNTIME_TENSOR_SHARDS_H

#include "runtime/executor/executor.h"
#include "runtime/stage_set.h"

typedef struct qni_joint qni_joint;

typedef struct qni_shards {
    const qn_plan *plan; /* borrowed */
    qn_stage_set *set;
    const qn_exec *exec; /* [workers]; on devices theirs, else the set's */
    int32_t *channel;    /* [workers * workers] from, to: of class PART, or QN_NONE */
    qni_joint **joint;   /* [workers] what a worker runs now */
    int64_t *sums;       /* [workers] how often its shards met, over all steps */
    int64_t *sent;       /* [workers] bytes it sent to other workers */
    bool *gather;        /* [values] arrives as one slice per shard: the task that reads it first makes it whole */
} qni_shards;

/* Bytes of a slot of the part channels, for sums of up to `bytes` over t shards. */
int64_t qni_part_bytes(int64_t bytes, int32_t shards);

/* The plan must have been lowered with part_bytes when two workers share a stage. Errors: QN_ENOMEM, QN_EINVAL (a plan without
 * these channels). fini accepts zeroes. */
qn_status qni_shards_init(qni_shards *s, const qn_plan *plan, qn_stage_set *set, qn_err *err) QN_MUST_USE;
void qni_shards_fini(qni_shards *s);
/* Before every step: what the last one left unfinished is forgotten. */
void qni_shards_reset(qni_shards *s);

/* The pass of one task; mb: where its micro-batch may be kept until it ends. */
typedef qn_pass qni_pass_of(void *ctx, qn_executor *ex, int32_t task, qn_mb *mb);
/* Runs an F, R, B, W or BW of the plan, for fns.run: nothing but for the last member on this worker. Errors: QN_EAGAIN,
 * QN_EINTERNAL (another worker sent what does not belong here). */
qn_status qni_shards_run(qni_shards *s, qn_executor *ex, int32_t task, qni_pass_of *make, void *ctx, qn_err *err);

/* Runs a JOIN: array is asked for the arrays of each member in turn, 0, 1, .. (alike in all members: *count numbers of the
 * parameters' type) until it gives NULL; each becomes the sum over the shards. Errors: as qni_shards_run. */
typedef void *qni_join_array(void *ctx, int32_t task, int32_t index, int64_t *count);
qn_status qni_shards_join(qni_shards *s, qn_executor *ex, int32_t task, qni_join_array *array, void *ctx, qn_err *err);

#endif
