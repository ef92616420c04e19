/* See schedule_subject.h. */
#include "schedule_subject.h"

#include <math.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/io.h"
#include "session/report/report.h"

static const int64_t usual_cost[QN_OPS] = {
    [QN_OP_F] = 1, [QN_OP_B] = 1, [QN_OP_W] = 1, [QN_OP_BW] = 2, [QN_OP_R] = 1, [QN_OP_VS] = 1, [QN_OP_VT] = 1};

void qni_subject_close(qni_subject *s)
{
    if (s->plan != s->from.plan) qn_plan_close(s->plan);
    qni_schedule_fini(&s->from);
    qn_free(s->cost);
    for (int k = 0; k < QNI_SIZES; k++) qn_free(s->size[k]);
    qn_free(s->trace.time);
    qn_free(s->sum);
    qn_free(s->idle);
    qn_free(s->memory);
    qn_free(s->copies);
    qn_free(s->steps);
    qni_rounds_fini(&s->rounds);
    *s = (qni_subject){.fine = 0};
}

static bool costs_said(const qni_costs *c)
{
    return c->tick[QN_OP_F] >= 0;
}

static bool sizes_said(const qni_costs *c)
{
    return c->size[QNI_SIZE_ACT] != NULL || c->size[QNI_SIZE_STASH] != NULL || c->size[QNI_SIZE_WSTASH] != NULL || c->device.any;
}

/* The costs and sizes of a column of depth stages. Where no times are said but others are finer, a task takes as many ticks as it
 * has parts. */
static qn_status spread(qni_subject *s, const qni_costs *costs, int32_t depth, int32_t fine, qn_err *err)
{
    qni_costs said = *costs;
    qn_free(s->cost);
    for (int k = 0; k < QNI_SIZES; k++) qn_free(s->size[k]);
    s->cost = NULL;
    memset(s->size, 0, sizeof s->size);
    s->depth = depth;
    s->fine = fine > 0 ? fine : depth;
    if (!costs_said(costs)) {
        if (fine <= depth && !sizes_said(costs)) return QN_OK;
        for (int op = 0; op < QN_OPS; op++) said.tick[op] = (int64_t)((double)usual_cost[op] * costs->scale);
    }
    qn_status st = qni_costs_spread(&s->cost, s->size, &said, depth, s->fine, err);
    if (st == QN_OK && !costs_said(costs) && fine <= depth) {
        qn_free(s->cost);
        s->cost = NULL;
    }
    return st;
}

/* The sizes of one column for all of them. */
static qn_status repeat_sizes(qni_subject *s, int32_t stages, qn_err *err)
{
    const qn_grid g = s->from.plan != NULL ? qn_plan_grid(s->from.plan) : qn_order_grid(s->from.order);
    for (int k = 0; k < QNI_SIZES && stages > s->depth; k++) {
        if (s->size[k] == NULL) continue;
        int64_t *wide = qn_calloc((size_t)stages, sizeof *wide);
        if (wide == NULL) return QN_FAIL(err, QN_ENOMEM, "sizes of %d stages", stages);
        for (int32_t i = 0; i < stages; i++)
            wide[i] = qn_is_side(g, i) ? 0 : s->size[k][qn_chain_stage(g, i)]; /* not said of shards */
        qn_free(s->size[k]);
        s->size[k] = wide;
    }
    return QN_OK;
}

/* Of a task of a vocabulary shard. */
static int64_t shard_cost(const qni_costs *c, int op)
{
    return c->tick[op] >= 0 ? c->tick[op] : (int64_t)((double)usual_cost[op] * c->scale);
}

static int64_t mean_cost(const qni_subject *s, int op)
{
    int64_t sum = 0;
    for (int32_t i = 0; i < s->depth; i++) sum += s->cost[i][op];
    return (sum + s->depth / 2) / s->depth;
}

static int32_t stages_per_worker(int32_t stages, int32_t workers)
{
    return (stages + workers - 1) / workers;
}

