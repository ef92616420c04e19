/* The runner: the same bits on any number of workers, whatever pieces a text is fed in; evaluation as the trainer's. */
#include "support/trainer_rig.h"

#include "core/alloc.h"
#include "core/checked.h"
#include "runner.h"

enum { NEW = 7 };

static float **random_values(const qn_model *m)
{
    float **value = calloc((size_t)qn_model_params(m), sizeof(*value));
    for (int32_t p = 0; p < qn_model_params(m); p++) {
        value[p] = malloc((size_t)qn_model_param(m, p)->count * sizeof(float));
        qn_model_init_param(m, p, 17, QN_F32, value[p]);
        for (int64_t i = 0; i < qn_model_param(m, p)->count; i++) value[p][i] *= 5; /* so that the logits differ */
    }
    return value;
}

static void free_values(const qn_model *m, float **value)
{
    for (int32_t p = 0; p < qn_model_params(m); p++) free(value[p]);
    free(value);
}

static qn_runner *open_runner(const qn_model *m, float **value, int32_t workers, int32_t threads, int64_t T, int64_t cache)
{
    qn_runner *r;
    qn_err err;
    int32_t first[RIG_MAX_STAGES + 1];
    rig_cut(first, workers, qn_model_layers(m));
    const qn_runner_desc d = {.model = m,
                              .value = (void *const *)value,
                              .first_layer = first,
                              .workers = workers,
                              .threads = threads,
                              .mode = QN_MODE_F32,
                              .B = 1,
                              .T = T,
                              .cache_len = cache};
    rig_ok(qn_runner_open(&r, &d, &err), &err);
    return r;
}

/* Feeds BOS-like token 1, then greedily NEW - 1 more; logits [NEW, V]. */
static void generate(float *logits, int32_t *text, qn_runner *r, int32_t V)
{
    const qn_sampling greedy = {.temperature = 0};
    int32_t order[RIG_VOCAB];
    text[0] = 1;
    for (int32_t i = 0; i < NEW; i++) {
        const float *out;
        qn_err err;
        rig_ok(qn_runner_feed(r, &text[i], 1, &out, &err), &err);
        memcpy(logits + i * V, out, (size_t)V * sizeof(float));
        float copy[RIG_VOCAB];
        memcpy(copy, out, sizeof(copy));
        text[i + 1] = qn_sample(copy, V, &greedy, i, order);
    }
}

static void same_bits_on_any_workers_and_in_any_pieces(void **unused)
{
    (void)unused;
    for (int32_t c = 0; c < RIG_CONFIGS; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        float **value = random_values(m);
        float want[NEW * RIG_VOCAB], got[NEW * RIG_VOCAB];
        int32_t text[NEW + 1], again[NEW + 1];
        for (int32_t P = 1; P <= 3; P++) {
            qn_runner *r = open_runner(m, value, P, 1 + P % 2, NEW, 8);
            generate(P == 1 ? want : got, P == 1 ? text : again, r, RIG_VOCAB);
            if (P > 1) assert_memory_equal(want, got, sizeof(want));
            if (P > 1) assert_memory_equal(text, again, sizeof(text));
            for (int32_t head = 1; head <= NEW; head++) { /* the text in two pieces */
                const float *out;
                qn_err err;
                qn_runner_rewind(r);
                rig_ok(qn_runner_feed(r, text, head, &out, &err), &err);
                assert_memory_equal(out, want + (head - 1) * RIG_VOCAB, RIG_VOCAB * sizeof(float));
                if (head == NEW) continue;
                rig_ok(qn_runner_feed(r, text + head, NEW - head, &out, &err), &err);
                assert_memory_equal(out, want + (NEW - 1) * RIG_VOCAB, RIG_VOCAB * sizeof(float));
            }
            qn_runner_close(r);
        }
        free_values(m, value);
        qn_model_close(m);
    }
}

/* Sequences of unlike lengths share passes, in pieces of any size and with other neighbours each time; truncated and fed again.
 * Every row of logits has the bits that its sequence gives alone. */
