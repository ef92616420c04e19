/* A flight: one-step plans in a row, as one plan without a barrier between them.
 *
 *   step 0            step 1            step 2                  every lane: its tasks of step 0, then of step 1, ..
 *   F F B B .. OPT    F F B B .. OPT    F F B B .. OPT
 *
 * Tasks and values are there once per step, memory once: arenas keep their offsets, and what has no offset is where it was. So a
 * task of step k that writes waits, besides for what its step says, for all of step k - 1 that touches the same memory:
 *
 *   arenas     whoever drops a value whose bytes overlap                                     same worker
 *   homes      whoever reads or writes the same home (class, stage, item, worker)            same worker
 *   host       whoever reads or writes the same host copy, on whatever worker                tiers
 *   weights    a stage's first task waits for parameters that come from another worker; with tiers LOADs wait for PCOPY, or for
 *              OPT, and VALIDATE where there is one, where the optimizer does not lag
 *
 * The cursor (RoundPipe): what step 0 has on worker w step k has on w + k turn, modulo the workers, arenas and channels with it;
 * the host's lane and host copies stay. Step k then finds in an arena what steps k - 1, k - 2, .. of other parts of the plan left
 * there, until the same part comes round again: it waits for each of them.
 *
 * These waits go from one step to the next only, never back: a plan of one step that can run can run as a flight.
 *
 * Post-validated steps (arXiv:2401.10241, section 4): the decision of step k arrives while step k + 1 warms up. Its VALIDATEs,
 * and the RECV that brings it, stand behind the forwards (of vocabulary shards too) that begin step k + 1 on the worker, before
 * its first task of another kind. They need nothing of step k + 1, so that nothing can lock up. */
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule_internal.h"

typedef struct pair { /* task of a step, and one of so many steps before that it waits for; as tasks of the one-step plan */
    int32_t task, before, back;
} pair;

typedef struct chain {
    const qn_plan *p;
    int32_t steps;
    int32_t turn, period; /* of the cursor, in steps */
    qni_builder b;
    bool *lead, *late; /* [tasks]: the warm-up of its step; goes behind the next step's warm-up */
    pair *pair;
    int32_t pairs, pair_cap;
    bool failed; /* out of memory; sticks */
} chain;

int32_t qn_cursor_period(const qn_plan *p)
{
    int32_t a = p->workers, b = qn_step_turn(p);
    while (b > 0) {
        const int32_t rest = a % b;
        a = b;
        b = rest;
    }
    return p->workers / a;
}

/* Where a worker's part of the step is so many steps later. */
static int32_t place_of(const chain *c, int32_t worker, int32_t steps)
{
    return qn_turned(worker, c->p->workers, c->turn, steps);
}

/* A task of a step on the lane of the same task, or of another, so many steps back? */
static bool same_lane(const chain *c, int32_t task, int32_t before, int32_t back)
{
    const qn_task *x = &c->p->task[task], *y = &c->p->task[before];
    if (x->lane != y->lane) return false;
    return x->lane == QN_LANE_HOST ? x->worker == y->worker : place_of(c, x->worker, back) == y->worker;
}

/* Task waits for `before`, so many steps back, unless its own lane sees to it. */
static void add_pair(chain *c, int32_t task, int32_t before, int32_t back)
{
    if (same_lane(c, task, before, back)) return;
    if (!c->failed && !qni_grow(&c->pair, &c->pair_cap, c->pairs + 1, sizeof *c->pair)) c->failed = true;
    if (!c->failed) c->pair[c->pairs++] = (pair){task, before, back};
}

/* ---- the order of lanes */

static bool brings_decision(const qn_plan *p, const qn_task *t)
{
    if (t->op != QN_OP_RECV) return false;
    const qn_value *v = &p->value[p->ref[t->out.first]];
    return v->cls == QN_V_STAT && v->stage == QN_NONE;
}

