/* Vocabulary shards in orders and plans: the published idle times and peaks, slots, barriers, liveness, text forms, refusals. */
#include "schedule/schedule_rig.h"

#include "schedule/gen/vocab_parts.h"
#include "schedule/schedule_internal.h"

static qn_order *generate(const char *name, int32_t P, int32_t M, int32_t algorithm, int32_t sides, int64_t f, int64_t b)
{
    qn_err err = {0};
    qn_order *o = NULL;
    const qn_pattern pat = {.workers = P,
                            .items = M,
                            .chunks = strcmp(name, "v-half") == 0 ? 2 : 1,
                            .vocab = algorithm,
                            .sides = sides,
                            .cost = {[QN_OP_F] = f, [QN_OP_BW] = b, [QN_OP_B] = b - b / 2, [QN_OP_W] = b / 2}};
    if (qn_generate(&o, name, &pat, &err) != QN_OK) fail_msg("%s P=%d M=%d: %s", name, P, M, err.text);
    return o;
}

/* V is the time of a V pass: half of it for S and for T of all the worker's shards. */
static const qn_trace_summary *simulate(const qn_plan *p, int64_t f, int64_t b, int64_t V)
{
    int64_t *c = calloc((size_t)p->tasks + 1, sizeof *c);
    assert_non_null(c);
    for (int32_t t = 0; t < p->tasks; t++) {
        const int32_t op = p->task[t].op;
        c[t] = op == QN_OP_F ? f : op == QN_OP_BW ? b : op == QN_OP_VS || op == QN_OP_VT ? V / 2 : 0;
    }
    const qn_trace_summary *s = rig_simulate(p, c, 0, 0);
    free(c);
    return s;
}

/* Makespan minus m (f + b + V) is (P - 1)(f + b) with algorithm 1 and V / 2 less with algorithm 2; eight ticks are one unit. */
static void published_idle_times_and_peaks(void **unused)
{
    (void)unused;
    static const struct {
        int32_t P, M;
        int64_t idle;
    } row[] = {{4, 16, 9}, {4, 64, 9}, {8, 64, 21}, {8, 128, 21}};
    static const int64_t eighths[] = {2, 8, 16};
    const qn_lowering how = rig_plain();
    for (size_t i = 0; i < QN_COUNT(row); i++) {
        for (int32_t algorithm = 1; algorithm <= 2; algorithm++) {
            qn_order *o = generate("1f1b", row[i].P, row[i].M, algorithm, 0, 8, 16);
            qn_plan *p = rig_lower(o, &how);
            for (size_t k = 0; k < QN_COUNT(eighths); k++) {
                const int64_t V = eighths[k];
                const qn_trace_summary *s = simulate(p, 8, 16, V);
                assert_int_equal(s->makespan - row[i].M * (24 + V), 8 * row[i].idle - (algorithm == 2 ? V / 2 : 0));
                for (int32_t r = 0; r < row[i].P; r++) assert_int_equal(s->peak[r], row[i].P - r + (algorithm == 1 ? 2 : 1));
            }
            qn_plan_close(p);
            qn_order_close(o);
        }
    }
}

static void published_slots(void **unused)
{
    (void)unused;
    static const bool four[] = {false, true, true, true}, eight[] = {true, false, true, true, false, true, true, true};
    static const int32_t warm_four[] = {3, 2, 1, 0}, warm_eight[] = {5, 5, 4, 3, 3, 2, 1, 0};
    bool flag[8];
    int32_t warm[8];
    qni_vocab_slots(flag, warm, 4, 1, 2);
    assert_memory_equal(flag, four, sizeof four);
    assert_memory_equal(warm, warm_four, sizeof warm_four);
    qni_vocab_slots(flag, warm, 8, 1, 2);
    assert_memory_equal(flag, eight, sizeof eight);
    assert_memory_equal(warm, warm_eight, sizeof warm_eight);
}

/* 300 random sizes and costs: lowered (which proves it free of deadlock), and played by tokens. Every sixth has b < f or slow
 * messages, where lists are made instead. */
