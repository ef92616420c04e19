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
#include "core/alloc.h"
#include "core/compiler.h"
#include "core/checked.h"
#include "core/team.h"
#include "kernels/dnnl_ceiling.h"

enum { PRODUCTS = 64 }; /* the most distinct ones of a step */

typedef struct product {
    int64_t m, n, k, times;
    bool c_f32;
} product;

/* The three products of each distinct matrix among the parameters; times: how often a step does it. */
static int32_t list_products(product *out, int32_t most, const qn_model *m, int64_t rows)
{
    int32_t count = 0;
    for (int32_t u = 0; u < qn_model_uses(m); u++) {
        const qn_use *use = qn_model_use(m, u);
        const qn_param *p = qn_model_param(m, use->param);
        const bool looked_up = use->layer == 0; /* embeddings are no product */
        if (p->rank != 2 || looked_up) continue;
        const product three[3] = {{.m = rows, .n = p->dim[0], .k = p->dim[1]},
                                  {.m = rows, .n = p->dim[1], .k = p->dim[0], .c_f32 = true},
                                  {.m = p->dim[0], .n = p->dim[1], .k = rows, .c_f32 = true}};
        for (int i = 0; i < 3; i++) {
            int32_t at = 0;
            while (at < count && (out[at].m != three[i].m || out[at].n != three[i].n || out[at].k != three[i].k ||
                                  out[at].c_f32 != three[i].c_f32))
                at++;
            if (at == most) return count;
            if (at == count) {
                out[count] = three[i];
                out[count++].times = 0;
            }
            out[at].times++;
        }
    }
    return count;
}

static double flops_of(const product *p)
{
    return 2.0 * (double)p->m * (double)p->n * (double)p->k;
}

/* The ceilings of a step's products, opened together so that they can be measured in turn with the steps. */
typedef struct ceilings {
    product list[PRODUCTS];
    qni_ceiling *c[PRODUCTS];
    double *ns[PRODUCTS]; /* [runs] */
    int32_t count, runs;
} ceilings;

static void close_ceilings(ceilings *s)
{
    for (int32_t i = 0; i < s->count; i++) {
        qni_ceiling_close(s->c[i]);
        qn_free(s->ns[i]);
    }
}

static qn_status open_ceilings(ceilings *s, const qn_model *m, const qn_bench_options *opt, qn_err *err)
{
    const int32_t threads = (int32_t)(opt->threads * opt->workers);
    s->count = list_products(s->list, PRODUCTS, m, opt->batch * opt->context);
    for (int32_t i = 0; i < s->count; i++) {
        const product *p = &s->list[i];
        const qn_status st = qni_ceiling_open(&s->c[i], p->m, p->n, p->k, opt->dtype != 0, p->c_f32, threads, err);
        if (st != QN_OK) return st;
        s->ns[i] = qn_calloc((size_t)opt->steps, sizeof(double));
        if (s->ns[i] == NULL) return QN_FAIL(err, QN_ENOMEM, "results of %lld runs", (long long)opt->steps);
    }
    return QN_OK;
}

/* On threads of the library's own, which take over the affinity of the thread that first calls: so it is free meanwhile. */
static void run_ceilings(ceilings *s)
{
    qn_team_pin_self(-1);
    for (int32_t i = 0; i < s->count; i++) s->ns[i][s->runs] = (double)qni_ceiling_run(s->c[i]);
    s->runs++;
    qn_team_pin_self(0); /* as the trainer has its first worker */
}

/* GFLOP/s of all products of a step together, by the median of each. */
static double ceiling_rate(ceilings *s)
{
    double flops = 0, ns = 0;
    for (int32_t i = 0; i < s->count; i++) {
        flops += flops_of(&s->list[i]) * (double)s->list[i].times;
        ns += qni_median(s->ns[i], s->runs) * (double)s->list[i].times;
    }
    return ns > 0 ? flops / ns : 0;
}

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

/* Steps and products in turn, so that a machine whose speed drifts slows both. */
static qn_status measure(double *seconds, ceilings *c, qni_bench_run *b, int32_t steps, qn_err *err)
{
    qn_status st = QN_OK;
    qn_step_result result;
    double *run = qn_calloc((size_t)steps, sizeof(*run));
    if (run == NULL) return QN_FAIL(err, QN_ENOMEM, "results of %d steps", steps);
    for (int32_t i = 0; i < steps; i++) {
        QN_TRY(st, qn_trainer_step(b->trainer, i + 2, 1e-4, &result, b->trace, err), out);
        run[i] = (double)result.ns * 1e-9;
        run_ceilings(c);
    }
    *seconds = qni_median(run, steps);
out:
    qn_free(run);
    return st;
}

qn_status qn_bench_train(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err)
{
    const qn_bench_options opt = qni_bench_defaults(given, false);
    qni_bench_run b;
    ceilings c = {.count = 0};
    double seconds;
    struct rusage usage;
    qn_status st = qni_bench_open(&b, &opt, &(qni_bench_how){.schedule = "1f1b", .traces = 1}, err);
    if (st != QN_OK) return st;
    QN_TRY(st, qni_bench_steps(&seconds, &b, 1, err), out);
    getrusage(RUSAGE_SELF, &usage); /* before the ceilings take memory of their own */
    const qn_memory mem = qn_trainer_memory(b.trainer);
    QN_TRY(st, open_ceilings(&c, b.model, &opt, err), out);
    QN_TRY(st, measure(&seconds, &c, &b, (int32_t)opt.steps, err), out);
    const double tokens = (double)(opt.batch * opt.context), parameters = (double)qn_model_matmul_params(b.model);
    const double flops = (6 * parameters + 6.0 * (double)(opt.layers * opt.width * opt.context)) * tokens;
    const double rate = flops / seconds * 1e-9, gemm = ceiling_rate(&c);
    qni_line l = qni_line_begin(opt.json);
    qni_line_text(&l, "dtype", opt.dtype == 0 ? "f32" : "bf16");
    qni_line_number(&l, "gflops", rate);
    qni_line_number(&l, "gemm_gflops", gemm);
    qni_line_number(&l, "ratio", rate / gemm);
    qni_line_number(&l, "tokens_per_s", tokens / seconds);
    qni_line_number(&l, "step_ms", seconds * 1e3);
    qni_line_number(&l, "peak_bytes", (double)usage.ru_maxrss * 1024);
    qni_line_number(&l, "parameters", (double)qn_model_param_count(b.model));
    qni_line_number(&l, "state_bytes", (double)(mem.params + mem.grads + mem.moments));
    qni_line_number(&l, "packed_bytes", (double)mem.packed);
    qni_line_number(&l, "arena_bytes", (double)mem.arenas);
    qni_line_number(&l, "scratch_bytes", (double)mem.scratch);
    qni_line_end(&l, line, ctx);
    show_phases(&b, &opt, line, ctx);
out:
    close_ceilings(&c);
    qni_bench_close(&b);
    return st;
}
