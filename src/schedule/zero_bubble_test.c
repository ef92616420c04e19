/* The tables of the zero-bubble papers (arXiv:2401.10241, arXiv:2405.15362) and of DualPipeV; idle time and memory of their
 * schedules for all small sizes. Idle time is a worker's from its first task to its last, the largest of all workers. */
#include "schedule_rig.h"

typedef struct costs {
    int64_t F, B, W, link, stash, pending;
} costs;

static const costs unit = {1, 1, 1, 0, 0, 0};

typedef struct figures {
    int64_t makespan, idle, peak;
} figures;

static qn_order *generate(const char *name, int32_t P, int32_t M, int32_t v, const costs *c)
{
    const qn_pattern pat = {.workers = P,
                            .items = M,
                            .chunks = v,
                            .cost = {[QN_OP_F] = c->F, [QN_OP_B] = c->B, [QN_OP_W] = c->W, [QN_OP_SEND] = c->link},
                            .stash_size = c->stash,
                            .pending_size = c->pending};
    qn_err err = {0};
    qn_order *o = NULL;
    if (qn_generate(&o, name, &pat, &err) != QN_OK) fail_msg("%s P=%d M=%d: %s", name, P, M, err.text);
    return o;
}

static figures measure(const char *name, int32_t P, int32_t M, int32_t v, const costs *c)
{
    const qn_lowering how = rig_plain();
    qn_order *o = generate(name, P, M, v, c);
    qn_plan *p = rig_lower(o, &how);
    int64_t *cost = rig_split_costs(p, c->F, c->B, c->W, 0, 0);
    const qn_trace_summary *s = rig_simulate(p, cost, c->link, 0);
    figures f = {.makespan = s->makespan};
    for (int32_t w = 0; w < P; w++) {
        f.idle = qn_max64(f.idle, s->idle_span[w]);
        f.peak = qn_max64(f.peak, s->peak[w]);
    }
    free(cost);
    qn_plan_close(p);
    qn_order_close(o);
    return f;
}

static void expect(const char *name, int32_t P, int32_t M, int32_t v, const costs *c, int64_t idle, int64_t peak)
{
    const figures f = measure(name, P, M, v, c);
    if (f.idle != idle || (peak > 0 && f.peak != peak))
        fail_msg("%s P=%d M=%d costs %ld %ld %ld: idle %ld, peak %ld; %ld, %ld are published", name, P, M, (long)c->F, (long)c->B,
                 (long)c->W, (long)f.idle, (long)f.peak, (long)idle, (long)peak);
}

/* Profiled times (microseconds), memory by the paper's formulas: rates to four digits. */
static void measured_costs(void **state)
{
    (void)state;
    static const char *const name[] = {"zb-h1", "zb-h2", "zb-1p", "zb-2p"};
    static const struct {
        int32_t P, M;
        int64_t heads, width;
        costs c;
        const char *rate[4];
    } row[] = {
        {8, 24, 24, 2304, {18522, 18086, 9337, 601, 0, 0}, {"0.1585", "0.1083", "0.1585", "0.0433"}},
        {8, 24, 32, 4096, {29718, 29444, 19927, 527, 0, 0}, {"0.1323", "0.0698", "0.1323", "0.0029"}},
        {16, 48, 40, 5120, {11347, 11248, 8132, 377, 0, 0}, {"0.1397", "0.0672", "0.1397", "0.0066"}},
        {32, 96, 48, 6144, {10419, 10207, 7715, 408, 0, 0}, {"0.1421", "0.0641", "0.1421", "0.0038"}},
    };
    for (size_t i = 0; i < QN_COUNT(row); i++) {
        for (size_t k = 0; k < QN_COUNT(name); k++) {
            costs c = row[i].c;
            c.stash = 34 * row[i].width + 5 * row[i].heads * 1024;
            c.pending = 32 * row[i].width;
            const figures f = measure(name[k], row[i].P, row[i].M, 1, &c);
            char got[16];
            snprintf(got, sizeof got, "%.4f", (double)f.idle / (double)(f.idle + row[i].M * (c.F + c.B + c.W)));
            if (strcmp(got, row[i].rate[k]) != 0)
                fail_msg("%s P=%d: bubble rate %s, not %s", name[k], row[i].P, got, row[i].rate[k]);
        }
    }
}

