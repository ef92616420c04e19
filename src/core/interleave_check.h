/* A small model checker for the lock-free code of this folder; only tests include it.
 *
 * A test compiles a source file once more with its atomic accesses redefined as calls of mc_load, mc_store and so on. Each such
 * access is one step. The checker runs every order of the threads' steps and, within an order, every value that a load may
 * return under the C11 rules for release, acquire, relaxed and sequentially consistent accesses: a location keeps the list of
 * all its stores, a thread a lowest index per location (its view), and an acquire load that reads a release store takes over the
 * storer's view (Kang et al. 2017, "A promising semantics for relaxed-memory concurrency", without promises). Plain memory is
 * checked for data races with vector clocks. An exchange of steps that leads to the same state is visited once, but counted:
 * `paths` is the exact number of complete executions.
 *
 * A thread's program is a function that is run again from its start for each step; what its accesses returned so far comes from
 * a log, and at the next new access it is left with longjmp. So a thread is its log, a state is plain data, and no stack is kept.
 * Programs therefore keep nothing but locals and their own result arrays, which they reset first.
 *
 * Not modelled: loads that read stores made later in program order of another thread (load buffering), and stores to one
 * location by two threads that end up in another order than they were made. The checked code has neither. */
#ifndef QN_CORE_INTERLEAVE_CHECK_H
#define QN_CORE_INTERLEAVE_CHECK_H

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compiler.h"

enum { MC_THREADS = 3, MC_LOCS = 4, MC_STORES = 24, MC_DATA = 16, MC_LOG = 128, MC_TABLE = 1 << 20, MC_DEEP = 400 };

typedef enum mc_order { MC_relaxed, MC_acquire, MC_release, MC_acq_rel, MC_seq_cst } mc_order;
typedef enum mc_status { MC_READY, MC_RETRY, MC_ASLEEP, MC_DONE } mc_status;

typedef struct mc_store_rec {
    uint64_t value;
    uint8_t view[MC_LOCS], clock[MC_THREADS]; /* what an acquire load of it takes over */
} mc_store_rec;

typedef struct mc_thread {
    uint64_t log[MC_LOG];
    int32_t logged, mark;
    mc_status status;
    uint8_t view[MC_LOCS], clock[MC_THREADS];
    uint8_t loaded; /* bit per location loaded since mark */
    bool fresh;     /* after a retry, loads return the newest value: stores become visible at some time */
    bool spurious;  /* has slept and woken without a reason once */
} mc_thread;

typedef struct mc_state {
    mc_store_rec store[MC_LOCS][MC_STORES];
    uint8_t stores[MC_LOCS];
    uint8_t sc_view[MC_LOCS];    /* last sequentially consistent store */
    uint8_t futex_view[MC_LOCS]; /* what the kernel guarantees a sleeper sees after a wake */
    mc_thread thread[MC_THREADS];
    uint64_t data[MC_DATA];
    uint8_t wrote[MC_DATA][MC_THREADS], read[MC_DATA][MC_THREADS]; /* clocks of last plain accesses */
} mc_state;

typedef struct mc_seen {
    uint64_t key[2];
    double paths;
    bool open, used;
} mc_seen;

/* What a check runs; filled in by the test. */
static struct {
    int threads;
    void (*program[MC_THREADS])(int self);
    const char *(*check)(void);                             /* after every complete execution: NULL or what is wrong */
    mc_order (*order_of)(int loc, bool is_store, mc_order); /* plants faults: weakens accesses; NULL: as written */
} mc_case;

static mc_state mc; /* the present state */
static mc_seen *mc_table;
static struct {
    int self, at, budget, choice, choices;
    jmp_buf leave;
    const char *wrong; /* first failure found */
    uint64_t states, steps;
    int depth, deepest;
} mc_run;

static void mc_fail(const char *what)
{
    if (mc_run.wrong == NULL) mc_run.wrong = what;
}

static _Noreturn void mc_leave(void)
{
    longjmp(mc_run.leave, 1);
}

/* True when the access was made before: *value is what it returned. Otherwise the access may be made now. */
static bool mc_replayed(uint64_t *value, bool is_step)
{
    mc_thread *t = &mc.thread[mc_run.self];
    if (mc_run.at < t->logged) {
        *value = t->log[mc_run.at++];
        return true;
    }
    if (is_step && mc_run.budget-- == 0) mc_leave();
    if (t->logged == MC_LOG) {
        mc_fail("a thread never comes to an end");
        mc_leave();
    }
    return false;
}

