/* Tokenizers made here: bytes, characters, trained BPE, llama2.c's file. Encoding is compared with the plain quadratic algorithm,
 * and every kind goes through tokenizer.json and back. With QUERN_TEST_WRITE=DIR the files and their ids are kept for
 * tests/golden/check_written.py, which loads them into Hugging Face's tokenizers. */
#include "data/data_test.h"

#include <jansson.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "data/text/text.h"
#include "tokenizer_internal.h"

static const char *const texts[] = {
    "",
    " ",
    "Once upon a time, there was a little girl named Lily.",
    "  two  blanks \n\nlines\ttabs\r\n",
    "it's 12345 o'clock; we'll see... DON'T!",
    "Gr\xc3\xbc\xc3\x9f\x65, \xe6\x9d\xb1\xe4\xba\xac \xf0\x9f\x98\x80 \xd0\xbf\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "the the the then they them there",
};

typedef struct ids {
    int32_t *id;
    int64_t count;
} ids;

static ids encode(const qn_tokenizer *t, const char *text, size_t bytes)
{
    ids x;
    MUST(qn_tokenizer_encode(&x.id, &x.count, t, text, bytes, &err));
    return x;
}

static void assert_same(ids a, ids b, const char *text)
{
    if (a.count != b.count || memcmp(a.id, b.id, (size_t)a.count * sizeof(*a.id)) != 0)
        fail_msg("'%s' is encoded in two ways", text);
}

static void assert_back(const qn_tokenizer *t, ids x, const char *text, size_t bytes)
{
    char *out;
    size_t n;
    int32_t *with = malloc((size_t)(x.count + 1) * sizeof(*with));
    with[0] = qn_tokenizer_bos(t);
    memcpy(with + 1, x.id, (size_t)x.count * sizeof(*x.id));
    MUST(qn_tokenizer_decode(&out, &n, t, with[0] < 0 ? with + 1 : with, with[0] < 0 ? x.count : x.count + 1, &err));
    assert_int_equal(n, bytes);
    assert_memory_equal(out, text, bytes);
    assert_int_equal(out[n], '\0');
    qn_free(out);
    free(with);
}

/* For the comparison with Hugging Face: DIR/NAME.json and DIR/NAME.cases. */
static void keep(const char *name, const char *json, size_t bytes, const qn_tokenizer *t, const char *const *text, size_t count)
{
    const char *dir = getenv("QUERN_TEST_WRITE");
    char path[600];
    if (dir == NULL) return;
    snprintf(path, sizeof(path), "%s/%s.json", dir, name);
    MUST(qn_file_write(path, json, bytes, &err));
    json_t *cases = json_array();
    for (size_t i = 0; i < count; i++) {
        const ids x = encode(t, text[i], strlen(text[i]));
        json_t *list = json_array();
        for (int64_t k = 0; k < x.count; k++) json_array_append_new(list, json_integer(x.id[k]));
        json_array_append_new(cases, json_pack("{s:s, s:o}", "text", text[i], "ids", list));
        qn_free(x.id);
    }
    snprintf(path, sizeof(path), "%s/%s.cases", dir, name);
    assert_int_equal(json_dump_file(cases, path, 0), 0);
    json_decref(cases);
}

/* Through tokenizer.json and back: same kind, same ids, same text. */
static void check_rewritten(const char *name, const char *kind, const qn_tokenizer *t, const char *const *text, size_t count)
{
    char *json, *again;
    size_t bytes, again_bytes;
    qn_tokenizer *u;
    MUST(qn_tokenizer_json(&json, &bytes, t, &err));
    MUST(qn_tokenizer_open_json(&u, json, bytes, &err));
    assert_string_equal(qn_tokenizer_kind(u), kind);
    assert_int_equal(qn_tokenizer_vocab(u), qn_tokenizer_vocab(t));
    assert_int_equal(qn_tokenizer_bos(u), qn_tokenizer_bos(t));
    assert_int_equal(qn_tokenizer_eos(u), qn_tokenizer_eos(t));
    for (size_t i = 0; i < count; i++) {
        const ids a = encode(t, text[i], strlen(text[i])), b = encode(u, text[i], strlen(text[i]));
        assert_same(a, b, text[i]);
        assert_back(t, a, text[i], strlen(text[i]));
        assert_back(u, b, text[i], strlen(text[i]));
        qn_free(a.id);
        qn_free(b.id);
    }
    MUST(qn_tokenizer_json(&again, &again_bytes, u, &err));
    assert_string_equal(again, json);
    keep(name, json, bytes, t, text, count);
    qn_free(again);
    qn_free(json);
    qn_tokenizer_close(u);
}

