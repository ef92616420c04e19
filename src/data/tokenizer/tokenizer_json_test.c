/* tokenizer.json from strangers: every rule that refuses, files cut at every byte, and the components that are understood. */
#include "data/data_test.h"

#include "core/alloc.h"
#include "data/tokenizer/tokenizer.h"

/* A whole file from its parts. */
static qn_status open_parts(qn_tokenizer **out, const char *head, const char *model, const char *vocab, const char *merges,
                            qn_err *err)
{
    char text[4096];
    const int n = snprintf(text, sizeof(text), "{%s\"model\":{\"type\":\"BPE\",%s\"vocab\":{%s},\"merges\":[%s]}}", head, model,
                           vocab, merges);
    assert_true(n > 0 && n < (int)sizeof(text));
    return qn_tokenizer_open_json(out, text, (size_t)n, err);
}

static qn_status try_parts(const char *head, const char *model, const char *vocab, const char *merges, qn_err *err)
{
    qn_tokenizer *t = NULL;
    const qn_status st = open_parts(&t, head, model, vocab, merges, err);
    assert_true((st == QN_OK) == (t != NULL));
    qn_tokenizer_close(t);
    return st;
}

#define AB "\"a\":0,\"b\":1,\"ab\":2"

static void vocabulary_and_merges_are_checked(void **state)
{
    (void)state;
    MUST(try_parts("", "", AB, "\"a b\"", &err));
    MUST(try_parts("", "", AB, "[\"a\",\"b\"]", &err));
    MUST_FAIL(try_parts("", "", AB, "\"a b\",\"a b\"", &err), QN_EFORMAT, "there twice");
    MUST_FAIL(try_parts("", "", AB, "\"a b\",[\"a\",\"b\"]", &err), QN_EFORMAT, "there twice");
    MUST_FAIL(try_parts("", "", AB, "\"a c\"", &err), QN_EFORMAT, "'c', which is not in the vocabulary");
    MUST_FAIL(try_parts("", "", AB, "\"b a\"", &err), QN_EFORMAT, "gives a token that is not");
    MUST_FAIL(try_parts("", "", AB, "\"ab\"", &err), QN_EFORMAT, "no blank");
    MUST_FAIL(try_parts("", "", AB, "[\"a\"]", &err), QN_EFORMAT, "neither");
    MUST_FAIL(try_parts("", "", AB, "7", &err), QN_EFORMAT, "neither");
    MUST_FAIL(try_parts("", "", "", "", &err), QN_EFORMAT, "empty");
    MUST_FAIL(try_parts("", "", AB ",\"c\":1", "", &err), QN_EFORMAT, "id 1 is given twice");
    MUST_FAIL(try_parts("", "", AB ",\"a\":3", "", &err), QN_EFORMAT, "duplicate");
    MUST_FAIL(try_parts("", "", AB ",\"c\":-1", "", &err), QN_EFORMAT, "negative");
    MUST_FAIL(try_parts("", "", AB ",\"c\":16777215", "", &err), QN_EFORMAT, "far beyond");
    MUST_FAIL(try_parts("", "", AB ",\"c\":9223372036854775807", "", &err), QN_EFORMAT, "far beyond");
    MUST_FAIL(try_parts("", "", AB ",\"c\":1e3", "", &err), QN_EFORMAT, "not an integer");
    MUST_FAIL(try_parts("", "", AB ",\"c\":null", "", &err), QN_EFORMAT, "not an integer");
    MUST_FAIL(try_parts("", "", AB ",\"c\\u0000d\":3", "", &err), QN_EFORMAT, "not a tokenizer.json");
}

