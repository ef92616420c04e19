/* Values stored in bf16 and in 8 bits come back as the nearest ones; what is stored again is the same; what does not fit is told.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "checkpoint_compact.h"
#include "core/alloc.h"
#include "core/io.h"
#include "kernels/q8.h"

static const qn_model_config configs[] = {
    {.arch = QN_ARCH_GPT2, .layers = 2, .heads = 2, .width = 36, .context = 8, .vocab = 19, .tied = true},
    {.arch = QN_ARCH_LLAMA, .layers = 1, .heads = 4, .kv_heads = 2, .width = 64, .hidden = 96, .context = 8, .vocab = 23},
};

static void ok(qn_status st, const qn_err *err)
{
    if (st != QN_OK) print_error("%s\n", err->text);
    assert_int_equal(st, QN_OK);
}

static float **take(const qn_model *m, bool fill)
{
    float **value = calloc((size_t)qn_model_params(m), sizeof(*value));
    for (int32_t p = 0; p < qn_model_params(m); p++) {
        value[p] = calloc((size_t)qn_model_param(m, p)->count, sizeof(float));
        if (fill) qn_model_init_param(m, p, 9, QN_F32, value[p]);
    }
    return value;
}

static void drop(const qn_model *m, float **value)
{
    for (int32_t p = 0; p < qn_model_params(m); p++) free(value[p]);
    free(value);
}

static const char *tmp(const char *name)
{
    static char path[1024];
    qn_err err;
    const char *root = getenv("QUERN_TEST_TMP");
    ok(qn_make_dirs(root != NULL ? root : "/tmp", &err), &err);
    snprintf(path, sizeof(path), "%s/compact-%s", root != NULL ? root : "/tmp", name);
    return path;
}

static void check_values(const qn_param *p, const float *got, const float *want, qn_weights store)
{
    const int64_t C = p->rank == 2 ? p->dim[1] : p->dim[0];
    for (int64_t e = 0; e < p->count; e++) {
        if (p->rank == 1 || (store == QN_WEIGHTS_Q8 && strcmp(p->name, "transformer.wpe.weight") == 0)) {
            assert_true(got[e] == want[e]);
        } else if (store == QN_WEIGHTS_BF16) {
            assert_true(got[e] == qn_bf16_to_f32(qn_f32_to_bf16(want[e])));
        } else {
            const int64_t at = e % C / QNI_Q8_BLOCK * QNI_Q8_BLOCK, n = C - at < QNI_Q8_BLOCK ? C - at : QNI_Q8_BLOCK;
            int8_t q[QNI_Q8_BLOCK];
            const float scale = qn_f16_to_f32(qni_q8_block(q, want + e - e % C + at, n));
            assert_true(got[e] == scale * (float)q[e % C - at]);
        }
    }
}

static void values_come_back(void **unused)
{
    (void)unused;
    for (size_t c = 0; c < sizeof(configs) / sizeof(configs[0]); c++)
        for (int store = QN_WEIGHTS_BF16; store <= QN_WEIGHTS_Q8; store++) {
            qn_model *m;
            qn_err err;
            qn_model_config read;
            ok(qn_model_open(&m, &configs[c], &err), &err);
            float **value = take(m, true), **again = take(m, false), **twice = take(m, false);
            const qn_state_view view = {.model = m, .value = value}, back = {.model = m, .value = again},
                                third = {.model = m, .value = twice};
            const qn_checkpoint_desc desc = {.bos = -1, .eos = -1, .store = (qn_weights)store};
            ok(qn_checkpoint_write(tmp("a"), &view, &desc, &err), &err);
            ok(qn_checkpoint_read_config(&read, tmp("a"), &err), &err);
            assert_int_equal(read.width, configs[c].width);
            ok(qn_checkpoint_read(tmp("a"), &back, &err), &err);
            for (int32_t p = 0; p < qn_model_params(m); p++)
                check_values(qn_model_param(m, p), again[p], value[p], (qn_weights)store);
            ok(qn_checkpoint_write(tmp("a"), &back, &desc, &err), &err); /* what was rounded once stays */
            ok(qn_checkpoint_read(tmp("a"), &third, &err), &err);
            for (int32_t p = 0; p < qn_model_params(m); p++)
                assert_memory_equal(twice[p], again[p], (size_t)qn_model_param(m, p)->count * sizeof(float));
            ok(qn_remove_tree(tmp("a"), &err), &err);
            drop(m, value);
            drop(m, again);
            drop(m, twice);
            qn_model_close(m);
        }
}

/* One u8 matrix whose scales have another shape, or are no numbers. */
typedef struct lie {
    int64_t columns;
    qn_f16 scale;
} lie;

static qn_status fill_lie(void *ctx, int32_t i, int64_t first, int64_t count, void *to, qn_err *err)
{
    const lie *l = ctx;
    (void)first, (void)err;
    for (int64_t e = 0; e < count; e++) {
        if (i == 0)
            ((uint8_t *)to)[e] = 1;
        else
            ((qn_f16 *)to)[e] = l->scale;
    }
    return QN_OK;
}

static void what_does_not_fit_is_told(void **unused)
{
    (void)unused;
    const qn_param p = {.name = "w", .rank = 2, .dim = {2, 40}, .count = 80};
    const lie lies[] = {{1, 0x3c00}, {2, 0x7c00}, {2, 0x3c00}};
    for (int i = 0; i < 3; i++) {
        float value[80];
        qn_err err;
        qn_safetensors *f;
        const qn_tensor_desc desc[] = {{"w", QN_U8, {.rank = 2, .dim = {2, 40}}},
                                       {"w.scale", QN_F16, {.rank = 2, .dim = {2, lies[i].columns}}}};
        ok(qn_make_dirs(tmp("b"), &err), &err);
        ok(qn_safetensors_write(tmp("b"), "model", desc, 2, 0, fill_lie, (void *)(uintptr_t)&lies[i], &err), &err);
        ok(qn_safetensors_open(&f, tmp("b"), &err), &err);
        assert_true(qni_has_q8(f, &p));
        assert_int_equal(qni_read_q8(value, f, &p, &err), i == 2 ? QN_OK : QN_EFORMAT);
        if (i == 2) assert_true(value[0] == -127 && value[79] == -127);
        qn_safetensors_close(f);
        ok(qn_remove_tree(tmp("b"), &err), &err);
    }
    assert_true(qni_is_scale_of("a.weight.scale", "a.weight"));
    assert_false(qni_is_scale_of("a.weight", "a.weight"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(values_come_back), cmocka_unit_test(what_does_not_fit_is_told)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