static uint64_t mc_log(uint64_t value)
{
    mc_thread *t = &mc.thread[mc_run.self];
    t->log[t->logged++] = value;
    mc_run.at++;
    return value;
}

static void mc_join(uint8_t *to, const uint8_t *from, int n)
{
    for (int i = 0; i < n; i++) {
        if (to[i] < from[i]) to[i] = from[i];
    }
}

static bool mc_acquires(mc_order o)
{
    return o == MC_acquire || o == MC_acq_rel || o == MC_seq_cst;
}

static bool mc_releases(mc_order o)
{
    return o == MC_release || o == MC_acq_rel || o == MC_seq_cst;
}

/* Reads store `index` of loc: coherence, and synchronisation if it is an acquire. */
static uint64_t mc_read_store(int loc, int index, mc_order order)
{
    mc_thread *t = &mc.thread[mc_run.self];
    const mc_store_rec *s = &mc.store[loc][index];
    t->view[loc] = (uint8_t)index;
    if (mc_acquires(order)) {
        mc_join(t->view, s->view, MC_LOCS);
        mc_join(t->clock, s->clock, MC_THREADS);
    }
    return s->value;
}

/* Appends a store; `after` is the store that an exchange read, whose release it carries on (NULL: a plain store). */
static void mc_append(int loc, uint64_t value, mc_order order, const mc_store_rec *after)
{
    mc_thread *t = &mc.thread[mc_run.self];
    if (mc.stores[loc] == MC_STORES) {
        mc_fail("more stores than the checker has room for");
        mc_leave();
    }
    const int index = mc.stores[loc]++;
    mc_store_rec *s = &mc.store[loc][index];
    memset(s, 0, sizeof(*s));
    s->value = value;
    t->view[loc] = (uint8_t)index;
    if (after != NULL) {
        mc_join(s->view, after->view, MC_LOCS);
        mc_join(s->clock, after->clock, MC_THREADS);
    }
    if (mc_releases(order)) {
        mc_join(s->view, t->view, MC_LOCS);
        mc_join(s->clock, t->clock, MC_THREADS);
    }
    if (order == MC_seq_cst) mc.sc_view[loc] = (uint8_t)index;
    t->clock[mc_run.self]++; /* what the thread does from here on is not covered by this store */
}

static mc_order mc_order_of(int loc, bool is_store, mc_order order)
{
    return mc_case.order_of != NULL ? mc_case.order_of(loc, is_store, order) : order;
}

static uint64_t mc_load(int loc, mc_order written)
{
    uint64_t value;
    if (mc_replayed(&value, true)) return value;
    mc_thread *t = &mc.thread[mc_run.self];
    const mc_order order = mc_order_of(loc, false, written);
    const int newest = mc.stores[loc] - 1;
    int oldest = t->fresh ? newest : t->view[loc];
    if (order == MC_seq_cst && oldest < mc.sc_view[loc]) oldest = mc.sc_view[loc];
    mc_run.choices = newest - oldest + 1;
    t->loaded |= (uint8_t)(1u << loc);
    return mc_log(mc_read_store(loc, newest - mc_run.choice, order));
}

static void mc_store(int loc, uint64_t value, mc_order order)
{
    uint64_t old;
    if (mc_replayed(&old, true)) return;
    mc_append(loc, value, mc_order_of(loc, true, order), NULL);
    (void)mc_log(0);
}

/* An atomic exchange: reads the newest store and appends its function. */
static QN_UNUSED uint64_t mc_exchange(int loc, uint64_t (*fn)(uint64_t old, uint64_t x), uint64_t x, mc_order written)
{
    uint64_t old;
    if (mc_replayed(&old, true)) return old;
    const mc_order order = mc_order_of(loc, true, written);
    const mc_store_rec *newest = &mc.store[loc][mc.stores[loc] - 1];
    old = mc_read_store(loc, mc.stores[loc] - 1, order);
    mc_append(loc, fn(old, x), order, newest);
    return mc_log(old);
}