static void random_orders_never_lock(void **unused)
{
    (void)unused;
    uint32_t x = 12345;
    const qn_lowering how = rig_plain();
    for (int32_t i = 0; i < 300; i++) {
        x = x * 1664525u + 1013904223u;
        const int32_t P = 1 + (int32_t)(x >> 24) % 12, M = 1 + (int32_t)(x >> 16) % 40, n = i % 5 == 4 ? 1 + i % 7 : 0;
        const int64_t f = 1 + (x >> 8) % 5, b = i % 6 == 5 ? 1 + (x >> 4) % f : f + (x >> 4) % 7;
        qn_order *o = generate("1f1b", P, M, 1 + i % 2, n, f, b);
        qn_plan *p = rig_lower(o, &how);
        if (!qn_token_game(p, 0)) fail_msg("P=%d M=%d f=%lld b=%lld stands still", P, M, (long long)f, (long long)b);
        const qn_trace_summary *s = simulate(p, f, b, 2);
        for (int32_t r = 0; r < P; r++) assert_true(s->peak[r] <= P - r + (i % 2 == 0 ? 2 : 1));
        qn_plan_close(p);
        qn_order_close(o);
    }
    for (int32_t P = 1; P <= 6; P++) {
        for (int32_t M = 1; M <= 13; M += 3) {
            for (int32_t algorithm = 1; algorithm <= 2; algorithm++) {
                qn_order *o = generate("v-half", P, M, algorithm, M % 4, 1, 2);
                qn_plan *p = rig_lower(o, &how);
                assert_true(qn_token_game(p, 0));
                qn_plan_close(p);
                qn_order_close(o);
            }
        }
    }
}

/* The longest way from an item's last forward to its last backward, in exchanges between shards: VS to VT or backward by
 * statistics, VT to backward by parts of the gradient. */
static void barriers(void **unused)
{
    (void)unused;
    const qn_lowering how = rig_plain();
    for (int32_t algorithm = 1; algorithm <= 2; algorithm++) {
        qn_order *o = generate("1f1b", 4, 6, algorithm, 0, 1, 2);
        qn_plan *p = rig_lower(o, &how);
        for (int32_t m = 0; m < 6; m++) {
            bool from_scores = false, from_gradients = false, statistics = false;
            for (int32_t t = 0; t < p->tasks; t++) {
                const qn_task *x = &p->task[t];
                if (x->item != m) continue;
                for (int32_t i = 0; i < x->out.count && x->op != QN_OP_RECV; i++) {
                    const int32_t cls = p->value[p->ref[x->out.first + i]].cls;
                    from_scores = from_scores || (x->op == QN_OP_VS && cls == QN_V_VDX);
                    from_gradients = from_gradients || (x->op == QN_OP_VT && cls == QN_V_VDX);
                }
                for (int32_t i = 0; i < x->in.count; i++)
                    statistics = statistics || (x->op == QN_OP_BW && p->value[p->ref[x->in.first + i]].cls == QN_V_VSTAT);
            }
            /* statistics, then gradients: two; both at once: one, and the backward folds them */
            assert_true(algorithm == 1 ? from_gradients && !from_scores && !statistics
                                       : from_scores && !from_gradients && statistics);
        }
        qn_plan_close(p);
        qn_order_close(o);
    }
}

/* An output layer as large as four of the chain's stages, four workers: what is gained over all of it on the last stage is within
 * 5 % of (f + b + P V) / (f + b + V). */
