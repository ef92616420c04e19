/* Lowering: an order becomes a plan. Passes: bind, recompute, step tasks, messages, slots; then the validator looks at the
 * result.
 *
 * The plan is live by construction. If the compute tasks alone could run (unbounded channels, receives in any order), then
 * receiving in order of arrival is live with any channel depth, even 0: run the tasks in order of their simulated ends, each
 * followed at once by its SEND and its RECV. Receiving in order of need is tried first since it never lets a message that is
 * needed stand behind one that is not. */
#include "lower_tiers.h"
#include "lower_vocab.h"

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/trace.h"

static void lower_fini(qni_lower *l)
{
    qni_builder_fini(&l->b);
    int32_t *const table[] = {l->pos,      l->act_in,   l->act_out,  l->grad_in,      l->grad_out,     l->wstash,
                              l->stash,    l->param,    l->pgrad,    l->act_channel,  l->grad_channel, l->last_add,
                              l->sum_task, l->sum_back, l->act_back, l->back_channel, l->rstash};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) qn_free(table[i]);
    qn_free(l->has_r);
    qn_free(l->packed);
    qn_free(l->message);
    qni_vocab_fini(l->vocab);
}

static qn_status check_how(const qn_order *o, const qn_lowering *how, qn_err *err)
{
    qn_status grid = qni_check_grid(qn_order_grid(o), err);
    if (grid == QN_OK) grid = qni_check_algorithm(qn_order_grid(o), o->vocab, err);
    if (grid != QN_OK) return grid;
    const int32_t depth = qn_depth(qn_order_grid(o));
    const bool tied = how->step_tasks && !how->forward_only && how->tied_owner != QN_NONE && how->tied_replica != QN_NONE;
    if (how->depth < 0 || how->slot_bytes < 0 || how->stat_bytes < 0 || how->tied_bytes < 0 || how->part_bytes < 0)
        return QN_FAIL(err, QN_ERANGE, "lowering: depth, slot, stat, part and tied sizes may not be negative");
    if (tied && (how->tied_owner < 0 || how->tied_owner >= depth || how->tied_replica < 0 || how->tied_replica >= depth))
        return QN_FAIL(err, QN_ERANGE, "lowering: tied stages %d and %d; stages of the chain go from 0 to %d", how->tied_owner,
                       how->tied_replica, depth - 1);
    if (how->one_lane && o->shards > 1)
        return QN_FAIL(err, QN_EINVAL, "lowering: messages in the comp lane are not possible with %d shards", o->shards);
    if (o->sides > 0 && o->backward_of != NULL)
        return QN_FAIL(err, QN_EUNSUPPORTED, "lowering: vocabulary shards with a backward on other workers than the forward");
    if (o->turn < 0 || o->turn >= o->workers || o->round < 0)
        return QN_FAIL(err, QN_ESCHEDULE,
                       "a cursor that goes on by %d workers after rounds of %d: 0 to %d, and at least 0, are possible", o->turn,
                       o->round, o->workers - 1);
    if (o->turn > 0 && qn_rounds(o->items, o->round) > 1 && how->step_tasks && !how->forward_only && how->tiers == NULL)
        return QN_FAIL(err, QN_ESCHEDULE,
                       "%d rounds of %d micro-batches, each with the stages on other workers: that needs their state on the host "
                       "(--device-memory)",
                       qn_rounds(o->items, o->round), o->round);
    for (int32_t s = 0; s < o->stages && o->backward_of != NULL; s++) {
        if (o->backward_of[s] < 0 || o->backward_of[s] >= o->workers)
            return QN_FAIL(err, QN_ESCHEDULE, "the backward of stage %d is placed on worker %d; workers go from 0 to %d", s,
                           o->backward_of[s], o->workers - 1);
        if (o->backward_of[s] != o->worker_of[s] && how->step_tasks && !how->forward_only && how->tiers == NULL)
            return QN_FAIL(err, QN_ESCHEDULE,
                           "stage %d has its forward on worker %d and its backward on worker %d: that needs its state on the "
                           "host (--device-memory)",
                           s, o->worker_of[s], o->backward_of[s]);
    }
    for (int32_t s = 0; s < o->stages; s++) {
        if (o->worker_of[s] < 0 || o->worker_of[s] >= o->workers)
            return QN_FAIL(err, QN_ESCHEDULE, "stage %d is placed on worker %d; workers go from 0 to %d", s, o->worker_of[s],
                           o->workers - 1);
    }
    return QN_OK;
}

