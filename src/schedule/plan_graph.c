/* The graph of a plan: who must be complete before whom.
 *
 *   lane      task i -> task i + 1 of the same lane
 *   wait      a task of another lane of the same worker -> the task
 *   message   j-th SEND of a channel -> j-th RECV
 *   capacity  j-th RECV -> (j + c)-th SEND, c whole messages fit in the channel; c = 0: the pair is one node
 *   joint     the tasks of one op and item on all shards of a stage are one node
 *
 * Tasks make no choices, so this is a marked graph: it is free of deadlock exactly when it is acyclic, whatever the timing. */
#include <limits.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule_internal.h"
#include "trace.h"

/* Slots of the largest message of each channel. */
static void message_parts(int64_t *parts, const qn_plan *p)
{
    for (int32_t c = 0; c < p->channels; c++) parts[c] = 1;
    for (int32_t t = 0; t < p->tasks; t++) {
        const qn_task *task = &p->task[t];
        if (task->op != QN_OP_SEND || task->channel < 0 || task->channel >= p->channels || task->in.count < 1) continue;
        int64_t first;
        const qn_channel *c = &p->channel[task->channel];
        const int64_t slot = c->slot_bytes, bytes = qn_channel_carries(c, p->value[p->ref[task->in.first]].bytes, &first);
        if (slot > 0) parts[task->channel] = qn_max64(parts[task->channel], bytes / slot + (bytes % slot != 0));
    }
}

/* Per channel its SENDs and RECVs in lane order: list[first[c] ..]. */
typedef struct messages {
    int32_t *send_first, *recv_first, *send, *recv;
} messages;

static void close_messages(messages *m)
{
    qn_free(m->send_first);
    qn_free(m->recv_first);
    qn_free(m->send);
    qn_free(m->recv);
}

static bool is_message(const qn_plan *p, int32_t t, int32_t op)
{
    return p->task[t].op == op && p->task[t].channel >= 0 && p->task[t].channel < p->channels;
}

/* A counting sort by channel; lanes hold a channel's tasks in task order already. */
static bool list_by_channel(int32_t **first, int32_t **list, const qn_plan *p, int32_t op)
{
    *first = qn_calloc((size_t)p->channels + 2, sizeof **first);
    *list = qn_malloc((size_t)p->tasks, sizeof **list);
    if (*first == NULL || *list == NULL) return false;
    for (int32_t t = 0; t < p->tasks; t++) {
        if (is_message(p, t, op)) (*first)[p->task[t].channel + 2]++;
    }
    for (int32_t c = 0; c < p->channels; c++) (*first)[c + 2] += (*first)[c + 1];
    for (int32_t t = 0; t < p->tasks; t++) {
        if (is_message(p, t, op)) (*list)[(*first)[p->task[t].channel + 1]++] = t;
    }
    return true;
}

static qn_status match_messages(qni_graph *g, int32_t depth, qn_err *err)
{
    const qn_plan *p = g->plan;
    messages m = {0};
    qn_status st = QN_OK;
    int64_t *parts = qn_malloc((size_t)p->channels, sizeof *parts);
    if (parts == NULL || !list_by_channel(&m.send_first, &m.send, p, QN_OP_SEND) ||
        !list_by_channel(&m.recv_first, &m.recv, p, QN_OP_RECV)) {
        st = QN_FAIL(err, QN_ENOMEM, "graph of %d tasks", p->tasks);
        goto out;
    }
    message_parts(parts, p);
    for (int32_t c = 0; c < p->channels; c++) {
        const int32_t *send = m.send + m.send_first[c], *recv = m.recv + m.recv_first[c];
        const int32_t sends = m.send_first[c + 1] - m.send_first[c], recvs = m.recv_first[c + 1] - m.recv_first[c];
        const int64_t slots = depth != 0 ? depth : p->channel[c].depth;
        const int64_t cap = g->free_recv || slots == INT32_MAX ? INT32_MAX : slots / parts[c];
        for (int32_t j = 0; j < qn_max32(sends, recvs); j++) {
            if (j < sends && j < recvs) {
                g->peer[send[j]] = recv[j];
                g->peer[recv[j]] = send[j];
                if (cap == 0) {
                    g->node[recv[j]] = send[j];
                    g->also[send[j]] = recv[j];
                }
            } else if (j < recvs) {
                g->stuck[recv[j]] = true;
            } else if (cap == 0) {
                g->stuck[send[j]] = true;
            }
            if (cap > 0 && j < sends && j >= cap) {
                if (j - cap < recvs)
                    g->frees[send[j]] = recv[j - cap];
                else
                    g->stuck[send[j]] = true;
            }
        }
    }
out:
    qn_free(parts);
    close_messages(&m);
    return st;
}