static void gain_over_the_last_stage_alone(void **unused)
{
    (void)unused;
    const int64_t f = 2, b = 4, P = 4, M = 64, V = 4 * (f + b) / P;
    const qn_lowering how = rig_plain();
    qn_plan *whole = rig_plan("1f1b", (int32_t)P, (int32_t)M, 1, &how);
    int64_t *c = rig_costs(whole, f, b, 0, 0);
    for (int32_t t = 0; t < whole->tasks; t++)
        if (whole->task[t].op == QN_OP_BW && whole->task[t].stage == P - 1) c[t] = b + P * V;
    const double last = (double)rig_simulate(whole, c, 0, 0)->makespan, ideal = (double)(f + b + P * V) / (double)(f + b + V);
    for (int32_t algorithm = 1; algorithm <= 2; algorithm++) {
        qn_order *o = generate("1f1b", (int32_t)P, (int32_t)M, algorithm, 0, f, b);
        qn_plan *p = rig_lower(o, &how);
        const double gain = last / (double)simulate(p, f, b, V)->makespan;
        if (gain < 0.95 * ideal || gain > 1.05 * ideal) fail_msg("algorithm %d gains %g, ideal %g", algorithm, gain, ideal);
        qn_plan_close(p);
        qn_order_close(o);
    }
    free(c);
    qn_plan_close(whole);
}

static void text_forms_come_back(void **unused)
{
    (void)unused;
    qn_err err = {0};
    qn_order *o = generate("1f1b", 3, 4, 2, 5, 1, 2), *again = NULL, *from_plan = NULL;
    qn_lowering how = rig_plain();
    how.step_tasks = true;
    qn_plan *p = rig_lower(o, &how), *plan = NULL;
    char *a = NULL, *b = NULL, *c = NULL, *d = NULL;
    assert_int_equal(qn_order_write(&a, o, &err), QN_OK);
    assert_int_equal(qn_order_read(&again, a, strlen(a), &err), QN_OK);
    assert_int_equal(qn_order_write(&b, again, &err), QN_OK);
    assert_string_equal(a, b);
    assert_int_equal(qn_plan_write(&c, p, &err), QN_OK);
    if (qn_plan_read(&plan, c, strlen(c), &err) != QN_OK) fail_msg("%s", err.text);
    if (qn_plan_validate(plan, &err) != QN_OK) fail_msg("%s", err.text);
    assert_int_equal(qn_plan_write(&d, plan, &err), QN_OK);
    assert_string_equal(c, d);
    qn_free(b);
    assert_int_equal(qn_plan_order(&from_plan, plan, &err), QN_OK);
    assert_int_equal(qn_order_write(&b, from_plan, &err), QN_OK);
    assert_string_equal(a, b);
    qn_order *const orders[] = {o, again, from_plan};
    char *const texts[] = {a, b, c, d};
    for (size_t i = 0; i < QN_COUNT(orders); i++) qn_order_close(orders[i]);
    for (size_t i = 0; i < QN_COUNT(texts); i++) qn_free(texts[i]);
    qn_plan_close(p);
    qn_plan_close(plan);
}

static void forward_only(void **unused)
{
    (void)unused;
    qn_order *o = generate("1f1b", 3, 4, 1, 0, 1, 2);
    qn_lowering how = rig_plain();
    how.forward_only = true;
    how.step_tasks = true;
    qn_plan *p = rig_lower(o, &how);
    int32_t count[QN_OPS] = {0};
    for (int32_t t = 0; t < p->tasks; t++) count[p->task[t].op]++;
    assert_int_equal(count[QN_OP_F], 12);
    assert_int_equal(count[QN_OP_VI], 12);
    assert_int_equal(count[QN_OP_VS], 12);
    assert_int_equal(count[QN_OP_VT], 4); /* the last shard adds up the loss */
    assert_int_equal(count[QN_OP_VJ] + count[QN_OP_BW], 0);
    assert_true(qn_token_game(p, 0));
    qn_plan_close(p);
    qn_order_close(o);
}

