/* The trainer's state: resuming after every step on another layout, steps that are refused, evaluation, opening with wrong sizes,
 * and no allocation while tasks run. */
#include "support/quiet_rig.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>

#include "core/alloc.h"
#include "support/malloc_guard.c"

enum { STEPS = 6, ITEMS = 3 };

static const rig_way ways[] = {
    {.schedule = "gpipe", .workers = 1, .threads = 1, .transport = "self"},
    {.schedule = "1f1b", .workers = 3, .threads = 1, .recompute = QN_RECOMPUTE_FULL, .transport = "thread"},
    {.schedule = "interleaved", .workers = 2, .threads = 2, .transport = "thread"},
    {.schedule = "split", .workers = 4, .threads = 1, .recompute = QN_RECOMPUTE_EXCEPT_LAST, .transport = "sim", .seed = 3},
};

static double step_loss(qn_trainer *t, int64_t step)
{
    qn_step_result r;
    qn_err err;
    rig_ok(qn_trainer_step(t, step, RIG_LR, &r, NULL, &err), &err);
    return r.loss;
}

static void resume_after(const qn_model *m, int32_t k, const double *want, const char *final, size_t bytes)
{
    char *state = malloc(bytes);
    qn_trainer *t = rig_open(m, QN_MODE_F32, &ways[k % 4], ITEMS);
    for (int32_t s = 0; s < k; s++) assert_memory_equal(&want[s], &(double){step_loss(t, s)}, sizeof(double));
    rig_state(state, t, m, sizeof(float), 0);
    qn_trainer_close(t);

    t = rig_open(m, QN_MODE_F32, &ways[(k + 1) % 4], ITEMS);
    rig_state(state, t, m, sizeof(float), 1);
    for (int32_t s = k; s < STEPS; s++) assert_memory_equal(&want[s], &(double){step_loss(t, s)}, sizeof(double));
    rig_state(state, t, m, sizeof(float), 0);
    assert_memory_equal(state, final, bytes);
    qn_trainer_close(t);
    free(state);
}

static void resumes_after_every_step_on_another_layout(void **unused)
{
    (void)unused;
    for (int32_t c = 0; c < RIG_CONFIGS; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        const size_t bytes = rig_state_bytes(m, sizeof(float));
        char *final = malloc(bytes);
        double want[STEPS];
        qn_trainer *t = rig_open(m, QN_MODE_F32, &ways[0], ITEMS);
        for (int32_t s = 0; s < STEPS; s++) want[s] = step_loss(t, s);
        rig_state(final, t, m, sizeof(float), 0);
        qn_trainer_close(t);
        for (int32_t k = 0; k <= STEPS; k++) resume_after(m, k, want, final, bytes);
        free(final);
        qn_model_close(m);
    }
}

/* A step with a poisoned parameter changes nothing, and the next step with the parameter back is as if it had not been. */
static void a_step_that_is_not_finite_changes_nothing(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&rig_config[0]);
    const size_t bytes = rig_state_bytes(m, sizeof(float));
    char *before = malloc(bytes), *after = malloc(bytes);
    for (size_t i = 0; i < QN_COUNT(ways); i++) {
        qn_trainer *plain = rig_open(m, QN_MODE_F32, &ways[i], ITEMS), *t = rig_open(m, QN_MODE_F32, &ways[i], ITEMS);
        assert_true(step_loss(plain, 0) == step_loss(t, 0));
        for (int32_t p = 0; p < qn_model_params(m); p += 5) {
            qn_step_result r = {.loss = 77};
            qn_err err;
            float *value = (float *)qn_trainer_home(t, p).value + 1;
            const float good = *value;
            *value = p % 2 == 0 ? NAN : INFINITY;
            qn_trainer_refresh(t);
            rig_state(before, t, m, sizeof(float), 0);
            assert_int_equal(qn_trainer_step(t, 1, RIG_LR, &r, NULL, &err), QN_ENONFINITE);
            assert_non_null(strstr(err.text, "step 2"));
            assert_non_null(strstr(err.text, qn_model_param(m, p)->name));
            assert_true(r.loss == 77);
            rig_state(after, t, m, sizeof(float), 0);
            assert_memory_equal(before, after, bytes);
            *value = good;
            qn_trainer_refresh(t);
        }
        assert_true(step_loss(plain, 1) == step_loss(t, 1));
        rig_state(before, plain, m, sizeof(float), 0);
        rig_state(after, t, m, sizeof(float), 0);
        assert_memory_equal(before, after, bytes);
        qn_trainer_close(plain);
        qn_trainer_close(t);
    }
    free(after);
    free(before);
    qn_model_close(m);
}

