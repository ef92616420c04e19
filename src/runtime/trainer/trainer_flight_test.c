/* Flights: several steps without a barrier between them give the bits of one step at a time, for every schedule; with a spike, an
 * infinity or a NaN in any stage at any step of a flight; after a step that was refused, and after a cancelled flight. */
#include "support/fault_rig.h"
#include "support/sanitized.h"

#include <pthread.h>

enum { STEPS = QN_SANITIZED ? 5 : 8, LONG = 20, ITEMS = 4 };

static const rig_way base_way = {.schedule = "gpipe", .workers = 1, .threads = 1, .transport = "self"};
static const char *const transports[] = {"thread", "self", "sim"};

static void same(const rig_outcome *got, const rig_outcome *want, int32_t steps, const rig_way *way)
{
    for (int32_t i = 0; i < steps; i++)
        if (got->loss[i] != want->loss[i] || got->norm[i] != want->norm[i])
            fail_msg("%s on %d workers, %s, flights of %d: step %d has loss %.17g and norm %.17g, wanted %.17g and %.17g",
                     way->schedule, way->workers, way->transport, way->flight, i, got->loss[i], got->norm[i], want->loss[i],
                     want->norm[i]);
    if (memcmp(got->state, want->state, want->bytes) != 0)
        fail_msg("%s on %d workers, %s, flights of %d: another state", way->schedule, way->workers, way->transport, way->flight);
    free(got->state);
}

static void every_schedule_flies(void **state)
{
    (void)state;
    static const int32_t flights[] = {2, 3, STEPS, 5};
    int32_t turn = 0;
    for (int32_t c = 0; c < 2; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        for (int32_t items = 2; items <= 8; items += 6) {
            rig_outcome want = rig_compute(m, QN_MODE_F32, &base_way, items, STEPS);
            for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
                if (g->host_state) continue;
                const int32_t most = g->max_workers > 0 ? g->max_workers : 4;
                for (int32_t P = most < 2 ? most : 2; P <= most; P++, turn++) {
                    if (!qn_generator_can(g, P, items) || qn_generator_replicas(g) > 1 || (QN_SANITIZED && turn % 5 != 0))
                        continue;
                    const rig_way way = {.schedule = g->name,
                                         .workers = P,
                                         .threads = 1,
                                         .recompute = (qn_recompute)(turn % 3),
                                         .transport = transports[turn / 2 % 3],
                                         .seed = turn / 2 % 3 == 2 ? 1000u + (uint64_t)turn : 0,
                                         .flight = flights[turn % 4]};
                    const rig_outcome got = rig_compute(m, QN_MODE_F32, &way, items, STEPS);
                    same(&got, &want, STEPS, &way);
                }
            }
            free(want.state);
        }
        qn_model_close(m);
    }
}

/* Replicas, shards, vocabulary shards. */
static void wide_steps_fly(void **state)
{
    (void)state;
    static const rig_way ways[] = {
        {.schedule = "1f1b", .workers = 2, .replicas = 2},
        {.schedule = "1f1b", .workers = 2, .replicas = 2, .zero1 = true},
        {.schedule = "zb-h1", .workers = 2, .replicas = 2, .zero1 = true, .together = true},
        {.schedule = "dualpipe", .workers = 2},
        {.schedule = "1f1b", .workers = 2, .shards = 2, .shard_workers = 2},
        {.schedule = "gpipe", .workers = 2, .shards = 2, .replicas = 2, .groups = 2, .shard_workers = 1},
        {.schedule = "1f1b", .workers = 2, .vocab = 1},
        {.schedule = "gpipe", .workers = 2, .vocab = 2},
    };
    for (size_t i = 0; i < QN_COUNT(ways); i++) {
        for (int32_t c = 0; c < 4; c += 3) {
            if (ways[i].vocab > 0 && rig_config[c].tied) continue;
            qn_model *m = rig_model(&rig_config[c]);
            rig_way way = ways[i];
            way.threads = 1;
            way.transport = transports[(i + (size_t)c) % 2];
            rig_outcome want = rig_compute(m, QN_MODE_F32, &way, 8, STEPS);
            way.flight = 3;
            const rig_outcome got = rig_compute(m, QN_MODE_F32, &way, 8, STEPS);
            same(&got, &want, STEPS, &way);
            free(want.state);
            qn_model_close(m);
        }
    }
}

