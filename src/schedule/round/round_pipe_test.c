/* RoundPipe's published simulator table (arXiv:2604.27085, artifact): 25 makespans, five of them its own; bubbles that stay when
 * iterations follow each other; its cuts. Ticks are 1e-8 ms, so that the inputs are exact. */
#include "round_models.h"
#include "schedule/schedule_internal.h"

/* To 3 decimals of a millisecond, 4 of a percentage. */
static void expect_time(const model *m, const char *what, int64_t got, double want)
{
    char a[32], b[32];
    snprintf(a, sizeof a, "%.3f", (double)got / 1e8);
    snprintf(b, sizeof b, "%.3f", want);
    if (strcmp(a, b) != 0) fail_msg("%s %s: %s ms, published %s", m->name, what, a, b);
}

/* ---- bound schedules: generators, plans and the simulator as they are */

/* All layers of a stage are computed again in its backward; the head belongs to the last stage and is not. */
static void bound(const model *m, const char *name, int32_t column, int32_t stages, const int32_t *layers)
{
    qn_err err = {0};
    qn_order *o = NULL;
    const qn_pattern pat = {.workers = N, .items = M, .chunks = stages / N};
    if (qn_generate(&o, name, &pat, &err) != QN_OK) fail_msg("%s", err.text);
    const qn_lowering how = rig_plain();
    qn_plan *p = rig_lower(o, &how);
    int64_t *cost = calloc((size_t)p->tasks + 1, sizeof *cost);
    for (int32_t t = 0; t < p->tasks; t++) {
        if (p->task[t].op == QN_OP_SEND || p->task[t].op == QN_OP_RECV) continue;
        const int32_t s = p->task[t].stage, n = layers[s];
        const bool head = s == stages - 1;
        cost[t] = n * (p->task[t].op == QN_OP_BW ? ticks(m->f) + ticks(m->b) : ticks(m->f));
        if (head) cost[t] += ticks(p->task[t].op == QN_OP_F ? m->head_f : m->head_b);
    }
    const qn_trace_summary *s = rig_simulate(p, cost, ticks(m->hop), INT32_MAX);
    expect_time(m, name, s->makespan, m->makespan[column]);
    expect_share(m, name, 100 * s->bubble, m->bubble[column], 4);
    free(cost);
    qn_plan_close(p);
    qn_order_close(o);
}

static void twenty_bound(void **state)
{
    (void)state;
    for (size_t k = 0; k < QN_COUNT(models); k++) {
        const model m = complete(models[k]);
        bound(&m, "1f1b", 0, N, m.eight);
        bound(&m, "gpipe", 1, N, m.eight);
        int32_t layers[MOST], stages = 0;
        for (int32_t i = 0; i < m.ones_from; i++) layers[stages++] = 0;
        for (int32_t i = 0; i < m.ones; i++) layers[stages++] = 1;
        for (int32_t i = 0; i < m.twos; i++) layers[stages++] = 2;
        for (int32_t i = 0; i < m.tail; i++) layers[stages++] = 0;
        assert_int_equal(stages % N, 0);
        bound(&m, "interleaved", 2, stages, layers);
        bound(&m, "looped-bfs", 3, stages, layers);
    }
}

/* ---- RoundPipe */

/* A message from task `from` to task `to`: SEND, RECV and a channel of its own. */
static void message(qni_builder *b, int32_t from, int32_t to)
{
    const int32_t a = b->task[from].worker, c = b->task[to].worker;
    if (a == c) {
        qni_add_link(b, to, QNI_WAIT, from);
        return;
    }
    const int32_t ch = qni_add_channel(b, (qn_channel){a, c, QN_V_ACT, 0, 1, 1, 0, 0});
    const int32_t sent = qni_add_value(b, QN_V_ACT, 0, 0, a, 1), got = qni_add_value(b, QN_V_ACT, 0, 0, c, 1);
    const int32_t send = qni_add_task(b, QN_OP_SEND, 0, 0, a, QN_LANE_SEND),
                  recv = qni_add_task(b, QN_OP_RECV, 0, 0, c, QN_LANE_RECV);
    b->key[send] = b->key[from];
    b->key[recv] = b->key[to];
    b->task[send].channel = b->task[recv].channel = ch;
    b->task[send].cost = b->task[recv].cost = 0;
    qni_add_link(b, from, QNI_OUT, sent);
    qni_add_link(b, send, QNI_IN, sent);
    qni_add_link(b, recv, QNI_OUT, got);
    qni_add_link(b, to, QNI_IN, got);
}

