/* quern schedule search: the best order for given costs and a memory limit. Starts from every published schedule that fits, with
 * every number of chunks the costs allow, and from lists built on their placements; the shortest few are improved by local search
 * (schedule/search.h), plain orders by their backward's halves, others (copies of the chain, vocabulary shards, backwards
 * elsewhere, recomputation) task by task of their plans. What is found is lowered, validated and simulated like any schedule. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
#include "core/io.h"
#include "schedule/search/search.h"
#include "schedule_subject.h"

enum { MOST_STARTS = 96, IMPROVED = 4, OTHERS = 2, TRIES = 4 }; /* improved: plain orders, other ones */
static const int64_t MICRO_BATCH = 720720; /* units of memory in one micro-batch: 1 to 16 stages of a worker share it evenly */

typedef struct finder {
    const qn_schedule_options *opt;
    qni_costs costs;
    double limit;
    int32_t finest; /* chunks of a worker that costs are of */
    qni_subject s[MOST_STARTS];
    int32_t count, published; /* all; those of generators come first */
    int32_t best_published;   /* that fits, or -1 */
    qn_schedule_watch watch;
    qn_search_progress progress;
    int64_t ends_ns, phase, phases;
} finder;

/* The search's view of one schedule. */
typedef struct view {
    int64_t *hold, *pending, *limit, *peak;
    qn_search_model model;
} view;

static void view_fini(view *v)
{
    qn_free(v->hold);
    qn_free(v->pending);
    qn_free(v->limit);
    qn_free(v->peak);
}

static qn_status view_of(view *v, const finder *f, const qni_subject *s, qn_err *err)
{
    const qn_order *o = s->from.order;
    *v = (view){.hold = qn_calloc((size_t)o->stages, sizeof(int64_t))};
    v->pending = qn_calloc((size_t)o->stages, sizeof(int64_t));
    v->limit = qn_calloc((size_t)o->workers, sizeof(int64_t));
    v->peak = qn_calloc((size_t)o->workers, sizeof(int64_t));
    if (v->hold == NULL || v->pending == NULL || v->limit == NULL || v->peak == NULL)
        return QN_FAIL(err, QN_ENOMEM, "search of %d stages", o->stages);
    for (int32_t i = 0; i < o->stages; i++) {
        int32_t mine = 0;
        for (int32_t k = 0; k < o->stages; k++) mine += o->worker_of[k] == o->worker_of[i];
        v->hold[i] = v->pending[i] = MICRO_BATCH / mine;
        if (!s->in_bytes) continue;
        v->hold[i] = (s->size[QNI_SIZE_STASH] != NULL ? s->size[QNI_SIZE_STASH][i] : 1) +
                     (i > 0 ? s->size[QNI_SIZE_ACT] != NULL ? s->size[QNI_SIZE_ACT][i] : 1 : 0);
        v->pending[i] = v->hold[i] + (s->size[QNI_SIZE_WSTASH] != NULL ? s->size[QNI_SIZE_WSTASH][i] : 1);
    }
    v->model = (qn_search_model){.cost = (const int64_t(*)[QN_OPS])s->cost,
                                 .latency = f->costs.latency,
                                 .hold = v->hold,
                                 .pending = v->pending,
                                 .limit = f->limit > 0 ? v->limit : NULL};
    int64_t makespan;
    const qn_status st = qn_search_judge(&makespan, v->peak, o, &v->model, err);
    for (int32_t w = 0; w < o->workers; w++) {
        const double unit = s->in_bytes ? 1 : (double)MICRO_BATCH;
        v->limit[w] = (int64_t)(f->limit * unit * (1 + 1e-12));
        /* an arena also holds gradients and copies on their way: what the schedule at hand needs for them */
        if (s->in_bytes) v->limit[w] -= (int64_t)s->memory[w] - v->peak[w];
    }
    return st;
}

static void on_progress(void *ctx, int64_t done, int64_t rounds, int64_t makespan)
{
    const finder *f = ctx;
    if (f->watch.fn == NULL || makespan == INT64_MAX) return;
    const double part = rounds > 0 ? (double)done / (double)rounds : 1;
    f->watch.fn(f->watch.ctx, ((double)f->phase + part) / (double)f->phases, (double)makespan / f->costs.scale);
}

static bool on_stop(void *ctx)
{
    const finder *f = ctx;
    return f->ends_ns > 0 && qn_now_ns() >= f->ends_ns;
}

static bool fits(const finder *f, const qni_subject *s)
{
    return s->refused[0] == '\0' && s->plan != NULL && qni_subject_fits(s, f->limit, NULL) == QN_OK;
}

/* ---- where to start from */

