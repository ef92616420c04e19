/* The slot ring, a bounded single-producer single-consumer queue with epochs.
 *
 *   slot i of message n is n modulo depth          taken <= put <= taken + depth
 *   the producer owns slots put .. taken + depth - 1, the consumer owns slots taken .. put - 1
 *   put is written by the producer alone, taken by the consumer alone: each hands slots over with a release store that the
 *   other side reads with an acquire load; epoch only grows
 *
 * A side that sees a newer epoch than its own stops; it owns nothing of the ring by then but a slot that it may hold since a
 * successful get, which it still releases. Messages of older epochs stay in the ring until the consumer passes them.
 *
 * The accesses go through macros because the test compiles this file once more over a model of the memory and runs every
 * interleaving (and every value that a load may see) of the two sides and an epoch change. */
#include "ring.h"

#include "checked.h"

#ifndef RING_LOAD
#define RING_LOAD(p, order)         atomic_load_explicit(p, memory_order_##order)
#define RING_STORE(p, value, order) atomic_store_explicit(p, value, memory_order_##order)
#define RING_MAX(p, value)          fetch_max(p, value)
#define RING_TAG_LOAD(p)            (*(p))
#define RING_TAG_STORE(p, value)    ((void)(*(p) = (value)))

static void fetch_max(_Atomic uint64_t *p, uint64_t value)
{
    uint64_t now = atomic_load_explicit(p, memory_order_relaxed);
    while (now < value && !atomic_compare_exchange_weak_explicit(p, &now, value, memory_order_acq_rel, memory_order_relaxed)) {}
}
#endif

/* Bytes between the starts of two slots; false on overflow. */
static bool slot_stride(size_t *out, size_t slot_bytes)
{
    return qn_align_size(out, slot_bytes, QN_CACHE_LINE);
}

size_t qn_ring_bytes(uint32_t depth, size_t slot_bytes)
{
    size_t stride, slots, all;
    if (depth < 1 || depth > QN_RING_MAX_DEPTH || !slot_stride(&stride, slot_bytes) || !qn_mul_size(&slots, stride, depth) ||
        !qn_add_size(&all, slots, sizeof(qn_ring)))
        return 0;
    return all;
}

qn_ring *qn_ring_init(void *memory, uint32_t depth, size_t slot_bytes)
{
    qn_ring *r = memory;
    QN_ASSERT(qn_ring_bytes(depth, slot_bytes) != 0 && (uintptr_t)memory % QN_CACHE_LINE == 0);
    atomic_init(&r->put, 0);
    atomic_init(&r->taken, 0);
    atomic_init(&r->epoch, 0);
    r->depth = depth;
    r->slot_bytes = slot_bytes;
    for (uint32_t i = 0; i < QN_RING_MAX_DEPTH; i++) r->tag[i] = (qn_slot_tag){0};
    return r;
}

static void *slot_of(qn_ring *r, uint64_t message)
{
    size_t stride = 0;
    QN_ASSERT(slot_stride(&stride, r->slot_bytes));
    return (char *)(r + 1) + stride * (size_t)(message % r->depth);
}

qn_ring_result qn_ring_put_begin(qn_ring *r, void **slot, uint64_t epoch)
{
    if (RING_LOAD(&r->epoch, acquire) != epoch) return QN_RING_CANCELLED;
    const uint64_t put = RING_LOAD(&r->put, relaxed); /* the producer's own */
    if (put - RING_LOAD(&r->taken, acquire) >= r->depth) return QN_RING_WAIT;
    *slot = slot_of(r, put);
    return QN_RING_OK;
}

void qn_ring_put_publish(qn_ring *r, qn_slot_tag tag)
{
    QN_ASSERT(tag.bytes <= r->slot_bytes);
    const uint64_t put = RING_LOAD(&r->put, relaxed);
    RING_TAG_STORE(&r->tag[put % r->depth], tag);
    RING_STORE(&r->put, put + 1, release);
}

qn_ring_result qn_ring_get(qn_ring *r, const void **slot, qn_slot_tag *tag, uint64_t epoch)
{
    if (RING_LOAD(&r->epoch, acquire) != epoch) return QN_RING_CANCELLED;
    uint64_t taken = RING_LOAD(&r->taken, relaxed); /* the consumer's own */
    const uint64_t put = RING_LOAD(&r->put, acquire);
    for (; taken != put; RING_STORE(&r->taken, ++taken, release)) {
        const qn_slot_tag found = RING_TAG_LOAD(&r->tag[taken % r->depth]);
        if (found.epoch > epoch) return QN_RING_CANCELLED; /* the producer is ahead: the epoch has changed meanwhile */
        if (found.epoch < epoch) continue;                 /* sent before the epoch changed: dropped */
        *tag = found;
        *slot = slot_of(r, taken);
        return QN_RING_OK;
    }
    return QN_RING_WAIT;
}

void qn_ring_release(qn_ring *r)
{
    const uint64_t taken = RING_LOAD(&r->taken, relaxed);
    RING_STORE(&r->taken, taken + 1, release);
}

void qn_ring_set_epoch(qn_ring *r, uint64_t epoch)
{
    RING_MAX(&r->epoch, epoch);
}
