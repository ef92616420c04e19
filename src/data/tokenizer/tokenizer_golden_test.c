/* Ids and texts against those of Hugging Face's tokenizers, stored by tests/golden/tokenizer_golden.py. */
#include "data/data_test.h"

#include <jansson.h>

#include "core/alloc.h"
#include "data/tokenizer/tokenizer.h"

static json_t *golden;

static int load(void **state)
{
    char path[512];
    json_error_t why;
    (void)state;
    golden = json_load_file(source_path(path, "tests/golden/tokenizers.json"), JSON_ALLOW_NUL, &why);
    if (golden == NULL) print_error("%s: %s\n", path, why.text);
    return golden == NULL;
}

static int unload(void **state)
{
    (void)state;
    json_decref(golden);
    return 0;
}

static void check_case(const qn_tokenizer *t, const json_t *c)
{
    const json_t *text = json_object_get(c, "text"), *want = json_object_get(c, "ids"), *back = json_object_get(c, "back");
    int32_t *id;
    int64_t n;
    char *out;
    size_t bytes;
    MUST(qn_tokenizer_encode(&id, &n, t, json_string_value(text), json_string_length(text), &err));
    for (int64_t i = 0; i < n && i < (int64_t)json_array_size(want); i++)
        if (id[i] != json_integer_value(json_array_get(want, (size_t)i)))
            fail_msg("'%s': id %d is %d, expected %d", json_string_value(text), (int)i, id[i],
                     (int)json_integer_value(json_array_get(want, (size_t)i)));
    if (n != (int64_t)json_array_size(want))
        fail_msg("'%s': %d ids, expected %d", json_string_value(text), (int)n, (int)json_array_size(want));
    /* Texts that name special tokens come back without them here. A BOS in front makes the one leading blank go. */
    if (strstr(json_string_value(text), "<|") == NULL && strstr(json_string_value(text), "<s>") == NULL) {
        int32_t *with = malloc((size_t)(n + 1) * sizeof(*with));
        const int32_t bos = qn_tokenizer_bos(t);
        with[0] = bos;
        memcpy(with + 1, id, (size_t)n * sizeof(*id));
        MUST(qn_tokenizer_decode(&out, &bytes, t, bos < 0 ? with + 1 : with, bos < 0 ? n : n + 1, &err));
        if (bytes != json_string_length(back) || memcmp(out, json_string_value(back), bytes) != 0)
            fail_msg("'%s' comes back as '%s', expected '%s'", json_string_value(text), out, json_string_value(back));
        qn_free(out);
        free(with);
    }
    qn_free(id);
}

static void check_all(const char *name, const qn_tokenizer *t)
{
    size_t cases = 0;
    for (size_t i = 0; i < json_array_size(golden); i++) {
        const json_t *c = json_array_get(golden, i);
        if (strcmp(json_string_value(json_object_get(c, "tokenizer")), name) != 0) continue;
        check_case(t, c);
        cases++;
    }
    assert_true(cases > 40);
}

static void small_tokenizers_encode_as_hugging_face_does(void **state)
{
    static const char *const name[] = {"bpe_small",    "llama3_like",  "qwen_like",    "llama2_like",
                                       "llama2_cross", "llama2_first", "llama2_always"};
    (void)state;
    for (size_t i = 0; i < QN_COUNT(name); i++) {
        char path[512], file[64];
        qn_tokenizer *t, *again;
        char *json;
        size_t bytes;
        snprintf(file, sizeof(file), "tests/golden/%s.json", name[i]);
        print_message("%s\n", name[i]);
        MUST(qn_tokenizer_open(&t, source_path(path, file), &err));
        check_all(name[i], t);
        MUST(qn_tokenizer_json(&json, &bytes, t, &err));
        MUST(qn_tokenizer_open_json(&again, json, bytes, &err));
        check_all(name[i], again);
        qn_free(json);
        qn_tokenizer_close(again);
        qn_tokenizer_close(t);
    }
}

static void gpt2_encodes_as_hugging_face_does(void **state)
{
    char path[512];
    qn_tokenizer *t, *again;
    char *json;
    size_t bytes;
    (void)state;
    if (data_path(path, "gpt2-tokenizer") == NULL) skip();
    MUST(qn_tokenizer_open(&t, path, &err));
    assert_int_equal(qn_tokenizer_vocab(t), 50257);
    assert_int_equal(qn_tokenizer_bos(t), 50256);
    check_all("gpt2", t);
    MUST(qn_tokenizer_json(&json, &bytes, t, &err));
    MUST(qn_tokenizer_open_json(&again, json, bytes, &err));
    check_all("gpt2", again);
    qn_free(json);
    qn_tokenizer_close(again);
    qn_tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_tokenizers_encode_as_hugging_face_does),
        cmocka_unit_test(gpt2_encodes_as_hugging_face_does),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
