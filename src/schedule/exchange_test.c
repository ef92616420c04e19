/* Workers in a ring that exchange with both neighbours through channels that hold nothing, one call after another on one lane, as
 * in interleaved 1F1B (Megatron-LM, arXiv:2104.04473): workers of even rank send on, receive from behind, send back, receive from
 * ahead; odd ones receive first. Live whatever the delays; a deadlock where all keep the same order. */
#include "schedule_rig.h"

#include "schedule/schedule_internal.h"

enum { FORWARD, BACKWARD };
typedef enum rule { ODD_EVEN, ALL_EVEN, ALL_ODD } rule;

/* value: [2][2][P][rounds]: direction, 0 at the sender and 1 at the receiver, sender */
static int32_t *value_of(int32_t *value, int32_t P, int32_t rounds, int32_t dir, int32_t end, int32_t from, int32_t k)
{
    return &value[(((dir * 2 + end) * P) + from) * rounds + k];
}

static void add_message(qni_builder *b, bool send, int32_t dir, int32_t P, int32_t w, int32_t from, int32_t k, int64_t key,
                        int32_t value)
{
    const int32_t t = qni_add_task(b, send ? QN_OP_SEND : QN_OP_RECV, w, k, w, QN_LANE_COMP);
    b->key[t] = key;
    b->task[t].channel = dir * P + from;
    qni_add_link(b, t, send ? QNI_IN : QNI_OUT, value);
}

static qn_plan *ring(int32_t P, int32_t rounds, rule r)
{
    static const struct {
        bool send;
        int32_t dir;
    } order[2][4] = {{{true, FORWARD}, {false, FORWARD}, {true, BACKWARD}, {false, BACKWARD}},
                     {{false, FORWARD}, {true, FORWARD}, {false, BACKWARD}, {true, BACKWARD}}};
    qn_err err = {0};
    qni_builder b = {0};
    qn_plan *p = NULL;
    int32_t place[8], *value = calloc((size_t)(4 * P * rounds), sizeof *value);
    for (int32_t dir = 0; dir < 2; dir++) {
        for (int32_t w = 0; w < P; w++) {
            const int32_t to = (w + (dir == FORWARD ? 1 : P - 1)) % P;
            place[w] = w;
            qni_add_channel(&b, (qn_channel){w, to, dir == FORWARD ? QN_V_ACT : QN_V_GRAD, dir == FORWARD ? to : w, 0, 1, 0, 0});
            for (int32_t k = 0; k < rounds; k++) {
                *value_of(value, P, rounds, dir, 0, w, k) = qni_add_value(&b, dir == FORWARD ? QN_V_ACT : QN_V_GRAD, w, k, w, 1);
                *value_of(value, P, rounds, dir, 1, w, k) = qni_add_value(&b, dir == FORWARD ? QN_V_ACT : QN_V_GRAD, w, k, to, 1);
            }
        }
    }
    for (int32_t w = 0; w < P; w++) {
        const int32_t odd = r == ODD_EVEN ? w % 2 : r == ALL_ODD;
        for (int32_t k = 0; k < rounds; k++) {
            const int32_t f = qni_add_task(&b, QN_OP_F, w, k, w, QN_LANE_COMP);
            b.key[f] = 8 * k;
            for (int32_t i = 0; i < 4; i++) {
                const int32_t dir = order[odd][i].dir, behind = (w + (dir == FORWARD ? P - 1 : 1)) % P;
                const bool send = order[odd][i].send;
                const int32_t v = *value_of(value, P, rounds, dir, !send, send ? w : behind, k);
                if (send) qni_add_link(&b, f, QNI_OUT, v);
                add_message(&b, send, dir, P, w, send ? w : behind, k, 8 * k + 1 + i, v);
            }
        }
    }
    assert_int_equal(qni_builder_plan(&p, &b, P, P, rounds, place, NULL, &err), QN_OK);
    if (qn_plan_finish(p, &err) != QN_OK) fail_msg("%s", err.text);
    qni_builder_fini(&b);
    free(value);
    return p;
}

static void odd_even_is_live(void **state)
{
    (void)state;
    enum { DELAYS = 10000, SIZES = 24 };
    const uint64_t seed = 20240607u;
    for (int32_t size = 0; size < SIZES; size++) {
        const int32_t P = 2 + 2 * (size % 4), rounds = 1 + size / 4;
        qn_plan *p = ring(P, rounds, ODD_EVEN);
        int64_t *cost = calloc((size_t)p->tasks, sizeof *cost);
        assert_true(qn_token_game(p, 0));
        for (uint32_t k = (uint32_t)size; k < DELAYS; k += SIZES) {
            qn_rng r = qn_rng_of((qn_rng_key){.seed = seed, .sample = k});
            int64_t most = 0;
            for (int32_t t = 0; t < p->tasks; t++) {
                cost[t] = (int64_t)qn_rng_below(&r, 100);
                if (p->task[t].op == QN_OP_F) most = qn_max64(most, cost[t]);
            }
            assert_true(rig_simulate(p, cost, 0, 0)->makespan >= most);
        }
        free(cost);
        qn_plan_close(p);
    }
}

static void one_order_for_all_is_not(void **state)
{
    (void)state;
    for (int32_t P = 2; P <= 8; P += 2) {
        for (int32_t r = ALL_EVEN; r <= ALL_ODD; r++) {
            qn_plan *p = ring(P, 3, (rule)r);
            qni_graph g;
            qn_err err = {0};
            assert_false(qn_token_game(p, 0));
            assert_int_equal(qni_graph_open(&g, p, 0, 0, &err), QN_OK);
            assert_int_equal(qni_graph_live(&g, &err), QN_ESCHEDULE);
            if (strstr(err.text, "deadlock: ") == NULL) fail_msg("%s", err.text);
            qni_graph_close(&g);
            qn_plan_close(p);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(odd_even_is_live), cmocka_unit_test(one_order_for_all_is_not)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
