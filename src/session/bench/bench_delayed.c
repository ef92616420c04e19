/* Messages that take their time: the thread transport with each slot held back until its delay is over. When it is due stands
 * behind its payload.
 *
 *   slot   | payload, rounded up to 8 bytes | due, ns |
 *
 * A receiver that found a message too early wakes itself: its wait ends when the message is due, and rings its own bell, as a
 * message that arrives would. */
#include <string.h>

#include "bench_sleeper.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
#include "transport/transport.h"

typedef struct delayed { /* behind qn_world, which every transport defines for itself */
    const qn_transport *base;
    qn_world *world;
    int64_t delay;
    size_t *due_at;  /* [channels]: of its slots */
    void **slot;     /* [channels]: the one being filled; its producer's alone */
    int32_t *to;     /* [channels] */
    int64_t *wakeup; /* [workers]: when the first message that came too early is due; the worker's alone */
    qn_channel_desc *channel;
    int32_t workers;
} delayed;

static delayed *of(qn_world *w)
{
    return (delayed *)(void *)w;
}

static void delayed_close(qn_world *w)
{
    delayed *d = of(w);
    if (d == NULL) return;
    if (d->world != NULL) d->base->close(d->world);
    qn_free(d->due_at);
    qn_free(d->slot);
    qn_free(d->to);
    qn_free(d->wakeup);
    qn_free(d->channel);
    qn_free(d);
}

static qn_status delayed_open(qn_world **out, const qn_world_desc *desc, qn_err *err)
{
    const size_t n = (size_t)desc->channels + 1;
    delayed *d = qn_calloc(1, sizeof(*d));
    *out = NULL;
    if (d == NULL) return QN_FAIL(err, QN_ENOMEM, "a world of %d workers", desc->workers);
    *d = (delayed){.base = qn_transport_find("thread"),
                   .delay = desc->faults.max_delay,
                   .due_at = qn_calloc(n, sizeof(size_t)),
                   .slot = qn_calloc(n, sizeof(void *)),
                   .to = qn_calloc(n, sizeof(int32_t)),
                   .wakeup = qn_calloc((size_t)desc->workers, sizeof(int64_t)),
                   .channel = qn_calloc(n, sizeof(qn_channel_desc)),
                   .workers = desc->workers};
    qn_status st = QN_OK;
    if (d->due_at == NULL || d->slot == NULL || d->to == NULL || d->wakeup == NULL || d->channel == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "a world of %d workers", desc->workers);
        goto out;
    }
    for (int32_t w = 0; w < d->workers; w++) d->wakeup[w] = INT64_MAX;
    for (int32_t c = 0; c < desc->channels; c++) {
        d->channel[c] = desc->channel[c];
        d->due_at[c] = (desc->channel[c].slot_bytes + 7) / 8 * 8;
        d->channel[c].slot_bytes = d->due_at[c] + sizeof(int64_t);
        d->to[c] = desc->channel[c].to;
    }
    qn_world_desc mine = *desc;
    mine.channel = d->channel;
    mine.faults = (qn_sim_faults){.dead_worker = -1};
    QN_TRY(st, d->base->open(&d->world, &mine, err), out);
    *out = (qn_world *)(void *)d;
    d = NULL;
out:
    delayed_close((qn_world *)(void *)d);
    return st;
}

static qn_ring_result delayed_put_begin(qn_world *w, int32_t channel, void **slot, uint64_t epoch)
{
    delayed *d = of(w);
    const qn_ring_result r = d->base->put_begin(d->world, channel, slot, epoch);
    if (r == QN_RING_OK) d->slot[channel] = *slot;
    return r;
}

static void delayed_put_publish(qn_world *w, int32_t channel, qn_slot_tag tag)
{
    delayed *d = of(w);
    const int64_t due = qn_now_ns() + d->delay;
    memcpy((char *)d->slot[channel] + d->due_at[channel], &due, sizeof(due));
    d->base->put_publish(d->world, channel, tag);
}

static qn_ring_result delayed_get(qn_world *w, int32_t channel, const void **slot, qn_slot_tag *tag, uint64_t epoch)
{
    delayed *d = of(w);
    const qn_ring_result r = d->base->get(d->world, channel, slot, tag, epoch);
    int64_t due;
    if (r != QN_RING_OK) return r;
    memcpy(&due, (const char *)*slot + d->due_at[channel], sizeof(due));
    if (due <= qn_now_ns()) return QN_RING_OK;
    d->wakeup[d->to[channel]] = qn_min64(d->wakeup[d->to[channel]], due);
    return QN_RING_WAIT; /* it stays in its slot, and the next get gives it again */
}

static void delayed_release(qn_world *w, int32_t channel)
{
    of(w)->base->release(of(w)->world, channel);
}

static uint32_t delayed_look(qn_world *w, int32_t worker)
{
    return of(w)->base->look(of(w)->world, worker);
}

static void delayed_ring(qn_world *w, int32_t worker)
{
    of(w)->base->ring(of(w)->world, worker);
}

static qn_status delayed_wait(qn_world *w, int32_t worker, uint32_t seen, int64_t timeout_ns, qn_err *err)
{
    delayed *d = of(w);
    const int64_t due = d->wakeup[worker];
    d->wakeup[worker] = INT64_MAX;
    if (due == INT64_MAX) return d->base->wait(d->world, worker, seen, timeout_ns, err);
    const int64_t left = qn_max64(due - qn_now_ns(), 0);
    if (left > 0 && (timeout_ns < 0 || left < timeout_ns)) timeout_ns = left;
    const qn_status st = left > 0 ? d->base->wait(d->world, worker, seen, timeout_ns, err) : QN_OK;
    if (st == QN_OK && d->base->look(d->world, worker) == seen) delayed_ring(w, worker);
    return st;
}

static void delayed_set_epoch(qn_world *w, uint64_t epoch)
{
    of(w)->base->set_epoch(of(w)->world, epoch);
}

const qn_transport qni_delayed_transport = {
    .name = "delayed",
    .threads = true,
    .open = delayed_open,
    .close = delayed_close,
    .put_begin = delayed_put_begin,
    .put_publish = delayed_put_publish,
    .get = delayed_get,
    .release = delayed_release,
    .look = delayed_look,
    .wait = delayed_wait,
    .ring = delayed_ring,
    .set_epoch = delayed_set_epoch,
};
