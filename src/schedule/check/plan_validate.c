/* The validator: complete, linear, versions, tags, live, memory, for any plan, also one that came from a file. Every message
 * names the tasks.
 *
 * Order of the checks: shape of the plan, compute tasks (check_compute.c), step tasks, values (one writer, freed once, after the
 * last reader), messages, liveness (plan_graph.c), memory (check_memory.c). Values are checked by what can be seen on their
 * worker: lanes and waits. */
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/schedule_internal.h"

static qn_status check_shape(const qn_plan *p, qn_err *err)
{
    char name[QNI_NAME];
    qn_status grid = qni_check_grid(qn_plan_grid(p), err);
    if (grid == QN_OK) grid = qni_check_algorithm(qn_plan_grid(p), p->vocab, err);
    if (grid != QN_OK) return grid;
    if (p->turn < 0 || p->turn >= p->workers || p->round < 0)
        return QN_FAIL(err, QN_ESCHEDULE, "a cursor that goes on by %d after rounds of %d: 0 to %d, and at least 0, are possible",
                       p->turn, p->round, p->workers - 1);
    for (int32_t s = 0; s < p->stages; s++) {
        if (p->worker_of[s] < 0 || p->worker_of[s] >= p->workers)
            return QN_FAIL(err, QN_ESCHEDULE, "stage %d is placed on worker %d; workers go from 0 to %d", s, p->worker_of[s],
                           p->workers - 1);
    }
    for (int32_t t = 0; t < p->tasks; t++) {
        const qn_task *task = &p->task[t];
        const bool message = task->op == QN_OP_SEND || task->op == QN_OP_RECV;
        const bool copy = task->op == QN_OP_LOAD || task->op == QN_OP_OFFLOAD;
        qn_task_text(name, sizeof name, p, t);
        if (task->step < 0 || task->step >= p->steps)
            return QN_FAIL(err, QN_ESCHEDULE, "%s is of step %d; the plan has %d", name, task->step, p->steps);
        if (task->cost < 0) return QN_FAIL(err, QN_ESCHEDULE, "%s has a negative cost", name);
        if (message && (task->channel < 0 || task->channel >= p->channels))
            return QN_FAIL(err, QN_ESCHEDULE, "%s has no channel", name);
        if (!message && task->channel != QN_NONE)
            return QN_FAIL(err, QN_ESCHEDULE, "%s has a channel, but only SEND and RECV use one", name);
        if (copy ? task->lane != (task->op == QN_OP_LOAD ? QN_LANE_UP : QN_LANE_DOWN)
                 : !message && task->lane != QN_LANE_COMP && (task->lane != QN_LANE_HOST || qni_is_work(task->op)))
            return QN_FAIL(err, QN_ESCHEDULE,
                           "%s is on lane %s; only messages, LOAD (up), OFFLOAD (down) and step tasks (host) leave the comp lane",
                           name, qni_lane_name(task->lane));
        if (copy) {
            const qn_status st = qni_check_copy(p, t, err);
            if (st != QN_OK) return st;
        }
        if (message && task->worker != (task->op == QN_OP_SEND ? p->channel[task->channel].from : p->channel[task->channel].to))
            return QN_FAIL(err, QN_ESCHEDULE, "%s stands on worker %d, which is not its end of channel %d", name, task->worker,
                           task->channel);
        const int32_t values = task->op == QN_OP_SEND ? task->in.count : task->out.count;
        if (message && values != 1)
            return QN_FAIL(err, QN_ESCHEDULE, "%s moves %d values: exactly one is possible", name, values);
    }
    for (int32_t c = 0; c < p->channels; c++) {
        if (p->channel[c].depth < 0 || p->channel[c].slot_bytes < 1)
            return QN_FAIL(err, QN_ESCHEDULE, "channel %d has depth %d and slots of %lld bytes", c, p->channel[c].depth,
                           (long long)p->channel[c].slot_bytes);
    }
    for (int32_t v = 0; v < p->values; v++) {
        const qn_value *x = &p->value[v];
        if (x->worker < 0 || x->worker >= p->workers || x->bytes < 0 || (x->offset < 0 && x->offset != QN_NONE) ||
            x->offset > INT64_MAX - x->bytes)
            return QN_FAIL(err, QN_ESCHEDULE, "value %d (%s) has %lld bytes at offset %lld: out of range", v,
                           qni_value_text(name, sizeof name, p, v), (long long)x->bytes, (long long)x->offset);
        if (x->host && (x->offset != QN_NONE || !x->carried))
            return QN_FAIL(err, QN_ESCHEDULE, "value %d (%s) is a host copy: it has no place in an arena and is carried", v,
                           qni_value_text(name, sizeof name, p, v));
        const bool slot = !x->host && x->cls != QN_V_PARAM && x->cls != QN_V_PGRAD && x->cls != QN_V_STAT &&
                          x->cls != QN_V_TPARAM && x->cls != QN_V_TGRAD;
        if (slot && x->offset == QN_NONE)
            return QN_FAIL(err, QN_ESCHEDULE, "value %d (%s) has no place in its worker's arena", v,
                           qni_value_text(name, sizeof name, p, v));
    }
    return QN_OK;
}