static void mark_warm_up(chain *c, bool *read)
{
    const qn_plan *p = c->p;
    for (int32_t w = 0; w < p->workers; w++) {
        const int32_t comp = p->lane[w][QN_LANE_COMP][0], recv = p->lane[w][QN_LANE_RECV][0];
        for (int32_t t = comp; t < comp + p->lane[w][QN_LANE_COMP][1]; t++) {
            const qn_task *x = &p->task[t];
            if (x->op != QN_OP_F && x->op != QN_OP_PACK && x->op != QN_OP_VI && x->op != QN_OP_VS) break;
            c->lead[t] = true;
            for (int32_t i = 0; i < x->in.count; i++) read[p->ref[x->in.first + i]] = true;
        }
        for (int32_t t = recv; t < recv + p->lane[w][QN_LANE_RECV][1]; t++) {
            if (c->late[t] || !read[p->ref[p->task[t].out.first]]) break;
            c->lead[t] = true;
        }
    }
}

/* Only plans that validate late have anything to move. */
static qn_status mark_moved(chain *c, qn_err *err)
{
    const qn_plan *p = c->p;
    bool any = false;
    for (int32_t t = 0; t < p->tasks; t++) any = any || p->task[t].op == QN_OP_VALIDATE;
    if (!any) return QN_OK;
    bool *read = qn_calloc((size_t)p->values, sizeof *read);
    if (read == NULL) return QN_FAIL(err, QN_ENOMEM, "a flight of %d tasks", p->tasks);
    for (int32_t t = 0; t < p->tasks; t++) c->late[t] = p->task[t].op == QN_OP_VALIDATE || brings_decision(p, &p->task[t]);
    mark_warm_up(c, read);
    qn_free(read);
    return QN_OK;
}

/* Of each step in a lane: its warm-up, what the step before left behind it, the rest. */
static void place_tasks(chain *c)
{
    enum { WARM_UP, LEFT_BEHIND, REST, KINDS };
    for (int32_t k = 0; k < c->steps; k++) {
        for (int32_t t = 0; t < c->p->tasks; t++) {
            const int64_t kind = c->lead[t] ? WARM_UP : c->late[t] ? KINDS + LEFT_BEHIND : REST;
            c->b.key[(size_t)k * (size_t)c->p->tasks + (size_t)t] = ((int64_t)KINDS * k + kind) * c->p->tasks + t;
        }
    }
}

/* ---- what steps wait for: arenas */

typedef struct cut { /* bytes from here to the next cut; what drops the values that lie there, by lane: the last task */
    int64_t at;
    int32_t drop[QN_LANES];
} cut;

static int by_place(const void *pa, const void *pb)
{
    const int64_t a = ((const cut *)pa)->at, b = ((const cut *)pb)->at;
    return (a > b) - (a < b);
}

