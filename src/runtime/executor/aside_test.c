/* Copy lanes on a plan made by hand: contents, waits between workers, bytes, delays, a slow link, failure, cancelling, deadlock.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "core/clock.h"
#include "core/compiler.h"
#include "executor.h"
#include "schedule/text/schedule_text.h"

/* Worker 0 sends two activations down through one slot, worker 1 takes them up through one slot beside a chunk of parameters;
 * the host lane of worker 0 looks at the end. */
static const char HOP[] = "quern-plan 1\nworkers 2\nstages 2\nitems 2\nplace 0 0\nplace 1 1\narena 0 520\narena 1 2048\n"
                          "value 0 act 1.0 @0 bytes=512 at=0\n"
                          "value 1 act 1.1 @0 bytes=512 at=0\n"
                          "value 2 act 1.0 @0 bytes=512 carried host\n"
                          "value 3 act 1.1 @0 bytes=512 carried host\n"
                          "value 4 act 1.0 @1 bytes=512 at=0\n"
                          "value 5 act 1.1 @1 bytes=512 at=0\n"
                          "value 6 stash 0.0 @0 bytes=8 at=512\n"
                          "value 7 stash 0.1 @0 bytes=8 at=512\n"
                          "value 8 stash 1.0 @1 bytes=8 at=512\n"
                          "value 9 stash 1.1 @1 bytes=8 at=512\n"
                          "value 10 param 1#0 @1 bytes=1024 carried host\n"
                          "value 11 param 1#0 @1 bytes=1024 at=1024\n"
                          "value 12 stat @1 bytes=8 carried host\n"
                          "F 0.0 @0 out=0,6 free=6\n"
                          "F 0.1 @0 out=1,7 free=7 wait=down:0\n"
                          "OFFLOAD act 1.0 @0 in=0 out=2 free=0\n"
                          "OFFLOAD act 1.1 @0 in=1 out=3 free=1\n"
                          "NORM @0 lane=host in=12\n"
                          "F 1.0 @1 in=4,11 out=8 free=4,8\n"
                          "F 1.1 @1 in=5,11 out=9,12 free=5,9,11\n"
                          "LOAD act 1.0 @1 in=2 out=4\n"
                          "LOAD param 1#0 @1 in=10 out=11\n"
                          "LOAD act 1.1 @1 in=3 out=5 wait=comp:0\n";

typedef struct rig {
    qn_plan *plan;
    qn_executor *ex;
    unsigned char host[13][1024];
    int32_t step, seen;   /* items that worker 1 has found right */
    int32_t fail, cancel; /* task that fails, or cancels; -1: none */
} rig;

static unsigned char byte_of(int32_t step, int32_t item, size_t i)
{
    return (unsigned char)(step * 31 + item * 7 + (int32_t)(i % 13));
}

static qn_status run(void *ctx, qn_executor *ex, int32_t task, qn_err *err)
{
    rig *r = ctx;
    const qn_task *t = &r->plan->task[task];
    if (task == r->cancel) qn_executor_cancel(ex);
    if (task == r->fail) return QN_FAIL(err, QN_EIO, "task %d failed", task);
    if (t->op == QN_OP_NORM) {
        r->seen += r->host[12][0] == 1 ? 100 : 0;
        return QN_OK;
    }
    if (t->stage == 0) {
        unsigned char *act = qn_executor_value(ex, t->item);
        for (size_t i = 0; i < 512; i++) act[i] = byte_of(r->step, t->item, i);
        return QN_OK;
    }
    const unsigned char *act = qn_executor_value(ex, 4 + t->item), *param = qn_executor_value(ex, 11);
    bool good = true;
    for (size_t i = 0; i < 512; i++) good = good && act[i] == byte_of(r->step, t->item, i);
    for (size_t i = 0; i < 1024; i++) good = good && param[i] == (unsigned char)(i % 251);
    r->seen += good;
    if (t->item == 1) r->host[12][0] = 1;
    return QN_OK;
}

static void *home(void *ctx, int32_t value, size_t *bytes)
{
    rig *r = ctx;
    *bytes = (size_t)r->plan->value[value].bytes;
    return r->host[value];
}

static const struct {
    const char *transport;
    qn_driver driver;
} WORLD[] = {{"thread", QN_DRIVE_THREADS}, {"thread", QN_DRIVE_LOOP}, {"self", QN_DRIVE_LOOP}, {"sim", QN_DRIVE_LOOP}};

static void open_rig(rig *r, size_t world, uint64_t jitter, int64_t link)
{
    qn_err err = {0};
    memset(r, 0, sizeof(*r));
    r->fail = r->cancel = -1;
    for (size_t i = 0; i < 1024; i++) r->host[10][i] = (unsigned char)(i % 251);
    if (qn_plan_read(&r->plan, HOP, strlen(HOP), &err) != QN_OK) fail_msg("%s", err.text);
    if (qn_plan_validate(r->plan, &err) != QN_OK) fail_msg("%s", err.text);
    const qn_executor_desc desc = {.plan = r->plan,
                                   .transport = qn_transport_find(WORLD[world].transport),
                                   .faults = {.dead_worker = -1},
                                   .driver = WORLD[world].driver,
                                   .fns = {.run = run, .home = home},
                                   .ctx = r,
                                   .link_bytes_per_s = link,
                                   .jitter = jitter,
                                   .spins = jitter % 2 == 0 ? -1 : 0};
    if (qn_executor_open(&r->ex, &desc, &err) != QN_OK) fail_msg("%s", err.text);
}

