/* The window of Superpipeline: what is resident, what is moved, how long it takes; the simulator and a recurrence written from
 * the paper's figures must agree with it for random costs. */
#include "schedule/schedule_rig.h"

#include "schedule/schedule_internal.h"
#include "piece_window.h"

static qn_window_visit *planned(const qn_window *w)
{
    qn_err err = {0};
    qn_window_visit *v = calloc((size_t)qn_window_visits(w), sizeof *v);
    if (qn_window_plan(v, w, &err) != QN_OK) fail_msg("%s", err.text);
    return v;
}

static int64_t makespan(const qn_window *w, const qn_window_visit *v, const qn_window_costs *c)
{
    qn_err err = {0};
    int64_t m = 0;
    assert_int_equal(qn_window_makespan(&m, NULL, w, v, c, &err), QN_OK);
    return m;
}

/* Every visit finds its piece in its slot, a slot is only taken when it is free, and the loads add up. */
static void check_residency(const qn_window *w)
{
    int32_t holds[16], loads = 0, batches = 0;
    const int32_t visits = (int32_t)qn_window_visits(w), k = qn_min32(w->resident, w->pieces);
    qn_window_visit *v = planned(w);
    for (int32_t s = 0; s < 16; s++) holds[s] = -1;
    for (int32_t i = 0, next = 0; i < visits; i++) {
        for (; next < visits && (!v[next].load || v[next].after < i); next++) { /* all that may have started by now */
            if (!v[next].load) continue;
            assert_true(v[next].slot >= 0 && v[next].slot < k && holds[v[next].slot] == -1);
            holds[v[next].slot] = v[next].piece;
            assert_true(v[next].batch == batches || v[next].batch == batches + 1);
            batches = v[next].batch;
            loads++;
        }
        assert_int_equal(holds[v[i].slot], v[i].piece);
        assert_true(v[i].backward == (v[i].flush >= i));
        if (v[i].backward) assert_true(v[i].flush < i + w->group && v[v[i].flush].flush == v[i].flush);
        if (v[i].last && i < visits - k) { /* the place of the group's pieces is free behind its last visit */
            int32_t behind = i + 1;
            while (behind < visits && (!v[behind].load || v[behind].slot != v[i].slot)) behind++;
            assert_true(behind < visits && v[behind].after >= i);
        }
        for (int32_t q = 0; q <= i; q++) { /* freed when the next load into it may start */
            if (!v[q].last) continue;
            int32_t behind = q + 1;
            while (behind < visits && (!v[behind].load || v[behind].slot != v[q].slot)) behind++;
            if (behind < visits && v[behind].after == i) holds[v[q].slot] = -1;
        }
    }
    if (w->training)
        assert_int_equal(loads, 2 * w->pieces - k);
    else
        assert_int_equal(loads, k == w->pieces ? k : w->pieces * w->passes);
    free(v);
}

static void every_small_window(void **state)
{
    (void)state;
    for (int32_t n = 1; n <= 9; n++) {
        for (int32_t k = 1; k <= n + 1; k++) {
            for (int32_t g = 1; g <= k; g++) {
                for (int32_t passes = 1; passes <= 3; passes++)
                    check_residency(&(qn_window){.pieces = n, .resident = k, .group = g, .passes = passes});
                check_residency(&(qn_window){.pieces = n, .resident = k, .group = g, .passes = 1, .training = true});
            }
        }
    }
}

/* n = 4, all costs 1, from nothing: one exposed upload with k = 2; nothing overlaps with k = 1. */
static void worked_example(void **state)
{
    (void)state;
    static const int64_t one[] = {1, 1, 1, 1};
    const qn_window_costs c = {.forward = one, .up = one};
    qn_window w = {.pieces = 4, .resident = 2, .group = 1, .passes = 1};
    qn_window_visit *v = planned(&w);
    int64_t end[4], m = 0;
    qn_err err = {0};
    assert_int_equal(qn_window_makespan(&m, end, &w, v, &c, &err), QN_OK);
    assert_int_equal(m, 5);
    for (int32_t i = 0; i < 4; i++) assert_int_equal(end[i], i + 2);
    static const int32_t after[] = {-1, -1, 0, 1};
    for (int32_t i = 0; i < 4; i++) assert_int_equal(v[i].after, after[i]);
    assert_int_equal(qn_window_loaded(v, 4, one), 4);
    free(v);
    w.resident = 1;
    v = planned(&w);
    assert_int_equal(makespan(&w, v, &c), 8);
    free(v);
}

