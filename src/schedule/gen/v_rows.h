/* Rows of a V schedule re-formed from a repeated building block: what the adaptive search of arXiv:2405.15362 does to each of its
 * candidates. Shared by v_adaptive.c and v_zb.c; private to gen/. */
#ifndef QN_SCHEDULE_V_ROWS_H
#define QN_SCHEDULE_V_ROWS_H

#include "schedule/gen/v_block.h"

typedef struct qni_v_rows qni_v_rows;

/* Rows of P workers for up to `items` micro-batches, as many as the search repeats a block: at least 2P. Errors: QN_ENOMEM. */
qn_status qni_v_rows_open(qni_v_rows **out, int32_t workers, int32_t items, qn_err *err) QN_MUST_USE;
void qni_v_rows_close(qni_v_rows *r);

/* Repeats the block ([workers]) for all items, re-forms it and trims it to `items`; as often as one likes. limit: stashes that a
 * worker may hold. False where the block does not come to a schedule within the limit; then only the peak may be asked for. */
bool qni_v_rows_build(qni_v_rows *r, const qni_block *block, int32_t items, int32_t limit);
int64_t qni_v_rows_span(const qni_v_rows *r); /* slots from a worker's first to its last, the longest */
int32_t qni_v_rows_peak(const qni_v_rows *r); /* stashes at once, the most of all workers */
/* Makespan of the rows as lists whose tasks run as soon as they can, with the pattern's costs of F, B, W and of a message. After
 * a build that came to a schedule; until the next one. */
int64_t qni_v_rows_time(qni_v_rows *r, const qn_pattern *pat);
/* Items that the order does not have are dropped. */
void qni_v_rows_emit(qn_order *o, const qni_v_rows *r);

/* The shortest schedule of all blocks for `items` micro-batches that holds no more than `limit` stashes (v_adaptive.c). pat:
 * shortest by its costs; NULL: by slots, all passes being of one length. Places the order's stages in a V and fills it. Errors:
 * QN_EINVAL (nothing fits; says what would), QN_ENOMEM. */
qn_status qni_gen_v_search(qn_order *o, int32_t items, const qn_pattern *pat, int32_t limit, qn_err *err) QN_MUST_USE;

#endif