/* ---- faults */

static const double values[] = {1e4, INFINITY, NAN, 0};

/* wrong: counts stages that stepped early and were taken back. */
static void faults(const char *schedule, int32_t workers, int32_t stages, qn_undo undo, double clip, int64_t *wrong)
{
    uint32_t turn = (uint32_t)workers;
    for (int32_t c = 0; c < 2; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        for (int32_t stage = 0; stage < stages; stage++) {
            for (int64_t step = clip > 0 ? QNI_PATIENCE - 1 : 0; step < LONG; step++, turn++) {
                if (turn % (QN_SANITIZED ? 13 : 4) != 0) continue;
                rig_way way = {.schedule = schedule,
                               .workers = workers,
                               .threads = 1,
                               .transport = transports[turn / 4 % 3],
                               .seed = turn / 4 % 3 == 2 ? 1u + turn : 0,
                               .undo = undo,
                               .clip = clip,
                               .flight = 2 + (int32_t)(turn % 5)};
                const bool near = undo == QN_UNDO_IN_PLACE;
                const rig_fault f = {.step = step, .stage = stage, .item = ITEMS - 1, .value = values[turn / 4 % 4]};
                const rig_journey got = rig_fly(m, &way, ITEMS, LONG, f, near);
                way.flight = 1;
                way.undo = QN_UNDO_NONE;
                way.transport = "self";
                way.seed = 0;
                const rig_journey want = rig_fly(m, &way, ITEMS, LONG, f, near);
                if (!rig_same_journey(&got, &want, m, near))
                    fail_msg("%s, %d workers, undo %d, clip %g: %g in stage %d at step %d", schedule, workers, (int)undo, clip,
                             f.value, stage, (int)step);
                *wrong += got.early.wrong;
                free(got.state);
                free(want.state);
            }
        }
        qn_model_close(m);
    }
}

static void faults_in_flights_change_nothing_else(void **state)
{
    (void)state;
    int64_t wrong = 0;
    faults("1f1b", 3, 3, QN_UNDO_NONE, 0, &wrong);
    assert_int_equal(wrong, 0);
    faults("zb-h2", 3, 3, QN_UNDO_COPY, 100, &wrong);
    faults("zb-v", 2, 4, QN_UNDO_COPY, -1, &wrong);
    faults("gpipe", 1, 1, QN_UNDO_COPY, -1, &wrong);
    faults("zb-2p", 2, 2, QN_UNDO_IN_PLACE, 100, &wrong);
    print_message("%lld stages stepped early were taken back\n", (long long)wrong);
    assert_true(wrong > 0);
}

/* ---- cancelled at some moment, and from a checkpoint on: the same bits */
typedef struct canceller {
    qn_trainer *t;
    _Atomic int go;
    int spins;
} canceller;

static void *cancel_soon(void *arg)
{
    canceller *c = arg;
    while (!atomic_load(&c->go)) {}
    for (volatile int i = 0; i < c->spins; i++) {}
    qn_trainer_cancel(c->t);
    return NULL;
}

enum { FEW = 8 };

static qn_status fly_few(qn_trainer *t, int32_t *done, int spins)
{
    canceller c = {.t = t, .spins = spins};
    pthread_t thread;
    double lr[FEW];
    qn_step_result r[FEW];
    for (int32_t i = 0; i < FEW; i++) lr[i] = RIG_LR;
    if (spins < 0) return qn_trainer_flight(t, 0, FEW, lr, r, done, NULL, NULL);
    assert_int_equal(pthread_create(&thread, NULL, cancel_soon, &c), 0);
    atomic_store(&c.go, 1);
    const qn_status st = qn_trainer_flight(t, 0, FEW, lr, r, done, NULL, NULL);
    assert_int_equal(pthread_join(thread, NULL), 0);
    return st;
}

