/* Vocabulary parallelism against the output layer on the last stage (Yeung et al. 2024, arXiv:2411.05288): equal blocks on every
 * worker, a vocabulary so large that its products are about half of all.
 *
 * With f, b and V the times of a worker's forward, backward and V pass, measured in the same run as medians of its tasks, the
 * last worker of the plain pipeline needs f + b + P V for a micro-batch, each worker of the other f + b + V: the ratio of both is
 * what can be gained at best, apart from filling and draining. */
#include "bench_vocab.h"

#include <math.h>

#include "bench_race.h"
#include "core/checked.h"

enum { WAYS = 3 }; /* whole, algorithm 1, algorithm 2 */

static qn_bench_options sizes(const qn_bench_options *given)
{
    return qni_bench_usual(
        given, (qn_bench_options){.layers = 4, .width = 320, .heads = 5, .context = 128, .vocab = 16384, .batch = 32});
}

/* Mean over workers of the time of those tasks, per micro-batch, as the median over the traces. */
static double pass_time(const qni_bench_run *b, int32_t first_op, int32_t last_op)
{
    double each[QNI_RACE_TRACES];
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

static void show(const qni_racer *r, int32_t algorithm, const qni_racer *whole, const qn_bench_options *opt, qn_line_fn *line,
                 void *ctx)
{
    const qni_bench_run *b = &r->run;
    const double whole_s = whole->step_s, seconds = r->step_s;
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
    qni_line_claim(&l, whole_s / seconds, NAN, 1.3);
    qni_line_gain(&l, r, whole);
    qni_line_number(&l, "ideal_gain", ideal);
    qni_line_number(&l, "gain_over_ideal", whole_s / seconds / ideal);
    qni_line_end(&l, line, ctx);
}

qn_status qni_bench_vocab(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err)
{
    const qn_bench_options opt = sizes(given);
    qni_racer way[WAYS] = {{.seconds = NULL}};
    qn_status st;
    for (int32_t j = 0; j < WAYS; j++) {
        const qni_bench_how how = {.schedule = "1f1b", .even = true, .vocab = j};
        QN_TRY(st, qni_racer_open(&way[j], &opt, &how, err), out);
    }
    QN_TRY(st, qni_race(way, WAYS, err), out);
    for (int32_t j = 1; j < WAYS; j++) show(&way[j], j, &way[0], &opt, line, ctx);
out:
    for (int32_t j = 0; j < WAYS; j++) qni_racer_close(&way[j]);
    return st;
}