static int32_t find_cut(const cut *list, int32_t n, int64_t at)
{
    int32_t low = 0, high = n;
    while (low < high) {
        const int32_t mid = low + (high - low) / 2;
        if (list[mid].at < at)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* The cut that begins at or before the byte: another worker's values need not begin at a cut. */
static int32_t first_cut(const cut *list, int32_t n, int64_t at)
{
    const int32_t i = find_cut(list, n, at);
    return i > 0 && (i == n || list[i].at > at) ? i - 1 : i;
}

static bool in_arena(const qn_plan *p, int32_t v, int32_t w)
{
    return p->value[v].worker == w && p->value[v].offset != QN_NONE && p->value[v].bytes > 0;
}

static int32_t list_cuts(cut *list, const qn_plan *p, int32_t w)
{
    int32_t n = 0, kept = 0;
    for (int32_t v = 0; v < p->values; v++) {
        if (!in_arena(p, v, w)) continue;
        list[n++].at = p->value[v].offset;
        list[n++].at = p->value[v].offset + p->value[v].bytes;
    }
    if (n > 1) qsort(list, (size_t)n, sizeof *list, by_place);
    for (int32_t i = 0; i < n; i++)
        if (kept == 0 || list[kept - 1].at != list[i].at) list[kept++].at = list[i].at;
    for (int32_t i = 0; i < kept; i++) memset(list[i].drop, 0xff, sizeof list[i].drop); /* QN_NONE */
    return kept;
}

/* Tasks of worker w after those of the worker that was there so many steps back; in task order first all that drop, then all that
 * write. writer: [values] */
static void wait_for_bytes(chain *c, cut *list, const int32_t *writer, const int32_t *dropper, int32_t w, int32_t back)
{
    const qn_plan *p = c->p;
    const int32_t there = place_of(c, w, back), n = list_cuts(list, p, there);
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t v = 0; v < p->values; v++) {
            if (!in_arena(p, v, pass == 0 ? there : w) || writer[v] == QN_NONE) continue;
            const int64_t end = p->value[v].offset + p->value[v].bytes;
            const int32_t drop = qn_joint_last(p, dropper[v]);
            int32_t need[QN_LANES];
            memset(need, 0xff, sizeof need);
            for (int32_t i = first_cut(list, n, p->value[v].offset); i < n && list[i].at < end; i++) {
                int32_t *at = &list[i].drop[p->task[drop].lane];
                if (pass == 0) *at = qn_max32(*at, drop);
                for (int32_t l = 0; l < QN_LANES; l++) need[l] = qn_max32(need[l], list[i].drop[l]);
            }
            for (int32_t l = 0; pass == 1 && l < QN_LANES; l++)
                if (need[l] != QN_NONE) add_pair(c, writer[v], need[l], back);
        }
    }
}

static qn_status chain_arenas(chain *c, qn_err *err)
{
    const qn_plan *p = c->p;
    qn_status st = QN_OK;
    char name[QNI_NAME];
    cut *list = qn_malloc(2 * (size_t)p->values, sizeof *list);
    int32_t *writer = qn_malloc((size_t)p->values, sizeof *writer), *dropper = qn_malloc((size_t)p->values, sizeof *dropper);
    if (list == NULL || writer == NULL || dropper == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "a flight of %d tasks", p->tasks);
        goto out;
    }
    for (int32_t v = 0; v < p->values; v++) writer[v] = dropper[v] = QN_NONE;
    for (int32_t t = 0; t < p->tasks; t++) {
        const qn_task *x = &p->task[t];
        for (int32_t i = 0; i < x->free.count; i++) dropper[p->ref[x->free.first + i]] = t;
        for (int32_t i = 0; i < x->out.count; i++) writer[p->ref[x->out.first + i]] = t;
        for (int32_t i = 0; i < x->acc.count; i++) { /* what is only added to begins with its first addition */
            int32_t *at = &writer[p->ref[x->acc.first + i]];
            if (*at == QN_NONE) *at = t;
        }
    }
    for (int32_t v = 0; v < p->values; v++) {
        if (p->value[v].offset == QN_NONE || writer[v] == QN_NONE || dropper[v] != QN_NONE) continue;
        st = QN_FAIL(err, QN_EINVAL, "%s stays in its arena from step to step: such plans make no flights",
                     qni_value_text(name, sizeof name, p, v));
        goto out;
    }
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t back = 1; back <= c->period; back++) wait_for_bytes(c, list, writer, dropper, w, back);
out:
    qn_free(list);
    qn_free(writer);
    qn_free(dropper);
    return st;
}

/* ---- what steps wait for: homes and host copies */

typedef struct node { /* of a list of tasks, the last in front */
    int32_t task, next;
} node;

