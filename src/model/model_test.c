/* The parameter table (names, shapes, order, counts), initial values, refusals, and what a stage asks for. */
#include "model_rig.h"

#include "core/alloc.h"
#include "model/cost.h"

static const qn_model_config gpt2_124m = {
    .arch = QN_ARCH_GPT2, .layers = 12, .heads = 12, .width = 768, .context = 1024, .vocab = 50257, .tied = true};
static const qn_model_config llama_7b = {
    .arch = QN_ARCH_LLAMA, .layers = 32, .heads = 32, .width = 4096, .hidden = 11008, .context = 2048, .vocab = 32000};

static qn_model *open_model(const qn_model_config *c)
{
    qn_model *m;
    qn_err err;
    rig_ok(qn_model_open(&m, c, &err), &err);
    return m;
}

static const qn_param *find(const qn_model *m, const char *name)
{
    for (int32_t i = 0; i < qn_model_params(m); i++) {
        if (strcmp(qn_model_param(m, i)->name, name) == 0) return qn_model_param(m, i);
    }
    return NULL;
}

static void check_param(const qn_model *m, const char *name, int32_t layer, int64_t d0, int64_t d1, bool transposed)
{
    const qn_param *p = find(m, name);
    if (p == NULL) fail_msg("no parameter %s", name);
    assert_int_equal(p->layer, layer);
    assert_int_equal(p->dim[0], d0);
    if (p->rank == 2) assert_int_equal(p->dim[1], d1);
    assert_int_equal(p->rank, d1 == 0 ? 1 : 2);
    assert_int_equal(p->file_transposed, transposed);
    assert_int_equal(p->decay, p->rank == 2);
    assert_int_equal(p->count, d1 == 0 ? d0 : d0 * d1);
}

static void gpt2_has_its_published_parameters(void **state)
{
    (void)state;
    qn_model *m = open_model(&gpt2_124m);
    assert_int_equal(qn_model_param_count(m), 124439808);
    assert_int_equal(qn_model_params(m), 148);
    assert_int_equal(qn_model_uses(m), 149); /* the table twice */
    assert_int_equal(qn_model_layers(m), 14);
    assert_int_equal(qn_model_matmul_params(m), 12 * 12 * 768 * 768 + 50257 * 768);
    check_param(m, "transformer.wte.weight", 0, 50257, 768, false);
    check_param(m, "transformer.wpe.weight", 0, 1024, 768, false);
    check_param(m, "transformer.h.0.ln_1.weight", 1, 768, 0, false);
    check_param(m, "transformer.h.11.attn.c_attn.weight", 12, 2304, 768, true);
    check_param(m, "transformer.h.11.attn.c_attn.bias", 12, 2304, 0, false);
    check_param(m, "transformer.h.5.mlp.c_fc.weight", 6, 3072, 768, true);
    check_param(m, "transformer.h.5.mlp.c_proj.weight", 6, 768, 3072, true);
    check_param(m, "transformer.ln_f.bias", 13, 768, 0, false);
    assert_null(find(m, "lm_head.weight"));
    for (int32_t u = 1; u < qn_model_uses(m); u++) assert_true(qn_model_use(m, u - 1)->layer <= qn_model_use(m, u)->layer);
    assert_int_equal(qn_model_use(m, 148)->param, 0);
    assert_int_equal(qn_model_use(m, 148)->layer, 13);
    qn_model_close(m);
}

static void llama_has_its_published_parameters(void **state)
{
    (void)state;
    qn_model *m = open_model(&llama_7b);
    assert_int_equal(qn_model_param_count(m), 6738415616); /* LLaMA 7B */
    check_param(m, "model.embed_tokens.weight", 0, 32000, 4096, false);
    check_param(m, "model.layers.31.self_attn.k_proj.weight", 32, 4096, 4096, false);
    check_param(m, "model.layers.0.mlp.down_proj.weight", 1, 4096, 11008, false);
    check_param(m, "model.layers.3.post_attention_layernorm.weight", 4, 4096, 0, false);
    check_param(m, "model.norm.weight", 33, 4096, 0, false);
    check_param(m, "lm_head.weight", 33, 32000, 4096, false);
    assert_int_equal(qn_model_params(m), qn_model_uses(m));
    qn_model_close(m);
    qn_model_config c = llama_7b;
    c.kv_heads = 8;
    c.tied = true;
    m = open_model(&c);
    check_param(m, "model.layers.0.self_attn.k_proj.weight", 1, 1024, 4096, false);
    assert_null(find(m, "lm_head.weight"));
    assert_int_equal(qn_model_uses(m), qn_model_params(m) + 1);
    qn_model_close(m);
}

