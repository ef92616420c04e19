/* What several generators build with. Private to gen/. */
#ifndef QN_SCHEDULE_GEN_PARTS_H
#define QN_SCHEDULE_GEN_PARTS_H

#include "schedule/ir.h"

/* ZB-H1 (deep 1) and ZB-H2 (deep 2): deep * (P - 1 - r) forwards, then F and B in turn, and once more than deep * r items have
 * their B, the oldest W after each B. */
void qni_gen_hand_split(qn_order *o, const qn_pattern *pat, int32_t deep);

/* V placement: two stages per worker, s and 2P - 1 - s, so that the model turns round on the last worker. */
void qni_gen_place_v(qn_order *o);

/* The eight steps of DualPipeV's worker of rank r of `ranks`, for stages near the end (0) and far from it (1), whose items count
 * from first_item; items each. */
void qni_gen_dual_row(qn_order *o, int32_t worker, int32_t r, int32_t ranks, int32_t items, const int32_t stage[2],
                      const int32_t first_item[2]);

#endif
