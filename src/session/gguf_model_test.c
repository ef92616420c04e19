/* GGUF files that the format's own package wrote (tests/golden/gguf_golden.py): values, configuration, names, the order of rows,
 * tokenizers; and files that are cut short or damaged anywhere. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/alloc.h"
#include "core/io.h"
#include "gguf_model.h"
#include "load.h"

static const char *golden(const char *name)
{
    static char path[4][1024];
    static int at;
    const char *root = getenv("QUERN_TEST_SOURCE");
    at = (at + 1) % 4;
    snprintf(path[at], sizeof(path[at]), "%s/tests/golden/%s", root != NULL ? root : ".", name);
    return path[at];
}

static void ok(qn_status st, const qn_err *err)
{
    if (st != QN_OK) print_error("%s\n", err->text);
    assert_int_equal(st, QN_OK);
}

static void values_are_those_of_the_package(void **unused)
{
    (void)unused;
    qn_err err;
    qn_gguf *file[2];
    char which[16], name[64], type[16];
    long long count;
    double sum, first, middle, last;
    int tensors = 0;
    FILE *want = fopen(golden("gguf_values.txt"), "r");
    assert_non_null(want);
    ok(qn_gguf_open(&file[0], golden("gguf_llama.gguf"), &err), &err);
    ok(qn_gguf_open(&file[1], golden("gguf_gpt2.gguf"), &err), &err);
    while (fscanf(want, "%15s %63s %15s %lld %lf %lf %lf %lf", which, name, type, &count, &sum, &first, &middle, &last) == 8) {
        const qn_gguf_tensor *t = qn_gguf_find(file[strcmp(which, "gpt2") == 0], name);
        assert_non_null(t);
        assert_string_equal(t->type_name, type);
        assert_int_equal(t->count, count);
        float *x = malloc((size_t)count * sizeof(*x));
        double got = 0;
        ok(qn_gguf_read_f32(x, t, 0, count, &err), &err);
        for (long long i = 0; i < count; i++) got += (double)x[i] * (double)(i % 7 + 1);
        assert_true(fabs(got - sum) <= 1e-9 * fmax(1, fabs(sum)));
        assert_true(x[0] == (float)first && x[count / 2] == (float)middle && x[count - 1] == (float)last);
        assert_int_equal(qn_gguf_read_f32(x, t, count, 1, &err), QN_ERANGE);
        free(x);
        tensors++;
    }
    assert_int_equal(tensors, qn_gguf_tensors(file[0]) + qn_gguf_tensors(file[1]));
    fclose(want);
    qn_gguf_close(file[0]);
    qn_gguf_close(file[1]);
}

static void llama_is_read_as_a_model(void **unused)
{
    (void)unused;
    qn_err err;
    qni_loaded l;
    qn_gguf *f;
    ok(qni_load(&l, golden("gguf_llama.gguf"), NULL, &err), &err);
    const qn_model_config *c = qn_model_config_of(l.model);
    assert_int_equal(c->arch, QN_ARCH_LLAMA);
    assert_int_equal(c->layers, 2);
    assert_int_equal(c->kv_heads, 2);
    assert_int_equal(c->hidden, 96);
    assert_int_equal(c->context, 32);
    assert_false(c->tied);
    ok(qn_gguf_open(&f, golden("gguf_llama.gguf"), &err), &err);
    for (int32_t p = 0; p < qn_model_params(l.model); p++) {
        if (strcmp(qn_model_param(l.model, p)->name, "model.layers.1.self_attn.k_proj.weight") != 0) continue;
        float raw[32 * 64];
        const int64_t C = 64, D = 16;
        ok(qn_gguf_read_f32(raw, qn_gguf_find(f, "blk.1.attn_k.weight"), 0, 32 * C, &err), &err);
        for (int64_t r = 0; r < 32; r++) { /* pairs (2 i, 2 i + 1) of a head become (i, i + D / 2) */
            const int64_t h = r / D, i = r % D, to = h * D + i / 2 + i % 2 * (D / 2);
            assert_memory_equal(l.value[p] + to * C, raw + r * C, (size_t)C * sizeof(float));
        }
    }
    qn_gguf_close(f);
    int32_t *ids;
    int64_t count;
    const int32_t want[] = {259, 262, 259, 260, 3 + 'c'};
    ok(qn_tokenizer_encode(&ids, &count, l.tokenizer, "ab ac", 5, &err), &err);
    assert_int_equal(count, 5);
    assert_memory_equal(ids, want, sizeof(want));
    qn_free(ids);
    assert_int_equal(qn_tokenizer_bos(l.tokenizer), 1);
    assert_int_equal(qn_tokenizer_eos(l.tokenizer), 2);
    qni_load_fini(&l);
}

