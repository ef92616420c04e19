/* Asides: the lanes up, down and host, each stepped by a thread of its own (or by the loop), and who wakes whom.
 *
 *   up     LOAD     host copy -> arena      throttled to the link, in pieces of about a millisecond
 *   down   OFFLOAD  arena -> host copy      likewise; the two directions do not disturb each other
 *   host   step tasks on host memory
 *
 * A task's end rings the bells of those that have a task waiting for it, and no others: the list is made when the executor is
 * opened. The memory that a copy moves is ordered by the waits alone. */
#include "lanes.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"

enum { LEAST_PIECE = 64 << 10, MOST_PIECE = 4 << 20 };
static const int64_t DUST_NS = 50000;  /* sleeps shorter than this are put off until more has come together */
static const int64_t NAP_NS = 5000000; /* a cancelled step is noticed this soon */

/* --- who waits for whom */

/* The bell of the thread that steps a task's lane. */
static int32_t id_of(const qn_executor *ex, int32_t task)
{
    const qn_task *t = &ex->plan->task[task];
    for (int32_t i = 0; i < ex->asides; i++)
        if (ex->aside[i].self.index == t->worker && ex->aside[i].lane == t->lane) return ex->aside[i].self.id;
    return t->worker;
}

/* Per task the ids to ring, as compressed rows: counted, then filled. */
static qn_status list_waiters(qn_executor *ex, qn_err *err)
{
    const qn_plan *p = ex->plan;
    int32_t *id = qn_malloc((size_t)p->tasks, sizeof(*id));
    ex->ring_first = qn_calloc((size_t)p->tasks + 2, sizeof(*ex->ring_first));
    if (id != NULL && ex->ring_first != NULL) {
        for (int32_t t = 0; t < p->tasks; t++)
            id[t] = t > 0 && p->task[t].worker == p->task[t - 1].worker && p->task[t].lane == p->task[t - 1].lane ? id[t - 1]
                                                                                                                  : id_of(ex, t);
        for (int pass = 0; pass < 2; pass++) {
            for (int32_t t = 0; t < p->tasks; t++) {
                for (int32_t i = 0; i < p->task[t].wait.count; i++) {
                    const int32_t from = p->ref[p->task[t].wait.first + i];
                    if (id[from] == id[t]) continue;
                    if (pass == 0)
                        ex->ring_first[from + 2]++;
                    else
                        ex->ring[ex->ring_first[from + 1]++] = id[t];
                }
            }
            if (pass == 1) break;
            for (int32_t t = 0; t < p->tasks; t++) ex->ring_first[t + 2] += ex->ring_first[t + 1];
            ex->ring = qn_malloc((size_t)ex->ring_first[p->tasks + 1], sizeof(*ex->ring));
            if (ex->ring == NULL) break;
        }
    }
    qn_free(id);
    return ex->ring != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "no memory for the waits of %d tasks", p->tasks);
}

void qni_ring_waiters(qn_executor *ex, int32_t task)
{
    for (int32_t i = ex->ring_first[task]; i < ex->ring_first[task + 1]; i++) {
        const int32_t id = ex->ring[i];
        if (id < ex->plan->workers)
            ex->transport->ring(ex->world, id);
        else
            qn_bell_ring(&ex->aside[id - ex->plan->workers].bell);
    }
}

uint32_t qni_id_look(const qn_executor *ex, int32_t id)
{
    return id < ex->plan->workers ? ex->transport->look(ex->world, id) : qn_bell_look(&ex->aside[id - ex->plan->workers].bell);
}

qn_status qni_id_wait(qn_executor *ex, int32_t id, uint32_t seen, int64_t timeout_ns, qn_err *err)
{
    if (id < ex->plan->workers) return ex->transport->wait(ex->world, id, seen, timeout_ns, err);
    qn_bell_wait(&ex->aside[id - ex->plan->workers].bell, seen, 0, timeout_ns);
    return QN_OK;
}

/* --- open, close */

