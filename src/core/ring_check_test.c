/* The slot ring under every interleaving and every admissible value of every load: ring.c is compiled once more, over the model
 * of interleave_check.h. A producer puts messages, a consumer gets them, and in some cases a third thread starts a new epoch at
 * any moment. Planted faults show that the checker would find what it looks for. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#define qn_ring_bytes       checked_ring_bytes
#define qn_ring_init        checked_ring_init
#define qn_ring_put_begin   checked_ring_put_begin
#define qn_ring_put_publish checked_ring_put_publish
#define qn_ring_get         checked_ring_get
#define qn_ring_release     checked_ring_release
#define qn_ring_set_epoch   checked_ring_set_epoch

#include "ring.h"
#include "interleave_check.h"

enum { PUT, TAKEN, EPOCH, SLOT_BYTES = 8, MOST = 8 };

static qn_ring *ring;
static int ring_loc(const void *p);
static uint64_t ring_tag_load(const qn_slot_tag *p, qn_slot_tag *out);
static void ring_tag_store(const qn_slot_tag *p, qn_slot_tag tag);
static uint64_t larger(uint64_t old, uint64_t x)
{
    return old > x ? old : x;
}
static qn_slot_tag tag_at(const qn_slot_tag *p)
{
    qn_slot_tag tag;
    (void)ring_tag_load(p, &tag);
    return tag;
}

#define RING_LOAD(p, order)         mc_load(ring_loc(p), MC_##order)
#define RING_STORE(p, value, order) mc_store(ring_loc(p), value, MC_##order)
#define RING_MAX(p, value)          ((void)mc_exchange(ring_loc(p), larger, value, MC_acq_rel))
#define RING_TAG_LOAD(p)            tag_at(p)
#define RING_TAG_STORE(p, value)    ring_tag_store(p, value)
#include "ring.c"

/* Data 0 .. depth - 1 of the model are the tags, depth .. 2 * depth - 1 the slots. */
static int ring_loc(const void *p)
{
    return p == (const void *)&ring->put ? PUT : p == (const void *)&ring->taken ? TAKEN : EPOCH;
}

static uint64_t ring_tag_load(const qn_slot_tag *p, qn_slot_tag *out)
{
    const uint64_t packed = mc_data_read((int)(p - ring->tag));
    *out = (qn_slot_tag){.epoch = packed >> 16, .tag = packed >> 8 & 0xff, .bytes = packed & 0xff};
    return packed;
}

static void ring_tag_store(const qn_slot_tag *p, qn_slot_tag tag)
{
    mc_data_write((int)(p - ring->tag), tag.epoch << 16 | tag.tag << 8 | tag.bytes);
}

static int slot_data(const void *slot)
{
    const size_t at = (size_t)((const char *)slot - (const char *)(ring + 1));
    return (int)(ring->depth + at / QN_CACHE_LINE);
}

/* What the threads do: messages of each epoch; with epochs == 2 the sides go over to epoch 1 when they are cancelled or done. */
static struct {
    uint32_t depth;
    int epochs, messages[2];
} plan;

static struct {
    int count[2];
    qn_slot_tag tag[2][MOST];
    uint64_t payload[2][MOST];
    int sent[2];
} result;

static uint64_t payload_of(int epoch, int message)
{
    return (uint64_t)(100 * (epoch + 1) + message);
}

static void producer(int self)
{
    (void)self;
    result.sent[0] = result.sent[1] = 0;
    for (int e = 0; e < plan.epochs; e++) {
        for (int m = 0; m < plan.messages[e];) {
            void *slot;
            mc_mark();
            const qn_ring_result r = qn_ring_put_begin(ring, &slot, (uint64_t)e);
            if (r == QN_RING_CANCELLED && e + 1 < plan.epochs) break;
            if (r != QN_RING_OK) mc_retry(); /* full, or the new epoch has not come yet */
            mc_data_write(slot_data(slot), payload_of(e, m));
            qn_ring_put_publish(ring, (qn_slot_tag){.epoch = (uint64_t)e, .tag = (uint64_t)m, .bytes = SLOT_BYTES});
            result.sent[e] = ++m;
        }
    }
}

static void consumer(int self)
{
    (void)self;
    result.count[0] = result.count[1] = 0;
    for (int e = 0; e < plan.epochs; e++) {
        for (int m = 0; m < plan.messages[e];) {
            const void *slot;
            qn_slot_tag tag;
            mc_mark();
            const qn_ring_result r = qn_ring_get(ring, &slot, &tag, (uint64_t)e);
            if (r == QN_RING_CANCELLED && e + 1 < plan.epochs) break;
            if (r != QN_RING_OK) mc_retry();
            result.tag[e][m] = tag;
            result.payload[e][m] = mc_data_read(slot_data(slot));
            qn_ring_release(ring);
            result.count[e] = ++m;
        }
    }
}

static void changer(int self)
{
    (void)self;
    qn_ring_set_epoch(ring, 1);
}