/* Each step by itself: the tasks sorted by step, otherwise as they stand. */
static qn_status check_compute_tasks(const qn_plan *p, qn_err *err)
{
    qni_compute *list = qn_malloc((size_t)p->tasks, sizeof *list);
    int32_t *first = qn_calloc((size_t)p->steps + 2, sizeof *first);
    qn_status st = QN_OK;
    if (list == NULL || first == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "check of %d tasks", p->tasks);
        goto out;
    }
    for (int32_t t = 0; t < p->tasks; t++) first[p->task[t].step + 2] += qni_is_work(p->task[t].op);
    for (int32_t k = 0; k < p->steps; k++) first[k + 2] += first[k + 1];
    for (int32_t t = 0; t < p->tasks; t++) {
        const qn_task *x = &p->task[t];
        if (!qni_is_work(x->op)) continue;
        const int64_t rounds = (int64_t)x->step * qn_rounds(p->items, p->round) + qn_round_of(qn_max32(x->item, 0), p->round);
        list[first[x->step + 1]++] =
            (qni_compute){x->op, x->stage, x->item, qni_unturned(x->worker, p->workers, p->turn, rounds), x->worker};
    }
    for (int32_t k = 0; k < p->steps && st == QN_OK; k++)
        st = qni_check_tasks(list + first[k], first[k + 1] - first[k], p->workers, qn_plan_grid(p), p->worker_of, p->backward_of,
                             err);
out:
    qn_free(list);
    qn_free(first);
    return st;
}

/* ---- step tasks: PACK before the stage's first task, OPT once and after its last, every stage or none, in each step */

typedef struct stage_marks {
    int32_t first, last, pack, opt, join; /* tasks */
} stage_marks;

/* m: [steps * stages] */
static qn_status mark_stages(stage_marks *of_steps, const qn_plan *p, qn_err *err)
{
    const bool tiers = qni_plan_has_tiers(p);
    for (int32_t t = 0; t < p->tasks; t++) {
        const qn_task *x = &p->task[t];
        stage_marks *m = of_steps + (size_t)x->step * (size_t)p->stages;
        char name[QNI_NAME], other[QNI_NAME];
        const bool per_stage = x->op == QN_OP_PACK || x->op == QN_OP_OPT || x->op == QN_OP_TIE || x->op == QN_OP_SUM ||
                               x->op == QN_OP_JOIN || x->op == QN_OP_VALIDATE;
        if (per_stage && (x->stage < 0 || x->stage >= p->stages || (!tiers && p->worker_of[x->stage] != x->worker)))
            return QN_FAIL(err, QN_ESCHEDULE, "%s is not on its stage's worker", qn_task_text(name, sizeof name, p, t));
        if (qni_is_work(x->op)) {
            if (m[x->stage].first == QN_NONE && x->op != QN_OP_VI) /* look-ups read the weights as they are */
                m[x->stage].first = t;
            m[x->stage].last = t;
        }
        if (x->op != QN_OP_PACK && x->op != QN_OP_OPT && x->op != QN_OP_JOIN) continue;
        if (tiers) continue; /* packed again wherever its weights have come to; order is that of the values */
        int32_t *at = x->op == QN_OP_PACK ? &m[x->stage].pack : x->op == QN_OP_OPT ? &m[x->stage].opt : &m[x->stage].join;
        if (*at != QN_NONE)
            return QN_FAIL(err, QN_ESCHEDULE, "%s occurs twice in a step, again after %s", qn_task_text(name, sizeof name, p, t),
                           qn_task_text(other, sizeof other, p, *at));
        *at = t;
    }
    return QN_OK;
}

