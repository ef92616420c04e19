/* The two drivers of the lanes.
 *
 *   threads   worker 0 on the caller's thread, the others on threads that sleep on their start bell between steps
 *   loop      all workers on the caller's thread, in ascending order, round after round */
#include "lanes.h"

#include <stdio.h>
#include <string.h>

#include "core/compiler.h"
#include "core/team.h"

enum { TEXT = 96 };
static const int64_t PATIENCE_NS = 250000000; /* how long a bell may be silent before we ask whether anybody can move at all */

/* Nothing can move any more: says what each worker stands at. */
static qn_status stuck(const qn_executor *ex, qn_err *err)
{
    char list[QN_ERR_TEXT / 2] = "", buf[TEXT];
    size_t used = 0;
    for (int32_t i = 0; i < ex->plan->workers * QN_LANES && used + TEXT + 2 < sizeof(list); i++) {
        const qni_lane *lane = &ex->worker[i / QN_LANES].lane[i % QN_LANES];
        const int32_t next = atomic_load_explicit(&lane->next, memory_order_relaxed);
        if (next == lane->end) continue;
        used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", used > 0 ? ", " : "",
                                 qn_task_text(buf, sizeof(buf), ex->plan, next));
    }
    return QN_FAIL(err, QN_EINTERNAL, "no lane can move any more; they stand at %s", list);
}

static void pin(qni_worker *w)
{
    if (!w->ex->desc.pin || w->pinned) return;
    qn_team_pin_self(w->index * w->ex->desc.threads_per_worker);
    w->pinned = true;
}

/* --- threads */

/* True when no worker will ever move again: all are idle, and no bell has rung since each of them looked. Only workers that move
 * ring bells, and a worker that woke up meanwhile shows in wakes. */
static bool nobody_can_move(qn_executor *ex)
{
    const uint64_t wakes = atomic_load(&ex->wakes);
    const int32_t all = ex->plan->workers + ex->asides;
    if (atomic_load(&ex->idle) != all) return false;
    for (int32_t i = 0; i < all; i++) {
        qni_worker *w = i < ex->plan->workers ? &ex->worker[i] : &ex->aside[i - ex->plan->workers].self;
        if (!atomic_load(&w->ended) && qni_id_look(ex, i) != atomic_load(&w->seen)) return false;
    }
    return atomic_load(&ex->wakes) == wakes;
}

/* Nothing to do since the bell was seen: sleeps until it rings. QN_ESTATE when it never will. */
static qn_status wait_for_bell(qni_worker *w, uint32_t seen)
{
    qn_executor *ex = w->ex;
    qn_status st = qni_id_wait(ex, w->id, seen, PATIENCE_NS, &w->err);
    if (st != QN_OK || qni_id_look(ex, w->id) != seen) return st;
    atomic_store(&w->seen, seen);
    atomic_fetch_add(&ex->idle, 1);
    while (st == QN_OK && qni_id_look(ex, w->id) == seen)
        st = nobody_can_move(ex) ? QN_ESTATE : qni_id_wait(ex, w->id, seen, PATIENCE_NS, &w->err);
    atomic_fetch_add(&ex->wakes, 1);
    atomic_fetch_sub(&ex->idle, 1);
    return st;
}

/* One worker, or one aside, through one step. */
static void work(qni_worker *w)
{
    qn_executor *ex = w->ex;
    qni_aside *aside = w->id < ex->plan->workers ? NULL : &ex->aside[w->id - ex->plan->workers];
    if (aside == NULL) pin(w);
    if (ex->asides == 0) qni_worker_reset(w, ex->unclean); /* else the caller did: lanes look at each other */
    for (;;) {
        const uint32_t seen = qni_id_look(ex, w->id);
        const qni_lane_result r = aside != NULL ? qni_aside_round(aside) : qni_worker_round(w);
        if (r == QNI_LANE_RAN) continue;
        if (r == QNI_LANE_FAILED) qni_worker_failed(w, w->st);
        if (r != QNI_LANE_WAITS) break;
        const qn_status st = wait_for_bell(w, seen);
        if (st == QN_OK) continue;
        qni_worker_failed(w, st == QN_ESTATE ? stuck(ex, &w->err) : st);
        break;
    }
    atomic_store(&w->ended, true);
    atomic_fetch_add(&ex->idle, 1);
}

static void *thread_main(void *arg)
{
    qni_worker *w = arg;
    qn_executor *ex = w->ex;
    for (uint32_t steps = 0;; steps++) {
        while (qn_bell_look(&w->start) == steps) qn_bell_wait(&w->start, steps, ex->spins, -1);
        if (ex->leave) return NULL;
        work(w);
        if (atomic_fetch_sub_explicit(&ex->left, 1, memory_order_acq_rel) == 1) qn_bell_ring(&ex->done);
    }
}

