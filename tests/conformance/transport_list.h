/* What every transport must do (src/transport/transport.h): one list of tests over any qn_transport. Include it in a cmocka test
 * and call qn_conform_transport for each transport.
 *
 * A transport that threads may drive is also run with a thread per worker. All waiting goes through wait, so a transport with a
 * clock of its own moves it. */
#ifndef QN_CONFORMANCE_TRANSPORT_LIST_H
#define QN_CONFORMANCE_TRANSPORT_LIST_H

#include <pthread.h>
#include <string.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "transport/transport.h"

enum { CONFORM_PATIENCE = 10000 };

typedef struct conform {
    const qn_transport *t;
    qn_world *w;
    uint64_t seed;
} conform;

static conform conform_open(const qn_transport *t, int32_t workers, int32_t channels, const qn_channel_desc *channel,
                            uint64_t seed)
{
    conform c = {.t = t, .seed = seed};
    qn_err err;
    const qn_world_desc desc = {.workers = workers,
                                .channels = channels,
                                .channel = channel,
                                .spins = (int32_t)(seed % 3 * 50),
                                .faults = {.seed = seed, .max_delay = (int64_t)(seed % 4) * 10}};
    if (t->open(&c.w, &desc, &err) != QN_OK) fail_msg("%s: %s", t->name, err.text);
    return c;
}

static unsigned char conform_byte(uint64_t tag, size_t i)
{
    return (unsigned char)((tag * 2654435761u + i * 40503u) >> 7);
}

/* Puts one message; false when the ring is full. */
static bool conform_put(const conform *c, int32_t channel, uint64_t epoch, uint64_t tag, size_t bytes)
{
    void *slot;
    const qn_ring_result r = c->t->put_begin(c->w, channel, &slot, epoch);
    if (r == QN_RING_WAIT) return false;
    assert_int_equal(r, QN_RING_OK);
    for (size_t i = 0; i < bytes; i++) ((unsigned char *)slot)[i] = conform_byte(tag, i);
    c->t->put_publish(c->w, channel, (qn_slot_tag){.epoch = epoch, .tag = tag, .bytes = bytes});
    return true;
}

static void conform_check(const void *slot, const qn_slot_tag *found, uint64_t epoch, uint64_t tag, size_t bytes)
{
    assert_int_equal(found->epoch, epoch);
    assert_int_equal(found->tag, tag);
    assert_int_equal(found->bytes, bytes);
    for (size_t i = 0; i < bytes; i++) assert_int_equal(((const unsigned char *)slot)[i], conform_byte(tag, i));
}

/* Gets one message, waiting for it, and checks it. */
static void conform_get(const conform *c, int32_t channel, int32_t to, uint64_t epoch, uint64_t tag, size_t bytes)
{
    qn_err err;
    for (int tries = 0; tries < CONFORM_PATIENCE; tries++) {
        const void *slot;
        qn_slot_tag found;
        const uint32_t seen = c->t->look(c->w, to);
        const qn_ring_result r = c->t->get(c->w, channel, &slot, &found, epoch);
        if (r == QN_RING_OK) {
            conform_check(slot, &found, epoch, tag, bytes);
            c->t->release(c->w, channel);
            return;
        }
        assert_int_equal(r, QN_RING_WAIT);
        if (c->t->wait(c->w, to, seen, -1, &err) != QN_OK) fail_msg("%s: %s", c->t->name, err.text);
    }
    fail_msg("%s: message %llu never came", c->t->name, (unsigned long long)tag);
}

static bool conform_empty(const conform *c, int32_t channel, uint64_t epoch)
{
    const void *slot;
    qn_slot_tag tag;
    return c->t->get(c->w, channel, &slot, &tag, epoch) == QN_RING_WAIT;
}

/* --- the list */

/* Order, tags, contents, and the depth: exactly depth puts fit, one more fits after each release. */
static void conform_order_and_depth(const qn_transport *t, uint64_t seed)
{
    for (uint32_t depth = 1; depth <= QN_RING_MAX_DEPTH; depth++) {
        const qn_channel_desc ch = {.from = 0, .to = 1, .depth = depth, .slot_bytes = 24};
        conform c = conform_open(t, 2, 1, &ch, seed);
        uint64_t put = 0, got = 0;
        for (int lap = 0; lap < 3; lap++) {
            while (conform_put(&c, 0, 0, put, put % 25)) put++;
            assert_int_equal(put - got, depth);
            for (uint32_t i = 0; i < depth; i++) {
                conform_get(&c, 0, 1, 0, got, got % 25);
                got++;
                assert_true(conform_put(&c, 0, 0, put, put % 25));
                put++;
                assert_false(conform_put(&c, 0, 0, put, put % 25));
            }
        }
        t->close(c.w);
    }
}

