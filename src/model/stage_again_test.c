/* Selective recomputation: the same bits whatever is made again, early or late, with B and W together or apart; what is not kept
 * is not there; and the stash of a chosen layer is its input. */
#include "model/lora.h"
#include "model_rig.h"

enum { B = 3, T = 5, BLOCKS = 3, LAYERS = BLOCKS + 2 };

static const qn_model_config configs[] = {
    {.arch = QN_ARCH_GPT2, .layers = BLOCKS, .heads = 2, .width = 16, .context = 8, .vocab = 13, .tied = true, .dropout = 0.2},
    {.arch = QN_ARCH_LLAMA, .layers = BLOCKS, .heads = 4, .kv_heads = 2, .width = 32, .context = 8, .vocab = 13, .dropout = 0.2},
};

/* Of the blocks; the embedding and the head have nothing to choose. */
static const uint8_t choices[][LAYERS] = {
    {0, QN_AGAIN_ALL, QN_AGAIN_ALL, QN_AGAIN_ALL, 0},
    {0, 0, QN_AGAIN_ALL, 0, 0},
    {0, QN_AGAIN_ALL, 0, QN_AGAIN_ALL, 0},
    {0, QN_AGAIN_ATTENTION, QN_AGAIN_ATTENTION, QN_AGAIN_ATTENTION, 0},
    {0, QN_AGAIN_NORM, QN_AGAIN_ACTIVATION, QN_AGAIN_NORM | QN_AGAIN_ACTIVATION, 0},
    {0, QN_AGAIN_NORM | QN_AGAIN_ACTIVATION | QN_AGAIN_ATTENTION, QN_AGAIN_ALL, 0, 0},
    {QN_AGAIN_ALL, QN_AGAIN_ALL, QN_AGAIN_ALL, QN_AGAIN_ALL, QN_AGAIN_ALL},
};

static const int32_t cuts[][7] = {{1, 0, LAYERS}, {2, 0, 2, LAYERS}, {3, 0, 1, 4, LAYERS}, {5, 0, 1, 2, 3, 4, LAYERS}};

static void step(rig *r, const int32_t *cut, const uint8_t *again, bool early, unsigned how)
{
    const qn_stage_limits limits = {.B = B, .T = T, .train = true, .again = again, .again_early = early};
    int32_t tokens[B * T], targets[B * T];
    rig_tokens(tokens, B * T, 13, 21);
    rig_tokens(targets, B * T, 13, 22);
    qn_mb mb = {.B = B, .T = T, .tokens = tokens, .targets = targets, .seed = 77, .step = 9, .first_sample = 4};
    rig_cut(r, cut[0], cut + 1, &limits);
    rig_clear_grads(r);
    (void)rig_step(r, &mb, how);
}

static void assert_same(const rig *want, const rig *got)
{
    assert_memory_equal(&want->loss, &got->loss, sizeof(double));
    for (int32_t u = 0; u < qn_model_uses(got->m); u++) {
        const qn_param *p = qn_model_param(got->m, qn_model_use(got->m, u)->param);
        assert_memory_equal(want->grad[u], got->grad[u], (size_t)p->count * qn_dtype_bytes(got->k->param));
    }
}

static void sweep(const qn_model_config *c, qn_mode mode)
{
    rig want, got;
    qn_err err;
    const qn_kernels *k;
    if (qn_kernels_get(&k, mode, &err) != QN_OK) return;
    rig_open(&want, c, mode, 1);
    rig_open(&got, c, mode, 2);
    step(&want, cuts[0], NULL, false, 0);
    const size_t stride = mode == QN_MODE_F32 ? 3 : 11; /* neither divides the number of ways */
    for (size_t n = 0, i = 0; n < QN_COUNT(choices) * QN_COUNT(cuts) * 4; n += mode == QN_MODE_F32 ? 1 : 4, i += stride) {
        i %= QN_COUNT(choices) * QN_COUNT(cuts) * 4;
        step(&got, cuts[i / 4 % QN_COUNT(cuts)], choices[i / 4 / QN_COUNT(cuts)], i & 1,
             (i & 2 ? RIG_SEPARATE : 0) | (i & 1 && i % 3 == 0 ? RIG_REMAKE : 0));
        assert_same(&want, &got);
        rig_uncut(&got);
    }
    rig_close(&want);
    rig_close(&got);
}

static void same_bits_whatever_is_made_again(void **state)
{
    (void)state;
    for (size_t c = 0; c < QN_COUNT(configs); c++) {
        sweep(&configs[c], QN_MODE_F32);
        sweep(&configs[c], QN_MODE_BF16);
        sweep(&configs[c], QN_MODE_REF_F32);
    }
}

