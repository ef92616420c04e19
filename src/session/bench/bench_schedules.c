/* quern bench pipeline, every schedule with the model's kernels: how long a training step really takes against what the simulator
 * says with the costs of the same steps, all of them in turn with 1F1B and with one worker. */
#include "bench_schedules.h"

#include <string.h>

#include "bench_race.h"
#include "core/alloc.h"
#include "session/schedules/cost_file.h"
#include "schedule/gen/gen.h"

/* One line per stage that --cost-from reads back. */
static qn_status show_profile(const qni_racer *r, qn_line_fn *line, void *ctx, qn_err *err)
{
    qni_cost_rows rows;
    const qn_status st = qni_profile_of(&rows, r->run.trace, r->run.traces, err);
    if (st != QN_OK) return st;
    for (int32_t i = 0; i < rows.rows; i++) {
        qni_line l = qni_line_begin(r->opt.json);
        qni_line_text(&l, "profile", r->how.schedule);
        qni_line_number(&l, "stage", i);
        qni_line_number(&l, "F", (double)rows.micro[i][QN_OP_F] * 1e-6);
        qni_line_number(&l, "B", (double)rows.micro[i][QN_OP_B] * 1e-6);
        qni_line_number(&l, "W", (double)rows.micro[i][QN_OP_W] * 1e-6);
        qni_line_number(&l, "act", (double)rows.size[0][i]);
        qni_line_number(&l, "stash", (double)rows.size[1][i]);
        qni_line_number(&l, "wstash", (double)rows.size[2][i]);
        qni_line_end(&l, line, ctx);
    }
    qni_cost_rows_fini(&rows);
    return QN_OK;
}

static void show(const qni_racer *r, const qni_racer *one, const qni_racer *plain, qn_line_fn *line, void *ctx)
{
    const double gain = plain->step_s / r->step_s, predicted = plain->simulated_ms / r->simulated_ms;
    const double off = r->ratio_middle - 1;
    qni_line l = qni_line_begin(r->opt.json);
    qni_line_text(&l, "schedule", r->how.schedule);
    qni_line_text(&l, "kernels", "model");
    qni_line_number(&l, "workers", (double)r->opt.workers);
    qni_line_number(&l, "micro_batches", (double)r->opt.micro_batches);
    qni_line_number(&l, "measured_ms", r->measured_ms);
    qni_line_number(&l, "simulated_ms", r->simulated_ms);
    qni_line_number(&l, "measured_over_simulated", r->ratio_middle);
    qni_line_number(&l, "least", r->ratio_least);
    qni_line_number(&l, "most", r->ratio_most);
    qni_line_text(&l, "wanted", "0.95 to 1.05");
    qni_line_text(&l, "reached", off <= 0.05 && off >= -0.05 ? "yes" : "no");
    qni_line_steps(&l, r, NULL);
    qni_line_number(&l, "measured_over_replayed", r->replayed);
    qni_line_number(&l, "bubble_measured", r->bubble_measured);
    qni_line_number(&l, "bubble_simulated", r->bubble_simulated);
    qni_line_number(&l, "speedup_over_one_worker", one->step_s / r->step_s);
    qni_line_number(&l, "throughput_over_1f1b", gain);
    qni_line_number(&l, "predicted_over_1f1b", predicted);
    qni_line_end(&l, line, ctx);
}

static bool is_wanted(const qn_list *only, const char *name)
{
    bool all = only->count == 0;
    for (int32_t i = 0; i < only->count; i++)
        all = all || strcmp(only->item[i], name) == 0 || strcmp(only->item[i], "schedules") == 0;
    return all;
}

/* Eight micro-batches of a sample, so that three steps of each of them all are through within a minute. */
static qn_bench_options sizes(const qn_bench_options *given)
{
    qn_bench_options o = *given;
    if (o.micro_batches == 0) o.micro_batches = 8;
    if (o.batch == 0) o.batch = o.micro_batches;
    return qni_bench_defaults(&o, true);
}

/* Racer 0: 1f1b on one worker; 1: 1f1b; then what is wanted. */
qn_status qni_bench_all_schedules(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err)
{
    const qn_bench_options chosen = sizes(given), *opt = &chosen;
    int32_t n = 0, most = 2;
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) most++;
    qni_racer *r = qn_calloc((size_t)most, sizeof(*r));
    qn_status st = r != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "results of %d schedules", most);
    qn_bench_options alone = *opt;
    alone.workers = 1;
    const qni_bench_how plain = {.schedule = "1f1b"};
    if (st == QN_OK) st = qni_racer_open(&r[n++], &alone, &plain, err);
    if (st == QN_OK) st = qni_racer_open(&r[n++], opt, &plain, err);
    for (const qn_generator *g = qn_generator_list(); g->name != NULL && st == QN_OK; g++) {
        const qn_bench_options *mine = g->max_workers == 1 ? &alone : opt;
        const qni_bench_how how = {.schedule = g->name};
        if (strcmp(g->name, "1f1b") == 0 || !is_wanted(&opt->only, g->name) ||
            !qn_generator_can(g, (int32_t)mine->workers, (int32_t)mine->micro_batches))
            continue;
        st = qni_racer_open(&r[n++], mine, &how, err);
    }
    if (st == QN_OK) st = qni_race(r, n, err);
    for (int32_t i = is_wanted(&opt->only, "1f1b") ? 1 : 2; i < n && st == QN_OK; i++) {
        show(&r[i], &r[0], &r[1], line, ctx);
        if (strcmp(r[i].how.schedule, "zb-h1") == 0) st = show_profile(&r[i], line, ctx, err);
    }
    for (int32_t i = 0; i < n; i++) qni_racer_close(&r[i]);
    qn_free(r);
    return st;
}
