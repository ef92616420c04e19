/* Untimed execution: lanes move tokens until nothing moves. Shares nothing with the validator's graph, which it judges. Messages
 * travel slot by slot, as the runtime moves them. */
#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/schedule_internal.h"
#include "schedule/trace.h"

typedef struct channel_state {
    int64_t pushed, popped;   /* slots */
    int32_t sender, receiver; /* tasks at the heads of their lanes that are in progress, or QN_NONE */
} channel_state;

typedef struct game {
    const qn_plan *p;
    bool *done;
    int64_t *moved; /* [tasks]: slots of this message that went through */
    channel_state *channel;
    int32_t (*head)[QN_LANES];
    bool *together; /* [sets] has begun */
    int32_t depth;
} game;

static bool ready(const game *g, int32_t t)
{
    const qn_span w = g->p->task[t].wait;
    for (int32_t i = 0; i < w.count; i++) {
        if (!g->done[g->p->ref[w.first + i]]) return false;
    }
    return true;
}

/* Is a member of t's joint set on stage at hand: reached by its lane but for other members, and ready? */
static bool at_hand(const game *g, int32_t t, int32_t stage)
{
    const qn_plan *p = g->p;
    const int32_t w = p->task[t].op == QN_OP_F || p->task[t].op == QN_OP_JOIN
                          ? p->worker_of[stage]
                          : qn_backward_worker(p->worker_of, p->backward_of, stage);
    const int32_t first = p->lane[w][QN_LANE_COMP][0], count = p->lane[w][QN_LANE_COMP][1];
    for (int32_t i = g->head[w][QN_LANE_COMP]; i < count; i++) {
        const qn_task *x = &p->task[first + i];
        if (!qn_tasks_joint(p, first + i, t) || !ready(g, first + i)) return false;
        if (x->stage == stage) return true;
    }
    return false;
}

/* A joint task begins when all members are at hand; the others follow. */
static bool joint_begins(const game *g, int32_t t)
{
    const qn_plan *p = g->p;
    const qn_grid grid = qn_plan_grid(p);
    const qn_task *x = &p->task[t];
    if (p->shards < 2 || !qni_is_joint(x->op)) return true;
    const int32_t shard0 = x->stage - qn_shard(grid, x->stage) * qn_column_stages(grid);
    bool *begun = &g->together[qni_joint_set(p, x)];
    for (int32_t k = 0; k < p->shards && !*begun; k++)
        if (!at_hand(g, t, shard0 + k * qn_column_stages(grid))) return false;
    *begun = true;
    return true;
}

static int64_t slots_of(const game *g, int32_t t)
{
    const qn_task *task = &g->p->task[t];
    const qn_span s = task->op == QN_OP_SEND ? task->in : task->out;
    const int64_t slot = g->p->channel[task->channel].slot_bytes;
    if (s.count < 1 || slot < 1) return 1;
    int64_t first;
    const int64_t bytes = qn_channel_carries(&g->p->channel[task->channel], g->p->value[g->p->ref[s.first]].bytes, &first);
    return qn_max64(1, bytes / slot + (bytes % slot != 0));
}

/* One slot of a message, if it can move. Returns whether it did. */
static bool move_slot(game *g, int32_t t)
{
    const qn_task *task = &g->p->task[t];
    channel_state *c = &g->channel[task->channel];
    const int32_t depth = g->depth != 0 ? g->depth : g->p->channel[task->channel].depth;
    if (task->op == QN_OP_SEND) {
        c->sender = t;
        if (depth == 0) { /* rendezvous: goes over when both are there */
            if (c->receiver == QN_NONE) return false;
            g->moved[t]++;
            if (++g->moved[c->receiver] >= slots_of(g, c->receiver)) c->receiver = QN_NONE;
            return true;
        }
        if (c->pushed - c->popped >= depth) return false;
        c->pushed++;
    } else {
        c->receiver = t;
        if (depth == 0 || c->pushed == c->popped) return false;
        c->popped++;
    }
    g->moved[t]++;
    return true;
}

/* Advances the head of a lane by one step. */
static bool step(game *g, int32_t w, int32_t lane)
{
    const qn_plan *p = g->p;
    int32_t *head = &g->head[w][lane];
    if (*head == p->lane[w][lane][1]) return false;
    const int32_t t = p->lane[w][lane][0] + *head;
    if (!ready(g, t) || !joint_begins(g, t)) return false;
    const qn_task *task = &p->task[t];
    if (task->channel >= 0 && task->channel < p->channels && (task->op == QN_OP_SEND || task->op == QN_OP_RECV)) {
        channel_state *c = &g->channel[task->channel];
        const int64_t all = slots_of(g, t);
        const bool moved = g->moved[t] < all && move_slot(g, t);
        if (g->moved[t] < all) return moved;
        if (c->sender == t) c->sender = QN_NONE;
        if (c->receiver == t) c->receiver = QN_NONE;
    }
    g->done[t] = true;
    (*head)++;
    return true;
}

bool qn_token_game(const qn_plan *p, int32_t depth)
{
    game g = {.p = p, .depth = depth};
    int32_t finished = 0;
    bool moved = true, all = false;
    g.done = qn_calloc((size_t)p->tasks, sizeof *g.done);
    g.moved = qn_calloc((size_t)p->tasks, sizeof *g.moved);
    g.channel = qn_calloc((size_t)p->channels, sizeof *g.channel);
    g.head = qn_calloc((size_t)p->workers, sizeof *g.head);
    g.together = qn_calloc(p->shards < 2 ? 1 : qni_joint_sets(p), sizeof *g.together);
    if (g.done == NULL || g.moved == NULL || g.channel == NULL || g.head == NULL || g.together == NULL) goto out;
    for (int32_t c = 0; c < p->channels; c++) g.channel[c].sender = g.channel[c].receiver = QN_NONE;
    while (moved) {
        moved = false;
        for (int32_t w = 0; w < p->workers; w++) {
            for (int32_t l = 0; l < QN_LANES; l++) {
                while (step(&g, w, l)) moved = true;
            }
        }
    }
    for (int32_t t = 0; t < p->tasks; t++) finished += g.done[t];
    all = finished == p->tasks;
out:
    qn_free(g.done);
    qn_free(g.moved);
    qn_free(g.channel);
    qn_free(g.head);
    qn_free(g.together);
    return all;
}
