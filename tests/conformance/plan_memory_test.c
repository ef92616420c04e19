/* Memory: the arena that a plan asks for is what its run uses, byte for byte, for every schedule, number of workers and
 * micro-batches, with vocabulary shards, replicas, tensor shards and windows of devices, on both drivers and under random delays;
 * what is alive at once stays within what the plan says. Tasks do nothing: contents are other tests' business. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/compiler.h"
#include "runtime/executor/executor.h"
#include "schedule/gen/gen.h"
#include "schedule/text/schedule_text.h"
#include "support/sanitized.h"

enum { MOST = 64, WORKERS = 16, HOME = 1 << 16 };

static _Thread_local unsigned char nowhere[HOME]; /* what has no place in an arena: nobody looks */

static qn_status idle(void *ctx, qn_executor *ex, int32_t task, qn_err *err)
{
    (void)ctx;
    (void)ex;
    (void)task;
    (void)err;
    return QN_OK;
}

static void *home(void *ctx, int32_t value, size_t *bytes)
{
    const qn_plan *p = ctx;
    *bytes = (size_t)p->value[value].bytes;
    assert_true(p->value[value].bytes <= HOME);
    return nowhere;
}

static qn_status copy(void *ctx, qn_executor *ex, int32_t task, size_t at, size_t bytes, qn_err *err)
{
    (void)at;
    (void)bytes;
    return idle(ctx, ex, task, err);
}

static double holes, arenas; /* sums of arena / live, and how many */
static double most_holes;

/* Three steps of the plan; every arena against its prediction. */
static void run(const qn_plan *p, qn_driver driver, uint64_t jitter, const char *what)
{
    int64_t live[WORKERS];
    qn_err err = {0};
    qn_executor *ex = NULL;
    const qn_executor_desc d = {.plan = p,
                                .transport = qn_transport_find("thread"),
                                .driver = driver,
                                .fns = {.run = idle, .home = home, .copy = copy},
                                .ctx = (void *)p,
                                .jitter = jitter};
    bool copies = false;
    for (int32_t t = 0; t < p->tasks; t++) copies = copies || p->task[t].op == QN_OP_LOAD;
    if (qn_plan_live_bytes(live, p, &err) != QN_OK || qn_executor_open(&ex, &d, &err) != QN_OK)
        fail_msg("%s: %s", what, err.text);
    for (int32_t w = 0; w < p->workers; w++) assert_int_equal(qn_executor_high_water(ex, w), 0);
    for (int step = 0; step < 3; step++)
        if (qn_executor_step(ex, NULL, &err) != QN_OK) fail_msg("%s: %s", what, err.text);
    for (int32_t w = 0; w < p->workers; w++) {
        const int64_t high = qn_executor_high_water(ex, w), alive = qn_executor_most_alive(ex, w);
        if (high != p->arena_bytes[w] || alive > live[w] || live[w] > high || (p->workers == 1 && !copies && alive != live[w]))
            fail_msg("%s, worker %d: high water %lld, predicted %lld; alive at once %lld, predicted at most %lld", what, w,
                     (long long)high, (long long)p->arena_bytes[w], (long long)alive, (long long)live[w]);
        if (live[w] == 0) continue;
        holes += (double)high / (double)live[w];
        arenas += 1;
        most_holes = most_holes > (double)high / (double)live[w] ? most_holes : (double)high / (double)live[w];
    }
    qn_executor_close(ex);
}

static void lower_and_run(const qn_order *o, qn_lowering how, int32_t turn, const char *what)
{
    static const int64_t SIZE[][3] = {{1, 1, 1}, {1, 8, 2}, {1, 30, 10}, {2, 7, 9}};
    int64_t act[MOST], stash[MOST], wstash[MOST];
    qn_plan *p = NULL;
    qn_err err = {0};
    const int64_t *size = SIZE[turn % 4];
    assert_true(o->stages <= MOST && o->workers <= WORKERS);
    for (int32_t s = 0; s < o->stages; s++) {
        act[s] = 64 * size[0];
        stash[s] = 64 * size[1] * (s + 1 == o->stages ? 2 : 1);
        wstash[s] = 64 * size[2];
    }
    how.act_bytes = act;
    how.stash_bytes = stash;
    how.wstash_bytes = wstash;
    how.step_tasks = true;
    how.stat_bytes = 64;
    how.tied_owner = how.tied_replica = QN_NONE;
    if (qn_lower(&p, o, &how, &err) != QN_OK) fail_msg("%s: %s", what, err.text);
    run(p, turn % 3 == 0 ? QN_DRIVE_THREADS : QN_DRIVE_LOOP, turn % 2 == 0 ? (uint64_t)turn + 1 : 0, what);
    qn_plan_close(p);
}

