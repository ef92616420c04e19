/* RoundPipe (arXiv:2604.27085) on two devices: a small model with a vocabulary so large that its head costs almost as much as its
 * blocks.
 *
 *   layers     every layer's tasks are timed first, on one worker with all weights resident
 *   cuts       by operations, as quern train makes them; so neither cuts nor memory depend on how busy the machine is
 *   memory     of each device: what RoundPipe needs for the stage that runs and the one that is fetched
 *   bound      every schedule that keeps a stage on one worker, with 1 to 4 stages each, cut by cost as the program cuts them;
 * those that do not fit are counted, the others simulated with the layers' times, and the fastest of them run
 *
 * Devices and host share the machine's cores, so a copy costs the workers a little; the link is far below memory's rate. */
#include "bench_devices.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bench_race.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "session/schedules/measured.h"
#include "schedule/gen/gen.h"

enum { KEEP = 3, ROUNDS = 2, MOST_CHUNKS = 4, LAYERS = 1024, FLIGHT = 8 };
static const int64_t LINK = 1000000000; /* bytes/s */

typedef struct times { /* ns of one task of a layer of the chain */
    int64_t op[LAYERS][QN_OPS];
    int32_t layers;
} times;

static qn_bench_options sizes(const qn_bench_options *given)
{
    return qni_bench_usual(
        given, (qn_bench_options){
                   .layers = 8, .width = 256, .heads = 4, .context = 128, .vocab = 22528, .batch = 16, .micro_batches = 8});
}

/* ---- layers */

static qn_status time_layers(times *t, const qn_bench_options *opt, qn_err *err)
{
    qn_bench_options alone = *opt;
    const qni_bench_how how = {.schedule = "superpipe"};
    qni_racer r;
    int64_t *cost = NULL;
    alone.workers = 1;
    alone.steps = qn_min64(opt->steps, 4);
    memset(t, 0, sizeof(*t));
    qn_status st = qni_racer_open(&r, &alone, &how, err);
    if (st == QN_OK) st = qni_race(&r, 1, err);
    if (st != QN_OK) goto out;
    const qn_plan *p = r.run.trace->plan;
    t->layers = p->stages;
    cost = qn_calloc((size_t)p->tasks, sizeof(*cost));
    st = cost != NULL ? qni_racer_costs(cost, &r, err) : QN_FAIL(err, QN_ENOMEM, "costs");
    for (int32_t i = 0; i < p->tasks && st == QN_OK; i++)
        if (p->task[i].stage >= 0 && p->task[i].op != QN_OP_LOAD && p->task[i].op != QN_OP_OFFLOAD)
            t->op[p->task[i].stage][p->task[i].op] = cost[i];
    for (int32_t i = 0; i < t->layers; i++) t->op[i][QN_OP_R] = t->op[i][QN_OP_F];
out:
    qn_free(cost);
    qni_racer_close(&r);
    return st;
}

/* The simulated step of a run that is open, ns; its tasks take what their layers took alone. The split of a backward is not known
 * from whole ones: half each. */
static qn_status predict(double *ns, const qni_racer *r, const times *t, qn_err *err)
{
    const qn_plan *p = r->run.trace->plan;
    qn_trace trace = {.plan = p, .time = qn_calloc((size_t)p->tasks + 1, sizeof(*trace.time))};
    int64_t *cost = qn_calloc((size_t)p->tasks + 1, sizeof(*cost));
    qn_status st = trace.time != NULL && cost != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "simulation");
    for (int32_t i = 0; i < p->tasks && st == QN_OK; i++) {
        const qn_task *x = &p->task[i];
        if (x->op == QN_OP_LOAD || x->op == QN_OP_OFFLOAD) {
            cost[i] = p->value[p->ref[x->in.first]].bytes * 1000000000 / LINK;
        } else if (x->stage >= 0) {
            const bool half = x->op == QN_OP_B || x->op == QN_OP_W;
            for (int32_t l = r->run.first_layer[x->stage]; l < r->run.first_layer[x->stage + 1]; l++)
                cost[i] += half ? t->op[l][QN_OP_BW] / 2 : t->op[l][x->op];
        }
    }
    const qn_sim_options how = {.cost = cost};
    if (st == QN_OK) st = qn_simulate(&trace, p, &how, err);
    if (st == QN_OK) *ns = (double)qni_trace_makespan(&trace);
    qn_free(trace.time);
    qn_free(cost);
    return st;
}

