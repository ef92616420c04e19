/* RoundPipe's cursor in orders and plans (arXiv:2604.27085): rounds within a step and from step to step are where the slots say,
 * a flight of steps has the published steady bubbles, and plans with a cursor are texts. */
#include "round_models.h"
#include "schedule/schedule_internal.h"

/* The model's layers and its head as layers of their own, with the slots of its published cut. */
static qn_order *order_of(const model *m, int64_t cost[2][MOST], int32_t round)
{
    static int32_t forward[MOST], backward[MOST], first[MOST], fslot[MOST], bslot[MOST];
    qn_err err = {0};
    qn_order *o = NULL;
    memcpy(forward, m->forward, sizeof forward);
    memcpy(backward, m->backward, sizeof backward);
    backward[0]++; /* the head */
    const qn_round_cut cut = {m->forward_stages, m->backward_stages, forward, backward};
    const int32_t pieces = qn_round_pieces(first, fslot, bslot, &cut);
    for (int32_t p = 0; p < pieces; p++) {
        const bool head = p == pieces - 1;
        const int32_t layers = first[p + 1] - first[p] - head;
        cost[0][p] = layers * ticks(m->f) + (head ? ticks(m->head_f) : 0);
        cost[1][p] = layers * ticks(m->b) + (head ? ticks(m->head_b) : 0);
    }
    const qn_pattern pat = {
        .workers = N, .items = M, .chunks = 1, .group = round, .pieces = pieces, .forward_slot = fslot, .backward_slot = bslot};
    if (qn_generate(&o, "roundpipe", &pat, &err) != QN_OK) fail_msg("%s: %s", m->name, err.text);
    assert_int_equal(o->turn, (m->forward_stages + m->backward_stages) % N);
    return o;
}

static const qn_trace_summary *simulate(const qn_plan *p, int64_t cost[2][MOST], int64_t hop, int32_t depth)
{
    int64_t *c = calloc((size_t)p->tasks + 1, sizeof *c);
    for (int32_t t = 0; t < p->tasks; t++)
        if (qni_is_compute(p->task[t].op)) c[t] = cost[p->task[t].op == QN_OP_BW][p->task[t].stage];
    const qn_trace_summary *s = rig_simulate(p, c, hop, depth);
    free(c);
    return s;
}

static qn_plan *chain(const qn_plan *one, int32_t steps)
{
    qn_err err = {0};
    qn_plan *p = NULL;
    if (qn_plan_chain(&p, one, steps, NULL, &err) != QN_OK) fail_msg("a flight of %d: %s", steps, err.text);
    return p;
}

/* What the published simulator lets happen: the forward of the fused stage runs before its input is there; only its backward
 * waits. */
static void wait_late(qn_plan *p)
{
    int32_t used = 0;
    for (int32_t t = 0; t < p->tasks; t++) used = qn_max32(used, p->task[t].wait.first + p->task[t].wait.count);
    int32_t *ref = qn_malloc(2 * (size_t)used, sizeof *ref);
    memcpy(ref, p->ref, (size_t)used * sizeof *ref);
    for (int32_t t = 0; t < p->tasks; t++) {
        qn_task *f = &p->task[t];
        if (f->op != QN_OP_F || f->stage != p->stages - 1) continue;
        assert_true(f[1].op == QN_OP_BW && f[1].item == f->item);
        const qn_span both[] = {f->wait, f[1].wait};
        f->wait.count = 0;
        f[1].wait = (qn_span){used, both[0].count + both[1].count};
        for (int i = 0; i < 2; i++)
            for (int32_t k = 0; k < both[i].count; k++) ref[used++] = p->ref[both[i].first + k];
    }
    qn_free(p->ref);
    p->ref = ref;
}

/* Idle time per step once the cursor has been everywhere: between the ends of the 4th and the 12th. */
static double steady(const qn_plan *one, const model *m, int64_t cost[2][MOST], bool late)
{
    int64_t end[2], busy[2];
    for (int i = 0; i < 2; i++) {
        qn_plan *p = chain(one, i == 0 ? 4 : 12);
        if (late) wait_late(p);
        const qn_trace_summary *s = simulate(p, cost, ticks(m->hop), 0);
        end[i] = s->makespan;
        busy[i] = s->busy_total;
        qn_plan_close(p);
    }
    assert_int_equal(busy[1], 3 * busy[0]);
    return 100 * (1 - (double)(busy[1] - busy[0]) / (double)(end[1] - end[0]) / N);
}

/* Twelve steps of two rounds in one plan. As published where the published simulator's rule is followed; as it can run, with the
 * head's forward behind its input, three of the five are a little longer, to the tick what the slots' own simulation says. */