qn_status qni_asides_open(qn_executor *ex, qn_err *err)
{
    static const int32_t LANE[] = {QN_LANE_UP, QN_LANE_DOWN, QN_LANE_HOST};
    const qn_plan *p = ex->plan;
    int32_t n = 0;
    for (int32_t w = 0; w < p->workers; w++)
        for (size_t l = 0; l < QN_COUNT(LANE); l++) n += p->lane[w][LANE[l]][1] > 0;
    if (n == 0) return QN_OK;
    if (!qn_mul_size(&ex->aside_bytes, (size_t)n, sizeof(*ex->aside)))
        return QN_FAIL(err, QN_ERANGE, "%d copy lanes are too many", n);
    ex->aside = qn_alloc_pages(ex->aside_bytes); /* zeroed, and aligned for the bells */
    if (ex->aside == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for %d copy lanes", n);
    for (int32_t w = 0; w < p->workers; w++) {
        for (size_t l = 0; l < QN_COUNT(LANE); l++) {
            if (p->lane[w][LANE[l]][1] == 0) continue;
            qni_aside *a = &ex->aside[ex->asides];
            a->lane = LANE[l];
            a->self.ex = ex;
            a->self.index = w;
            a->self.id = p->workers + ex->asides++;
            a->self.jitter = ex->desc.jitter * 31 + (uint64_t)a->self.id * 2654435761U;
            qn_bell_init(&a->bell);
            qn_bell_init(&a->self.start);
            ex->worker[w].shared = true;
        }
    }
    return list_waiters(ex, err);
}

void qni_asides_close(qn_executor *ex)
{
    qn_free(ex->ring_first);
    qn_free(ex->ring);
    if (ex->aside != NULL) qn_free_pages(ex->aside, ex->aside_bytes);
    ex->aside = NULL;
    ex->asides = 0;
}

void qni_aside_reset(qni_aside *a)
{
    a->self.st = QN_OK;
    a->self.err.code = QN_OK;
    a->self.finished = false;
    a->link_ns = 0;
    atomic_store_explicit(&a->self.ended, false, memory_order_relaxed);
}

/* --- copies */

/* Bytes of the copy that lane->next is, and both ends where fns.copy does not do it. */
static qn_status open_copy(qni_aside *a, qni_lane *lane, const qn_task *t)
{
    const qn_executor *ex = a->self.ex;
    const qn_plan *p = ex->plan;
    const int32_t in = p->ref[t->in.first], out = p->ref[t->out.first], arena = t->op == QN_OP_LOAD ? out : in;
    lane->moved = 0;
    lane->total = ex->desc.fns.actual == NULL ? (size_t)p->value[arena].bytes : ex->desc.fns.actual(ex->desc.ctx, arena);
    if (lane->total <= (size_t)p->value[arena].bytes) return QN_OK;
    char buf[96];
    return QN_FAIL(&a->self.err, QN_EINTERNAL, "%s: the value has %zu bytes, but only %" PRId64 " were planned",
                   qn_task_text(buf, sizeof(buf), p, qni_next(lane)), lane->total, p->value[arena].bytes);
}

static qn_status copy_bytes(qni_aside *a, const qni_lane *lane, const qn_task *t, size_t bytes)
{
    qn_executor *ex = a->self.ex;
    if (ex->desc.fns.copy != NULL) return ex->desc.fns.copy(ex->desc.ctx, ex, qni_next(lane), lane->moved, bytes, &a->self.err);
    const char *from = qn_executor_value(ex, ex->plan->ref[t->in.first]);
    char *to = qn_executor_value(ex, ex->plan->ref[t->out.first]);
    memcpy(to + lane->moved, from + lane->moved, bytes);
    return QN_OK;
}

/* Keeps the lane busy until the link has carried what it was given. */
static void sleep_for_link(qni_aside *a, bool last)
{
    for (;;) {
        const int64_t left = a->link_ns - qn_now_ns();
        if (left <= 0 || (!last && left < DUST_NS) || qni_step_stopped(a->self.ex)) return;
        const int64_t nap = qn_min64(left, NAP_NS);
        const struct timespec t = {.tv_sec = 0, .tv_nsec = (long)nap};
        (void)nanosleep(&t, NULL);
    }
}

static qni_lane_result copy_piece(qni_aside *a, qni_lane *lane)
{
    const qn_executor *ex = a->self.ex;
    const qn_task *t = &ex->plan->task[qni_next(lane)];
    const int64_t rate = ex->desc.driver == QN_DRIVE_THREADS ? ex->desc.link_bytes_per_s : 0;
    if (!lane->open) {
        qni_task_begins(&a->self, qni_next(lane));
        a->self.st = open_copy(a, lane, t);
        if (a->self.st != QN_OK) return QNI_LANE_FAILED;
        lane->open = true;
        a->link_ns = qn_max64(a->link_ns, qn_now_ns());
    }
    const size_t left = lane->total - lane->moved;
    const size_t most = rate > 0 ? (size_t)qn_min64(qn_max64(rate / 1000 & -4096, LEAST_PIECE), MOST_PIECE) : left;
    const size_t bytes = left < most ? left : most;
    if (bytes > 0) a->self.st = copy_bytes(a, lane, t, bytes);
    if (a->self.st != QN_OK) return QNI_LANE_FAILED;
    lane->moved += bytes;
    if (rate > 0) {
        a->link_ns += (int64_t)((double)bytes * 1e9 / (double)rate);
        sleep_for_link(a, bytes == left);
    }
    if (bytes < left) return QNI_LANE_RAN;
    a->moved[ex->plan->value[ex->plan->ref[t->in.first]].cls] += (int64_t)lane->total;
    qni_task_ends(&a->self, lane);
    return QNI_LANE_RAN;
}

qni_lane_result qni_aside_round(qni_aside *a)
{
    qn_executor *ex = a->self.ex;
    qni_lane *lane = &ex->worker[a->self.index].lane[a->lane];
    if (qni_step_stopped(ex)) return QNI_LANE_CANCELLED;
    qni_pass_over(ex, lane);
    if (qni_next(lane) == lane->end) {
        a->self.finished = true;
        return QNI_LANE_DONE;
    }
    const qn_task *t = &ex->plan->task[qni_next(lane)];
    if (!lane->open && !qni_may_start(ex, t)) return QNI_LANE_WAITS;
    if (ex->desc.jitter != 0 && !lane->open && qni_delays(&a->self)) return QNI_LANE_RAN;
    return t->op == QN_OP_LOAD || t->op == QN_OP_OFFLOAD ? copy_piece(a, lane) : qni_run_task(&a->self, lane);
}