/* ---- contenders */

typedef struct contender {
    qni_racer r;
    qn_trainer_tiers tiers;
    double predicted_ns;
} contender;

typedef struct field {
    qn_bench_options opt;
    times t;
    int64_t memory;
    contender round[ROUNDS], bound[KEEP]; /* bound: fastest first, by simulation */
    int32_t bounds, tried, too_large;
} field;

static qn_status open_contender(contender *c, field *f, const qni_bench_how *how, int32_t lag, int32_t window, qn_err *err)
{
    c->tiers = (qn_trainer_tiers){.window = window, .replace = 1, .lag = lag, .link_bytes_per_s = LINK};
    qni_bench_how mine = *how;
    mine.tiers = &c->tiers;
    qn_status st = qni_racer_open(&c->r, &f->opt, &mine, err);
    if (st == QN_OK) st = predict(&c->predicted_ns, &c->r, &f->t, err);
    if (st != QN_OK) qni_racer_close(&c->r);
    return st;
}

/* The memory, then RoundPipe with the optimizer between steps and beside the next one. */
static qn_status open_rounds(field *f, qn_err *err)
{
    contender probe = {.predicted_ns = 0};
    qni_bench_how how = {.schedule = "roundpipe"};
    qn_status st = open_contender(&probe, f, &how, 0, 2, err);
    if (st != QN_OK) return st;
    const qn_plan *p = probe.r.run.trace->plan;
    for (int32_t w = 0; w < p->workers; w++) f->memory = qn_max64(f->memory, p->arena_bytes[w]);
    qni_racer_close(&probe.r);
    how.memory = f->memory;
    for (int32_t i = 0; i < ROUNDS && st == QN_OK; i++) st = open_contender(&f->round[i], f, &how, i, 0, err);
    return st;
}

static void keep(field *f, contender *c)
{
    int32_t at = f->bounds < KEEP ? f->bounds++ : KEEP - 1;
    if (at == KEEP - 1 && f->bound[at].r.seconds != NULL) {
        if (f->bound[at].predicted_ns <= c->predicted_ns) {
            qni_racer_close(&c->r);
            return;
        }
        qni_racer_close(&f->bound[at].r);
    }
    for (; at > 0 && f->bound[at - 1].predicted_ns > c->predicted_ns; at--) f->bound[at] = f->bound[at - 1];
    f->bound[at] = *c;
}

static qn_status open_bounds(field *f, qn_err *err)
{
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        if (g->host_state || g->max_workers == 1 || qn_generator_replicas(g) > 1 ||
            !qn_generator_can(g, (int32_t)f->opt.workers, (int32_t)f->opt.micro_batches))
            continue;
        const int32_t most = g->max_chunks > 0 ? g->max_chunks : MOST_CHUNKS;
        for (int32_t v = g->min_chunks; v <= qn_min32(most, MOST_CHUNKS); v++) {
            contender c = {.predicted_ns = 0};
            qn_err why = {.code = QN_OK};
            const qni_bench_how how = {.schedule = g->name, .chunks = v, .memory = f->memory};
            const qn_status st = open_contender(&c, f, &how, 0, 0, &why);
            f->tried++;
            if (st == QN_OK) {
                keep(f, &c);
            } else if (st == QN_EINVAL) {
                f->too_large++;
            } else {
                if (err != NULL) *err = why;
                return st;
            }
        }
    }
    return f->bounds > 0 ? QN_OK : QN_FAIL(err, QN_EINVAL, "no bound schedule fits into %lld bytes", (long long)f->memory);
}

