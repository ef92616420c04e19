/* Plans with tiers: every schedule lowers to a live plan, loads are as many as the window's paper says, arenas as large, chunks
 * as even. */
#include "schedule/schedule_rig.h"

enum { W = 1000 * 64, ACT = 64, STASH = 128 }; /* bytes of a piece's weights, of an activation, of a stash */

/* n pieces with weights of W bytes in chunks of W / chunks, all alike. */
typedef struct sizes {
    int32_t first[65];
    int64_t chunk[256], packed[64], pgrad[64], act[64], stash[64];
    qn_tiers tiers;
} sizes;

static const qn_tiers *fill(sizes *z, int32_t n, int32_t chunks, int32_t k, int32_t replace)
{
    for (int32_t s = 0; s < n; s++) {
        z->first[s] = s * chunks;
        for (int32_t c = 0; c < chunks; c++) z->chunk[s * chunks + c] = W / chunks;
        z->packed[s] = 0;
        z->pgrad[s] = W;
        z->act[s] = ACT;
        z->stash[s] = STASH;
    }
    z->first[n] = n * chunks;
    z->tiers = (qn_tiers){.window = k,
                          .replace = replace,
                          .chunk_first = z->first,
                          .chunk_bytes = z->chunk,
                          .packed_bytes = z->packed,
                          .pgrad_bytes = z->pgrad,
                          .bytes_per_tick = 64};
    return &z->tiers;
}

static qn_lowering lowering(const sizes *z)
{
    return (qn_lowering){.act_bytes = z->act,
                         .stash_bytes = z->stash,
                         .step_tasks = true,
                         .stat_bytes = 64,
                         .tied_owner = QN_NONE,
                         .tied_replica = QN_NONE,
                         .tiers = &z->tiers};
}

static int64_t moved(const qn_plan *p, int32_t op, int32_t cls)
{
    int64_t bytes = 0;
    for (int32_t t = 0; t < p->tasks; t++)
        if (p->task[t].op == op && p->value[p->ref[p->task[t].in.first]].cls == cls)
            bytes += p->value[p->ref[p->task[t].in.first]].bytes;
    return bytes;
}

static void round_trip(const qn_plan *p)
{
    qn_err err = {0};
    char *text = NULL, *again = NULL;
    qn_plan *q = NULL;
    assert_int_equal(qn_plan_write(&text, p, &err), QN_OK);
    if (qn_plan_read(&q, text, strlen(text), &err) != QN_OK) fail_msg("%s", err.text);
    if (qn_plan_validate(q, &err) != QN_OK) fail_msg("%s", err.text);
    assert_int_equal(qn_plan_write(&again, q, &err), QN_OK);
    assert_string_equal(text, again);
    qn_free(text);
    qn_free(again);
    qn_plan_close(q);
}

/* A chain walked piece by piece, forward and back, n pieces on one worker. */
static qn_order *walk(int32_t n, int32_t M)
{
    qn_order *o = NULL;
    qn_err err = {0};
    assert_int_equal(qn_order_open(&o, 1, n, M, &err), QN_OK);
    for (int32_t s = 0; s < n; s++)
        for (int32_t m = 0; m < M; m++) qn_order_push(o, 0, QN_OP_F, s, m);
    for (int32_t s = n; s-- > 0;)
        for (int32_t m = 0; m < M; m++) qn_order_push(o, 0, QN_OP_BW, s, m);
    return o;
}

/* Superpipeline's exact checks 2, 3 and 5 on the plan: 2n - k loads, n gradients down, no weights down, k pieces in the arena. */
static void windows_load_what_they_must(void **state)
{
    (void)state;
    for (int32_t n = 1; n <= 8; n++) {
        for (int32_t M = 1; M <= 4; M++) {
            qn_order *o = walk(n, M);
            for (int32_t k = 1; k <= n; k++) {
                for (int32_t r = 1; r <= k; r++) {
                    sizes z;
                    fill(&z, n, 1 + M % 3, k, r);
                    z.tiers.chunk_bytes = z.chunk;
                    qn_lowering how = lowering(&z);
                    qn_plan *p = rig_lower(o, &how);
                    const int64_t w = z.chunk[0] * (1 + M % 3);
                    assert_int_equal(moved(p, QN_OP_LOAD, QN_V_PARAM), (2 * n - k) * w);
                    assert_int_equal(moved(p, QN_OP_OFFLOAD, QN_V_PGRAD), n * (int64_t)W);
                    assert_int_equal(moved(p, QN_OP_OFFLOAD, QN_V_PARAM), 0);
                    /* weights, two gradients, two stashes, four inputs and outputs, and alignment of the chunks */
                    const int64_t acts = 2 * (int64_t)W + (M > 1 ? 2 : 1) * STASH + 6 * ACT + 64 * 8;
                    if (p->arena_bytes[0] > k * (w + 64 * 4) + acts)
                        fail_msg("n=%d M=%d k=%d k'=%d: %lld bytes", n, M, k, r, (long long)p->arena_bytes[0]);
                    assert_true(qn_token_game(p, 0));
                    if (n < 5 && M == 2) round_trip(p);
                    qn_plan_close(p);
                    how.forward_only = true;
                    p = rig_lower(o, &how);
                    assert_int_equal(moved(p, QN_OP_LOAD, QN_V_PARAM), n * w);
                    qn_plan_close(p);
                }
            }
            qn_order_close(o);
        }
    }
}

