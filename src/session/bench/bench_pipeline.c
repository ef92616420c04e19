/* quern bench pipeline: real runs on several workers against the simulator with the costs measured in those runs, against each
 * other, and the time it takes to hand a message over. This file chooses the parts; they are elsewhere. */
#include <stdio.h>
#include <string.h>

#include "bench_devices.h"
#include "bench_schedules.h"
#include "bench_vocab.h"
#include "bench_window.h"
#include "core/compiler.h"
#include "schedule/gen/gen.h"

typedef qn_status part_fn(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err);

static const struct {
    const char *name;
    part_fn *run;
    bool own_sizes;  /* zeros stand for sizes of its own */
    bool when_named; /* not among all: it writes large files */
} parts[] = {{.name = "schedules", .run = qni_bench_all_schedules, .own_sizes = true},
             {.name = "pipelines", .run = qni_bench_pipelines},
             {.name = "cuts", .run = qni_bench_cuts},
             {.name = "messages", .run = qni_bench_messages},
             {.name = "crowded", .run = qni_bench_crowded},
             {.name = "vocabulary", .run = qni_bench_vocab, .own_sizes = true},
             {.name = "vocabulary", .run = qni_bench_vocab_gain, .own_sizes = true},
             {.name = "roundpipe-devices", .run = qni_bench_devices, .own_sizes = true},
             {.name = "optimizer-lag", .run = qni_bench_lag, .own_sizes = true},
             {.name = "optimizer-lag", .run = qni_bench_protocol, .own_sizes = true},
             {.name = "superpipe-window", .run = qni_bench_window, .own_sizes = true},
             {.name = "out-of-core", .run = qni_bench_out_of_core, .own_sizes = true, .when_named = true},
             {.name = "handover", .run = qni_bench_handover}};

static qn_status check_names(const qn_list *only, qn_err *err)
{
    const char *known[64];
    char list[512] = "";
    size_t n = 0, used = 0;
    for (size_t i = 0; i < QN_COUNT(parts); i++) {
        if (i > 0 && strcmp(parts[i].name, parts[i - 1].name) == 0) continue;
        known[n++] = parts[i].name;
        used += (size_t)snprintf(list + used, sizeof(list) - used, "%s %s", i > 0 ? "," : "", parts[i].name);
    }
    for (const qn_generator *g = qn_generator_list(); g->name != NULL && n < QN_COUNT(known); g++) known[n++] = g->name;
    for (int32_t i = 0; i < only->count; i++) {
        bool found = false;
        for (size_t k = 0; k < n; k++) found = found || strcmp(known[k], only->item[i]) == 0;
        const char *near = found ? NULL : qn_nearest(only->item[i], known, n);
        if (!found)
            return QN_FAIL(err, QN_EINVAL, "--only has '%s'%s%s; a schedule's name was wanted, or one of%s", only->item[i],
                           near != NULL ? ", perhaps " : "", near != NULL ? near : "", list);
    }
    return QN_OK;
}

static bool is_wanted(const qn_list *only, size_t part)
{
    bool wanted = only->count == 0 && !parts[part].when_named;
    for (int32_t i = 0; i < only->count; i++)
        wanted =
            wanted || strcmp(only->item[i], parts[part].name) == 0 || (part == 0 && qn_generator_find(only->item[i]) != NULL);
    return wanted;
}

qn_status qn_bench_pipeline(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err)
{
    const qn_bench_options opt = qni_bench_defaults(given, true);
    qn_status st = check_names(&given->only, err);
    if (st == QN_OK && given->kernels == 1) return qni_bench_sleepers(given, line, ctx, err);
    for (size_t i = 0; i < QN_COUNT(parts) && st == QN_OK; i++)
        if (is_wanted(&given->only, i)) st = parts[i].run(parts[i].own_sizes ? given : &opt, line, ctx, err);
    return st;
}