static void handcrafted(void **state)
{
    (void)state;
    for (int32_t P = 1; P <= 10; P++) {
        for (int32_t M = 1; M <= 30; M++) {
            const figures h1 = measure("zb-h1", P, M, 1, &unit), h2 = measure("zb-h2", P, M, 1, &unit);
            assert_true(h1.peak <= P && h2.peak <= 2 * P - 1);
            if (M >= P) assert_true(h1.idle == P - 1 && h1.peak == P);
            if (M >= 2 * P - 1) assert_true(h2.idle == 0 && h2.peak == 2 * P - 1);
        }
    }
}

/* The automatic schedules hold their memory and are no worse than those made by hand. */
static void automatic(void **state)
{
    (void)state;
    static const costs some[] = {
        {1, 1, 1, 0, 0, 0}, {3, 4, 2, 0, 0, 0}, {3, 4, 2, 1, 3, 2}, {2, 3, 4, 0, 0, 0}, {10, 11, 7, 3, 0, 0}};
    for (size_t k = 0; k < QN_COUNT(some); k++) {
        for (int32_t P = 1; P <= 8; P++) {
            for (int32_t M = 1; M <= 24; M += 1 + M / 4) {
                const figures h1 = measure("zb-h1", P, M, 1, &some[k]), h2 = measure("zb-h2", P, M, 1, &some[k]),
                              one = measure("zb-1p", P, M, 1, &some[k]), two = measure("zb-2p", P, M, 1, &some[k]);
                if (one.idle > h1.idle || two.idle > h2.idle)
                    fail_msg("costs %zu P=%d M=%d: idle 1p %ld, H1 %ld, 2p %ld, H2 %ld", k, P, M, (long)one.idle, (long)h1.idle,
                             (long)two.idle, (long)h2.idle);
                if (some[k].stash == 0) assert_true(one.peak <= P && two.peak <= 2 * P);
            }
        }
    }
}

/* Idle time and memory of the V family, which do not depend on the number of micro-batches. */
static void v_family(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t idle[3], peak[3];
    } row[] = {{"v-min", {11, 17, 27}, {4, 6, 8}}, {"v-half", {5, 11, 17}, {6, 8, 10}}, {"zb-v", {0, 0, 0}, {8, 12, 16}}};
    for (size_t i = 0; i < QN_COUNT(row); i++) {
        for (int32_t k = 0; k < 3; k++) {
            for (int32_t M = 16; M <= 32; M += 4) expect(row[i].name, 4 + 2 * k, M, 2, &unit, row[i].idle[k], row[i].peak[k]);
        }
        for (int32_t k = 0; k < 2; k++) expect(row[i].name, 4, 8 + k, 2, &unit, row[i].idle[0], row[i].peak[0]);
    }
}

/* F 3, B 4, W 2: V-Min loses time in every repetition. */
static void v_family_unequal(void **state)
{
    (void)state;
    static const costs c = {3, 4, 2, 0, 0, 0};
    static const struct {
        const char *name;
        int64_t idle[4];
    } row[] = {{"v-min", {82, 130, 183, 279}}, {"v-half", {29, 29, 81, 81}}, {"zb-v", {10, 10, 26, 26}}};
    for (size_t i = 0; i < QN_COUNT(row); i++) {
        for (int32_t k = 0; k < 4; k++)
            expect(row[i].name, k < 2 ? 4 : 8, k < 2 ? 8 + 8 * k : 16 * k - 16, 2, &c, row[i].idle[k], 0);
    }
}

/* V-ZB: no idle time at 2P stashes. */
static void v_zb(void **state)
{
    (void)state;
    for (int32_t P = 1; P <= 8; P++) {
        for (int32_t M = 2 * P; M <= 2 * P + 16; M += 3) expect("v-zb", P, M, 2, &unit, 0, 2 * P);
    }
}

