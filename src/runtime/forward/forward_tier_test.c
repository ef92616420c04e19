/* Forward passes on devices with little memory: generation and evaluation give the bits of resident weights for every window and
 * any number of devices; what moves is what the window says, and nothing once all pieces stay. */
#include "support/sanitized.h"
#include "support/trainer_rig.h"

#include "core/alloc.h"
#include "core/checked.h"
#include "runner.h"
#include "support/malloc_guard.c"

enum { BLOCKS = 4, PIECES = BLOCKS + 2, NEW = 5 };

static const qn_model_config models[] = {
    {.arch = QN_ARCH_GPT2, .layers = BLOCKS, .heads = 2, .width = 16, .context = 8, .vocab = RIG_VOCAB, .tied = true},
    {.arch = QN_ARCH_LLAMA, .layers = BLOCKS, .heads = 2, .width = 16, .context = 8, .vocab = RIG_VOCAB},
};

static float **random_values(const qn_model *m)
{
    float **value = calloc((size_t)qn_model_params(m), sizeof(*value));
    assert_non_null(value);
    for (int32_t p = 0; p < qn_model_params(m); p++) {
        value[p] = malloc((size_t)qn_model_param(m, p)->count * sizeof(float));
        assert_non_null(value[p]);
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

static qn_status open_on(qn_runner **r, const qn_model *m, float **value, int32_t workers, const qn_runner_tiers *tiers,
                         qn_weights weights, bool infer, qn_err *err)
{
    int32_t first[RIG_MAX_STAGES + 1];
    rig_cut(first, workers, qn_model_layers(m));
    const qn_runner_desc d = {.model = m,
                              .value = (void *const *)value,
                              .first_layer = first,
                              .workers = workers,
                              .threads = 1 + workers % 2,
                              .mode = QN_MODE_F32,
                              .weights = weights,
                              .B = 1,
                              .T = 4,
                              .cache_len = infer ? 8 : 0,
                              .kv = QN_F32,
                              .slots = infer ? 2 : 0,
                              .tiers = tiers};
    return qn_runner_open(r, &d, err);
}

/* A prompt of three tokens in each of two slots, then greedily. logits [NEW, 2, V]. */
static void generate(float *logits, qn_runner *r)
{
    const qn_sampling greedy = {.temperature = 0};
    int32_t text[2][3] = {{1, 7, 3}, {5, 2, 11}}, order[RIG_VOCAB];
    for (int32_t i = 0; i < NEW; i++) {
        qn_err err;
        qn_feed feed[2];
        for (int32_t s = 0; s < 2; s++)
            feed[s] = (qn_feed){.slot = s, .logits = 1, .tokens = text[s], .count = i == 0 ? 3 - s : 1};
        if (i == 0 && qn_runner_rows(r) < 5) feed[0].count = feed[1].count = 2;
        rig_ok(qn_runner_feed_all(r, feed, 2, &err), &err);
        for (int32_t s = 0; s < 2; s++) {
            float *to = logits + (i * 2 + s) * RIG_VOCAB;
            memcpy(to, feed[s].row, RIG_VOCAB * sizeof(float));
            text[s][0] = qn_sample(to, RIG_VOCAB, &greedy, i, order);
        }
    }
}

/* Every part of every parameter comes through here. */
typedef struct file {
    const qn_model *m;
    float **value;
    _Atomic int64_t elements;
} file;

static qn_status read_param(void *ctx, int32_t param, int64_t first, int64_t count, void *to, qn_err *err)
{
    file *f = ctx;
    (void)err;
    assert_true(first >= 0 && count > 0 && first + count <= qn_model_param(f->m, param)->count);
    memcpy(to, f->value[param] + first, (size_t)count * sizeof(float));
    f->elements += count;
    return QN_OK;
}

static int64_t on_device(int32_t pieces, int32_t devices)
{
    return (pieces + devices - 1) / devices;
}

static void every_window_generates_the_resident_bits(void **unused)
{
    (void)unused;
    static const qn_weights kinds[] = {QN_WEIGHTS_OWN, QN_WEIGHTS_F32, QN_WEIGHTS_Q8};
    for (size_t c = 0; c < QN_COUNT(models) * QN_COUNT(kinds); c++) {
        qn_model *m = rig_model(&models[c % 2]);
        float **value = random_values(m);
        float want[NEW * 2 * RIG_VOCAB], got[NEW * 2 * RIG_VOCAB];
        for (int32_t N = 1; N <= 3; N++) {
            for (int32_t k = 0; k <= PIECES; k++) {
                for (int32_t replace = 1; replace <= qn_max32(k, 1); replace++) {
                    qn_err err;
                    qn_runner *r;
                    file f = {.m = m, .value = value};
                    qn_runner_tiers tiers = {.window = k, .replace = replace};
                    const bool from_file = (k + replace) % 2 == 0;
                    if (from_file) {
                        tiers.read = read_param;
                        tiers.read_ctx = &f;
                    }
                    rig_ok(open_on(&r, m, from_file ? NULL : value, N, k > 0 ? &tiers : NULL, kinds[c / 2], true, &err), &err);
                    generate(k > 0 ? got : want, r);
                    if (k > 0) {
                        const qn_runner_devices d = qn_runner_devices_of(r);
                        assert_memory_equal(got, want, sizeof(want));
                        assert_int_equal(d.pieces, PIECES);
                        if (k >= on_device(PIECES, N)) assert_int_equal(d.loaded, d.pass);  /* once */
                        if (N == 1 && k < PIECES) assert_int_equal(d.loaded, NEW * d.pass); /* each pass */
                        assert_true(d.high_water <= d.arenas && (N > 1 || d.high_water == d.arenas));
                        if (from_file)
                            assert_true(f.elements * 4 <= (k < on_device(PIECES, N) ? NEW : 1) * d.weights && f.elements > 0);
                    } else {
                        assert_int_equal(qn_runner_devices_of(r).arenas, 0);
                    }
                    qn_runner_close(r);
                }
            }
        }
        free_values(m, value);
        qn_model_close(m);
    }
}

static void memory_decides_the_window(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&models[0]);
    float **value = random_values(m);
    float want[NEW * 2 * RIG_VOCAB], got[NEW * 2 * RIG_VOCAB];
    qn_err err;
    qn_runner *r;
    qn_runner_tiers tiers = {0};
    rig_ok(open_on(&r, m, value, 1, &tiers, QN_WEIGHTS_OWN, true, &err), &err);
    generate(want, r);
    const int64_t all = qn_runner_devices_of(r).arenas;
    qn_runner_close(r);

    tiers.memory = 1;
    assert_int_equal(open_on(&r, m, value, 1, &tiers, QN_WEIGHTS_OWN, true, &err), QN_EINVAL);
    assert_null(r);
    const char *at = strstr(err.text, "the smallest that would do");
    assert_non_null(at);
    at = strstr(at, "is ");
    assert_non_null(at);
    const int64_t least = strtoll(at + 3, NULL, 10);
    assert_true(least > 1 && least < all / 2);
    tiers.memory = least - 1;
    assert_int_equal(open_on(&r, m, value, 1, &tiers, QN_WEIGHTS_OWN, true, &err), QN_EINVAL);
    for (int64_t bytes = least; bytes <= all; bytes += qn_max64(1, (all - least) / 7)) {
        tiers.memory = bytes;
        rig_ok(open_on(&r, m, value, 1, &tiers, QN_WEIGHTS_OWN, true, &err), &err);
        generate(got, r);
        assert_memory_equal(got, want, sizeof(want));
        assert_true(qn_runner_devices_of(r).high_water <= bytes);
        qn_runner_close(r);
    }
    tiers = (qn_runner_tiers){.window = PIECES + 1};
    assert_int_equal(open_on(&r, m, value, 1, &tiers, QN_WEIGHTS_OWN, true, &err), QN_EINVAL);
    assert_non_null(strstr(err.text, "1 to 6"));
    tiers = (qn_runner_tiers){.window = 2, .replace = 3};
    assert_int_equal(open_on(&r, m, value, 1, &tiers, QN_WEIGHTS_OWN, true, &err), QN_EINVAL);
    tiers = (qn_runner_tiers){.window = 1};
    assert_int_equal(open_on(&r, m, value, PIECES + 1, &tiers, QN_WEIGHTS_OWN, true, &err), QN_EINVAL);
    free_values(m, value);
    qn_model_close(m);
}

/* Passes after the first allocate nothing, also where weights come and go. */
static void later_passes_allocate_nothing(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&models[1]);
    float **value = random_values(m), logits[NEW * 2 * RIG_VOCAB];
    for (int32_t k = 1; k <= PIECES; k += PIECES - 1) {
        qn_err err;
        qn_runner *r;
        const qn_runner_tiers tiers = {.window = k};
        rig_ok(open_on(&r, m, value, 2, &tiers, QN_WEIGHTS_F32, true, &err), &err);
        generate(logits, r);
        qn_runner_rewind(r);
        qni_malloc_guard_begin();
        generate(logits, r);
        assert_int_equal(qni_malloc_guard_end(), 0);
        qn_runner_close(r);
    }
    free_values(m, value);
    qn_model_close(m);
}