/* Forward only: the backward tasks of the order are left out, of the check too. */
static qn_status check_order(qni_lower *l, qn_err *err)
{
    const qn_order *o = l->order;
    int64_t total = 0;
    for (int32_t w = 0; w < o->workers; w++) total += o->count[w];
    if (total > INT32_MAX / 8) return QN_FAIL(err, QN_ERANGE, "%lld tasks are too many for one plan", (long long)total);
    qni_compute *list = qn_malloc((size_t)total, sizeof *list);
    if (list == NULL) return QN_FAIL(err, QN_ENOMEM, "order of %lld tasks", (long long)total);
    int32_t n = 0;
    for (int32_t w = 0; w < o->workers; w++) {
        for (int32_t i = 0; i < o->count[w]; i++) {
            const qn_order_task *t = &o->task[w][i];
            if (!qni_is_work(t->op)) {
                qn_free(list);
                return QN_FAIL(err, QN_ESCHEDULE, "%s @%d does not belong in an order: F, B, W, BW, R and VI, VS, VT, VJ do",
                               qni_op_name(t->op), w);
            }
            if (l->how->forward_only && !qni_lower_forward_task(o, t)) continue;
            if (t->op != QN_OP_F && qni_is_compute(t->op)) l->training = true;
            list[n++] =
                (qni_compute){t->op, t->stage, t->item, qni_unturned(w, o->workers, o->turn, qn_round_of(t->item, o->round)), w};
        }
    }
    const qn_status st = qni_check_tasks(list, n, o->workers, qn_order_grid(o), o->worker_of, o->backward_of, err);
    qn_free(list);
    return st;
}

/* Every compute task takes time here, so that simulated ends order what depends on each other. */
static int64_t *ordering_costs(const qn_plan *p)
{
    int64_t *cost = qn_malloc((size_t)p->tasks, sizeof *cost);
    for (int32_t t = 0; cost != NULL && t < p->tasks; t++) {
        const bool message = p->task[t].op == QN_OP_SEND || p->task[t].op == QN_OP_RECV;
        cost[t] = message ? 0 : qn_max64(p->task[t].cost, 1);
    }
    return cost;
}

/* Simulates with the graph's rules; time and *live. With must: an order that cannot run is an error that names the tasks. */
static qn_status try_order(qn_span_time **time, bool *live, const qn_plan *p, int32_t flags, bool must, qn_err *err)
{
    qni_graph g;
    qn_status st = qni_graph_open(&g, p, 0, flags, err);
    if (st != QN_OK) return st;
    int64_t *cost = ordering_costs(p);
    qn_free(*time);
    *time = qn_malloc((size_t)p->tasks, sizeof **time);
    *live = g.ordered == g.nodes;
    if (cost == NULL || *time == NULL)
        st = QN_FAIL(err, QN_ENOMEM, "order of %d tasks", p->tasks);
    else if (must && !*live)
        st = qni_graph_live(&g, err);
    else
        qni_graph_times(&g, *time, &(qn_sim_options){.cost = cost});
    qn_free(cost);
    qni_graph_close(&g);
    return st;
}

static qn_status copy_backward(qn_plan *p, const qn_order *o, qn_err *err)
{
    if (o->backward_of == NULL) return QN_OK;
    p->backward_of = qn_malloc((size_t)o->stages, sizeof *p->backward_of);
    if (p->backward_of == NULL) return QN_FAIL(err, QN_ENOMEM, "plan of %d stages", o->stages);
    for (int32_t s = 0; s < o->stages; s++) p->backward_of[s] = o->backward_of[s];
    return QN_OK;
}

static qn_status build(qn_plan **out, const qni_lower *l, int32_t *place, qn_err *err)
{
    qn_plan *p = NULL;
    qn_status st = qni_builder_plan(&p, &l->b, l->workers, l->stages, l->items, l->order->worker_of, place, err);
    if (st == QN_OK) {
        p->columns = l->order->columns;
        p->sides = l->order->sides;
        p->vocab = l->order->vocab;
        p->shards = l->order->shards;
        p->round = l->order->round;
        p->turn = l->how->step_tasks ? 0 : l->order->turn; /* state that is not the host's keeps its stage where it is */
        st = copy_backward(p, l->order, err);
    }
    if (st == QN_OK) st = qn_plan_finish(p, err);
    if (st != QN_OK) {
        qn_plan_close(p);
        p = NULL;
    }
    qn_plan_close(*out);
    *out = p;
    return st;
}

/* A task that stands in its lane before the one that writes what it reads can never run. The graph does not see this: a lane is
 * in order. */