/* One stage in one step. before: the same in the step before, NULL: none. */
static qn_status check_stage(const qn_plan *p, int32_t s, const stage_marks *m, const stage_marks *before, bool any_opt,
                             bool any_pack, qn_err *err)
{
    char a[QNI_NAME], b[QNI_NAME];
    const qn_grid g = qn_plan_grid(p);
    const int32_t shard = s < g.stages ? qn_shard(g, s) : 0, partner = s - shard * qn_column_stages(g); /* of shard 0 */
    const int32_t join = m[partner - s].join;
    if ((m->join == QN_NONE) != (join == QN_NONE))
        return QN_FAIL(err, QN_ESCHEDULE, "incomplete: JOIN %d has no partner JOIN %d: the %d shards of a stage join together",
                       m->join != QN_NONE ? s : partner, m->join != QN_NONE ? partner : s, p->shards);
    if (any_opt && m->join != QN_NONE && (m->join < m->last || m->join > m->opt))
        return QN_FAIL(err, QN_ESCHEDULE, "%s stands outside of the time between the stage's last task and its OPT",
                       qn_task_text(a, sizeof a, p, m->join));
    if (any_opt && m->opt == QN_NONE)
        return QN_FAIL(err, QN_ESCHEDULE, "incomplete: OPT %d is missing on worker %d", s, p->worker_of[s]);
    if (any_pack && m->pack == QN_NONE)
        return QN_FAIL(err, QN_ESCHEDULE, "incomplete: PACK %d is missing on worker %d", s, p->worker_of[s]);
    if (any_opt && m->opt < m->last)
        return QN_FAIL(err, QN_ESCHEDULE,
                       "%s comes before %s: a stage's parameters change after its last task of the step, so that all of them "
                       "see one version",
                       qn_task_text(a, sizeof a, p, m->opt), qn_task_text(b, sizeof b, p, m->last));
    if (any_pack && m->pack > m->first)
        return QN_FAIL(err, QN_ESCHEDULE, "%s comes after %s, which reads the packed weights",
                       qn_task_text(a, sizeof a, p, m->pack), qn_task_text(b, sizeof b, p, m->first));
    const int32_t first = any_pack ? qn_min32(m->pack, m->first) : m->first;
    if (before != NULL && any_opt && before->opt > first)
        return QN_FAIL(err, QN_ESCHEDULE, "%s comes before %s: a step begins with the parameters that the one before it made",
                       qn_task_text(a, sizeof a, p, first), qn_task_text(b, sizeof b, p, before->opt));
    return QN_OK;
}

static qn_status check_step(const qn_plan *p, qn_err *err)
{
    qn_status st = QN_OK;
    const size_t stages = (size_t)p->stages, all = (size_t)p->steps * stages;
    stage_marks *m = qn_malloc(all, sizeof *m);
    bool any_opt = false, any_pack = false;
    if (m == NULL) return QN_FAIL(err, QN_ENOMEM, "check of %d stages", p->stages);
    memset(m, 0xff, all * sizeof *m);
    QN_TRY(st, mark_stages(m, p, err), out);
    for (size_t i = 0; i < all; i++) {
        any_opt = any_opt || m[i].opt != QN_NONE;
        any_pack = any_pack || m[i].pack != QN_NONE;
    }
    for (size_t i = 0; i < all && st == QN_OK; i++)
        st = check_stage(p, (int32_t)(i % stages), &m[i], i >= stages ? &m[i - stages] : NULL, any_opt, any_pack, err);
out:
    qn_free(m);
    return st;
}

/* ---- values */

/* What the path of an item demands: F, R and backward read the stage's input, backward the gradient of its output and its stash.
 */
