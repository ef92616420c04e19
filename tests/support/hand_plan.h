/* A forward chain made by hand, without the schedule module: P workers, M items, two slots per kind of value on each worker.
 *
 *   worker w:  RECV i -> F i -> SEND i;  RECV i after F i-2 (slot of the input), F i after SEND i-2 (slot of the output)
 *
 * With one worker the chain has no messages. */
#ifndef QN_TEST_HAND_PLAN_H
#define QN_TEST_HAND_PLAN_H

#include <stdlib.h>

#include "schedule/ir.h"

typedef struct hand_plan {
    qn_plan plan;
    int32_t refs_cap;
} hand_plan;

static qn_span hand_ref(hand_plan *h, int32_t n, const int32_t *id)
{
    const qn_span s = {.first = h->plan.refs, .count = n};
    for (int32_t i = 0; i < n; i++) h->plan.ref[h->plan.refs++] = id[i];
    return s;
}

/* ids of values: input of worker w, item i; output of worker w, item i */
static int32_t hand_in(const hand_plan *h, int32_t w, int32_t i)
{
    return (2 * w) * h->plan.items + i;
}
static int32_t hand_out(const hand_plan *h, int32_t w, int32_t i)
{
    return (2 * w + 1) * h->plan.items + i;
}
/* ids of tasks: lane l of worker w; lanes that an end of the chain lacks are empty */
static int32_t hand_task(const hand_plan *h, int32_t w, qn_lane l, int32_t i)
{
    return h->plan.lane[w][l][0] + i;
}

static void hand_fill(hand_plan *h, int32_t w, int32_t i)
{
    qn_plan *p = &h->plan;
    const int32_t in = hand_in(h, w, i), out = hand_out(h, w, i);
    const int32_t f = hand_task(h, w, QN_LANE_COMP, i), s = hand_task(h, w, QN_LANE_SEND, i),
                  r = hand_task(h, w, QN_LANE_RECV, i);
    const bool has_in = w > 0, has_out = w + 1 < p->workers;
    int32_t wait[2], n = 0;
    if (has_in) wait[n++] = r;
    if (has_out && i >= 2) wait[n++] = s - 2;
    p->task[f] = (qn_task){.op = QN_OP_F, .stage = w, .item = i, .worker = w, .lane = QN_LANE_COMP, .channel = QN_NONE};
    p->task[f].in = hand_ref(h, has_in, &in);
    p->task[f].out = hand_ref(h, has_out, &out);
    p->task[f].free = hand_ref(h, has_in, &in);
    p->task[f].wait = hand_ref(h, n, wait);
    if (has_out) {
        p->task[s] = (qn_task){
            .op = QN_OP_SEND, .stage = w + 1, .item = i, .worker = w, .lane = QN_LANE_SEND, .channel = w, .tag = (uint64_t)i};
        p->task[s].in = p->task[s].free = hand_ref(h, 1, &out);
        p->task[s].wait = hand_ref(h, 1, &f);
    }
    if (has_in) {
        const int32_t before = f - 2;
        p->task[r] = (qn_task){
            .op = QN_OP_RECV, .stage = w, .item = i, .worker = w, .lane = QN_LANE_RECV, .channel = w - 1, .tag = (uint64_t)i};
        p->task[r].out = hand_ref(h, 1, &in);
        p->task[r].wait = hand_ref(h, i >= 2, &before);
    }
}

static qn_plan *hand_chain(hand_plan *h, int32_t workers, int32_t items, int64_t bytes, int64_t slot_bytes, int32_t depth)
{
    qn_plan *p = &h->plan;
    const size_t W = (size_t)workers, M = (size_t)items;
    *p = (qn_plan){.steps = 1,
                   .workers = workers,
                   .stages = workers,
                   .items = items,
                   .values = 2 * workers * items,
                   .channels = workers - 1};
    p->worker_of = calloc(W, sizeof(*p->worker_of));
    p->task = calloc(3 * W * M, sizeof(*p->task));
    p->lane = calloc(W, sizeof(*p->lane));
    p->value = calloc(2 * W * M, sizeof(*p->value));
    p->channel = calloc(W, sizeof(*p->channel));
    p->ref = calloc(16 * W * M, sizeof(*p->ref));
    p->arena_bytes = calloc(W, sizeof(*p->arena_bytes));
    p->arena_limit = calloc(W, sizeof(*p->arena_limit));
    for (int32_t w = 0; w < workers; w++) {
        p->worker_of[w] = w;
        p->arena_bytes[w] = 4 * bytes;
        p->arena_limit[w] = INT64_MAX;
        for (int l = 0; l < QN_LANES; l++) {
            const bool empty = l > QN_LANE_RECV || (l == QN_LANE_SEND && w + 1 == workers) || (l == QN_LANE_RECV && w == 0);
            p->lane[w][l][0] = p->tasks;
            p->lane[w][l][1] = empty ? 0 : items;
            p->tasks += p->lane[w][l][1];
        }
        for (int32_t i = 0; i < items; i++) {
            p->value[hand_in(h, w, i)] =
                (qn_value){.cls = QN_V_ACT, .stage = w, .item = i, .worker = w, .bytes = bytes, .offset = i % 2 * bytes};
            p->value[hand_out(h, w, i)] = (qn_value){
                .cls = QN_V_ACT, .stage = w + 1, .item = i, .worker = w, .bytes = bytes, .offset = (2 + i % 2) * bytes};
        }
        if (w + 1 < workers)
            p->channel[w] =
                (qn_channel){.from = w, .to = w + 1, .cls = QN_V_ACT, .edge = w + 1, .depth = depth, .slot_bytes = slot_bytes};
    }
    for (int32_t w = 0; w < workers; w++)
        for (int32_t i = 0; i < items; i++) hand_fill(h, w, i);
    return p;
}

static void hand_free(hand_plan *h)
{
    free(h->plan.worker_of);
    free(h->plan.task);
    free(h->plan.lane);
    free(h->plan.value);
    free(h->plan.channel);
    free(h->plan.ref);
    free(h->plan.arena_bytes);
    free(h->plan.arena_limit);
}

#endif
