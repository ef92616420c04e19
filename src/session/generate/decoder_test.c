/* The decoder: what a sequence says is the same alone, among others, in any batch, with drafts of any length, past its context.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/checked.h"
#include "decoder.h"
#include "support/malloc_guard.c"

enum { CONTEXT = 24, VOCAB = 17, TEXTS = 7, NEW = 40 };

typedef struct rig {
    qn_model *model;
    float **value;
} rig;

static void ok(qn_status st, const qn_err *err)
{
    if (st != QN_OK) print_error("%s\n", err->text);
    assert_int_equal(st, QN_OK);
}

static void open_rig(rig *r, qn_arch arch)
{
    const qn_model_config c = {.arch = arch,
                               .layers = 2,
                               .heads = 2,
                               .kv_heads = arch == QN_ARCH_LLAMA,
                               .width = 16,
                               .context = CONTEXT,
                               .vocab = VOCAB};
    qn_err err;
    ok(qn_model_open(&r->model, &c, &err), &err);
    r->value = calloc((size_t)qn_model_params(r->model), sizeof(*r->value));
    for (int32_t p = 0; p < qn_model_params(r->model); p++) {
        const int64_t n = qn_model_param(r->model, p)->count;
        r->value[p] = malloc((size_t)n * sizeof(float));
        qn_model_init_param(r->model, p, 3, QN_F32, r->value[p]);
        for (int64_t i = 0; i < n; i++) r->value[p][i] *= 8;
    }
}

static void close_rig(rig *r)
{
    for (int32_t p = 0; p < qn_model_params(r->model); p++) free(r->value[p]);
    free(r->value);
    qn_model_close(r->model);
}

typedef struct setting {
    int32_t slots, speculate, workers, threads;
    double temperature;
    qn_weights weights;
    qn_mode mode;
} setting;

/* Texts of 1 to TEXTS given tokens go on for up to NEW more. */
static qni_decoder_stats decode(int32_t ids[TEXTS][CONTEXT + NEW], int64_t count[TEXTS], const rig *r, const setting *s)
{
    qn_err err;
    qn_runner *runner;
    qni_decoder *d;
    qni_sequence sequence[TEXTS];
    const int32_t layers = qn_model_layers(r->model),
                  cut[4] = {0, s->workers == 1 ? layers : 1, s->workers == 3 ? 2 : layers, layers};
    const int64_t T = qn_max64(3, s->slots * (1 + (int64_t)s->speculate));
    const qn_runner_desc desc = {.model = r->model,
                                 .value = (void *const *)r->value,
                                 .first_layer = cut,
                                 .workers = s->workers,
                                 .threads = s->threads,
                                 .mode = s->mode,
                                 .weights = s->weights,
                                 .kv = s->weights == QN_WEIGHTS_Q8 ? QN_BF16 : QN_F32,
                                 .B = 1,
                                 .T = T,
                                 .cache_len = CONTEXT,
                                 .slots = s->slots,
                                 .logits = T};
    ok(qn_runner_open(&runner, &desc, &err), &err);
    for (int32_t i = 0; i < TEXTS; i++) {
        const int64_t given = i == 3 ? CONTEXT : 1 + i;
        for (int64_t t = 0; t < given; t++) ids[i][t] = (int32_t)((i * 3 + t * (i + 1)) % VOCAB);
        sequence[i] = (qni_sequence){.ids = ids[i], .count = given, .given = given, .most = given + NEW - i};
    }
    const qni_decoder_desc how = {.runner = runner,
                                  .slots = s->slots,
                                  .T = T,
                                  .cache_len = CONTEXT,
                                  .vocab = VOCAB,
                                  .stop = {11, -1},
                                  .speculate = s->speculate,
                                  .how = {.temperature = s->temperature, .top_p = 1, .seed = 5},
                                  .sequence = sequence,
                                  .sequences = TEXTS};
    ok(qni_decoder_open(&d, &how, &err), &err);
    int64_t left = 1;
    for (int32_t step = 0; left > 0; step++) {
        if (step == 1) qni_malloc_guard_begin(); /* the first step may wake what starts late */
        ok(qni_decoder_step(d, &left, &err), &err);
    }
    const long allocations = qni_malloc_guard_end();
    /* Threads of a team that are not needed yet start when they like, and start with some; oneDNN makes primitives. */
    if (s->weights != QN_WEIGHTS_OWN && s->threads == 1) assert_int_equal(allocations, 0);
    const qni_decoder_stats stats = *qni_decoder_stats_of(d);
    for (int32_t i = 0; i < TEXTS; i++) count[i] = sequence[i].count;
    qni_decoder_close(d);
    qn_runner_close(runner);
    return stats;
}

