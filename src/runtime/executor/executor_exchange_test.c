/* Tasks that exchange messages while they run: called again until they are done, on all transports and drivers, cancelled, stuck.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/compiler.h"
#include "executor.h"

enum { MOST = 4, ITEMS = 5, ROUNDS = 3 };

/* P workers with ITEMS tasks each; in ROUNDS rounds a task gives every other worker a number and waits for theirs. */
typedef struct meeting {
    qn_plan plan;
    int32_t worker_of[MOST], channel_of[MOST][MOST];
    qn_task task[MOST * ITEMS];
    int32_t lane[MOST][QN_LANES][2];
    qn_channel channel[MOST * MOST];
    int64_t arena_bytes[MOST];
    qn_executor *ex;
    struct {
        int32_t round;
        bool put[MOST], got[MOST];
        uint64_t sum, calls;
    } at[MOST];
    int32_t silent; /* a worker that sends nothing, -1: none */
    bool cancel;
} meeting;

static uint64_t number(int32_t worker, int32_t item, int32_t round)
{
    return (uint64_t)(1 + worker + 10 * item + 100 * round);
}

static qn_status meet(void *ctx, qn_executor *ex, int32_t task, qn_err *err)
{
    (void)err;
    meeting *m = ctx;
    const int32_t me = m->plan.task[task].worker, item = m->plan.task[task].item, P = m->plan.workers;
    m->at[me].calls++;
    if (m->cancel && item == 2) qn_executor_cancel(ex);
    while (m->at[me].round < ROUNDS) {
        bool all = true;
        for (int32_t w = 0; w < P; w++) {
            void *to;
            const void *from;
            uint64_t tag;
            size_t bytes;
            if (w == me) continue;
            if (!m->at[me].put[w] && m->silent != me && qn_executor_put_begin(ex, m->channel_of[me][w], &to) == QN_RING_OK) {
                const uint64_t x = number(me, item, m->at[me].round);
                memcpy(to, &x, sizeof(x));
                qn_executor_put_publish(ex, m->channel_of[me][w], x, sizeof(x));
                m->at[me].put[w] = true;
            }
            if (!m->at[me].got[w] && qn_executor_get(ex, m->channel_of[w][me], &from, &tag, &bytes) == QN_RING_OK) {
                uint64_t x;
                assert_int_equal(bytes, sizeof(x));
                memcpy(&x, from, sizeof(x));
                assert_int_equal(tag, number(w, item, m->at[me].round));
                assert_int_equal(x, tag);
                m->at[me].sum += x;
                qn_executor_release(ex, m->channel_of[w][me]);
                m->at[me].got[w] = true;
            }
            all = all && m->at[me].put[w] && m->at[me].got[w];
        }
        if (!all) return QN_EAGAIN;
        memset(m->at[me].put, 0, sizeof(m->at[me].put));
        memset(m->at[me].got, 0, sizeof(m->at[me].got));
        m->at[me].round++;
    }
    m->at[me].round = 0;
    return QN_OK;
}

static void make(meeting *m, int32_t P)
{
    memset(m, 0, sizeof(*m));
    m->silent = -1;
    m->plan = (qn_plan){.steps = 1,
                        .workers = P,
                        .stages = P,
                        .items = ITEMS,
                        .tasks = P * ITEMS,
                        .worker_of = m->worker_of,
                        .task = m->task,
                        .lane = m->lane,
                        .channel = m->channel,
                        .arena_bytes = m->arena_bytes};
    for (int32_t w = 0; w < P; w++) {
        m->worker_of[w] = w;
        for (int l = 0; l < QN_LANES; l++) m->lane[w][l][0] = w * ITEMS;
        m->lane[w][QN_LANE_COMP][1] = ITEMS;
        for (int32_t i = 0; i < ITEMS; i++)
            m->task[w * ITEMS + i] = (qn_task){.op = QN_OP_F, .stage = w, .item = i, .worker = w, .channel = QN_NONE};
        for (int32_t o = 0; o < P; o++) {
            if (o == w) continue;
            m->channel_of[w][o] = m->plan.channels;
            m->channel[m->plan.channels++] = (qn_channel){.from = w, .to = o, .depth = 1, .slot_bytes = 8};
        }
    }
}

static void open_meeting(meeting *m, const char *transport, uint64_t seed)
{
    qn_err err;
    const qn_executor_desc desc = {.plan = &m->plan,
                                   .transport = qn_transport_find(transport),
                                   .faults = {.seed = seed, .max_delay = (int64_t)(seed % 7) * 5, .dead_worker = -1},
                                   .driver = strcmp(transport, "thread") == 0 ? QN_DRIVE_THREADS : QN_DRIVE_LOOP,
                                   .fns = {.run = meet},
                                   .ctx = m,
                                   .spins = seed % 2 == 0 ? -1 : 0};
    if (qn_executor_open(&m->ex, &desc, &err) != QN_OK) fail_msg("%s", err.text);
}

static const char *const transports[] = {"thread", "self", "sim"};

static void tasks_meet_everywhere(void **state)
{
    (void)state;
    for (size_t t = 0; t < QN_COUNT(transports); t++) {
        for (int32_t P = 1; P <= MOST; P++) {
            for (uint64_t seed = 0; seed < 12; seed++) {
                meeting m;
                qn_err err;
                make(&m, P);
                open_meeting(&m, transports[t], seed);
                for (int step = 0; step < 3; step++)
                    if (qn_executor_step(m.ex, NULL, &err) != QN_OK) fail_msg("%s", err.text);
                for (int32_t w = 0; w < P; w++) {
                    uint64_t want = 0;
                    for (int32_t o = 0; o < P; o++)
                        for (int32_t i = 0; i < ITEMS * ROUNDS && o != w; i++) want += 3 * number(o, i / ROUNDS, i % ROUNDS);
                    assert_int_equal(m.at[w].sum, want);
                }
                qn_executor_close(m.ex);
            }
        }
    }
}

/* What a cancelled step left in the channels does not reach the next one. */
static void a_meeting_is_cancelled(void **state)
{
    (void)state;
    for (size_t t = 0; t < QN_COUNT(transports); t++) {
        meeting m;
        qn_err err;
        make(&m, 3);
        open_meeting(&m, transports[t], 4);
        for (int round = 0; round < 5; round++) {
            m.cancel = true;
            assert_int_equal(qn_executor_step(m.ex, NULL, &err), QN_ECANCELLED);
            m.cancel = false;
            memset(m.at, 0, sizeof(m.at));
            if (qn_executor_step(m.ex, NULL, &err) != QN_OK) fail_msg("%s", err.text);
        }
        qn_executor_close(m.ex);
    }
}

static void a_member_that_does_not_come(void **state)
{
    (void)state;
    for (size_t t = 0; t < QN_COUNT(transports); t++) {
        meeting m;
        qn_err err;
        make(&m, 3);
        m.silent = 1;
        open_meeting(&m, transports[t], 6);
        const qn_status st = qn_executor_step(m.ex, NULL, &err);
        assert_int_equal(st, QN_EINTERNAL);
        assert_non_null(strstr(err.text, "no lane can move any more"));
        qn_executor_close(m.ex);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tasks_meet_everywhere),
        cmocka_unit_test(a_meeting_is_cancelled),
        cmocka_unit_test(a_member_that_does_not_come),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