/* Per group the last task of each lane that touches it, and the first of each lane that writes it. */
static qn_status chain_homes(chain *c, qn_err *err)
{
    const qn_plan *p = c->p;
    int32_t *group = NULL, nodes = 0;
    const int32_t groups = qni_home_groups(&group, p);
    /* Accumulators of a plan without step tasks are each worker's own: with the cursor a part of the plan finds others. */
    for (int32_t v = 0; groups >= 0 && c->turn > 0 && v < p->values; v++)
        if (!p->value[v].host) group[v] = QN_NONE;
    const size_t heads = groups > 0 ? (size_t)groups : 1;
    node *list = qn_malloc(2 * (size_t)p->refs + 1, sizeof *list);
    int32_t *touched = qn_malloc(heads, sizeof *touched), *wrote = qn_malloc(heads, sizeof *wrote);
    qn_status st = QN_OK;
    if (groups < 0 || list == NULL || touched == NULL || wrote == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "a flight of %d tasks", p->tasks);
        goto out;
    }
    for (int32_t g = 0; g < groups; g++) touched[g] = wrote[g] = QN_NONE;
    for (int32_t t = 0; t < p->tasks; t++) {
        const qn_span span[] = {p->task[t].in, p->task[t].out, p->task[t].acc};
        for (int32_t k = 0; k < 3; k++) {
            for (int32_t i = 0; i < span[k].count; i++) {
                const int32_t g = group[p->ref[span[k].first + i]];
                if (g == QN_NONE) continue;
                const bool again = touched[g] != QN_NONE && qni_lane_of(p, list[touched[g]].task) == qni_lane_of(p, t);
                const bool first = wrote[g] == QN_NONE || qni_lane_of(p, list[wrote[g]].task) != qni_lane_of(p, t);
                if (!again) {
                    list[nodes] = (node){t, touched[g]};
                    touched[g] = nodes++;
                }
                list[touched[g]].task = t;
                if (k == 0 || !first) continue;
                list[nodes] = (node){t, wrote[g]};
                wrote[g] = nodes++;
            }
        }
    }
    for (int32_t g = 0; g < groups; g++)
        for (int32_t a = wrote[g]; a != QN_NONE; a = list[a].next)
            for (int32_t b = touched[g]; b != QN_NONE; b = list[b].next) add_pair(c, list[a].task, list[b].task, 1);
out:
    qn_free(group);
    qn_free(list);
    qn_free(touched);
    qn_free(wrote);
    return st;
}

/* ---- what steps wait for: weights */

/* Do both stages read the same copy of a weight on a worker that has them? */
static bool same_weights(const qn_plan *p, int32_t a, int32_t b)
{
    const qn_grid g = qn_plan_grid(p);
    if (a < 0 || b < 0) return false;
    return qn_chain_stage(g, a) == qn_chain_stage(g, b) && qn_shard(g, a) == qn_shard(g, b);
}

/* Parameters that a message has brought: what works with them next waits for the message. */
static void wait_for_params(chain *c, int32_t recv)
{
    const qn_plan *p = c->p;
    const int32_t w = p->task[recv].worker, first = p->lane[w][QN_LANE_COMP][0], end = first + p->lane[w][QN_LANE_COMP][1];
    const int32_t stage = p->value[p->ref[p->task[recv].out.first]].stage;
    for (int32_t s = 0; s < p->stages; s++) {
        if (!same_weights(p, s, stage)) continue;
        int32_t t = first;
        while (t < end && p->task[t].stage != s) t++;
        if (t < end) add_pair(c, t, recv, 1);
    }
}

/* A stage whose gradient TIE adds to the owner's shares a weight that the owner steps. */
static bool is_tied(const qn_plan *p, int32_t tie, int32_t stage)
{
    const qn_span in = p->task[tie].in;
    for (int32_t i = 0; i < in.count; i++)
        if (p->value[p->ref[in.first + i]].stage == stage) return true;
    return false;
}

bool qni_makes_loaded(const qn_plan *p, int32_t t, bool copies)
{
    const int32_t op = p->task[t].op; /* what VALIDATE takes back nobody has loaded */
    return p->task[t].lane == QN_LANE_HOST && (copies ? op == QN_OP_PCOPY : op == QN_OP_OPT || op == QN_OP_VALIDATE);
}

