/* Lanes: how one task starts, moves on and ends.
 *
 * A message is cut into pieces of the channel's slot size; the last piece is marked. The wire tag is the task's tag with the
 * piece's number and the mark folded into the upper bits, so the receiver knows whether it has what its plan says comes next. */
#include "lanes.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "core/clock.h"
#include "core/compiler.h"

enum { PIECE_SHIFT = 40, TEXT = 96 };

static uint64_t wire_tag(uint64_t tag, int64_t piece, bool last)
{
    return tag ^ (((uint64_t)piece << 1 | last) << PIECE_SHIFT);
}

static bool is_done(const qn_executor *ex, int32_t task)
{
    const qn_task *t = &ex->plan->task[task];
    return task < atomic_load_explicit(&ex->worker[t->worker].lane[t->lane].next, memory_order_acquire);
}

bool qni_may_start(const qn_executor *ex, const qn_task *t)
{
    for (int32_t i = 0; i < t->wait.count; i++)
        if (!is_done(ex, ex->plan->ref[t->wait.first + i])) return false;
    return true;
}

/* Random delays: with threads a short sleep, on the loop now and then a turn that is passed over (true). */
bool qni_delays(qni_worker *w)
{
    w->jitter ^= w->jitter << 13;
    w->jitter ^= w->jitter >> 7;
    w->jitter ^= w->jitter << 17;
    if (w->ex->desc.driver == QN_DRIVE_LOOP) return w->jitter % 3 != 0;
    const struct timespec t = {.tv_sec = 0, .tv_nsec = (long)(w->jitter % 4 == 0 ? w->jitter % 300000 : 0)};
    if (t.tv_nsec > 0) (void)nanosleep(&t, NULL);
    return false;
}

static bool is_run(const qn_executor *ex, int32_t task)
{
    const int32_t step = ex->plan->task[task].step;
    return step >= ex->first_step && step < ex->end_step;
}

/* Nobody waits for those but tasks that are passed over, too, and tasks behind those that a reset has passed over. */
void qni_pass_over(const qn_executor *ex, qni_lane *lane)
{
    int32_t next = qni_next(lane);
    if (lane->open || next == lane->end || is_run(ex, next)) return;
    while (next < lane->end && !is_run(ex, next)) next++;
    atomic_store_explicit(&lane->next, next, memory_order_release);
}

/* --- lifetimes and times */

static void raise_to(_Atomic int64_t *mark, int64_t to)
{
    int64_t now = atomic_load_explicit(mark, memory_order_relaxed);
    while (now < to && !atomic_compare_exchange_weak_explicit(mark, &now, to, memory_order_relaxed, memory_order_relaxed))
        continue;
}

/* Workers without asides pay for no atomic addition. */
static void count_bytes(qni_worker *home, int64_t bytes)
{
    int64_t now;
    if (home->shared) {
        now = atomic_fetch_add_explicit(&home->live, bytes, memory_order_relaxed) + bytes;
    } else {
        now = atomic_load_explicit(&home->live, memory_order_relaxed) + bytes;
        atomic_store_explicit(&home->live, now, memory_order_relaxed);
    }
    raise_to(&home->most, now);
}

static void comes_alive(qni_worker *w, qn_span span)
{
    qn_executor *ex = w->ex;
    const qn_plan *p = ex->plan;
    for (int32_t i = 0; i < span.count; i++) {
        const int32_t v = p->ref[span.first + i];
        if (p->value[v].offset == QN_NONE || p->value[v].worker != w->index || ex->alive[v]) continue;
        ex->alive[v] = true;
        count_bytes(&ex->worker[w->index], p->value[v].bytes);
        raise_to(&ex->worker[w->index].high, p->value[v].offset + p->value[v].bytes);
    }
}

static void dies(qni_worker *w, qn_span span)
{
    const qn_plan *p = w->ex->plan;
    for (int32_t i = 0; i < span.count; i++) {
        const int32_t v = p->ref[span.first + i];
        if (p->value[v].worker != w->index || !w->ex->alive[v]) continue;
        w->ex->alive[v] = false;
        count_bytes(&w->ex->worker[w->index], -p->value[v].bytes);
    }
}

