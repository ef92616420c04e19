/* The simulation transport: the loop-back rings under a simulated clock.
 *
 *   publish   takes one tick; the message is due a random number of ticks later, never before the one ahead of it in its channel,
 *             so that channels overtake each other while each stays in order
 *   get       gives a message only once it is due
 *   wait      nothing to do now: the clock jumps to the next due message, or to the death of the worker that is to die
 *
 * A dead worker neither sends nor receives any more; everybody's wait reports it. The delay of message n of channel c is a
 * function of (seed, c, n) alone, so one seed gives one course of events. */
#include "core/alloc.h"
#include "core/rng.h"
#include "transport/world.h"

static const int64_t MAX_DELAY = (int64_t)1 << 40;

typedef struct sim_state {
    qn_sim_faults faults;
    int64_t now;
    int64_t due[]; /* [channels][QN_RING_MAX_DEPTH], by slot */
} sim_state;

static sim_state *sim_of(qn_world *w)
{
    return w->extra;
}

static int64_t *due_of(qn_world *w, int32_t channel, uint64_t message)
{
    return &sim_of(w)->due[(size_t)channel * QN_RING_MAX_DEPTH + message % w->ring[channel]->depth];
}

static bool is_dead(qn_world *w, int32_t worker)
{
    const sim_state *s = sim_of(w);
    return s->faults.dead_tick > 0 && s->faults.dead_worker == worker && s->now >= s->faults.dead_tick;
}

static qn_status sim_open(qn_world **out, const qn_world_desc *desc, qn_err *err)
{
    *out = NULL;
    const qn_sim_faults *f = &desc->faults;
    if (f->max_delay < 0 || f->max_delay > MAX_DELAY || f->dead_tick < 0)
        return QN_FAIL(err, QN_EINVAL,
                       "the simulated delay is %lld and the time of death %lld; 0 to %lld and at least 0 are possible",
                       (long long)f->max_delay, (long long)f->dead_tick, (long long)MAX_DELAY);
    if (f->dead_tick > 0 && (f->dead_worker < 0 || f->dead_worker >= desc->workers))
        return QN_FAIL(err, QN_EINVAL, "worker %d is to die, but the workers are 0 to %d", f->dead_worker, desc->workers - 1);
    qn_world *w;
    const qn_status st = qni_world_open(&w, desc, err);
    if (st != QN_OK) return st;
    sim_state *s = qn_calloc(1, sizeof(*s) + (size_t)desc->channels * QN_RING_MAX_DEPTH * sizeof(int64_t));
    if (s == NULL) {
        qni_world_close(w);
        return QN_FAIL(err, QN_ENOMEM, "no memory for the simulation of %d channels", desc->channels);
    }
    s->faults = desc->faults;
    w->extra = s;
    *out = w;
    return QN_OK;
}

static qn_ring_result sim_put_begin(qn_world *w, int32_t channel, void **slot, uint64_t epoch)
{
    const qn_ring_result r = qni_world_put_begin(w, channel, slot, epoch);
    return r == QN_RING_OK && is_dead(w, w->channel[channel].from) ? QN_RING_WAIT : r;
}

static int64_t delay_of(const sim_state *s, int32_t channel, uint64_t message)
{
    const uint32_t counter[4] = {(uint32_t)message, (uint32_t)(message >> 32), (uint32_t)channel, 0x73696d};
    const uint32_t key[2] = {(uint32_t)s->faults.seed, (uint32_t)(s->faults.seed >> 32)};
    uint32_t word[4];
    qn_philox(word, counter, key);
    const uint64_t drawn = (uint64_t)word[1] << 32 | word[0];
    return (int64_t)(drawn % ((uint64_t)s->faults.max_delay + 1));
}

static void sim_put_publish(qn_world *w, int32_t channel, qn_slot_tag tag)
{
    sim_state *s = sim_of(w);
    const uint64_t message = atomic_load(&w->ring[channel]->put);
    s->now++;
    int64_t due = s->now + delay_of(s, channel, message);
    if (message > 0) {
        const int64_t ahead = *due_of(w, channel, message - 1);
        due = due < ahead ? ahead : due;
    }
    *due_of(w, channel, message) = due;
    qni_world_put_publish(w, channel, tag);
}

static qn_ring_result sim_get(qn_world *w, int32_t channel, const void **slot, qn_slot_tag *tag, uint64_t epoch)
{
    const qn_ring_result r = qni_world_get(w, channel, slot, tag, epoch);
    if (r != QN_RING_OK) return r;
    const uint64_t message = atomic_load(&w->ring[channel]->taken);
    return *due_of(w, channel, message) <= sim_of(w)->now && !is_dead(w, w->channel[channel].to) ? QN_RING_OK : QN_RING_WAIT;
}

/* The earliest time later than now at which a message of the present epoch arrives; INT64_MAX: none. */
static int64_t next_arrival(qn_world *w)
{
    const uint64_t epoch = atomic_load(&w->epoch);
    int64_t next = INT64_MAX;
    for (int32_t c = 0; c < w->channels; c++) {
        qn_ring *r = w->ring[c];
        const uint64_t put = atomic_load(&r->put);
        for (uint64_t m = atomic_load(&r->taken); m < put; m++) {
            const int64_t due = *due_of(w, c, m);
            if (r->tag[m % r->depth].epoch == epoch && due > sim_of(w)->now && due < next) next = due;
        }
    }
    return next;
}

static void ring_arrivals(qn_world *w)
{
    for (int32_t c = 0; c < w->channels; c++) {
        qn_ring *r = w->ring[c];
        const uint64_t put = atomic_load(&r->put);
        for (uint64_t m = atomic_load(&r->taken); m < put; m++)
            if (*due_of(w, c, m) == sim_of(w)->now) qn_bell_ring(&w->bell[w->channel[c].to]);
    }
}

static qn_status sim_wait(qn_world *w, int32_t worker, uint32_t seen, int64_t timeout_ns, qn_err *err)
{
    (void)timeout_ns;
    sim_state *s = sim_of(w);
    const qn_status st = qni_world_check_lost(w, err);
    if (st != QN_OK) return st;
    const bool death_ahead = s->faults.dead_tick > s->now;
    if (!death_ahead && s->faults.dead_tick > 0)
        return QN_FAIL(err, QN_EPEER, "worker %d died at tick %lld of the simulation", s->faults.dead_worker,
                       (long long)s->faults.dead_tick);
    if (qn_bell_look(&w->bell[worker]) != seen) return QN_OK;
    const int64_t next = next_arrival(w);
    if (next == INT64_MAX && !death_ahead)
        return QN_FAIL(err, QN_ESTATE, "worker %d waits for a message that nobody can send", worker);
    if (death_ahead && s->faults.dead_tick <= next) {
        s->now = s->faults.dead_tick;
        for (int32_t i = 0; i < w->workers; i++) qn_bell_ring(&w->bell[i]);
        return QN_OK;
    }
    s->now = next;
    ring_arrivals(w);
    return QN_OK;
}

const qn_transport qni_transport_sim = {
    .name = "sim",
    .threads = false,
    .open = sim_open,
    .close = qni_world_close,
    .put_begin = sim_put_begin,
    .put_publish = sim_put_publish,
    .get = sim_get,
    .release = qni_world_release,
    .look = qni_world_look,
    .wait = sim_wait,
    .ring = qni_world_ring,
    .set_epoch = qni_world_set_epoch,
};
