/* Adapters: what they add is what merging them into the matrices adds; an untrained one adds nothing; the base keeps its dropout
 * and its bits; targets by name. Their gradients are checked with all others (stage_gradient_test.c). */
#include "model/lora.h"

#include "model_rig.h"

enum { B = 3, T = 5, LAYERS = 4, RANK = 2 };

static const qn_model_config configs[] = {
    {.arch = QN_ARCH_GPT2, .layers = 2, .heads = 2, .width = 16, .context = 8, .vocab = 13, .tied = true, .dropout = 0.2},
    {.arch = QN_ARCH_LLAMA, .layers = 2, .heads = 4, .kv_heads = 2, .width = 32, .context = 8, .vocab = 13},
};

static qn_model_config with_adapters(const qn_model_config *base, const char *target)
{
    qn_err err;
    qn_model_config c = *base;
    rig_ok(qn_lora_targets(&c.lora.targets, c.arch, &target, 1, &err), &err);
    c.lora.rank = RANK;
    c.lora.alpha = 5;
    return c;
}

static int32_t find(const qn_model *m, const char *name)
{
    for (int32_t i = 0; i < qn_model_params(m); i++)
        if (strcmp(qn_model_param(m, i)->name, name) == 0) return i;
    fail_msg("no parameter is called %s", name);
    return -1;
}

static double loss_of(rig *r, const int32_t *cut, int32_t stages, unsigned how)
{
    const qn_stage_limits limits = {.B = B, .T = T, .train = true};
    int32_t tokens[B * T], targets[B * T];
    rig_tokens(tokens, B * T, 13, 21);
    rig_tokens(targets, B * T, 13, 22);
    qn_mb mb = {.B = B, .T = T, .tokens = tokens, .targets = targets, .seed = 77, .step = 9, .first_sample = 4};
    rig_cut(r, stages, cut, &limits);
    rig_clear_grads(r);
    const double loss = rig_step(r, &mb, how);
    rig_uncut(r);
    return loss;
}

static const int32_t uncut[2] = {0, LAYERS};

/* W += alpha / rank * B A for every adapter of m, in the rig of the plain model. */
static void merge(rig *plain, const rig *m)
{
    const qn_lora *l = &qn_model_config_of(m->m)->lora;
    for (int32_t i = 0; i < qn_model_params(m->m); i++) {
        const qn_param *a = qn_model_param(m->m, i);
        char name[96], *at;
        snprintf(name, sizeof(name), "%s", a->name);
        if ((at = strstr(name, ".lora_A")) == NULL) continue;
        strcpy(at, ".weight");
        const qn_param *w = qn_model_param(plain->m, find(plain->m, name));
        double *W = plain->value[find(plain->m, name)];
        const double *A = m->value[i], *Bs = m->value[i + 1];
        assert_int_equal(a->dim[1], w->dim[1]);
        for (int64_t o = 0; o < w->dim[0]; o++)
            for (int64_t c = 0; c < w->dim[1]; c++)
                for (int64_t k = 0; k < l->rank; k++)
                    W[o * w->dim[1] + c] += l->alpha / l->rank * Bs[o * l->rank + k] * A[k * w->dim[1] + c];
    }
}

static void an_adapter_is_its_merged_matrix(void **state)
{
    (void)state;
    for (size_t i = 0; i < QN_COUNT(configs); i++) {
        const qn_model_config c = with_adapters(&configs[i], "all-linear");
        rig plain, m;
        rig_open(&plain, &configs[i], QN_MODE_REF_F64, 1);
        rig_open(&m, &c, QN_MODE_REF_F64, 1);
        const double base = loss_of(&plain, uncut, 1, 0), adapted = loss_of(&m, uncut, 1, 0);
        assert_true(fabs(base - adapted) > 1e-3);
        merge(&plain, &m);
        const double merged = loss_of(&plain, uncut, 1, 0);
        if (fabs(merged - adapted) > 1e-12 * fabs(merged)) fail_msg("merged %.17g, adapted %.17g", merged, adapted);
        rig_close(&plain);
        rig_close(&m);
    }
}

/* B is zero at first: the loss has the bits of the base, dropout included. */
static void untrained_adapters_change_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < QN_COUNT(configs); i++) {
        const qn_model_config c = with_adapters(&configs[i], "all-linear");
        rig plain, m;
        rig_open(&plain, &configs[i], QN_MODE_F32, 1);
        rig_open(&m, &c, QN_MODE_F32, 1);
        for (int32_t p = 0; p < qn_model_params(m.m); p++) {
            const qn_param *param = qn_model_param(m.m, p);
            assert_int_equal(param->frozen, !param->adapter);
            if (!param->adapter) continue;
            const float *v = m.value[p];
            qn_model_init_param(m.m, p, 3, QN_F32, m.value[p]);
            const double bound = strstr(param->name, "lora_B") != NULL ? 0 : 1 / sqrt((double)param->dim[1]);
            double most = 0;
            for (int64_t e = 0; e < param->count; e++) most = fmax(most, fabs((double)v[e]));
            assert_true(most <= bound && most >= 0.8 * bound);
        }
        const double want = loss_of(&plain, uncut, 1, 0), got = loss_of(&m, uncut, 1, 0);
        assert_memory_equal(&want, &got, sizeof(want));
        rig_close(&plain);
        rig_close(&m);
    }
}