static figures adapted(int32_t P, int32_t M, int32_t limit)
{
    const qn_pattern pat = {.workers = P, .items = M, .chunks = 2, .limit = limit};
    const qn_lowering how = rig_plain();
    qn_err err = {0};
    qn_order *o = NULL;
    if (qn_generate(&o, "v-adaptive", &pat, &err) != QN_OK) fail_msg("P=%d M=%d k=%d: %s", P, M, limit, err.text);
    qn_plan *p = rig_lower(o, &how);
    int64_t *cost = rig_split_costs(p, 1, 1, 1, 0, 0);
    const qn_trace_summary *s = rig_simulate(p, cost, 0, 0);
    figures f = {.makespan = s->makespan};
    for (int32_t w = 0; w < P; w++) {
        f.idle = qn_max64(f.idle, s->idle_span[w]);
        f.peak = qn_max64(f.peak, s->peak[w]);
    }
    free(cost);
    qn_plan_close(p);
    qn_order_close(o);
    return f;
}

/* The best idle time at each memory, and the closed form it follows for M >= 2P. */
static void adaptive_search(void **state)
{
    (void)state;
    static const int64_t four[] = {11, 8, 5, 3, 0}, six[] = {17, 14, 11, 8, 5, 3, 0};
    for (int32_t P = 4; P <= 6; P += 2) {
        for (int32_t k = P; k <= 2 * P; k++) {
            for (int32_t M = 2 * P; M <= 4 * P; M += P) {
                const figures f = adapted(P, M, k);
                const int64_t want = 3 * P - 1 - 3 * k + qn_max32(3 * P, P - 1 + 2 * (1 + (k + 1) / 2));
                assert_int_equal(want, (P == 4 ? four : six)[k - P]);
                if (f.idle != want || f.peak != k)
                    fail_msg("P=%d M=%d k=%d: idle %ld, peak %ld; %ld is published", P, M, k, (long)f.idle, (long)f.peak,
                             (long)want);
            }
        }
    }
    const qn_pattern pat = {.workers = 4, .items = 8, .chunks = 2, .limit = 3};
    qn_err err = {0};
    qn_order *o = NULL;
    assert_int_equal(qn_generate(&o, "v-adaptive", &pat, &err), QN_EINVAL);
    if (strstr(err.text, "nothing fits; 4 would do") == NULL) fail_msg("%s", err.text);
}

/* Makespan of v-adaptive, or of another schedule, made for and simulated with these costs. */
static int64_t made_for(const char *name, int32_t P, int32_t M, int32_t limit, const costs *made, const costs *run, int64_t *peak)
{
    const qn_pattern pat = {.workers = P,
                            .items = M,
                            .chunks = 2,
                            .limit = limit,
                            .cost = {[QN_OP_F] = made->F, [QN_OP_B] = made->B, [QN_OP_W] = made->W, [QN_OP_SEND] = made->link}};
    const qn_lowering how = rig_plain();
    qn_err err = {0};
    qn_order *o = NULL;
    if (qn_generate(&o, name, &pat, &err) != QN_OK) fail_msg("%s P=%d M=%d k=%d: %s", name, P, M, limit, err.text);
    qn_plan *p = rig_lower(o, &how);
    int64_t *cost = rig_split_costs(p, run->F, run->B, run->W, 0, 0);
    const qn_trace_summary *s = rig_simulate(p, cost, run->link, 0);
    const int64_t makespan = s->makespan;
    *peak = 0;
    for (int32_t w = 0; w < P; w++) *peak = qn_max64(*peak, s->peak[w]);
    free(cost);
    qn_plan_close(p);
    qn_order_close(o);
    return makespan;
}