/* A step moves 2n - k weights up; with k = n none after the first pass. */
static void bytes(void **state)
{
    (void)state;
    static const int64_t weight[] = {5, 1, 4, 2, 7, 3};
    qn_window w = {.pieces = 6, .resident = 2, .group = 2, .passes = 1, .training = true};
    qn_window_visit *v = planned(&w);
    assert_int_equal(qn_window_loaded(v, 12, weight), 22 + 22 - 10);
    free(v);
    assert_int_equal(qn_window_bytes(weight, 6, 1), 7);
    assert_int_equal(qn_window_bytes(weight, 6, 2), 10);
    assert_int_equal(qn_window_bytes(weight, 6, 6), 22);
    w = (qn_window){.pieces = 6, .resident = 6, .group = 1, .passes = 3};
    v = planned(&w);
    assert_int_equal(qn_window_loaded(v, 18, weight), 22);
    free(v);
}

/* ---- times: the plan's graph, and the recurrence */

/* The visits as tasks of one worker: compute, loads and transfers down on three lanes; the simulator runs them. */
static int64_t simulated(const qn_window *w, const qn_window_visit *v, const qn_window_costs *c)
{
    qn_err err = {0};
    qni_builder b = {0};
    const int32_t visits = (int32_t)qn_window_visits(w);
    int32_t compute[64], down[64], up = -1;
    for (int32_t i = 0; i < visits; i++) {
        compute[i] = qni_add_task(&b, QN_OP_F, 0, i, 0, QN_LANE_COMP);
        b.task[compute[i]].cost = (v[i].backward ? c->backward : c->forward)[v[i].piece];
        b.key[compute[i]] = i;
        down[i] = -1;
    }
    for (int32_t i = 0; i < visits; i++) {
        if (v[i].flush < 0 || c->down == NULL) continue;
        if (down[v[i].flush] < 0) {
            down[v[i].flush] = qni_add_task(&b, QN_OP_NORM, 0, i, 0, QN_LANE_SEND);
            b.key[down[v[i].flush]] = i;
            b.task[down[v[i].flush]].cost = 0;
            qni_add_link(&b, down[v[i].flush], QNI_WAIT, compute[v[i].flush]);
        }
        b.task[down[v[i].flush]].cost += c->down[v[i].piece];
    }
    for (int32_t i = 0; i < visits; i++) {
        if (!v[i].load) continue;
        const bool more = c->batched && up >= 0 && i > 0 && v[i - 1].load && v[i - 1].batch == v[i].batch;
        if (!more) {
            up = qni_add_task(&b, QN_OP_NORM, 0, i, 0, QN_LANE_RECV);
            b.key[up] = i;
            b.task[up].cost = c->latency;
            if (v[i].after >= 0) qni_add_link(&b, up, QNI_WAIT, compute[v[i].after]);
            if (v[i].after >= 0 && down[v[i].after] >= 0) qni_add_link(&b, up, QNI_WAIT, down[v[i].after]);
        }
        b.task[up].cost += c->up[v[i].piece];
        qni_add_link(&b, compute[i], QNI_WAIT, up);
    }
    const int32_t home = 0;
    qn_plan *p = NULL;
    assert_int_equal(qni_builder_plan(&p, &b, 1, 1, visits, &home, NULL, &err), QN_OK);
    if (qn_plan_finish(p, &err) != QN_OK) fail_msg("%s", err.text);
    qn_trace t = {.plan = p, .time = calloc((size_t)p->tasks + 1, sizeof *t.time)};
    const qn_sim_options opt = {0};
    if (qn_simulate(&t, p, &opt, &err) != QN_OK) fail_msg("%s", err.text);
    int64_t end = 0;
    for (int32_t i = 0; i < p->tasks; i++) {
        if (p->task[i].op != QN_OP_NORM || p->task[i].lane == QN_LANE_SEND) end = qn_max64(end, t.time[i].end);
    }
    free(t.time);
    qn_plan_close(p);
    qni_builder_fini(&b);
    return end;
}