qn_status qni_subject_take(qni_subject *s, const char *name, qn_order *order, const qni_costs *costs, int32_t fine, qn_err *err)
{
    *s = (qni_subject){.chunks = stages_per_worker(order->columns * qn_depth(qn_order_grid(order)), order->workers)};
    snprintf(s->name, sizeof s->name, "%s", name);
    s->from = (qni_schedule){.form = QN_FORM_ORDER, .order = order};
    const qn_status st = spread(s, costs, qn_depth(qn_order_grid(order)), fine, err);
    return st == QN_OK ? repeat_sizes(s, order->stages, err) : st;
}

/* A memory limit in micro-batches as a number of stashes of a stage; one in bytes stays as it is. */
static qn_status stash_limit(int32_t *limit, double *bytes, const qn_schedule_options *opt, const qni_costs *costs,
                             int32_t chunks, qn_err *err)
{
    double most = 0;
    *limit = 0;
    const qn_status st = qni_memory_parse(&most, opt->memory, err);
    if (st != QN_OK || most <= 0) return st;
    if (sizes_said(costs))
        *bytes = most;
    else
        *limit = (int32_t)fmax(1, fmin(most * chunks, 1 << 20));
    return QN_OK;
}

qn_status qni_subject_open(qni_subject *s, const char *name, int64_t chunks, const qn_schedule_options *opt,
                           const qni_costs *costs, int32_t fine, qn_err *err)
{
    *s = (qni_subject){.generator = qn_generator_find(name)};
    snprintf(s->name, sizeof s->name, "%s", name);
    if (s->generator == NULL && qn_path_exists(name) == 1) {
        qn_status st = qni_schedule_read(&s->from, name, err);
        if (st != QN_OK) return st;
        const int32_t stages = s->from.plan != NULL ? s->from.plan->stages : s->from.order->stages;
        s->chunks = stages_per_worker(stages, s->from.plan != NULL ? s->from.plan->workers : s->from.order->workers);
        const qn_grid grid = s->from.plan != NULL ? qn_plan_grid(s->from.plan) : qn_order_grid(s->from.order);
        st = spread(s, costs, qn_depth(grid), 0, err);
        return st == QN_OK ? repeat_sizes(s, stages, err) : st;
    }
    s->from.form = QN_FORM_ORDER;
    s->chunks = (int32_t)(chunks > 0 ? chunks : s->generator != NULL ? s->generator->usual_chunks : 1);
    qn_pattern pattern = {.workers = (int32_t)opt->workers,
                          .items = (int32_t)opt->micro_batches,
                          .chunks = s->chunks,
                          .group = (int32_t)opt->group};
    const bool adaptive = s->generator != NULL && s->generator->generate == qn_gen_v_adaptive;
    const bool pieces = s->generator != NULL && (s->generator->host_state || s->generator->max_workers == 1);
    if (pieces) pattern.pieces = (int32_t)opt->pieces;
    if (pieces && opt->pieces == 0 && chunks == 0) pattern.pieces = costs->stages; /* as many as are told apart */
    if (opt->cut != NULL && (s->generator == NULL || !s->generator->host_state || pattern.pieces == 0 || opt->pieces > 0))
        return QN_FAIL(err, QN_EINVAL,
                       "--cut is for roundpipe with the costs of each layer (--cost 0-11:F=1,B=2;12:F=3,B=6), "
                       "without --pieces and --chunks");
    int64_t stages = opt->workers * s->chunks / (s->generator != NULL ? qn_generator_replicas(s->generator) : 1);
    if (pattern.pieces > 0) stages = pattern.pieces;
    qn_status st = QN_OK;
    if (opt->vocab_shards > 0 && opt->vocab_parallel == 0)
        return QN_FAIL(err, QN_EINVAL, "--vocab-shards %" PRId64 " needs --vocab-parallel 1 or 2", opt->vocab_shards);
    const bool can = s->generator != NULL && qn_generator_can(s->generator, pattern.workers, pattern.items);
    if (can && s->generator->host_state && opt->pieces == 0 && pattern.pieces > 0) {
        st = qni_rounds_cut(&s->rounds, opt, costs, err);
        if (st != QN_OK) return st;
        pattern.pieces = s->rounds.pieces;
        pattern.forward_slot = s->rounds.slot[0];
        pattern.backward_slot = s->rounds.slot[1];
        st = spread(s, &s->rounds.costs, pattern.pieces, 0, err);
    } else if (stages >= 1 && stages <= 65536 && can) {
        st = spread(s, costs, (int32_t)stages, fine, err);
    }
    if (st == QN_EINVAL && err != NULL) {
        char why[QN_ERR_TEXT];
        snprintf(why, sizeof why, "%s", err->text);
        return QN_FAIL(err, st, "%s: %.900s", name, why);
    }
    if (st != QN_OK) return st;
    if (pattern.pieces > 0 && pieces) s->chunks = stages_per_worker(pattern.pieces, pattern.workers);
    if (s->generator != NULL && s->generator->host_state) pattern.stage_cost = (const int64_t(*)[QN_OPS])s->cost;
    for (int op = 0; op < QN_OPS; op++) pattern.cost[op] = s->cost == NULL || op > QN_OP_R ? usual_cost[op] : mean_cost(s, op);
    for (int op = QN_OP_VI; op <= QN_OP_VJ; op++) pattern.cost[op] = shard_cost(costs, op);
    pattern.vocab = (int32_t)opt->vocab_parallel;
    pattern.sides = (int32_t)opt->vocab_shards;
    pattern.cost[QN_OP_SEND] = costs->latency;
    if (adaptive) st = stash_limit(&pattern.limit, &s->adapt, opt, costs, s->chunks, err);
    if (st != QN_OK) return st;
    s->pattern = pattern;
    st = qn_generate(&s->from.order, name, &pattern, err);
    if (st != QN_OK) return st;
    return repeat_sizes(s, s->from.order->stages, err);
}

