/* Where RoundPipe (arXiv:2604.27085) cuts a model: the partitioner's stages from what layers cost and weigh. Internal to
 * src/session. */
#ifndef QN_SESSION_ROUND_CUT_H
#define QN_SESSION_ROUND_CUT_H

#include "model/model.h"
#include "session/schedules/schedule_costs.h"

typedef struct qni_round_wish {
    const qn_model *model;
    int64_t samples, T;     /* of a micro-batch */
    int64_t memory;         /* bytes of each device; 0: no limit */
    const qni_costs *costs; /* measured ones: of each layer where there are as many rows, else the whole's, spread over the layers
                               by their operations; NULL: operations alone */
} qni_round_wish;

/* The pieces that the cuts leave whole: pat->pieces of them, first_layer [layers + 1], and their slots in room [2 * layers],
 * which pat points at from then on. pat: workers and items are read. Errors: QN_ENOMEM, those of qn_round_partition. */
qn_status qni_round_cut(qn_pattern *pat, int32_t *first_layer, int32_t *room, const qni_round_wish *w, qn_err *err) QN_MUST_USE;

#endif