static void same_bits_among_others(void **unused)
{
    (void)unused;
    enum { SLOTS = 5, V = RIG_VOCAB };
    for (int32_t c = 0; c < RIG_CONFIGS; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        float **value = random_values(m);
        float want[SLOTS][8 * V];
        int32_t text[SLOTS][8];
        qn_err err;
        uint64_t seed = 12345;
        for (int32_t P = 1; P <= 3; P++) {
            qn_runner *r;
            int32_t first[RIG_MAX_STAGES + 1];
            rig_cut(first, P, qn_model_layers(m));
            const qn_runner_desc d = {.model = m,
                                      .value = (void *const *)value,
                                      .first_layer = first,
                                      .workers = P,
                                      .threads = 1 + P % 2,
                                      .B = 1,
                                      .T = 9,
                                      .cache_len = 8,
                                      .slots = SLOTS,
                                      .logits = 9};
            rig_ok(qn_runner_open(&r, &d, &err), &err);
            for (int32_t s = 0; P == 1 && s < SLOTS; s++)
                for (int32_t t = 0; t < 8; t++) { /* alone, token by token, in a slot of its own */
                    text[s][t] = (7 * s + 5 * t + s * t) % V;
                    qn_feed one = {.slot = s, .logits = 1, .tokens = &text[s][t], .count = 1};
                    rig_ok(qn_runner_feed_all(r, &one, 1, &err), &err);
                    memcpy(want[s] + t * V, one.row, V * sizeof(float));
                }
            qn_runner_rewind(r);
            for (int32_t pass = 0; pass < 200; pass++) {
                qn_feed feed[SLOTS];
                int32_t n = 0, rows = 0, asked = 0;
                for (int32_t s = 0; s < SLOTS; s++) {
                    seed = seed * 6364136223846793005u + 1442695040888963407u;
                    const int64_t held = qn_runner_held(r, s), count = qn_min64((int64_t)(seed >> 33) % 4, 8 - held);
                    if (held == 8) qn_runner_truncate(r, s, (int64_t)(seed >> 40) % 8);
                    if (held == 8 || count == 0 || rows + count > 9) continue;
                    feed[n] = (qn_feed){.slot = s,
                                        .logits = (int32_t)((seed >> 50) % (uint64_t)(count + 1)),
                                        .tokens = text[s] + held,
                                        .count = count};
                    asked += feed[n].logits;
                    rows += (int32_t)count;
                    n++;
                }
                assert_true(asked <= 9);
                rig_ok(qn_runner_feed_all(r, feed, n, &err), &err);
                for (int32_t i = 0; i < n; i++) {
                    const int64_t from = qn_runner_held(r, feed[i].slot) - feed[i].logits;
                    if (feed[i].logits == 0) continue;
                    assert_memory_equal(feed[i].row, want[feed[i].slot] + from * V, (size_t)feed[i].logits * V * sizeof(float));
                }
            }
            qn_feed wrong = {.slot = SLOTS, .logits = 1, .tokens = text[0], .count = 1};
            assert_int_equal(qn_runner_feed_all(r, &wrong, 1, &err), QN_ERANGE);
            qn_runner_close(r);
        }
        free_values(m, value);
        qn_model_close(m);
    }
}

static void says_what_does_not_fit(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&rig_config[0]);
    float **value = random_values(m);
    const int32_t text[9] = {1, 2, 3, 4, 5, 6, 7, 8, RIG_VOCAB};
    const int32_t first[] = {0, 5};
    const float *logits;
    double loss;
    qn_err err;
    qn_runner *r = open_runner(m, value, 1, 1, 4, 6);
    assert_int_equal(qn_runner_feed(r, text, 5, &logits, &err), QN_ERANGE);
    assert_int_equal(qn_runner_feed(r, text, 0, &logits, &err), QN_ERANGE);
    assert_int_equal(qn_runner_feed(r, text + 8, 1, &logits, &err), QN_ERANGE);
    assert_non_null(strstr(err.text, "vocabulary of 23"));
    rig_ok(qn_runner_feed(r, text, 4, &logits, &err), &err);
    assert_int_equal(qn_runner_feed(r, text, 3, &logits, &err), QN_ERANGE);
    assert_non_null(strstr(err.text, "4 of 6 positions"));
    rig_ok(qn_runner_feed(r, text, 2, &logits, &err), &err);
    assert_int_equal(qn_runner_feed(r, text, 1, &logits, &err), QN_ERANGE);
    assert_int_equal(qn_runner_evaluate(r, NULL, (qn_split_range){0}, 0, &loss, NULL, &err), QN_ESTATE);
    qn_runner_close(r);
    r = open_runner(m, value, 1, 1, 4, 0);
    assert_int_equal(qn_runner_feed(r, text, 1, &logits, &err), QN_ESTATE);
    qn_runner_close(r);
    qn_runner_desc d = {
        .model = m, .value = (void *const *)value, .first_layer = first, .workers = 1, .threads = 1, .B = 1, .T = 9};
    assert_int_equal(qn_runner_open(&r, &d, &err), QN_EINVAL);
    d.T = 0;
    assert_int_equal(qn_runner_open(&r, &d, &err), QN_EINVAL);
    free_values(m, value);
    qn_model_close(m);
}