static qn_status check_lanes(const qn_plan *p, qn_err *err)
{
    char a[QNI_NAME], b[QNI_NAME], c[QNI_NAME];
    qn_status st = QN_OK;
    int32_t *writer = qn_malloc((size_t)p->values, sizeof *writer);
    if (writer == NULL) return QN_FAIL(err, QN_ENOMEM, "check of %d values", p->values);
    for (int32_t v = 0; v < p->values; v++) writer[v] = QN_NONE;
    for (int32_t t = 0; t < p->tasks; t++) {
        for (int32_t i = 0; i < p->task[t].out.count; i++) writer[p->ref[p->task[t].out.first + i]] = t;
    }
    for (int32_t t = 0; t < p->tasks && st == QN_OK; t++) {
        const qn_task *x = &p->task[t];
        for (int32_t i = 0; i < x->in.count && st == QN_OK; i++) {
            const int32_t v = p->ref[x->in.first + i], from = writer[v];
            if (from == QN_NONE || p->task[from].lane != x->lane || from < t) continue;
            st = QN_FAIL(err, QN_ESCHEDULE, "deadlock: %s needs %s from %s, which stands behind it",
                         qn_task_text(a, sizeof a, p, t), qni_value_text(b, sizeof b, p, v), qn_task_text(c, sizeof c, p, from));
        }
    }
    qn_free(writer);
    return st;
}

/* Receives in order of need, else of arrival; *time is the simulated order that slots rely on. */
static qn_status order_messages(qn_plan **p, qn_span_time **time, qni_lower *l, qn_err *err)
{
    qn_status st = QN_OK;
    bool live = false;
    int64_t *arrival = NULL;
    int32_t *place = qn_malloc((size_t)l->b.tasks, sizeof *place);
    if (place == NULL) return QN_FAIL(err, QN_ENOMEM, "plan of %d tasks", l->b.tasks);
    QN_TRY(st, qni_lower_place_messages(l, NULL, err), out);
    QN_TRY(st, build(p, l, place, err), out);
    QN_TRY(st, check_lanes(*p, err), out);
    QN_TRY(st, try_order(time, &live, *p, 0, l->how->one_lane, err), out);
    if (live) goto out;
    QN_TRY(st, try_order(time, &live, *p, QNI_GRAPH_FREE_RECV, true, err), out);
    arrival = qn_malloc((size_t)l->b.tasks, sizeof *arrival);
    if (arrival == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "plan of %d tasks", l->b.tasks);
        goto out;
    }
    for (int32_t t = 0; t < l->b.tasks; t++) arrival[t] = (*time)[place[t]].end;
    QN_TRY(st, qni_lower_place_messages(l, arrival, err), out);
    QN_TRY(st, build(p, l, place, err), out);
    QN_TRY(st, try_order(time, &live, *p, 0, true, err), out);
out:
    qn_free(arrival);
    qn_free(place);
    return st;
}

qn_status qn_lower(qn_plan **out, const qn_order *order, const qn_lowering *how, qn_err *err)
{
    qni_lower l = {.order = order, .how = how, .workers = order->workers, .stages = order->stages, .items = order->items};
    qn_plan *p = NULL;
    qn_span_time *time = NULL;
    qn_status st = QN_OK;
    QN_TRY(st, check_how(order, how, err), out);
    QN_TRY(st, check_order(&l, err), out);
    if (how->tiers != NULL) {
        QN_TRY(st, qni_lower_tiers(&p, order, how, l.training, err), out);
        *out = p;
        p = NULL;
        goto out;
    }
    QN_TRY(st, qni_lower_values(&l, err), out);
    QN_TRY(st, qni_vocab_values(&l, err), out);
    qni_lower_shards(&l);
    for (int32_t w = 0; w < order->workers; w++) qni_lower_compute(&l, w);
    if (how->step_tasks && l.training) qni_lower_step(&l);
    QN_TRY(st, qni_lower_frees(&l, err), out);
    qni_lower_pairs(&l);
    qni_lower_slot_sizes(&l);
    QN_TRY(st, order_messages(&p, &time, &l, err), out);
    const int64_t *limit = how->arena_limit != NULL ? how->arena_limit : order->arena_limit;
    for (int32_t w = 0; limit != NULL && w < p->workers; w++) p->arena_limit[w] = limit[w];
    QN_TRY(st, qni_lower_slots(p, time, err), out);
    QN_TRY(st, qn_plan_validate(p, err), out);
    *out = p;
    p = NULL;
out:
    qn_free(time);
    qn_plan_close(p);
    lower_fini(&l);
    return st;
}