/* Peak memory depends on neither the number of pieces nor that of micro-batches nor that of devices. */
static void memory_is_that_of_the_window(void **state)
{
    (void)state;
    int64_t peak = 0;
    for (int32_t n = 6; n <= 40; n += 17) {
        for (int32_t M = 4; M <= 12; M += 4) {
            sizes z;
            qn_order *o = walk(n, M);
            fill(&z, n, 1, 2, 1);
            const qn_lowering how = lowering(&z);
            qn_plan *p = rig_lower(o, &how);
            if (peak == 0) peak = p->arena_bytes[0];
            assert_int_equal(p->arena_bytes[0], peak);
            qn_plan_close(p);
            qn_order_close(o);
        }
    }
}

static void every_schedule_lowers(void **state)
{
    (void)state;
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        for (int32_t P = 1; P <= 4; P++) {
            for (int32_t M = P; M <= 2 * P + 2; M++) {
                if (!rig_possible(g, P, M)) continue;
                qn_order *o = rig_generate(g->name, P, M, g->usual_chunks, 0);
                if (o->columns > 1 || o->stages > 60) {
                    qn_order_close(o);
                    continue;
                }
                for (int32_t k = 1; k <= 3; k++) {
                    sizes z;
                    fill(&z, o->stages, 2, k, 1 + (M + k) % k);
                    z.tiers.lag = M % 2;
                    const qn_lowering how = lowering(&z);
                    qn_plan *p = rig_lower(o, &how);
                    assert_true(qn_token_game(p, 0));
                    qn_plan_close(p);
                }
                qn_order_close(o);
            }
        }
    }
}

/* Stages of two pieces dealt to N devices in turn, forward and backward alike, the last one fused: all micro-batches of a stage
 * before the next; pieces inside a stage either each for all micro-batches or all for each. */
static qn_order *dealt(int32_t N, int32_t slots, int32_t M, bool by_item)
{
    qn_order *o = NULL;
    qn_err err = {0};
    assert_int_equal(qn_order_open(&o, N, 2 * slots, M, &err), QN_OK);
    assert_int_equal(qn_order_split_backward(o, &err), QN_OK);
    for (int32_t i = 0; i < 2 * slots - 1; i++) {
        const bool back = i >= slots;
        const int32_t slot = back ? 2 * slots - 2 - i : i, w = i % N;
        const int32_t outer = by_item ? M : 2, inner = by_item ? 2 : M;
        for (int32_t a = 0; a < 2; a++) {
            if (!back) o->worker_of[2 * slot + a] = w;
            if (back || slot == slots - 1) o->backward_of[2 * slot + a] = w;
        }
        for (int32_t pass = slot == slots - 1 || !back ? 0 : 1; pass < (back || slot == slots - 1 ? 2 : 1); pass++) {
            for (int32_t x = 0; x < outer; x++) {
                for (int32_t y = 0; y < inner; y++) {
                    const int32_t piece = by_item ? y : x, m = by_item ? x : y;
                    if (pass == 0)
                        qn_order_push(o, w, QN_OP_F, 2 * slot + piece, m);
                    else
                        qn_order_push(o, w, QN_OP_BW, 2 * slot + 1 - piece, m);
                }
            }
        }
    }
    return o;
}

static void stages_go_round(void **state)
{
    (void)state;
    for (int32_t N = 1; N <= 3; N++) {
        for (int32_t slots = 1; slots <= 5; slots++) {
            for (int32_t M = 1; M <= 4; M++) {
                for (int32_t k = 1; k <= 3; k++) {
                    for (int32_t lag = 0; lag < 2; lag++) {
                        for (int32_t by_item = 0; by_item < 2; by_item++) {
                            sizes z;
                            qn_order *o = dealt(N, slots, M, by_item);
                            fill(&z, 2 * slots, 3, k, 1);
                            z.tiers.lag = lag;
                            const qn_lowering how = lowering(&z);
                            qn_plan *p = rig_lower(o, &how);
                            assert_true(qn_token_game(p, 0));
                            if (M == 2 && k == 2 && slots == 3) round_trip(p);
                            qn_plan_close(p);
                            qn_order_close(o);
                        }
                    }
                }
            }
        }
    }
}

/* Replicas load from the first one's copies; the host's tasks are of its stages alone; a flight in which the LOADs of another
 * replica do not wait for them is refused. */
