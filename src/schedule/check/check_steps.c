/* Several steps in one plan: memory that has no place in an arena is the same in all steps, so that a step may write there only
 * when the step before is done with it. Of what two steps share
 *
 *   homes     class, stage, item and worker say which       seen by lanes and waits on the worker
 *   host      class, stage and item                         seen on whatever worker, as check_tiers.c says
 *   weights   of plans with tiers: PCOPY, or OPT (VALIDATE) without a lag, makes what the LOADs of the next step bring up
 *
 * each write is held against the last use of the step before it in every lane. */
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/schedule_internal.h"

/* ---- which values are the same memory */

typedef struct home {
    int32_t cls, stage, item, worker, value;
} home;

static int by_home(const void *pa, const void *pb)
{
    const home *a = pa, *b = pb;
    const int32_t x[] = {a->cls, a->stage, a->item, a->worker}, y[] = {b->cls, b->stage, b->item, b->worker};
    for (int i = 0; i < 4; i++)
        if (x[i] != y[i]) return x[i] < y[i] ? -1 : 1;
    return 0;
}

int32_t qni_home_groups(int32_t **out, const qn_plan *p)
{
    int32_t n = 0, groups = 0;
    home *list = qn_malloc((size_t)p->values, sizeof *list);
    int32_t *group = qn_malloc((size_t)p->values, sizeof *group);
    if (list == NULL || group == NULL) {
        qn_free(list);
        qn_free(group);
        return -1;
    }
    for (int32_t v = 0; v < p->values; v++) {
        const qn_value *x = &p->value[v];
        group[v] = QN_NONE;
        if (x->offset == QN_NONE) list[n++] = (home){x->cls, x->stage, x->item, x->host ? QN_NONE : x->worker, v};
    }
    if (n > 1) qsort(list, (size_t)n, sizeof *list, by_home);
    for (int32_t i = 0; i < n; i++) {
        if (i == 0 || by_home(&list[i - 1], &list[i]) != 0) groups++;
        group[list[i].value] = groups - 1;
    }
    qn_free(list);
    *out = group;
    return groups;
}

/* ---- the check */

typedef struct use { /* of a group in a step, by a task */
    int32_t group, step, task;
    bool writes;
} use;

static int by_step(const void *pa, const void *pb)
{
    const use *a = pa, *b = pb;
    const int32_t x[] = {a->group, a->step, a->task}, y[] = {b->group, b->step, b->task};
    for (int i = 0; i < 3; i++)
        if (x[i] != y[i]) return x[i] < y[i] ? -1 : 1;
    return 0;
}

typedef struct steps_check {
    const qn_plan *p;
    const int32_t (*clock)[QN_LANES];
    use *use;
    int32_t uses;
} steps_check;

/* Has task t seen `from` done: on its own worker by lanes and waits, elsewhere by a wait of its lane up to it. */
static bool sees(const steps_check *c, int32_t from, int32_t t)
{
    const qn_plan *p = c->p;
    const int32_t lane = qni_lane_of(p, from), index = qni_lane_index(p, from);
    if (lane == qni_lane_of(p, t)) return from < t;
    if (p->task[from].worker == p->task[t].worker) return index <= c->clock[t][p->task[from].lane];
    for (int32_t at = t; at >= 0 && qni_lane_of(p, at) == qni_lane_of(p, t); at--)
        for (int32_t i = 0; i < p->task[at].wait.count; i++) {
            const int32_t other = p->ref[p->task[at].wait.first + i];
            if (qni_lane_of(p, other) == lane && other >= from) return true;
        }
    return false;
}

/* Uses [a, b) of a step against the writes among [b, end) of the next. Of each lane the last use is enough, and its first write.
 */
static qn_status check_pair(const steps_check *c, int32_t a, int32_t b, int32_t end, qn_err *err)
{
    const qn_plan *p = c->p;
    char x[QNI_NAME], y[QNI_NAME];
    for (int32_t j = b, lane = QN_NONE; j < end; j++) {
        if (!c->use[j].writes || qni_lane_of(p, c->use[j].task) == lane) continue;
        lane = qni_lane_of(p, c->use[j].task);
        for (int32_t i = a; i < b; i++) {
            const bool last = i + 1 == b || qni_lane_of(p, c->use[i].task) != qni_lane_of(p, c->use[i + 1].task);
            if (!last || sees(c, c->use[i].task, c->use[j].task)) continue;
            return QN_FAIL(err, QN_ESCHEDULE, "%s writes what %s of the step before may still use: it must wait for it",
                           qn_task_text(x, sizeof x, p, c->use[j].task), qn_task_text(y, sizeof y, p, c->use[i].task));
        }
    }
    return QN_OK;
}

