/* The doorbell: a counter and a futex.
 *
 *   ring:  count += 1; if sleeping, wake        wait:  sleeping = 1; sleep unless count != seen; sleeping = 0
 *
 * Both sides write one word and read the other, so all four accesses are sequentially consistent: with anything weaker the
 * ringer may miss the sleeper while the sleeper misses the ring (bell_check_test.c plants that fault and finds it).
 *
 * The accesses go through macros because the test compiles this file once more over a model of the memory. */
#include "bell.h"

#ifndef BELL_LOAD
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BELL_LOAD(p, order)         atomic_load_explicit(p, memory_order_##order)
#define BELL_STORE(p, value, order) atomic_store_explicit(p, value, memory_order_##order)
#define BELL_ADD(p, value, order)   atomic_fetch_add_explicit(p, value, memory_order_##order)
#define BELL_SLEEP(b, seen, ns)     futex_sleep(b, seen, ns)
#define BELL_WAKE(b)                ((void)syscall(SYS_futex, &(b)->count, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0))

/* Sleeps while count is seen, at most ns (-1: no limit); wakes early for no reason at all, too. */
static void futex_sleep(qn_bell *b, uint32_t seen, int64_t ns)
{
    struct timespec limit = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
    (void)syscall(SYS_futex, &b->count, FUTEX_WAIT_PRIVATE, seen, ns < 0 ? NULL : &limit, NULL, 0);
}
#endif

#include "clock.h"

void qn_bell_init(qn_bell *b)
{
    atomic_init(&b->count, 0);
    atomic_init(&b->sleeping, 0);
}

uint32_t qn_bell_look(const qn_bell *b)
{
    return BELL_LOAD(&b->count, acquire);
}

void qn_bell_ring(qn_bell *b)
{
    BELL_ADD(&b->count, 1, seq_cst);
    if (BELL_LOAD(&b->sleeping, seq_cst) != 0) BELL_WAKE(b);
}

void qn_bell_wait(qn_bell *b, uint32_t seen, int32_t spins, int64_t timeout_ns)
{
    for (int32_t i = 0; i < spins; i++) {
        if (BELL_LOAD(&b->count, acquire) != seen) return;
        QN_PAUSE();
    }
    const int64_t until = timeout_ns < 0 ? 0 : qn_now_ns() + timeout_ns;
    BELL_STORE(&b->sleeping, 1, seq_cst);
    while (BELL_LOAD(&b->count, seq_cst) == seen) {
        const int64_t left = timeout_ns < 0 ? -1 : until - qn_now_ns();
        if (timeout_ns >= 0 && left <= 0) break;
        BELL_SLEEP(b, seen, left);
    }
    BELL_STORE(&b->sleeping, 0, relaxed);
}