/* Every replica has shards of its own; orders of all of them lower, hold, and come back from their texts. */
static void replicas_have_their_own_shards(void **unused)
{
    (void)unused;
    qn_err err;
    for (int32_t algorithm = 1; algorithm <= 2; algorithm++) {
        for (int32_t P = 1; P <= 3; P++) {
            for (int32_t R = 1; R <= 4; R *= 2) {
                for (int32_t n = 1; n <= 4; n++) {
                    qn_order *base = generate("1f1b", P, 3, algorithm, n, 1, 2), *o = NULL;
                    assert_int_equal(qn_order_widen(&o, base, R, 1, 1, &err), QN_OK);
                    const qn_grid g = qn_order_grid(o);
                    assert_int_equal(qn_depth(g), P);
                    assert_int_equal(g.sides, n);
                    int32_t sides = 0;
                    for (int32_t s = 0; s < o->stages; s++) sides += qn_is_side(g, s);
                    assert_int_equal(sides, R * n);
                    for (int step = 0; step < 2; step++) {
                        qn_lowering how = rig_plain();
                        how.step_tasks = step != 0;
                        how.zero1 = n % 2 == 0;
                        qn_plan *p = rig_lower(o, &how);
                        assert_true(qn_token_game(p, 0));
                        for (int32_t t = 0; t < p->tasks; t++)
                            if (p->task[t].op >= QN_OP_VI && p->task[t].op <= QN_OP_VJ)
                                assert_int_equal(qn_replica(g, p->task[t].stage), p->task[t].item / 3);
                        qn_plan_close(p);
                    }
                    qn_order_close(base);
                    qn_order_close(o);
                }
            }
        }
    }
}

/* Each tensor shard has n side stages of its own; statistics are read from all of them, everything else within a column. */
static void tensor_shards_have_their_own_shards(void **unused)
{
    (void)unused;
    qn_err err;
    for (uint32_t turn = 0; turn < 72; turn++) {
        const int32_t algorithm = 1 + (int32_t)(turn % 2), P = 1 + (int32_t)(turn / 2 % 3), n = 1 + (int32_t)(turn / 6 % 3),
                      R = 1 + (int32_t)(turn / 18 % 2), t = turn / 36 % 2 == 0 ? 2 : 4, tw = 1 << turn / 3 % (t == 2 ? 2 : 3);
        qn_order *base = generate(turn % 5 == 4 ? "v-half" : "1f1b", P, 3, algorithm, n, 1, 2), *o = NULL;
        assert_int_equal(qn_order_widen(&o, base, R, t, tw, &err), QN_OK);
        const qn_grid g = qn_order_grid(o);
        qn_lowering how = rig_plain();
        how.step_tasks = turn % 2 != 0;
        how.forward_only = turn % 7 == 6;
        how.part_bytes = 64;
        qn_plan *p = rig_lower(o, &how);
        assert_true(qn_token_game(p, 0));
        for (int32_t i = 0; i < p->tasks; i++) {
            const qn_task *x = &p->task[i];
            int32_t stats = 0;
            for (int32_t k = 0; k < x->in.count; k++) {
                const qn_value *v = &p->value[p->ref[x->in.first + k]];
                if (x->lane != QN_LANE_COMP || x->item < 0 || v->item != x->item || v->stage < 0) continue;
                stats += v->cls == QN_V_VSTAT;
                if (v->cls != QN_V_VSTAT) assert_int_equal(qn_column(g, v->stage), qn_column(g, x->stage));
            }
            if (x->op == QN_OP_VT) assert_int_equal(stats, n * t);
        }
        qn_plan_close(p);
        qn_order_close(base);
        qn_order_close(o);
    }
}

/* A task of another replica's micro-batch, a chain's task on a shard: refused by name. */
static void tasks_of_others_are_refused(void **unused)
{
    (void)unused;
    static const struct {
        qn_op op;
        int32_t stage, item;
        const char *wanted;
    } wrong[] = {{QN_OP_VI, 3, 2, "stage 3 is of replica 0"},
                 {QN_OP_F, 3, 0, "stage 3 is a vocabulary shard"},
                 {QN_OP_VS, 1, 0, "the last 2 stages of each 4"}};
    const qn_lowering how = rig_plain();
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        qn_err err = {0};
        qn_order *base = generate("1f1b", 2, 2, 1, 2, 1, 2), *o = NULL;
        qn_plan *p = NULL;
        assert_int_equal(qn_order_widen(&o, base, 2, 1, 1, &err), QN_OK);
        qn_order_push(o, o->worker_of[wrong[i].stage], wrong[i].op, wrong[i].stage, wrong[i].item);
        assert_int_equal(qn_lower(&p, o, &how, &err), QN_ESCHEDULE);
        if (strstr(err.text, wrong[i].wanted) == NULL) fail_msg("'%s' lacks '%s'", err.text, wrong[i].wanted);
        qn_order_close(base);
        qn_order_close(o);
    }
}

