/* The way back from a plan to an order: the compute tasks of each worker in the sequence of its compute lane. */
#include "ir.h"

static bool is_compute(int32_t op)
{
    return op == QN_OP_F || op == QN_OP_B || op == QN_OP_W || op == QN_OP_BW || op == QN_OP_R ||
           (op >= QN_OP_VI && op <= QN_OP_VJ);
}

qn_status qn_plan_order(qn_order **out, const qn_plan *p, qn_err *err)
{
    qn_order *o = NULL;
    qn_status st;
    QN_TRY(st, qn_order_open(&o, p->workers, p->stages, p->items, err), out);
    o->columns = p->columns;
    o->shards = p->shards;
    o->sides = p->sides;
    o->vocab = p->vocab;
    o->round = p->round;
    o->turn = p->turn;
    for (int32_t s = 0; s < p->stages; s++) o->worker_of[s] = p->worker_of[s];
    if (p->backward_of != NULL) QN_TRY(st, qn_order_split_backward(o, err), out);
    for (int32_t s = 0; p->backward_of != NULL && s < p->stages; s++) o->backward_of[s] = p->backward_of[s];
    for (int32_t w = 0; w < p->workers; w++) {
        const int32_t first = p->lane[w][QN_LANE_COMP][0], count = p->lane[w][QN_LANE_COMP][1];
        for (int32_t i = first; i < first + count; i++) {
            const qn_task *t = &p->task[i];
            if (is_compute(t->op) && t->step == 0) qn_order_push(o, w, (qn_op)t->op, t->stage, t->item);
        }
    }
    QN_TRY(st, qn_order_done(o, err), out);
    *out = o;
    o = NULL;
out:
    qn_order_close(o);
    return st;
}
