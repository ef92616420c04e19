/* Vocabulary parallelism on more workers than there are cores, as the dossier of Yeung et al. 2024 (arXiv:2411.05288) asks:
 * simulated, with costs measured on this machine.
 *
 *   h = 64, s = 64, V = 32768; a stage has as many blocks as make the output layer cost as much as four stages
 *   f, b       of a stage: its blocks, each timed on one worker that has the whole model
 *   V          of one of P shards of both ends, timed on one worker that has all P of them: VI, VS, VT, VJ
 *   last       the ends whole: P shards' worth, as the dossier counts; and as measured in the same steps as the blocks
 *
 * Expected: (f + b + P V) / (f + b + V), which leaves out filling and draining. A whole output layer is not P shards: its table
 * probably does not fit where a shard's does, so that what is really gained is more. Times are medians, per task, of steps that
 * take turns. */
#include <string.h>

#include "bench_race.h"
#include "bench_vocab.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "session/schedules/measured.h"
#include "schedule/gen/gen.h"

enum { P = 4, M = 64, OUTPUT_STAGES = 4, WAYS = 3 }; /* racers: whole, algorithm 1, algorithm 2 */

typedef struct times {     /* ns */
    int64_t block[QN_OPS]; /* mean over the blocks */
    int64_t first[QN_OPS], last[QN_OPS];
    int64_t shard[WAYS][QN_OPS]; /* by algorithm */
} times;

static qn_bench_options sizes(const qn_bench_options *given)
{
    qn_bench_options o = *given;
    o.layers = 4; /* the question fixes all sizes */
    o.width = 64;
    o.heads = 4;
    o.context = 64;
    o.vocab = 32768;
    o.micro_batches = 8;
    o.batch = 4 * o.micro_batches;
    o.workers = o.threads = 1;
    return qni_bench_defaults(&o, true);
}

/* ---- costs */

static bool is_vocab(int32_t op)
{
    return op >= QN_OP_VI && op <= QN_OP_VJ;
}

/* Whole: a stage for each layer of the chain. Shards: the mean over them. */
static qn_status read_times(times *t, const qni_racer *r, int32_t algorithm, qn_err *err)
{
    const qn_plan *p = r->run.trace->plan;
    int64_t *cost = qn_calloc((size_t)p->tasks + 1, sizeof(*cost)), count[QN_OPS] = {0}, sum[QN_OPS] = {0};
    qn_status st = cost != NULL ? qni_racer_costs(cost, r, err) : QN_FAIL(err, QN_ENOMEM, "costs of %d tasks", p->tasks);
    for (int32_t i = 0; i < p->tasks && st == QN_OK; i++) {
        const qn_task *x = &p->task[i];
        const bool chain = x->op == QN_OP_F || x->op == QN_OP_BW;
        if (algorithm == 0 ? !chain : !is_vocab(x->op)) continue;
        if (algorithm == 0 && x->stage == 0)
            t->first[x->op] = cost[i];
        else if (algorithm == 0 && x->stage == p->stages - 1)
            t->last[x->op] = cost[i];
        else {
            sum[x->op] += cost[i];
            count[x->op]++;
        }
    }
    for (int op = 0; op < QN_OPS && st == QN_OK; op++)
        (algorithm == 0 ? t->block : t->shard[algorithm])[op] = count[op] > 0 ? sum[op] / count[op] : 0;
    qn_free(cost);
    return st;
}

static qn_status measure(times *t, const qn_bench_options *opt, qn_err *err)
{
    qni_racer way[WAYS] = {{.seconds = NULL}};
    qn_status st = QN_OK;
    memset(t, 0, sizeof(*t));
    for (int32_t j = 0; j < WAYS && st == QN_OK; j++) {
        const qni_bench_how whole = {.schedule = "superpipe"};
        const qni_bench_how cut = {.schedule = "1f1b", .even = true, .vocab = j, .sides = P};
        st = qni_racer_open(&way[j], opt, j == 0 ? &whole : &cut, err);
    }
    if (st == QN_OK) st = qni_race(way, WAYS, err);
    for (int32_t j = 0; j < WAYS && st == QN_OK; j++) st = read_times(t, &way[j], j, err);
    for (int32_t j = 0; j < WAYS; j++) qni_racer_close(&way[j]);
    return st;
}

/* ---- simulation */

/* What the ends of the chain have besides their blocks where the vocabulary is whole: as measured, or P shards' worth. */
static int64_t end_cost(const times *t, int32_t op, bool last, const int64_t *shard)
{
    if (shard == NULL) return (last ? t->last : t->first)[op];
    if (op == QN_OP_F) return P * shard[last ? QN_OP_VS : QN_OP_VI];
    return op == QN_OP_BW ? P * shard[last ? QN_OP_VT : QN_OP_VJ] : 0;
}