/* Gives the tasks of an order their times before it is lowered: the user's, else the file's own, else the usual ones. */
static void set_order_costs(qni_subject *s, const qni_costs *c)
{
    qn_order *o = s->from.order;
    for (int op = 0; op < QN_OPS; op++) {
        const int64_t own = o->cost[op] >= 0 ? o->cost[op] : usual_cost[op];
        o->cost[op] = s->cost != NULL ? mean_cost(s, op) : own * (int64_t)c->scale;
        if (op >= QN_OP_VI && op <= QN_OP_VJ && (s->cost != NULL || c->tick[op] >= 0)) o->cost[op] = shard_cost(c, op);
    }
}

static void set_plan_costs(qni_subject *s, const qni_costs *c)
{
    for (int32_t i = 0; i < s->plan->tasks; i++) {
        qn_task *t = &s->plan->task[i];
        if (s->cost != NULL && t->op >= QN_OP_F && t->op <= QN_OP_R)
            t->cost = s->cost[qn_chain_stage(qn_plan_grid(s->plan), t->stage)][t->op];
        else if (t->op >= QN_OP_VI && t->op <= QN_OP_VJ && c->tick[t->op] >= 0)
            t->cost = c->tick[t->op];
        else if (s->from.plan != NULL)
            t->cost *= (int64_t)c->scale;
    }
}