/* A new epoch stops both sides of the old one and drops what is inside; the new one starts with all slots free once they are
 * passed. */
static void conform_epoch(const qn_transport *t, uint64_t seed)
{
    const qn_channel_desc ch = {.from = 0, .to = 1, .depth = 2, .slot_bytes = 8};
    conform c = conform_open(t, 2, 1, &ch, seed);
    for (uint64_t epoch = 1; epoch < 6; epoch++) {
        void *in;
        const void *out;
        qn_slot_tag tag;
        t->set_epoch(c.w, epoch);
        assert_int_equal(t->put_begin(c.w, 0, &in, epoch - 1), QN_RING_CANCELLED);
        assert_int_equal(t->get(c.w, 0, &out, &tag, epoch - 1), QN_RING_CANCELLED);
        assert_true(conform_empty(&c, 0, epoch));
        for (uint64_t i = 0; i < 1 + epoch % 2; i++) assert_true(conform_put(&c, 0, epoch, i, 8));
        if (epoch % 2 == 1) conform_get(&c, 0, 1, epoch, 0, 8);
    }
    t->set_epoch(c.w, 3); /* epochs only grow */
    assert_true(conform_put(&c, 0, 5, 7, 8));
    t->close(c.w);
}

/* A doorbell rings at its worker for: a publish, a release, a new epoch, a ring. A wait with an old look returns at once. */
static void conform_bells(const qn_transport *t, uint64_t seed)
{
    const qn_channel_desc ch = {.from = 0, .to = 1, .depth = 1, .slot_bytes = 8};
    conform c = conform_open(t, 2, 1, &ch, seed);
    uint32_t seen = t->look(c.w, 1);
    assert_true(conform_put(&c, 0, 0, 1, 8));
    assert_int_equal(t->wait(c.w, 1, seen, -1, NULL), QN_OK);
    seen = t->look(c.w, 0);
    conform_get(&c, 0, 1, 0, 1, 8);
    assert_int_equal(t->wait(c.w, 0, seen, -1, NULL), QN_OK);
    assert_int_not_equal(t->look(c.w, 0), seen);
    for (int32_t w = 0; w < 2; w++) {
        seen = t->look(c.w, w);
        t->ring(c.w, w);
        assert_int_equal(t->wait(c.w, w, seen, -1, NULL), QN_OK);
        seen = t->look(c.w, w);
        t->set_epoch(c.w, 1 + (uint64_t)w);
        assert_int_equal(t->wait(c.w, w, seen, -1, NULL), QN_OK);
    }
    t->close(c.w);
}

/* Zero bytes, the whole slot, slots of zero bytes; both directions between two workers; two channels with one pair of ends; a
 * channel from a worker to itself. */
static void conform_sizes_and_directions(const qn_transport *t, uint64_t seed)
{
    enum { BIG = 1 << 16 };
    const qn_channel_desc ch[] = {{.from = 0, .to = 1, .depth = 2, .slot_bytes = BIG},
                                  {.from = 1, .to = 0, .depth = 2, .slot_bytes = 0},
                                  {.from = 0, .to = 1, .depth = 1, .slot_bytes = 1},
                                  {.from = 1, .to = 1, .depth = 2, .slot_bytes = 64}};
    conform c = conform_open(t, 2, 4, ch, seed);
    for (uint64_t lap = 0; lap < 4; lap++) {
        assert_true(conform_put(&c, 0, 0, lap, lap % 2 == 0 ? BIG : 0));
        assert_true(conform_put(&c, 1, 0, UINT64_MAX - lap, 0));
        assert_true(conform_put(&c, 2, 0, lap, 1));
        assert_true(conform_put(&c, 3, 0, lap, 63));
        conform_get(&c, 3, 1, 0, lap, 63);
        conform_get(&c, 2, 1, 0, lap, 1);
        conform_get(&c, 1, 0, 0, UINT64_MAX - lap, 0);
        conform_get(&c, 0, 1, 0, lap, lap % 2 == 0 ? BIG : 0);
    }
    t->close(c.w);
}

