/* The executor on plans made by hand: order, contents, failures, cancelling, both drivers, all transports. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/alloc.h"
#include "core/compiler.h"
#include "support/fake_tasks.h"
#include "support/hand_plan.h"
#include "support/malloc_guard.c"

typedef struct world_case {
    const char *transport;
    qn_driver driver;
} world_case;

static const world_case WORLD[] = {
    {"thread", QN_DRIVE_THREADS}, {"thread", QN_DRIVE_LOOP}, {"self", QN_DRIVE_LOOP}, {"sim", QN_DRIVE_LOOP}};

static void open_fake(fake *f, const qn_plan *p, const world_case *c, uint64_t seed, bool partial)
{
    qn_err err;
    fake_init(f, p, partial);
    const qn_executor_desc desc = {.plan = p,
                                   .transport = qn_transport_find(c->transport),
                                   .faults = {.seed = seed, .max_delay = (int64_t)(seed % 5) * 7},
                                   .driver = c->driver,
                                   .fns = FAKE_FNS,
                                   .ctx = f,
                                   .spins = seed % 2 == 0 ? -1 : 0};
    if (qn_executor_open(&f->ex, &desc, &err) != QN_OK) fail_msg("%s", err.text);
}

static void close_fake(fake *f)
{
    qn_executor_close(f->ex);
    fake_fini(f);
}

static void assert_right(const fake *f)
{
    char text[96];
    if (f->wrong >= 0) fail_msg("%s: value %d is wrong", qn_task_text(text, sizeof(text), f->plan, f->wrong), f->wrong_value);
}

/* A step must do everything, and every time must follow the waits. */
static void step_and_check(fake *f)
{
    const qn_plan *p = f->plan;
    qn_err err = {0};
    qn_trace trace = {.plan = p,
                      .time = calloc((size_t)p->tasks + 1, sizeof(*trace.time)),
                      .cpu = calloc((size_t)p->tasks + 1, sizeof(*trace.cpu))};
    for (int32_t t = 0; t < p->tasks; t++) trace.cpu[t] = -1;
    const qn_status st = fake_step(f, &trace, &err);
    if (st != QN_OK) fail_msg("step %d: %s", (int)f->step, err.text);
    assert_right(f);
    assert_int_equal(f->ran, fake_tasks(p));
    for (int32_t t = 0; t < p->tasks; t++) {
        assert_true(trace.time[t].start >= 0 && trace.time[t].end >= trace.time[t].start);
        assert_true(p->task[t].lane == QN_LANE_COMP ? trace.cpu[t] >= 0 : trace.cpu[t] == -1);
        for (int32_t i = 0; i < p->task[t].wait.count; i++)
            assert_true(trace.time[p->ref[p->task[t].wait.first + i]].end <= trace.time[t].start);
    }
    free(trace.time);
    free(trace.cpu);
    for (int32_t w = 0; w < p->workers; w++) assert_true(qn_executor_high_water(f->ex, w) <= p->arena_bytes[w]);
}

static void chains_run(void **state)
{
    (void)state;
    static const int64_t SLOT[] = {64, 7, 100};
    for (size_t c = 0; c < QN_COUNT(WORLD); c++)
        for (int32_t P = 1; P <= 4; P++)
            for (int32_t M = 1; M <= 8; M += 1 + M / 4)
                for (size_t s = 0; s < QN_COUNT(SLOT); s++) {
                    hand_plan h;
                    fake f;
                    const qn_plan *p = hand_chain(&h, P, M, 64, SLOT[s], 1 + (int32_t)s % 2);
                    open_fake(&f, p, &WORLD[c], (uint64_t)(P * 100 + M), s == 1);
                    for (int step = 0; step < 3; step++) step_and_check(&f);
                    close_fake(&f);
                    hand_free(&h);
                }
}

/* Each task in turn fails: the step gives that error, and the next one works. */
static void any_task_may_fail(void **state)
{
    (void)state;
    for (size_t c = 0; c < QN_COUNT(WORLD); c++) {
        hand_plan h;
        fake f;
        const qn_plan *p = hand_chain(&h, 3, 5, 64, 20, 2);
        open_fake(&f, p, &WORLD[c], c, false);
        for (int32_t t = 0; t < p->tasks; t++) {
            if (p->task[t].op != QN_OP_F) continue;
            qn_err err = {0};
            f.fail_task = t;
            assert_int_equal(fake_step(&f, NULL, &err), QN_EIO);
            assert_non_null(strstr(err.text, "planted at F"));
            f.fail_task = -1;
            step_and_check(&f);
        }
        close_fake(&f);
        hand_free(&h);
    }
}

