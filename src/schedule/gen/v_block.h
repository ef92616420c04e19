/* Schedules from a repeated building block (arXiv:2405.15362, section 3): the start slots of one micro-batch's passes on each
 * worker, repeated every six slots; then squeezed and reordered. Shared by v_min.c, v_half.c and vocab_parallel.c; private to
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

/* Places the order's stages in a V and fills it. Errors: QN_ENOMEM. */
qn_status qni_gen_v_block(qn_order *o, const qn_pattern *pat, qni_block_fn *block, qn_err *err) QN_MUST_USE;

#endif