/* An order with task i of worker w left out, moved or changed is refused with a sentence that names it. */
static void refused(const qn_order *good, int32_t drop_op, int32_t twice_op, const char *wanted)
{
    qn_err err = {0};
    qn_order *o = NULL;
    qn_plan *p = NULL;
    const qn_lowering how = rig_plain();
    bool dropped = false;
    assert_int_equal(qn_order_open(&o, good->workers, good->stages, good->items, &err), QN_OK);
    o->sides = good->sides;
    o->vocab = good->vocab;
    for (int32_t s = 0; s < o->stages; s++) o->worker_of[s] = good->worker_of[s];
    for (int32_t w = 0; w < o->workers; w++) {
        for (int32_t i = 0; i < good->count[w]; i++) {
            const qn_order_task *t = &good->task[w][i];
            if (t->op == drop_op && !dropped) {
                dropped = true;
                continue;
            }
            qn_order_push(o, w, (qn_op)t->op, t->stage, t->item);
            if (t->op == twice_op && t->item == 0) qn_order_push(o, w, (qn_op)t->op, t->stage, t->item);
        }
    }
    assert_int_equal(qn_lower(&p, o, &how, &err), QN_ESCHEDULE);
    if (strstr(err.text, wanted) == NULL) fail_msg("'%s' lacks '%s'", err.text, wanted);
    qn_order_close(o);
}

static void what_cannot_be_is_refused(void **unused)
{
    (void)unused;
    qn_err err = {0};
    qn_order *o = generate("1f1b", 2, 3, 1, 0, 1, 2), *none = NULL;
    refused(o, QN_OP_VS, QN_NONE, "VS 2.0 @0 is missing");
    refused(o, QN_OP_VT, QN_NONE, "VT 2.0 @0 is missing");
    refused(o, QN_OP_VJ, QN_NONE, "VJ 2.0 @0 is missing");
    refused(o, QN_NONE, QN_OP_VI, "VI 2.0 @0 occurs twice");
    o->columns = 2; /* of two stages each, both of them shards */
    const qn_lowering how = rig_plain();
    qn_plan *p = NULL;
    assert_int_equal(qn_lower(&p, o, &how, &err), QN_ESCHEDULE);
    assert_non_null(strstr(err.text, "2 vocabulary shards of 2 stages"));
    qn_order_close(o);
    qn_pattern pat = {.workers = 2, .items = 2, .chunks = 1, .vocab = 1};
    assert_int_equal(qn_generate(&none, "gpipe", &pat, &err), QN_EINVAL);
    assert_non_null(strstr(err.text, "1f1b and v-half"));
    pat.vocab = 3;
    assert_int_equal(qn_generate(&none, "1f1b", &pat, &err), QN_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(published_idle_times_and_peaks),
                                       cmocka_unit_test(published_slots),
                                       cmocka_unit_test(random_orders_never_lock),
                                       cmocka_unit_test(barriers),
                                       cmocka_unit_test(gain_over_the_last_stage_alone),
                                       cmocka_unit_test(text_forms_come_back),
                                       cmocka_unit_test(forward_only),
                                       cmocka_unit_test(replicas_have_their_own_shards),
                                       cmocka_unit_test(tensor_shards_have_their_own_shards),
                                       cmocka_unit_test(tasks_of_others_are_refused),
                                       cmocka_unit_test(what_cannot_be_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