/* Joint tasks become one node, the first of them in the plan. */
static qn_status join_shards(qni_graph *g, qn_err *err)
{
    const qn_plan *p = g->plan;
    if (p->shards < 2) return QN_OK;
    const size_t cells = qni_joint_sets(p);
    int32_t *last = qn_malloc(cells, sizeof *last); /* [sets]: the last member so far */
    if (last == NULL) return QN_FAIL(err, QN_ENOMEM, "graph of %d tasks", p->tasks);
    memset(last, 0xff, cells * sizeof *last);
    for (int32_t t = 0; t < p->tasks; t++) {
        const qn_task *x = &p->task[t];
        const bool item = x->op == QN_OP_JOIN || (x->item >= 0 && x->item < p->items);
        if (!qni_is_joint(x->op) || x->stage < 0 || x->stage >= p->stages || !item) continue;
        int32_t *at = &last[qni_joint_set(p, x)];
        if (*at != QN_NONE) {
            g->also[*at] = t;
            g->node[t] = g->node[*at];
        }
        *at = t;
    }
    qn_free(last);
    return QN_OK;
}

/* The predecessors of one task: at most two besides its waits. Returns how many; its waits follow in plan->ref. */
static int32_t near_predecessors(int32_t out[3], const qni_graph *g, int32_t t)
{
    const qn_plan *p = g->plan;
    const qn_task *task = &p->task[t];
    int32_t n = 0;
    const bool joint = qni_is_joint(task->op) && t > 0 && g->node[t - 1] == g->node[t];
    if (qni_lane_index(p, t) > 0 && !joint && !(g->free_recv && task->op == QN_OP_RECV)) out[n++] = t - 1;
    if (task->op == QN_OP_RECV && g->peer[t] != QN_NONE && g->node[t] == t) out[n++] = g->peer[t];
    if (g->frees[t] != QN_NONE) out[n++] = g->frees[t];
    return n;
}

/* Kahn's algorithm over nodes; successors in compressed rows. */
static qn_status sort_nodes(qni_graph *g, qn_err *err)
{
    const qn_plan *p = g->plan;
    qn_status st = QN_OK;
    int32_t *first = qn_calloc((size_t)p->tasks + 2, sizeof *first), *degree = qn_calloc((size_t)p->tasks, sizeof *degree),
            *next = NULL;
    if (first == NULL || degree == NULL) goto nomem;
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t t = 0; t < p->tasks; t++) {
            int32_t near[3];
            const int32_t n = near_predecessors(near, g, t), waits = p->task[t].wait.count;
            for (int32_t i = 0; i < n + waits; i++) {
                const int32_t from = g->node[i < n ? near[i] : p->ref[p->task[t].wait.first + i - n]];
                if (pass == 0) {
                    first[from + 2]++;
                    degree[g->node[t]]++;
                } else {
                    next[first[from + 1]++] = g->node[t];
                }
            }
            if (pass == 0 && g->stuck[t]) degree[g->node[t]]++;
        }
        if (pass == 1) break;
        for (int32_t t = 0; t < p->tasks; t++) first[t + 2] += first[t + 1];
        next = qn_malloc((size_t)first[p->tasks + 1], sizeof *next);
        if (next == NULL) goto nomem;
    }
    for (int32_t t = 0; t < p->tasks; t++) {
        if (g->node[t] != t) continue;
        g->nodes++;
        if (degree[t] == 0) g->order[g->ordered++] = t;
    }
    for (int32_t i = 0; i < g->ordered; i++) {
        const int32_t t = g->order[i];
        g->done[t] = true;
        for (int32_t k = first[t]; k < first[t + 1]; k++) {
            if (--degree[next[k]] == 0) g->order[g->ordered++] = next[k];
        }
    }
    goto out;
nomem:
    st = QN_FAIL(err, QN_ENOMEM, "graph of %d tasks", p->tasks);