static qn_status make_plan(qni_subject *s, const qn_schedule_options *opt, const qni_costs *costs, qn_err *err)
{
    if (costs != NULL) s->device = costs->device;
    if (s->from.plan != NULL) {
        if (qni_steps_of(opt) > 1)
            return QN_FAIL(err, QN_EINVAL, "%s is a plan, of steps as it has them: --steps wants an order", s->name);
        if (s->device.any)
            return QN_FAIL(err, QN_EINVAL,
                           "%s is a plan, whose copies are settled: --device-memory, --link and --window want an order", s->name);
        s->plan = s->from.plan;
        s->in_bytes = true;
        return qn_plan_validate(s->plan, err);
    }
    const qn_order *o = s->from.order;
    qn_lowering how = {.act_bytes = s->size[QNI_SIZE_ACT],
                       .stash_bytes = s->size[QNI_SIZE_STASH],
                       .wstash_bytes = s->size[QNI_SIZE_WSTASH],
                       .recompute = opt == NULL || opt->recompute == 0 ? QN_RECOMPUTE_NONE
                                    : opt->recompute == 2              ? QN_RECOMPUTE_EXCEPT_LAST
                                                                       : QN_RECOMPUTE_FULL,
                       .recompute_late = opt != NULL && opt->recompute == 3,
                       .depth = opt != NULL ? (int32_t)opt->depth : 0,
                       .opaque_pairs = opt != NULL && opt->pairs != 0,
                       .forward_only = opt != NULL && opt->forward != 0,
                       .tied_owner = QN_NONE,
                       .tied_replica = QN_NONE};
    for (int k = 0; k <= QNI_SIZE_WSTASH; k++) s->in_bytes = s->in_bytes || s->size[k] != NULL;
    s->in_bytes = s->in_bytes || o->act_bytes != NULL || o->stash_bytes != NULL || o->wstash_bytes != NULL || s->device.any;
    /* Backwards on other workers: the optimizer finds the state on the host, even where copies take no time. */
    if (qni_steps_of(opt) > 1 && opt->optimizer_lag == 0 && o->backward_of != NULL) s->device.any = true;
    const qn_tiers lag = {.lag = qni_steps_of(opt) > 1 ? (int32_t)opt->optimizer_lag : 0};
    if (s->device.any) how.tiers = &lag;
    qni_steps_lower(&how, opt, s->device.any);
    if (s->device.any) return qni_devices_lower(&s->plan, &s->window, o, &how, &s->device, s->size, err);
    return qn_lower(&s->plan, o, &how, err);
}

static double most_bytes(const qn_plan *p)
{
    int64_t most = 0;
    for (int32_t w = 0; w < p->workers; w++) most = qn_max64(most, p->arena_bytes[w]);
    return (double)most;
}

/* v-adaptive and a limit in bytes: blocks that hold fewer and fewer stashes until one fits, or none holds less. */
static qn_status adapt(qni_subject *s, const qn_schedule_options *opt, const qni_costs *costs, qn_err *err)
{
    qn_err refused = {.code = QN_OK};
    qn_status st = QN_OK;
    while (st == QN_OK && s->adapt > 0 && most_bytes(s->plan) > s->adapt) {
        qn_order *less = NULL;
        s->pattern.limit = (s->pattern.limit > 0 ? s->pattern.limit : 2 * s->pattern.workers) - 1;
        if (s->pattern.limit < 1) break;
        st = qn_generate(&less, s->name, &s->pattern, &refused);
        if (st == QN_EINVAL) return QN_OK;
        if (st != QN_OK) break;
        qn_order_close(s->from.order);
        s->from.order = less;
        qn_plan_close(s->plan);
        s->plan = NULL;
        set_order_costs(s, costs);
        st = make_plan(s, opt, costs, err);
    }
    return st;
}

/* Micro-batches that a worker holds at once: a stash of one of its k stages of a column is 1 / k of one. Where backwards run on
 * other workers than forwards no worker has stages of its own: a stash of one of S stages is then P / S, as much as it is of a
 * worker's share elsewhere. */