/* The makespan of M micro-batches on P workers; algorithm 0: output layer whole on the last stage, shard as for end_cost. */
static qn_status simulate(double *ms, const times *t, int32_t algorithm, const int64_t *shard, int64_t blocks, qn_err *err)
{
    const qn_lowering how = {.tied_owner = QN_NONE, .tied_replica = QN_NONE};
    qn_pattern pat = {.workers = P, .items = M, .chunks = 1, .vocab = algorithm};
    qn_order *order = NULL;
    qn_plan *p = NULL;
    qn_trace trace = {.time = NULL};
    qn_status st;
    for (int op = 0; op < QN_OPS; op++) pat.cost[op] = is_vocab(op) ? t->shard[algorithm][op] : blocks * t->block[op];
    QN_TRY(st, qn_generate(&order, "1f1b", &pat, err), out);
    QN_TRY(st, qn_lower(&p, order, &how, err), out);
    for (int32_t i = 0; i < p->tasks; i++) {
        qn_task *x = &p->task[i];
        x->cost = x->lane == QN_LANE_COMP ? pat.cost[x->op] : 0;
        const bool end = algorithm == 0 && x->lane == QN_LANE_COMP && (x->stage == 0 || x->stage == P - 1);
        if (end) x->cost += end_cost(t, x->op, x->stage == P - 1, shard);
    }
    const qn_sim_options plain = {.latency = 0};
    trace.time = qn_calloc((size_t)p->tasks + 1, sizeof(*trace.time));
    st = trace.time != NULL ? qn_simulate(&trace, p, &plain, err) : QN_FAIL(err, QN_ENOMEM, "trace of %d tasks", p->tasks);
    if (st == QN_OK) *ms = (double)qni_trace_makespan(&trace) * 1e-6;
out:
    qn_free(trace.time);
    qn_plan_close(p);
    qn_order_close(order);
    return st;
}

typedef struct gains {
    int64_t blocks;
    double whole_ms, shards_ms, cut_ms; /* last stage as measured, as P shards; cut into shards */
} gains;

static void show(const times *t, int32_t algorithm, const gains *g, const qn_bench_options *opt, qn_line_fn *line, void *ctx)
{
    const double fb = (double)(g->blocks * (t->block[QN_OP_F] + t->block[QN_OP_BW])) * 1e-6;
    double V = 0;
    for (int op = QN_OP_VI; op <= QN_OP_VJ; op++) V += (double)t->shard[algorithm][op] * 1e-6;
    const double whole = (double)(t->last[QN_OP_F] + t->last[QN_OP_BW]) * 1e-6, expected = (fb + P * V) / (fb + V);
    const double gain = g->shards_ms / g->cut_ms, off = gain / expected;
    qni_line l = qni_line_begin(opt->json);
    qni_line_number(&l, "simulated_vocab_parallel", algorithm);
    qni_line_number(&l, "workers", P);
    qni_line_number(&l, "micro_batches", M);
    qni_line_number(&l, "vocab", (double)opt->vocab);
    qni_line_number(&l, "blocks_of_a_stage", (double)g->blocks);
    qni_line_number(&l, "stage_ms", fb);
    qni_line_number(&l, "shard_ms", V);
    qni_line_number(&l, "output_layer_ms", whole);
    qni_line_number(&l, "output_over_stage", whole / fb);
    qni_line_number(&l, "gain", gain);
    qni_line_number(&l, "expected", expected);
    qni_line_number(&l, "gain_over_expected", off);
    qni_line_text(&l, "wanted", "0.95 to 1.05");
    qni_line_text(&l, "reached", off >= 0.95 && off <= 1.05 ? "yes" : "no");
    qni_line_number(&l, "gain_over_whole_layer", g->whole_ms / g->cut_ms);
    qni_line_number(&l, "expected_over_whole_layer", (fb + whole) / (fb + V));
    qni_line_end(&l, line, ctx);
}

qn_status qni_bench_vocab_gain(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err)
{
    const qn_bench_options opt = sizes(given);
    times t;
    qn_status st = measure(&t, &opt, err);
    if (st != QN_OK) return st;
    const int64_t block = t.block[QN_OP_F] + t.block[QN_OP_BW], output = t.last[QN_OP_F] + t.last[QN_OP_BW];
    gains g = {.blocks = qn_max64((output + OUTPUT_STAGES * block / 2) / qn_max64(OUTPUT_STAGES * block, 1), 1)};
    st = simulate(&g.whole_ms, &t, 0, NULL, g.blocks, err);
    for (int32_t j = 1; j < WAYS && st == QN_OK; j++) {
        st = simulate(&g.shards_ms, &t, 0, t.shard[j], g.blocks, err);
        if (st == QN_OK) st = simulate(&g.cut_ms, &t, j, NULL, g.blocks, err);
        if (st == QN_OK) show(&t, j, &g, &opt, line, ctx);
    }
    return st;
}
