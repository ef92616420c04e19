/* Shard files: what is written is read, and every change of a byte and every length is refused. */
#include "data/data_test.h"

#include "core/alloc.h"
#include "data/dataset/shards_internal.h"

static void tokens_come_back(void **state)
{
    static const int32_t vocab[] = {1, 65536, 65537, INT32_MAX};
    char path[512];
    (void)state;
    tmp_path(path, "shard");
    for (size_t v = 0; v < QN_COUNT(vocab); v++) {
        enum { N = 40000 };
        static int32_t id[N];
        qn_tokens *t;
        for (int64_t i = 0; i < N; i++) id[i] = (int32_t)(i * 1000003 % vocab[v]);
        for (int64_t n = 0; n <= N; n += N / 2) {
            MUST(qn_tokens_write(path, id, n, vocab[v], &err));
            MUST(qn_tokens_open(&t, path, &err));
            assert_int_equal(qn_tokens_count(t), n);
            assert_int_equal(qn_tokens_vocab(t), vocab[v]);
            for (int64_t i = 0; i < n; i++) assert_int_equal(qn_tokens_at(t, i), id[i]);
            const qn_split_range a = qn_tokens_train_part(t), b = qn_tokens_valid_part(t);
            assert_true(a.first == 0 && a.count == n * 9 / 10 && b.first == a.count && b.count == n - a.count);
            qn_tokens_close(t);
        }
        id[7] = vocab[v];
        if (vocab[v] < INT32_MAX) MUST_FAIL(qn_tokens_write(path, id, 8, vocab[v], &err), QN_ERANGE, "token 7");
    }
    unlink(path);
}

static void every_damage_is_refused(void **state)
{
    const int32_t id[5] = {1, 2, 3, 4, 299};
    char path[512], *good;
    size_t bytes;
    qn_tokens *t;
    qn_err why;
    (void)state;
    tmp_path(path, "damaged");
    MUST(qn_tokens_write(path, id, 5, 300, &err));
    MUST(qn_file_read(&good, &bytes, path, 1000, &err));
    assert_int_equal(bytes, 42);
    for (size_t n = 0; n < bytes; n++) assert_int_equal(qni_tokens_open_memory(&t, good, n, "shard", &why), QN_EFORMAT);
    for (size_t i = 0; i < 8 * bytes; i++) {
        good[i / 8] ^= (char)(1 << i % 8);
        if (i / 8 < 24 || i / 8 >= 28) /* any vocabulary above the largest token is possible */
            assert_int_equal(qni_tokens_open_memory(&t, good, bytes, "shard", &why), QN_EFORMAT);
        else if (qni_tokens_open_memory(&t, good, bytes, "shard", &why) == QN_OK)
            qn_tokens_close(t);
        good[i / 8] ^= (char)(1 << i % 8);
    }
    MUST(qn_file_write(path, good, 0, &err));
    assert_int_equal(qn_tokens_open(&t, path, &why), QN_EFORMAT);
    good[24] = 299 % 256; /* the vocabulary: 299 */
    MUST(qn_file_write(path, good, bytes, &err));
    MUST_FAIL(qn_tokens_open(&t, path, &err), QN_EFORMAT, "token 4 is 299");
    unlink(path);
    MUST_FAIL(qn_tokens_open(&t, path, &err), QN_ENOENT, "damaged");
    qn_free(good);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_come_back),
        cmocka_unit_test(every_damage_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