static qn_status check_reads(const qn_plan *p, int32_t t, qn_err *err)
{
    const qn_task *x = &p->task[t];
    const qn_status sides = qni_check_vocab_reads(p, t, err);
    if (sides != QN_OK || !qni_is_compute(x->op)) return sides;
    const bool backward = x->op == QN_OP_B || x->op == QN_OP_BW;
    const qn_grid g = qn_plan_grid(p);
    bool act = qn_first_in_column(g, x->stage), grad = !backward || qn_last_in_column(g, x->stage),
         stash = x->op == QN_OP_F || x->op == QN_OP_R, wstash = x->op != QN_OP_W;
    for (int32_t i = 0; i < x->in.count; i++) {
        const qn_value *v = &p->value[p->ref[x->in.first + i]];
        const bool mine = v->stage == x->stage && v->item == x->item;
        act = act || (mine && v->cls == QN_V_ACT);
        grad = grad || (mine && v->cls == QN_V_GRAD);
        stash = stash || (mine && v->cls == QN_V_STASH);
        wstash = wstash || (mine && v->cls == QN_V_WSTASH);
    }
    if (act && grad && stash && wstash) return QN_OK;
    char name[QNI_NAME];
    return QN_FAIL(err, QN_ESCHEDULE, "%s does not read its %s %d.%d", qn_task_text(name, sizeof name, p, t),
                   !act     ? "act"
                   : !grad  ? "grad"
                   : !stash ? "stash"
                            : "wstash",
                   x->stage, x->item);
}

typedef struct value_use {
    int32_t writer, adder, dropper; /* tasks: the only out, the first acc, the only free */
} value_use;

static qn_status set_once(int32_t *at, const qn_plan *p, int32_t t, int32_t v, const char *what, qn_err *err)
{
    char a[QNI_NAME], b[QNI_NAME], c[QNI_NAME];
    if (*at != QN_NONE)
        return QN_FAIL(err, QN_ESCHEDULE, "%s is %s twice: by %s and by %s", qni_value_text(c, sizeof c, p, v), what,
                       qn_task_text(a, sizeof a, p, *at), qn_task_text(b, sizeof b, p, t));
    *at = t;
    return QN_OK;
}

static qn_status mark_uses(value_use *use, const qn_plan *p, qn_err *err)
{
    qn_status st = QN_OK;
    for (int32_t t = 0; t < p->tasks; t++) {
        const qn_task *x = &p->task[t];
        for (int32_t i = 0; i < x->out.count; i++) {
            const int32_t v = p->ref[x->out.first + i];
            QN_TRY(st, set_once(&use[v].writer, p, t, v, "written", err), out);
        }
        for (int32_t i = 0; i < x->free.count; i++) {
            const int32_t v = p->ref[x->free.first + i];
            QN_TRY(st, set_once(&use[v].dropper, p, t, v, "freed", err), out);
        }
        for (int32_t i = 0; i < x->acc.count; i++) {
            int32_t *a = &use[p->ref[x->acc.first + i]].adder;
            if (*a == QN_NONE) *a = t;
        }
        QN_TRY(st, check_reads(p, t, err), out);
    }
out:
    return st;
}

/* Is task a complete before task b of the same worker starts, by lanes and waits? clock: [tasks], last complete index per lane.
 */
static bool before(const qn_plan *p, const int32_t (*clock)[QN_LANES], int32_t a, int32_t b)
{
    const qn_task *x = &p->task[a];
    return x->worker == p->task[b].worker && qni_lane_index(p, a) <= clock[b][x->lane];
}

