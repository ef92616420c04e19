/* See gen_parts.h. */
#include "schedule/gen/gen_parts.h"

#include "core/checked.h"

void qni_gen_hand_split(qn_order *o, const qn_pattern *pat, int32_t deep)
{
    const int32_t P = pat->workers, M = pat->items;
    for (int32_t r = 0; r < P; r++) {
        const int32_t warm = qn_min32(deep * (P - 1 - r), M), late = deep * r;
        int32_t f = 0, w = 0;
        while (f < warm) qn_order_push(o, r, QN_OP_F, r, f++);
        for (int32_t b = 0; b < M; b++) {
            if (f < M) qn_order_push(o, r, QN_OP_F, r, f++);
            qn_order_push(o, r, QN_OP_B, r, b);
            if (b >= late) qn_order_push(o, r, QN_OP_W, r, w++);
        }
        while (w < M) qn_order_push(o, r, QN_OP_W, r, w++);
    }
}

void qni_gen_place_v(qn_order *o)
{
    for (int32_t s = 0; s < o->stages; s++) o->worker_of[s] = s < o->workers ? s : o->stages - 1 - s;
}