static void zeros_mean_the_usual(void **state)
{
    (void)state;
    qn_model *m = open_model(&gpt2_124m);
    const qn_model_config *c = qn_model_config_of(m);
    assert_int_equal(c->hidden, 3072);
    assert_int_equal(c->kv_heads, 12);
    assert_true(c->norm_eps == 1e-5);
    qn_model_close(m);
    m = open_model(&(qn_model_config){
        .arch = QN_ARCH_LLAMA, .layers = 5, .heads = 8, .kv_heads = 4, .width = 64, .context = 512, .vocab = 512});
    assert_int_equal(qn_model_config_of(m)->hidden, 192); /* 170.67, rounded up */
    assert_true(qn_model_config_of(m)->rope_theta == 10000);
    qn_model_close(m);
}

static void wrong_configurations_are_refused(void **state)
{
    (void)state;
    static const struct {
        qn_model_config c;
        const char *says;
    } wrong[] = {
        {{.arch = QN_ARCH_GPT2, .layers = 1, .heads = 5, .width = 12, .context = 8, .vocab = 9},
         "5 heads do not divide the width 12"},
        {{.arch = QN_ARCH_GPT2, .layers = 0, .heads = 1, .width = 12, .context = 8, .vocab = 9}, "number of layers is 0"},
        {{.arch = QN_ARCH_GPT2, .layers = 70000, .heads = 1, .width = 12, .context = 8, .vocab = 9}, "number of layers is 70000"},
        {{.arch = QN_ARCH_GPT2, .layers = 1, .heads = 0, .width = 12, .context = 8, .vocab = 9}, "number of heads is 0"},
        {{.arch = QN_ARCH_GPT2, .layers = 1, .heads = 1, .width = -4, .context = 8, .vocab = 9}, "width is -4"},
        {{.arch = QN_ARCH_GPT2, .layers = 1, .heads = 1, .width = 4, .context = 0, .vocab = 9}, "context is 0"},
        {{.arch = QN_ARCH_GPT2, .layers = 1, .heads = 1, .width = 4, .context = 8, .vocab = 0}, "vocabulary is 0"},
        {{.arch = QN_ARCH_GPT2, .layers = 1, .heads = 1, .width = 4, .hidden = -1, .context = 8, .vocab = 9},
         "hidden width is -1"},
        {{.arch = QN_ARCH_GPT2, .layers = 1, .heads = 4, .kv_heads = 2, .width = 4, .context = 8, .vocab = 9},
         "GPT-2 has as many"},
        {{.arch = QN_ARCH_LLAMA, .layers = 1, .heads = 4, .kv_heads = 3, .width = 8, .context = 8, .vocab = 9},
         "3 key/value heads do not divide"},
        {{.arch = QN_ARCH_LLAMA, .layers = 1, .heads = 4, .kv_heads = 8, .width = 8, .context = 8, .vocab = 9},
         "key/value heads is 8"},
        {{.arch = QN_ARCH_LLAMA, .layers = 1, .heads = 4, .width = 12, .context = 8, .vocab = 9}, "needs an even width"},
        {{.arch = (qn_arch)7, .layers = 1, .heads = 1, .width = 4, .context = 8, .vocab = 9}, "architecture 7 is unknown"},
        {{.arch = QN_ARCH_GPT2, .layers = 1, .heads = 1, .width = 4, .context = 8, .vocab = 9, .dropout = 1}, "dropout is 1"},
        {{.arch = QN_ARCH_GPT2, .layers = 1, .heads = 1, .width = 4, .context = 8, .vocab = 9, .dropout = NAN}, "dropout is"},
        {{.arch = QN_ARCH_GPT2, .layers = 1, .heads = 1, .width = 4, .context = 8, .vocab = 9, .norm_eps = -1}, "epsilon is -1"},
        {{.arch = QN_ARCH_LLAMA, .layers = 1, .heads = 1, .width = 4, .context = 8, .vocab = 9, .rope_theta = -2},
         "rotary embedding is -2"},
    };
    for (size_t i = 0; i < QN_COUNT(wrong); i++) {
        qn_model *m = (qn_model *)&wrong;
        qn_err err = {.text = ""};
        assert_int_equal(qn_model_open(&m, &wrong[i].c, &err), QN_EINVAL);
        assert_null(m);
        if (strstr(err.text, wrong[i].says) == NULL) fail_msg("'%s' does not say '%s'", err.text, wrong[i].says);
    }
}