static qn_status open_published(finder *f, qn_err *err)
{
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        for (int32_t v = 1; v <= f->finest; v++) {
            if (f->finest % v != 0 || v < g->min_chunks || (g->max_chunks > 0 && v > g->max_chunks) ||
                f->count == MOST_STARTS / 2)
                continue;
            if (g->min_chunks == 1 && g->usual_chunks == 1 && v > 1) continue; /* more chunks without a use for them */
            qni_subject *s = &f->s[f->count];
            qn_status st = qni_subject_open(s, g->name, v, f->opt, &f->costs, (int32_t)f->opt->workers * f->finest, err);
            if (st == QN_OK) st = qni_subject_simulate(s, f->opt, &f->costs, err);
            if (st != QN_OK) qni_subject_close(s);
            if (st == QN_ENOMEM) return st;
            if (st != QN_OK) {
                *err = (qn_err){.code = QN_OK};
                continue;
            }
            f->count++;
        }
    }
    f->published = f->count;
    f->best_published = -1;
    for (int32_t i = 0; i < f->count; i++) {
        if (!fits(f, &f->s[i])) continue;
        if (f->best_published < 0 || f->s[i].sum->makespan < f->s[f->best_published].sum->makespan) f->best_published = i;
    }
    return QN_OK;
}

/* Of F, B and W of one chain alone; other orders are improved on their plans. */
static bool is_plain(const qni_subject *s, bool recompute)
{
    const qn_order *o = s->from.order;
    if (recompute || o == NULL || o->columns != 1 || o->sides != 0 || o->backward_of != NULL || s->cost == NULL) return false;
    for (int32_t w = 0; w < o->workers; w++)
        for (int32_t i = 0; i < o->count[w]; i++)
            if (o->task[w][i].op < QN_OP_F || o->task[w][i].op > QN_OP_BW) return false;
    return true;
}

static bool same_placement(const qn_order *a, const qn_order *b)
{
    return a->stages == b->stages && memcmp(a->worker_of, b->worker_of, (size_t)a->stages * sizeof *a->worker_of) == 0;
}

/* Lowers and simulates an order that was found and keeps it when it fits; *excess: what the fullest worker lacks otherwise. */
static qn_status keep(finder *f, const char *name, qn_order *order, int64_t *excess, qn_err *err)
{
    qni_subject *s = &f->s[f->count];
    *excess = 0;
    if (f->count == MOST_STARTS) {
        qn_order_close(order);
        return QN_OK;
    }
    qn_schedule_options opt = *f->opt;
    if (opt.recompute == 1 || opt.recompute == 2) opt.recompute = 0; /* written out */
    qn_status st = qni_subject_take(s, name, order, &f->costs, (int32_t)f->opt->workers * f->finest, err);
    if (st == QN_OK) st = qni_subject_simulate(s, &opt, &f->costs, err);
    if (st == QN_OK && f->limit > 0 && !fits(f, s))
        *excess = (int64_t)((qni_subject_memory(s, NULL) - f->limit) * (s->in_bytes ? 1 : (double)MICRO_BATCH)) + 1;
    if (st != QN_OK || *excess > 0)
        qni_subject_close(s);
    else
        f->count++;
    return st;
}

/* One order by the greedy rule or by local search from subject i; again with less memory where the arena turns out too small. */
static qn_status search_from(finder *f, int32_t i, bool build, int64_t rounds, qn_err *err)
{
    view v;
    int64_t excess = 0;
    qn_status st;
    char name[96];
    static const char found_by[] = "search, from ";
    const char *from_name = f->s[i].name;
    if (strncmp(from_name, found_by, sizeof found_by - 1) == 0) from_name += sizeof found_by - 1;
    snprintf(name, sizeof name, "%s%s%.60s", found_by, build ? "lists as " : "", from_name);
    QN_TRY(st, view_of(&v, f, &f->s[i], err), out);
    for (int t = 0; t < TRIES; t++) {
        qn_order *found = NULL;
        int64_t makespan;
        const qn_order *from = f->s[i].from.order;
        for (int32_t w = 0; w < from->workers; w++) v.limit[w] -= excess;
        st = build ? qn_search_build(&found, &makespan, from, &v.model, (uint64_t)f->opt->seed, rounds, &f->progress, err)
                   : qn_search_improve(&found, &makespan, from, &v.model, (uint64_t)f->opt->seed, rounds, &f->progress, err);
        if (st == QN_ESCHEDULE) st = QN_OK; /* the start itself is beyond what is left */
        if (st != QN_OK || found == NULL) break;
        QN_TRY(st, keep(f, name, found, &excess, err), out);
        if (excess == 0) break;
    }
    f->phase++;
out:
    view_fini(&v);
    return st;
}