static void conform_close_full(const qn_transport *t, uint64_t seed)
{
    const qn_channel_desc ch = {.from = 0, .to = 1, .depth = 2, .slot_bytes = 8};
    conform c = conform_open(t, 2, 1, &ch, seed);
    while (conform_put(&c, 0, 0, 1, 8)) {}
    t->close(c.w);
    t->close(NULL);
}

/* What cannot be opened is refused with a sentence. */
static void conform_refusals(const qn_transport *t)
{
    static const qn_channel_desc BAD[] = {{.from = 2, .to = 0, .depth = 1, .slot_bytes = 8},
                                          {.from = 0, .to = -1, .depth = 1, .slot_bytes = 8},
                                          {.from = 0, .to = 1, .depth = 0, .slot_bytes = 8},
                                          {.from = 0, .to = 1, .depth = QN_RING_MAX_DEPTH + 1, .slot_bytes = 8},
                                          {.from = 0, .to = 1, .depth = 2, .slot_bytes = SIZE_MAX / 2}};
    for (size_t i = 0; i < sizeof(BAD) / sizeof(BAD[0]); i++) {
        qn_err err = {0};
        qn_world *w = NULL;
        const qn_world_desc desc = {.workers = 2, .channels = 1, .channel = &BAD[i]};
        assert_int_equal(t->open(&w, &desc, &err), QN_EINVAL);
        assert_null(w);
        assert_true(strlen(err.text) > 10);
    }
    const qn_world_desc none = {.workers = 0};
    qn_world *w = NULL;
    assert_int_equal(t->open(&w, &none, NULL), QN_EINVAL);
}

/* The n-th message is lost, for every n: the messages before it come, nothing after it does, and the receiver's wait says so; the
 * next epoch is whole again. */
static void conform_lost_message(const qn_transport *t, uint64_t seed)
{
    enum { MESSAGES = 5 };
    for (long n = 1; n <= MESSAGES; n++) {
        const qn_channel_desc ch = {.from = 0, .to = 1, .depth = 1, .slot_bytes = 8};
        conform c = conform_open(t, 2, 1, &ch, seed);
        t->set_epoch(c.w, 1);
        qni_fault_arm(QN_FAULT_MESSAGE, n);
        for (uint64_t i = 1; i < (uint64_t)n; i++) {
            assert_true(conform_put(&c, 0, 1, i, 8));
            conform_get(&c, 0, 1, 1, i, 8);
        }
        const uint32_t seen = t->look(c.w, 1);
        assert_true(conform_put(&c, 0, 1, (uint64_t)n, 8));
        assert_false(conform_put(&c, 0, 1, (uint64_t)n + 1, 8));
        assert_true(conform_empty(&c, 0, 1));
        qn_err err = {0};
        assert_int_equal(t->wait(c.w, 1, seen, -1, &err), QN_EPEER);
        assert_non_null(strstr(err.text, "lost"));
        t->set_epoch(c.w, 2);
        assert_true(conform_put(&c, 0, 2, 9, 8));
        conform_get(&c, 0, 1, 2, 9, 8);
        t->close(c.w);
    }
    qni_fault_arm(QN_FAULT_MESSAGE, 0);
}

/* --- many messages of random sizes between all pairs of workers */

enum { CONFORM_WORKERS = 3, CONFORM_MANY = 400, CONFORM_SLOT = 96 };

typedef struct conform_peer {
    conform *c;
    const qn_channel_desc *channel;
    int32_t worker, channels;
    uint64_t put[CONFORM_WORKERS * CONFORM_WORKERS], got[CONFORM_WORKERS * CONFORM_WORKERS];
    const char *wrong; /* threads may not call cmocka */
} conform_peer;

static size_t conform_size(uint64_t seed, int32_t channel, uint64_t message)
{
    qn_rng r = qn_rng_of((qn_rng_key){.seed = seed, .step = (uint32_t)message, .sample = (uint32_t)channel});
    return (size_t)qn_rng_below(&r, CONFORM_SLOT + 1);
}

static bool conform_peer_put(conform_peer *p, int32_t ch)
{
    void *slot;
    const uint64_t n = p->put[ch];
    if (n == CONFORM_MANY || p->c->t->put_begin(p->c->w, ch, &slot, 0) != QN_RING_OK) return false;
    const size_t bytes = conform_size(p->c->seed, ch, n);
    for (size_t i = 0; i < bytes; i++) ((unsigned char *)slot)[i] = conform_byte(n + (uint64_t)ch, i);
    p->c->t->put_publish(p->c->w, ch, (qn_slot_tag){.tag = n, .bytes = bytes});
    p->put[ch]++;
    return true;
}