/* One round of the plan: F, then (R), BW in every slot; only the BW waits for messages, as in the paper's simulator. */
static void add_round(qni_builder *b, const qn_round_shape *s, int32_t g0, int64_t *at)
{
    static int32_t before[N], input[N], now[N];
    for (int32_t slot = 0; slot < s->forward_stages + s->backward_stages; slot++) {
        const int32_t w = (g0 + slot) % N, k = slot - s->forward_stages;
        for (int32_t i = 0; i < N; i++) {
            if (k >= 0) {
                const int32_t r = qni_add_task(b, QN_OP_R, slot, i, w, QN_LANE_COMP);
                b->key[r] = (*at)++;
                b->task[r].cost = s->recompute[k];
            }
            const int32_t t = now[i] = qni_add_task(b, k < 0 ? QN_OP_F : QN_OP_BW, slot, i, w, QN_LANE_COMP);
            b->key[t] = (*at)++;
            b->task[t].cost = k < 0 ? s->forward[slot] : s->backward[k];
            if (slot > 0) message(b, before[i], t);
            if (k > 0) message(b, input[i], t);
        }
        memcpy(before, now, sizeof now);
        if (slot == s->forward_stages - 1) memcpy(input, now, sizeof now);
    }
}

/* The same rounds as a plan, timed by the simulator. */
static int64_t simulated(const qn_round_shape *s, const int32_t *g0)
{
    static int32_t home[2 * MOST];
    qn_err err = {0};
    qni_builder b = {0};
    qn_plan *p = NULL;
    int64_t at = 0;
    for (int32_t round = 0; round < M / N; round++) add_round(&b, s, g0[round], &at);
    assert_int_equal(qni_builder_plan(&p, &b, N, 2 * MOST, M, home, NULL, &err), QN_OK);
    if (qn_plan_finish(p, &err) != QN_OK) fail_msg("%s", err.text);
    const int64_t makespan = rig_simulate(p, NULL, s->hop, INT32_MAX)->makespan;
    qn_plan_close(p);
    qni_builder_fini(&b);
    return makespan;
}

static void five_of_its_own(void **state)
{
    (void)state;
    for (size_t k = 0; k < QN_COUNT(models); k++) {
        const model m = complete(models[k]);
        stage_times times;
        qn_round_shape s = shape_of(&times, &m);
        qn_round_time t;
        int32_t g0[2];
        qn_err err = {0};
        assert_int_equal(qn_round_simulate(&t, g0, NULL, NULL, &s, &err), QN_OK);
        const double whole = (double)t.makespan * N;
        expect_time(&m, "roundpipe", t.makespan, m.makespan[4]);
        expect_share(&m, "bubble", 100 * (1 - (double)t.busy / whole), m.bubble[4], 4);
        expect_share(&m, "fill", 100 * (double)t.fill / whole, m.fill, 4);
        expect_share(&m, "drain", 100 * (double)t.drain / whole, m.drain, 4);
        assert_int_equal(simulated(&s, g0), t.makespan);
    }
}

/* Twelve iterations behind each other, g0 going on by S: what is idle per iteration once the cursor has been everywhere. Figures
 * known with two digits (4.50, 2.22, 4.21, 3.45, 1.11) are these rounded once more. */
static void chained(void **state)
{
    (void)state;
    for (size_t k = 0; k < QN_COUNT(models); k++) {
        const model m = complete(models[k]);
        stage_times times;
        qn_round_shape s = shape_of(&times, &m);
        s.iterations = 12;
        s.free_first = false;
        qn_round_time t;
        int64_t end[12], busy[12];
        qn_err err = {0};
        assert_int_equal(qn_round_simulate(&t, NULL, end, busy, &s, &err), QN_OK);
        expect_share(&m, "chained", 100 * (1 - (double)(busy[11] - busy[3]) / (double)(end[11] - end[3]) / N), m.chained, 3);
    }
}

/* What the table cannot be held to: with the head's forward behind its input two makespans are longer. */
static void as_it_can_run(void **state)
{
    (void)state;
    static const double want[] = {2286.017, 6100.545, 7371.391, 24042.834, 28250.032};
    for (size_t k = 0; k < QN_COUNT(models); k++) {
        const model m = complete(models[k]);
        stage_times times;
        qn_round_shape s = shape_of(&times, &m);
        s.input_late = false;
        qn_round_time t;
        qn_err err = {0};
        assert_int_equal(qn_round_simulate(&t, NULL, NULL, NULL, &s, &err), QN_OK);
        expect_time(&m, "input first", t.makespan, want[k]);
    }
}

