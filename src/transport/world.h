/* What the transports of one process share: the rings of all channels and the doorbells of all workers, in one block of memory.
 *
 *   channel c: ring[c], slots from worker channel[c].from to channel[c].to
 *   worker w:  bell[w], rung by a publish towards it, a release of one of its slots, a new epoch, a lost message
 *
 * A lost message (test hook QN_FAULT_MESSAGE) breaks its channel for the rest of the epoch: the producer finds no free slot any
 * more and both ends' waits report it. */
#ifndef QN_TRANSPORT_WORLD_H
#define QN_TRANSPORT_WORLD_H

#include "core/arena.h"
#include "core/bell.h"
#include "core/ring.h"
#include "transport.h"

struct qn_world {
    int32_t workers, channels, spins;
    qn_channel_desc *channel; /* [channels] */
    qn_ring **ring;           /* [channels] */
    qn_bell *bell;            /* [workers] */
    uint64_t *broken;         /* [channels] epoch + 1 of the last loss, 0: none; the producer's alone */
    _Atomic uint64_t epoch;
    _Atomic uint64_t lost; /* epoch + 1 of the last loss in any channel, 0: none */
    _Atomic int32_t lost_channel;
    qn_arena memory;
    void *extra; /* the sim transport's own state */
};

/* Errors: QN_EINVAL (which channel, what is wrong), QN_ENOMEM. */
qn_status qni_world_open(qn_world **out, const qn_world_desc *desc, qn_err *err) QN_MUST_USE;
void qni_world_close(qn_world *w); /* accepts NULL */

/* The operations of transport.h as the rings have them, ringing the other side's bell. */
qn_ring_result qni_world_put_begin(qn_world *w, int32_t channel, void **slot, uint64_t epoch);
void qni_world_put_publish(qn_world *w, int32_t channel, qn_slot_tag tag);
qn_ring_result qni_world_get(qn_world *w, int32_t channel, const void **slot, qn_slot_tag *tag, uint64_t epoch);
void qni_world_release(qn_world *w, int32_t channel);
uint32_t qni_world_look(qn_world *w, int32_t worker);
void qni_world_ring(qn_world *w, int32_t worker);
void qni_world_set_epoch(qn_world *w, uint64_t epoch);

/* QN_EPEER when a message of the current epoch was lost. */
qn_status qni_world_check_lost(qn_world *w, qn_err *err) QN_MUST_USE;

/* The transports, one symbol per folder. */
extern const qn_transport qni_transport_self, qni_transport_thread, qni_transport_sim;

#endif