static void gpt2_is_read_as_a_model(void **unused)
{
    (void)unused;
    qn_err err;
    qni_loaded l;
    int32_t *ids;
    int64_t count;
    ok(qni_load(&l, golden("gguf_gpt2.gguf"), NULL, &err), &err);
    const qn_model_config *c = qn_model_config_of(l.model);
    assert_int_equal(c->arch, QN_ARCH_GPT2);
    assert_true(c->tied);
    assert_int_equal(c->vocab, 260);
    const int32_t want[] = {257, 258, 259};
    ok(qn_tokenizer_encode(&ids, &count, l.tokenizer, "the the<|endoftext|>", 20, &err), &err);
    assert_int_equal(count, 3);
    assert_memory_equal(ids, want, sizeof(want));
    qn_free(ids);
    assert_int_equal(qn_tokenizer_eos(l.tokenizer), 259);
    qni_load_fini(&l);
}

/* Opens, and reads whatever it can: it must not touch what is not there (the sanitizers look). */
static bool use(const void *data, size_t bytes)
{
    qn_gguf *f;
    qn_model_config c;
    qn_err err;
    qn_tokenizer *t = NULL;
    if (qn_gguf_open_memory(&f, data, bytes, "damaged", &err) != QN_OK) {
        assert_true(err.text[0] != '\0');
        return false;
    }
    for (int32_t i = 0; i < qn_gguf_tensors(f); i++) {
        float x[2];
        const qn_gguf_tensor *one = qn_gguf_tensor_at(f, i);
        if (one->count > 0 && qn_gguf_read_f32(x, one, 0, 1, &err) == QN_OK)
            assert_int_equal(qn_gguf_read_f32(x, one, one->count - 1, 1, &err), QN_OK);
    }
    if (qni_gguf_config(&c, f, &err) == QN_OK) assert_true(c.layers >= 1 && c.width >= 1);
    if (qn_gguf_tokenizer(&t, f, &err) == QN_OK) qn_tokenizer_close(t);
    qn_gguf_close(f);
    return true;
}

static void damage_is_told(void **unused)
{
    (void)unused;
    qn_err err;
    char *whole;
    size_t bytes;
    uint32_t state = 99;
    ok(qn_file_read(&whole, &bytes, golden("gguf_gpt2.gguf"), 1 << 20, &err), &err);
    assert_true(use(whole, bytes));
    for (size_t n = 0; n < bytes; n += n < 12000 ? 37 : 1009) { /* every kind of place in the header, some in the data */
        char *part = malloc(n + (n == 0));
        memcpy(part, whole, n);
        assert_false(use(part, n));
        free(part);
    }
    for (int round = 0; round < 300; round++) {
        state = state * 1664525u + 1013904223u;
        const size_t at = state % 12000;
        const char kept = whole[at];
        whole[at] = (char)(state >> 24);
        (void)use(whole, bytes);
        whole[at] = kept;
    }
    qn_free(whole);
    qn_gguf *f;
    assert_int_equal(qn_gguf_open(&f, golden("gguf_values.txt"), &err), QN_EFORMAT);
    assert_non_null(strstr(err.text, "does not begin with GGUF"));
    assert_int_equal(qn_gguf_open(&f, golden("no such file"), &err), QN_ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_those_of_the_package),
        cmocka_unit_test(llama_is_read_as_a_model),
        cmocka_unit_test(gpt2_is_read_as_a_model),
        cmocka_unit_test(damage_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