static int64_t step_ns(const qn_executor *ex)
{
    return qn_now_ns() - ex->began_ns;
}

/* The processor time between a comp task's begin and end; on the thread that steps the lane. */
static void note_cpu(const qn_executor *ex, int32_t task, int64_t sign)
{
    if (ex->trace == NULL || ex->trace->cpu == NULL || ex->plan->task[task].lane != QN_LANE_COMP) return;
    ex->trace->cpu[task] = sign < 0 ? -qn_thread_cpu_ns() : ex->trace->cpu[task] + qn_thread_cpu_ns();
}

void qni_task_begins(qni_worker *w, int32_t task)
{
    const qn_executor *ex = w->ex;
    comes_alive(w, ex->plan->task[task].out);
    comes_alive(w, ex->plan->task[task].acc);
    if (ex->trace != NULL) ex->trace->time[task].start = step_ns(ex);
    note_cpu(ex, task, -1);
}

void qni_task_ends(qni_worker *w, qni_lane *lane)
{
    qn_executor *ex = w->ex;
    const int32_t task = qni_next(lane);
    note_cpu(ex, task, 1);
    if (ex->trace != NULL) ex->trace->time[task].end = step_ns(ex);
    if (qn_joint_last(ex->plan, task) == task) /* joint tasks hold what they have until the last of them ends */
        for (int32_t t = qn_joint_first(ex->plan, task); t <= task; t++) dies(w, ex->plan->task[t].free);
    lane->open = false;
    atomic_store_explicit(&lane->next, task + 1, memory_order_release);
    if (ex->ring_first != NULL) qni_ring_waiters(ex, task);
}

/* --- compute and step tasks */

qni_lane_result qni_run_task(qni_worker *w, qni_lane *lane)
{
    qn_executor *ex = w->ex;
    const uint64_t before = w->exchanged;
    if (!lane->open) qni_task_begins(w, qni_next(lane));
    lane->open = true;
    w->st = ex->desc.fns.run(ex->desc.ctx, ex, qni_next(lane), &w->err);
    if (w->st == QN_EAGAIN) {
        w->st = QN_OK;
        return w->exchanged != before ? QNI_LANE_RAN : QNI_LANE_WAITS;
    }
    if (QN_UNLIKELY(w->st != QN_OK)) return QNI_LANE_FAILED;
    qni_task_ends(w, lane);
    return QNI_LANE_RAN;
}

/* --- messages */

static const char *text_of(const qni_worker *w, int32_t task, char buf[TEXT])
{
    return qn_task_text(buf, TEXT, w->ex->plan, task);
}

/* Where the message's value is and how many bytes of it there are. False: the worker failed. */
static bool open_message(qni_worker *w, qni_lane *lane, int32_t value)
{
    const qn_executor *ex = w->ex;
    const qn_value *v = &ex->plan->value[value];
    char buf[TEXT];
    lane->moved = 0;
    lane->piece = 0;
    if (v->offset == QN_NONE) {
        lane->memory = ex->desc.fns.home(ex->desc.ctx, value, &lane->total);
    } else {
        lane->memory = w->arena + v->offset;
        lane->total = ex->desc.fns.actual == NULL ? (size_t)v->bytes : ex->desc.fns.actual(ex->desc.ctx, value);
        if (lane->total > (size_t)v->bytes) {
            w->st = QN_FAIL(&w->err, QN_EINTERNAL, "%s: the value has %zu bytes, but only %" PRId64 " were planned",
                            text_of(w, qni_next(lane), buf), lane->total, v->bytes);
            return false;
        }
    }
    const qn_channel *c = &ex->plan->channel[ex->plan->task[qni_next(lane)].channel];
    int64_t first;
    lane->total = (size_t)qn_channel_carries(c, (int64_t)lane->total, &first);
    if (lane->memory != NULL) lane->memory += first;
    if (lane->total > 0 && (c->slot_bytes == 0 || lane->total / (size_t)c->slot_bytes >= (size_t)1 << 22)) {
        w->st = QN_FAIL(&w->err, QN_EINTERNAL, "%s: %zu bytes do not travel in slots of %" PRId64,
                        text_of(w, qni_next(lane), buf), lane->total, c->slot_bytes);
        return false;
    }
    return true;
}

