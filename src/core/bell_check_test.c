/* The doorbell under every interleaving: bell.c is compiled once more, over the model of interleave_check.h. A sleeper waits
 * until it has seen all the work that one or two ringers announce; no wake-up may be lost. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#define qn_bell_init checked_bell_init
#define qn_bell_look checked_bell_look
#define qn_bell_ring checked_bell_ring
#define qn_bell_wait checked_bell_wait

#include "bell.h"
#include "interleave_check.h"

enum { COUNT, SLEEPING, WORK };

static qn_bell bell;
static int bell_loc(const void *p)
{
    return p == (const void *)&bell.count ? COUNT : SLEEPING;
}
static uint64_t sum(uint64_t old, uint64_t x)
{
    return old + x;
}

#define BELL_LOAD(p, order)         ((uint32_t)mc_load(bell_loc(p), MC_##order))
#define BELL_STORE(p, value, order) mc_store(bell_loc(p), value, MC_##order)
#define BELL_ADD(p, value, order)   ((void)mc_exchange(bell_loc(p), sum, value, MC_##order))
#define BELL_SLEEP(b, seen, ns)     ((void)(ns), mc_sleep(COUNT, seen))
#define BELL_WAKE(b)                mc_wake(COUNT)
#include "bell.c"

static int rings_each, spins_before_sleep;

static void sleeper(int self)
{
    (void)self;
    const uint64_t all = (uint64_t)(rings_each * (mc_case.threads - 1));
    for (;;) {
        const uint32_t seen = qn_bell_look(&bell);
        if (mc_load(WORK, MC_relaxed) == all) return;
        qn_bell_wait(&bell, seen, spins_before_sleep, -1);
    }
}

static void ringer(int self)
{
    (void)self;
    for (int i = 0; i < rings_each; i++) {
        (void)mc_exchange(WORK, sum, 1, MC_relaxed);
        qn_bell_ring(&bell);
    }
}

static const char *nothing_to_check(void)
{
    return NULL; /* that all threads came to their end is the property */
}

static const char *run(int ringers, int rings, int spins)
{
    char name[80];
    rings_each = rings;
    spins_before_sleep = spins;
    qn_bell_init(&bell);
    mc_case.threads = 1 + ringers;
    mc_case.program[0] = sleeper;
    mc_case.program[1] = mc_case.program[2] = ringer;
    mc_case.check = nothing_to_check;
    snprintf(name, sizeof(name), "bell with %d ringers, %d rings each, %d spins", ringers, rings, spins);
    return mc_check(name, (const uint64_t[MC_LOCS]){0});
}

static void no_wake_up_is_lost(void **state)
{
    (void)state;
    mc_case.order_of = NULL;
    for (int ringers = 1; ringers <= 2; ringers++) {
        for (int rings = 1; rings <= (ringers == 1 ? 3 : 1); rings++) {
            for (int spins = 0; spins <= 1; spins++) {
                const char *wrong = run(ringers, rings, spins);
                if (wrong != NULL) fail_msg("%d ringers, %d rings, %d spins: %s", ringers, rings, spins, wrong);
            }
        }
    }
}

/* Without sequential consistency both sides may miss each other: the checker must see it. */
static mc_order only_acq_rel(int loc, bool is_store, mc_order order)
{
    (void)loc;
    if (order != MC_seq_cst) return order;
    return is_store ? MC_acq_rel : MC_acquire;
}

static void planted_fault_is_found(void **state)
{
    (void)state;
    mc_case.order_of = only_acq_rel;
    const char *wrong = run(1, 1, 0);
    mc_case.order_of = NULL;
    if (wrong == NULL) fail_msg("a bell without sequential consistency went unnoticed");
    printf("planted: acquire and release only: found: %s\n", wrong);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_wake_up_is_lost),
        cmocka_unit_test(planted_fault_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