/* --- steps that stop early: wherever the cancel hits, going back to the state before gives what would have been */
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

static qn_status cancelled_step(qn_trainer *t, int spins)
{
    canceller c = {.t = t, .spins = spins};
    pthread_t thread;
    qn_step_result r;
    qn_err err;
    assert_int_equal(pthread_create(&thread, NULL, cancel_soon, &c), 0);
    atomic_store(&c.go, 1);
    const qn_status st = qn_trainer_step(t, 1, RIG_LR, &r, NULL, &err);
    assert_int_equal(pthread_join(thread, NULL), 0);
    return st;
}

static void a_cancelled_step_leaves_nothing_behind(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&rig_config[0]);
    const size_t bytes = rig_state_bytes(m, sizeof(float));
    char *before = malloc(bytes), *want = malloc(bytes), *got = malloc(bytes);
    int cancelled = 0;
    for (size_t i = 0; i < QN_COUNT(ways); i++) {
        qn_trainer *t = rig_open(m, QN_MODE_F32, &ways[i], ITEMS);
        (void)step_loss(t, 0);
        rig_state(before, t, m, sizeof(float), 0);
        const double loss = step_loss(t, 1);
        rig_state(want, t, m, sizeof(float), 0);
        for (int k = 0; k < 60; k++) {
            rig_state(before, t, m, sizeof(float), 1);
            const qn_status st = cancelled_step(t, k * k * 40);
            assert_true(st == QN_OK || st == QN_ECANCELLED);
            cancelled += st == QN_ECANCELLED;
            rig_state(before, t, m, sizeof(float), 1);
            assert_true(step_loss(t, 1) == loss);
            rig_state(got, t, m, sizeof(float), 0);
            assert_memory_equal(want, got, bytes);
        }
        qn_trainer_close(t);
    }
    print_message("%d of %d steps were cancelled\n", cancelled, 60 * (int)QN_COUNT(ways));
    free(got);
    free(want);
    free(before);
    qn_model_close(m);
}

/* --- evaluation */
static qn_tokens *open_tokens(int64_t count)
{
    char path[512];
    const char *dir = getenv("QUERN_TEST_TMP");
    int32_t *ids = malloc((size_t)count * sizeof(*ids));
    qn_tokens *t;
    qn_err err;
    for (int64_t i = 0; i < count; i++) ids[i] = (int32_t)(i * i % RIG_VOCAB);
    snprintf(path, sizeof(path), "%s/trainer_state_%lld.tokens", dir != NULL ? dir : ".", (long long)count);
    rig_ok(qn_tokens_write(path, ids, count, RIG_VOCAB, &err), &err);
    rig_ok(qn_tokens_open(&t, path, &err), &err);
    remove(path);
    free(ids);
    return t;
}

static void evaluation_does_not_depend_on_the_workers(void **unused)
{
    (void)unused;
    qn_tokens *tokens = open_tokens(500);
    const qn_split_range part = {.first = 3, .count = 400};
    for (int32_t c = 0; c < RIG_CONFIGS; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        double want = 0, want_few = 0;
        for (size_t i = 0; i < QN_COUNT(ways); i++) {
            qn_trainer *t = rig_open(m, QN_MODE_F32, &ways[i], ITEMS);
            double loss, again, few;
            int64_t targets;
            qn_err err;
            (void)step_loss(t, 0);
            rig_ok(qn_trainer_evaluate(t, tokens, part, 0, &loss, &targets, &err), &err);
            rig_ok(qn_trainer_evaluate(t, tokens, part, 0, &again, NULL, &err), &err);
            rig_ok(qn_trainer_evaluate(t, tokens, part, 7, &few, NULL, &err), &err);
            assert_int_equal(targets, 399);
            assert_true(loss == again);
            assert_true(loss > 0.5 && loss < 5.0);
            if (i == 0) want = loss, want_few = few;
            assert_true(loss == want && few == want_few);
            assert_true(step_loss(t, 1) > 0); /* training goes on */
            qn_trainer_close(t);
        }
        qn_model_close(m);
    }
    qn_tokens_close(tokens);
}

