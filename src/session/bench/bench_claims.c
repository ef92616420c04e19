/* quern bench pipeline, plain pipelines on two workers: the ratios that gpipe.md, megatron-lm.md and zero-bubble.md ask for. The
 * batch is the same everywhere; only how it is cut changes. */
#include <string.h>

#include "bench_race.h"
#include "bench_schedules.h"
#include "core/compiler.h"

typedef struct way {
    const char *schedule;
    int32_t workers, items;
} way;

static const way ways[] = {{"1f1b", 1, 8}, {"gpipe", 2, 1},       {"gpipe", 2, 2},       {"gpipe", 2, 4}, {"gpipe", 2, 8},
                           {"1f1b", 2, 8}, {"1f1b", 2, 2},        {"interleaved", 2, 2}, {"1f1b", 2, 3},  {"interleaved", 2, 3},
                           {"1f1b", 2, 4}, {"interleaved", 2, 4}, {"zb-h1", 2, 4}};
enum { WAYS = QN_COUNT(ways) };

static const qni_racer *find(const qni_racer *r, const char *schedule, int32_t workers, int32_t items)
{
    for (int32_t i = 0; i < WAYS; i++)
        if (strcmp(ways[i].schedule, schedule) == 0 && ways[i].workers == workers && ways[i].items == items) return &r[i];
    return NULL;
}

static void claim(const char *what, const qni_racer *fast, const qni_racer *slow, double wanted, qn_line_fn *line, void *ctx)
{
    qni_line l = qni_line_begin(fast->opt.json);
    qni_line_text(&l, "claim", what);
    qni_line_claim(&l, slow->step_s / fast->step_s, slow->simulated_ms / fast->simulated_ms, wanted);
    qni_line_gain(&l, fast, slow);
    qni_line_end(&l, line, ctx);
}

static void show(const qni_racer *r, qn_line_fn *line, void *ctx)
{
    const qni_racer *one = find(r, "1f1b", 1, 8), *gpipe = find(r, "gpipe", 2, 8), *f2 = find(r, "1f1b", 2, 2),
                    *f4 = find(r, "1f1b", 2, 4), *h1 = find(r, "zb-h1", 2, 4);
    claim("gpipe, 8 micro-batches over 1", gpipe, find(r, "gpipe", 2, 1), 1.5, line, ctx);
    claim("gpipe, 4 micro-batches over 2", find(r, "gpipe", 2, 4), find(r, "gpipe", 2, 2), 1, line, ctx);
    claim("gpipe, 8 micro-batches over 4", gpipe, find(r, "gpipe", 2, 4), 1, line, ctx);
    claim("gpipe on 2 workers over one worker", gpipe, one, 1.5, line, ctx);
    claim("1f1b on 2 workers over one worker", find(r, "1f1b", 2, 8), one, 1.5, line, ctx);
    claim("interleaved over 1f1b, 2 micro-batches", find(r, "interleaved", 2, 2), f2, 1, line, ctx);
    claim("interleaved over 1f1b, 3 micro-batches", find(r, "interleaved", 2, 3), find(r, "1f1b", 2, 3), 1, line, ctx);
    claim("interleaved over 1f1b, 4 micro-batches", find(r, "interleaved", 2, 4), f4, 1, line, ctx);
    claim("zb-h1 over 1f1b, 4 micro-batches", h1, f4, 0.9 * f4->simulated_ms / h1->simulated_ms, line, ctx);
}

qn_status qni_bench_pipelines(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err)
{
    qni_racer r[WAYS] = {{.seconds = NULL}};
    qn_status st = QN_OK;
    for (int32_t i = 0; i < WAYS && st == QN_OK; i++) {
        const qni_bench_how how = {.schedule = ways[i].schedule};
        qn_bench_options mine = *opt;
        mine.workers = ways[i].workers;
        mine.micro_batches = ways[i].items;
        st = qni_racer_open(&r[i], &mine, &how, err);
    }
    if (st == QN_OK) st = qni_race(r, WAYS, err);
    if (st == QN_OK) show(r, line, ctx);
    for (int32_t i = 0; i < WAYS; i++) qni_racer_close(&r[i]);
    return st;
}