static qn_status check_lifetimes(const value_use *use, const qn_plan *p, const int32_t (*clock)[QN_LANES], qn_err *err)
{
    char a[QNI_NAME], b[QNI_NAME], c[QNI_NAME];
    for (int32_t t = 0; t < p->tasks; t++) {
        const qn_task *x = &p->task[t];
        const qn_span span[] = {x->in, x->acc, x->out};
        for (int32_t k = 0; k < 3; k++) {
            for (int32_t i = 0; i < span[k].count; i++) {
                const int32_t v = p->ref[span[k].first + i];
                const int32_t source = use[v].writer != QN_NONE ? use[v].writer : use[v].adder;
                if (p->value[v].host) continue; /* plan_tiers.c */
                if (k == 0 && source == QN_NONE)
                    return QN_FAIL(err, QN_ESCHEDULE, "%s reads %s, which no task writes", qn_task_text(a, sizeof a, p, t),
                                   qni_value_text(c, sizeof c, p, v));
                if (k == 0 && p->task[source].step != p->task[t].step)
                    return QN_FAIL(err, QN_ESCHEDULE, "%s reads %s of another step, which %s writes",
                                   qn_task_text(a, sizeof a, p, t), qni_value_text(c, sizeof c, p, v),
                                   qn_task_text(b, sizeof b, p, source));
                if (k == 0 && !before(p, clock, source, t))
                    return QN_FAIL(err, QN_ESCHEDULE, "%s reads %s before %s has written it", qn_task_text(a, sizeof a, p, t),
                                   qni_value_text(c, sizeof c, p, v), qn_task_text(b, sizeof b, p, source));
                if (use[v].dropper == QN_NONE && !p->value[v].carried)
                    return QN_FAIL(
                        err, QN_ESCHEDULE, "%s, written by %s, is never freed: free it after its last reader, or mark it carried",
                        qni_value_text(c, sizeof c, p, v), qn_task_text(b, sizeof b, p, source == QN_NONE ? t : source));
                if (use[v].dropper != QN_NONE && use[v].dropper != t && !before(p, clock, t, use[v].dropper))
                    return QN_FAIL(err, QN_ESCHEDULE, "%s frees %s too early: %s still uses it",
                                   qn_task_text(a, sizeof a, p, use[v].dropper), qni_value_text(c, sizeof c, p, v),
                                   qn_task_text(b, sizeof b, p, t));
                if (use[v].dropper != QN_NONE && p->value[v].carried)
                    return QN_FAIL(err, QN_ESCHEDULE, "%s is carried over the step's end, but %s frees it",
                                   qni_value_text(c, sizeof c, p, v), qn_task_text(a, sizeof a, p, use[v].dropper));
            }
        }
    }
    return QN_OK;
}

/* Weight gradients: ascending items along each accumulator. */
static qn_status check_accumulators(const qn_plan *p, qn_err *err)
{
    int32_t *last = qn_malloc((size_t)p->values, sizeof *last);
    qn_status st = QN_OK;
    if (last == NULL) return QN_FAIL(err, QN_ENOMEM, "check of %d values", p->values);
    for (int32_t v = 0; v < p->values; v++) last[v] = QN_NONE;
    for (int32_t t = 0; t < p->tasks && st == QN_OK; t++) {
        const qn_task *x = &p->task[t];
        char a[QNI_NAME], b[QNI_NAME], c[QNI_NAME];
        if ((x->op == QN_OP_W || x->op == QN_OP_BW) && (x->acc.count != 1 || p->value[p->ref[x->acc.first]].cls != QN_V_PGRAD ||
                                                        p->value[p->ref[x->acc.first]].stage != x->stage))
            st = QN_FAIL(err, QN_ESCHEDULE, "%s does not add to pgrad %d", qn_task_text(a, sizeof a, p, t), x->stage);
        for (int32_t i = 0; i < x->acc.count && st == QN_OK; i++) {
            const int32_t v = p->ref[x->acc.first + i], old = last[v];
            if (old != QN_NONE && x->item != QN_NONE && p->task[old].item >= x->item)
                st = QN_FAIL(err, QN_ESCHEDULE, "%s adds to %s after %s: additions go in ascending micro-batch order",
                             qn_task_text(a, sizeof a, p, t), qni_value_text(c, sizeof c, p, v),
                             qn_task_text(b, sizeof b, p, old));
            last[v] = t;
        }
    }
    qn_free(last);
    return st;
}

/* ---- messages */

static qn_status check_messages(const qn_plan *p, const qni_graph *g, qn_err *err)
{
    char a[QNI_NAME], b[QNI_NAME];
    for (int32_t t = 0; t < p->tasks; t++) {
        const qn_task *x = &p->task[t];
        if (x->op != QN_OP_SEND && x->op != QN_OP_RECV) continue;
        if (g->peer[t] == QN_NONE)
            return QN_FAIL(err, QN_ESCHEDULE,
                           x->op == QN_OP_SEND ? "incomplete: nobody receives %s" : "incomplete: nobody sends what %s waits for",
                           qn_task_text(a, sizeof a, p, t));
        const qn_task *y = &p->task[g->peer[t]];
        if (x->op == QN_OP_SEND && (x->tag != y->tag || x->step != y->step))
            return QN_FAIL(err, QN_ESCHEDULE,
                           "%s (tag %llu) meets %s (tag %llu): receives of a channel stand in the order of its sends",
                           qn_task_text(a, sizeof a, p, t), (unsigned long long)x->tag, qn_task_text(b, sizeof b, p, g->peer[t]),
                           (unsigned long long)y->tag);
        if (x->op == QN_OP_SEND && p->value[p->ref[x->in.first]].bytes != p->value[p->ref[y->out.first]].bytes)
            return QN_FAIL(err, QN_ESCHEDULE, "%s sends %lld bytes, %s expects %lld", qn_task_text(a, sizeof a, p, t),
                           (long long)p->value[p->ref[x->in.first]].bytes, qn_task_text(b, sizeof b, p, g->peer[t]),
                           (long long)p->value[p->ref[y->out.first]].bytes);
    }
    return QN_OK;
}

