/* The team at every size from 1 to 4, more threads than cores included; the split of work; ring and bell between real threads. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <string.h>

#include "alloc.h"
#include "bell.h"
#include "clock.h"
#include "compiler.h"
#include "ring.h"
#include "team.h"

enum { RUNS = 10000, MOST = 4, MESSAGES = 20000 };

typedef struct job {
    int32_t threads;
    long ran[MOST]; /* plain on purpose: the thread sanitizer checks that the team orders the runs */
    long step;
    int wrong;
} job;

static void count(void *ctx, int32_t thread, int32_t threads)
{
    job *j = ctx;
    if (threads != j->threads || thread < 0 || thread >= threads || j->ran[thread] != j->step) j->wrong = 1;
    j->ran[thread]++;
}

static void every_thread_runs_each_job_once(void **state)
{
    (void)state;
    for (int32_t threads = 1; threads <= MOST; threads++) {
        for (int32_t first_core = -1; first_core <= 1; first_core++) {
            qn_team *team;
            job j = {.threads = threads};
            assert_int_equal(qn_team_open(&team, threads, first_core, NULL), QN_OK);
            assert_int_equal(qn_team_threads(team), threads);
            const long runs = first_core == 0 ? RUNS : RUNS / 100;
            qni_no_alloc_begin();
            for (; j.step < runs; j.step++) qn_team_run(team, count, &j);
            assert_int_equal(qni_no_alloc_end(), 0);
            for (int32_t i = 0; i < threads; i++) assert_int_equal(j.ran[i], runs);
            assert_false(j.wrong);
            qn_team_close(team);
        }
    }
}

static void impossible_teams_are_refused(void **state)
{
    qn_team *team;
    qn_err err;
    (void)state;
    assert_int_equal(qn_team_open(&team, 0, -1, &err), QN_ERANGE);
    assert_int_equal(qn_team_open(&team, 1 << 20, -1, &err), QN_ERANGE);
    assert_null(team);
    qni_fault_arm(QN_FAULT_ALLOC, 1);
    assert_int_equal(qn_team_open(&team, 2, -1, &err), QN_ENOMEM);
    qn_team_close(NULL);
    assert_true(qn_team_cores() >= 1);
}

static void an_exec_without_a_team_runs_inline(void **state)
{
    job j = {.threads = 1};
    qn_exec ex = {0};
    (void)state;
    assert_int_equal(qn_exec_threads(&ex), 1);
    qn_exec_run(&ex, count, &j);
    assert_int_equal(j.ran[0], 1);
    assert_false(j.wrong);
    assert_int_equal(qn_team_open(&ex.team, 2, -1, NULL), QN_OK);
    j = (job){.threads = 2};
    qn_exec_run(&ex, count, &j);
    assert_int_equal(qn_exec_threads(&ex), 2);
    assert_int_equal(j.ran[1], 1);
    qn_team_close(ex.team);
}

static void a_split_covers_exactly(void **state)
{
    static const int64_t grains[] = {1, 2, 3, 8, 64, INT64_MAX};
    (void)state;
    for (int64_t n = 0; n <= 130; n++) {
        for (size_t g = 0; g < QN_COUNT(grains); g++) {
            for (int32_t k = 1; k <= 9; k++) {
                int64_t at = 0, least = INT64_MAX, most = 0;
                for (int32_t i = 0; i < k; i++) {
                    int64_t begin, end;
                    qn_split(&begin, &end, n, grains[g], i, k);
                    assert_true(begin == at && end >= begin);
                    assert_true(begin == n || begin % grains[g] == 0);
                    assert_true(end == n || end % grains[g] == 0);
                    const int64_t units = (end - begin) / grains[g] + ((end - begin) % grains[g] != 0);
                    if (units < least) least = units;
                    if (units > most) most = units;
                    at = end;
                }
                assert_true(at == n && most - least <= 1); /* shares differ by at most one grain */
            }
        }
    }
    int64_t begin, end;
    qn_split(&begin, &end, INT64_MAX, 3, 6, 7);
    assert_true(end == INT64_MAX && begin < end);
}

/* Two real threads: the model check is the proof, this is the proof that the model's macros are the real ones. */
typedef struct link {
    qn_ring *ring;
    qn_bell to_consumer, to_producer;
} link;

static void *produce(void *arg)
{
    link *l = arg;
    for (uint64_t m = 0; m < MESSAGES;) {
        void *slot;
        const uint32_t seen = qn_bell_look(&l->to_producer);
        if (qn_ring_put_begin(l->ring, &slot, 0) != QN_RING_OK) {
            qn_bell_wait(&l->to_producer, seen, 100, -1);
            continue;
        }
        memset(slot, (int)(m % 251), 64);
        qn_ring_put_publish(l->ring, (qn_slot_tag){.tag = m++, .bytes = 64});
        qn_bell_ring(&l->to_consumer);
    }
    return NULL;
}