static qni_lane_result stopped_with(bool some, qn_ring_result r)
{
    if (r == QN_RING_CANCELLED) return QNI_LANE_CANCELLED;
    return some ? QNI_LANE_RAN : QNI_LANE_WAITS;
}

static qni_lane_result send_pieces(qni_worker *w, qni_lane *lane)
{
    const qn_executor *ex = w->ex;
    const qn_task *t = &ex->plan->task[qni_next(lane)];
    const size_t slot_bytes = (size_t)ex->plan->channel[t->channel].slot_bytes;
    for (bool some = false;; some = true) {
        void *slot;
        const qn_ring_result r = ex->transport->put_begin(ex->world, t->channel, &slot, ex->epoch);
        if (r != QN_RING_OK) return stopped_with(some, r);
        if (!lane->open) {
            qni_task_begins(w, qni_next(lane));
            if (!open_message(w, lane, ex->plan->ref[t->in.first])) return QNI_LANE_FAILED;
            lane->open = true;
        }
        const size_t left = lane->total - lane->moved, bytes = left < slot_bytes ? left : slot_bytes;
        const bool last = bytes == left;
        if (bytes > 0) memcpy(slot, lane->memory + lane->moved, bytes);
        const uint64_t tag = wire_tag(t->tag, lane->piece++, last);
        lane->moved += bytes;
        ex->transport->put_publish(ex->world, t->channel, (qn_slot_tag){.epoch = ex->epoch, .tag = tag, .bytes = bytes});
        if (last) break;
    }
    qni_task_ends(w, lane);
    return QNI_LANE_RAN;
}

/* The piece that came against the one that the plan says comes next. */
static bool check_piece(qni_worker *w, const qni_lane *lane, const qn_slot_tag *tag, bool last)
{
    const qn_executor *ex = w->ex;
    const qn_task *t = &ex->plan->task[qni_next(lane)];
    const size_t left = lane->total - lane->moved;
    char buf[TEXT];
    const uint64_t want = wire_tag(t->tag, lane->piece, last);
    if (tag->tag != want && tag->tag != wire_tag(t->tag, lane->piece, !last)) {
        w->st =
            QN_FAIL(&w->err, QN_EINTERNAL, "%s: channel %d brought tag %#" PRIx64 ", expected %#" PRIx64 " (piece %" PRId64 ")",
                    text_of(w, qni_next(lane), buf), t->channel, tag->tag ^ want ^ t->tag, t->tag, lane->piece);
        return false;
    }
    const size_t slot_bytes = (size_t)ex->plan->channel[t->channel].slot_bytes;
    const size_t due = left < slot_bytes ? left : slot_bytes;
    if (tag->tag != want || tag->bytes != due) {
        w->st = QN_FAIL(&w->err, QN_EINTERNAL,
                        "%s: piece %" PRId64 " has %" PRIu64 " bytes%s, expected %zu%s of a message of %zu bytes",
                        text_of(w, qni_next(lane), buf), lane->piece, tag->bytes,
                        (tag->tag == want) == last ? " and is the last" : "", due, last ? " and the last" : "", lane->total);
        return false;
    }
    return true;
}

static qni_lane_result receive_pieces(qni_worker *w, qni_lane *lane)
{
    const qn_executor *ex = w->ex;
    const qn_task *t = &ex->plan->task[qni_next(lane)];
    const size_t slot_bytes = (size_t)ex->plan->channel[t->channel].slot_bytes;
    for (bool some = false, last = false; !last; some = true) {
        const void *slot;
        qn_slot_tag tag;
        const qn_ring_result r = ex->transport->get(ex->world, t->channel, &slot, &tag, ex->epoch);
        if (r != QN_RING_OK) return stopped_with(some, r);
        bool good = true;
        if (!lane->open) {
            qni_task_begins(w, qni_next(lane));
            good = lane->open = open_message(w, lane, ex->plan->ref[t->out.first]);
        }
        last = lane->total - lane->moved <= slot_bytes;
        good = good && check_piece(w, lane, &tag, last);
        if (good && tag.bytes > 0) memcpy(lane->memory + lane->moved, slot, tag.bytes);
        ex->transport->release(ex->world, t->channel);
        if (!good) return QNI_LANE_FAILED;
        lane->moved += tag.bytes;
        lane->piece++;
    }
    qni_task_ends(w, lane);
    return QNI_LANE_RAN;
}