/* Plain memory: no step of its own, but a data race is a failure. */
static QN_UNUSED void mc_data_write(int d, uint64_t value)
{
    uint64_t old;
    if (mc_replayed(&old, false)) return;
    mc_thread *t = &mc.thread[mc_run.self];
    for (int u = 0; u < MC_THREADS; u++) {
        if (u == mc_run.self) continue;
        if (mc.wrote[d][u] > t->clock[u]) mc_fail("data race: a slot is written by both sides");
        if (mc.read[d][u] > t->clock[u]) mc_fail("data race: a slot is overwritten while it is read");
    }
    mc.wrote[d][mc_run.self] = t->clock[mc_run.self];
    mc.data[d] = value;
    (void)mc_log(0);
}

static QN_UNUSED uint64_t mc_data_read(int d)
{
    uint64_t value;
    if (mc_replayed(&value, false)) return value;
    mc_thread *t = &mc.thread[mc_run.self];
    for (int u = 0; u < MC_THREADS; u++) {
        if (u != mc_run.self && mc.wrote[d][u] > t->clock[u]) mc_fail("data race: a slot is read while it is written");
    }
    mc.read[d][mc_run.self] = t->clock[mc_run.self];
    return mc_log(mc.data[d]);
}

/* An operation that may have to be tried again: mc_mark, try, and mc_retry when it must wait. A retrying thread runs again when
 * one of the locations it loaded has a store that it has not seen. */
static QN_UNUSED void mc_mark(void)
{
    mc_thread *t = &mc.thread[mc_run.self];
    if (mc_run.at < t->logged || mc_run.at == t->mark) return;
    t->mark = mc_run.at;
    t->fresh = false;
    t->loaded = 0;
}

static QN_UNUSED _Noreturn void mc_retry(void)
{
    mc_thread *t = &mc.thread[mc_run.self];
    memset(t->log + t->mark, 0, (size_t)(t->logged - t->mark) * sizeof(t->log[0]));
    t->logged = t->mark;
    t->status = MC_RETRY;
    t->fresh = true;
    mc_leave();
}

/* A futex: sleeps while loc holds value; a wake lets all sleepers on. A wake promises that later sleepers see what the waker saw.
 */
static QN_UNUSED void mc_sleep(int loc, uint64_t value)
{
    uint64_t old;
    if (mc_replayed(&old, true)) return;
    mc_thread *t = &mc.thread[mc_run.self];
    int oldest = t->view[loc] > mc.futex_view[loc] ? t->view[loc] : mc.futex_view[loc];
    const int newest = mc.stores[loc] - 1;
    const int values = newest - oldest + 1;
    mc_run.choices = values + !t->spurious;
    if (mc_run.choice == values) {
        t->spurious = true;
    } else {
        t->view[loc] = (uint8_t)(newest - mc_run.choice);
        if (mc.store[loc][t->view[loc]].value == value) t->status = MC_ASLEEP;
    }
    (void)mc_log(0);
    if (t->status == MC_ASLEEP) mc_leave();
}

static QN_UNUSED void mc_wake(int loc)
{
    uint64_t old;
    if (mc_replayed(&old, true)) return;
    mc_join(&mc.futex_view[loc], &mc.thread[mc_run.self].view[loc], 1);
    for (int u = 0; u < mc_case.threads; u++) {
        if (mc.thread[u].status != MC_ASLEEP) continue;
        mc.thread[u].status = MC_READY;
        mc_join(&mc.thread[u].view[loc], &mc.futex_view[loc], 1);
    }
    (void)mc_log(0);
}

/* Runs thread t for `steps` new accesses (0: up to the first, or replays a finished one), taking the given choice. */
static void mc_step(int t, int steps, int choice)
{
    mc_run.self = t;
    mc_run.at = 0;
    mc_run.budget = steps;
    mc_run.choice = choice;
    mc_run.choices = 1;
    if (mc.thread[t].status == MC_RETRY) mc.thread[t].status = MC_READY;
    if (setjmp(mc_run.leave) == 0) {
        mc_case.program[mc_run.self](mc_run.self);
        mc.thread[mc_run.self].status = MC_DONE;
    }
}

static bool mc_runnable(int t)
{
    const mc_thread *th = &mc.thread[t];
    if (th->status != MC_RETRY) return th->status == MC_READY;
    for (int l = 0; l < MC_LOCS; l++) {
        if ((th->loaded >> l & 1) && mc.stores[l] - 1 > th->view[l]) return true;
    }
    return false;
}