/* All in turn: contenders keep their racers apart, a race wants them side by side. */
static qn_status race(field *f, qn_err *err)
{
    qni_racer all[ROUNDS + KEEP];
    contender *of[ROUNDS + KEEP];
    int32_t n = 0;
    for (int32_t i = 0; i < ROUNDS; i++) of[n++] = &f->round[i];
    for (int32_t i = 0; i < f->bounds; i++) of[n++] = &f->bound[i];
    for (int32_t i = 0; i < n; i++) all[i] = of[i]->r;
    const qn_status st = qni_race(all, n, err);
    for (int32_t i = 0; i < n; i++) of[i]->r = all[i];
    return st;
}

static void show(const contender *c, int32_t optimizer_lag, qn_line_fn *line, void *ctx)
{
    const qni_racer *r = &c->r;
    const qn_plan *p = r->run.trace->plan;
    int64_t high = 0;
    for (int32_t w = 0; w < p->workers; w++) high = qn_max64(high, qn_trainer_high_water(r->run.trainer, w));
    qni_line l = qni_line_begin(r->opt.json);
    qni_line_text(&l, "devices", r->how.schedule);
    qni_line_number(&l, "stages", p->stages);
    qni_line_number(&l, "optimizer_lag", optimizer_lag);
    qni_line_number(&l, "arena_MB", (double)high * 1e-6);
    qni_line_number(&l, "predicted_ms", c->predicted_ns * 1e-6);
    qni_line_number(&l, "measured_ms", r->measured_ms);
    qni_line_number(&l, "simulated_ms", r->simulated_ms);
    qni_line_number(&l, "measured_over_simulated", r->ratio_middle);
    qni_line_number(&l, "least", r->ratio_least);
    qni_line_number(&l, "most", r->ratio_most);
    qni_line_steps(&l, r, NULL);
    qni_line_end(&l, line, ctx);
}

static void show_all(const field *f, qn_line_fn *line, void *ctx)
{
    const contender *round = &f->round[0], *bound = &f->bound[0];
    double all[QN_OPS] = {0};
    for (int32_t i = 0; i < f->t.layers; i++)
        for (int op = 0; op < QN_OPS; op++) all[op] += (double)f->t.op[i][op];
    for (int32_t i = 0; i < ROUNDS; i++)
        if (f->round[i].r.measured_ms < round->r.measured_ms) round = &f->round[i];
    for (int32_t i = 0; i < f->bounds; i++)
        if (f->bound[i].r.measured_ms < bound->r.measured_ms) bound = &f->bound[i];
    qni_line l = qni_line_begin(f->opt.json);
    qni_line_text(&l, "devices", "two of little memory");
    qni_line_number(&l, "memory_MB", (double)f->memory * 1e-6);
    qni_line_number(&l, "link_MB_per_s", (double)LINK * 1e-6);
    qni_line_number(&l, "micro_batches", (double)f->opt.micro_batches);
    qni_line_number(&l, "layers", f->t.layers);
    qni_line_number(&l, "head_of_all",
                    (double)(f->t.op[f->t.layers - 1][QN_OP_F] + f->t.op[f->t.layers - 1][QN_OP_BW]) /
                        (all[QN_OP_F] + all[QN_OP_BW]));
    qni_line_number(&l, "bound_tried", f->tried);
    qni_line_number(&l, "bound_too_large", f->too_large);
    qni_line_end(&l, line, ctx);
    for (int32_t i = 0; i < ROUNDS; i++) show(&f->round[i], i, line, ctx);
    for (int32_t i = 0; i < f->bounds; i++) show(&f->bound[i], 0, line, ctx);
    const double measured = bound->r.measured_ms / round->r.measured_ms, predicted = bound->predicted_ns / round->predicted_ns;
    char what[160];
    snprintf(what, sizeof(what), "roundpipe over the best bound schedule in the same memory, which is %s with %d stages",
             bound->r.how.schedule, bound->r.run.trace->plan->stages);
    l = qni_line_begin(f->opt.json);
    qni_line_text(&l, "claim", what);
    qni_line_claim(&l, measured, predicted, 1.25);
    qni_line_end(&l, line, ctx);
    l = qni_line_begin(f->opt.json);
    qni_line_text(&l, "claim", "of the simulator's ratio");
    qni_line_claim(&l, measured / predicted, NAN, 0.9);
    qni_line_end(&l, line, ctx);
}

