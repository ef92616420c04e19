/* Windows over a shard whose token i is i, so that a window tells where it is. Exhaustive over small sizes. */
#include "data/data_test.h"

#include "data/dataset/shards.h"

enum { N = 400 };

static qn_tokens *counting;
static char shard[512];

static int open_counting(void **state)
{
    int32_t id[N];
    qn_err err;
    (void)state;
    for (int32_t i = 0; i < N; i++) id[i] = i;
    if (qn_tokens_write(tmp_path(shard, "counting"), id, N, N, &err) != QN_OK) return 1;
    return qn_tokens_open(&counting, shard, &err) != QN_OK;
}

static int close_counting(void **state)
{
    (void)state;
    qn_tokens_close(counting);
    return unlink(shard);
}

/* Each epoch: n windows on a grid, none twice, all inside the part, targets one ahead. */
static void an_epoch_visits_each_window_once(void **state)
{
    (void)state;
    for (int64_t count = 2; count <= 70; count++)
        for (int64_t T = 1; T < count; T++) {
            const qn_split_range part = {.first = 13, .count = count};
            const int64_t n = (count - 1) / T > 1 ? (count - 1) / T - 1 : 1;
            qn_source *s;
            MUST(qn_source_windows(&s, counting, part, T, 1, 42, &err));
            assert_true(s->T == T && s->batch == 1 && s->vocab == N);
            for (int64_t epoch = 0; epoch < 3; epoch++) {
                uint8_t seen[N] = {0};
                int32_t in[N], to[N], phase = -1;
                for (int64_t k = 0; k < n; k++) {
                    s->ops->read(s, epoch * n + k, 0, in, to);
                    for (int64_t i = 0; i < T; i++) {
                        assert_true(to[i] == in[i] + 1 && in[i] == in[0] + i);
                        assert_true(in[i] >= part.first && to[i] < part.first + count);
                    }
                    assert_true(!seen[in[0]]);
                    seen[in[0]] = 1;
                    if (phase < 0) phase = (int32_t)(in[0] % T);
                    assert_int_equal(in[0] % T, phase);
                }
            }
            s->ops->close(s);
        }
}

static void batches_are_slices_of_one_sequence(void **state)
{
    const qn_split_range part = {.first = 0, .count = N};
    qn_source *one, *many, *other;
    int32_t a[8], b[8], c[8], to[8];
    int differ = 0, order = 0;
    (void)state;
    MUST(qn_source_windows(&one, counting, part, 8, 1, 7, &err));
    MUST(qn_source_windows(&many, counting, part, 8, 12, 7, &err));
    MUST(qn_source_windows(&other, counting, part, 8, 1, 8, &err));
    for (int64_t i = 1199; i >= 0; i--) { /* any order */
        one->ops->read(one, i, 0, a, to);
        many->ops->read(many, i / 12, i % 12, b, to);
        other->ops->read(other, i, 0, c, to);
        assert_memory_equal(a, b, sizeof(a));
        differ += a[0] != c[0];
        order += a[0] / 8 != i % 48;
    }
    assert_true(differ > 1000 && order > 1000);
    one->ops->close(one);
    many->ops->close(many);
    other->ops->close(other);
    qn_source *s;
    MUST_FAIL(qn_source_windows(&s, counting, part, N, 1, 7, &err), QN_ERANGE, "400 tokens");
    MUST_FAIL(qn_source_windows(&s, counting, (qn_split_range){5, 0}, 1, 1, 7, &err), QN_ERANGE, "0 tokens");
}

/* Over many epochs every token is an input about equally often. */
static void phases_reach_every_token(void **state)
{
    int64_t seen[N] = {0};
    int32_t in[7], to[7];
    qn_source *s;
    (void)state;
    MUST(qn_source_windows(&s, counting, (qn_split_range){0, N}, 7, 1, 3, &err));
    for (int64_t i = 0; i < 55 * 300; i++) {
        s->ops->read(s, i, 0, in, to);
        for (int j = 0; j < 7; j++) seen[in[j]]++;
    }
    for (int i = 14; i < N - 14; i++) assert_true(seen[i] > 200);
    for (int i = 0; i < N - 1; i++) assert_true(seen[i] > 0);
    s->ops->close(s);
}

static void validation_covers_the_part_once(void **state)
{
    (void)state;
    for (int64_t count = 0; count <= 50; count++)
        for (int64_t T = 1; T <= 52; T++) {
            const qn_split_range part = {.first = 100, .count = count};
            const int64_t windows = qn_eval_windows(part, T);
            int64_t next = 101;
            int32_t in[64], to[64];
            for (int64_t w = 0; w < windows; w++) {
                const int64_t n = qn_eval_read(counting, part, T, w, in, to);
                assert_true(n >= 1 && n <= T && (n == T || w == windows - 1));
                for (int64_t i = 0; i < T; i++) {
                    assert_int_equal(to[i], i < n ? next : -1);
                    assert_int_equal(in[i], i < n ? next - 1 : 0);
                    next += i < n;
                }
            }
            assert_int_equal(next, count < 2 ? 101 : 100 + count);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_epoch_visits_each_window_once),
        cmocka_unit_test(batches_are_slices_of_one_sequence),
        cmocka_unit_test(phases_reach_every_token),
        cmocka_unit_test(validation_covers_the_part_once),
    };
    return cmocka_run_group_tests(tests, open_counting, close_counting);
}