/* What a subject's plan may hold, in its own unit, on each worker. */
static void plan_limits(int64_t *limit, const finder *f, const qni_subject *s, int64_t excess)
{
    for (int32_t w = 0; w < s->plan->workers; w++) {
        const double stash = s->sum->peak[w] > 0 ? s->memory[w] / (double)s->sum->peak[w] : 0;
        limit[w] = INT64_MAX / 4;
        if (s->in_bytes)
            limit[w] = (int64_t)f->limit - excess;
        else if (stash > 0)
            limit[w] = (int64_t)(f->limit / stash * (1 + 1e-12));
    }
}

/* Local search on the plan of subject i. */
static qn_status search_plan_of(finder *f, int32_t i, int64_t rounds, qn_err *err)
{
    const qni_subject *s = &f->s[i];
    qn_status st = QN_OK;
    int64_t excess = 0, lacks, makespan;
    char name[96];
    snprintf(name, sizeof name, "search, from %.60s", s->name);
    int64_t *limit = qn_calloc((size_t)s->plan->workers, sizeof *limit);
    if (limit == NULL) return QN_FAIL(err, QN_ENOMEM, "search of %d stages", s->plan->stages);
    for (int t = 0; t < TRIES && st == QN_OK; t++) {
        qn_order *found = NULL;
        plan_limits(limit, f, s, excess);
        const qn_search_plan how = {.latency = f->costs.latency, .bytes = s->in_bytes, .limit = f->limit > 0 ? limit : NULL};
        st = qn_search_improve_plan(&found, &makespan, s->plan, &how, (uint64_t)f->opt->seed, rounds, &f->progress, err);
        if (st != QN_OK) break;
        QN_TRY(st, keep(f, name, found, &lacks, err), out);
        if (lacks == 0 || !s->in_bytes) break;
        excess += lacks;
    }
out:
    qn_free(limit);
    f->phase++;
    if (st != QN_ESCHEDULE && st != QN_EUNSUPPORTED) return st; /* what cannot be improved stays as it is */
    *err = (qn_err){.code = QN_OK};
    return QN_OK;
}

static int by_makespan(const void *pa, const void *pb)
{
    const qni_subject *const *a = pa, *const *b = pb;
    if ((*a)->sum->makespan != (*b)->sum->makespan) return (*a)->sum->makespan < (*b)->sum->makespan ? -1 : 1;
    return (*a > *b) - (*a < *b);
}

/* The shortest few of the plain orders, or of the others. */
static qn_status improve(finder *f, bool plain, int64_t rounds, qn_err *err)
{
    const qni_subject *list[MOST_STARTS];
    const bool again = f->opt->recompute != 0;
    const int32_t most = plain || again ? IMPROVED : OTHERS;
    int32_t n = 0;
    for (int32_t i = 0; i < f->count; i++)
        if (fits(f, &f->s[i]) && is_plain(&f->s[i], again) == plain && (plain || i < f->published)) list[n++] = &f->s[i];
    qsort(list, (size_t)n, sizeof *list, by_makespan);
    for (int32_t k = 0; k < n && k < most; k++) {
        const int32_t i = (int32_t)(list[k] - f->s);
        const qn_status st = plain ? search_from(f, i, false, rounds, err) : search_plan_of(f, i, rounds, err);
        if (st != QN_OK) return st;
    }
    return QN_OK;
}

static qn_status run_search(finder *f, qn_err *err)
{
    int32_t like[MOST_STARTS], places = 0;
    int64_t tasks = 0;
    for (int32_t i = 0; i < f->published; i++) {
        bool seen = !is_plain(&f->s[i], f->opt->recompute != 0);
        for (int32_t k = 0; k < places && !seen; k++) seen = same_placement(f->s[i].from.order, f->s[like[k]].from.order);
        if (!seen) like[places++] = i;
        if (f->s[i].plan->stages > tasks) tasks = f->s[i].plan->stages;
    }
    tasks *= 3 * f->opt->micro_batches;
    const int64_t usual = 40000000 / qn_max64(tasks, 1),
                  rounds = f->opt->rounds > 0 ? f->opt->rounds : qn_max64(500, qn_min64(usual, 50000));
    f->phases = places + IMPROVED + OTHERS;
    for (int32_t k = 0; k < places; k++) {
        const qn_status st = search_from(f, like[k], true, rounds / 100 + 4, err);
        if (st != QN_OK) return st;
    }
    qn_status st = improve(f, true, rounds, err);
    return st == QN_OK ? improve(f, false, rounds, err) : st;
}