static const char *check_result(void)
{
    const int last = plan.epochs - 1;
    if (result.count[last] != plan.messages[last] || result.sent[last] != plan.messages[last]) return "a message was lost";
    for (int e = 0; e < plan.epochs; e++) {
        if (result.count[e] > result.sent[e]) return "a message came that was not sent";
        for (int m = 0; m < result.count[e]; m++) {
            if (result.tag[e][m].epoch != (uint64_t)e) return "a message of another epoch came through";
            if (result.tag[e][m].tag != (uint64_t)m) return "messages came out of order, twice, or not at all";
            if (result.payload[e][m] != payload_of(e, m)) return "a slot was overwritten before it was read";
        }
    }
    return NULL;
}

static const char *run(uint32_t depth, int epochs, int first, int second)
{
    static QN_ALIGNED(QN_CACHE_LINE) char memory[sizeof(qn_ring) + QN_RING_MAX_DEPTH * QN_CACHE_LINE];
    char name[96];
    assert_true(qn_ring_bytes(depth, SLOT_BYTES) <= sizeof(memory));
    ring = qn_ring_init(memory, depth, SLOT_BYTES);
    plan.depth = depth;
    plan.epochs = epochs;
    plan.messages[0] = first;
    plan.messages[1] = second;
    mc_case.threads = epochs == 2 ? 3 : 2;
    mc_case.program[0] = producer;
    mc_case.program[1] = consumer;
    mc_case.program[2] = changer;
    mc_case.check = check_result;
    snprintf(name, sizeof(name), "ring depth %u, %d messages%s", depth, first, epochs == 2 ? ", epoch change, " : "");
    if (epochs == 2) snprintf(name + strlen(name), sizeof(name) - strlen(name), "%d more", second);
    return mc_check(name, (const uint64_t[MC_LOCS]){0});
}

static void every_interleaving_without_epochs(void **state)
{
    (void)state;
    mc_case.order_of = NULL;
    for (uint32_t depth = 1; depth <= 3; depth++) {
        for (int n = 1; n <= 4; n++) {
            const char *wrong = run(depth, 1, n, 0);
            if (wrong != NULL) fail_msg("depth %u, %d messages: %s", depth, n, wrong);
        }
    }
}

static void every_interleaving_with_an_epoch_change(void **state)
{
    (void)state;
    mc_case.order_of = NULL;
    for (uint32_t depth = 1; depth <= 3; depth++) {
        for (int first = 0; first <= 3; first++) {
            for (int second = 1; second <= 2; second++) {
                const char *wrong = run(depth, 2, first, second);
                if (wrong != NULL) fail_msg("depth %u, %d + %d messages: %s", depth, first, second, wrong);
            }
        }
    }
}

/* Planted faults: each makes one access relaxed, and each must be found. */
static int weak_loc;
static bool weak_store;
static mc_order weaken(int loc, bool is_store, mc_order order)
{
    return loc == weak_loc && is_store == weak_store ? MC_relaxed : order;
}

static void planted_faults_are_found(void **state)
{
    (void)state;
    mc_case.order_of = weaken;
    for (int loc = PUT; loc <= TAKEN; loc++) {
        for (int is_store = 0; is_store <= 1; is_store++) {
            weak_loc = loc;
            weak_store = is_store != 0;
            const char *wrong = run(2, 1, 3, 0);
            if (wrong == NULL)
                fail_msg("a relaxed %s of %s went unnoticed", is_store ? "store" : "load", loc == PUT ? "put" : "taken");
            printf("planted: relaxed %s of %s: found: %s\n", is_store ? "store" : "load", loc == PUT ? "put" : "taken", wrong);
        }
    }
    mc_case.order_of = NULL;
}

/* A ring that believes in one slot more than it has. */
static void overfull(int self)
{
    (void)self;
    for (int m = 0; m < plan.messages[0]; m++) {
        mc_mark();
        if (mc_load(PUT, MC_relaxed) - mc_load(TAKEN, MC_acquire) > plan.depth) mc_retry();
        mc_data_write((int)(plan.depth + (uint32_t)m % plan.depth), payload_of(0, m));
        qn_ring_put_publish(ring, (qn_slot_tag){.tag = (uint64_t)m, .bytes = SLOT_BYTES});
        result.sent[0] = m + 1;
    }
}

static void a_full_ring_that_is_written_is_found(void **state)
{
    (void)state;
    (void)run(1, 1, 1, 0);
    plan.messages[0] = 3;
    mc_case.program[0] = overfull;
    const char *wrong = mc_check("overfull", (const uint64_t[MC_LOCS]){0});
    if (wrong == NULL) fail_msg("an overfull ring went unnoticed");
    printf("planted: one slot too many: found: %s\n", wrong);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_interleaving_without_epochs),
        cmocka_unit_test(every_interleaving_with_an_epoch_change),
        cmocka_unit_test(planted_faults_are_found),
        cmocka_unit_test(a_full_ring_that_is_written_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