/* Equal stages, one iteration, free messages: N (N - 1) / (M S + N (N - 1)) of the time is idle. */
static void bubble_formula(void **state)
{
    (void)state;
    for (int32_t n = 1; n <= 6; n++) {
        for (int32_t extra = 0; extra <= 7; extra++) {
            for (int32_t items = n; items <= 3 * n; items += n) {
                int64_t one[16], none[16] = {0};
                for (int32_t i = 0; i < 16; i++) one[i] = 1;
                const int32_t S = n + extra;
                qn_round_shape s = {.workers = n,
                                    .items = items,
                                    .round_items = n,
                                    .iterations = 1,
                                    .forward_stages = S / 3,
                                    .backward_stages = S - S / 3,
                                    .forward = one,
                                    .recompute = none,
                                    .backward = one};
                qn_round_time t;
                qn_err err = {0};
                assert_int_equal(qn_round_simulate(&t, NULL, NULL, NULL, &s, &err), QN_OK);
                assert_int_equal(t.busy, (int64_t)items * S);
                assert_int_equal(n * t.makespan - t.busy, (int64_t)n * (n - 1));
            }
        }
    }
}

/* ---- cuts */

static void expect_cut(const qn_round_cut *cut, const char *want)
{
    char got[512] = "";
    for (int32_t k = 0; k < 2; k++) {
        const int32_t n = k == 0 ? cut->forward_stages : cut->backward_stages, *list = k == 0 ? cut->forward : cut->backward;
        for (int32_t i = 0; i < n; i++)
            snprintf(got + strlen(got), sizeof got - strlen(got), "%s%d", i > 0 ? "," : k > 0 ? "|" : "", list[i]);
    }
    if (strcmp(got, want) != 0) fail_msg("cut [%s], not [%s]", got, want);
}

/* The 28 layers of Qwen3-1.7B and its head: greedy cuts leave a short first stage, which costs 24.6 % of the time; evened out it
 * is the published row. The head is a layer of its own here, which the published notation does not count. */
static void evening_out(void **state)
{
    (void)state;
    const model *m = &qwen_1_7;
    int64_t f[29], r[29], b[29];
    int32_t forward[29], backward[29];
    for (int32_t i = 0; i < 29; i++) {
        f[i] = r[i] = ticks(i < 28 ? m->f : m->head_f);
        b[i] = ticks(i < 28 ? m->b : m->head_b);
    }
    qn_round_layers in = {.layers = 29,
                          .workers = N,
                          .items = M,
                          .forward = f,
                          .recompute = r,
                          .backward = b,
                          .hop = ticks(m->hop),
                          .greedy_only = true};
    qn_round_cut cut = {.forward = forward, .backward = backward};
    qn_err err = {0};
    for (int32_t k = 0; k < 2; k++) {
        in.greedy_only = k == 0;
        assert_int_equal(qn_round_partition(&cut, NULL, &in, &err), QN_OK);
        expect_cut(&cut, k == 0 ? "1,9,9,9|1,1,3,3,3,3,3,3,3,3,3" : "7,7,7,7|1,3,3,3,3,3,3,3,3,2,2");
        model other = *m;
        other.forward_stages = cut.forward_stages;
        other.backward_stages = cut.backward_stages;
        memcpy(other.forward, forward, sizeof forward);
        memcpy(other.backward, backward, sizeof backward);
        other.backward[0]--; /* the head is counted apart */
        stage_times times;
        const qn_round_shape s = shape_of(&times, &other);
        qn_round_time t;
        assert_int_equal(qn_round_simulate(&t, NULL, NULL, NULL, &s, &err), QN_OK);
        const double bubble = 100 * (1 - (double)t.busy / (double)t.makespan / N);
        expect_share(m, k == 0 ? "greedy" : "evened out", bubble, k == 0 ? 24.6 : 19.0676, k == 0 ? 1 : 4);
    }
}

/* Random layers: each is in both cuts once, in order, no stage longer than 1.1 of the longest layer or larger than half the
 * limit, evening out never makes it slower; pieces are what both cuts leave whole. */