/* ---- what came out */

/* The memory of lists that hold one micro-batch at a time, placed as subject i; 0: there are none. */
static qn_status least_memory(double *least, finder *f, int32_t i, qn_err *err)
{
    view v;
    qni_subject s = {.fine = 0};
    qn_order *o = NULL;
    int64_t makespan;
    qn_status st;
    *least = 0;
    QN_TRY(st, view_of(&v, f, &f->s[i], err), out);
    const qn_order *like = f->s[i].from.order;
    for (int32_t w = 0; w < like->workers; w++) {
        v.limit[w] = 0;
        for (int32_t k = 0; k < like->stages; k++)
            if (like->worker_of[k] == w) v.limit[w] += qn_max64(v.hold[k], v.pending[k]);
    }
    QN_TRY(st, qn_search_build(&o, &makespan, like, &v.model, 1, 0, NULL, err), out);
    if (o == NULL) goto out;
    QN_TRY(st, qni_subject_take(&s, "", o, &f->costs, (int32_t)f->opt->workers * f->finest, err), out);
    QN_TRY(st, qni_subject_simulate(&s, f->opt, &f->costs, err), out);
    *least = qni_subject_memory(&s, NULL);
out:
    qni_subject_close(&s);
    view_fini(&v);
    return st;
}

static qn_status nothing_fits(finder *f, qn_err *err)
{
    double best = 0;
    bool in_bytes = false;
    for (int32_t i = 0; i < f->published; i++) {
        double least = 0, own = qni_subject_memory(&f->s[i], NULL);
        in_bytes = f->s[i].in_bytes;
        if (best == 0 || own < best) best = own;
        if (!is_plain(&f->s[i], f->opt->recompute != 0)) continue;
        const qn_status st = least_memory(&least, f, i, err);
        if (st != QN_OK) return st;
        if (least > 0 && (best == 0 || least < best)) best = least;
    }
    return QN_FAIL(err, QN_EINVAL,
                   "no order of %" PRId64 " workers and %" PRId64 " micro-batches fits in --memory %s; the smallest limit "
                   "that would do is %.15g %s",
                   f->opt->workers, f->opt->micro_batches, f->opt->memory, best, in_bytes ? "bytes" : "micro-batches");
}

static qn_status write_order(const char *path, const qni_subject *s, qn_err *err)
{
    qn_order *o = s->from.order;
    qni_page p = {.text = NULL};
    char *text = NULL, *whole = NULL;
    qn_status st;
    for (int op = 0; op < QN_OPS; op++) o->cost[op] = -1; /* whoever reads it has costs of their own */
    QN_TRY(st, qn_order_write(&text, o, err), out);
    qni_page_add(&p, "%s# %s\n", text, s->name);
    QN_TRY(st, qni_page_done(&whole, &p, err), out);
    st = qn_file_write(path, whole, strlen(whole), err);
out:
    qni_page_fini(&p);
    qn_free(text);
    qn_free(whole);
    return st;
}

static void people(qni_page *p, const finder *f, const qni_subject *best)
{
    char text[32];
    const qni_subject *row[MOST_STARTS];
    int32_t n = 0;
    for (int32_t i = 0; i < f->published; i++)
        if (fits(f, &f->s[i]) && &f->s[i] != best) row[n++] = &f->s[i];
    qsort(row, (size_t)n, sizeof *row, by_makespan);
    qni_page_add(p, "%-40s %7s %12s %10s %16s %9s\n", "schedule", "chunks", f->costs.unit[0] ? "time (ms)" : "time", "idle",
                 "memory/worker", "messages");
    for (int32_t i = -1; i < qn_min32(n, 6); i++) {
        const qni_subject *s = i < 0 ? best : row[i];
        qni_page_add(p, "%-40s %7d %12.10g %8.2f %% %16s %9d\n", s->name, s->chunks, (double)s->sum->makespan / f->costs.scale,
                     s->sum->bubble * 100, qni_memory_text(text, qni_subject_memory(s, NULL), s->in_bytes), s->messages);
    }
    if (best->plan->columns > 1)
        qni_page_add(p, "it keeps %d copies of the model: train it with --grad-groups %d\n", best->plan->columns,
                     best->plan->columns);
    if (best->plan->backward_of != NULL)
        qni_page_add(p, "its backwards run on other workers than its forwards: train it with --device-memory or --link\n");
    if (f->best_published < 0) {
        qni_page_add(p, "no published schedule fits\n");
        return;
    }
    const qni_subject *old = &f->s[f->best_published];
    const double gain = 100.0 * (double)(old->sum->makespan - best->sum->makespan) / (double)old->sum->makespan;
    if (gain > 0)
        qni_page_add(p, "%.3g %% shorter than %s, the best published schedule that fits\n", gain, old->name);
    else
        qni_page_add(p, "nothing shorter than %s was found\n", old->name);
}