/* The shard's TIE on the host, or QN_NONE. */
static int32_t host_tie(const qn_plan *p, int32_t shard)
{
    for (int32_t i = 0; i < p->lane[0][QN_LANE_HOST][1]; i++) {
        const int32_t t = p->lane[0][QN_LANE_HOST][0] + i;
        if (p->task[t].op == QN_OP_TIE && qn_shard(qn_plan_grid(p), p->task[t].stage) == shard) return t;
    }
    return QN_NONE;
}

static void wait_for_host(chain *c)
{
    const qn_plan *p = c->p;
    const qn_grid g = qn_plan_grid(p);
    bool copies = false;
    for (int32_t t = 0; t < p->tasks; t++) copies = copies || p->task[t].op == QN_OP_PCOPY;
    for (int32_t t = 0; t < p->tasks; t++) {
        if (p->task[t].op != QN_OP_LOAD || p->value[p->ref[p->task[t].in.first]].cls != QN_V_PARAM) continue;
        const int32_t s = qn_in_first_replica(g, p->task[t].stage), tie = host_tie(p, qn_shard(g, s)); /* the host steps s */
        for (int32_t o = p->lane[0][QN_LANE_HOST][0], i = 0; i < p->lane[0][QN_LANE_HOST][1]; i++) {
            const int32_t of = p->task[o + i].stage;
            if (!qni_makes_loaded(p, o + i, copies)) continue;
            if (of == s || (tie != QN_NONE && of == qn_in_first_replica(g, p->task[tie].stage) && is_tied(p, tie, s)))
                add_pair(c, t, o + i, 1);
        }
    }
}

static void chain_weights(chain *c)
{
    const qn_plan *p = c->p;
    for (int32_t t = 0; t < p->tasks; t++)
        if (p->task[t].op == QN_OP_RECV && p->value[p->ref[p->task[t].out.first]].cls == QN_V_TPARAM) wait_for_params(c, t);
    if (qni_plan_has_tiers(p)) wait_for_host(c);
}

/* ---- the plan */

static void add_steps(chain *c)
{
    const qn_plan *p = c->p;
    qni_builder *b = &c->b;
    for (int32_t k = 0; k < c->steps && !b->failed; k++) {
        for (int32_t v = 0; v < p->values; v++) {
            const qn_value *x = &p->value[v];
            const int32_t id = qni_add_value(b, x->cls, x->stage, x->item, x->worker, x->bytes);
            if (b->failed) return;
            b->value[id] = *x;
            if (!x->host) b->value[id].worker = place_of(c, x->worker, k);
        }
        for (int32_t t = 0; t < p->tasks; t++) {
            const qn_task *x = &p->task[t];
            const int32_t w = x->lane == QN_LANE_HOST ? x->worker : place_of(c, x->worker, k);
            const int32_t id = qni_add_task(b, x->op, x->stage, x->item, w, x->lane);
            const qn_span span[] = {x->in, x->out, x->acc, x->free};
            if (b->failed) return;
            b->task[id].step = k;
            b->task[id].channel = x->channel == QN_NONE ? QN_NONE : k % c->period * p->channels + x->channel;
            b->task[id].tag = x->tag;
            b->task[id].cost = x->cost;
            for (int32_t i = 0; i < 4; i++)
                for (int32_t j = 0; j < span[i].count; j++)
                    qni_add_link(b, id, (qni_link_kind)i, k * p->values + p->ref[span[i].first + j]);
        }
    }
    for (int32_t k = 0; k < qn_min32(c->period, c->steps); k++) { /* those of each place of the cursor */
        for (int32_t i = 0; i < p->channels; i++) {
            qn_channel x = p->channel[i];
            x.from = place_of(c, x.from, k);
            x.to = place_of(c, x.to, k);
            qni_add_channel(b, x);
        }
    }
}