static void replicas_have_one_host(void **state)
{
    static const char *const names[] = {"1f1b", "zb-v", "dualpipe", "gpipe"};
    (void)state;
    for (size_t i = 0; i < 16; i++) {
        qn_err err = {0};
        const int32_t R = 1 + (int32_t)(i / 4 % 2), v = qn_generator_find(names[i % 4])->usual_chunks;
        qn_order *base = rig_generate(names[i % 4], 2, 4, v, 0), *o = NULL;
        assert_int_equal(qn_order_widen(&o, base, R, 1, 1, &err), QN_OK);
        sizes z;
        fill(&z, o->stages, 2, 1 + (int32_t)i % 2, 1);
        z.tiers.groups = 4;
        z.tiers.lag = (int32_t)i / 8;
        const qn_lowering how = lowering(&z);
        qn_plan *p = rig_lower(o, &how), *flight = NULL;
        const qn_grid g = qn_plan_grid(p);
        assert_true(qn_token_game(p, 0));
        round_trip(p);
        int32_t steps = 0;
        for (int32_t t = 0; t < p->tasks; t++) {
            const qn_task *x = &p->task[t];
            if (x->op == QN_OP_LOAD && p->value[p->ref[x->in.first]].cls == QN_V_PARAM)
                assert_int_equal(p->value[p->ref[x->in.first]].stage, qn_in_first_replica(g, x->stage));
            steps += x->op == QN_OP_OPT;
            if (x->lane == QN_LANE_HOST && x->stage != QN_NONE) assert_true(x->stage < qn_depth(g));
        }
        assert_int_equal(steps, qn_depth(g));
        if (qn_plan_chain(&flight, p, 2, NULL, &err) != QN_OK) fail_msg("%s", err.text);
        assert_true(qn_token_game(flight, 0));
        int32_t refused = 0;
        for (int32_t t = 0; t < flight->tasks && g.columns > 1; t++) {
            qn_task *x = &flight->task[t];
            const int32_t waits = x->wait.count;
            if (x->op != QN_OP_LOAD || x->step == 0 || x->stage < qn_depth(g) || waits == 0) continue;
            x->wait.count = 0;
            refused += qn_plan_validate(flight, &err) == QN_ESCHEDULE && strstr(err.text, "brings up weights") != NULL;
            x->wait.count = waits;
        }
        assert_true(refused > 0 || g.columns == 1);
        qn_plan_close(flight);
        qn_plan_close(p);
        z.chunk[2 * (o->stages - 1)]++; /* the last stage's weights in other chunks than its copy's */
        if (g.columns > 1) {
            assert_int_equal(qn_lower(&p, o, &how, &err), QN_EINVAL);
            assert_non_null(strstr(err.text, "other chunks"));
        }
        qn_order_close(o);
        qn_order_close(base);
    }
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    qn_err err = {0};
    qn_plan *p = NULL;
    sizes z;
    qn_order *o = walk(4, 2);
    int64_t limit = 3 * W;
    fill(&z, 4, 1, 2, 3);
    qn_lowering how = lowering(&z);
    assert_int_equal(qn_lower(&p, o, &how, &err), QN_ERANGE);
    fill(&z, 4, 1, 2, 1);
    how.arena_limit = &limit;
    assert_int_equal(qn_lower(&p, o, &how, &err), QN_ESCHEDULE);
    assert_non_null(strstr(err.text, "worker 0 needs"));
    qn_order_close(o);
}

/* The best largest chunk, by trying all. */
static int64_t best(const int64_t *bytes, int32_t n, int32_t chunks, int64_t *load, int32_t at)
{
    int64_t most = 0, found = INT64_MAX;
    if (at == n) {
        for (int32_t c = 0; c < chunks; c++) most = qn_max64(most, load[c]);
        return most;
    }
    for (int32_t c = 0; c < chunks; c++) {
        load[c] += bytes[at];
        found = qn_min64(found, best(bytes, n, chunks, load, at + 1));
        load[c] -= bytes[at];
        if (load[c] == 0) break; /* empty chunks are alike */
    }
    return found;
}

static void chunks_are_even(void **state)
{
    (void)state;
    uint64_t r = 12345;
    for (int32_t n = 1; n <= 10; n++) {
        for (int32_t chunks = 1; chunks <= 4; chunks++) {
            for (int32_t round = 0; round < 12; round++) {
                int64_t bytes[10], load[4] = {0}, sum[4] = {0}, most = 0;
                int32_t of[10];
                qn_err err = {0};
                for (int32_t i = 0; i < n; i++) {
                    r = r * 6364136223846793005U + 1442695040888963407U;
                    bytes[i] = 1 + (int64_t)((r >> 33) % (round % 2 == 0 ? 10 : 1000));
                }
                assert_int_equal(qn_lpt_chunks(of, bytes, n, chunks, &err), QN_OK);
                for (int32_t i = 0; i < n; i++) sum[of[i]] += bytes[i];
                for (int32_t c = 0; c < chunks; c++) {
                    most = qn_max64(most, sum[c]);
                    if (c > 0) assert_true(sum[c - 1] <= sum[c]);
                }
                assert_true(3 * most <= 4 * best(bytes, n, chunks, load, 0));
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(windows_load_what_they_must),
                                       cmocka_unit_test(memory_is_that_of_the_window),
                                       cmocka_unit_test(every_schedule_lowers),
                                       cmocka_unit_test(stages_go_round),
                                       cmocka_unit_test(replicas_have_one_host),
                                       cmocka_unit_test(what_cannot_be_is_refused),
                                       cmocka_unit_test(chunks_are_even)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
