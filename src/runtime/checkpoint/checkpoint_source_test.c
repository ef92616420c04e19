/* Weights read piece by piece from files are those that the checkpoint holds, bit for bit, whatever the pieces; files that are
 * not the model's are refused. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/compiler.h"
#include "core/io.h"
#include "checkpoint.h"
#include "checkpoint_source.h"

static const qn_model_config configs[] = {
    {.arch = QN_ARCH_GPT2, .layers = 2, .heads = 2, .width = 24, .context = 8, .vocab = 71, .tied = true},
    {.arch = QN_ARCH_LLAMA, .layers = 2, .heads = 2, .width = 24, .context = 8, .vocab = 71},
};

static void ok(qn_status st, const qn_err *err)
{
    if (st != QN_OK) print_error("%s: %s\n", qn_status_name(st), err->text);
    assert_int_equal(st, QN_OK);
}

static const char *folder(void)
{
    static char path[512];
    const char *dir = getenv("QUERN_TEST_TMP");
    snprintf(path, sizeof(path), "%s/checkpoint_source", dir != NULL ? dir : ".");
    return path;
}

static float **values(const qn_model *m)
{
    float **value = calloc((size_t)qn_model_params(m), sizeof(*value));
    assert_non_null(value);
    for (int32_t p = 0; p < qn_model_params(m); p++) {
        value[p] = malloc((size_t)qn_model_param(m, p)->count * sizeof(float));
        assert_non_null(value[p]);
        qn_model_init_param(m, p, 3, QN_F32, value[p]);
    }
    return value;
}

static void free_values(const qn_model *m, float **value)
{
    for (int32_t p = 0; p < qn_model_params(m); p++) free(value[p]);
    free(value);
}

/* Stored in f32 or bf16; read whole, in pieces that end inside rows, and in the shortest ones. */
static void pieces_are_the_checkpoint(void **unused)
{
    (void)unused;
    static const qn_weights stores[] = {QN_WEIGHTS_OWN, QN_WEIGHTS_BF16};
    for (size_t c = 0; c < QN_COUNT(configs) * QN_COUNT(stores); c++) {
        qn_model *m;
        qn_err err;
        qn_checkpoint_source *s;
        ok(qn_model_open(&m, &configs[c % 2], &err), &err);
        float **value = values(m);
        const qn_state_view view = {.model = m, .value = value};
        const qn_checkpoint_desc desc = {.bos = -1, .eos = -1, .store = stores[c / 2]};
        ok(qn_checkpoint_write(folder(), &view, &desc, &err), &err);
        ok(qn_checkpoint_read(folder(), &view, &err), &err);
        ok(qn_checkpoint_source_open(&s, folder(), m, &err), &err);
        for (int32_t p = 0; p < qn_model_params(m); p++) {
            const int64_t count = qn_model_param(m, p)->count, piece[] = {count, 1000, 37, 5};
            float *got = malloc((size_t)count * sizeof(float));
            assert_non_null(got);
            for (size_t i = 0; i < QN_COUNT(piece); i++) {
                memset(got, 0xff, (size_t)count * sizeof(float));
                for (int64_t at = 0; at < count; at += piece[i]) {
                    const int64_t n = at + piece[i] < count ? piece[i] : count - at;
                    ok(qn_checkpoint_source_read(s, p, at, n, got + at, &err), &err);
                }
                assert_memory_equal(got, value[p], (size_t)count * sizeof(float));
            }
            assert_int_equal(qn_checkpoint_source_read(s, p, 1, count, got, &err), QN_ERANGE);
            assert_int_equal(qn_checkpoint_source_read(s, p, -1, 1, got, &err), QN_ERANGE);
            ok(qn_checkpoint_source_read(s, p, count, 0, got, &err), &err);
            free(got);
        }
        qn_checkpoint_source_close(s);
        free_values(m, value);
        qn_model_close(m);
    }
    assert_int_equal(qn_remove_tree(folder(), NULL), QN_OK);
}

static void other_files_are_refused(void **unused)
{
    (void)unused;
    qn_model *m, *other;
    qn_err err;
    qn_checkpoint_source *s;
    qn_model_config wide = configs[1];
    wide.width = 32;
    ok(qn_model_open(&m, &configs[1], &err), &err);
    ok(qn_model_open(&other, &wide, &err), &err);
    float **value = values(m);
    const qn_state_view view = {.model = m, .value = value};
    qn_checkpoint_desc desc = {.bos = -1, .eos = -1};
    ok(qn_checkpoint_write(folder(), &view, &desc, &err), &err);
    assert_int_equal(qn_checkpoint_source_open(&s, folder(), other, &err), QN_EFORMAT);
    assert_non_null(strstr(err.text, "wanted"));
    assert_null(s);
    desc.store = QN_WEIGHTS_Q8;
    ok(qn_checkpoint_write(folder(), &view, &desc, &err), &err);
    assert_int_equal(qn_checkpoint_source_open(&s, folder(), m, &err), QN_EUNSUPPORTED);
    assert_int_equal(qn_remove_tree(folder(), NULL), QN_OK);
    assert_int_equal(qn_checkpoint_source_open(&s, folder(), m, &err), QN_ENOENT);
    free_values(m, value);
    qn_model_close(other);
    qn_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(pieces_are_the_checkpoint), cmocka_unit_test(other_files_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