/* Unequal costs choose another block than slots do: never a longer one at the same limit, somewhere a shorter one, within it. */
static void adaptive_by_costs(void **state)
{
    (void)state;
    static const costs given[] = {{3, 4, 2, 0, 0, 0}, {1, 2, 1, 0, 0, 0}, {9261, 9043, 4668, 601, 0, 0}, {2, 1, 5, 1, 0, 0}};
    int32_t shorter = 0;
    for (size_t i = 0; i < QN_COUNT(given); i++) {
        for (int32_t P = 4; P <= 6; P += 2) {
            int64_t before = INT64_MAX;
            for (int32_t limit = P; limit <= 2 * P; limit++) {
                int64_t peak, slots_peak;
                const int64_t mine = made_for("v-adaptive", P, 3 * P, limit, &given[i], &given[i], &peak),
                              slots = made_for("v-adaptive", P, 3 * P, limit, &unit, &given[i], &slots_peak);
                assert_true(peak <= limit);
                if (mine > slots || mine > before)
                    fail_msg("P=%d k=%d costs %zu: %ld by costs, %ld by slots, %ld with less memory", P, limit, i, (long)mine,
                             (long)slots, (long)before);
                before = mine;
                shorter += mine < slots;
            }
        }
    }
    print_message("%d shorter\n", shorter);
    assert_true(shorter > 0);
}

/* Memory bounds for all sizes: ZB-V what 1F1B has, V-Half and V-Min what their blocks promise. */
static void v_memory(void **state)
{
    (void)state;
    for (int32_t P = 1; P <= 13; P++) {
        for (int32_t M = 1; M <= 40; M += 1 + M / 6) {
            const figures z = measure("zb-v", P, M, 2, &unit), h = measure("v-half", P, M, 2, &unit),
                          m = measure("v-min", P, M, 2, &unit);
            if (z.peak > 2 * P || h.peak > 2 * ((P + 2) / 2) || m.peak > 2 * ((P + 4) / 3))
                fail_msg("P=%d M=%d: peaks zb-v %ld, v-half %ld, v-min %ld", P, M, (long)z.peak, (long)h.peak, (long)m.peak);
            if (M >= 2 * P && z.idle != 0) fail_msg("P=%d M=%d: zb-v idle %ld", P, M, (long)z.idle);
        }
    }
}

/* The parts of a pair on their own: idle P - 1 for any M >= 2P, at most 2P + 1 stashes. Makespans of the dossier's two sizes. */
static void dualpipev(void **state)
{
    (void)state;
    for (int32_t P = 2; P <= 10; P++) {
        for (int32_t M = 2 * P; M <= 2 * P + 12; M++) expect("dualpipev", P, M, 2, &unit, P - 1, 2 * P + 1);
    }
    assert_int_equal(measure("dualpipev", 4, 10, 2, &unit).makespan, 63);
    assert_int_equal(measure("dualpipev", 8, 20, 2, &unit).makespan, 127);
    qn_order *o = NULL;
    qn_err err = {0};
    const qn_pattern pat = {.workers = 4, .items = 7, .chunks = 2};
    assert_int_equal(qn_generate(&o, "dualpipev", &pat, &err), QN_EINVAL);
    assert_non_null(strstr(err.text, "at least 8 micro-batches"));
}

/* v P stashes; idle P - 1 up to five workers or in a single round. Beyond, PyTorch's order loses time in each round. */
/* Makespan and idle time with pairs as parts or as one action. */
static void expect_pairs(const char *name, int32_t P, int32_t M, bool opaque, int64_t makespan, int64_t idle)
{
    qn_lowering how = rig_plain();
    how.opaque_pairs = opaque;
    qn_plan *p = rig_plan(name, P, M, 2, &how);
    int64_t *cost = rig_split_costs(p, 1, 1, 1, 1, 0);
    const qn_trace_summary *sum = rig_simulate(p, cost, 0, 0);
    if (makespan != 0) assert_int_equal(sum->makespan, makespan);
    for (int32_t w = 0; w < P; w++) {
        if (sum->idle_makespan[w] != idle)
            fail_msg("%s P=%d M=%d %s: worker %d idles %lld, not %lld", name, P, M, opaque ? "opaque" : "parts", w,
                     (long long)sum->idle_makespan[w], (long long)idle);
    }
    assert_true(qn_token_game(p, 0));
    free(cost);
    qn_plan_close(p);
}