static bool conform_peer_get(conform_peer *p, int32_t ch)
{
    const void *slot;
    qn_slot_tag tag;
    const uint64_t n = p->got[ch];
    if (n == CONFORM_MANY || p->c->t->get(p->c->w, ch, &slot, &tag, 0) != QN_RING_OK) return false;
    if (tag.tag != n || tag.bytes != conform_size(p->c->seed, ch, n)) p->wrong = "a tag or a size";
    for (size_t i = 0; i < tag.bytes; i++)
        if (((const unsigned char *)slot)[i] != conform_byte(n + (uint64_t)ch, i)) p->wrong = "a byte";
    p->c->t->release(p->c->w, ch);
    p->got[ch]++;
    return true;
}

/* Moves what can be moved; *finished when all of the worker's messages are through. */
static bool conform_peer_round(conform_peer *p, bool *finished)
{
    bool moved = false;
    *finished = true;
    for (int32_t ch = 0; ch < p->channels; ch++) {
        if (p->channel[ch].from == p->worker) {
            moved |= conform_peer_put(p, ch);
            *finished &= p->put[ch] == CONFORM_MANY;
        }
        if (p->channel[ch].to == p->worker) {
            moved |= conform_peer_get(p, ch);
            *finished &= p->got[ch] == CONFORM_MANY;
        }
    }
    return moved;
}

static void *conform_peer_main(void *arg)
{
    conform_peer *p = arg;
    for (bool finished = false; p->wrong == NULL;) {
        const uint32_t seen = p->c->t->look(p->c->w, p->worker);
        if (conform_peer_round(p, &finished)) continue;
        if (finished) return NULL;
        if (p->c->t->wait(p->c->w, p->worker, seen, -1, NULL) != QN_OK) p->wrong = "wait failed";
    }
    return NULL;
}

static void conform_loop(conform_peer *peer)
{
    for (;;) {
        bool moved = false, all = true;
        const uint32_t seen = peer[0].c->t->look(peer[0].c->w, 0);
        for (int32_t i = 0; i < CONFORM_WORKERS; i++) {
            bool finished;
            moved |= conform_peer_round(&peer[i], &finished);
            all &= finished;
        }
        if (all) return;
        if (!moved) assert_int_equal(peer[0].c->t->wait(peer[0].c->w, 0, seen, -1, NULL), QN_OK);
    }
}

static void conform_many(const qn_transport *t, uint64_t seed, bool threads)
{
    qn_channel_desc ch[CONFORM_WORKERS * CONFORM_WORKERS];
    conform_peer peer[CONFORM_WORKERS] = {{0}};
    int32_t n = 0;
    for (int32_t a = 0; a < CONFORM_WORKERS; a++)
        for (int32_t b = 0; b < CONFORM_WORKERS; b++, n++)
            ch[n] = (qn_channel_desc){
                .from = a, .to = b, .depth = 1 + (uint32_t)(seed + (uint64_t)n) % 3, .slot_bytes = CONFORM_SLOT};
    conform c = conform_open(t, CONFORM_WORKERS, n, ch, seed);
    for (int32_t i = 0; i < CONFORM_WORKERS; i++) peer[i] = (conform_peer){.c = &c, .channel = ch, .worker = i, .channels = n};
    if (threads) {
        pthread_t thread[CONFORM_WORKERS];
        for (int32_t i = 0; i < CONFORM_WORKERS; i++)
            assert_int_equal(pthread_create(&thread[i], NULL, conform_peer_main, &peer[i]), 0);
        for (int32_t i = 0; i < CONFORM_WORKERS; i++) pthread_join(thread[i], NULL);
    } else {
        conform_loop(peer);
    }
    for (int32_t i = 0; i < CONFORM_WORKERS; i++)
        if (peer[i].wrong != NULL) fail_msg("%s, seed %llu: %s is wrong", t->name, (unsigned long long)seed, peer[i].wrong);
    t->close(c.w);
}

static void qn_conform_transport(const qn_transport *t)
{
    conform_refusals(t);
    for (uint64_t seed = 0; seed < 6; seed++) {
        conform_order_and_depth(t, seed);
        conform_epoch(t, seed);
        conform_bells(t, seed);
        conform_sizes_and_directions(t, seed);
        conform_close_full(t, seed);
        conform_lost_message(t, seed);
        conform_many(t, seed, false);
        if (t->threads) conform_many(t, seed, true);
    }
}

#endif
