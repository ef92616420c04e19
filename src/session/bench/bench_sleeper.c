#include "bench_sleeper.h"

#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "core/clock.h"
#include "transport/transport.h"

void qni_sleep(int64_t ns)
{
    const int64_t until = qn_now_ns() + ns;
    const struct timespec at = {.tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000)};
    if (ns <= 0) return;
    (void)prctl(PR_SET_TIMERSLACK, 1UL); /* of this thread; else the kernel adds up to 50 us to every sleep */
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR) continue;
}

qn_status qni_sleep_plan(qn_plan **out, const char *schedule, int32_t workers, int32_t chunks, int32_t items,
                         const int64_t cost[QN_OPS], qn_err *err)
{
    const qn_lowering how = {.tied_owner = QN_NONE, .tied_replica = QN_NONE};
    qn_pattern pat = {.workers = workers, .items = items, .chunks = chunks};
    qn_order *order = NULL;
    qn_status st;
    *out = NULL;
    for (int op = 0; op < QN_OPS; op++) pat.cost[op] = cost[op] / chunks;
    QN_TRY(st, qn_generate(&order, schedule, &pat, err), out);
    QN_TRY(st, qn_lower(out, order, &how, err), out);
    for (int32_t t = 0; t < (*out)->tasks; t++) {
        qn_task *x = &(*out)->task[t];
        x->cost = x->lane == QN_LANE_COMP ? pat.cost[x->op] : 0;
    }
out:
    qn_order_close(order);
    return st;
}

static qn_status sleep_task(void *ctx, qn_executor *ex, int32_t task, qn_err *err)
{
    const qni_sleeper *s = ctx;
    (void)ex;
    (void)err;
    qni_sleep(s->plan->task[task].cost);
    return QN_OK;
}

static void *sleep_home(void *ctx, int32_t value, size_t *bytes)
{
    qni_sleeper *s = ctx;
    (void)value;
    *bytes = sizeof s->nowhere;
    return s->nowhere;
}

/* Bytes that are not there: the lane waits for the link all the same. */
static qn_status sleep_copy(void *ctx, qn_executor *ex, int32_t task, size_t at, size_t bytes, qn_err *err)
{
    (void)ctx;
    (void)ex;
    (void)task;
    (void)at;
    (void)bytes;
    (void)err;
    return QN_OK;
}

qn_status qni_sleeper_open(qni_sleeper *s, const qn_plan *plan, int64_t link_bytes_per_s, int64_t delay_ns, qn_err *err)
{
    const qn_executor_desc desc = {
        .plan = plan,
        .transport = delay_ns > 0 ? &qni_delayed_transport : qn_transport_find("thread"),
        .faults = {.max_delay = delay_ns, .dead_worker = -1},
        .driver = QN_DRIVE_THREADS,
        .fns = {.run = sleep_task, .home = sleep_home, .copy = link_bytes_per_s > 0 ? sleep_copy : NULL},
        .ctx = s,
        .link_bytes_per_s = link_bytes_per_s,
        .spins = 0};
    memset(s, 0, sizeof(*s));
    s->plan = plan;
    return qn_executor_open(&s->ex, &desc, err);
}

void qni_sleeper_close(qni_sleeper *s)
{
    qn_executor_close(s->ex);
    s->ex = NULL;
}
