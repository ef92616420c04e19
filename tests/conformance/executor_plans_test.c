/* The executor on lowered plans: published schedules and random orders, all lowering options, both drivers, all transports. Fake
 * tasks check every byte they read (support/fake_tasks.h). A failing case prints its seed. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/alloc.h"
#include "core/compiler.h"
#include "core/rng.h"
#include "schedule/gen/gen.h"
#include "support/fake_tasks.h"
#include "support/malloc_guard.c"

typedef struct world_case {
    const char *transport;
    qn_driver driver;
} world_case;

static const world_case WORLD[] = {
    {"thread", QN_DRIVE_THREADS}, {"thread", QN_DRIVE_LOOP}, {"self", QN_DRIVE_LOOP}, {"sim", QN_DRIVE_LOOP}};

enum { MAX_STAGES = 16 };

/* --- plans */

/* Sizes, recomputation, slots and the rest of the lowering, drawn from the seed. */
static qn_plan *lowered(const qn_order *order, uint64_t seed, bool one_lane)
{
    qn_rng r = qn_rng_of((qn_rng_key){.seed = seed, .op = 1});
    int64_t act[MAX_STAGES], stash[MAX_STAGES], wstash[MAX_STAGES];
    for (int32_t s = 0; s < order->stages; s++) {
        act[s] = (int64_t)qn_rng_below(&r, 90);
        stash[s] = (int64_t)qn_rng_below(&r, 90);
        wstash[s] = (int64_t)qn_rng_below(&r, 90);
    }
    const bool tied = order->stages > 1 && order->worker_of[0] != order->worker_of[order->stages - 1] && qn_rng_below(&r, 2) == 0;
    const qn_lowering how = {.act_bytes = act,
                             .stash_bytes = stash,
                             .wstash_bytes = wstash,
                             .recompute = (qn_recompute)qn_rng_below(&r, 3),
                             .depth = (int32_t)qn_rng_below(&r, 4),
                             .slot_bytes = qn_rng_below(&r, 2) == 0 ? 0 : 1 + (int64_t)qn_rng_below(&r, 40),
                             .step_tasks = qn_rng_below(&r, 3) > 0,
                             .tied_owner = tied ? 0 : QN_NONE,
                             .tied_replica = tied ? order->stages - 1 : QN_NONE,
                             .tied_bytes = tied ? 50 : 0,
                             .stat_bytes = 24,
                             .one_lane = one_lane};
    qn_plan *p = NULL;
    qn_err err = {0};
    const qn_status st = qn_lower(&p, order, &how, &err);
    if (st != QN_OK && st != QN_ESCHEDULE) fail_msg("seed %llu: %s", (unsigned long long)seed, err.text);
    return p;
}

/* Any order that one worker alone could follow, cut over workers: tasks are drawn at random among those whose inputs exist. */
static qn_plan *random_plan(uint64_t seed)
{
    qn_rng r = qn_rng_of((qn_rng_key){.seed = seed});
    const int32_t P = 1 + (int32_t)qn_rng_below(&r, 4), M = 1 + (int32_t)qn_rng_below(&r, 8),
                  S = P * (1 + (int32_t)qn_rng_below(&r, 2));
    int32_t f[MAX_STAGES] = {0}, b[MAX_STAGES] = {0}, left = 2 * S * M;
    qn_order *o = NULL;
    assert_int_equal(qn_order_open(&o, P, S, M, NULL), QN_OK);
    for (int32_t s = P; s < S; s++) o->worker_of[s] = (int32_t)qn_rng_below(&r, (uint64_t)P);
    while (left > 0) {
        const int32_t s = (int32_t)qn_rng_below(&r, (uint64_t)S);
        const bool forward = f[s] < M && (s == 0 || f[s - 1] > f[s]);
        const bool backward = b[s] < f[s] && (s + 1 == S || b[s + 1] > b[s]);
        if (!forward && !backward) continue;
        if (forward && (!backward || qn_rng_below(&r, 2) == 0)) {
            qn_order_push(o, o->worker_of[s], QN_OP_F, s, f[s]++);
        } else {
            qn_order_push(o, o->worker_of[s], QN_OP_BW, s, b[s]++);
        }
        left--;
    }
    assert_int_equal(qn_order_done(o, NULL), QN_OK);
    qn_plan *p = lowered(o, seed, seed % 4 == 0);
    qn_order_close(o);
    return p;
}

static qn_plan *generated(const char *name, int32_t P, int32_t M, int32_t v, uint64_t seed)
{
    qn_order *o = NULL;
    qn_err err = {0};
    const qn_pattern pat = {.workers = P, .items = M, .chunks = v};
    if (qn_generate(&o, name, &pat, &err) != QN_OK) fail_msg("%s: %s", name, err.text);
    qn_plan *p = lowered(o, seed, false);
    if (p == NULL) fail_msg("%s with P=%d M=%d v=%d, seed %llu, has no plan", name, P, M, v, (unsigned long long)seed);
    qn_order_close(o);
    return p;
}