/* An opaque pair doubles the bubble; the published drawing of DualPipe has opaque ones. */
static void pairs_as_parts_and_as_one(void **state)
{
    (void)state;
    expect_pairs("dualpipe", 8, 20, true, 66, 6);
    expect_pairs("dualpipe", 8, 20, false, 63, 3);
    expect_pairs("dualpipev", 4, 10, false, 63, 3);
    expect_pairs("dualpipev", 4, 10, true, 66, 6);
    expect_pairs("dualpipev", 8, 20, false, 127, 7);
    expect_pairs("dualpipev", 8, 20, true, 134, 14);
    for (int32_t P = 2; P <= 8; P += 2) {
        for (int32_t M = 2 * P; M <= 2 * P + 8; M += 2) {
            expect_pairs("dualpipe", P, M, false, 0, P / 2 - 1);
            expect_pairs("dualpipe", P, M, true, 0, 2 * (P / 2 - 1));
            expect_pairs("dualpipev", P, M, true, 0, 2 * (P - 1));
        }
    }
}

static void dualpipe_refuses(void **state)
{
    static const int32_t bad[][2] = {{3, 8}, {4, 9}, {4, 6}, {1, 2}};
    (void)state;
    for (size_t i = 0; i < QN_COUNT(bad); i++) {
        qn_err err = {0};
        qn_order *o;
        const qn_pattern pat = {.workers = bad[i][0], .items = bad[i][1], .chunks = 2};
        assert_int_equal(qn_generate(&o, "dualpipe", &pat, &err), QN_EINVAL);
        assert_true(strstr(err.text, "even") != NULL || strstr(err.text, "at least 8") != NULL);
    }
}

static void interleaved_zero_bubble(void **state)
{
    (void)state;
    for (int32_t P = 2; P <= 8; P++) {
        for (int32_t v = 2; v <= 4; v++) {
            for (int32_t rounds = 1; rounds <= (P <= 5 ? 4 : 1); rounds++)
                expect("interleaved-zb", P, rounds * P, v, &unit, P - 1, v * P);
        }
    }
    static const int64_t seven[] = {6, 11, 15, 19};
    for (int32_t k = 0; k < 4; k++) expect("interleaved-zb", 7, 7 * (k + 1), 2, &unit, seven[k], 14);
}

/* What cannot be: costs and sizes out of range, wrong chunks, more memory between B and W than F leaves. */
static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        qn_pattern pat;
        const char *says;
    } bad[] = {
        {"zb-h1", {.workers = 2, .items = 4, .chunks = 2}, "exactly 1"},
        {"zb-v", {.workers = 2, .items = 4, .chunks = 1}, "exactly 2"},
        {"looped-bfs", {.workers = 2, .items = 4, .chunks = 1}, "at least 2"},
        {"zb-1p", {.workers = 2, .items = 4, .chunks = 1, .cost = {[QN_OP_F] = -1}}, "ticks"},
        {"zb-1p", {.workers = 2, .items = 4, .chunks = 1, .stash_size = INT64_MAX}, "sizes"},
        {"zb-1p", {.workers = 2, .items = 4, .chunks = 1, .stash_size = 1, .pending_size = 100}, "between B and W"},
        {"zb-v", {.workers = 2, .items = 4, .chunks = 2, .stash_size = 1, .pending_size = 100}, "between B and W"},
    };
    for (size_t i = 0; i < QN_COUNT(bad); i++) {
        qn_order *o = NULL;
        qn_err err = {0};
        assert_int_equal(qn_generate(&o, bad[i].name, &bad[i].pat, &err), QN_EINVAL);
        if (strstr(err.text, bad[i].says) == NULL) fail_msg("%s", err.text);
        assert_null(o);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(measured_costs),
        cmocka_unit_test(handcrafted),
        cmocka_unit_test(automatic),
        cmocka_unit_test(v_family),
        cmocka_unit_test(v_family_unequal),
        cmocka_unit_test(v_memory),
        cmocka_unit_test(v_zb),
        cmocka_unit_test(adaptive_search),
        cmocka_unit_test(adaptive_by_costs),
        cmocka_unit_test(pairs_as_parts_and_as_one),
        cmocka_unit_test(dualpipe_refuses),
        cmocka_unit_test(dualpipev),
        cmocka_unit_test(interleaved_zero_bubble),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