static void bytes_are_their_own_ids(void **state)
{
    qn_tokenizer *t;
    char all[256];
    (void)state;
    for (int i = 0; i < 256; i++) all[i] = (char)i;
    MUST(qn_tokenizer_open_bytes(&t, &err));
    const ids x = encode(t, all, 256); /* no UTF-8 */
    assert_int_equal(x.count, 256);
    for (int i = 0; i < 256; i++) assert_int_equal(x.id[i], i);
    assert_back(t, x, all, 256);
    qn_free(x.id);
    assert_true(qn_tokenizer_vocab(t) == 256 && qn_tokenizer_bos(t) == -1 && qn_tokenizer_eos(t) == -1);
    check_rewritten("bytes", "bytes", t, texts, QN_COUNT(texts));
    qn_tokenizer_close(t);
}

static void characters_are_numbered_in_order(void **state)
{
    const char *text = "b\xc3\xa4 a\n\xf0\x9f\x98\x80"
                       "b";
    const char *const some[] = {"", "ab", "\xf0\x9f\x98\x80 \xc3\xa4\n"};
    static const int32_t want[] = {3, 4, 1, 2, 0, 5, 3};
    qn_tokenizer *t;
    int32_t *id;
    int64_t n;
    (void)state;
    MUST(qn_tokenizer_open_chars(&t, text, strlen(text), &err));
    assert_int_equal(qn_tokenizer_vocab(t), 6);
    const ids x = encode(t, text, strlen(text));
    assert_int_equal(x.count, 7);
    assert_memory_equal(x.id, want, sizeof(want));
    qn_free(x.id);
    check_rewritten("chars", "characters", t, some, QN_COUNT(some));
    MUST_FAIL(qn_tokenizer_encode(&id, &n, t, "abc", 3, &err), QN_EFORMAT, "'c' (U+0063)");
    MUST_FAIL(qn_tokenizer_encode(&id, &n, t, "ab\x80", 3, &err), QN_EFORMAT, "offset 2");
    qn_tokenizer_close(t);
    MUST_FAIL(qn_tokenizer_open_chars(&t, "ab\xff", 3, &err), QN_EFORMAT, "offset 2");
    MUST_FAIL(qn_tokenizer_open_chars(&t, "", 0, &err), QN_ERANGE, "not empty");
    MUST_FAIL(qn_tokenizer_open_chars(&t, "a\0b", 3, &err), QN_EFORMAT, "NUL");
}

static void ids_outside_are_refused(void **state)
{
    const int32_t bad[] = {0, 256, -1, INT32_MIN, INT32_MAX};
    qn_tokenizer *t;
    char *out;
    size_t n;
    (void)state;
    MUST(qn_tokenizer_open_bytes(&t, &err));
    for (int i = 1; i < 5; i++) MUST_FAIL(qn_tokenizer_decode(&out, &n, t, &bad[i], 1, &err), QN_ERANGE, "no such entry");
    MUST(qn_tokenizer_decode(&out, &n, t, bad, 0, &err));
    assert_true(n == 0 && *out == '\0');
    qn_free(out);
    qn_tokenizer_close(t);
}

static const char learned[] = "low low low low low lower lower newest newest newest newest newest newest widest widest widest "
                              "caf\xc3\xa9 \xe6\x9d\xb1\xe4\xba\xac\xe9\x83\xbd 2024 aaaaa aaaa\n\n";

/* The definition: count all pairs again after every merge. Returns the number of merges; each as two ids. */
static int learn_plainly(int32_t merge[][2], int wanted)
{
    static int32_t sym[32][64];
    static int len[32];
    int words = 0, made = 0;
    int32_t id_of[256];
    for (int i = 0; i < 256; i++) id_of[qni_alphabet_byte(i)] = i;
    for (const char *p = learned; *p != '\0';
         words++) { /* here: a word is a blank or newline run and what follows, as GPT-2 cuts this text */
        const char *q = p;
        if (*q == '\n') {
            while (*q == '\n') q++;
        } else {
            q++;
            while (*q != '\0' && *q != ' ' && *q != '\n') q++;
        }
        len[words] = 0;
        for (; p < q; p++) sym[words][len[words]++] = id_of[(unsigned char)*p];
    }
    for (; made < wanted; made++) {
        int64_t best = 0;
        int32_t l = 0, r = 0;
        for (int32_t a = 0; a < 256 + made; a++)
            for (int32_t b = 0; b < 256 + made; b++) {
                int64_t n = 0;
                for (int w = 0; w < words; w++)
                    for (int i = 0; i + 1 < len[w]; i++) n += sym[w][i] == a && sym[w][i + 1] == b;
                if (n > best) best = n, l = a, r = b;
            }
        if (best == 0) break;
        merge[made][0] = l;
        merge[made][1] = r;
        for (int w = 0; w < words; w++) {
            int k = 0;
            for (int i = 0; i < len[w]; i++) {
                const int hit = i + 1 < len[w] && sym[w][i] == l && sym[w][i + 1] == r;
                sym[w][k++] = hit ? 256 + made : sym[w][i];
                i += hit;
            }
            len[w] = k;
        }
    }
    return made;
}