/* --- running */

static void open_fake(fake *f, const qn_plan *p, const world_case *c, uint64_t seed)
{
    qn_err err;
    fake_init(f, p, seed % 3 == 0);
    const qn_executor_desc desc = {.plan = p,
                                   .transport = qn_transport_find(c->transport),
                                   .faults = {.seed = seed, .max_delay = (int64_t)(seed % 5) * 7},
                                   .driver = c->driver,
                                   .fns = FAKE_FNS,
                                   .ctx = f,
                                   .spins = seed % 2 == 0 ? -1 : 0};
    if (qn_executor_open(&f->ex, &desc, &err) != QN_OK) fail_msg("seed %llu: %s", (unsigned long long)seed, err.text);
}

static void close_fake(fake *f)
{
    qn_executor_close(f->ex);
    fake_fini(f);
}

/* When a message left and when it came: no RECV ends before its SEND began. */
static void check_messages(const qn_plan *p, const qn_trace *trace)
{
    for (int32_t a = 0; a < p->tasks; a++) {
        if (p->task[a].op != QN_OP_SEND) continue;
        for (int32_t b = 0; b < p->tasks; b++) {
            if (p->task[b].op == QN_OP_RECV && p->task[b].channel == p->task[a].channel && p->task[b].tag == p->task[a].tag)
                assert_true(trace->time[a].start <= trace->time[b].end);
        }
    }
}

static void check_trace(const qn_plan *p, const qn_trace *trace)
{
    for (int32_t t = 0; t < p->tasks; t++) {
        assert_true(trace->time[t].start >= 0 && trace->time[t].end >= trace->time[t].start);
        for (int32_t i = 0; i < p->task[t].wait.count; i++)
            assert_true(trace->time[p->ref[p->task[t].wait.first + i]].end <= trace->time[t].start);
        const bool same_lane = t > 0 && p->task[t - 1].worker == p->task[t].worker && p->task[t - 1].lane == p->task[t].lane;
        if (same_lane) assert_true(trace->time[t - 1].end <= trace->time[t].start);
    }
    check_messages(p, trace);
}

static void step_and_check(fake *f, uint64_t seed)
{
    const qn_plan *p = f->plan;
    qn_err err = {0};
    char text[96];
    qn_trace trace = {.plan = p, .time = calloc((size_t)p->tasks + 1, sizeof(*trace.time))};
    if (fake_step(f, &trace, &err) != QN_OK) fail_msg("seed %llu, step %d: %s", (unsigned long long)seed, (int)f->step, err.text);
    if (f->wrong >= 0)
        fail_msg("seed %llu, step %d: at %s value %d is wrong", (unsigned long long)seed, (int)f->step,
                 qn_task_text(text, sizeof(text), p, f->wrong), f->wrong_value);
    assert_int_equal(f->ran, fake_tasks(p));
    check_trace(p, &trace);
    free(trace.time);
    for (int32_t w = 0; w < p->workers; w++) assert_int_equal(qn_executor_high_water(f->ex, w), p->arena_bytes[w]);
}

static void run_everywhere(const qn_plan *p, uint64_t seed)
{
    for (size_t c = 0; c < QN_COUNT(WORLD); c++) {
        fake f;
        open_fake(&f, p, &WORLD[c], seed);
        for (int i = 0; i < 3; i++) step_and_check(&f, seed);
        close_fake(&f);
    }
}

static void published_schedules(void **state)
{
    (void)state;
    uint64_t seed = 1;
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++)
        for (int32_t P = 1; P <= 4; P++)
            for (int32_t M = 1; M <= 8; M++, seed++) {
                if (!qn_generator_can(g, P, M) || g->host_state) continue;
                const int32_t v = g->min_chunks > 1 || g->max_chunks == 0 ? 2 : 1;
                qn_plan *p = generated(g->name, P, M, v, seed);
                run_everywhere(p, seed);
                qn_plan_close(p);
            }
}

static void random_orders(void **state)
{
    (void)state;
    int32_t live = 0;
    for (uint64_t seed = 1; seed <= 150; seed++) {
        qn_plan *p = random_plan(seed);
        if (p == NULL) continue; /* the channels of this order would block */
        live++;
        run_everywhere(p, seed);
        qn_plan_close(p);
    }
    print_message("%d of 150 random orders have a plan\n", live);
    assert_true(live > 50);
}