static void a_cancelled_flight_is_forgotten(void **state)
{
    (void)state;
    enum { TRIES = QN_SANITIZED ? 10 : 30 };
    qn_model *m = rig_model(&rig_config[0]);
    const size_t bytes = rig_state_bytes(m, sizeof(float));
    char *start = malloc(bytes), *end = malloc(bytes), *want = malloc(bytes);
    int cancelled = 0;
    assert_true(start != NULL && end != NULL && want != NULL);
    for (int32_t turn = 0; turn < 4; turn++) {
        const rig_way way = {.schedule = "zb-h2",
                             .workers = 2,
                             .threads = 1,
                             .transport = transports[turn % 2],
                             .undo = turn < 2 ? QN_UNDO_NONE : QN_UNDO_COPY,
                             .clip = -1,
                             .flight = 4};
        qn_trainer *t = rig_open(m, QN_MODE_F32, &way, ITEMS);
        int32_t done;
        rig_state(start, t, m, sizeof(float), 0);
        assert_int_equal(fly_few(t, &done, -1), QN_OK);
        rig_state(want, t, m, sizeof(float), 0);
        for (int k = 0; k < TRIES; k++) {
            rig_state(start, t, m, sizeof(float), 1);
            const qn_status st = fly_few(t, &done, k * k * 2000);
            assert_true(st == QN_OK ? done == FEW : st == QN_ECANCELLED && done < FEW);
            cancelled += st == QN_ECANCELLED;
            rig_state(start, t, m, sizeof(float), 1);
            assert_int_equal(fly_few(t, &done, -1), QN_OK);
            rig_state(end, t, m, sizeof(float), 0);
            assert_memory_equal(end, want, bytes);
        }
        qn_trainer_close(t);
    }
    print_message("%d of %d flights were cancelled\n", cancelled, 4 * TRIES);
    free(start);
    free(end);
    free(want);
    qn_model_close(m);
}

/* ---- stopped between two steps of a flight: what was done is done, and the rest gives the same bits */
typedef struct stopper {
    int asked, at; /* at: the question that is answered with yes */
} stopper;

static bool stops(void *ctx)
{
    stopper *s = ctx;
    return ++s->asked == s->at;
}

/* Stops again and again, after so many tasks of worker 0 each time. */
static int with_stops(const qn_model *m, const rig_way *base, int tasks, const rig_outcome *want)
{
    stopper s = {0};
    rig_way way = *base;
    rig_outcome got = {.bytes = want->bytes, .state = malloc(want->bytes)};
    double lr[STEPS];
    int stopped = 0;
    qn_err err;
    assert_non_null(got.state);
    way.stop = stops;
    way.stop_ctx = &s;
    qn_trainer *t = rig_open(m, QN_MODE_F32, &way, 8);
    for (int32_t i = 0; i < STEPS; i++) lr[i] = RIG_LR;
    for (int32_t at = 0; at < STEPS;) {
        qn_step_result r[STEPS];
        int32_t done;
        s.asked = 0;
        s.at = tasks;
        rig_ok(qn_trainer_flight(t, at, STEPS - at, lr + at, r, &done, NULL, &err), &err);
        assert_true(done > 0 && (at + done == STEPS || s.asked >= s.at));
        for (int32_t i = 0; i < done; i++) {
            got.loss[at + i] = r[i].loss;
            got.norm[at + i] = r[i].grad_norm;
        }
        at += done;
        stopped += at < STEPS;
    }
    qn_trainer_settle(t);
    rig_state(got.state, t, m, sizeof(float), 0);
    qn_trainer_close(t);
    same(&got, want, STEPS, &way);
    return stopped;
}

