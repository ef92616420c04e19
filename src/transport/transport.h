/* The contract of all transports: it moves slots with tags between workers and reports peers lost. It knows no plan.
 *
 * A world has workers 0 .. W-1 and directed channels, each a bounded ring of slots (core/ring.h), depth 2 unless asked. A channel
 * delivers in put order, nothing lost, nothing twice; different channels may overtake each other. Should a message be lost all
 * the same, its channel delivers nothing more in that epoch and wait reports it as QN_EPEER. Every worker has a doorbell that
 * rings whenever one of its channels may have changed. All operations are non-blocking and allocate nothing; each worker index is
 * used by one thread at a time.
 *
 *   self     all workers on the calling thread (deterministic driver)
 *   thread   one thread per worker, shared memory
 *   sim      self plus seeded delays and reordering between channels under a simulated clock, and a peer that dies at a given
 * time */
#ifndef QN_TRANSPORT_H
#define QN_TRANSPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "core/ring.h"
#include "quern/status.h"

typedef struct qn_channel_desc {
    int32_t from, to; /* workers; may be equal */
    uint32_t depth;   /* slots, 1 .. QN_RING_MAX_DEPTH */
    size_t slot_bytes;
} qn_channel_desc;

typedef struct qn_sim_faults { /* for sim; zeros: none */
    uint64_t seed;
    int64_t max_delay;   /* ticks; each message gets a random delay in 0 .. max_delay. Publishing takes one tick */
    int32_t dead_worker; /* dies at dead_tick, counting from open */
    int64_t dead_tick;   /* 0: nobody dies */
} qn_sim_faults;

typedef struct qn_world_desc {
    int32_t workers, channels;
    const qn_channel_desc *channel;
    qn_sim_faults faults;
    int32_t spins; /* looks at a bell before wait sleeps, where a transport sleeps at all */
} qn_world_desc;

typedef struct qn_world qn_world; /* opaque, one per run */

typedef struct qn_transport {
    const char *name;
    bool threads; /* workers may be driven by different threads at once */
    /* Errors: QN_ENOMEM, QN_EINVAL (a worker out of range, a depth or size that does not fit). */
    qn_status (*open)(qn_world **out, const qn_world_desc *desc, qn_err *err);
    void (*close)(qn_world *w); /* accepts NULL; no call may be in progress */

    /* Producer (worker channel.from) and consumer (worker channel.to), as core/ring.h defines them. */
    qn_ring_result (*put_begin)(qn_world *w, int32_t channel, void **slot, uint64_t epoch);
    void (*put_publish)(qn_world *w, int32_t channel, qn_slot_tag tag);
    qn_ring_result (*get)(qn_world *w, int32_t channel, const void **slot, qn_slot_tag *tag, uint64_t epoch);
    void (*release)(qn_world *w, int32_t channel);

    /* The worker's doorbell: look, find nothing to do, wait for a change since. Returns QN_OK on a change or a timeout (-1:
     * none), QN_EPEER when a peer is lost (then the run must be given up or re-planned). On self and sim wait advances the
     * simulated clock and returns QN_ESTATE when nothing can ever change (a deadlock). */
    uint32_t (*look)(qn_world *w, int32_t worker);
    qn_status (*wait)(qn_world *w, int32_t worker, uint32_t seen, int64_t timeout_ns, qn_err *err);
    void (*ring)(qn_world *w, int32_t worker);

    /* Cancels every wait of older epochs; any thread. */
    void (*set_epoch)(qn_world *w, uint64_t epoch);
} qn_transport;

/* By name; NULL when there is none. names: NULL-terminated list. */
const qn_transport *qn_transport_find(const char *name);
const char *const *qn_transport_names(void);

#endif