out:
    qn_free(first);
    qn_free(degree);
    qn_free(next);
    return st;
}

qn_status qni_graph_open(qni_graph *g, const qn_plan *plan, int32_t depth, int32_t flags, qn_err *err)
{
    const size_t n = (size_t)plan->tasks;
    *g = (qni_graph){.plan = plan, .free_recv = (flags & QNI_GRAPH_FREE_RECV) != 0};
    g->peer = qn_malloc(n, sizeof *g->peer);
    g->frees = qn_malloc(n, sizeof *g->frees);
    g->node = qn_malloc(n, sizeof *g->node);
    g->also = qn_malloc(n, sizeof *g->also);
    g->order = qn_malloc(n, sizeof *g->order);
    g->stuck = qn_calloc(n, sizeof *g->stuck);
    g->done = qn_calloc(n, sizeof *g->done);
    qn_status st = QN_OK;
    if (g->peer == NULL || g->frees == NULL || g->node == NULL || g->also == NULL || g->order == NULL || g->stuck == NULL ||
        g->done == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "graph of %d tasks", plan->tasks);
        goto out;
    }
    for (int32_t t = 0; t < plan->tasks; t++) {
        g->peer[t] = g->frees[t] = g->also[t] = QN_NONE;
        g->node[t] = t;
    }
    QN_TRY(st, match_messages(g, depth, err), out);
    QN_TRY(st, join_shards(g, err), out);
    QN_TRY(st, sort_nodes(g, err), out);
out:
    if (st != QN_OK) qni_graph_close(g);
    return st;
}

void qni_graph_close(qni_graph *g)
{
    qn_free(g->peer);
    qn_free(g->frees);
    qn_free(g->node);
    qn_free(g->also);
    qn_free(g->order);
    qn_free(g->stuck);
    qn_free(g->done);
    *g = (qni_graph){0};
}

/* ---- the tasks that wait for each other */

/* A predecessor of t that never runs, and why t waits for it; QN_NONE when there is none. */
static int32_t blocked_by(const char **why, const qni_graph *g, int32_t t)
{
    const qn_plan *p = g->plan;
    const qn_task *task = &p->task[t];
    int32_t near[3];
    const int32_t n = near_predecessors(near, g, t);
    for (int32_t i = 0; i < n; i++) {
        if (g->done[g->node[near[i]]]) continue;
        *why = near[i] == g->frees[t] ? "waits for a free slot from" : near[i] == g->peer[t] ? "waits for" : "stands behind";
        return near[i];
    }
    for (int32_t i = 0; i < task->wait.count; i++) {
        const int32_t from = p->ref[task->wait.first + i];
        *why = "needs";
        if (!g->done[g->node[from]]) return from;
    }
    return QN_NONE;
}

/* As blocked_by for a node; *member is the task of the node that waits. */
static int32_t node_blocked_by(int32_t *member, const char **why, const qni_graph *g, int32_t node)
{
    for (int32_t t = node; t != QN_NONE; t = g->also[t]) {
        const int32_t from = blocked_by(why, g, t);
        *member = t;
        if (from != QN_NONE) return from;
    }
    *member = node;
    return QN_NONE;
}

static const char *together(const qn_plan *p, int32_t node)
{
    return qni_is_joint(p->task[node].op) ? "runs together with" : "meets";
}

/* Follows who waits for whom until a node comes again, then tells that circle. seen: [tasks] zeros. */
static void describe_cycle(qni_text *out, const qni_graph *g, bool *seen, int32_t start)
{
    enum { MOST = 12 };
    const qn_plan *p = g->plan;
    char name[QNI_NAME];
    const char *why = "";
    int32_t node = g->node[start], half, told = 0; /* half: the member of the node that waits */
    while (!seen[node]) {
        seen[node] = true;
        const int32_t from = node_blocked_by(&half, &why, g, node);
        if (from == QN_NONE) { /* nothing before it: stuck for good */
            qni_text_add(out,
                         p->task[half].op == QN_OP_RECV ? "deadlock: %s waits for a message that nobody sends"
                                                        : "deadlock: %s waits for a slot that nobody empties",
                         qn_task_text(name, sizeof name, p, half));
            return;
        }
        node = g->node[from];
    }
    const int32_t first = node;
    qni_text_add(out, "deadlock: %s", qn_task_text(name, sizeof name, p, node));
    do {
        const int32_t from = node_blocked_by(&half, &why, g, node);
        if (told < MOST && half != node)
            qni_text_add(out, " %s %s, which", together(p, node), qn_task_text(name, sizeof name, p, half));
        if (told < MOST) qni_text_add(out, " %s %s", why, qn_task_text(name, sizeof name, p, from));
        node = g->node[from];
        if (told < MOST && node != from)
            qni_text_add(out, ", which %s %s", together(p, node), qn_task_text(name, sizeof name, p, node));
        if (++told == MOST && node != first) qni_text_add(out, ", and so on");
        if (told < MOST && node != first) qni_text_add(out, ", which");
    } while (node != first);
}