/* --- the worker */

static qni_lane_result lane_step(qni_worker *w, qn_lane which)
{
    qni_lane *lane = &w->lane[which];
    qni_pass_over(w->ex, lane);
    if (qni_next(lane) == lane->end) return QNI_LANE_DONE;
    if (!lane->open && !qni_may_start(w->ex, &w->ex->plan->task[qni_next(lane)])) return QNI_LANE_WAITS;
    if (w->ex->desc.jitter != 0 && !lane->open && qni_delays(w)) return QNI_LANE_RAN;
    switch (w->ex->plan->task[qni_next(lane)].op) {
    case QN_OP_SEND:
        return send_pieces(w, lane);
    case QN_OP_RECV:
        return receive_pieces(w, lane);
    default:
        return qni_run_task(w, lane);
    }
}

qni_lane_result qni_worker_round(qni_worker *w)
{
    /* Outputs leave and slots are given back before the next compute task, which may take long. */
    static const qn_lane ORDER[] = {QN_LANE_SEND, QN_LANE_RECV, QN_LANE_COMP};
    bool moved = false, finished = true;
    for (size_t i = 0; i < QN_COUNT(ORDER); i++) {
        qni_lane_result r;
        do {
            if (qni_step_stopped(w->ex)) return QNI_LANE_CANCELLED;
            r = lane_step(w, ORDER[i]);
            if (r == QNI_LANE_FAILED || r == QNI_LANE_CANCELLED) return r;
            moved |= r == QNI_LANE_RAN;
        } while (r == QNI_LANE_RAN && ORDER[i] != QN_LANE_COMP);
        finished &= qni_next(&w->lane[ORDER[i]]) == w->lane[ORDER[i]].end;
    }
    w->finished = finished;
    if (finished) return QNI_LANE_DONE;
    return moved ? QNI_LANE_RAN : QNI_LANE_WAITS;
}

void qni_worker_reset(qni_worker *w, bool clean)
{
    qn_executor *ex = w->ex;
    const qn_plan *p = ex->plan;
    for (int i = 0; i < QN_LANES; i++) {
        const int32_t first = p->lane[w->index][i][0], count = p->lane[w->index][i][1];
        int32_t next = first;
        while (next < first + count && p->task[next].step < ex->first_step) next++;
        w->lane[i] = (qni_lane){.first = first, .end = first + count};
        atomic_init(&w->lane[i].next, next);
        for (int32_t t = first; ex->trace != NULL && t < first + count; t++)
            ex->trace->time[t] = (qn_span_time){.start = 0, .end = -1};
    }
    for (int32_t v = 0; clean && v < p->values; v++) {
        if (p->value[v].worker == w->index && ex->alive[v] && !p->value[v].carried) {
            ex->alive[v] = false;
            count_bytes(w, -p->value[v].bytes);
        }
    }
    w->st = QN_OK;
    w->err.code = QN_OK;
    w->finished = false;
    atomic_store_explicit(&w->ended, false, memory_order_relaxed);
}

bool qni_step_stopped(const qn_executor *ex)
{
    return atomic_load_explicit(&ex->stop, memory_order_acquire) > ex->epoch;
}

void qni_worker_failed(qni_worker *w, qn_status st)
{
    qn_executor *ex = w->ex;
    char buf[TEXT];
    qni_worker *nobody = NULL;
    w->st = st;
    if (w->err.code == QN_OK) {
        const qni_lane *comp = &ex->worker[w->index].lane[QN_LANE_COMP];
        (void)QN_FAIL(&w->err, st, "%s failed: %s", qni_next(comp) < comp->end ? text_of(w, qni_next(comp), buf) : "a worker",
                      qn_status_text(st));
    }
    atomic_compare_exchange_strong(&ex->first_failure, &nobody, w);
    qn_executor_cancel(ex);
}