static void count_memory(qni_subject *s)
{
    const qn_plan *p = s->plan;
    for (int32_t w = 0; w < p->workers && p->backward_of != NULL; w++)
        s->memory[w] = s->in_bytes ? (double)p->arena_bytes[w] : (double)s->sum->peak[w] * p->workers / p->stages;
    for (int32_t w = 0; w < p->workers && p->backward_of == NULL; w++) {
        int32_t mine = 0, columns = 0, last = QN_NONE;
        for (int32_t i = 0; i < p->stages; i++) {
            if (p->worker_of[i] != w || qn_is_side(qn_plan_grid(p), i)) continue;
            const int32_t column = qn_column(qn_plan_grid(p), i);
            columns += column != last;
            last = column;
            mine++;
        }
        s->memory[w] = s->in_bytes ? (double)p->arena_bytes[w] : mine > 0 ? (double)s->sum->peak[w] * columns / mine : 0;
    }
    for (int32_t i = 0; i < p->tasks; i++) s->messages += p->task[i].op == QN_OP_SEND;
}

/* The step as it would be if whatever is not on the comp lane took no time. */
static qn_status count_exposed(qni_subject *s, int64_t latency, qn_err *err)
{
    const qn_plan *p = s->plan;
    qn_trace ideal = {.time = qn_calloc((size_t)p->tasks + 1, sizeof *ideal.time)};
    int64_t *cost = qn_calloc((size_t)p->tasks + 1, sizeof *cost), end = 0;
    qn_status st = QN_OK;
    bool slow = latency > 0;
    for (int32_t i = 0; i < p->tasks; i++) slow = slow || (p->task[i].lane != QN_LANE_COMP && p->task[i].cost > 0);
    if (ideal.time == NULL || cost == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "a trace of %d tasks", p->tasks);
        goto out;
    }
    if (!slow) goto out;
    for (int32_t i = 0; i < p->tasks; i++) cost[i] = p->task[i].lane == QN_LANE_COMP ? p->task[i].cost : 0;
    const qn_sim_options how = {.cost = cost};
    QN_TRY(st, qn_simulate(&ideal, p, &how, err), out);
    for (int32_t i = 0; i < p->tasks; i++)
        if (p->task[i].op <= QN_OP_VJ && ideal.time[i].end > ideal.time[i].start) end = qn_max64(end, ideal.time[i].end);
    s->exposed = s->sum->makespan - end;
out:
    qn_free(ideal.time);
    qn_free(cost);
    return st;
}

qn_status qni_subject_simulate(qni_subject *s, const qn_schedule_options *opt, const qni_costs *costs, qn_err *err)
{
    qn_status st;
    const int64_t latency = costs != NULL ? costs->latency : 0;
    if (costs != NULL && s->from.order != NULL) set_order_costs(s, costs);
    QN_TRY(st, make_plan(s, opt, costs, err), out);
    if (costs != NULL) QN_TRY(st, adapt(s, opt, costs, err), out);
    QN_TRY(st, qni_steps_chain(&s->plan, qni_steps_of(opt), err), out);
    if (costs != NULL) set_plan_costs(s, costs);
    if (costs != NULL) QN_TRY(st, qni_devices_time(s->plan, costs, err), out);
    s->latency = latency;
    if (costs != NULL) snprintf(s->unit, sizeof s->unit, "%s", costs->unit);
    if (opt != NULL && opt->head_ahead != 0) QN_TRY(st, qni_rounds_head_ahead(s->plan, err), out);
    s->trace.time = qn_calloc((size_t)s->plan->tasks + 1, sizeof(*s->trace.time));
    if (costs != NULL && (costs->scale > 1 || costs->unit[0] != '\0')) {
        s->trace.ticks_per_ms = (int64_t)costs->scale;
        s->trace.unit = strcmp(costs->unit, "ms") == 0 ? NULL : "time";
    }
    s->sum = qn_malloc(1, sizeof(*s->sum));
    s->idle = qn_calloc((size_t)s->plan->workers, sizeof(*s->idle));
    s->memory = qn_calloc((size_t)s->plan->workers, sizeof(*s->memory));
    if (s->trace.time == NULL || s->sum == NULL || s->idle == NULL || s->memory == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "a trace of %d tasks", s->plan->tasks);
        goto out;
    }
    const qn_sim_options how = {.latency = latency};
    QN_TRY(st, qn_simulate(&s->trace, s->plan, &how, err), out);
    qn_trace_summarize(s->sum, &s->trace);
    QN_TRY(st, qn_trace_split_idle(s->idle, &s->trace, latency, err), out);
    QN_TRY(st, count_exposed(s, latency, err), out);
    count_memory(s);
    s->messages /= s->plan->steps;
    if (s->plan->steps > 1) {
        s->steps = qn_calloc((size_t)s->plan->steps, sizeof *s->steps);
        if (s->steps == NULL) return QN_FAIL(err, QN_ENOMEM, "shares of %d steps", s->plan->steps);
        QN_TRY(st, qn_trace_split_steps(s->steps, &s->trace, latency, err), out);
    }
    if (costs != NULL && costs->device.any) {
        s->copies = qn_calloc((size_t)s->plan->workers, sizeof *s->copies);
        if (s->copies == NULL) return QN_FAIL(err, QN_ENOMEM, "copies of %d workers", s->plan->workers);
        s->copies_end = qni_devices_count(s->copies, &s->trace);
    }
