/* Every allocation of every step fails once: an error comes back, nothing leaks or crashes (the sanitizers look on). */
#include "schedule/schedule_rig.h"

/* Pattern to order to text to order to plan to text to plan to trace to pictures. Stops at the first error. */
static qn_status whole_way(qn_err *err)
{
    qn_order *o = NULL, *o2 = NULL;
    qn_plan *p = NULL, *p2 = NULL;
    char *text[5] = {0};
    qn_span_time *time = NULL;
    qn_status st = QN_OK;
    const qn_pattern pat = {.workers = 2, .items = 3, .chunks = 2};
    const qn_lowering how = {
        .step_tasks = true, .tied_owner = 0, .tied_replica = 3, .tied_bytes = 100, .recompute = QN_RECOMPUTE_FULL};
    const qn_sim_options opt = {.latency = 1};
    QN_TRY(st, qn_generate(&o, "interleaved", &pat, err), out);
    QN_TRY(st, qn_order_write_csv(&text[0], o, err), out);
    QN_TRY(st, qn_order_read(&o2, text[0], strlen(text[0]), err), out);
    qn_order_close(o2);
    o2 = NULL;
    QN_TRY(st, qn_order_write(&text[1], o, err), out);
    QN_TRY(st, qn_order_read(&o2, text[1], strlen(text[1]), err), out);
    QN_TRY(st, qn_lower(&p, o2, &how, err), out);
    QN_TRY(st, qn_plan_write(&text[2], p, err), out);
    QN_TRY(st, qn_plan_read(&p2, text[2], strlen(text[2]), err), out);
    QN_TRY(st, qn_plan_validate(p2, err), out);
    time = calloc((size_t)p2->tasks, sizeof *time);
    qn_trace t = {.plan = p2, .time = time};
    const qn_trace *const one = &t;
    QN_TRY(st, qn_simulate(&t, p2, &opt, err), out);
    QN_TRY(st, qn_trace_svg(&text[3], &one, NULL, 1, err), out);
    QN_TRY(st, qn_trace_ascii(&text[4], &t, 80, err), out);
out:
    free(time);
    for (size_t i = 0; i < QN_COUNT(text); i++) qn_free(text[i]);
    qn_order_close(o);
    qn_order_close(o2);
    qn_plan_close(p);
    qn_plan_close(p2);
    return st;
}

/* The same for vocabulary shards: both ways of making an order, and the plan. */
static qn_status vocab_way(qn_err *err)
{
    static const char *const name[] = {"1f1b", "v-half", "1f1b"};
    qn_order *o = NULL;
    qn_plan *p = NULL;
    qn_status st = QN_OK;
    for (int32_t i = 0; i < 3 && st == QN_OK; i++) {
        const qn_pattern pat = {.workers = 2,
                                .items = 3,
                                .chunks = i == 1 ? 2 : 1,
                                .vocab = 1 + i % 2,
                                .sides = 3,
                                .cost = {[QN_OP_F] = i == 2 ? 5 : 1, [QN_OP_BW] = 2}};
        const qn_lowering how = {.step_tasks = true, .tied_owner = QN_NONE, .tied_replica = QN_NONE};
        st = qn_generate(&o, name[i], &pat, err);
        if (st == QN_OK) st = qn_lower(&p, o, &how, err);
        qn_order_close(o);
        qn_plan_close(p);
        o = NULL;
        p = NULL;
    }
    return st;
}

static void fail_each(qn_status (*way)(qn_err *err))
{
    long n = 1;
    for (;; n++) {
        qn_err err = {0};
        qni_fault_arm(QN_FAULT_ALLOC, n);
        const qn_status st = way(&err);
        qni_fault_arm(QN_FAULT_ALLOC, 0);
        if (st == QN_OK) break;
        if (st != QN_ENOMEM) fail_msg("allocation %ld: %s %s", n, qn_status_name(st), err.text);
        assert_true(err.text[0] != '\0');
    }
    print_message("%ld allocations\n", n - 1);
    assert_true(n > 100);
}

static void every_allocation_fails_once(void **state)
{
    (void)state;
    fail_each(whole_way);
}

static void every_allocation_of_vocabulary_shards_fails_once(void **state)
{
    (void)state;
    fail_each(vocab_way);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_allocation_fails_once),
                                       cmocka_unit_test(every_allocation_of_vocabulary_shards_fails_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
