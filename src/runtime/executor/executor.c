/* The executor: memory, world and threads of a plan, and the frame of a step.
 *
 * Epochs: step n runs in epoch 2n; 2n + 1 cancels it, whoever says so first. Epochs only grow, so a late cancel hits nothing.
 * After a step that stopped early the rings are emptied before the next one, since its messages could fill a channel that the
 * next step's plan needs free. */
#include "executor.h"

#include <errno.h>
#include <inttypes.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
#include "core/compiler.h"
#include "core/team.h"
#include "lanes.h"

enum { SPINS = 2000, TEXT = 96 }; /* about the time that waking a sleeper takes */

/* --- what the executor relies on, beyond what the validator has checked */

static qn_status check_value(const qn_executor_desc *d, int32_t task, qn_span span, qn_err *err)
{
    const qn_plan *p = d->plan;
    char buf[TEXT];
    if (span.count != 1)
        return QN_FAIL(err, QN_EINVAL, "%s names %d values; a message carries one", qn_task_text(buf, sizeof(buf), p, task),
                       span.count);
    const qn_value *v = &p->value[p->ref[span.first]];
    if (v->worker != p->task[task].worker)
        return QN_FAIL(err, QN_EINVAL, "%s moves a value of worker %d", qn_task_text(buf, sizeof(buf), p, task), v->worker);
    if (v->offset == QN_NONE && d->fns.home == NULL)
        return QN_FAIL(err, QN_EINVAL, "%s moves a value that has no place in the arena, and no home is given",
                       qn_task_text(buf, sizeof(buf), p, task));
    return QN_OK;
}

static qn_status check_plan(const qn_executor_desc *d, qn_err *err)
{
    const qn_plan *p = d->plan;
    char buf[TEXT];
    for (int32_t v = 0; v < p->values; v++) {
        const qn_value *x = &p->value[v];
        if (x->offset != QN_NONE && (x->offset < 0 || x->bytes < 0 || x->bytes > p->arena_bytes[x->worker] ||
                                     x->offset > p->arena_bytes[x->worker] - x->bytes))
            return QN_FAIL(err, QN_EINVAL, "value %d lies at %" PRId64 " + %" PRId64 " in an arena of %" PRId64 " bytes", v,
                           x->offset, x->bytes, p->arena_bytes[x->worker]);
    }
    for (int32_t t = 0; t < p->tasks; t++) {
        const qn_task *x = &p->task[t];
        if (x->op != QN_OP_SEND && x->op != QN_OP_RECV) continue;
        if (x->channel < 0 || x->channel >= p->channels)
            return QN_FAIL(err, QN_EINVAL, "%s has no channel", qn_task_text(buf, sizeof(buf), p, t));
        const qn_channel *c = &p->channel[x->channel];
        if ((x->op == QN_OP_SEND ? c->from : c->to) != x->worker)
            return QN_FAIL(err, QN_EINVAL, "%s uses channel %d, which joins workers %d and %d",
                           qn_task_text(buf, sizeof(buf), p, t), x->channel, c->from, c->to);
        const qn_status st = check_value(d, t, x->op == QN_OP_SEND ? x->in : x->out, err);
        if (st != QN_OK) return st;
    }
    return QN_OK;
}

/* --- open, close */