qn_status qni_graph_live(const qni_graph *g, qn_err *err)
{
    if (g->ordered == g->nodes) return QN_OK;
    const qn_plan *p = g->plan;
    bool *seen = qn_calloc((size_t)p->tasks, sizeof *seen);
    qni_text out = {0};
    int32_t start = 0;
    if (seen == NULL) return QN_FAIL(err, QN_ENOMEM, "check of %d tasks", p->tasks);
    while (start < p->tasks - 1 && g->done[g->node[start]]) start++;
    describe_cycle(&out, g, seen, start);
    qn_free(seen);
    const qn_status st = QN_FAIL(err, QN_ESCHEDULE, "%s", out.failed ? "deadlock" : out.at);
    qn_free(out.at);
    return st;
}

/* ---- times */

/* When the node's tasks may start; *arrives: when its message is there. */
static int64_t node_start(int64_t *arrives, const qni_graph *g, const qn_span_time *time, const qn_sim_options *opt, int32_t node)
{
    const qn_plan *p = g->plan;
    int64_t start = 0;
    for (int32_t t = node; t != QN_NONE; t = g->also[t]) {
        const qn_task *task = &p->task[t];
        int32_t near[3];
        const int32_t n = near_predecessors(near, g, t);
        for (int32_t j = 0; j < n; j++) {
            if (near[j] == g->peer[t] && task->op == QN_OP_RECV)
                *arrives = time[near[j]].end + opt->latency;
            else if (opt->w_overtakes && task->op == QN_OP_W && near[j] == t - 1 && p->task[t - 1].op == QN_OP_SEND)
                start = qn_max64(start, time[t - 1].start);
            else
                start = qn_max64(start, time[near[j]].end);
        }
        for (int32_t j = 0; j < task->wait.count; j++) start = qn_max64(start, time[p->ref[task->wait.first + j]].end);
    }
    return start;
}

/* Joint tasks start together; those of one worker follow each other; the set ends with its busiest worker. */
static void joint_times(const qni_graph *g, qn_span_time *time, const int64_t *cost, int32_t node, int64_t start)
{
    int64_t end = start;
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t t = node; t != QN_NONE; t = g->also[t]) {
            const bool last = qn_joint_last(g->plan, t) == t;
            const int64_t from = qn_joint_first(g->plan, t) < t ? time[t - 1].end : start;
            time[t] = (qn_span_time){from, from + (cost != NULL ? cost[t] : g->plan->task[t].cost)};
            end = qn_max64(end, time[t].end);
            if (pass == 1 && last) time[t].end = end;
        }
    }
}

void qni_graph_times(const qni_graph *g, qn_span_time *time, const qn_sim_options *opt)
{
    const int64_t *cost = opt->cost;
    const qn_plan *p = g->plan;
    for (int32_t t = 0; t < p->tasks; t++) time[t] = (qn_span_time){0, -1};
    for (int32_t i = 0; i < g->ordered; i++) {
        const int32_t t = g->order[i], pair = g->also[t];
        int64_t arrives = 0;
        const int64_t start = node_start(&arrives, g, time, opt, t);
        if (pair != QN_NONE && qni_is_joint(p->task[t].op)) {
            joint_times(g, time, cost, t, start);
            continue;
        }
        int64_t spent = cost != NULL ? cost[t] : p->task[t].cost;
        if (pair != QN_NONE) spent = qn_max64(spent, cost != NULL ? cost[pair] : p->task[pair].cost) + opt->latency;
        time[t] = (qn_span_time){start, qn_max64(start, arrives) + spent};
        if (pair != QN_NONE) time[pair] = time[t];
    }
}