out:
    return st;
}

double qni_subject_memory(const qni_subject *s, int32_t *worker)
{
    double most = 0;
    for (int32_t w = 0; w < s->plan->workers; w++) {
        if (s->memory[w] <= most) continue;
        most = s->memory[w];
        if (worker != NULL) *worker = w;
    }
    return most;
}

const char *qni_memory_text(char buf[32], double x, bool in_bytes)
{
    const double k = 1024;
    if (!in_bytes || x < 10 * k)
        snprintf(buf, 32, in_bytes ? "%.0f" : "%.6g", x);
    else if (x < 10 * k * k)
        snprintf(buf, 32, "%.1fK", x / k);
    else if (x < 10 * k * k * k)
        snprintf(buf, 32, "%.1fM", x / (k * k));
    else
        snprintf(buf, 32, "%.2fG", x / (k * k * k));
    return buf;
}

qn_status qni_subject_fits(const qni_subject *s, double limit, qn_err *err)
{
    int32_t w = 0;
    const double most = qni_subject_memory(s, &w);
    if (limit <= 0 || most <= limit * (1 + 1e-12)) return QN_OK;
    return QN_FAIL(err, QN_EINVAL,
                   "%s needs %.15g %s on worker %d and --memory allows %.15g; the smallest limit it fits in is %.15g", s->name,
                   most, s->in_bytes ? "bytes" : "micro-batches", w, limit, most);
}

/* ---- texts */

void qni_json_name(qni_page *p, const char *name, const char *value)
{
    qni_page_add(p, "\"%s\": \"", name);
    for (; *value != '\0'; value++) {
        const unsigned char c = (unsigned char)*value;
        if (c == '"' || c == '\\')
            qni_page_add(p, "\\%c", c);
        else if (c < 0x20)
            qni_page_add(p, "\\u%04x", c);
        else
            qni_page_bytes(p, value, 1);
    }
    qni_page_add(p, "\"");
}

void qni_json_array(qni_page *p, const char *name, const int64_t *value, int32_t count, double scale)
{
    qni_page_add(p, ", \"%s\": [", name);
    for (int32_t i = 0; i < count; i++) {
        if (i > 0) qni_page_add(p, ", ");
        qni_page_number(p, (double)value[i] / scale);
    }
    qni_page_add(p, "]");
}

static const char *const part_name[QN_IDLE_PARTS] = {
    [QN_IDLE_FILL] = "fill",         [QN_IDLE_DRAIN] = "drain",           [QN_IDLE_SWITCH] = "switch",
    [QN_IDLE_INTERNAL] = "internal", [QN_IDLE_MEMORY] = "blocked_memory", [QN_IDLE_TRANSFER] = "blocked_transfer"};

