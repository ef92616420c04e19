/* quern bench pipeline: real runs on several workers against the simulator with the costs measured in those runs, against each
 * other, and the time it takes to hand a message over. This file chooses the parts; each has a file of its own. */
#include <pthread.h>
#include <string.h>

#include "bench_devices.h"
#include "bench_schedules.h"
#include "bench_vocab.h"
#include "bench_window.h"
#include "core/clock.h"
#include "core/compiler.h"
#include "core/team.h"
#include "schedule/gen/gen.h"
#include "transport/transport.h"

/* ---- hand-over: a message goes there and back many times ---- */

typedef struct echo {
    const qn_transport *t;
    qn_world *world;
    int32_t rounds;
    int pin;
} echo;

static void move_one(const echo *e, int32_t worker, int32_t in, int32_t out, bool first)
{
    qn_slot_tag tag;
    const void *got;
    void *slot;
    if (!first) {
        for (;;) {
            const uint32_t seen = e->t->look(e->world, worker);
            if (e->t->get(e->world, in, &got, &tag, 1) == QN_RING_OK) break;
            if (e->t->wait(e->world, worker, seen, -1, NULL) != QN_OK) return;
        }
        e->t->release(e->world, in);
    }
    if (e->t->put_begin(e->world, out, &slot, 1) == QN_RING_OK)
        e->t->put_publish(e->world, out, (qn_slot_tag){.epoch = 1, .bytes = 0});
}

static void *answer(void *ctx)
{
    const echo *e = ctx;
    qn_team_pin_self(e->pin);
    for (int32_t i = 0; i < e->rounds; i++) move_one(e, 1, 0, 1, false);
    return NULL;
}

static qn_status one_handover(const char *how, int shared_core, const qn_bench_options *opt, qn_line_fn *line, void *ctx,
                              qn_err *err)
{
    const qn_channel_desc channel[2] = {{.from = 0, .to = 1, .depth = 2, .slot_bytes = 64},
                                        {.from = 1, .to = 0, .depth = 2, .slot_bytes = 64}};
    const qn_world_desc desc = {.workers = 2, .channels = 2, .channel = channel, .spins = shared_core ? 0 : 20000};
    echo e = {.t = qn_transport_find("thread"), .rounds = 20000, .pin = shared_core ? 0 : 1};
    pthread_t thread;
    qn_status st = e.t->open(&e.world, &desc, err);
    if (st != QN_OK) return st;
    e.t->set_epoch(e.world, 1);
    qn_team_pin_self(0);
    if (pthread_create(&thread, NULL, answer, &e) != 0) {
        e.t->close(e.world);
        return QN_FAIL(err, QN_ENOMEM, "a thread");
    }
    const int64_t began = qn_now_ns();
    for (int32_t i = 0; i < e.rounds; i++) move_one(&e, 0, 1, 0, i == 0);
    const double ns = (double)(qn_now_ns() - began) / (2.0 * e.rounds);
    pthread_join(thread, NULL);
    e.t->close(e.world);
    qni_line l = qni_line_begin(opt->json);
    qni_line_text(&l, "handover", how);
    qni_line_number(&l, "us", ns * 1e-3);
    qni_line_end(&l, line, ctx);
    return QN_OK;
}

static qn_status measure_handover(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err)
{
    qn_status st = QN_OK;
    if (qn_team_cores() > 1) st = one_handover("between cores", 0, opt, line, ctx, err);
    return st == QN_OK ? one_handover("on a shared core", 1, opt, line, ctx, err) : st;
}

/* ---- parts */

typedef qn_status part_fn(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err);

static const struct {
    const char *name;
    part_fn *run;
    bool own_sizes; /* zeros stand for sizes of its own */
} parts[] = {{"schedules", qni_bench_all_schedules, false}, {"pipelines", qni_bench_pipelines, false},
             {"vocabulary", qni_bench_vocab, true},         {"roundpipe-devices", qni_bench_devices, true},
             {"optimizer-lag", qni_bench_lag, true},        {"superpipe-window", qni_bench_window, true},
             {"handover", measure_handover, false}};

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