static qn_status list_uses(steps_check *c, const int32_t *group, qn_err *err)
{
    const qn_plan *p = c->p;
    c->use = qn_malloc((size_t)p->refs + 1, sizeof *c->use);
    if (c->use == NULL) return QN_FAIL(err, QN_ENOMEM, "check of %d tasks", p->tasks);
    for (int32_t t = 0; t < p->tasks; t++) {
        const qn_span span[] = {p->task[t].in, p->task[t].out, p->task[t].acc};
        for (int32_t k = 0; k < 3; k++)
            for (int32_t i = 0; i < span[k].count; i++) {
                const int32_t g = group[p->ref[span[k].first + i]];
                if (g != QN_NONE) c->use[c->uses++] = (use){g, p->task[t].step, t, k > 0};
            }
    }
    if (c->uses > 1) qsort(c->use, (size_t)c->uses, sizeof *c->use, by_step);
    return QN_OK;
}

/* With tiers: LOADs of a step come behind what made their weights in the step before. */
static qn_status check_loads(const steps_check *c, qn_err *err)
{
    const qn_plan *p = c->p;
    const int32_t host = p->lane[0][QN_LANE_HOST][0], count = p->lane[0][QN_LANE_HOST][1];
    bool copies = false;
    char x[QNI_NAME], y[QNI_NAME];
    int32_t *made = qn_malloc((size_t)p->steps * (size_t)p->stages, sizeof *made);
    qn_status st = QN_OK;
    if (made == NULL) return QN_FAIL(err, QN_ENOMEM, "check of %d tasks", p->tasks);
    memset(made, 0xff, (size_t)p->steps * (size_t)p->stages * sizeof *made); /* QN_NONE */
    for (int32_t i = 0; i < count; i++) copies = copies || p->task[host + i].op == QN_OP_PCOPY;
    for (int32_t i = 0; i < count; i++) {
        const qn_task *o = &p->task[host + i];
        if (qni_makes_loaded(p, host + i, copies) && o->stage >= 0 && o->stage < p->stages)
            made[(size_t)o->step * (size_t)p->stages + (size_t)o->stage] = host + i;
    }
    for (int32_t t = 0; t < p->tasks && st == QN_OK; t++) {
        const qn_task *l = &p->task[t];
        if (l->op != QN_OP_LOAD || l->step == 0 || p->value[p->ref[l->in.first]].cls != QN_V_PARAM) continue;
        if (l->stage < 0 || l->stage >= p->stages) continue;
        const int32_t from =
            made[(size_t)(l->step - 1) * (size_t)p->stages + (size_t)qn_in_first_replica(qn_plan_grid(p), l->stage)];
        if (from != QN_NONE && !sees(c, from, t))
            st = QN_FAIL(err, QN_ESCHEDULE, "%s brings up weights without waiting for %s to make them",
                         qn_task_text(x, sizeof x, p, t), qn_task_text(y, sizeof y, p, from));
    }
    qn_free(made);
    return st;
}

qn_status qni_check_steps(const qn_plan *p, const int32_t (*clock)[QN_LANES], qn_err *err)
{
    steps_check c = {.p = p, .clock = clock};
    int32_t *group = NULL;
    qn_status st = QN_OK;
    if (p->steps == 1) return QN_OK;
    if (qni_home_groups(&group, p) < 0) return QN_FAIL(err, QN_ENOMEM, "check of %d values", p->values);
    QN_TRY(st, list_uses(&c, group, err), out);
    for (int32_t a = 0, b, end; a < c.uses && st == QN_OK; a = b) {
        for (b = a; b < c.uses && c.use[b].group == c.use[a].group && c.use[b].step == c.use[a].step;) b++;
        for (end = b; end < c.uses && c.use[end].group == c.use[a].group && c.use[end].step == c.use[b].step;) end++;
        st = check_pair(&c, a, b, end, err);
    }
    if (st == QN_OK && qni_plan_has_tiers(p)) st = check_loads(&c, err);
out:
    qn_free(group);
    qn_free(c.use);
    return st;
}
