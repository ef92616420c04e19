/* Schedules from a repeated building block (arXiv:2405.15362, section 3): the start slots of one micro-batch's passes on each
 * worker, repeated every six slots; then squeezed and reordered. Shared by v_min.c, v_half.c, v_zb.c and v_adaptive.c; private to
 * gen/. */
#ifndef QN_SCHEDULE_V_BLOCK_H
#define QN_SCHEDULE_V_BLOCK_H

#include "schedule/ir.h"

/* Slots of worker i of P: F of chunk 0, F of chunk 1, B of chunk 1, B of chunk 0. No two are equal modulo 6. */
typedef struct qni_block {
    int32_t f0, f1, b1, b0;
} qni_block;
typedef qni_block qni_block_fn(int32_t i, int32_t P);

/* V-Half's block (v_half.c). */
qni_block_fn qni_v_half_block;

/* A table of slots: the block of every item, squeezed and reordered. longest: the last slot of a block. Errors: QN_ENOMEM. */
typedef struct qni_v_table qni_v_table;
qn_status qni_v_open(qni_v_table **out, int32_t workers, int32_t items, int32_t longest, qn_err *err) QN_MUST_USE;
void qni_v_close(qni_v_table *t);
/* block: [workers]; as often as one likes. limit: stashes that reordering may come to where the block's own peak is lower.
 * early: F of the steady phase may fill what is idle before a worker's first B. */
void qni_v_build(qni_v_table *t, const qni_block *block, int32_t limit, bool early);
int64_t qni_v_span(const qni_v_table *t); /* slots from a worker's first to its last, the longest */
int32_t qni_v_peak(const qni_v_table *t); /* stashes at once, the most of all workers */
/* Items that the order does not have are dropped. Stages are placed in a V already. */
void qni_v_emit(qn_order *o, const qni_v_table *t);

/* Places the order's stages in a V and fills it. Errors: QN_ENOMEM. */
qn_status qni_gen_v_block(qn_order *o, const qn_pattern *pat, qni_block_fn *block, qn_err *err) QN_MUST_USE;

#endif