static void unknown_components_are_named(void **state)
{
    (void)state;
    MUST_FAIL(try_parts("\"normalizer\":{\"type\":\"BertNormalizer\"},", "", AB, "", &err), QN_EUNSUPPORTED, "BertNormalizer");
    MUST_FAIL(try_parts("\"normalizer\":{},", "", AB, "", &err), QN_EUNSUPPORTED, "normalizer");
    MUST_FAIL(try_parts("\"pre_tokenizer\":{\"type\":\"Whitespace\"},", "", AB, "", &err), QN_EUNSUPPORTED, "Whitespace");
    MUST_FAIL(try_parts("\"decoder\":{\"type\":\"WordPiece\"},", "", AB, "", &err), QN_EUNSUPPORTED, "WordPiece");
    MUST_FAIL(try_parts("\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":2,\"stop\":0},", "", AB, "", &err),
              QN_EUNSUPPORTED, "Strip");
    MUST_FAIL(try_parts("", "\"dropout\":0.1,", AB, "", &err), QN_EUNSUPPORTED, "dropout");
    MUST_FAIL(try_parts("", "\"end_of_word_suffix\":\"</w>\",", AB, "", &err), QN_EUNSUPPORTED, "suffix");
    MUST_FAIL(try_parts("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},\"behavior\":\"Isolated\"},", "",
                        AB, "", &err),
              QN_EUNSUPPORTED, "Regex");
    MUST_FAIL(try_parts("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\" \"},\"behavior\":\"MergedWithNext\"},",
                        "", AB, "", &err),
              QN_EUNSUPPORTED, "MergedWithNext");
    MUST_FAIL(try_parts("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"},", "", AB,
                        "", &err),
              QN_EFORMAT, "pattern '('");
    MUST_FAIL(try_parts("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":7},", "", AB, "", &err), QN_EFORMAT, "Sequence");
    MUST_FAIL(try_parts("\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"x\"},", "", AB, "", &err), QN_EUNSUPPORTED,
              "Prepend");
    MUST_FAIL(try_parts("\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"},", "", AB, "", &err), QN_EUNSUPPORTED,
              "without a Replace");
    const char *other = "{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}";
    MUST_FAIL(qn_tokenizer_open_json(&(qn_tokenizer *){NULL}, other, strlen(other), &err), QN_EUNSUPPORTED, "Unigram");
    MUST_FAIL(qn_tokenizer_open_json(&(qn_tokenizer *){NULL}, "{}", 2, &err), QN_EFORMAT, "no model");
    MUST_FAIL(qn_tokenizer_open_json(&(qn_tokenizer *){NULL}, "", 0, &err), QN_EFORMAT, "not a tokenizer.json");
}

#define ADD(id, text, more) "\"added_tokens\":[{\"id\":" id ",\"content\":\"" text "\",\"special\":true" more "}],"

static void added_tokens_are_checked(void **state)
{
    qn_tokenizer *t;
    int32_t *id;
    int64_t n;
    char *out;
    size_t bytes;
    const int32_t hole[] = {0, 5};
    (void)state;
    MUST_FAIL(try_parts(ADD("3", "a", ""), "", AB, "", &err), QN_EFORMAT, "one id in the vocabulary and another");
    MUST_FAIL(try_parts(ADD("2", "x", ""), "", AB, "", &err), QN_EFORMAT, "id 2 is given twice");
    MUST_FAIL(try_parts(ADD("9999999", "x", ""), "", AB, "", &err), QN_EFORMAT, "far beyond");
    MUST_FAIL(try_parts(ADD("3", "", ""), "", AB, "", &err), QN_EFORMAT, "no id and content");
    MUST_FAIL(try_parts(ADD("3", "x", ",\"lstrip\":true"), "", AB, "", &err), QN_EUNSUPPORTED, "lstrip");
    MUST_FAIL(try_parts("\"added_tokens\":{},", "", AB, "", &err), QN_EFORMAT, "not a list");
    MUST(open_parts(
        &t, "\"added_tokens\":[{\"id\":10,\"content\":\"</s>\"},{\"id\":7,\"content\":\"</s>b\"},{\"id\":0,\"content\":\"a\"}],",
        "", AB, "\"a b\"", &err));
    assert_int_equal(qn_tokenizer_vocab(t), 11);
    assert_int_equal(qn_tokenizer_eos(t), 10);
    assert_int_equal(qn_tokenizer_bos(t), -1);
    MUST(qn_tokenizer_encode(&id, &n, t, "ab</s></s>b</s>a", 16, &err));
    static const int32_t want[] = {0, 1, 10, 7, 10, 0}; /* a is cut out before it could merge; the longest wins */
    assert_int_equal(n, 6);
    assert_memory_equal(id, want, sizeof(want));
    MUST(qn_tokenizer_decode(&out, &bytes, t, id, n, &err));
    assert_string_equal(out, "ab</s>ba"); /* EOS is left out */
    MUST_FAIL(qn_tokenizer_decode(&(char *){NULL}, &bytes, t, hole, 2, &err), QN_ERANGE, "token 1 is 5");
    qn_free(id);
    qn_free(out);
    qn_tokenizer_close(t);
}