static void machine(qni_page *p, const finder *f, const qni_subject *best)
{
    qni_json_subject(p, best, f->costs.scale);
    /* what quern train wants besides --schedule FILE: of each list one */
    qni_page_add(p, ", \"copies\": %d, \"train_with\": [", best->plan->columns);
    if (best->plan->columns > 1) qni_page_add(p, "[\"--grad-groups %d\"]", best->plan->columns);
    if (best->plan->columns > 1 && best->plan->backward_of != NULL) qni_page_add(p, ", ");
    if (best->plan->backward_of != NULL) qni_page_add(p, "[\"--device-memory\", \"--link\", \"--window\"]");
    qni_page_add(p, "]");
    if (f->best_published >= 0) {
        const qni_subject *old = &f->s[f->best_published];
        qni_page_add(p, ", ");
        qni_json_name(p, "best_published", old->name);
        qni_page_add(p, ", \"published_makespan\": ");
        qni_page_number(p, (double)old->sum->makespan / f->costs.scale);
        qni_page_add(p, ", \"shorter_percent\": ");
        qni_page_number(p, 100.0 * (double)(old->sum->makespan - best->sum->makespan) / (double)old->sum->makespan);
    }
    qni_page_add(p, "}\n");
}

static qn_status open_finder(finder *f, qn_err *err)
{
    const qn_schedule_options *o = f->opt;
    qn_status st;
    const char *cost = o->cost == NULL && o->cost_from == NULL ? "F=1,B=1,W=1" : o->cost;
    QN_TRY(st, qni_costs_parse(&f->costs, cost, o->cost_from, o->latency, err), out);
    QN_TRY(st, qni_costs_sizes(&f->costs, o->sizes, err), out);
    QN_TRY(st, qni_memory_parse(&f->limit, o->memory, err), out);
    if (o->device_memory > 0 || o->link != NULL || o->window != NULL || o->forward != 0 || o->steps > 1)
        return QN_FAIL(
            err, QN_EINVAL,
            "--device-memory, --link, --window, --forward and --steps are for show, check, simulate and compare: search "
            "knows one step of workers that hold their stages");
    f->finest = (int32_t)(o->chunks > 0 ? o->chunks : 2);
    if (f->costs.stages > 0) {
        if (f->costs.stages % o->workers != 0)
            return QN_FAIL(err, QN_EINVAL, "costs of %d stages for %" PRId64 " workers: a multiple of the workers was wanted",
                           f->costs.stages, o->workers);
        f->finest = f->costs.stages / (int32_t)o->workers;
    }
    if (o->seconds > 0) f->ends_ns = qn_now_ns() + (int64_t)(o->seconds * 1e9);
    f->progress = (qn_search_progress){.fn = on_progress, .stop = on_stop, .ctx = f};
out:
    return st;
}

qn_status qn_schedule_search(char **out, const qn_schedule_options *opt, bool json, const qn_schedule_watch *watch, qn_err *err)
{
    qni_page p = {.text = NULL};
    qn_err own;
    if (err == NULL) err = &own;
    finder *f = qn_calloc(1, sizeof *f);
    if (f == NULL) return QN_FAIL(err, QN_ENOMEM, "a search");
    f->opt = opt;
    if (watch != NULL) f->watch = *watch;
    qn_status st;
    QN_TRY(st, open_finder(f, err), out);
    QN_TRY(st, open_published(f, err), out);
    QN_TRY(st, run_search(f, err), out);
    const qni_subject *best = NULL;
    for (int32_t i = 0; i < f->count; i++)
        if (fits(f, &f->s[i]) && (best == NULL || f->s[i].sum->makespan < best->sum->makespan)) best = &f->s[i];
    if (best == NULL) {
        st = nothing_fits(f, err);
        goto out;
    }
    if (json)
        machine(&p, f, best);
    else
        people(&p, f, best);
    if (opt->svg != NULL || opt->trace != NULL)
        QN_TRY(st, qni_subject_pictures(best, 1, opt->svg, opt->trace, f->costs.scale, err), out);
    if (opt->out != NULL) QN_TRY(st, write_order(opt->out, best, err), out);
    st = qni_page_done(out, &p, err);
out:
    for (int32_t i = 0; i < f->count; i++) qni_subject_close(&f->s[i]);
    qni_costs_fini(&f->costs);
    qn_free(f);
    qni_page_fini(&p);
    return st;
}