static void with_adapters_too(void **state)
{
    const char *target = "all-linear";
    qn_err err;
    (void)state;
    for (size_t i = 0; i < QN_COUNT(configs); i++) {
        qn_model_config c = configs[i];
        c.lora = (qn_lora){.rank = 2, .alpha = 3};
        rig_ok(qn_lora_targets(&c.lora.targets, c.arch, &target, 1, &err), &err);
        sweep(&c, QN_MODE_F32);
    }
}

static qn_stage_need need_of(const qn_model_config *c, const uint8_t *again, bool early, int32_t first, int32_t count)
{
    const int32_t cut[2] = {first, first + count};
    const qn_stage_limits limits = {.B = B, .T = T, .train = true, .again = again, .again_early = early};
    rig r;
    rig_open(&r, c, QN_MODE_F32, 1);
    rig_cut(&r, 1, cut, &limits);
    const qn_stage_need need = *qn_stage_need_of(r.stage[0]);
    rig_close(&r);
    return need;
}

static size_t padded(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* Of a block: the outputs of its two norms and of its activation, which are never kept. */
static size_t cheap_bytes(const qn_model_config *c)
{
    rig r;
    rig_open(&r, c, QN_MODE_F32, 1);
    const size_t hidden = (size_t)qn_model_config_of(r.m)->hidden, row = B * T * sizeof(float);
    rig_close(&r);
    return 2 * padded((size_t)c->width * row) + padded(hidden * row);
}

/* The stash of a stage of chosen blocks is the inputs of all but the first (whose input is the stage's); what a kept one has
 * besides, and what nobody keeps, is made again into the rstash of all its blocks, or into the scratch of one. */
static void a_chosen_layer_keeps_its_input(void **state)
{
    (void)state;
    for (size_t i = 0; i < QN_COUNT(configs); i++) {
        const size_t stream = padded((size_t)(B * T * configs[i].width) * sizeof(float)), cheap = cheap_bytes(&configs[i]);
        const qn_stage_need kept = need_of(&configs[i], NULL, false, 1, BLOCKS), one = need_of(&configs[i], NULL, false, 1, 1),
                            late = need_of(&configs[i], choices[0], false, 1, BLOCKS),
                            early = need_of(&configs[i], choices[0], true, 1, BLOCKS);
        assert_int_equal(kept.rstash_bytes, 0);
        assert_int_equal(late.stash_bytes, (BLOCKS - 1) * stream);
        assert_int_equal(early.stash_bytes, late.stash_bytes);
        assert_int_equal(late.rstash_bytes, 0);
        assert_int_equal(early.rstash_bytes, kept.stash_bytes - late.stash_bytes + BLOCKS * cheap);
        assert_int_equal(early.rstash_bytes, BLOCKS * (one.stash_bytes + cheap));
        assert_int_equal(early.wstash_bytes, kept.wstash_bytes);
        assert_true(late.wstash_bytes > kept.wstash_bytes && late.wstash_bytes < kept.wstash_bytes + early.rstash_bytes);
        assert_true(late.scratch_bytes >= early.scratch_bytes);
        assert_true(late.scratch_bytes <= early.scratch_bytes + one.stash_bytes + cheap);
    }
}

/* GPT-2: a block keeps qkv, attention's output and sums, the join between, the MLP before gelu, and the norms' statistics;
 * neither norms' outputs nor gelu's, asked for or not. */
static void norms_and_activations_are_never_kept(void **state)
{
    (void)state;
    const size_t C = (size_t)configs[0].width, rows = B * T, widths[] = {3 * C, C, 2, C, 4 * C, 1, 1, 1, 1};
    const qn_stage_need kept = need_of(&configs[0], NULL, false, 3, 1), group = need_of(&configs[0], choices[4], false, 3, 1);
    size_t bytes = 0;
    for (size_t i = 0; i < QN_COUNT(widths); i++) bytes += padded(widths[i] * rows * sizeof(float));
    assert_int_equal(kept.stash_bytes, bytes);
    assert_memory_equal(&kept, &group, sizeof(kept));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_whatever_is_made_again),
        cmocka_unit_test(with_adapters_too),
        cmocka_unit_test(a_chosen_layer_keeps_its_input),
        cmocka_unit_test(norms_and_activations_are_never_kept),
    };
    return cmocka_run_group_tests_name("stage_again", tests, NULL, NULL);
}