/* --- wrong sizes */
static void refuses_what_does_not_fit(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&rig_config[0]);
    qn_trainer *t;
    qn_err err;
    const rig_way way = {.schedule = "gpipe", .workers = 2};
    qn_order *order = rig_order(&way, 2);
    const int32_t good[] = {0, 2, 5}, no_head[] = {0, 5, 5}, short_cut[] = {0, 2, 4};
    qn_source longer = rig_source, foreign = rig_source;
    longer.T = 9;
    foreign.vocab = RIG_VOCAB + 1;
    const int64_t limit[] = {100, 100};
    qn_trainer_desc d = {.model = m, .order = order, .first_layer = good, .mode = QN_MODE_F32, .threads = 1, .source = &longer};
    assert_int_equal(qn_trainer_open(&t, &d, &err), QN_EINVAL);
    assert_non_null(strstr(err.text, "context of 8"));
    d.source = &foreign;
    assert_int_equal(qn_trainer_open(&t, &d, &err), QN_EINVAL);
    d.source = &rig_source;
    d.first_layer = no_head;
    assert_int_equal(qn_trainer_open(&t, &d, &err), QN_EINVAL);
    d.first_layer = short_cut;
    assert_int_equal(qn_trainer_open(&t, &d, &err), QN_EINVAL);
    d.first_layer = good;
    d.arena_limit = limit;
    assert_int_equal(qn_trainer_open(&t, &d, &err), QN_ESCHEDULE);
    assert_null(t);
    qn_order_close(order);
    qn_model_close(m);
}

static void every_allocation_may_fail(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&rig_config[0]);
    const rig_way way = {.schedule = "1f1b", .workers = 2, .threads = 2, .transport = "thread"};
    qn_order *order = rig_order(&way, ITEMS);
    const int32_t first[] = {0, 2, 5};
    const qn_trainer_desc d = {.model = m,
                               .order = order,
                               .first_layer = first,
                               .mode = QN_MODE_F32,
                               .threads = 2,
                               .source = &rig_source,
                               .hyper = rig_hyper};
    qn_status st = QN_ENOMEM;
    long n = 0;
    while (st != QN_OK) {
        qn_trainer *t;
        qn_err err;
        qni_fault_arm(QN_FAULT_ALLOC, ++n);
        st = qn_trainer_open(&t, &d, &err);
        qni_fault_arm(QN_FAULT_ALLOC, 0);
        if (st != QN_OK) assert_int_equal(st, QN_ENOMEM);
        qn_trainer_close(t);
    }
    assert_true(n > 50);
    qn_order_close(order);
    qn_model_close(m);
}

/* --- the hot path */
static void steps_after_the_first_allocate_nothing(void **unused)
{
    (void)unused;
    for (int32_t c = 0; c < RIG_CONFIGS; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        for (size_t i = 0; i < QN_COUNT(ways); i++) {
            rig_quiet_after_the_first(m, &ways[i], ITEMS);
        }
        qn_model_close(m);
    }
}

static void memory_is_accounted_for(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&rig_config[2]); /* untied: nothing twice */
    qn_trainer *t = rig_open(m, QN_MODE_F32, &ways[1], ITEMS);
    const qn_memory memory = qn_trainer_memory(t);
    const int64_t n = qn_model_param_count(m) * 4;
    assert_true(memory.params >= n && memory.params < n + 64 * qn_model_params(m));
    assert_true(memory.grads >= n && memory.grads < n + 64 * qn_model_params(m));
    assert_true(memory.moments >= 2 * n && memory.moments < 2 * n + 128 * qn_model_params(m));
    assert_true(memory.arenas > 0 && memory.scratch > 0 && memory.packed > 0);
    qn_trainer_close(t);
    qn_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resumes_after_every_step_on_another_layout),
        cmocka_unit_test(a_step_that_is_not_finite_changes_nothing),
        cmocka_unit_test(a_cancelled_step_leaves_nothing_behind),
        cmocka_unit_test(evaluation_does_not_depend_on_the_workers),
        cmocka_unit_test(refuses_what_does_not_fit),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(steps_after_the_first_allocate_nothing),
        cmocka_unit_test(memory_is_accounted_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
