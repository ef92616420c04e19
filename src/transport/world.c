/* Rings and bells of a world whose workers share one address space. */
#include "world.h"

#include "core/alloc.h"
#include "core/compiler.h"

static qn_status check_desc(const qn_world_desc *desc, qn_err *err)
{
    if (desc->workers < 1 || desc->channels < 0)
        return QN_FAIL(err, QN_EINVAL, "a world of %d workers and %d channels was asked for; it needs at least one worker",
                       desc->workers, desc->channels);
    for (int32_t c = 0; c < desc->channels; c++) {
        const qn_channel_desc *d = &desc->channel[c];
        if (d->from < 0 || d->from >= desc->workers || d->to < 0 || d->to >= desc->workers)
            return QN_FAIL(err, QN_EINVAL, "channel %d goes from worker %d to worker %d, but the workers are 0 to %d", c, d->from,
                           d->to, desc->workers - 1);
        if (qn_ring_bytes(d->depth, d->slot_bytes) == 0)
            return QN_FAIL(err, QN_EINVAL, "channel %d cannot have %u slots of %zu bytes; 1 to %d slots are possible", c,
                           d->depth, d->slot_bytes, QN_RING_MAX_DEPTH);
    }
    return QN_OK;
}

/* Runs twice: on a probe to measure, then for real. */
static void lay_out(qn_world *w, qn_arena *a, const qn_world_desc *desc)
{
    w->channel = qn_arena_push(a, (size_t)desc->channels, sizeof(*w->channel), _Alignof(qn_channel_desc));
    w->ring = qn_arena_push(a, (size_t)desc->channels, sizeof(*w->ring), _Alignof(qn_ring *));
    w->broken = qn_arena_push(a, (size_t)desc->channels, sizeof(*w->broken), _Alignof(uint64_t));
    w->bell = qn_arena_push(a, (size_t)desc->workers, sizeof(*w->bell), QN_CACHE_LINE);
    for (int32_t c = 0; c < desc->channels; c++) {
        const qn_channel_desc *d = &desc->channel[c];
        void *memory = qn_arena_push(a, 1, qn_ring_bytes(d->depth, d->slot_bytes), QN_CACHE_LINE);
        if (memory == NULL) continue;
        w->channel[c] = *d;
        w->ring[c] = qn_ring_init(memory, d->depth, d->slot_bytes);
    }
}

qn_status qni_world_open(qn_world **out, const qn_world_desc *desc, qn_err *err)
{
    qn_status st = QN_OK;
    qn_world *w = NULL;
    *out = NULL;
    QN_TRY(st, check_desc(desc, err), out);
    w = qn_calloc(1, sizeof(*w));
    if (w == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for a world of %d workers", desc->workers);
    w->workers = desc->workers;
    w->channels = desc->channels;
    w->spins = desc->spins;
    qn_arena probe = QN_ARENA_PROBE;
    lay_out(w, &probe, desc);
    QN_TRY(st, qn_arena_open(&w->memory, probe.used, err), out);
    lay_out(w, &w->memory, desc);
    QN_ASSERT(!w->memory.failed);
    for (int32_t i = 0; i < w->workers; i++) qn_bell_init(&w->bell[i]);
    *out = w;
    w = NULL;
out:
    qni_world_close(w);
    return st;
}

void qni_world_close(qn_world *w)
{
    if (w == NULL) return;
    qn_arena_close(&w->memory);
    qn_free(w->extra);
    qn_free(w);
}

qn_ring_result qni_world_put_begin(qn_world *w, int32_t channel, void **slot, uint64_t epoch)
{
    const qn_ring_result r = qn_ring_put_begin(w->ring[channel], slot, epoch);
    return r == QN_RING_OK && QN_UNLIKELY(w->broken[channel] == epoch + 1) ? QN_RING_WAIT : r;
}

static void lose(qn_world *w, int32_t channel, uint64_t epoch)
{
    w->broken[channel] = epoch + 1;
    atomic_store(&w->lost_channel, channel);
    atomic_store(&w->lost, epoch + 1);
    qn_bell_ring(&w->bell[w->channel[channel].from]);
    qn_bell_ring(&w->bell[w->channel[channel].to]);
}

void qni_world_put_publish(qn_world *w, int32_t channel, qn_slot_tag tag)
{
    if (qni_fault_hit(QN_FAULT_MESSAGE)) {
        lose(w, channel, tag.epoch);
        return;
    }
    qn_ring_put_publish(w->ring[channel], tag);
    qn_bell_ring(&w->bell[w->channel[channel].to]);
}

qn_ring_result qni_world_get(qn_world *w, int32_t channel, const void **slot, qn_slot_tag *tag, uint64_t epoch)
{
    return qn_ring_get(w->ring[channel], slot, tag, epoch);
}

void qni_world_release(qn_world *w, int32_t channel)
{
    qn_ring_release(w->ring[channel]);
    qn_bell_ring(&w->bell[w->channel[channel].from]);
}

uint32_t qni_world_look(qn_world *w, int32_t worker)
{
    return qn_bell_look(&w->bell[worker]);
}

void qni_world_ring(qn_world *w, int32_t worker)
{
    qn_bell_ring(&w->bell[worker]);
}

void qni_world_set_epoch(qn_world *w, uint64_t epoch)
{
    uint64_t now = atomic_load(&w->epoch);
    while (now < epoch && !atomic_compare_exchange_weak(&w->epoch, &now, epoch)) {}
    for (int32_t c = 0; c < w->channels; c++) qn_ring_set_epoch(w->ring[c], epoch);
    for (int32_t i = 0; i < w->workers; i++) qn_bell_ring(&w->bell[i]);
}

qn_status qni_world_check_lost(qn_world *w, qn_err *err)
{
    if (QN_LIKELY(atomic_load(&w->lost) != atomic_load(&w->epoch) + 1)) return QN_OK;
    const int32_t c = atomic_load(&w->lost_channel);
    return QN_FAIL(err, QN_EPEER, "a message from worker %d to worker %d was lost (channel %d)", w->channel[c].from,
                   w->channel[c].to, c);
}