static void any_task_may_cancel(void **state)
{
    (void)state;
    for (size_t c = 0; c < QN_COUNT(WORLD); c++) {
        hand_plan h;
        fake f;
        const qn_plan *p = hand_chain(&h, 3, 4, 64, 20, 1);
        open_fake(&f, p, &WORLD[c], c, false);
        qn_executor_cancel(f.ex); /* no step runs: nothing to cancel */
        for (int32_t t = 0; t < p->tasks; t++) {
            if (p->task[t].op != QN_OP_F) continue;
            qn_err err = {0};
            f.cancel_task = t;
            const bool last = p->task[t].worker == 2 && p->task[t].item == 3;
            const qn_status st = fake_step(&f, NULL, &err);
            /* Cancelling in the very last task cancels nothing. */
            assert_true(st == QN_ECANCELLED || (last && st == QN_OK));
            f.cancel_task = -1;
            step_and_check(&f);
        }
        close_fake(&f);
        hand_free(&h);
    }
}

static void nth_message_lost(void **state)
{
    (void)state;
    for (size_t c = 0; c < QN_COUNT(WORLD); c++) {
        hand_plan h;
        fake f;
        const qn_plan *p = hand_chain(&h, 3, 3, 64, 32, 2);
        open_fake(&f, p, &WORLD[c], c, false);
        qn_status st = QN_EPEER;
        for (long n = 1; n <= 12; n++) {
            qn_err err = {0};
            qni_fault_arm(QN_FAULT_MESSAGE, n);
            st = fake_step(&f, NULL, &err);
            qni_fault_arm(QN_FAULT_MESSAGE, 0);
            assert_int_equal(st, QN_EPEER);
            assert_non_null(strstr(err.text, "lost"));
            step_and_check(&f);
        }
        close_fake(&f);
        hand_free(&h);
    }
}

static void dead_worker_is_reported(void **state)
{
    (void)state;
    hand_plan h;
    const qn_plan *p = hand_chain(&h, 3, 4, 64, 64, 2);
    for (int32_t dead = 0; dead < 3; dead++)
        for (int64_t tick = 1; tick < 8; tick++) {
            fake f;
            qn_err err = {0};
            fake_init(&f, p, false);
            const qn_executor_desc desc = {.plan = p,
                                           .transport = qn_transport_find("sim"),
                                           .faults = {.seed = 3, .max_delay = 9, .dead_worker = dead, .dead_tick = tick},
                                           .driver = QN_DRIVE_LOOP,
                                           .fns = FAKE_FNS,
                                           .ctx = &f};
            assert_int_equal(qn_executor_open(&f.ex, &desc, &err), QN_OK);
            assert_int_equal(fake_step(&f, NULL, &err), QN_EPEER);
            assert_non_null(strstr(err.text, "died"));
            assert_right(&f);
            assert_int_equal(fake_step(&f, NULL, &err), QN_EPEER);
            close_fake(&f);
        }
    hand_free(&h);
}

/* Wrong plans: the executor must say so, not hang or write elsewhere. */
static void wrong_plans(void **state)
{
    (void)state;
    for (size_t c = 0; c < QN_COUNT(WORLD); c++) {
        hand_plan h;
        fake f;
        qn_err err = {0};
        qn_plan *p = hand_chain(&h, 2, 3, 64, 64, 2);
        p->task[hand_task(&h, 1, QN_LANE_RECV, 1)].tag = 77;
        open_fake(&f, p, &WORLD[c], 0, false);
        assert_int_equal(fake_step(&f, NULL, &err), QN_EINTERNAL);
        assert_non_null(strstr(err.text, "0x4d")); /* both tags are named */
        f.bytes[hand_out(&h, 0, 0)] = 65;
        assert_int_equal(fake_step(&f, NULL, &err), QN_EINTERNAL);
        f.bytes[hand_out(&h, 0, 0)] = 63;
        assert_int_equal(fake_step(&f, NULL, &err), QN_EINTERNAL);
        assert_non_null(strstr(err.text, "63 bytes"));
        close_fake(&f);
        hand_free(&h);
    }
}