/* One direction from the paper's words alone: piece j of the list takes the place of j - k, whose group of k' leaves together.
 * There are `there` pieces at the start, the others come one by one. Returns the end; clocks go on. */
typedef struct lanes {
    int64_t compute, up, down;
} lanes;

static void recurrence(lanes *x, int32_t n, int32_t k, int32_t g, int32_t there, const int64_t *c, const int64_t *u,
                       const int64_t *d, int64_t latency, bool reversed)
{
    int64_t end[64], down[64], loaded[64];
    for (int32_t j = 0; j < n; j++) {
        const int32_t piece = reversed ? n - 1 - j : j;
        loaded[j] = 0;
        if (j >= there) {
            if (j >= k) {
                const int32_t leaves = qn_min32(((j - k) / g + 1) * g - 1, n - 1);
                x->up = qn_max64(x->up, qn_max64(end[leaves], down[leaves]));
            }
            loaded[j] = x->up += u[piece] + latency;
        }
        end[j] = x->compute = qn_max64(x->compute, loaded[j]) + c[piece];
        down[j] = 0;
        if (d != NULL && ((j + 1) % g == 0 || j == n - 1)) {
            x->down = qn_max64(x->down, end[j]);
            for (int32_t q = j - j % g; q <= j; q++) x->down += d[reversed ? n - 1 - q : q];
            down[j] = x->down;
        }
    }
}

static void times_agree(void **state)
{
    (void)state;
    const char *s = getenv("QUERN_TEST_SEED");
    const uint64_t seed = s != NULL ? strtoull(s, NULL, 10) : 8791;
    print_message("seed %llu (QUERN_TEST_SEED)\n", (unsigned long long)seed);
    for (uint32_t turn = 0; turn < 20000; turn++) {
        qn_rng r = qn_rng_of((qn_rng_key){.seed = seed, .sample = turn});
        int64_t cost[4][16];
        for (int32_t i = 0; i < 64; i++) cost[i / 16][i % 16] = (int64_t)qn_rng_below(&r, 12);
        qn_window w = {.pieces = 1 + (int32_t)qn_rng_below(&r, 12), .passes = 1, .training = qn_rng_below(&r, 2) != 0};
        w.resident = 1 + (int32_t)qn_rng_below(&r, (uint64_t)w.pieces);
        w.group = 1 + (int32_t)qn_rng_below(&r, (uint64_t)w.resident);
        qn_window_costs c = {.forward = cost[0],
                             .backward = cost[1],
                             .up = cost[2],
                             .down = qn_rng_below(&r, 2) != 0 ? cost[3] : NULL,
                             .latency = (int64_t)qn_rng_below(&r, 3),
                             .batched = qn_rng_below(&r, 3) == 0};
        qn_window_visit *v = planned(&w);
        const int64_t got = makespan(&w, v, &c), sim = simulated(&w, v, &c);
        if (got != sim) fail_msg("seed %llu turn %u: %ld, simulated %ld", (unsigned long long)seed, turn, (long)got, (long)sim);
        if (!c.batched) {
            lanes x = {0};
            recurrence(&x, w.pieces, w.resident, w.group, 0, c.forward, c.up, NULL, c.latency, false);
            if (w.training) recurrence(&x, w.pieces, w.resident, w.group, w.resident, c.backward, c.up, c.down, c.latency, true);
            const int64_t want = qn_max64(x.compute, x.down);
            if (got != want)
                fail_msg("seed %llu turn %u: %ld, recurrence %ld", (unsigned long long)seed, turn, (long)got, (long)want);
        }
        free(v);
    }
}

