/* RoundPipe, arXiv:2604.27085: stages go round a pool of workers that keep no state, forward and backward cut differently. The
 * order is over pieces, the layers that both cuts leave whole: a stage is a run of neighbouring pieces. */
#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/gen/gen.h"
#include "schedule/round/round_pipe.h"

/* The slots of pieces, cut for the pattern's costs, of each piece where they are known. slot [2 * pieces]: forward, then
 * backward.
 */
static qn_status cut_by_cost(int32_t *slot, int32_t pieces, const qn_pattern *pat, qn_err *err)
{
    const int64_t F = qn_max64(pat->cost[QN_OP_F], 1), R = pat->cost[QN_OP_R] > 0 ? pat->cost[QN_OP_R] : F;
    const int64_t split = qn_max64(pat->cost[QN_OP_B], 1) + qn_max64(pat->cost[QN_OP_W], 1);
    const int64_t time[] = {F, R, pat->cost[QN_OP_BW] > 0 ? pat->cost[QN_OP_BW] : split};
    const size_t n = (size_t)pieces;
    qn_status st = QN_OK;
    int64_t *cost = qn_malloc(3 * n, sizeof *cost);
    int32_t *room = qn_malloc(3 * n + 1, sizeof *room);
    if (cost == NULL || room == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "cuts of %d pieces", pieces);
        goto out;
    }
    static const qn_op op[] = {QN_OP_F, QN_OP_R, QN_OP_BW};
    for (size_t i = 0; i < 3 * n; i++)
        cost[i] = pat->stage_cost != NULL ? qn_max64(pat->stage_cost[i % n][op[i / n]], 1) : time[i / n];
    const qn_round_layers in = {.layers = pieces,
                                .workers = pat->workers,
                                .items = pat->items,
                                .forward = cost,
                                .recompute = cost + n,
                                .backward = cost + 2 * n,
                                .hop = pat->cost[QN_OP_SEND]};
    qn_round_cut cut = {.forward = room, .backward = room + n};
    QN_TRY(st, qn_round_partition(&cut, NULL, &in, err), out);
    const int32_t whole = qn_round_pieces(room + 2 * n, slot, slot + n, &cut);
    for (int32_t i = pieces - 1, p = whole - 1; i >= 0; i--) { /* the cuts' pieces back to those of the order */
        while (room[2 * n + (size_t)p] > i) p--;
        slot[i] = slot[p];
        slot[n + (size_t)i] = slot[n + (size_t)p];
    }
out:
    qn_free(room);
    qn_free(cost);
    return st;
}

/* Slots from outside: forward ones ascend with the pieces, backward ones descend, and they are equal in the fused stage, which is
 * the last of the forward and the first of the backward. */
static qn_status check_slots(const int32_t *forward, const int32_t *backward, int32_t pieces, qn_err *err)
{
    const int32_t fused = forward[pieces - 1];
    for (int32_t p = 0; p < pieces; p++) {
        const bool ordered = p == 0 || (forward[p] >= forward[p - 1] && backward[p] <= backward[p - 1]);
        if (forward[p] >= 0 && ordered && forward[p] <= fused &&
            (forward[p] == fused ? backward[p] == fused : backward[p] > fused))
            continue;
        return QN_FAIL(
            err, QN_EINVAL,
            "roundpipe: piece %d has its forward in slot %d and its backward in slot %d; forward slots ascend to the fused "
            "one (%d), backward slots descend to it",
            p, forward[p], backward[p], fused);
    }
    return QN_OK;
}

/* The pieces first to last of one slot, for all items of a round, on worker w. */
static void push_slot(qn_order *o, const int32_t *forward, const int32_t *backward, int32_t slot, int32_t round, int32_t w)
{
    const int32_t from = round * o->round, to = o->round > 0 ? qn_min32(from + o->round, o->items) : o->items;
    int32_t first = 0;
    while (first < o->stages && forward[first] != slot && backward[first] != slot) first++;
    int32_t end = first;
    while (end < o->stages && (forward[end] == slot || backward[end] == slot)) end++;
    for (int32_t i = from; first < end && i < to; i++) {
        const bool runs_forward = forward[first] == slot, runs_backward = backward[first] == slot;
        for (int32_t s = first; s < end; s++) qn_order_push(o, w, runs_forward ? QN_OP_F : QN_OP_R, s, i);
        for (int32_t s = end; runs_backward && s-- > first;) qn_order_push(o, w, QN_OP_BW, s, i);
    }
}

/* Pattern: workers P, items M (any), pieces (or P * v equal ones) with the slots of their forward and backward, items of a round
 * (group; 0: all, one call of the library). Slot i of a round goes to worker (g0 + i) mod P, which runs it for all items of the
 * round; in the fused stage F and BW follow each other, elsewhere an R comes before the BW. After a round of S slots g0 goes on
 * by S, from step to step too. The paper has M_R >= N items in all rounds alike; that the last may have fewer is inferred. */
qn_status qn_gen_roundpipe(qn_order *o, const qn_pattern *pat, qn_err *err)
{
    const size_t n = (size_t)o->stages;
    qn_status st = QN_OK;
    int32_t *slot = qn_malloc(2 * n, sizeof *slot), slots = 0;
    if (slot == NULL) return QN_FAIL(err, QN_ENOMEM, "slots of %d pieces", o->stages);
    if (pat->forward_slot == NULL || pat->backward_slot == NULL) QN_TRY(st, cut_by_cost(slot, o->stages, pat, err), out);
    QN_TRY(st, qn_order_split_backward(o, err), out);
    for (size_t s = 0; s < n && pat->forward_slot != NULL && pat->backward_slot != NULL; s++) {
        slot[s] = pat->forward_slot[s];
        slot[n + s] = pat->backward_slot[s];
    }
    QN_TRY(st, check_slots(slot, slot + n, o->stages, err), out);
    for (size_t s = 0; s < n; s++) {
        o->worker_of[s] = slot[s] % o->workers;
        o->backward_of[s] = slot[n + s] % o->workers;
        slots = qn_max32(slots, qn_max32(slot[s], slot[n + s]) + 1);
    }
    o->turn = slots % o->workers;
    o->round = pat->group > 0 && pat->group < o->items ? pat->group : 0;
    for (int32_t r = 0; r < qn_rounds(o->items, o->round); r++)
        for (int32_t i = 0; i < slots; i++) push_slot(o, slot, slot + n, i, r, qn_turned(i % o->workers, o->workers, o->turn, r));
    st = qn_order_done(o, err);
out:
    qn_free(slot);
    return st;
}
