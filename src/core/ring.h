/* The slot ring: a bounded ring of equal slots between one producer and one consumer (design: idea 4).
 *
 *   put:  producer takes a free slot, fills it, publishes it       free -> filling -> full
 *   get:  consumer takes the oldest full slot, reads it in place   full -> reading
 *   release: consumer gives it back                                reading -> free
 *
 * One ring per (edge, direction). Slots are tagged with an epoch: a new epoch cancels all waits and drops what is inside.
 * The memory comes from the caller (a transport may have to register it) and holds no pointers, so it may be shared between
 * processes. All calls are non-blocking; who must wait rings through its own doorbell (core/bell.h). */
#ifndef QN_CORE_RING_H
#define QN_CORE_RING_H

#include <stdatomic.h>
#include <stdint.h>

#include "quern/status.h"
#include "compiler.h"

typedef struct qn_slot_tag {
    uint64_t epoch;
    uint64_t tag;   /* the message's name, chosen by the plan; unique among messages in flight */
    uint64_t bytes; /* payload really there, <= slot_bytes */
} qn_slot_tag;

enum { QN_RING_MAX_DEPTH = 8 };

typedef struct qn_ring {
    QN_ALIGNED(QN_CACHE_LINE) _Atomic uint64_t put;   /* slots published so far */
    QN_ALIGNED(QN_CACHE_LINE) _Atomic uint64_t taken; /* slots released so far */
    QN_ALIGNED(QN_CACHE_LINE) _Atomic uint64_t epoch;
    uint32_t depth;
    uint64_t slot_bytes;
    qn_slot_tag tag[QN_RING_MAX_DEPTH];
    /* depth * slot_bytes of payload follow, each slot aligned to a cache line */
} qn_ring;

typedef enum qn_ring_result { QN_RING_OK, QN_RING_WAIT, QN_RING_CANCELLED } qn_ring_result;

/* Bytes for header and slots; 0 on overflow or a depth outside 1..QN_RING_MAX_DEPTH. */
size_t qn_ring_bytes(uint32_t depth, size_t slot_bytes);
/* memory: qn_ring_bytes() bytes, 64-aligned, owned by the caller, who keeps it until both sides are done. */
qn_ring *qn_ring_init(void *memory, uint32_t depth, size_t slot_bytes);

/* Producer. begin: *slot is free memory of slot_bytes, or WAIT when all are in use, or CANCELLED when epoch is not the ring's.
 * publish hands it over. */
qn_ring_result qn_ring_put_begin(qn_ring *r, void **slot, uint64_t epoch);
void qn_ring_put_publish(qn_ring *r, qn_slot_tag tag);

/* Consumer. get: the oldest full slot and its tag, readable until release. Slots of an older epoch are dropped on the way. */
qn_ring_result qn_ring_get(qn_ring *r, const void **slot, qn_slot_tag *tag, uint64_t epoch);
void qn_ring_release(qn_ring *r);

/* Starts a new, larger epoch: both sides' calls with an older one return CANCELLED. Any thread. */
void qn_ring_set_epoch(qn_ring *r, uint64_t epoch);

#endif