static void cuts_hold(void **state)
{
    (void)state;
    const char *env = getenv("QUERN_TEST_SEED");
    const uint64_t seed = env != NULL ? strtoull(env, NULL, 10) : 27085;
    print_message("seed %llu (QUERN_TEST_SEED)\n", (unsigned long long)seed);
    for (uint32_t turn = 0; turn < 2000; turn++) {
        qn_rng r = qn_rng_of((qn_rng_key){.seed = seed, .sample = turn});
        int64_t f[12], rec[12], b[12], size[12], longest = 0, largest = 0, limit = 0;
        int32_t forward[12], backward[12], first[13], fslot[12], bslot[12];
        const int32_t L = 1 + (int32_t)qn_rng_below(&r, 12);
        for (int32_t i = 0; i < L; i++) {
            f[i] = rec[i] = 10 + (int64_t)qn_rng_below(&r, 20);
            b[i] = 2 * f[i] + (int64_t)qn_rng_below(&r, 5);
            size[i] = 1 + (int64_t)qn_rng_below(&r, 9);
            longest = qn_max64(longest, f[i] + b[i]);
            largest = qn_max64(largest, size[i]);
        }
        qn_round_layers in = {.layers = L,
                              .workers = 1 + (int32_t)qn_rng_below(&r, 4),
                              .items = 1 + (int32_t)qn_rng_below(&r, 8),
                              .forward = f,
                              .recompute = rec,
                              .backward = b,
                              .forward_bytes = size,
                              .backward_bytes = size,
                              .limit = (int64_t)qn_rng_below(&r, 30),
                              .hop = (int64_t)qn_rng_below(&r, 3)};
        qn_round_cut cut = {.forward = forward, .backward = backward};
        qn_err err = {0};
        assert_int_equal(qn_round_partition(&cut, &limit, &in, &err), QN_OK);
        assert_true(in.limit == 0 ? limit == 0
                                  : limit == qn_max64(in.limit, 2 * largest) || limit == in.limit / 2 * 2 + in.limit % 2);
        const int64_t half = in.limit > 0 ? limit / 2 : INT64_MAX, most = longest + longest / 10;
        int32_t layer = 0;
        for (int32_t k = 0; k < cut.forward_stages; k++) {
            int64_t t = 0, bytes = 0;
            for (int32_t i = 0; i < forward[k]; i++, layer++) t += f[layer], bytes += size[layer];
            assert_true(forward[k] > 0 && t <= most && (bytes <= half || forward[k] == 1));
        }
        assert_int_equal(layer, L - backward[0]);
        layer = L;
        for (int32_t k = 0; k < cut.backward_stages; k++) {
            int64_t t = 0, bytes = 0;
            for (int32_t i = 0; i < backward[k]; i++) layer--, t += rec[layer] + b[layer], bytes += size[layer];
            assert_true(backward[k] > 0 && t <= most && (bytes <= half || backward[k] == 1));
        }
        assert_int_equal(layer, 0);
        const int32_t pieces = qn_round_pieces(first, fslot, bslot, &cut);
        for (int32_t p = 0; p < pieces; p++) {
            assert_true(first[p] < first[p + 1] && (p == 0 || (fslot[p] >= fslot[p - 1] && bslot[p] <= bslot[p - 1])));
            assert_true(p == 0 || fslot[p] > fslot[p - 1] || bslot[p] < bslot[p - 1]);
            assert_true((fslot[p] == bslot[p]) == (first[p] >= L - backward[0]));
        }
        assert_true(first[0] == 0 && first[pieces] == L && fslot[0] == 0);
    }
    qn_err err = {0};
    const int64_t one[1] = {1};
    qn_round_cut cut = {0};
    const qn_round_layers none = {.layers = 0, .workers = 1, .items = 1, .forward = one, .recompute = one, .backward = one};
    assert_int_equal(qn_round_partition(&cut, NULL, &none, &err), QN_EINVAL);
    assert_non_null(strstr(err.text, "0 layers"));
}

/* Random layers, cut, as an order over pieces: it lowers and plays, each piece is where its slots say, and where one item at a
 * time passes it takes as long as the slots do. */