static void add_waits(chain *c)
{
    const qn_plan *p = c->p;
    for (int32_t k = 0; k < c->steps; k++) {
        for (int32_t t = 0; t < p->tasks; t++) {
            const qn_span wait = p->task[t].wait;
            for (int32_t i = 0; i < wait.count; i++)
                qni_add_link(&c->b, k * p->tasks + t, QNI_WAIT, k * p->tasks + p->ref[wait.first + i]);
        }
        for (int32_t i = 0; i < c->pairs; i++)
            if (c->pair[i].back <= k)
                qni_add_link(&c->b, k * p->tasks + c->pair[i].task, QNI_WAIT,
                             (k - c->pair[i].back) * p->tasks + c->pair[i].before);
    }
}

static qn_status build(qn_plan **out, chain *c, int32_t *place, qn_err *err)
{
    const qn_plan *from = c->p;
    qn_plan *p = NULL;
    qn_status st = qni_builder_plan(&p, &c->b, from->workers, from->stages, from->items, from->worker_of, place, err);
    if (st != QN_OK) return st;
    p->steps = c->steps;
    p->columns = from->columns;
    p->shards = from->shards;
    p->sides = from->sides;
    p->vocab = from->vocab;
    p->round = from->round;
    p->turn = from->turn;
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t k = 0; k < qn_min32(c->period, c->steps); k++) {
            int64_t *at = &p->arena_bytes[place_of(c, w, k)];
            *at = qn_max64(*at, from->arena_bytes[w]);
        }
    memcpy(p->arena_limit, from->arena_limit, (size_t)p->workers * sizeof *p->arena_limit);
    if (from->backward_of != NULL) {
        p->backward_of = qn_malloc((size_t)p->stages, sizeof *p->backward_of);
        if (p->backward_of == NULL) {
            st = QN_FAIL(err, QN_ENOMEM, "plan of %d stages", p->stages);
            goto out;
        }
        memcpy(p->backward_of, from->backward_of, (size_t)p->stages * sizeof *p->backward_of);
    }
    QN_TRY(st, qn_plan_finish(p, err), out);
    QN_TRY(st, qn_plan_validate(p, err), out);
    *out = p;
    p = NULL;
out:
    qn_plan_close(p);
    return st;
}

qn_status qn_plan_chain(qn_plan **out, const qn_plan *one, int32_t steps, int32_t *place, qn_err *err)
{
    chain c = {.p = one, .steps = steps, .turn = qn_step_turn(one), .period = qn_cursor_period(one)};
    qn_status st = QN_OK;
    *out = NULL;
    if (one->steps != 1) return QN_FAIL(err, QN_EINVAL, "a flight is made of a plan of one step; this one has %d", one->steps);
    const int64_t most = qn_max64(qn_max64(one->tasks, one->values), one->refs);
    if (steps < 1 || steps > QN_MAX_STEPS || steps * qn_max64(most, 1) > INT32_MAX / 2)
        return QN_FAIL(err, QN_ERANGE, "a flight of %d steps of %d tasks: 1 to %lld steps are possible", steps, one->tasks,
                       (long long)qn_min64(QN_MAX_STEPS, INT32_MAX / 2 / qn_max64(most, 1)));
    c.lead = qn_calloc((size_t)one->tasks, sizeof *c.lead);
    c.late = qn_calloc((size_t)one->tasks, sizeof *c.late);
    if (c.lead == NULL || c.late == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "a flight of %d tasks", one->tasks);
        goto out;
    }
    QN_TRY(st, mark_moved(&c, err), out);
    QN_TRY(st, chain_arenas(&c, err), out);
    QN_TRY(st, chain_homes(&c, err), out);
    chain_weights(&c);
    add_steps(&c);
    add_waits(&c);
    if (c.failed || c.b.failed) {
        st = QN_FAIL(err, QN_ENOMEM, "a flight of %d steps of %d tasks", steps, one->tasks);
        goto out;
    }
    place_tasks(&c);
    st = build(out, &c, place, err);
out:
    qni_builder_fini(&c.b);
    qn_free(c.lead);
    qn_free(c.late);
    qn_free(c.pair);
    return st;
}
