/* Host copies: what LOAD and OFFLOAD move, and that nobody reads a host copy before it is written.
 *
 * A host copy that no task writes (parameters) is there from the start of the step. One that a task writes is seen by a reader on
 * the writer's worker through lanes and waits; on another worker the reader, or a task before it in its lane, waits for the
 * writer or for a later task of the writer's lane. */
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/schedule_internal.h"

bool qni_plan_has_tiers(const qn_plan *p)
{
    for (int32_t v = 0; v < p->values; v++)
        if (p->value[v].host) return true;
    return false;
}

/* Of weights the host has one copy for all replicas. */
static bool same_stage(const qn_plan *p, const qn_value *a, const qn_value *b)
{
    const qn_grid g = qn_plan_grid(p);
    if (a->stage == b->stage) return true;
    return a->cls == QN_V_PARAM && a->stage >= 0 && b->stage >= 0 &&
           qn_in_first_replica(g, a->stage) == qn_in_first_replica(g, b->stage);
}

qn_status qni_check_copy(const qn_plan *p, int32_t task, qn_err *err)
{
    const qn_task *t = &p->task[task];
    char name[QNI_NAME];
    qn_task_text(name, sizeof name, p, task);
    if (t->in.count != 1 || t->out.count != 1)
        return QN_FAIL(err, QN_ESCHEDULE, "%s reads %d values and writes %d: a copy has one of each", name, t->in.count,
                       t->out.count);
    const qn_value *from = &p->value[p->ref[t->in.first]], *to = &p->value[p->ref[t->out.first]];
    const qn_value *arena = t->op == QN_OP_LOAD ? to : from, *host = t->op == QN_OP_LOAD ? from : to;
    if (!host->host || arena->host || arena->offset == QN_NONE)
        return QN_FAIL(err, QN_ESCHEDULE, "%s must copy %s", name,
                       t->op == QN_OP_LOAD ? "a host copy into the arena" : "from the arena to a host copy");
    if (from->bytes != to->bytes || from->cls != to->cls || !same_stage(p, from, to) || from->item != to->item)
        return QN_FAIL(err, QN_ESCHEDULE, "%s copies %s %d of %lld bytes to %s %d of %lld bytes", name, qni_class_name(from->cls),
                       from->stage, (long long)from->bytes, qni_class_name(to->cls), to->stage, (long long)to->bytes);
    return QN_OK;
}

/* Is host copy v, written by w, seen written by reader t? seen: what t's lane has waited for, by lane of all workers. */
static bool sees(const qn_plan *p, const int32_t (*clock)[QN_LANES], const int32_t *seen, int32_t w, int32_t t)
{
    const int32_t index = qni_lane_index(p, w);
    if (p->task[w].worker == p->task[t].worker) return index <= clock[t][p->task[w].lane];
    return index <= seen[qni_lane_of(p, w)];
}

qn_status qni_check_tiers(const qn_plan *p, const int32_t (*clock)[QN_LANES], qn_err *err)
{
    if (!qni_plan_has_tiers(p)) return QN_OK;
    const size_t lanes = (size_t)p->workers * QN_LANES;
    int32_t *writer = qn_malloc((size_t)p->values, sizeof *writer), *seen = qn_malloc(lanes, sizeof *seen);
    qn_status st = QN_OK;
    char a[QNI_NAME], b[QNI_NAME], c[QNI_NAME];
    if (writer == NULL || seen == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "check of %d values", p->values);
        goto out;
    }
    memset(writer, 0xff, (size_t)p->values * sizeof *writer); /* QN_NONE */
    for (int32_t t = 0; t < p->tasks; t++)
        for (int32_t i = 0; i < p->task[t].out.count; i++) writer[p->ref[p->task[t].out.first + i]] = t;
    for (int32_t t = 0; t < p->tasks && st == QN_OK; t++) {
        const qn_task *x = &p->task[t];
        if (qni_lane_index(p, t) == 0) memset(seen, 0xff, lanes * sizeof *seen);
        for (int32_t i = 0; i < x->wait.count; i++) {
            const int32_t from = p->ref[x->wait.first + i];
            seen[qni_lane_of(p, from)] = qn_max32(seen[qni_lane_of(p, from)], qni_lane_index(p, from));
        }
        for (int32_t i = 0; i < x->in.count && st == QN_OK; i++) {
            const int32_t v = p->ref[x->in.first + i];
            if (!p->value[v].host || writer[v] == QN_NONE || sees(p, clock, seen, writer[v], t)) continue;
            st = QN_FAIL(err, QN_ESCHEDULE, "%s reads the host copy %s without waiting for %s to write it",
                         qn_task_text(a, sizeof a, p, t), qni_value_text(b, sizeof b, p, v),
                         qn_task_text(c, sizeof c, p, writer[v]));
        }
    }
out:
    qn_free(writer);
    qn_free(seen);
    return st;
}