qn_status qni_bench_devices(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err)
{
    field *f = qn_calloc(1, sizeof(*f));
    qn_status st;
    if (f == NULL) return QN_FAIL(err, QN_ENOMEM, "results");
    f->opt = sizes(given);
    if (f->opt.layers + 2 > LAYERS) {
        st = QN_FAIL(err, QN_EINVAL, "roundpipe-devices with %lld layers; %d are possible", (long long)f->opt.layers, LAYERS - 2);
        goto out;
    }
    QN_TRY(st, time_layers(&f->t, &f->opt, err), out);
    QN_TRY(st, open_rounds(f, err), out);
    QN_TRY(st, open_bounds(f, err), out);
    QN_TRY(st, race(f, err), out);
    show_all(f, line, ctx);
out:
    for (int32_t i = 0; i < ROUNDS; i++) qni_racer_close(&f->round[i].r);
    for (int32_t i = 0; i < KEEP; i++) qni_racer_close(&f->bound[i].r);
    qn_free(f);
    return st;
}

/* ---- the optimizer beside the next step */

static double sum_of(const qni_racer *r, int32_t op, qn_err *err)
{
    const qn_plan *p = r->run.trace->plan;
    int64_t *cost = qn_calloc((size_t)p->tasks + 1, sizeof(*cost));
    double sum = 0;
    if (cost == NULL || qni_racer_costs(cost, r, err) != QN_OK) sum = NAN;
    for (int32_t i = 0; i < p->tasks && sum >= 0; i++)
        if (p->task[i].op == op) sum += (double)cost[i];
    qn_free(cost);
    return sum * 1e-6;
}

qn_status qni_bench_lag(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err)
{
    static const qn_trainer_tiers tiers[2] = {{.replace = 1}, {.replace = 1, .lag = 1}};
    qni_racer r[2] = {{.seconds = NULL}};
    qn_status st = QN_OK;
    /* one worker: the host needs a core of its own */
    qn_bench_options o = qni_bench_usual(
        given,
        (qn_bench_options){
            .layers = 8, .width = 192, .heads = 3, .context = 32, .vocab = 512, .batch = 4, .micro_batches = 2, .workers = 1});
    o.steps = qn_min64(2 * o.steps, 1000); /* flights of short steps, of which a few parts in a hundred count */
    for (int32_t i = 0; i < 2 && st == QN_OK; i++) {
        const qni_bench_how how = {.schedule = "roundpipe", .tiers = &tiers[i], .layers = true, .flight = FLIGHT};
        st = qni_racer_open(&r[i], &o, &how, err);
    }
    if (st == QN_OK) st = qni_race(r, 2, err);
    if (st != QN_OK) goto out;
    const double step = sum_of(&r[0], QN_OP_OPT, err), copies = sum_of(&r[1], QN_OP_PCOPY, err) + sum_of(&r[1], QN_OP_GCOPY, err);
    const double between = r[0].step_s * 1e3, beside = r[1].step_s * 1e3, blocking = between + copies;
    qni_line l = qni_line_begin(o.json);
    qni_line_text(&l, "claim", "time that the event protocol saves, over that of the optimizer and its copies");
    qni_line_text(&l, "device", "shares the host's cores and memory");
    qni_line_number(&l, "optimizer_ms", step);
    qni_line_number(&l, "copies_ms", copies);
    qni_line_number(&l, "between_steps_ms", between);
    qni_line_number(&l, "blocking_copies_ms", blocking);
    qni_line_number(&l, "beside_the_step_ms", beside);
    qni_line_claim(&l, (blocking - beside) / (step + copies), (r[0].simulated_ms + copies - r[1].simulated_ms) / (step + copies),
                   0.8);
    qni_line_end(&l, line, ctx);
out:
    for (int32_t i = 0; i < 2; i++) qni_racer_close(&r[i]);
    return st;
}
