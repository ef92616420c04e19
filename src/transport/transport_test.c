/* The conformance list over every registered transport, and what only the simulation has. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "conformance/transport_list.h"
#include "core/compiler.h"

static void every_transport_conforms(void **state)
{
    (void)state;
    int32_t n = 0;
    for (const char *const *name = qn_transport_names(); *name != NULL; name++, n++) {
        print_message("transport %s\n", *name);
        const qn_transport *t = qn_transport_find(*name);
        assert_non_null(t);
        assert_string_equal(t->name, *name);
        qn_conform_transport(t);
    }
    assert_true(n >= 3);
    assert_null(qn_transport_find("pigeon"));
}

/* Two senders, one receiver: writes the order in which messages arrive as a string of channel numbers. */
static void arrivals(char *out, size_t cap, uint64_t seed)
{
    const qn_channel_desc ch[] = {{.from = 0, .to = 2, .depth = 4, .slot_bytes = 8},
                                  {.from = 1, .to = 2, .depth = 4, .slot_bytes = 8}};
    const qn_transport *t = qn_transport_find("sim");
    const qn_world_desc desc = {.workers = 3, .channels = 2, .channel = ch, .faults = {.seed = seed, .max_delay = 20}};
    conform c = {.t = t};
    assert_int_equal(t->open(&c.w, &desc, NULL), QN_OK);
    for (uint64_t i = 0; i < 4; i++) {
        assert_true(conform_put(&c, 0, 0, i, 8));
        assert_true(conform_put(&c, 1, 0, i, 8));
    }
    uint64_t next[2] = {0};
    for (size_t n = 0; n + 1 < cap && next[0] + next[1] < 8;) {
        const uint32_t seen = t->look(c.w, 2);
        bool moved = false;
        for (int32_t k = 0; k < 2; k++) {
            const void *slot;
            qn_slot_tag tag;
            if (t->get(c.w, k, &slot, &tag, 0) != QN_RING_OK) continue;
            assert_int_equal(tag.tag, next[k]++); /* in order inside a channel */
            t->release(c.w, k);
            out[n++] = (char)('0' + k);
            moved = true;
        }
        out[n] = 0;
        if (!moved) assert_int_equal(t->wait(c.w, 2, seen, -1, NULL), QN_OK);
    }
    t->close(c.w);
}

static void sim_overtakes_and_repeats(void **state)
{
    (void)state;
    int32_t different = 0, overtaken = 0;
    char first[16], again[16], other[16];
    for (uint64_t seed = 0; seed < 50; seed++) {
        arrivals(first, sizeof(first), seed);
        arrivals(again, sizeof(again), seed);
        arrivals(other, sizeof(other), seed + 1000);
        assert_string_equal(first, again);
        assert_int_equal(strlen(first), 8);
        different += strcmp(first, other) != 0;
        overtaken += strcmp(first, "01010101") != 0;
    }
    assert_true(different > 25 && overtaken > 25);
}

/* Worker 1 dies at each tick: worker 0 gets what was due before, never anything after, and every wait then says so. */
static void sim_dead_peer(void **state)
{
    (void)state;
    const qn_channel_desc ch[] = {{.from = 1, .to = 0, .depth = 8, .slot_bytes = 8},
                                  {.from = 0, .to = 1, .depth = 8, .slot_bytes = 8}};
    const qn_transport *t = qn_transport_find("sim");
    for (int64_t tick = 1; tick < 8; tick++) {
        const qn_world_desc desc = {.workers = 2, .channels = 2, .channel = ch, .faults = {.dead_worker = 1, .dead_tick = tick}};
        conform c = {.t = t};
        qn_err err = {0};
        assert_int_equal(t->open(&c.w, &desc, NULL), QN_OK);
        uint64_t put = 0;
        while (put < 8 && conform_put(&c, 0, 0, put, 8)) put++;
        assert_int_equal(put, (uint64_t)tick); /* a publish takes a tick */
        assert_true(conform_put(&c, 1, 0, 0, 8));
        assert_true(conform_empty(&c, 1, 0)); /* the dead do not read */
        for (int32_t w = 0; w < 2; w++) assert_int_equal(t->wait(c.w, w, t->look(c.w, w), -1, &err), QN_EPEER);
        assert_non_null(strstr(err.text, "worker 1 died"));
        t->close(c.w);
    }
}

static void nothing_to_wait_for_is_a_deadlock(void **state)
{
    (void)state;
    static const char *const NAME[] = {"self", "sim"};
    const qn_channel_desc ch = {.from = 0, .to = 1, .depth = 2, .slot_bytes = 8};
    for (size_t i = 0; i < QN_COUNT(NAME); i++) {
        conform c = conform_open(qn_transport_find(NAME[i]), 2, 1, &ch, i);
        assert_int_equal(c.t->wait(c.w, 1, c.t->look(c.w, 1), -1, NULL), QN_ESTATE);
        c.t->close(c.w);
    }
}

static void wait_times_out(void **state)
{
    (void)state;
    const qn_channel_desc ch = {.from = 0, .to = 1, .depth = 2, .slot_bytes = 8};
    conform c = conform_open(qn_transport_find("thread"), 2, 1, &ch, 0);
    assert_int_equal(c.t->wait(c.w, 1, c.t->look(c.w, 1), 1000, NULL), QN_OK);
    c.t->close(c.w);
}

static void nth_allocation_fails(void **state)
{
    (void)state;
    const qn_channel_desc ch = {.from = 0, .to = 1, .depth = 2, .slot_bytes = 8};
    const qn_world_desc desc = {.workers = 2, .channels = 1, .channel = &ch};
    for (const char *const *name = qn_transport_names(); *name != NULL; name++) {
        qn_status st = QN_ENOMEM;
        for (long n = 1; st != QN_OK; n++) {
            qn_world *w = NULL;
            qni_fault_arm(QN_FAULT_ALLOC, n);
            st = qn_transport_find(*name)->open(&w, &desc, NULL);
            qni_fault_arm(QN_FAULT_ALLOC, 0);
            assert_true(st == QN_OK || (st == QN_ENOMEM && w == NULL));
            qn_transport_find(*name)->close(w);
            assert_true(n < 10);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_transport_conforms),
        cmocka_unit_test(sim_overtakes_and_repeats),
        cmocka_unit_test(sim_dead_peer),
        cmocka_unit_test(nothing_to_wait_for_is_a_deadlock),
        cmocka_unit_test(wait_times_out),
        cmocka_unit_test(nth_allocation_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