static void messages_between_threads(void **state)
{
    (void)state;
    for (uint32_t depth = 1; depth <= 3; depth++) {
        link l;
        pthread_t producer;
        const size_t bytes = qn_ring_bytes(depth, 64);
        void *memory = qn_alloc_pages(bytes);
        assert_non_null(memory);
        l.ring = qn_ring_init(memory, depth, 64);
        qn_bell_init(&l.to_consumer);
        qn_bell_init(&l.to_producer);
        assert_int_equal(pthread_create(&producer, NULL, produce, &l), 0);
        for (uint64_t m = 0; m < MESSAGES;) {
            const void *slot;
            qn_slot_tag tag;
            const uint32_t seen = qn_bell_look(&l.to_consumer);
            if (qn_ring_get(l.ring, &slot, &tag, 0) != QN_RING_OK) {
                qn_bell_wait(&l.to_consumer, seen, 100, -1);
                continue;
            }
            assert_true(tag.tag == m && tag.bytes == 64);
            for (int i = 0; i < 64; i++) assert_int_equal(((const unsigned char *)slot)[i], m % 251);
            qn_ring_release(l.ring);
            qn_bell_ring(&l.to_producer);
            m++;
        }
        assert_int_equal(pthread_join(producer, NULL), 0);
        qn_free_pages(memory, bytes);
    }
    assert_int_equal(qn_ring_bytes(0, 64), 0);
    assert_int_equal(qn_ring_bytes(QN_RING_MAX_DEPTH + 1, 64), 0);
    assert_int_equal(qn_ring_bytes(2, SIZE_MAX / 2), 0);
}

static void a_new_epoch_cancels_and_drops(void **state)
{
    QN_ALIGNED(QN_CACHE_LINE) static char memory[sizeof(qn_ring) + 2 * QN_CACHE_LINE];
    const qn_slot_tag first = {.epoch = 0, .tag = 1, .bytes = 1}, second = {.epoch = 0, .tag = 2}, third = {.epoch = 5, .tag = 3};
    qn_slot_tag tag;
    void *slot;
    const void *full;
    (void)state;
    assert_true(qn_ring_bytes(2, 64) == sizeof(memory));
    qn_ring *r = qn_ring_init(memory, 2, 64);
    assert_int_equal(qn_ring_get(r, &full, &tag, 0), QN_RING_WAIT);
    assert_int_equal(qn_ring_put_begin(r, &slot, 0), QN_RING_OK);
    qn_ring_put_publish(r, first);
    assert_int_equal(qn_ring_get(r, &full, &tag, 0), QN_RING_OK); /* held over the change */
    assert_ptr_equal(full, slot);
    assert_int_equal(qn_ring_put_begin(r, &slot, 0), QN_RING_OK);
    qn_ring_set_epoch(r, 5);
    qn_ring_put_publish(r, second); /* begun before the change */
    assert_int_equal(qn_ring_put_begin(r, &slot, 0), QN_RING_CANCELLED);
    assert_int_equal(qn_ring_put_begin(r, &slot, 5), QN_RING_WAIT);
    qn_ring_release(r);
    assert_int_equal(qn_ring_get(r, &full, &tag, 0), QN_RING_CANCELLED);
    assert_int_equal(qn_ring_put_begin(r, &slot, 5), QN_RING_OK);
    qn_ring_put_publish(r, third);
    assert_int_equal(qn_ring_get(r, &full, &tag, 5), QN_RING_OK);
    assert_true(tag.epoch == 5 && tag.tag == 3);
    qn_ring_release(r);
    qn_ring_set_epoch(r, 4); /* epochs only grow */
    assert_int_equal(qn_ring_get(r, &full, &tag, 4), QN_RING_CANCELLED);
    assert_int_equal(qn_ring_get(r, &full, &tag, 5), QN_RING_WAIT);
}

static void a_bell_that_nobody_rings_times_out(void **state)
{
    qn_bell b;
    (void)state;
    qn_bell_init(&b);
    const int64_t before = qn_now_ns();
    qn_bell_wait(&b, 0, 0, 2000000);
    assert_true(qn_now_ns() - before >= 2000000);
    qn_bell_ring(&b);
    qn_bell_wait(&b, 0, 0, -1); /* rung already: returns at once */
    assert_int_equal(qn_bell_look(&b), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_thread_runs_each_job_once),    cmocka_unit_test(impossible_teams_are_refused),
        cmocka_unit_test(an_exec_without_a_team_runs_inline), cmocka_unit_test(a_split_covers_exactly),
        cmocka_unit_test(messages_between_threads),           cmocka_unit_test(a_new_epoch_cancels_and_drops),
        cmocka_unit_test(a_bell_that_nobody_rings_times_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