static void wrong_stages_are_refused(void **state)
{
    (void)state;
    qn_model *m =
        open_model(&(qn_model_config){.arch = QN_ARCH_GPT2, .layers = 2, .heads = 1, .width = 4, .context = 8, .vocab = 9});
    const qn_kernels *k;
    qn_err err;
    qn_arena scratch = {0};
    const qn_exec ex = {.scratch = &scratch};
    rig_ok(qn_kernels_get(&k, QN_MODE_REF_F32, &err), &err);
    static const struct {
        int32_t first, count;
        qn_stage_limits l;
    } wrong[] = {
        {0, 5, {.B = 1, .T = 4}},         {5, 0, {.B = 1, .T = 4}},
        {-1, 1, {.B = 1, .T = 4}},        {0, -1, {.B = 1, .T = 4}},
        {0, 4, {.B = 1, .T = 9}},         {0, 4, {.B = -1, .T = 4}},
        {0, 4, {.B = INT64_MAX, .T = 4}}, {0, 4, {.B = INT32_MAX, .T = 2}},
        {0, 1, {.B = 1, .T = INT64_MAX}}, {0, 1, {.B = 1, .T = 1, .cache_len = -1}},
    };
    for (size_t i = 0; i < QN_COUNT(wrong); i++) {
        qn_stage *s = (qn_stage *)&wrong;
        assert_int_equal(qn_stage_open(&s, m, wrong[i].first, wrong[i].count, k, &ex, &wrong[i].l, &err), QN_EINVAL);
        assert_null(s);
    }
    qn_model_close(m);
}

static void initial_values_follow_the_scheme(void **state)
{
    (void)state;
    qn_model *m = open_model(&(qn_model_config){
        .arch = QN_ARCH_GPT2, .layers = 8, .heads = 4, .width = 128, .context = 64, .vocab = 1001, .tied = true});
    for (int32_t i = 0; i < qn_model_params(m); i++) {
        const qn_param *p = qn_model_param(m, i);
        float *a = rig_bytes((size_t)p->count * 4), *b = rig_bytes((size_t)p->count * 4);
        double *d = rig_bytes((size_t)p->count * 8), sum = 0, squares = 0;
        qn_model_init_param(m, i, 42, QN_F32, a);
        qn_model_init_param(m, i, 42, QN_F64, d);
        qn_model_init_param(m, i, 43, QN_F32, b);
        for (int64_t e = 0; e < p->count; e++) {
            assert_true((float)d[e] == a[e] && (double)a[e] == d[e]);
            sum += a[e];
            squares += (double)a[e] * a[e];
        }
        if (p->init == QN_INIT_NORMAL) {
            const bool join = strstr(p->name, "c_proj.weight") != NULL;
            assert_true(fabs(p->init_std - (join ? 0.02 / 4 : 0.02)) < 1e-12); /* sqrt(2 * 8) = 4 */
            const double n = (double)p->count, std = sqrt(squares / n);
            assert_true(fabs(sum / n) < 5 * p->init_std / sqrt(n));
            assert_true(fabs(std / p->init_std - 1) < 5 / sqrt(2 * n));
            assert_memory_not_equal(a, b, (size_t)p->count * 4);
        } else {
            assert_true(sum == (p->init == QN_INIT_ONE ? (double)p->count : 0.0));
        }
        free(a);
        free(b);
        free(d);
    }
    qn_model_close(m);
}

