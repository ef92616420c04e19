/* Vocabulary parallelism against the output layer on the last stage (Yeung et al. 2024, arXiv:2411.05288): equal blocks on every
 * worker, a vocabulary so large that its products are about half of all.
 *
 * With f, b and V the times of a worker's forward, backward and V pass, measured in the same run as medians of its tasks, the
 * last worker of the plain pipeline needs f + b + P V for a micro-batch, each worker of the other f + b + V: the ratio of both is
 * what can be gained at best, apart from filling and draining. */
#include "bench_vocab.h"

#include "bench_common.h"
#include "core/checked.h"

enum { TRACES = 15, WAYS = 3 }; /* whole, algorithm 1, algorithm 2 */

static qn_bench_options sizes(const qn_bench_options *given)
{
    qn_bench_options o = *given;
    if (o.layers == 0) o.layers = 4;
    if (o.width == 0) o.width = 320;
    if (o.heads == 0) o.heads = 5;
    if (o.context == 0) o.context = 128;
    if (o.vocab == 0) o.vocab = 16384;
    if (o.batch == 0) o.batch = 32;
    return qni_bench_defaults(&o, true);
}

/* Mean over workers of the time of those tasks, per micro-batch, as the median over the traces. */
static double pass_time(const qni_bench_run *b, int32_t first_op, int32_t last_op)
{
    double each[TRACES];
    for (int32_t i = 0; i < b->traces; i++) {
        const qn_trace *t = &b->trace[i];
        double sum = 0;
        for (int32_t k = 0; k < t->plan->tasks; k++)
            if (t->plan->task[k].op >= first_op && t->plan->task[k].op <= last_op)
                sum += (double)(t->time[k].end - t->time[k].start);
        each[i] = sum / t->plan->workers / t->plan->items;
    }
    return qni_median(each, b->traces);
}

static qn_status race(qni_bench_run run[WAYS], double seconds[WAYS], int32_t steps, qn_err *err)
{
    double each[WAYS][1000];
    for (int32_t i = -1; i < steps; i++) {
        for (int32_t j = 0; j < WAYS; j++) { /* in turn: a machine whose speed drifts slows all of them */
            qn_step_result result;
            qn_trace *trace = &run[j].trace[i < 0 ? 0 : i % run[j].traces];
            const qn_status st = qn_trainer_step(run[j].trainer, i + 1, 1e-4, &result, trace, err);
            if (st != QN_OK) return st;
            if (i >= 0) each[j][i] = (double)result.ns * 1e-9;
        }
    }
    for (int32_t j = 0; j < WAYS; j++) seconds[j] = qni_median(each[j], steps);
    return QN_OK;
}

static void show(const qni_bench_run *b, int32_t algorithm, double whole_s, double seconds, const qn_bench_options *opt,
                 qn_line_fn *line, void *ctx)
{
    const double chain = pass_time(b, QN_OP_F, QN_OP_R), V = pass_time(b, QN_OP_VI, QN_OP_VJ);
    const double ideal = (chain + (double)opt->workers * V) / (chain + V);
    qni_line l = qni_line_begin(opt->json);
    qni_line_number(&l, "vocab_parallel", algorithm);
    qni_line_number(&l, "workers", (double)opt->workers);
    qni_line_number(&l, "vocab", (double)opt->vocab);
    qni_line_number(&l, "micro_batches", (double)opt->micro_batches);
    qni_line_number(&l, "share_of_output_layer", V / (chain + V));
    qni_line_number(&l, "output_layer_last_ms", whole_s * 1e3);
    qni_line_number(&l, "vocab_parallel_ms", seconds * 1e3);
    qni_line_number(&l, "gain", whole_s / seconds);
    qni_line_number(&l, "ideal_gain", ideal);
    qni_line_number(&l, "gain_over_ideal", whole_s / seconds / ideal);
    qni_line_end(&l, line, ctx);
}

qn_status qni_bench_vocab(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err)
{
    const qn_bench_options opt = sizes(given);
    qni_bench_run run[WAYS] = {{.traces = 0}};
    double seconds[WAYS];
    qn_status st;
    for (int32_t j = 0; j < WAYS; j++)
        QN_TRY(st, qni_bench_open_even(&run[j], &opt, j, qn_min32(TRACES, (int32_t)opt.steps), err), out);
    QN_TRY(st, race(run, seconds, (int32_t)opt.steps, err), out);
    for (int32_t j = 1; j < WAYS; j++) show(&run[j], j, seconds[0], seconds[j], &opt, line, ctx);
out:
    for (int32_t j = 0; j < WAYS; j++) qni_bench_close(&run[j]);
    return st;
}