static void same_bits_for_any_cut(void **state)
{
    static const int32_t cuts[][5] = {{0, 2, LAYERS}, {0, 1, 3, LAYERS}, {0, 1, 2, 3, LAYERS}};
    static const char *const targets[] = {"all-linear", "v", "down"};
    (void)state;
    for (size_t i = 0; i < QN_COUNT(configs) * QN_COUNT(targets); i++) {
        const qn_model_config c = with_adapters(&configs[i % 2], targets[i / 2]);
        rig want, got;
        rig_open(&want, &c, QN_MODE_F32, 1);
        rig_open(&got, &c, QN_MODE_F32, 2);
        const double loss = loss_of(&want, uncut, 1, 0);
        for (int32_t k = 0; k < 3 * 4; k++) {
            const double same = loss_of(&got, cuts[k / 4], 2 + k / 4, (unsigned)k % 4);
            assert_memory_equal(&loss, &same, sizeof(loss));
            for (int32_t u = 0; u < qn_model_uses(got.m); u++) {
                const qn_param *p = qn_model_param(got.m, qn_model_use(got.m, u)->param);
                assert_memory_equal(want.grad[u], got.grad[u], (size_t)p->count * sizeof(float));
            }
        }
        rig_close(&want);
        rig_close(&got);
    }
}

static void modules(qn_arch arch, const char *names, const char *want)
{
    char text[256], *save = NULL, got[256] = "";
    const char *list[16], *module[QN_LORA_MODULES];
    int32_t n = 0;
    uint32_t set;
    qn_err err;
    snprintf(text, sizeof(text), "%s", names);
    for (char *word = strtok_r(text, ",", &save); word != NULL; word = strtok_r(NULL, ",", &save)) list[n++] = word;
    if (qn_lora_targets(&set, arch, list, n, &err) != QN_OK) {
        if (strstr(err.text, want) == NULL) fail_msg("%s: '%s' does not say '%s'", names, err.text, want);
        return;
    }
    n = qn_lora_modules(module, arch, set);
    for (int32_t i = 0; i < n; i++) {
        strcat(got, i > 0 ? "," : "");
        strcat(got, module[i]);
    }
    assert_string_equal(got, want);
}

static void targets_by_name(void **state)
{
    (void)state;
    modules(QN_ARCH_LLAMA, "q,v", "q_proj,v_proj");
    modules(QN_ARCH_LLAMA, "down_proj,self_attn.o_proj,gate", "o_proj,gate_proj,down_proj");
    modules(QN_ARCH_LLAMA, "all-linear", "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj");
    modules(QN_ARCH_LLAMA, "q_prj", "q_proj");
    modules(QN_ARCH_LLAMA, "q,c_attn", "'c_attn' is no LoRA target of llama");
    modules(QN_ARCH_LLAMA, "proj", "there are");
    modules(QN_ARCH_GPT2, "q,v", "c_attn");
    modules(QN_ARCH_GPT2, "c_proj", "attn.c_proj,mlp.c_proj");
    modules(QN_ARCH_GPT2, "o,up", "attn.c_proj,c_fc");
    modules(QN_ARCH_GPT2, "gate", "'gate' is no LoRA target of gpt2");
    modules(QN_ARCH_GPT2, "c_atn", "did you mean 'c_attn'");
}

static void refused(int32_t rank, double alpha, uint32_t targets, const char *says)
{
    qn_err err;
    qn_model *m = NULL;
    qn_model_config c = configs[0];
    c.lora = (qn_lora){.rank = rank, .alpha = alpha, .targets = targets};
    assert_int_not_equal(qn_model_open(&m, &c, &err), QN_OK);
    if (strstr(err.text, says) == NULL) fail_msg("'%s' does not say '%s'", err.text, says);
}

static void impossible_adapters_are_refused(void **state)
{
    (void)state;
    refused(17, 1, 1, "1 to 16");
    refused(-1, 1, 1, "1 to 16");
    refused(2, 0, 1, "alpha");
    refused(2, 1, 0, "target");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_adapter_is_its_merged_matrix), cmocka_unit_test(untrained_adapters_change_nothing),
        cmocka_unit_test(same_bits_for_any_cut),           cmocka_unit_test(targets_by_name),
        cmocka_unit_test(impossible_adapters_are_refused),
    };
    return cmocka_run_group_tests_name("lora", tests, NULL, NULL);
}