static void every_allocation_may_fail(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&models[1]);
    float **value = random_values(m);
    const qn_runner_tiers tiers = {.memory = 1 << 20};
    qn_status st = QN_ENOMEM;
    for (long n = 1; st != QN_OK; n++) {
        qn_runner *r;
        qn_err err;
        qni_fault_arm(QN_FAULT_ALLOC, n);
        st = open_on(&r, m, value, 2, &tiers, QN_WEIGHTS_OWN, true, &err);
        qni_fault_arm(QN_FAULT_ALLOC, 0);
        if (st != QN_OK) assert_int_equal(st, QN_ENOMEM);
        qn_runner_close(r);
    }
    free_values(m, value);
    qn_model_close(m);
}

/* A file that cannot be read for a while ends the pass with its error; a later one is whole. */
typedef struct flaky {
    file f;
    _Atomic int32_t calls;
} flaky;

static qn_status read_flaky(void *ctx, int32_t param, int64_t first, int64_t count, void *to, qn_err *err)
{
    flaky *x = ctx;
    const int32_t call = x->calls++;
    if (call >= 50 && call < 53) return QN_FAIL(err, QN_EIO, "the file is gone");
    return read_param(&x->f, param, first, count, to, err);
}

static void a_lost_file_ends_the_pass(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&models[1]);
    float **value = random_values(m);
    qn_err err;
    qn_runner *r;
    flaky f = {.f = {.m = m, .value = value}};
    const qn_runner_tiers tiers = {.window = 2, .read = read_flaky, .read_ctx = &f};
    const int32_t text[] = {1, 2, 3};
    float want[RIG_VOCAB];
    const float *row;
    rig_ok(open_on(&r, m, value, 1, NULL, QN_WEIGHTS_OWN, true, &err), &err);
    rig_ok(qn_runner_feed(r, text, 3, &row, &err), &err);
    memcpy(want, row, sizeof(want));
    qn_runner_close(r);
    rig_ok(open_on(&r, m, NULL, 1, &tiers, QN_WEIGHTS_OWN, true, &err), &err);
    int32_t failed = 0;
    qn_status st = QN_EIO;
    for (int32_t i = 0; i < 64 && (st != QN_OK || failed == 0); i++) {
        st = qn_runner_feed(r, text, 3, &row, &err);
        if (st != QN_OK) assert_int_equal(st, QN_EIO);
        failed += st != QN_OK;
        if (st == QN_OK) assert_memory_equal(row, want, sizeof(want));
        if (st == QN_OK && failed == 0) qn_runner_rewind(r);
    }
    assert_true(failed > 0 && st == QN_OK);
    qn_runner_close(r);
    free_values(m, value);
    qn_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_window_generates_the_resident_bits),
                                       cmocka_unit_test(memory_decides_the_window),
                                       cmocka_unit_test(later_passes_allocate_nothing),
                                       cmocka_unit_test(every_allocation_may_fail), cmocka_unit_test(a_lost_file_ends_the_pass)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