/* The rule for k and k'. */
static void choice(void **state)
{
    (void)state;
    static const int64_t c[] = {10, 10, 10, 10, 10, 10, 10, 10}, u[] = {8, 8, 8, 8, 8, 8, 8, 8},
                         slow[] = {25, 25, 25, 25, 25, 25, 25, 25}, w[] = {100, 100, 100, 100, 100, 100, 100, 100};
    static const struct {
        const int64_t *up;
        int64_t latency, room;
        int32_t k, group;
    } row[] = {{u, 0, 1000, 3, 1},    /* one piece ahead and one more */
               {slow, 0, 1000, 5, 1}, /* three ahead */
               {u, 1, 1000, 5, 3},    /* 1 of 8 ticks: three pieces a message bring it below 5 % */
               {u, 0, 250, 2, 1},     /* two fit */
               {u, 1, 250, 2, 1},     /* something must overlap */
               {u, 0, 100, 1, 1},     /* nothing overlaps */
               {slow, 9, 1000, 8, 8}};
    for (size_t i = 0; i < QN_COUNT(row); i++) {
        qn_window x = {.pieces = 8, .passes = 1};
        qn_err err = {0};
        const qn_window_costs costs = {.forward = c, .up = row[i].up, .latency = row[i].latency};
        assert_int_equal(qn_window_choose(&x, &costs, w, row[i].room, &err), QN_OK);
        if (x.resident != row[i].k || x.group != row[i].group)
            fail_msg("row %zu: k=%d k'=%d, not %d %d", i, x.resident, x.group, row[i].k, row[i].group);
    }
    qn_window x = {.pieces = 8, .passes = 1};
    qn_err err = {0};
    const qn_window_costs costs = {.forward = c, .up = u};
    assert_int_equal(qn_window_choose(&x, &costs, w, 99, &err), QN_EINVAL);
    assert_non_null(strstr(err.text, "needs 100"));
}

/* Where transfers hide (u <= 0.8 c, k - k' >= 2), only the first upload shows; where they do not, the link is never idle. */
static void hidden_transfers(void **state)
{
    (void)state;
    int64_t c[16], u[16];
    for (int32_t i = 0; i < 16; i++) c[i] = 100;
    for (int32_t step = 1; step <= 16; step++) {
        for (int32_t i = 0; i < 16; i++) u[i] = 25 * step;
        const qn_window w = {.pieces = 16, .resident = 4, .group = 1, .passes = 1};
        const qn_window_costs costs = {.forward = c, .up = u};
        qn_window_visit *v = planned(&w);
        assert_int_equal(makespan(&w, v, &costs), u[0] + 15 * qn_max64(c[0], u[0]) + c[0]);
        free(v);
    }
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        qn_window w;
        const char *says;
    } bad[] = {{{.pieces = 0, .resident = 1, .group = 1, .passes = 1}, "at least 1"},
               {{.pieces = 4, .resident = 2, .group = 3, .passes = 1}, "k' from 1 to k"},
               {{.pieces = 4, .resident = 0, .group = 1, .passes = 1}, "k of at least 1"},
               {{.pieces = 4, .resident = 2, .group = 0, .passes = 1}, "k' from 1 to k"},
               {{.pieces = 4, .resident = 2, .group = 1, .passes = 2, .training = true}, "1 pass in training"},
               {{.pieces = INT32_MAX, .resident = 2, .group = 1, .passes = 2}, "too many visits"}};
    for (size_t i = 0; i < QN_COUNT(bad); i++) {
        qn_err err = {0};
        qn_window_visit none[1];
        assert_int_equal(qn_window_plan(none, &bad[i].w, &err), QN_EINVAL);
        if (strstr(err.text, bad[i].says) == NULL) fail_msg("%s", err.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_small_window),
                                       cmocka_unit_test(worked_example),
                                       cmocka_unit_test(bytes),
                                       cmocka_unit_test(times_agree),
                                       cmocka_unit_test(choice),
                                       cmocka_unit_test(hidden_transfers),
                                       cmocka_unit_test(refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