static void orders_of_pieces(void **state)
{
    (void)state;
    for (uint32_t turn = 0; turn < 600; turn++) {
        qn_rng r = qn_rng_of((qn_rng_key){.seed = 15, .sample = turn});
        int64_t f[12], b[12], stage_f[12] = {0}, stage_r[12] = {0}, stage_b[12] = {0};
        int32_t forward[12], backward[12], first[13], fslot[12], bslot[12];
        const int32_t L = 1 + (int32_t)qn_rng_below(&r, 12), P = 1 + (int32_t)qn_rng_below(&r, 5),
                      items = 1 + (int32_t)qn_rng_below(&r, 8);
        for (int32_t i = 0; i < L; i++) {
            f[i] = 10 + (int64_t)qn_rng_below(&r, 10);
            b[i] = 2 * f[i];
        }
        const qn_round_layers in = {
            .layers = L, .workers = P, .items = items, .forward = f, .recompute = f, .backward = b, .hop = 2};
        qn_round_cut cut = {.forward = forward, .backward = backward};
        qn_err err = {0};
        assert_int_equal(qn_round_partition(&cut, NULL, &in, &err), QN_OK);
        const int32_t pieces = qn_round_pieces(first, fslot, bslot, &cut);
        const qn_pattern pat = {
            .workers = P, .items = items, .chunks = 1, .pieces = pieces, .forward_slot = fslot, .backward_slot = bslot};
        qn_order *o = NULL;
        if (qn_generate(&o, "roundpipe", &pat, &err) != QN_OK) fail_msg("%s", err.text);
        assert_int_equal(o->stages, pieces);
        static const int64_t zero[12];
        qn_lowering how = rig_plain();
        how.act_bytes = how.stash_bytes = zero; /* bytes that are shared make tasks wait, and so do short channels */
        how.depth = 64;
        qn_plan *p = rig_lower(o, &how);
        assert_true(qn_token_game(p, 0));
        int64_t *cost = calloc((size_t)p->tasks + 1, sizeof *cost);
        for (int32_t t = 0; t < p->tasks; t++) {
            const qn_task *x = &p->task[t];
            if (x->op == QN_OP_SEND || x->op == QN_OP_RECV) continue;
            assert_int_equal(x->worker, (x->op == QN_OP_F ? fslot : bslot)[x->stage] % P);
            for (int32_t i = first[x->stage]; i < first[x->stage + 1]; i++) cost[t] += x->op == QN_OP_BW ? b[i] : f[i];
        }
        for (int32_t q = 0; q < pieces; q++) {
            for (int32_t i = first[q]; i < first[q + 1]; i++) {
                const bool fused = fslot[q] == bslot[q];
                if (!fused) stage_f[fslot[q]] += f[i];
                stage_r[bslot[q] - cut.forward_stages] += f[i];
                stage_b[bslot[q] - cut.forward_stages] += b[i];
            }
        }
        const qn_round_shape s = {.workers = P,
                                  .items = items,
                                  .round_items = items,
                                  .iterations = 1,
                                  .forward_stages = cut.forward_stages,
                                  .backward_stages = cut.backward_stages,
                                  .forward = stage_f,
                                  .recompute = stage_r,
                                  .backward = stage_b,
                                  .hop = 2};
        qn_round_time t;
        assert_int_equal(qn_round_simulate(&t, NULL, NULL, NULL, &s, &err), QN_OK);
        const int64_t got = rig_simulate(p, cost, 2, INT32_MAX)->makespan;
        if (got != t.makespan) fail_msg("turn %u: P=%d M=%d: %ld, slots %ld", turn, P, items, (long)got, (long)t.makespan);
        free(cost);
        qn_plan_close(p);
        qn_order_close(o);
    }
}

static void refused_slots(void **state)
{
    (void)state;
    static const int32_t bad[][2][3] = {
        {{0, 1, 1}, {2, 1, 2}}, {{0, 1, 1}, {1, 1, 1}}, {{1, 0, 2}, {4, 3, 2}}, {{0, 1, 2}, {3, 4, 2}}, {{-1, 1, 2}, {4, 3, 2}}};
    for (size_t i = 0; i < QN_COUNT(bad); i++) {
        const qn_pattern pat = {
            .workers = 2, .items = 2, .chunks = 1, .pieces = 3, .forward_slot = bad[i][0], .backward_slot = bad[i][1]};
        qn_order *o = NULL;
        qn_err err = {0};
        assert_int_equal(qn_generate(&o, "roundpipe", &pat, &err), QN_EINVAL);
        assert_non_null(strstr(err.text, "slot"));
    }
    qn_order *o = NULL;
    qn_err err = {0};
    assert_int_equal(qn_generate(&o, "superpipe", &(qn_pattern){.workers = 2, .items = 2, .chunks = 4}, &err), QN_EINVAL);
    assert_non_null(strstr(err.text, "1 is possible"));
    const qn_pattern window = {.workers = 1, .items = 2, .chunks = 4, .window = 2, .window_group = 3};
    assert_int_equal(qn_generate(&o, "superpipe", &window, &err), QN_EINVAL);
    assert_non_null(strstr(err.text, "k' from 1 to k"));
    assert_int_equal(qn_generate(&o, "gpipe", &(qn_pattern){.workers = 2, .items = 2, .chunks = 1, .pieces = 3}, &err),
                     QN_EINVAL);
    assert_null(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(twenty_bound),  cmocka_unit_test(five_of_its_own),  cmocka_unit_test(chained),
        cmocka_unit_test(as_it_can_run), cmocka_unit_test(bubble_formula),   cmocka_unit_test(evening_out),
        cmocka_unit_test(cuts_hold),     cmocka_unit_test(orders_of_pieces), cmocka_unit_test(refused_slots)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