/* Each task of each worker in turn fails, or cancels: that error, no hang, and the next step is whole. */
static void any_task_may_stop_a_step(void **state)
{
    (void)state;
    static const char *const NAME[] = {"gpipe", "1f1b", "interleaved"};
    for (size_t n = 0; n < QN_COUNT(NAME); n++) {
        qn_plan *p = generated(NAME[n], 3, 4, n == 2 ? 2 : 1, 40 + n);
        for (size_t c = 0; c < QN_COUNT(WORLD); c++) {
            fake f;
            open_fake(&f, p, &WORLD[c], n);
            for (int32_t t = 0; t < p->tasks; t++) {
                if (p->task[t].op == QN_OP_SEND || p->task[t].op == QN_OP_RECV) continue;
                qn_err err = {0};
                f.fail_task = t;
                assert_int_equal(fake_step(&f, NULL, &err), QN_EIO);
                assert_non_null(strstr(err.text, "planted"));
                f.fail_task = -1;
                if (t % 4 == 0) step_and_check(&f, n);
                f.cancel_task = t;
                const qn_status st = fake_step(&f, NULL, &err);
                assert_true(st == QN_ECANCELLED || st == QN_OK); /* OK: nothing was left to cancel */
                f.cancel_task = -1;
                step_and_check(&f, n);
            }
            close_fake(&f);
        }
        qn_plan_close(p);
    }
}

static void any_message_may_be_lost(void **state)
{
    (void)state;
    qn_plan *p = generated("1f1b", 3, 4, 1, 7);
    int32_t sends = 0;
    for (int32_t t = 0; t < p->tasks; t++) sends += p->task[t].op == QN_OP_SEND;
    for (size_t c = 0; c < QN_COUNT(WORLD); c++) {
        fake f;
        open_fake(&f, p, &WORLD[c], c);
        for (int32_t n = 1; n <= sends; n++) {
            qn_err err = {0};
            qni_fault_arm(QN_FAULT_MESSAGE, n);
            assert_int_equal(fake_step(&f, NULL, &err), QN_EPEER);
            qni_fault_arm(QN_FAULT_MESSAGE, 0);
            step_and_check(&f, (uint64_t)n);
        }
        close_fake(&f);
    }
    qn_plan_close(p);
}

/* Sleeping tasks on more workers than cores: still in order, and the times show it. */
static void sleeping_tasks(void **state)
{
    (void)state;
    static const char *const NAME[] = {"gpipe", "1f1b", "interleaved"};
    for (size_t n = 0; n < QN_COUNT(NAME); n++) {
        fake f;
        qn_plan *p = generated(NAME[n], 4, 6, n == 2 ? 2 : 1, 90 + n);
        open_fake(&f, p, &WORLD[0], 90 + n);
        f.sleep_us = 200;
        step_and_check(&f, 90 + n);
        close_fake(&f);
        qn_plan_close(p);
    }
}

/* On the simulation, with the loop, one seed gives one course of events; another seed mostly another. */
static void seed_decides_everything(void **state)
{
    (void)state;
    qn_plan *p = generated("interleaved", 4, 8, 2, 5);
    int32_t *log[3], different = 0;
    for (int i = 0; i < 3; i++) log[i] = calloc((size_t)p->tasks, sizeof(*log[i]));
    for (uint64_t seed = 1; seed <= 20; seed++) {
        const uint64_t of[3] = {seed, seed, seed + 100};
        for (int i = 0; i < 3; i++) {
            fake f;
            open_fake(&f, p, &WORLD[3], of[i] * 5 + 3);
            f.log = log[i];
            step_and_check(&f, of[i]);
            close_fake(&f);
        }
        assert_memory_equal(log[0], log[1], (size_t)p->tasks * sizeof(*log[0]));
        different += memcmp(log[0], log[2], (size_t)p->tasks * sizeof(*log[0])) != 0;
    }
    assert_true(different > 10);
    for (int i = 0; i < 3; i++) free(log[i]);
    qn_plan_close(p);
}

static void steps_allocate_nothing(void **state)
{
    (void)state;
    qn_plan *p = generated("interleaved", 3, 6, 2, 11);
    qn_trace trace = {.plan = p, .time = calloc((size_t)p->tasks, sizeof(*trace.time))};
    for (size_t c = 0; c < QN_COUNT(WORLD); c++) {
        fake f;
        open_fake(&f, p, &WORLD[c], c);
        assert_int_equal(fake_step(&f, &trace, NULL), QN_OK);
        qni_malloc_guard_begin();
        qn_status st = QN_OK;
        for (int i = 0; i < 10 && st == QN_OK; i++) st = fake_step(&f, &trace, NULL);
        const long count = qni_malloc_guard_end();
        assert_int_equal(st, QN_OK);
        assert_int_equal(count, 0);
        close_fake(&f);
    }
    free(trace.time);
    qn_plan_close(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_schedules),     cmocka_unit_test(random_orders),  cmocka_unit_test(any_task_may_stop_a_step),
        cmocka_unit_test(any_message_may_be_lost), cmocka_unit_test(sleeping_tasks), cmocka_unit_test(steps_allocate_nothing),
        cmocka_unit_test(seed_decides_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