static void count_progress(void *ctx, int64_t done, int64_t total)
{
    int64_t *last = ctx;
    assert_true(done > *last && done <= total);
    *last = done;
}

static void training_follows_the_definition(void **state)
{
    enum { MERGES = 24 };
    int32_t merge[MERGES][2];
    const char *text = learned;
    const size_t bytes = strlen(learned);
    qn_tokenizer *t;
    int64_t last = 0;
    (void)state;
    assert_int_equal(learn_plainly(merge, MERGES), MERGES);
    MUST(qn_tokenizer_train(&t, &text, &bytes, 1, 256 + MERGES + 1, count_progress, &last, &err));
    assert_int_equal(last, MERGES);
    for (int i = 0; i < MERGES; i++) {
        const qni_merge *m = qni_merges_find(&t->merges, merge[i][0], merge[i][1]);
        if (m == NULL || m->rank != i) fail_msg("merge %d should be (%d, %d)", i, merge[i][0], merge[i][1]);
    }
    assert_int_equal(qn_tokenizer_vocab(t), 256 + MERGES + 1);
    assert_int_equal(qn_tokenizer_eos(t), 256 + MERGES);
    check_rewritten("trained", "byte-level BPE", t, texts, QN_COUNT(texts));
    const ids x = encode(t, "low<|endoftext|>low", 19);
    assert_int_equal(x.id[x.count / 2], 256 + MERGES);
    qn_free(x.id);
    qn_tokenizer_close(t);
    MUST_FAIL(qn_tokenizer_train(&t, &text, &bytes, 1, 256, NULL, NULL, &err), QN_ERANGE, "256");
    MUST_FAIL(qn_tokenizer_train(&t, &text, &bytes, 1, 5000, NULL, NULL, &err), QN_ERANGE, "can fill");
    const char *wrong = "ab\xff";
    const size_t three = 3;
    MUST_FAIL(qn_tokenizer_train(&t, &wrong, &three, 1, 257, NULL, NULL, &err), QN_EFORMAT, "offset 2");
}

/* llama2.c's loop, as it is: again and again the best pair of all. */
static ids encode_plainly(const qn_tokenizer *t, const float *score, const char *text)
{
    ids x = {.id = malloc((strlen(text) + 2) * sizeof(int32_t))};
    const size_t bytes = strlen(text);
    if (bytes > 0) x.id[x.count++] = qni_table_find(&t->table, " ", 1);
    for (size_t at = 0; at < bytes;) {
        const size_t from = at;
        (void)qn_utf8_next(text, bytes, &at);
        const int32_t id = qni_table_find(&t->table, text + from, at - from);
        if (id >= 0)
            x.id[x.count++] = id;
        else
            for (size_t i = from; i < at; i++) x.id[x.count++] = (unsigned char)text[i] + 3;
    }
    for (;;) {
        float best = -1e10f;
        int64_t where = -1;
        int32_t with = -1;
        for (int64_t i = 0; i + 1 < x.count; i++) {
            char both[256];
            const int n =
                snprintf(both, sizeof(both), "%.*s%.*s", (int)t->table.token[x.id[i]].bytes, qni_table_bytes(&t->table, x.id[i]),
                         (int)t->table.token[x.id[i + 1]].bytes, qni_table_bytes(&t->table, x.id[i + 1]));
            const int32_t id = qni_table_find(&t->table, both, (size_t)n);
            if (id >= 0 && score[id] > best) best = score[id], where = i, with = id;
        }
        if (where < 0) return x;
        x.id[where] = with;
        memmove(x.id + where + 1, x.id + where + 2, (size_t)(x.count - where - 2) * sizeof(*x.id));
        x.count--;
    }
}

