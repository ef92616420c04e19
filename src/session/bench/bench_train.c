/* quern bench train: a training step against the matrix products it is made of.
 *
 * gflops      (6 x parameters in matrix products, a tied head once, + 6 L C T) x tokens / time of a step; nothing is added for
 *             recomputation
 * gemm_gflops the step's own products (forward, input gradient, weight gradient of every linear map) at full B T rows, as oneDNN
 *             alone does them, in the same run */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "bench_common.h"
#include "bench_products.h"
#include "core/alloc.h"

/* Where the time of the worker 0's compute lane went, by task kind, from the last step's trace. */
static void show_phases(const qni_bench_run *b, const qn_bench_options *opt, qn_line_fn *line, void *ctx)
{
    const qn_trace *t = &b->trace[b->traces - 1];
    double ms[QN_OPS] = {0};
    static const char *const names[QN_OPS] = {
#define NAME(op, text) [op] = text,
        QN_OP_LIST(NAME)
#undef NAME
    };
    for (int32_t i = 0; i < t->plan->tasks; i++)
        if (t->time[i].end > t->time[i].start) ms[t->plan->task[i].op] += (double)(t->time[i].end - t->time[i].start) * 1e-6;
    qni_line l = qni_line_begin(opt->json);
    qni_line_text(&l, "phases", "ms");
    for (int op = 0; op < QN_OPS; op++)
        if (ms[op] > 0) qni_line_number(&l, names[op], ms[op]);
    qni_line_end(&l, line, ctx);
}

/* Steps and products in turn, so that a machine whose speed drifts slows both. run: seconds of the steps, sorted. */
static qn_status measure(double *run, qni_products *c, qni_bench_run *b, int32_t steps, qn_err *err)
{
    qn_step_result result;
    for (int32_t i = 0; i < steps; i++) {
        const qn_status st = qn_trainer_step(b->trainer, i + 2, 1e-4, &result, b->trace, err);
        if (st != QN_OK) return st;
        run[i] = (double)result.ns * 1e-9;
        qni_products_run(c);
    }
    (void)qni_median(run, steps);
    return QN_OK;
}

static void show(const qni_bench_run *b, const qn_bench_options *opt, double *run, double gemm, double peak, qn_line_fn *line,
                 void *ctx)
{
    const qn_memory mem = qn_trainer_memory(b->trainer);
    const int32_t steps = (int32_t)opt->steps;
    const double tokens = (double)(opt->batch * opt->context), parameters = (double)qn_model_matmul_params(b->model);
    const double flops = (6 * parameters + 6.0 * (double)(opt->layers * opt->width * opt->context)) * tokens;
    const double seconds = qni_median(run, steps), rate = flops / seconds * 1e-9;
    qni_line l = qni_line_begin(opt->json);
    qni_line_text(&l, "dtype", opt->dtype == 0 ? "f32" : "bf16");
    qni_line_number(&l, "gflops", rate);
    qni_line_number(&l, "gemm_gflops", gemm);
    qni_line_number(&l, "ratio", rate / gemm);
    qni_line_number(&l, "tokens_per_s", tokens / seconds);
    qni_line_number(&l, "step_ms", seconds * 1e3);
    qni_line_range(&l, run, steps, 1e3);
    qni_line_number(&l, "peak_bytes", peak);
    qni_line_number(&l, "parameters", (double)qn_model_param_count(b->model));
    qni_line_number(&l, "state_bytes", (double)(mem.params + mem.grads + mem.moments));
    qni_line_number(&l, "packed_bytes", (double)mem.packed);
    qni_line_number(&l, "arena_bytes", (double)mem.arenas);
    qni_line_number(&l, "scratch_bytes", (double)mem.scratch);
    qni_line_end(&l, line, ctx);
}

qn_status qn_bench_train(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err)
{
    const qn_bench_options opt = qni_bench_defaults(given, false);
    qni_bench_run b;
    qni_products c = {.count = 0};
    double seconds, *run = NULL;
    struct rusage usage;
    qn_status st = qni_bench_open(&b, &opt, &(qni_bench_how){.schedule = "1f1b", .traces = 1}, err);
    if (st != QN_OK) return st;
    QN_TRY(st, qni_bench_steps(&seconds, &b, 1, err), out);
    getrusage(RUSAGE_SELF, &usage); /* before the ceilings take memory of their own */
    const qni_products_of of = {.model = b.model,
                                .rows = opt.batch * opt.context,
                                .bf16 = opt.dtype != 0,
                                .input = true,
                                .weight = true,
                                .head = true,
                                .threads = (int32_t)(opt.threads * opt.workers),
                                .runs = (int32_t)opt.steps};
    run = qn_calloc((size_t)opt.steps, sizeof(*run));
    if (run == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "results of %lld steps", (long long)opt.steps);
        goto out;
    }
    QN_TRY(st, qni_products_open(&c, &of, err), out);
    QN_TRY(st, measure(run, &c, &b, (int32_t)opt.steps, err), out);
    show(&b, &opt, run, qni_products_rate(&c), (double)usage.ru_maxrss * 1024, line, ctx);
    show_phases(&b, &opt, line, ctx);
out:
    qn_free(run);
    qni_products_close(&c);
    qni_bench_close(&b);
    return st;
}
