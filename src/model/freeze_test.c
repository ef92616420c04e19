/* Frozen parameters: the same bits for all that is trained, whatever else is frozen; no gradient, less stash; who is refused. */
#include "model_rig.h"

enum { B = 3, T = 5, LAYERS = 4 };

static const qn_model_config configs[] = {
    {.arch = QN_ARCH_GPT2, .layers = 2, .heads = 2, .width = 16, .context = 8, .vocab = 13, .tied = true, .dropout = 0.2},
    {.arch = QN_ARCH_LLAMA, .layers = 2, .heads = 4, .kv_heads = 2, .width = 32, .context = 8, .vocab = 13},
};

/* Ends, parts of operations with two parameters, everything but one, the lower half, the tied table. */
static const char *const patterns[][2][2] = {
    {{"transformer.wte*", NULL}, {"model.embed_tokens*", NULL}},
    {{"*.bias", NULL}, {"*norm*", NULL}},
    {{"*.weight", NULL}, {"*proj*", NULL}},
    {{"transformer.wpe.weight", "*.ln_?.weight"}, {"lm_head*", NULL}},
    {{"transformer.w*", "transformer.h.0.*"}, {"model.embed*", "model.layers.0.*"}},
    {{"transformer.w*", "transformer.h.*"}, {"model.embed*", "model.layers.*"}},
    {{"*[!t]", "*.h.[01].[alm]*t"}, {"model.[eln]*", NULL}},
};

static const int32_t cuts[][6] = {{1, 0, LAYERS}, {2, 0, 2, LAYERS}, {3, 0, 1, 3, LAYERS}, {4, 0, 1, 2, 3, LAYERS}};

typedef struct batch {
    int32_t tokens[B * T], targets[B * T];
    qn_mb mb;
} batch;

static void step(rig *r, const int32_t *cut, unsigned how)
{
    const qn_stage_limits limits = {.B = B, .T = T, .train = true};
    batch b;
    rig_tokens(b.tokens, B * T, 13, 21);
    rig_tokens(b.targets, B * T, 13, 22);
    b.mb = (qn_mb){.B = B, .T = T, .tokens = b.tokens, .targets = b.targets, .seed = 77, .step = 9, .first_sample = 4};
    rig_cut(r, cut[0], cut + 1, &limits);
    rig_clear_grads(r);
    (void)rig_step(r, &b.mb, how);
}

static void freeze(rig *r, const char *const pattern[2])
{
    qn_err err;
    rig_ok(qn_model_freeze(r->m, pattern, pattern[1] != NULL ? 2 : 1, &err), &err);
}

/* Trained uses have the gradient of the rig where nothing is frozen, the others none. */
static void assert_gradients(const rig *want, const rig *got, const char *pattern)
{
    const size_t e = qn_dtype_bytes(want->k->param);
    assert_memory_equal(&want->loss, &got->loss, sizeof(double));
    for (int32_t u = 0; u < qn_model_uses(got->m); u++) {
        const qn_param *p = qn_model_param(got->m, qn_model_use(got->m, u)->param);
        const size_t n = (size_t)p->count * e;
        bool zero = true;
        for (size_t i = 0; i < n; i++) zero = zero && ((const char *)got->grad[u])[i] == 0;
        if (p->frozen ? !zero : memcmp(want->grad[u], got->grad[u], n) != 0)
            fail_msg("'%s' frozen: the gradient of %s differs", pattern, p->name);
    }
}

static void sweep(const qn_model_config *c, qn_mode mode)
{
    rig want;
    rig_open(&want, c, mode, 1);
    step(&want, cuts[0], 0);
    for (size_t i = 0; i < QN_COUNT(patterns); i++) {
        const char *const *pattern = patterns[i][c->arch];
        rig got;
        rig_open(&got, c, mode, 2);
        freeze(&got, pattern);
        for (size_t k = 0; k < QN_COUNT(cuts); k++) {
            for (unsigned how = 0; how < 4; how++) {
                step(&got, cuts[k], how);
                assert_gradients(&want, &got, pattern[0]);
                rig_uncut(&got);
            }
        }
        rig_close(&got);
    }
    rig_close(&want);
}

static void trained_gradients_keep_their_bits(void **state)
{
    (void)state;
    for (size_t c = 0; c < QN_COUNT(configs); c++) {
        sweep(&configs[c], QN_MODE_F32);
        sweep(&configs[c], QN_MODE_REF_F32);
    }
}

static qn_stage_need need_of(const qn_model_config *c, const char *const pattern[2], int32_t first, int32_t count)
{
    const int32_t cut[3] = {1, first, first + count};
    const qn_stage_limits limits = {.B = B, .T = T, .train = true};
    rig r;
    rig_open(&r, c, QN_MODE_F32, 1);
    if (pattern != NULL) freeze(&r, pattern);
    rig_cut(&r, 1, cut + 1, &limits);
    const qn_stage_need need = *qn_stage_need_of(r.stage[0]);
    rig_close(&r);
    return need;
}

/* What nobody trains at or below keeps nothing; frozen products above hand no gradients to W. */
static void the_stash_shrinks(void **state)
{
    static const char *const lower[2] = {"transformer.w*", "transformer.h.0.*"}, *const mats[2] = {"*.h.1.*.c_*", NULL};
    (void)state;
    qn_stage_need need = need_of(&configs[0], lower, 0, 2);
    assert_int_equal(need.stash_bytes, 0);
    assert_int_equal(need.wstash_bytes, 0);
    const qn_stage_need all = need_of(&configs[0], NULL, 2, 1);
    need = need_of(&configs[0], mats, 2, 1);
    const size_t row = 16 * sizeof(float), rows = B * T;
    assert_int_equal(all.stash_bytes, need.stash_bytes); /* inputs are kept by attention alone, which has its own use for it */
    assert_true(all.wstash_bytes >= need.wstash_bytes + (1 + 3 + 1 + 4) * row * rows);
    assert_true(need.wstash_bytes <= 2 * (row * rows + 64)); /* gradients of the norms' outputs alone */
}

static void refused(const char *pattern, const char *first, const char *second)
{
    qn_err err;
    qn_model *m;
    rig_ok(qn_model_open(&m, &configs[0], &err), &err);
    assert_int_equal(qn_model_freeze(m, &pattern, 1, &err), QN_EINVAL);
    if (strstr(err.text, first) == NULL || strstr(err.text, second) == NULL)
        fail_msg("'%s' does not say '%s' and '%s'", err.text, first, second);
    qn_model_close(m);
}

static void bad_patterns_are_refused(void **state)
{
    (void)state;
    refused("transformer.wtx*", "transformer.wtx*", "transformer.wte.weight");
    refused("transformer.h.1.attn.c_atn.bias", "c_atn", "transformer.h.1.attn.c_attn.weight");
    refused("*", "frozen", "train");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trained_gradients_keep_their_bits),
        cmocka_unit_test(the_stash_shrinks),
        cmocka_unit_test(bad_patterns_are_refused),
    };
    return cmocka_run_group_tests_name("freeze", tests, NULL, NULL);
}