static qn_status open_world(qn_executor *ex, qn_err *err)
{
    const qn_plan *p = ex->plan;
    qn_channel_desc *channel = qn_calloc((size_t)p->channels, sizeof(*channel));
    if (channel == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for %d channels", p->channels);
    for (int32_t c = 0; c < p->channels; c++) {
        const qn_channel *x = &p->channel[c];
        channel[c] = (qn_channel_desc){
            .from = x->from, .to = x->to, .depth = (uint32_t)x->depth, .slot_bytes = (size_t)qn_max64(x->slot_bytes, 0)};
    }
    const qn_world_desc desc = {
        .workers = p->workers, .channels = p->channels, .channel = channel, .faults = ex->desc.faults, .spins = ex->spins};
    const qn_status st = ex->transport->open(&ex->world, &desc, err);
    qn_free(channel);
    return st;
}

static qn_status borrow_arena(qni_worker *w, const qn_executor *from, int64_t bytes, qn_err *err)
{
    const int64_t has = w->index < from->plan->workers ? from->plan->arena_bytes[w->index] : 0;
    if (has < bytes)
        return QN_FAIL(err, QN_EINVAL, "worker %d needs an arena of %" PRId64 " bytes; the one to share has %" PRId64, w->index,
                       bytes, has);
    w->arena = from->worker[w->index].arena;
    return QN_OK;
}

static qn_status open_workers(qn_executor *ex, qn_err *err)
{
    const qn_plan *p = ex->plan;
    if (!qn_mul_size(&ex->worker_bytes, (size_t)p->workers, sizeof(qni_worker)))
        return QN_FAIL(err, QN_ERANGE, "%d workers are too many", p->workers);
    ex->worker = qn_alloc_pages(ex->worker_bytes);
    ex->alive = qn_calloc((size_t)p->values, sizeof(*ex->alive));
    if (ex->worker == NULL || ex->alive == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for %d workers", p->workers);
    for (int32_t i = 0; i < p->workers; i++) {
        qni_worker *w = &ex->worker[i];
        w->ex = ex;
        w->index = w->id = i;
        w->jitter = ex->desc.jitter + (uint64_t)i * 2654435761U;
        qn_bell_init(&w->start);
        if (ex->desc.arenas != NULL) {
            const qn_status st = borrow_arena(w, ex->desc.arenas, p->arena_bytes[i], err);
            if (st != QN_OK) return st;
            continue;
        }
        w->arena = qn_alloc_pages((size_t)p->arena_bytes[i]); /* first touched by the worker's own thread */
        if (w->arena == NULL)
            return QN_FAIL(err, QN_ENOMEM,
                           "worker %d needs an arena of %" PRId64 " bytes, which the system does not give; use more "
                           "workers, smaller micro-batches, or recomputation",
                           i, p->arena_bytes[i]);
    }
    return QN_OK;
}

qn_status qn_executor_open(qn_executor **out, const qn_executor_desc *desc, qn_err *err)
{
    qn_status st = QN_OK;
    *out = NULL;
    const qn_plan *p = desc->plan;
    if (desc->driver == QN_DRIVE_THREADS && p->workers > 1 && !desc->transport->threads)
        return QN_FAIL(err, QN_EINVAL, "the transport '%s' runs on one thread: drive it with the loop, or use 'thread'",
                       desc->transport->name);
    qn_executor *ex = qn_alloc_pages(sizeof(*ex)); /* zeroed, and aligned for the bell */
    if (ex == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for an executor");
    ex->desc = *desc;
    ex->plan = p;
    ex->end_step = p->steps;
    ex->transport = desc->transport;
    qn_bell_init(&ex->done);
    atomic_init(&ex->first_failure, NULL);
    ex->desc.threads_per_worker = qn_max32(desc->threads_per_worker, 1);
    const int64_t wanted = (int64_t)p->workers * ex->desc.threads_per_worker;
    ex->spins = desc->spins >= 0 ? desc->spins : wanted <= qn_team_cores() ? SPINS : 0;
    QN_TRY(st, check_plan(&ex->desc, err), out);
    QN_TRY(st, open_workers(ex, err), out);
    QN_TRY(st, qni_asides_open(ex, err), out);
    QN_TRY(st, open_world(ex, err), out);
    if (desc->driver == QN_DRIVE_THREADS) QN_TRY(st, qni_threads_open(ex, err), out);
    *out = ex;
    ex = NULL;
out:
    qn_executor_close(ex);
    return st;
}

void qn_executor_close(qn_executor *ex)
{
    if (ex == NULL) return;
    if (ex->threads > 0 || ex->aside_threads > 0) qni_threads_close(ex);
    qni_asides_close(ex);
    if (ex->world != NULL) ex->transport->close(ex->world);
    for (int32_t i = 0; ex->worker != NULL && ex->desc.arenas == NULL && i < ex->plan->workers; i++)
        if (ex->worker[i].arena != NULL) qn_free_pages(ex->worker[i].arena, (size_t)ex->plan->arena_bytes[i]);
    qn_free_pages(ex->worker, ex->worker_bytes);
    qn_free(ex->alive);
    qn_free_pages(ex, sizeof(*ex));
}

/* --- step */

/* What the last step left in the rings goes: a get in the new epoch drops it. Every worker is at rest. */
static void empty_rings(qn_executor *ex)
{
    for (int32_t c = 0; c < ex->plan->channels; c++) {
        const void *slot;
        qn_slot_tag tag;
        const qn_ring_result r = ex->transport->get(ex->world, c, &slot, &tag, ex->epoch);
        QN_ASSERT(r == QN_RING_WAIT);
    }
}

qn_status qn_executor_step(qn_executor *ex, qn_trace *trace, qn_err *err)
{
    ex->epoch += 2;
    ex->trace = trace;
    atomic_store(&ex->first_failure, NULL);
    ex->transport->set_epoch(ex->world, ex->epoch);
    if (ex->unclean) empty_rings(ex);
    atomic_store(&ex->running, ex->epoch);
    ex->began_ns = qn_now_ns();
    if (ex->desc.driver == QN_DRIVE_THREADS)
        qni_threads_step(ex);
    else
        qni_loop_step(ex);
    atomic_store(&ex->running, 0);
    ex->unclean = false;
    for (int32_t i = 0; i < ex->plan->workers; i++) ex->unclean |= !ex->worker[i].finished;
    for (int32_t i = 0; i < ex->asides; i++) ex->unclean |= !ex->aside[i].self.finished;
    const qni_worker *failed = atomic_load(&ex->first_failure);
    if (failed != NULL) {
        if (err != NULL) *err = failed->err;
        return failed->st;
    }
    if (ex->unclean) return QN_FAIL(err, QN_ECANCELLED, "the step was cancelled");
    return QN_OK;
}

void qn_executor_set_steps(qn_executor *ex, int32_t first, int32_t steps)
{
    QN_ASSERT(first >= 0 && steps >= 1 && first + steps <= ex->plan->steps && (first == 0 || ex->asides > 0));
    ex->first_step = first;
    ex->end_step = first + steps;
}

void qn_executor_cancel(qn_executor *ex)
{
    const int saved = errno; /* a signal handler may not change it */
    const uint64_t epoch = atomic_load(&ex->running);
    uint64_t stop = atomic_load(&ex->stop);
    if (epoch != 0) {
        while (stop <= epoch && !atomic_compare_exchange_weak(&ex->stop, &stop, epoch + 1)) {}
        ex->transport->set_epoch(ex->world, epoch + 1);
        for (int32_t i = 0; i < ex->asides; i++) qn_bell_ring(&ex->aside[i].bell);
    }
    errno = saved;
}

void *qn_executor_value(qn_executor *ex, int32_t value)
{
    const qn_value *v = &ex->plan->value[value];
    size_t bytes;
    if (v->offset == QN_NONE) return ex->desc.fns.home(ex->desc.ctx, value, &bytes);
    return ex->worker[v->worker].arena + v->offset;
}

size_t qn_executor_actual(qn_executor *ex, int32_t value)
{
    return ex->desc.fns.actual == NULL ? (size_t)ex->plan->value[value].bytes : ex->desc.fns.actual(ex->desc.ctx, value);
}

qn_ring_result qn_executor_put_begin(qn_executor *ex, int32_t channel, void **slot)
{
    return ex->transport->put_begin(ex->world, channel, slot, ex->epoch);
}

void qn_executor_put_publish(qn_executor *ex, int32_t channel, uint64_t tag, size_t bytes)
{
    ex->transport->put_publish(ex->world, channel, (qn_slot_tag){.epoch = ex->epoch, .tag = tag, .bytes = bytes});
    ex->worker[ex->plan->channel[channel].from].exchanged++;
}

qn_ring_result qn_executor_get(qn_executor *ex, int32_t channel, const void **slot, uint64_t *tag, size_t *bytes)
{
    qn_slot_tag t = {0};
    const qn_ring_result r = ex->transport->get(ex->world, channel, slot, &t, ex->epoch);
    *tag = t.tag;
    *bytes = (size_t)t.bytes;
    return r;
}

void qn_executor_release(qn_executor *ex, int32_t channel)
{
    ex->transport->release(ex->world, channel);
    ex->worker[ex->plan->channel[channel].to].exchanged++;
}

int64_t qn_executor_high_water(const qn_executor *ex, int32_t worker)
{
    return atomic_load_explicit(&ex->worker[worker].high, memory_order_relaxed);
}

int64_t qn_executor_most_alive(const qn_executor *ex, int32_t worker)
{
    return atomic_load_explicit(&ex->worker[worker].most, memory_order_relaxed);
}

int64_t qn_executor_moved(const qn_executor *ex, int32_t worker, int32_t lane, int32_t cls)
{
    for (int32_t i = 0; i < ex->asides; i++)
        if (ex->aside[i].self.index == worker && ex->aside[i].lane == lane) return ex->aside[i].moved[cls];
    return 0;
}