static void close_rig(rig *r)
{
    qn_executor_close(r->ex);
    qn_plan_close(r->plan);
}

static void good_step(rig *r)
{
    qn_err err = {0};
    qn_span_time time[16];
    qn_trace trace = {.plan = r->plan, .time = time};
    r->step++;
    r->seen = 0;
    memset(r->host[12], 0, sizeof(r->host[12]));
    if (qn_executor_step(r->ex, &trace, &err) != QN_OK) fail_msg("%s", err.text);
    assert_int_equal(r->seen, 102);
    for (int32_t t = 0; t < r->plan->tasks; t++)
        for (int32_t i = 0; i < r->plan->task[t].wait.count; i++)
            assert_true(time[r->plan->ref[r->plan->task[t].wait.first + i]].end <= time[t].start);
}

static void values_hop(void **state)
{
    (void)state;
    for (size_t w = 0; w < QN_COUNT(WORLD); w++) {
        for (uint64_t jitter = 0; jitter < 12; jitter++) {
            rig r;
            open_rig(&r, w, jitter, 0);
            for (int step = 1; step <= 5; step++) good_step(&r);
            assert_int_equal(qn_executor_moved(r.ex, 0, QN_LANE_DOWN, QN_V_ACT), 5 * 1024);
            assert_int_equal(qn_executor_moved(r.ex, 1, QN_LANE_UP, QN_V_ACT), 5 * 1024);
            assert_int_equal(qn_executor_moved(r.ex, 1, QN_LANE_UP, QN_V_PARAM), 5 * 1024);
            assert_int_equal(qn_executor_moved(r.ex, 1, QN_LANE_DOWN, QN_V_ACT), 0);
            assert_int_equal(qn_executor_high_water(r.ex, 0), 520);
            assert_int_equal(qn_executor_high_water(r.ex, 1), 2048);
            assert_int_equal(qn_executor_most_alive(r.ex, 1), 512 + 8 + 1024);
            close_rig(&r);
        }
    }
}

/* 2048 bytes through the up lane at 100 kB/s take 20 ms at least. */
static void the_link_is_slow(void **state)
{
    (void)state;
    rig r;
    open_rig(&r, 0, 0, 100000);
    const int64_t began = qn_now_ns();
    good_step(&r);
    assert_true(qn_now_ns() - began >= 20000000);
    close_rig(&r);
}

static void a_step_that_stops_early(void **state)
{
    (void)state;
    for (size_t w = 0; w < QN_COUNT(WORLD); w++) {
        rig r;
        qn_err err = {0};
        open_rig(&r, w, 3, 0);
        for (int32_t t = 0; t < r.plan->tasks; t++) {
            const int32_t op = r.plan->task[t].op;
            if (op == QN_OP_LOAD || op == QN_OP_OFFLOAD) continue;
            r.fail = t;
            assert_int_equal(qn_executor_step(r.ex, NULL, &err), QN_EIO);
            r.fail = -1;
            r.cancel = t;
            const qn_status st = qn_executor_step(r.ex, NULL, &err);
            assert_true(st == QN_ECANCELLED || (st == QN_OK && op == QN_OP_NORM));
            r.cancel = -1;
            good_step(&r);
        }
        close_rig(&r);
    }
}

/* A circle over both workers, which the validator would refuse: told, not slept through. */
static void nobody_can_move(void **state)
{
    (void)state;
    for (size_t w = 0; w < QN_COUNT(WORLD); w++) {
        rig r;
        qn_err err = {0};
        open_rig(&r, w, 0, 0);
        qn_executor_close(r.ex);
        const int32_t off = r.plan->lane[0][QN_LANE_DOWN][0], load = r.plan->lane[1][QN_LANE_UP][0];
        r.plan->ref[r.plan->task[off].wait.first] = load;
        const qn_executor_desc desc = {.plan = r.plan,
                                       .transport = qn_transport_find(WORLD[w].transport),
                                       .faults = {.dead_worker = -1},
                                       .driver = WORLD[w].driver,
                                       .fns = {.run = run, .home = home},
                                       .ctx = &r,
                                       .spins = 0};
        if (qn_executor_open(&r.ex, &desc, &err) != QN_OK) fail_msg("%s", err.text);
        assert_int_equal(qn_executor_step(r.ex, NULL, &err), QN_EINTERNAL);
        assert_non_null(strstr(err.text, "OFFLOAD act 1.0 @0"));
        assert_non_null(strstr(err.text, "LOAD act 1.0 @1"));
        close_rig(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(values_hop), cmocka_unit_test(the_link_is_slow),
                                       cmocka_unit_test(a_step_that_stops_early), cmocka_unit_test(nobody_can_move)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
