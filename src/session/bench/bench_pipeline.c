/* quern bench pipeline: real runs on several workers against the simulator with the costs measured in those runs, against each
 * other, and the time it takes to hand a message over. This file chooses the parts; they are elsewhere. */
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
    bool own_sizes; /* zeros stand for sizes of its own */
} parts[] = {{"schedules", qni_bench_all_schedules, false},  {"pipelines", qni_bench_pipelines, false},
             {"messages", qni_bench_messages, false},        {"vocabulary", qni_bench_vocab, true},
             {"roundpipe-devices", qni_bench_devices, true}, {"optimizer-lag", qni_bench_lag, true},
             {"optimizer-lag", qni_bench_protocol, true},    {"superpipe-window", qni_bench_window, true},
             {"handover", qni_bench_handover, false}};

static qn_status check_names(const qn_list *only, qn_err *err)
{
    const char *known[64];
    size_t n = 0;
    for (size_t i = 0; i < QN_COUNT(parts); i++) known[n++] = parts[i].name;
    for (const qn_generator *g = qn_generator_list(); g->name != NULL && n < QN_COUNT(known); g++) known[n++] = g->name;
    for (int32_t i = 0; i < only->count; i++) {
        bool found = false;
        for (size_t k = 0; k < n; k++) found = found || strcmp(known[k], only->item[i]) == 0;
        const char *near = found ? NULL : qn_nearest(only->item[i], known, n);
        if (!found)
            return QN_FAIL(err, QN_EINVAL,
                           "--only has '%s'%s%s; a schedule's name, or schedules, pipelines, vocabulary, roundpipe-devices, "
                           "optimizer-lag, superpipe-window or handover was wanted",
                           only->item[i], near != NULL ? ", perhaps " : "", near != NULL ? near : "");
    }
    return QN_OK;
}

static bool is_wanted(const qn_list *only, size_t part)
{
    bool wanted = only->count == 0;
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