static void a_stopped_flight_goes_on(void **state)
{
    (void)state;
    static const qn_trainer_tiers tiers = {.window = 2, .replace = 1}, lag = {.window = 2, .replace = 1, .lag = 1};
    static const rig_way ways[] = {
        {.schedule = "zb-h2", .workers = 3},
        {.schedule = "zb-h2", .workers = 3, .undo = QN_UNDO_COPY, .clip = -1},
        {.schedule = "1f1b", .workers = 2, .replicas = 2, .groups = 2},
        {.schedule = "zb-v", .workers = 2, .replicas = 2, .groups = 2, .zero1 = true, .undo = QN_UNDO_COPY, .clip = -1},
        {.schedule = "1f1b", .workers = 2, .replicas = 2, .groups = 2, .zero1 = true},
        {.schedule = "1f1b", .workers = 2, .replicas = 2, .groups = 2, .undo = QN_UNDO_COPY, .clip = -1},
        {.schedule = "roundpipe", .workers = 2, .tiers = &tiers},
        {.schedule = "roundpipe", .workers = 2, .tiers = &tiers, .undo = QN_UNDO_COPY, .clip = -1, .groups = 2},
        {.schedule = "1f1b", .workers = 2, .replicas = 2, .groups = 2, .tiers = &tiers},
        {.schedule = "roundpipe", .workers = 2, .tiers = &lag},
    };
    int stopped = 0;
    for (size_t i = 0; i < QN_COUNT(ways); i++) {
        for (int32_t c = 0; c < 2; c++) {
            qn_model *m = rig_model(&rig_config[c]);
            rig_way way = ways[i];
            way.threads = 1;
            way.transport = "self";
            rig_outcome want = rig_compute(m, QN_MODE_F32, &way, 8, STEPS);
            for (int tasks = 1; tasks <= 130; tasks += QN_SANITIZED ? 43 : 9) {
                way.transport = transports[tasks % 2];
                way.flight = 2 + tasks % 4;
                stopped += with_stops(m, &way, tasks, &want);
            }
            free(want.state);
            qn_model_close(m);
        }
    }
    print_message("%d flights were stopped\n", stopped);
    assert_true(stopped > 0);
}

/* Times of each step by itself. */
static void traces_are_of_steps(void **state)
{
    (void)state;
    qn_model *m = rig_model(&rig_config[1]);
    const rig_way way = {
        .schedule = "zb-h2", .workers = 2, .threads = 1, .transport = "thread", .undo = QN_UNDO_COPY, .clip = -1, .flight = 3};
    qn_trainer *t = rig_open(m, QN_MODE_F32, &way, ITEMS);
    const qn_plan *p = qn_trainer_plan(t);
    qn_trace trace[3];
    const double lr[3] = {RIG_LR, RIG_LR, RIG_LR};
    qn_step_result r[3];
    int32_t done;
    qn_err err;
    assert_int_equal(p->steps, 1);
    for (int k = 0; k < 3; k++) trace[k] = (qn_trace){.plan = p, .time = calloc((size_t)p->tasks, sizeof(qn_span_time))};
    rig_ok(qn_trainer_flight(t, 0, 3, lr, r, &done, trace, &err), &err);
    for (int k = 0; k < 3; k++) {
        int64_t first = INT64_MAX;
        for (int32_t i = 0; i < p->tasks; i++) {
            assert_true(trace[k].time[i].end >= trace[k].time[i].start && trace[k].time[i].start >= 0);
            first = trace[k].time[i].start < first ? trace[k].time[i].start : first;
        }
        assert_true(first == 0 && r[k].ns > 0);
        free(trace[k].time);
    }
    qn_trainer_close(t);
    qn_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_schedule_flies),
        cmocka_unit_test(wide_steps_fly),
        cmocka_unit_test(faults_in_flights_change_nothing_else),
        cmocka_unit_test(a_cancelled_flight_is_forgotten),
        cmocka_unit_test(a_stopped_flight_goes_on),
        cmocka_unit_test(traces_are_of_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
