/* What it costs to hand one slot from a worker to another, and what the executor adds: one line of text per question.
 *
 *   spinning     two threads on two cores, both looking all the time
 *   shared core  two threads pinned to one core, going to sleep at once
 *   idle         the receiver has slept for a while: until it has the message
 *   executor     a forward chain of empty tasks: a task on one worker, a message and task between two
 *
 * Figures are median and best over rounds, in ns: on a busy machine only the best says what the hand-over costs. Usage: handover
 * [BYTES], the payload of a message (default 64). */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/clock.h"
#include "core/team.h"
#include "runtime/executor/executor.h"
#include "support/hand_plan.h"
#include "transport/transport.h"

enum { ROUNDS = 15, PINGS = 20000, IDLE_MESSAGES = 200, CHAIN_ITEMS = 1000 };

static void die(const char *what, const qn_err *err)
{
    fprintf(stderr, "handover: %s: %s\n", what, err != NULL ? err->text : strerror(errno));
    exit(1);
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct figure {
    double median, best;
} figure;

static figure figure_of(double *x, int n)
{
    qsort(x, (size_t)n, sizeof(*x), by_size);
    return (figure){.median = x[n / 2], .best = x[0]};
}

static void show(const char *what, figure f, const char *per)
{
    printf("%-20s %8.0f %8.0f  %s\n", what, f.median, f.best, per);
    fflush(stdout);
}

/* --- transport alone: channel 0 goes from worker 0 to 1, channel 1 back */

typedef struct pair {
    const qn_transport *t;
    qn_world *w;
    size_t bytes;
    long pings;
    int32_t core; /* of the answering thread, -1: none */
} pair;

static void *answered_slot(pair *p, int32_t channel)
{
    void *slot;
    for (;;) {
        const uint32_t seen = p->t->look(p->w, channel);
        if (p->t->put_begin(p->w, channel, &slot, 0) == QN_RING_OK) return slot;
        if (p->t->wait(p->w, channel, seen, -1, NULL) != QN_OK) die("wait", NULL);
    }
}

/* Worker `me` writes into channel `me`, and reads from the other. */
static void say(pair *p, int32_t me, uint64_t n)
{
    memset(answered_slot(p, me), (int)n, p->bytes);
    p->t->put_publish(p->w, me, (qn_slot_tag){.tag = n, .bytes = p->bytes});
}

static int64_t hear(pair *p, int32_t me)
{
    const void *slot;
    qn_slot_tag tag;
    for (;;) {
        const uint32_t seen = p->t->look(p->w, me);
        if (p->t->get(p->w, 1 - me, &slot, &tag, 0) == QN_RING_OK) break;
        if (p->t->wait(p->w, me, seen, -1, NULL) != QN_OK) die("wait", NULL);
    }
    const int64_t now = qn_now_ns();
    p->t->release(p->w, 1 - me);
    return now;
}

static void *answer(void *arg)
{
    pair *p = arg;
    qn_team_pin_self(p->core);
    for (long i = 0; i < p->pings; i++) {
        (void)hear(p, 1);
        say(p, 1, (uint64_t)i);
    }
    return NULL;
}

static void open_pair(pair *p, int32_t spins)
{
    qn_err err;
    const qn_channel_desc ch[] = {{.from = 0, .to = 1, .depth = 2, .slot_bytes = p->bytes},
                                  {.from = 1, .to = 0, .depth = 2, .slot_bytes = p->bytes}};
    const qn_world_desc desc = {.workers = 2, .channels = 2, .channel = ch, .spins = spins};
    p->t = qn_transport_find("thread");
    if (p->t->open(&p->w, &desc, &err) != QN_OK) die("transport", &err);
}

/* Half the time of there and back. */
static figure ping(size_t bytes, int32_t spins, int32_t cores, long pings)
{
    double ns[ROUNDS];
    qn_team_pin_self(0);
    for (int r = 0; r < ROUNDS; r++) {
        pair p = {.bytes = bytes, .pings = pings, .core = cores - 1};
        pthread_t thread;
        open_pair(&p, spins);
        if (pthread_create(&thread, NULL, answer, &p) != 0) die("thread", NULL);
        const int64_t start = qn_now_ns();
        for (long i = 0; i < pings; i++) {
            say(&p, 0, (uint64_t)i);
            (void)hear(&p, 0);
        }
        ns[r] = (double)(qn_now_ns() - start) / (double)pings / 2;
        pthread_join(thread, NULL);
        p.t->close(p.w);
    }
    return figure_of(ns, ROUNDS);
}

typedef struct sleeper {
    pair p;
    int64_t heard[IDLE_MESSAGES];
} sleeper;

static void *listen_long(void *arg)
{
    sleeper *s = arg;
    qn_team_pin_self(s->p.core);
    for (int i = 0; i < IDLE_MESSAGES; i++) s->heard[i] = hear(&s->p, 1);
    return NULL;
}

static figure idle(size_t bytes)
{
    static sleeper s;
    double ns[IDLE_MESSAGES];
    int64_t sent[IDLE_MESSAGES];
    pthread_t thread;
    s.p = (pair){.bytes = bytes, .core = 1};
    open_pair(&s.p, 0);
    qn_team_pin_self(0);
    if (pthread_create(&thread, NULL, listen_long, &s) != 0) die("thread", NULL);
    for (int i = 0; i < IDLE_MESSAGES; i++) {
        const struct timespec while_ = {.tv_nsec = 2000000};
        nanosleep(&while_, NULL);
        sent[i] = qn_now_ns();
        say(&s.p, 0, (uint64_t)i);
    }
    pthread_join(thread, NULL);
    s.p.t->close(s.p.w);
    for (int i = 0; i < IDLE_MESSAGES; i++) ns[i] = (double)(s.heard[i] - sent[i]);
    return figure_of(ns, IDLE_MESSAGES);
}

/* --- the executor */

static qn_status nothing(void *ctx, qn_executor *ex, int32_t task, qn_err *err)
{
    (void)ctx, (void)ex, (void)task, (void)err;
    return QN_OK;
}

/* A step of a chain of empty tasks over so many workers, per item. */
static figure chain(int32_t workers, int32_t items, size_t bytes, const char *transport, qn_driver driver, bool traced)
{
    hand_plan h;
    double ns[ROUNDS];
    qn_err err;
    qn_executor *ex;
    const qn_plan *plan = hand_chain(&h, workers, items, (int64_t)bytes, (int64_t)bytes, 2);
    const qn_executor_desc desc = {.plan = plan,
                                   .transport = qn_transport_find(transport),
                                   .driver = driver,
                                   .fns = {.run = nothing},
                                   .pin = true,
                                   .spins = -1};
    if (qn_executor_open(&ex, &desc, &err) != QN_OK) die("executor", &err);
    qn_trace trace = {.plan = plan, .time = calloc((size_t)plan->tasks, sizeof(*trace.time))};
    for (int r = -2; r < ROUNDS; r++) {
        const int64_t start = qn_now_ns();
        if (qn_executor_step(ex, traced ? &trace : NULL, &err) != QN_OK) die("step", &err);
        if (r >= 0) ns[r] = (double)(qn_now_ns() - start) / items;
    }
    qn_executor_close(ex);
    free(trace.time);
    hand_free(&h);
    return figure_of(ns, ROUNDS);
}

int main(int argc, char **argv)
{
    const size_t bytes = argc > 1 ? strtoul(argv[1], NULL, 10) : 64;
    if (argc > 2 || bytes < 1 || bytes > (size_t)1 << 30) {
        fprintf(stderr, "usage: handover [BYTES], 1 to 2^30\n");
        return 2;
    }
    printf("payload %zu bytes, %d cores\n%-20s %8s %8s  ns\n", bytes, qn_team_cores(), "", "median", "best");
    if (qn_team_cores() > 1) {
        show("spinning", ping(bytes, INT32_MAX, 2, PINGS), "per message");
        show("idle core woken", idle(bytes), "from send to receipt");
    }
    show("shared core", ping(bytes, 0, 1, PINGS / 4), "per message");
    show("executor task", chain(1, CHAIN_ITEMS, bytes, "self", QN_DRIVE_LOOP, false), "one worker, loop");
    show("executor task", chain(1, CHAIN_ITEMS, bytes, "self", QN_DRIVE_LOOP, true), "the same with a trace");
    show("executor step", chain(2, 1, bytes, "thread", QN_DRIVE_THREADS, false), "two workers, threads, one item");
    show("executor message", chain(2, CHAIN_ITEMS, bytes, "thread", QN_DRIVE_THREADS, false), "two workers, threads, per item");
    show("executor message", chain(2, CHAIN_ITEMS, bytes, "self", QN_DRIVE_LOOP, false), "two workers, loop, per item");
    return 0;
}