static void five_steady_bubbles(void **state)
{
    (void)state;
    for (size_t k = 0; k < QN_COUNT(models); k++) {
        const model m = complete(models[k]);
        static int64_t cost[2][MOST];
        qn_order *o = order_of(&m, cost, N);
        const qn_lowering how = rig_plain();
        qn_plan *one = rig_lower(o, &how);
        const double published = steady(one, &m, cost, true), runs = steady(one, &m, cost, false);
        print_message("%s: %.3f %% idle in the steady state; %.3f %% with the head's input first\n", m.name, published, runs);
        expect_share(&m, "steady", published, m.chained, 3);
        stage_times times;
        qn_round_shape s = shape_of(&times, &m);
        s.iterations = 12;
        s.free_first = s.input_late = false;
        qn_round_time t;
        int64_t end[12], busy[12];
        qn_err err = {0};
        assert_int_equal(qn_round_simulate(&t, NULL, end, busy, &s, &err), QN_OK);
        expect_share(&m, "steady as it can run", runs, 100 * (1 - (double)(busy[11] - busy[3]) / (double)(end[11] - end[3]) / N),
                     3);
        qn_plan_close(one);
        qn_order_close(o);
    }
}

/* Rounds of any size, the last one short: every task is where its slot and round say, flights too, and all takes as long as the
 * slots' own simulation says; as texts they are the same. */
static void rounds_are_where_slots_say(void **state)
{
    (void)state;
    for (int32_t turn = 0; turn < 400; turn++) {
        qn_rng r = qn_rng_of((qn_rng_key){.seed = 4604, .sample = (uint32_t)turn});
        const int32_t P = 1 + (int32_t)qn_rng_below(&r, 4), items = 1 + (int32_t)qn_rng_below(&r, 9);
        const int32_t L = 1 + (int32_t)qn_rng_below(&r, 6), steps = 1 + turn % 4;
        const int32_t round = turn % 3 == 0 ? 0 : P + (int32_t)qn_rng_below(&r, 4);
        const qn_pattern pat = {.workers = P, .items = items, .chunks = 1, .pieces = L, .group = round};
        qn_err err = {0};
        qn_order *o = NULL, *again = NULL;
        if (qn_generate(&o, "roundpipe", &pat, &err) != QN_OK) fail_msg("%s", err.text);
        const qn_lowering how = rig_plain();
        qn_plan *one = rig_lower(o, &how), *p = chain(one, steps);
        assert_true(qn_token_game(p, 0));
        for (int32_t t = 0; t < p->tasks; t++) {
            const qn_task *x = &p->task[t];
            if (!qni_is_compute(x->op)) continue;
            const int32_t home = x->op == QN_OP_F ? o->worker_of[x->stage] : o->backward_of[x->stage];
            const int32_t rounds = x->step * qn_rounds(items, o->round) + (o->round > 0 ? x->item / o->round : 0);
            assert_int_equal(x->worker, (home + rounds * o->turn) % P);
        }
        char *a = NULL, *b = NULL;
        assert_int_equal(qn_order_write(&a, o, &err), QN_OK);
        if (qn_order_read(&again, a, strlen(a), &err) != QN_OK) fail_msg("%s", err.text);
        assert_int_equal(qn_order_write(&b, again, &err), QN_OK);
        assert_string_equal(a, b);
        qn_free(a);
        qn_free(b);
        qn_order_close(again);
        assert_int_equal(qn_plan_order(&again, p, &err), QN_OK);
        assert_true(again->turn == o->turn && again->round == o->round);
        qn_plan_close(p);
        qn_plan_close(one);
        qn_order_close(again);
        qn_order_close(o);
    }
}

/* A task that stands where the cursor is not. */
static void a_wrong_cursor_is_refused(void **state)
{
    (void)state;
    qn_err err = {0};
    const qn_pattern pat = {.workers = 3, .items = 6, .chunks = 1, .pieces = 4, .group = 3};
    qn_order *o = NULL;
    qn_plan *p = NULL;
    assert_int_equal(qn_generate(&o, "roundpipe", &pat, &err), QN_OK);
    assert_true(o->turn > 0 && o->round == 3);
    const qn_lowering plain = rig_plain();
    o->turn = o->turn % 2 + 1;
    assert_int_equal(qn_lower(&p, o, &plain, &err), QN_ESCHEDULE);
    assert_non_null(strstr(err.text, "placed on worker"));
    o->turn = 3;
    assert_int_equal(qn_lower(&p, o, &plain, &err), QN_ESCHEDULE);
    assert_non_null(strstr(err.text, "0 to 2"));
    qn_order_close(o);
    assert_int_equal(qn_generate(&o, "roundpipe", &pat, &err), QN_OK);
    qn_lowering training = rig_plain();
    training.step_tasks = true;
    assert_int_equal(qn_lower(&p, o, &training, &err), QN_ESCHEDULE); /* rounds elsewhere, and the state bound to workers */
    assert_non_null(strstr(err.text, "--device-memory"));
    assert_null(p);
    qn_order_close(o);
    const qn_pattern few = {.workers = 3, .items = 6, .chunks = 1, .pieces = 4, .group = 2};
    assert_int_equal(qn_generate(&o, "roundpipe", &few, &err), QN_EINVAL);
    assert_non_null(strstr(err.text, "at least as many as workers"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(five_steady_bubbles),
        cmocka_unit_test(rounds_are_where_slots_say),
        cmocka_unit_test(a_wrong_cursor_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