static void llama2c_encodes_as_its_own_loop(void **state)
{
    char path[512], story[512], text[64];
    char *data, *greedy;
    size_t bytes, greedy_bytes, at = 4;
    float score[512];
    qn_tokenizer *t, *u;
    (void)state;
    if (data_path(path, "stories260k/tok512.bin") == NULL || data_path(story, "stories260k/greedy.txt") == NULL) skip();
    MUST(qn_file_read(&data, &bytes, path, 1 << 20, &err));
    MUST(qn_file_read(&greedy, &greedy_bytes, story, 1 << 20, &err));
    for (int i = 0; i < 512; i++) {
        int32_t n;
        memcpy(&score[i], data + at, 4);
        memcpy(&n, data + at + 4, 4);
        at += 8 + (size_t)n;
    }
    MUST(qn_tokenizer_open(&t, path, &err));
    MUST(qn_tokenizer_open_llama2c(&u, data, bytes, 512, &err));
    assert_true(qn_tokenizer_vocab(t) == 512 && qn_tokenizer_bos(t) == 1 && qn_tokenizer_eos(t) == 2);
    qn_rng r = qn_rng_of((qn_rng_key){.seed = 11});
    for (int i = 0; i < 2000; i++) {
        const char *p = i == 0 ? greedy : i <= (int)QN_COUNT(texts) ? texts[i - 1] : text;
        if (p == text) {
            const int n = (int)qn_rng_below(&r, sizeof(text) - 4);
            int k = 0;
            while (k < n) k += qn_utf8_put(text + k, "etaonrish  ,.LT\n\xe9"[qn_rng_below(&r, 17)] & 0xff);
            text[k] = '\0';
        }
        const ids a = encode(t, p, strlen(p)), b = encode_plainly(t, score, p), c = encode(u, p, strlen(p));
        assert_same(a, b, p);
        assert_same(a, c, p);
        assert_back(t, a, p, strlen(p));
        qn_free(a.id);
        free(b.id);
        qn_free(c.id);
    }
    const char *both[QN_COUNT(texts) + 1];
    memcpy(both, texts, sizeof(texts));
    both[QN_COUNT(texts)] = greedy;
    check_rewritten("llama2c", "BPE with byte fallback", t, both, QN_COUNT(both));
    for (size_t n = 0; n < bytes; n++)
        MUST_FAIL(qn_tokenizer_open_llama2c(&(qn_tokenizer *){NULL}, data, n, 512, &err), QN_EFORMAT, "llama2.c");
    MUST_FAIL(qn_tokenizer_open_llama2c(&(qn_tokenizer *){NULL}, data, bytes, 511, &err), QN_EFORMAT, "left behind");
    MUST_FAIL(qn_tokenizer_open_llama2c(&(qn_tokenizer *){NULL}, data, bytes, 513, &err), QN_EFORMAT, "ends inside token 512");
    MUST_FAIL(qn_tokenizer_open_llama2c(&(qn_tokenizer *){NULL}, data, bytes, -1, &err), QN_EFORMAT, "cannot be");
    qn_tokenizer_close(t);
    qn_tokenizer_close(u);
    qn_free(data);
    qn_free(greedy);
}

/* One word of a million letters: the heap keeps this from being quadratic. */
static void long_words_are_no_trouble(void **state)
{
    enum { N = 1000000 };
    const char *text = learned;
    const size_t bytes = strlen(learned);
    qn_tokenizer *t;
    char *word = malloc(N);
    (void)state;
    MUST(qn_tokenizer_train(&t, &text, &bytes, 1, 290, NULL, NULL, &err));
    memset(word, 'a', N);
    const ids x = encode(t, word, N);
    assert_true(x.count < N / 2 + 2);
    assert_back(t, x, word, N);
    qn_free(x.id);
    qn_tokenizer_close(t);
    memset(word, 'b', N / 2);
    const char *one = word;
    const size_t n = N;
    MUST(qn_tokenizer_train(&t, &one, &n, 1, 270, NULL, NULL, &err));
    qn_tokenizer_close(t);
    free(word);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_their_own_ids),         cmocka_unit_test(characters_are_numbered_in_order),
        cmocka_unit_test(ids_outside_are_refused),         cmocka_unit_test(training_follows_the_definition),
        cmocka_unit_test(llama2c_encodes_as_its_own_loop), cmocka_unit_test(long_words_are_no_trouble),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