static void check_company(qn_arch arch, bool warm, qn_weights weights, qn_mode mode)
{
    static const setting settings[] = {{1, 0, 1, 1, 0, 0, 0}, {2, 0, 1, 1, 0, 0, 0}, {4, 0, 2, 1, 0, 0, 0}, {7, 0, 3, 2, 0, 0, 0},
                                       {1, 4, 1, 1, 0, 0, 0}, {3, 5, 2, 2, 0, 0, 0}, {7, 2, 1, 1, 0, 0, 0}};
    rig r;
    static int32_t want[TEXTS][CONTEXT + NEW], got[TEXTS][CONTEXT + NEW];
    int64_t want_count[TEXTS], got_count[TEXTS], accepted = 0;
    open_rig(&r, arch);
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        setting s = settings[i];
        s.temperature = warm ? 0.7 : 0;
        s.weights = weights;
        s.mode = mode;
        const qni_decoder_stats stats = decode(i == 0 ? want : got, i == 0 ? want_count : got_count, &r, &s);
        accepted += stats.accepted;
        assert_true(stats.accepted <= stats.drafted && (s.speculate > 0 || stats.drafted == 0));
        for (int32_t t = 0; i > 0 && t < TEXTS; t++) {
            assert_int_equal(got_count[t], want_count[t]);
            assert_memory_equal(got[t], want[t], (size_t)want_count[t] * sizeof(int32_t));
        }
    }
    assert_true(accepted > 0);
    close_rig(&r);
}

static void same_text_in_any_company(void **unused)
{
    (void)unused;
    static const char *const isa[] = {"portable", "avx2", "avx512", "avx512_bf16"};
    for (size_t i = 0; i < sizeof(isa) / sizeof(isa[0]); i++) {
        const qn_kernels *k;
        qn_err err;
        setenv("QUERN_ISA", isa[i], 1);
        if (qn_kernels_get(&k, QN_MODE_F32, &err) != QN_OK) continue;
        for (int w = i == 3 ? QN_WEIGHTS_OWN : QN_WEIGHTS_F32; w < QN_WEIGHTS; w++)
            for (int mode = QN_MODE_F32; mode <= QN_MODE_BF16; mode++) {
                check_company(QN_ARCH_GPT2, mode == QN_MODE_BF16, (qn_weights)w, (qn_mode)mode);
                check_company(QN_ARCH_LLAMA, w == QN_WEIGHTS_Q8, (qn_weights)w, (qn_mode)mode);
            }
    }
    unsetenv("QUERN_ISA");
}

static void drafts_repeat_the_latest_match(void **unused)
{
    (void)unused;
    const int32_t text[] = {1, 2, 3, 4, 9, 2, 3, 5, 6, 1, 2, 3};
    int32_t draft[8];
    assert_int_equal(qni_draft(draft, 4, text, 12), 4); /* 1 2 3 was followed by 4 9 2 3 */
    assert_memory_equal(draft, text + 3, 4 * sizeof(int32_t));
    assert_int_equal(qni_draft(draft, 8, text + 1, 11), 5); /* without that: the later 2 3, followed by 5 */
    assert_int_equal(draft[0], 5);
    assert_int_equal(qni_draft(draft, 4, text, 4), 0);
    assert_int_equal(qni_draft(draft, 4, text, 1), 0);
    const int32_t same[] = {7, 7, 7, 7};
    assert_int_equal(qni_draft(draft, 4, same, 4), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_text_in_any_company),
        cmocka_unit_test(drafts_repeat_the_latest_match),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