typedef struct tag_entry {
    int32_t channel, step, task;
    uint64_t tag;
} tag_entry;

static int by_tag(const void *pa, const void *pb)
{
    const tag_entry *a = pa, *b = pb;
    if (a->channel != b->channel) return a->channel < b->channel ? -1 : 1;
    if (a->step != b->step) return a->step < b->step ? -1 : 1;
    if (a->tag != b->tag) return a->tag < b->tag ? -1 : 1;
    return (a->task > b->task) - (a->task < b->task);
}

static qn_status check_tags(const qn_plan *p, qn_err *err)
{
    tag_entry *e = qn_malloc((size_t)p->tasks, sizeof *e);
    qn_status st = QN_OK;
    int32_t n = 0;
    char a[QNI_NAME], b[QNI_NAME];
    if (e == NULL) return QN_FAIL(err, QN_ENOMEM, "check of %d tasks", p->tasks);
    for (int32_t t = 0; t < p->tasks; t++) {
        if (p->task[t].op == QN_OP_SEND) e[n++] = (tag_entry){p->task[t].channel, p->task[t].step, t, p->task[t].tag};
    }
    qsort(e, (size_t)n, sizeof *e, by_tag);
    for (int32_t i = 1; i < n && st == QN_OK; i++) {
        if (e[i].channel == e[i - 1].channel && e[i].step == e[i - 1].step && e[i].tag == e[i - 1].tag)
            st = QN_FAIL(err, QN_ESCHEDULE, "%s and %s have the same tag %llu on channel %d",
                         qn_task_text(a, sizeof a, p, e[i - 1].task), qn_task_text(b, sizeof b, p, e[i].task),
                         (unsigned long long)e[i].tag, e[i].channel);
    }
    qn_free(e);
    return st;
}

/* ---- all of it */

static qn_status check_values(const qn_plan *p, const int32_t (*clock)[QN_LANES], qn_err *err)
{
    value_use *use = qn_malloc((size_t)p->values, sizeof *use);
    qn_status st = QN_OK;
    if (use == NULL) return QN_FAIL(err, QN_ENOMEM, "check of %d values", p->values);
    memset(use, 0xff, (size_t)p->values * sizeof *use);
    QN_TRY(st, mark_uses(use, p, err), out);
    QN_TRY(st, check_lifetimes(use, p, clock, err), out);
out:
    qn_free(use);
    return st;
}

qn_status qn_plan_validate(const qn_plan *p, qn_err *err)
{
    qni_graph g = {0};
    int32_t(*clock)[QN_LANES] = NULL;
    qn_status st = QN_OK;
    QN_TRY(st, check_shape(p, err), out);
    QN_TRY(st, check_compute_tasks(p, err), out);
    QN_TRY(st, check_step(p, err), out);
    QN_TRY(st, check_accumulators(p, err), out);
    QN_TRY(st, check_tags(p, err), out);
    QN_TRY(st, qni_graph_open(&g, p, 0, 0, err), out);
    QN_TRY(st, check_messages(p, &g, err), out);
    QN_TRY(st, qni_graph_live(&g, err), out);
    QN_TRY(st, qni_clocks(&clock, &g, err), out);
    QN_TRY(st, check_values(p, (const int32_t(*)[QN_LANES])clock, err), out);
    QN_TRY(st, qni_check_tiers(p, (const int32_t(*)[QN_LANES])clock, err), out);
    QN_TRY(st, qni_check_steps(p, (const int32_t(*)[QN_LANES])clock, err), out);
    QN_TRY(st, qni_check_memory(p, &g, (const int32_t(*)[QN_LANES])clock, err), out);
out:
    qn_free(clock);
    qni_graph_close(&g);
    return st;
}