/* Two independent 64-bit hashes of the state: with 10^6 states a false match has a chance below 10^-25. */
static void mc_key(uint64_t key[2])
{
    const uint64_t *word = (const uint64_t *)(const void *)&mc;
    uint64_t a = 0x9E3779B97F4A7C15u, b = 0xC2B2AE3D27D4EB4Fu;
    for (size_t i = 0; i < sizeof(mc) / sizeof(*word); i++) {
        if (word[i] == 0) continue;
        a = (a ^ word[i] ^ i << 48) * 0xFF51AFD7ED558CCDu;
        a ^= a >> 32;
        b = (b + word[i] + i) * 0xC4CEB9FE1A85EC53u;
        b ^= b >> 29;
    }
    key[0] = a;
    key[1] = b;
}

static mc_seen *mc_find(const uint64_t key[2])
{
    size_t at = (size_t)key[0] & (MC_TABLE - 1);
    while (mc_table[at].used && (mc_table[at].key[0] != key[0] || mc_table[at].key[1] != key[1])) at = (at + 1) & (MC_TABLE - 1);
    return &mc_table[at];
}

static double mc_explore(void);

/* All executions that begin with a step of thread t in the given state. */
static double mc_explore_thread(const mc_state *from, int t)
{
    double paths = 0;
    for (int choice = 0, choices = 1; choice < choices && mc_run.wrong == NULL; choice++) {
        memcpy(&mc, from, sizeof(mc)); /* with its padding, which is hashed, too */
        mc_step(t, 1, choice);
        mc_run.steps++;
        choices = mc_run.choices;
        if (mc_run.wrong == NULL) paths += mc_explore();
    }
    return paths;
}

static double mc_finish(void)
{
    for (int t = 0; t < mc_case.threads; t++) {
        if (mc.thread[t].status != MC_DONE) {
            mc_fail(mc.thread[t].status == MC_ASLEEP ? "lost wake-up: a sleeper is left" : "a thread waits for ever");
            return 0;
        }
    }
    for (int t = 0; t < mc_case.threads; t++) mc_step(t, 0, 0); /* replays, so that the programs fill in their results */
    const char *wrong = mc_case.check();
    if (wrong != NULL) mc_fail(wrong);
    return 1;
}

static double mc_explore(void)
{
    uint64_t key[2];
    mc_key(key);
    mc_seen *seen = mc_find(key);
    if (seen->used) {
        if (seen->open) mc_fail("livelock: the threads can go round for ever");
        return seen->paths;
    }
    if (++mc_run.states > MC_TABLE / 2 || ++mc_run.depth > MC_DEEP) {
        mc_fail("too many states for the checker");
        return 0;
    }
    *seen = (mc_seen){.key = {key[0], key[1]}, .open = true, .used = true};
    mc_state here;
    memcpy(&here, &mc, sizeof(mc));
    double paths = 0;
    bool moved = false;
    for (int t = 0; t < mc_case.threads && mc_run.wrong == NULL; t++) {
        memcpy(&mc, &here, sizeof(mc));
        if (!mc_runnable(t)) continue;
        moved = true;
        paths += mc_explore_thread(&here, t);
    }
    memcpy(&mc, &here, sizeof(mc));
    if (!moved) paths = mc_finish();
    mc_run.depth--;
    seen->paths = paths;
    seen->open = false;
    return paths;
}

/* Explores the case; initial[] are the locations' first values. Returns NULL or the first thing found wrong. */
static const char *mc_check(const char *name, const uint64_t initial[MC_LOCS])
{
    if (mc_table == NULL) mc_table = malloc(sizeof(mc_seen) * MC_TABLE);
    if (mc_table == NULL) return "no memory for the table of states";
    memset(mc_table, 0, sizeof(mc_seen) * MC_TABLE);
    memset(&mc, 0, sizeof(mc));
    memset(&mc_run, 0, sizeof(mc_run));
    for (int l = 0; l < MC_LOCS; l++) {
        mc.store[l][0].value = initial[l];
        mc.stores[l] = 1;
    }
    for (int t = 0; t < MC_THREADS; t++) mc.thread[t].clock[t] = 1;
    for (int t = 0; t < mc_case.threads; t++) mc_step(t, 0, 0);
    const double paths = mc_run.wrong == NULL ? mc_explore() : 0;
    if (mc_run.wrong == NULL)
        printf("%s: %llu states, %llu steps, %.17g executions\n", name, (unsigned long long)mc_run.states,
               (unsigned long long)mc_run.steps, paths);
    return mc_run.wrong;
}

#endif