qn_status qni_threads_open(qn_executor *ex, qn_err *err)
{
    for (int32_t i = 1; i < ex->plan->workers; i++) {
        const int failed = pthread_create(&ex->worker[i].thread, NULL, thread_main, &ex->worker[i]);
        if (failed != 0) return QN_FAIL(err, QN_ENOMEM, "the thread of worker %d did not start: %s", i, strerror(failed));
        ex->threads = i;
    }
    for (int32_t i = 0; i < ex->asides; i++) {
        const int failed = pthread_create(&ex->aside[i].self.thread, NULL, thread_main, &ex->aside[i].self);
        if (failed != 0) return QN_FAIL(err, QN_ENOMEM, "the thread of a copy lane did not start: %s", strerror(failed));
        ex->aside_threads = i + 1;
    }
    return QN_OK;
}

void qni_threads_close(qn_executor *ex)
{
    ex->leave = true;
    for (int32_t i = 1; i <= ex->threads; i++) qn_bell_ring(&ex->worker[i].start);
    for (int32_t i = 0; i < ex->aside_threads; i++) qn_bell_ring(&ex->aside[i].self.start);
    for (int32_t i = 1; i <= ex->threads; i++) pthread_join(ex->worker[i].thread, NULL);
    for (int32_t i = 0; i < ex->aside_threads; i++) pthread_join(ex->aside[i].self.thread, NULL);
}

/* With asides, lanes of all workers look at each other: all stand at their start before anyone begins. */
static void reset_all(qn_executor *ex)
{
    for (int32_t i = 0; i < ex->plan->workers && ex->asides > 0; i++) qni_worker_reset(&ex->worker[i], ex->unclean);
    for (int32_t i = 0; i < ex->asides; i++) qni_aside_reset(&ex->aside[i]);
}

void qni_threads_step(qn_executor *ex)
{
    atomic_store_explicit(&ex->left, ex->threads + ex->asides, memory_order_relaxed);
    atomic_store_explicit(&ex->idle, 0, memory_order_relaxed);
    reset_all(ex);
    for (int32_t i = 1; i <= ex->threads; i++) qn_bell_ring(&ex->worker[i].start);
    for (int32_t i = 0; i < ex->asides; i++) qn_bell_ring(&ex->aside[i].self.start);
    work(&ex->worker[0]);
    for (;;) {
        const uint32_t seen = qn_bell_look(&ex->done);
        if (atomic_load_explicit(&ex->left, memory_order_acquire) == 0) return;
        qn_bell_wait(&ex->done, seen, ex->spins, -1);
    }
}

/* --- loop */

/* All unfinished workers once. The first that is not finished, or NULL, goes to *first. */
static qni_lane_result loop_round(qn_executor *ex)
{
    bool moved = false, finished = true;
    for (int32_t i = 0; i < ex->plan->workers; i++) {
        qni_worker *w = &ex->worker[i];
        if (w->finished) continue;
        const qni_lane_result r = qni_worker_round(w);
        if (r == QNI_LANE_FAILED) qni_worker_failed(w, w->st);
        if (r == QNI_LANE_FAILED || r == QNI_LANE_CANCELLED) return r;
        moved |= r != QNI_LANE_WAITS;
        finished &= r == QNI_LANE_DONE;
    }
    for (int32_t i = 0; i < ex->asides; i++) {
        qni_aside *a = &ex->aside[i];
        if (a->self.finished) continue;
        const qni_lane_result r = qni_aside_round(a);
        if (r == QNI_LANE_FAILED) qni_worker_failed(&a->self, a->self.st);
        if (r == QNI_LANE_FAILED || r == QNI_LANE_CANCELLED) return r;
        moved |= r != QNI_LANE_WAITS;
        finished &= r == QNI_LANE_DONE;
    }
    if (finished) return QNI_LANE_DONE;
    return moved ? QNI_LANE_RAN : QNI_LANE_WAITS;
}

static qni_worker *first_unfinished(qn_executor *ex)
{
    for (int32_t i = 0; i < ex->plan->workers; i++)
        if (!ex->worker[i].finished) return &ex->worker[i];
    return &ex->worker[0];
}

void qni_loop_step(qn_executor *ex)
{
    const qn_transport *t = ex->transport;
    pin(&ex->worker[0]);
    for (int32_t i = 0; i < ex->plan->workers; i++) qni_worker_reset(&ex->worker[i], ex->unclean);
    for (int32_t i = 0; i < ex->asides; i++) qni_aside_reset(&ex->aside[i]);
    for (;;) {
        qni_worker *w = first_unfinished(ex);
        const uint32_t seen = t->look(ex->world, w->index);
        const qni_lane_result r = loop_round(ex);
        if (r == QNI_LANE_RAN) continue;
        if (r != QNI_LANE_WAITS) return;
        qn_status st = t->wait(ex->world, w->index, seen, PATIENCE_NS, &w->err);
        /* Every worker is on this thread: a wait in which nobody rang can only end by a transport's own doing. */
        if (st == QN_OK && t->threads && t->look(ex->world, w->index) == seen) st = QN_ESTATE;
        if (st == QN_OK) continue;
        qni_worker_failed(w, st == QN_ESTATE ? stuck(ex, &w->err) : st);
        return;
    }
}