/* Every allocation of opening a model and a stage fails once: an error, nothing leaked, nothing half-built handed out. */
static void failed_allocations_are_reported(void **state)
{
    (void)state;
    const qn_model_config c = {
        .arch = QN_ARCH_LLAMA, .layers = 9, .heads = 2, .width = 8, .context = 8, .vocab = 9, .tied = true};
    const qn_stage_limits limits = {.B = 2, .T = 4, .train = true, .cache_len = 8};
    const qn_kernels *k;
    qn_arena scratch = {0};
    const qn_exec ex = {.scratch = &scratch};
    qn_err err;
    rig_ok(qn_kernels_get(&k, QN_MODE_REF_F32, &err), &err);
    int32_t failures = 0;
    qn_status st = QN_ENOMEM;
    for (long n = 1; st != QN_OK; n++) {
        qn_model *m = NULL;
        qn_stage *s = NULL;
        int32_t cut[4];
        qni_fault_arm(QN_FAULT_ALLOC, n);
        st = qn_model_open(&m, &c, &err);
        if (st == QN_OK) st = qn_stage_open(&s, m, 0, qn_model_layers(m), k, &ex, &limits, &err);
        if (st == QN_OK) st = qn_model_default_cuts(m, 2, 4, 3, cut, &err);
        qni_fault_arm(QN_FAULT_ALLOC, 0);
        if (st != QN_OK) {
            assert_int_equal(st, QN_ENOMEM);
            assert_true(strlen(err.text) > 10);
            failures++;
        }
        qn_stage_close(s);
        qn_model_close(m);
    }
    assert_true(failures > 10);
}

/* What backward keeps of GPT-2 124M per token, counted by hand: see the table in README.md. */
static void stash_of_gpt2_is_as_counted(void **state)
{
    (void)state;
    static const qn_mode modes[] = {QN_MODE_F32, QN_MODE_BF16};
    qn_model *m = open_model(&gpt2_124m);
    qn_arena scratch = {0};
    const qn_exec ex = {.scratch = &scratch};
    for (size_t i = 0; i < QN_COUNT(modes); i++) {
        const qn_kernels *k;
        qn_stage *s;
        qn_err err;
        if (qn_kernels_get(&k, modes[i], &err) != QN_OK) {
            print_message("skipped: %s\n", err.text);
            continue;
        }
        const qn_stage_limits limits = {.B = 4, .T = 512, .train = true};
        rig_ok(qn_stage_open(&s, m, 0, 14, k, &ex, &limits, &err), &err);
        const qn_stage_need *n = qn_stage_need_of(s);
        const size_t act = qn_dtype_bytes(k->act), C = 768, rows = 4 * 512;
        /* block: qkv, attention, MLP before GELU in act; its output, the other join (or, where that is half as wide, its branch)
         * and the statistics in res; head: statistics of its norm */
        const size_t block = 8 * C * act + C * 4 + C * act + (4 + 12) * 4, head = 2 * 4;
        print_message("%s: stash %zu bytes a token, wstash %zu, scratch %.1f MB, packed %.1f MB\n", k->name,
                      n->stash_bytes / rows, n->wstash_bytes / rows, 1e-6 * (double)n->scratch_bytes,
                      1e-6 * (double)n->packed_bytes);
        assert_int_equal(n->stash_bytes, rows * (12 * block + head + C * 4)); /* C * 4: the embedding's output */
        qn_stage_close(s);
    }
    qn_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpt2_has_its_published_parameters),
        cmocka_unit_test(llama_has_its_published_parameters),
        cmocka_unit_test(zeros_mean_the_usual),
        cmocka_unit_test(wrong_configurations_are_refused),
        cmocka_unit_test(wrong_stages_are_refused),
        cmocka_unit_test(initial_values_follow_the_scheme),
        cmocka_unit_test(failed_allocations_are_reported),
        cmocka_unit_test(stash_of_gpt2_is_as_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