static void json_copies(qni_page *p, const qni_subject *s, double scale)
{
    static const char *const name[] = {"bytes_up", "bytes_down", "busy_up", "busy_down"};
    qni_page_add(p, ", \"window\": %d, \"copies_end\": ", s->window);
    qni_page_number(p, (double)s->copies_end / scale);
    for (int k = 0; k < 4; k++) {
        qni_page_add(p, ", \"%s\": [", name[k]);
        for (int32_t w = 0; w < s->plan->workers; w++) {
            const qni_copies *c = &s->copies[w];
            const int64_t x[] = {c->bytes_up, c->bytes_down, c->busy_up, c->busy_down};
            if (w > 0) qni_page_add(p, ", ");
            qni_page_number(p, (double)x[k] / (k < 2 ? 1 : scale));
        }
        qni_page_add(p, "]");
    }
}

void qni_json_subject(qni_page *p, const qni_subject *s, double scale)
{
    const qn_plan *plan = s->plan;
    qni_page_add(p, "{");
    qni_json_name(p, "schedule", s->name);
    qni_page_add(p, ", \"workers\": %d, \"stages\": %d, \"micro_batches\": %d, \"makespan\": ", plan->workers, plan->stages,
                 plan->items);
    qni_page_number(p, (double)s->sum->makespan / scale);
    qni_page_add(p, ", \"bubble\": ");
    qni_page_number(p, s->sum->bubble);
    qni_json_array(p, "idle_makespan", s->sum->idle_makespan, plan->workers, scale);
    qni_json_array(p, "idle_span", s->sum->idle_span, plan->workers, scale);
    for (int k = 0; k < QN_IDLE_PARTS; k++) {
        qni_page_add(p, ", \"%s\": [", part_name[k]);
        for (int32_t w = 0; w < plan->workers; w++) {
            if (w > 0) qni_page_add(p, ", ");
            qni_page_number(p, (double)s->idle[w][k] / scale);
        }
        qni_page_add(p, "]");
    }
    qni_page_add(p, ", \"exposed\": ");
    qni_page_number(p, (double)s->exposed / scale);
    qni_json_array(p, "peak", s->sum->peak, plan->workers, 1);
    qni_page_add(p, ", \"memory\": [");
    for (int32_t w = 0; w < plan->workers; w++) {
        if (w > 0) qni_page_add(p, ", ");
        qni_page_number(p, s->memory[w]);
    }
    qni_page_add(p, "], \"memory_unit\": \"%s\"", s->in_bytes ? "bytes" : "micro-batches");
    qni_json_array(p, "arena_bytes", plan->arena_bytes, plan->workers, 1);
    qni_page_add(p, ", \"messages\": %d", s->messages);
    if (s->copies != NULL) json_copies(p, s, scale);
    if (s->steps != NULL) qni_steps_json(p, s->steps, plan, scale);
}

qn_status qni_subject_pictures(const qni_subject *s, int32_t n, const char *svg, const char *trace, double scale, qn_err *err)
{
    qn_status st = QN_OK;
    char *text = NULL;
    const qn_trace **traces = qn_calloc((size_t)n, sizeof(*traces));
    const char **titles = qn_calloc((size_t)n, sizeof(*titles));
    if (traces == NULL || titles == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "%d pictures", n);
        goto out;
    }
    for (int32_t i = 0; i < n; i++) {
        traces[i] = &s[i].trace;
        titles[i] = s[i].name;
    }
    if (svg != NULL) {
        QN_TRY(st, qn_trace_svg(&text, traces, titles, n, err), out);
        QN_TRY(st, qn_file_write(svg, text, strlen(text), err), out);
    }
    if (trace != NULL) {
        const bool ms = strcmp(s->unit, "ms") == 0;
        const qni_trace_scale x = {ms ? scale / 1000 : scale, s->unit, ms ? 1000 : 1, (double)s->latency / scale};
        st = qni_trace_write_scaled(trace, &s->trace, &x, err);
    }
out:
    qn_free(text);
    qn_free(traces);
    qn_free(titles);
    return st;
}
