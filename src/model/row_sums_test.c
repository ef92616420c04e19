/* Sums kept by rows against whole tables: the same bits after the fold, for any ids, in any number of calls, one step after the
 * other. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "model/row_sums.h"

enum { ROWS = 11, WIDTH = 19, MOST = 40, STEPS = 4, SEED = 7 };

static float draw(qn_rng *r)
{
    return (float)qn_rng_below(r, 2001) / 1000.0f - 1.0f;
}

/* A step of `calls` calls with n ids each, into table by rows, into want by way of a whole second table. */
static void step(const qn_kernels *k, qn_row_sums *s, float *table, float *want, int32_t calls, int32_t n, qn_rng *r)
{
    static float second[ROWS * WIDTH];
    const qn_exec ex = {.team = NULL};
    int32_t id[MOST];
    float dy[MOST * WIDTH];
    memset(second, 0, sizeof(second));
    for (int32_t c = 0; c < calls; c++) {
        for (int32_t i = 0; i < n; i++) id[i] = (int32_t)qn_rng_below(r, ROWS);
        for (int32_t i = 0; i < n * WIDTH; i++) dy[i] = draw(r);
        k->embedding_backward_weight(&ex, second, NULL, id, NULL, dy, n, WIDTH);
        const int32_t *at = qn_row_sums_find(s, id, n);
        for (int32_t i = 0; i < n; i++) assert_int_equal(s->id[at[i]], id[i]);
        k->embedding_backward_weight(&ex, s->sum, NULL, at, NULL, dy, n, WIDTH);
    }
    for (int32_t i = 0; i < ROWS * WIDTH; i++) table[i] = want[i] = draw(r);
    k->fold(&ex, want, second, ROWS * WIDTH);
    qn_row_sums_fold(s, k, &ex, table);
    assert_memory_equal(table, want, sizeof(second));
    assert_int_equal(*s->count, 0);
    for (int32_t i = 0; i < ROWS; i++) assert_int_equal(s->place[i], 0);
}

static void rows_fold_like_a_table(qn_mode mode)
{
    const qn_kernels *k;
    qn_err err;
    if (qn_kernels_get(&k, mode, &err) != QN_OK) skip();
    static float table[ROWS * WIDTH], want[ROWS * WIDTH];
    qn_rng r = qn_rng_of((qn_rng_key){.seed = SEED});
    for (int32_t calls = 0; calls <= 4; calls++)
        for (int32_t n = 0; n <= MOST / 4; n++) {
            qn_arena probe = QN_ARENA_PROBE, a;
            qn_row_sums s;
            qn_row_sums_lay(&s, &probe, ROWS, WIDTH, calls * n, sizeof(float));
            assert_true(s.most <= ROWS && s.most <= calls * n);
            assert_int_equal(qn_arena_open(&a, probe.used, NULL), QN_OK);
            qn_row_sums_lay(&s, &a, ROWS, WIDTH, calls * n, sizeof(float));
            for (int32_t i = 0; i < STEPS; i++) step(k, &s, table, want, calls, n, &r);
            qn_arena_close(&a);
        }
}

static void the_reference_folds_rows_like_a_table(void **unused)
{
    (void)unused;
    rows_fold_like_a_table(QN_MODE_REF_F32);
}

static void fast_kernels_fold_rows_like_a_table(void **unused)
{
    (void)unused;
    rows_fold_like_a_table(QN_MODE_F32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_reference_folds_rows_like_a_table),
        cmocka_unit_test(fast_kernels_fold_rows_like_a_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