/* A plan whose tasks wait for each other is found out, whoever runs it, and whatever the others still do. */
static void deadlock_is_reported(void **state)
{
    (void)state;
    for (size_t c = 0; c < QN_COUNT(WORLD); c++)
        for (int32_t stuck = 0; stuck < 3; stuck++) {
            hand_plan h;
            fake f;
            qn_err err = {0};
            qn_plan *p = hand_chain(&h, 3, 3, 64, 64, 2);
            const int32_t last = hand_task(&h, stuck, QN_LANE_COMP, 2), lane = stuck == 0 ? QN_LANE_SEND : QN_LANE_RECV;
            const int32_t other = hand_task(&h, stuck, lane, 2);
            p->task[last].wait = hand_ref(&h, 1, &other);
            p->task[other].wait = hand_ref(&h, 1, &last);
            open_fake(&f, p, &WORLD[c], 0, false);
            for (int i = 0; i < 2; i++) {
                assert_int_equal(fake_step(&f, NULL, &err), QN_EINTERNAL);
                assert_non_null(strstr(err.text, "no lane can move"));
            }
            close_fake(&f);
            hand_free(&h);
        }
}

static void refused_at_open(void **state)
{
    (void)state;
    hand_plan h;
    fake f;
    qn_executor *ex = NULL;
    qn_err err = {0};
    qn_plan *p = hand_chain(&h, 2, 2, 64, 64, 2);
    fake_init(&f, p, false);
    qn_executor_desc desc = {
        .plan = p, .transport = qn_transport_find("self"), .driver = QN_DRIVE_THREADS, .fns = FAKE_FNS, .ctx = &f};
    assert_int_equal(qn_executor_open(&ex, &desc, &err), QN_EINVAL);
    desc.transport = qn_transport_find("thread");
    p->value[0].offset = 4 * 64 - 63;
    assert_int_equal(qn_executor_open(&ex, &desc, &err), QN_EINVAL);
    p->value[0].offset = 0;
    p->channel[0].depth = 0;
    assert_int_equal(qn_executor_open(&ex, &desc, &err), QN_EINVAL);
    p->channel[0].depth = 2;
    for (long n = 1;; n++) { /* the n-th allocation fails, for every n */
        qni_fault_arm(QN_FAULT_ALLOC, n);
        const qn_status st = qn_executor_open(&ex, &desc, &err);
        qni_fault_arm(QN_FAULT_ALLOC, 0);
        if (st == QN_OK) break;
        assert_int_equal(st, QN_ENOMEM);
        assert_null(ex);
        assert_true(n < 50);
    }
    qn_executor_close(ex);
    qn_executor_close(NULL);
    fake_fini(&f);
    hand_free(&h);
}

static void steps_allocate_nothing(void **state)
{
    (void)state;
    for (size_t c = 0; c < QN_COUNT(WORLD); c++) {
        hand_plan h;
        fake f;
        const qn_plan *p = hand_chain(&h, 3, 6, 64, 20, 2);
        qn_trace trace = {.plan = p, .time = calloc((size_t)p->tasks, sizeof(*trace.time))};
        open_fake(&f, p, &WORLD[c], c, false);
        assert_int_equal(fake_step(&f, &trace, NULL), QN_OK);
        qni_malloc_guard_begin();
        qn_status st = QN_OK;
        for (int i = 0; i < 20 && st == QN_OK; i++) st = fake_step(&f, &trace, NULL);
        const long n = qni_malloc_guard_end();
        assert_int_equal(st, QN_OK);
        assert_int_equal(n, 0);
        close_fake(&f);
        free(trace.time);
        hand_free(&h);
    }
    /* The guard itself sees what it should. */
    qni_malloc_guard_begin();
    void *volatile seen = malloc(11);
    qni_malloc_library_begin();
    void *volatile hidden = malloc(12);
    qni_malloc_library_end();
    assert_int_equal(qni_malloc_guard_end(), 1);
    assert_int_equal(qni_malloc_guard_first(NULL), 11);
    free(seen);
    free(hidden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chains_run),       cmocka_unit_test(any_task_may_fail),       cmocka_unit_test(any_task_may_cancel),
        cmocka_unit_test(nth_message_lost), cmocka_unit_test(dead_worker_is_reported), cmocka_unit_test(wrong_plans),
        cmocka_unit_test(refused_at_open),  cmocka_unit_test(deadlock_is_reported),    cmocka_unit_test(steps_allocate_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