static qn_tokens *open_tokens(int64_t count, int32_t vocab)
{
    char path[512];
    const char *dir = getenv("QUERN_TEST_TMP");
    int32_t *ids = malloc((size_t)count * sizeof(*ids));
    qn_tokens *t;
    qn_err err;
    for (int64_t i = 0; i < count; i++) ids[i] = (int32_t)(i * i % vocab);
    snprintf(path, sizeof(path), "%s/runner_%d.tokens", dir != NULL ? dir : ".", vocab);
    rig_ok(qn_tokens_write(path, ids, count, vocab, &err), &err);
    rig_ok(qn_tokens_open(&t, path, &err), &err);
    remove(path);
    free(ids);
    return t;
}

static void evaluates_as_the_trainer_does(void **unused)
{
    (void)unused;
    qn_tokens *tokens = open_tokens(300, RIG_VOCAB), *foreign = open_tokens(300, RIG_VOCAB + 2);
    const qn_split_range part = {.first = 0, .count = 300};
    const rig_way way = {.schedule = "1f1b", .workers = 2, .threads = 1, .transport = "thread"};
    for (int32_t c = 0; c < RIG_CONFIGS; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        qn_trainer *t = rig_open(m, QN_MODE_F32, &way, 2);
        qn_err err;
        double want;
        int64_t targets;
        rig_ok(qn_trainer_evaluate(t, tokens, part, 0, &want, &targets, &err), &err);
        assert_int_equal(targets, 299);
        float **value = calloc((size_t)qn_model_params(m), sizeof(*value));
        for (int32_t p = 0; p < qn_model_params(m); p++) value[p] = qn_trainer_home(t, p).value;
        for (int32_t P = 1; P <= 3; P++) {
            double loss;
            qn_runner *r = open_runner(m, value, P, 1, RIG_T, 0);
            rig_ok(qn_runner_evaluate(r, tokens, part, 0, &loss, &targets, &err), &err);
            assert_true(loss == want);
            assert_int_equal(qn_runner_evaluate(r, foreign, part, 0, &loss, &targets, &err), QN_EINVAL);
            assert_int_equal(qn_runner_evaluate(r, tokens, (qn_split_range){.first = 5, .count = 1}, 0, &loss, &targets, &err),
                             QN_EINVAL);
            qn_runner_close(r);
        }
        free(value);
        qn_trainer_close(t);
        qn_model_close(m);
    }
    qn_tokens_close(foreign);
    qn_tokens_close(tokens);
}

static void every_allocation_may_fail(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&rig_config[1]);
    float **value = random_values(m);
    const int32_t first[] = {0, 2, 5};
    const qn_runner_desc d = {.model = m,
                              .value = (void *const *)value,
                              .first_layer = first,
                              .workers = 2,
                              .threads = 2,
                              .mode = QN_MODE_F32,
                              .B = 1,
                              .T = 4,
                              .cache_len = 8};
    qn_status st = QN_ENOMEM;
    for (long n = 1; st != QN_OK; n++) {
        qn_runner *r;
        qn_err err;
        qni_fault_arm(QN_FAULT_ALLOC, n);
        st = qn_runner_open(&r, &d, &err);
        qni_fault_arm(QN_FAULT_ALLOC, 0);
        if (st != QN_OK) assert_int_equal(st, QN_ENOMEM);
        qn_runner_close(r);
    }
    free_values(m, value);
    qn_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_on_any_workers_and_in_any_pieces),
        cmocka_unit_test(same_bits_among_others),
        cmocka_unit_test(says_what_does_not_fit),
        cmocka_unit_test(evaluates_as_the_trainer_does),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