static int32_t chunks_of(const qn_generator *g)
{
    return g->min_chunks > 1 || g->max_chunks == 0 ? 2 : 1;
}

static void every_schedule(void **state)
{
    (void)state;
    char what[96];
    int32_t turn = 0;
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        holes = arenas = most_holes = 0;
        for (int32_t P = 1; P <= 4; P++) {
            for (int32_t M = 1; M <= 2 * P + 1; M++) {
                for (int32_t way = 0; way < 3; way++, turn++) {
                    qn_order *o = NULL;
                    qn_err err;
                    if (!qn_generator_can(g, P, M) || g->host_state || (QN_SANITIZED && turn % 5 != 0)) continue;
                    const qn_pattern pat = {.workers = P, .items = M, .chunks = chunks_of(g)};
                    snprintf(what, sizeof what, "%s on %d workers with %d micro-batches, recomputation %d", g->name, P, M, way);
                    if (qn_generate(&o, g->name, &pat, &err) != QN_OK) fail_msg("%s: %s", what, err.text);
                    lower_and_run(o, (qn_lowering){.recompute = (qn_recompute)way}, turn, what);
                    qn_order_close(o);
                }
            }
        }
        if (arenas > 0)
            print_message("%-14s arena / alive at once: %.3f on the average, at most %.3f\n", g->name, holes / arenas,
                          most_holes);
        assert_true(arenas == 0 || holes / arenas <= 1.05);
    }
}

static void replicas_shards_and_vocabulary(void **state)
{
    (void)state;
    static const char *const NAME[] = {"gpipe", "1f1b", "interleaved", "zb-h1", "zb-v"};
    static const int32_t WIDE[][3] = {{2, 1, 1}, {1, 2, 1}, {1, 2, 2}, {2, 2, 2}}; /* replicas, shards, workers of a stage */
    char what[96];
    int32_t turn = 0;
    for (size_t n = 0; n < QN_COUNT(NAME); n++) {
        for (int32_t P = 1; P <= 2; P++) {
            for (int32_t M = 1; M <= 4; M++) {
                const qn_generator *g = qn_generator_find(NAME[n]);
                const qn_pattern pat = {.workers = P, .items = M, .chunks = chunks_of(g)};
                qn_order *o = NULL, *wide = NULL;
                qn_err err;
                if (qn_generate(&o, g->name, &pat, &err) != QN_OK) fail_msg("%s: %s", g->name, err.text);
                for (size_t w = 0; w < QN_COUNT(WIDE); w++, turn++) {
                    snprintf(what, sizeof what, "%s on %d workers, %d micro-batches, %d replicas of %d shards", g->name, P, M,
                             WIDE[w][0], WIDE[w][1]);
                    if (qn_order_widen(&wide, o, WIDE[w][0], WIDE[w][1], WIDE[w][2], &err) != QN_OK)
                        fail_msg("%s: %s", what, err.text);
                    lower_and_run(wide, (qn_lowering){.part_bytes = WIDE[w][2] > 1 ? 64 : 0, .zero1 = turn % 2 == 0}, turn, what);
                    qn_order_close(wide);
                }
                qn_order_close(o);
            }
        }
    }
    for (size_t n = 0; n < 2; n++) {
        for (int32_t P = 1; P <= 4; P++) {
            for (int32_t M = 1; M <= 2 * P + 1; M++) {
                for (int32_t vocab = 1; vocab <= 2; vocab++, turn++) {
                    const char *name = n == 0 ? "1f1b" : "v-half";
                    const qn_pattern pat = {.workers = P, .items = M, .chunks = 1 + (int32_t)n, .vocab = vocab};
                    qn_order *o = NULL;
                    qn_err err;
                    snprintf(what, sizeof what, "%s on %d workers, %d micro-batches, vocabulary shards %d", name, P, M, vocab);
                    if (qn_generate(&o, name, &pat, &err) != QN_OK) fail_msg("%s: %s", what, err.text);
                    lower_and_run(
                        o,
                        (qn_lowering){.vocab_x_bytes = 64, .vocab_stats_bytes = 64, .vocab_dx_bytes = 64, .vocab_part_bytes = 64},
                        turn, what);
                    qn_order_close(o);
                }
            }
        }
    }
}