static void deep_nesting_is_refused(void **state)
{
    enum { N = 1000000 };
    static const char *const opener[] = {"[", "{\"a\":", "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":["};
    char *text = malloc(N + 64);
    qn_tokenizer *t;
    (void)state;
    for (size_t i = 0; i < QN_COUNT(opener); i++) {
        size_t n = 0;
        while (n < N) n += (size_t)snprintf(text + n, 64, "%s", opener[i]);
        MUST_FAIL(qn_tokenizer_open_json(&t, text, n, &err), QN_EFORMAT, "");
    }
    free(text);
    char head[2048] = "\"normalizer\":", *p = head + strlen(head);
    for (int i = 0; i < 6; i++) p += sprintf(p, "{\"type\":\"Sequence\",\"normalizers\":[");
    for (int i = 0; i < 6; i++) p += sprintf(p, "]}");
    strcpy(p, ",");
    MUST_FAIL(try_parts(head, "", AB, "", &err), QN_EFORMAT, "nested at most");
}

static void a_pattern_that_runs_wild_is_stopped(void **state)
{
    char text[64];
    qn_tokenizer *t;
    int32_t *id;
    int64_t n;
    (void)state;
    memset(text, 'a', sizeof(text));
    text[63] = '!';
    MUST(open_parts(
        &t, "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a|aa|a?)+\\\\d\"},\"behavior\":\"Isolated\"},", "",
        AB ",\"!\":3", "", &err));
    MUST_FAIL(qn_tokenizer_encode(&id, &n, t, text, sizeof(text), &err), QN_ERANGE, "splitting pattern fails");
    qn_tokenizer_close(t);
    /* Empty matches and gaps: everything comes out once. */
    MUST(open_parts(&t, "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"b*\"},\"behavior\":\"Isolated\"},", "",
                    AB ",\"!\":3", "\"a b\"", &err));
    MUST(qn_tokenizer_encode(&id, &n, t, "abba!ab", 7, &err));
    static const int32_t want[] = {0, 1, 1, 0, 3, 0, 1};
    assert_int_equal(n, 7);
    assert_memory_equal(id, want, sizeof(want));
    qn_free(id);
    qn_tokenizer_close(t);
}

/* Cut anywhere, or with any byte changed: a tokenizer or a message, never more. */
static void damaged_files_are_survived(void **state)
{
    static const char *const name[] = {"llama2_always", "bpe_small"};
    (void)state;
    for (size_t i = 0; i < QN_COUNT(name); i++) {
        char path[512], file[64], *text, *out;
        size_t bytes, n;
        qn_tokenizer *t;
        qn_err why;
        snprintf(file, sizeof(file), "tests/golden/%s.json", name[i]);
        MUST(qn_file_read(&text, &bytes, source_path(path, file), 1 << 20, &err));
        while (bytes > 0 && text[bytes - 1] == '\n') bytes--;
        for (n = 0; n < bytes; n++) assert_int_equal(qn_tokenizer_open_json(&t, text, n, &why), QN_EFORMAT);
        for (n = 0; n < bytes; n++) {
            int32_t *id;
            int64_t count;
            const char old = text[n];
            text[n] = (char)(old ^ (1 << n % 7));
            if (qn_tokenizer_open_json(&t, text, bytes, &why) == QN_OK) {
                if (qn_tokenizer_encode(&id, &count, t, "the quick", 9, &why) == QN_OK) {
                    size_t m;
                    MUST(qn_tokenizer_decode(&out, &m, t, id, count, &err));
                    qn_free(out);
                    qn_free(id);
                }
                qn_tokenizer_close(t);
            }
            text[n] = old;
        }
        qn_free(text);
    }
}

static void the_path_decides_the_reader(void **state)
{
    char dir[512], path[600];
    qn_tokenizer *t;
    (void)state;
    tmp_path(dir, "tokenizer");
    MUST(qn_make_dirs(dir, &err));
    MUST_FAIL(qn_tokenizer_open(&t, dir, &err), QN_ENOENT, "holds no tokenizer");
    snprintf(path, sizeof(path), "%s/encoder.json", dir);
    MUST(qn_file_write(path, "{\"a\":0,\"b\":1,\"ab\":2}", 20, &err));
    snprintf(path, sizeof(path), "%s/vocab.bpe", dir);
    MUST(qn_file_write(path, "#version: 0.2\na b\n", 18, &err));
    MUST(qn_tokenizer_open(&t, dir, &err));
    assert_int_equal(qn_tokenizer_vocab(t), 3);
    qn_tokenizer_close(t);
    MUST(qn_file_write(path, "a b\nb a\n", 8, &err));
    MUST_FAIL(qn_tokenizer_open(&t, dir, &err), QN_EFORMAT, "not in the vocabulary");
    MUST(qn_file_write(path, "a b\na c\n", 8, &err));
    MUST_FAIL(qn_tokenizer_open(&t, dir, &err), QN_EFORMAT, "line 2");
    MUST_FAIL(qn_tokenizer_open(&t, path, &err), QN_EFORMAT, "neither");
    snprintf(path, sizeof(path), "%s/tokenizer.json", dir);
    MUST(qn_file_write(path, "{}", 2, &err));
    MUST_FAIL(qn_tokenizer_open(&t, dir, &err), QN_EFORMAT, "no model");
    MUST(qn_remove_tree(dir, &err));
    MUST_FAIL(qn_tokenizer_open(&t, dir, &err), QN_ENOENT, "tokenizer");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vocabulary_and_merges_are_checked),
        cmocka_unit_test(unknown_components_are_named),
        cmocka_unit_test(added_tokens_are_checked),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(a_pattern_that_runs_wild_is_stopped),
        cmocka_unit_test(damaged_files_are_survived),
        cmocka_unit_test(the_path_decides_the_reader),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