/* Forward and training through windows of 1 to all of seven pieces, the ends larger than the others. */
static void every_window(void **state)
{
    (void)state;
    enum { PIECES = 7 };
    int32_t first[PIECES + 1], turn = 0;
    int64_t chunk[PIECES], packed[PIECES], pgrad[PIECES];
    char what[96];
    for (int32_t s = 0; s <= PIECES; s++) first[s] = s;
    for (int32_t s = 0; s < PIECES; s++) {
        chunk[s] = pgrad[s] = 64 * (s == 0 || s == PIECES - 1 ? 300 : 100);
        packed[s] = s == 0 ? 0 : chunk[s];
    }
    for (int32_t M = 1; M <= 4; M++) {
        for (int32_t k = 1; k <= PIECES; k++) {
            for (int32_t r = 1; r <= k; r++) {
                for (int32_t way = 0; way < 3; way++, turn++) {
                    const qn_tiers tiers = {.window = k,
                                            .replace = r,
                                            .chunk_first = first,
                                            .chunk_bytes = chunk,
                                            .packed_bytes = packed,
                                            .pgrad_bytes = pgrad,
                                            .lag = way == 1,
                                            .keep = way == 2 && M % 2 == 0};
                    const qn_pattern pat = {
                        .workers = 1, .items = M, .chunks = 1, .pieces = PIECES, .window = k, .window_group = r};
                    qn_order *o = NULL;
                    qn_err err;
                    if (QN_SANITIZED && turn % 5 != 0) continue;
                    snprintf(what, sizeof what, "%d micro-batches through a window of %d, %d at a time, way %d", M, k, r, way);
                    if (qn_generate(&o, "superpipe", &pat, &err) != QN_OK) fail_msg("%s: %s", what, err.text);
                    lower_and_run(o, (qn_lowering){.tiers = &tiers, .forward_only = way == 2}, turn, what);
                    qn_order_close(o);
                }
            }
        }
    }
}

/* RoundPipe: pieces come to any device. */
static void pieces_without_a_place(void **state)
{
    (void)state;
    char what[96];
    int32_t turn = 0;
    for (int32_t P = 1; P <= 4; P++) {
        for (int32_t M = 1; M <= 2 * P; M++) {
            for (int32_t k = 1; k <= 3; k++, turn++) {
                const qn_tiers tiers = {.window = k, .replace = 1, .lag = turn % 2};
                const qn_pattern pat = {.workers = P, .items = M, .chunks = 2};
                qn_order *o = NULL;
                qn_err err;
                if (!qn_generator_can(qn_generator_find("roundpipe"), P, M)) continue;
                snprintf(what, sizeof what, "roundpipe on %d devices, %d micro-batches, window %d", P, M, k);
                if (qn_generate(&o, "roundpipe", &pat, &err) != QN_OK) fail_msg("%s: %s", what, err.text);
                lower_and_run(o, (qn_lowering){.tiers = &tiers}, turn, what);
                qn_order_close(o);
            }
        }
    }
}

/* A plan that says more, or less, than it uses is refused; run without being asked, it shows. */
static void a_wrong_prediction_is_seen(void **state)
{
    (void)state;
    const qn_pattern pat = {.workers = 2, .items = 4, .chunks = 1};
    const qn_lowering how = {.tied_owner = QN_NONE, .tied_replica = QN_NONE};
    qn_order *o = NULL;
    qn_plan *p = NULL;
    qn_err err = {0};
    qn_executor *ex = NULL;
    assert_int_equal(qn_generate(&o, "1f1b", &pat, &err), QN_OK);
    assert_int_equal(qn_lower(&p, o, &how, &err), QN_OK);
    const int64_t right = p->arena_bytes[1];
    for (int64_t wrong = right - 1; wrong <= right + 1; wrong += 2) {
        p->arena_bytes[1] = wrong;
        assert_int_equal(qn_plan_validate(p, &err), QN_ESCHEDULE);
        assert_non_null(strstr(err.text, "worker 1"));
        const qn_executor_desc d = {.plan = p,
                                    .transport = qn_transport_find("self"),
                                    .driver = QN_DRIVE_LOOP,
                                    .fns = {.run = idle, .home = home},
                                    .ctx = p};
        const qn_status st = qn_executor_open(&ex, &d, &err);
        assert_int_equal(st, wrong < right ? QN_EINVAL : QN_OK); /* values beyond the arena are not even tried */
        if (st != QN_OK) continue;
        assert_int_equal(qn_executor_step(ex, NULL, &err), QN_OK);
        assert_int_equal(qn_executor_high_water(ex, 1), right);
        qn_executor_close(ex);
    }
    qn_plan_close(p);
    qn_order_close(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_schedule),
        cmocka_unit_test(replicas_shards_and_vocabulary),
        cmocka_unit_test(every_window),
        cmocka_unit_test(pieces_without_a_place),
        cmocka_unit_test(a_wrong_prediction_is_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
