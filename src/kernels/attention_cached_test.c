/* Attention over caches, on each instruction set of this machine and for each type of cache, against the scalar definition; the
 * same bits in any pieces, among any other sequences, on any number of threads.
 *
 * Bound: scores are sums of D products of numbers below 1, weights sum to 1: 1e-5 in f32, one more rounding of the result to
 * bf16. The caches hold the same rounded numbers on both sides. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "kernels.h"

enum { SEQS = 3, LEN = 70, SEED = 77 };
static const int64_t lengths[SEQS] = {70, 1, 37};
static const struct {
    int64_t H, K, D;
} shapes[] = {{2, 2, 8}, {4, 2, 24}, {6, 1, 64}, {3, 3, 5}, {2, 1, 80}};
static const char *const isa_names[] = {"portable", "avx2", "avx512"};

static uint32_t state = SEED;
static float draw(void)
{
    state = state * 1664525u + 1013904223u;
    return (float)((int32_t)(state >> 8) - (1 << 23)) / (1 << 22);
}

typedef struct rows { /* of all sequences, one after the other */
    int64_t n, H, K, D;
    float *q, *k, *v; /* exact in bf16 */
} rows;

static float *random_row(int64_t n)
{
    float *x = calloc((size_t)n, sizeof(float));
    for (int64_t i = 0; i < n; i++) x[i] = qn_bf16_to_f32(qn_f32_to_bf16(draw()));
    return x;
}

/* [n] as act: floats themselves, or bf16. */
static void *as_act(const float *x, int64_t n, bool half)
{
    void *p = calloc((size_t)n, half ? 2 : 4);
    for (int64_t i = 0; i < n; i++)
        if (half)
            ((qn_bf16 *)p)[i] = qn_f32_to_bf16(x[i]);
        else
            ((float *)p)[i] = x[i];
    return p;
}

/* Feeds all sequences, `piece` rows of each a call (0: one after the other, whole); o as f32. */
static void attend(float *o, const qn_kernels *k, const rows *x, qn_dtype kv, int64_t piece, int32_t threads)
{
    const bool half = k->act == QN_BF16;
    const qn_attention_shape s = {.H = x->H,
                                  .K = x->K,
                                  .D = x->D,
                                  .ldq = x->H * x->D,
                                  .ldk = x->K * x->D,
                                  .ldv = x->K * x->D,
                                  .ldo = x->H * x->D,
                                  .scale = 1 / sqrt((double)x->D)};
    qn_exec ex = {0};
    qn_arena scratch;
    qn_err err;
    char *cache[SEQS];
    int64_t held[SEQS] = {0};
    if (threads > 1) assert_int_equal(qn_team_open(&ex.team, threads, -1, &err), QN_OK);
    assert_int_equal(qn_arena_open(&scratch, k->cached_scratch(&s, LEN, threads), &err), QN_OK);
    ex.scratch = &scratch;
    for (int i = 0; i < SEQS; i++) {
        cache[i] = qn_alloc_pages(k->cached_bytes(&s, LEN, kv));
        memset(cache[i], 0xff, k->cached_bytes(&s, LEN, kv)); /* what an earlier sequence may have left: not a number */
    }
    for (bool more = true; more;) {
        qn_cached_rows g[SEQS];
        int64_t n = 0, rows_now = 0, first = 0;
        float *q = calloc((size_t)(x->n * s.ldq), 4), *kk = calloc((size_t)(x->n * s.ldk), 4),
              *v = calloc((size_t)(x->n * s.ldv), 4);
        int64_t from[SEQS] = {0};
        for (int i = 0; i < SEQS; first += lengths[i++]) {
            const int64_t T = piece == 0 ? (n == 0 ? lengths[i] - held[i] : 0) : qn_min64(piece + i, lengths[i] - held[i]);
            if (T == 0) continue;
            memcpy(q + rows_now * s.ldq, x->q + (first + held[i]) * s.ldq, (size_t)(T * s.ldq) * 4);
            memcpy(kk + rows_now * s.ldk, x->k + (first + held[i]) * s.ldk, (size_t)(T * s.ldk) * 4);
            memcpy(v + rows_now * s.ldv, x->v + (first + held[i]) * s.ldv, (size_t)(T * s.ldv) * 4);
            from[n] = first + held[i];
            g[n++] = (qn_cached_rows){cache[i], rows_now, T, held[i]};
            held[i] += T;
            rows_now += T;
        }
        more = n > 0;
        void *aq = as_act(q, x->n * s.ldq, half), *ak = as_act(kk, x->n * s.ldk, half), *av = as_act(v, x->n * s.ldv, half),
             *ao = calloc((size_t)(x->n * s.ldo), 4);
        k->attention_cached(&ex, ao, aq, ak, av, &s, g, n, LEN, kv);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < g[i].T * s.ldo; j++) {
                const int64_t at = g[i].first * s.ldo + j;
                o[from[i] * s.ldo + j] = half ? qn_bf16_to_f32(((qn_bf16 *)ao)[at]) : ((float *)ao)[at];
            }
        void *const all[] = {q, kk, v, aq, ak, av, ao};
        for (size_t i = 0; i < QN_COUNT(all); i++) free(all[i]);
    }
    assert_int_equal(scratch.used, 0);
    for (int i = 0; i < SEQS; i++) qn_free_pages(cache[i], k->cached_bytes(&s, LEN, kv));
    qn_arena_close(&scratch);
    qn_team_close(ex.team);
}

static void check(const qn_kernels *k, const qn_kernels *reference, const rows *x, qn_dtype kv)
{
    const int64_t n = x->n * x->H * x->D;
    float *want = calloc((size_t)n, 4), *whole = calloc((size_t)n, 4), *got = calloc((size_t)n, 4);
    attend(want, reference, x, kv, 0, 1);
    attend(whole, k, x, kv, 0, 1);
    for (int64_t i = 0; i < n; i++) {
        const double bound = 1e-5 + (k->act == QN_BF16 ? fabs((double)want[i]) / 200 : 0);
        if (!(fabs((double)whole[i] - want[i]) <= bound))
            fail_msg("%s, kv %s: element %lld: %g, wanted %g", k->name, qn_dtype_name(kv), (long long)i, (double)whole[i],
                     (double)want[i]);
    }
    for (int64_t piece = 1; piece <= 9; piece += 4)
        for (int32_t threads = 1; threads <= 3; threads++) {
            attend(got, k, x, kv, piece, threads);
            assert_memory_equal(got, whole, (size_t)n * 4);
        }
    free(want);
    free(whole);
    free(got);
}

static void every_set_meets_the_definition(void **unused)
{
    (void)unused;
    const qn_kernels *reference;
    qn_err err;
    assert_int_equal(qn_kernels_infer(&reference, QN_MODE_REF_F32, QN_WEIGHTS_F32, &err), QN_OK);
    for (size_t i = 0; i < QN_COUNT(shapes); i++) {
        rows x = {.H = shapes[i].H, .K = shapes[i].K, .D = shapes[i].D};
        for (int j = 0; j < SEQS; j++) x.n += lengths[j];
        x.q = random_row(x.n * x.H * x.D);
        x.k = random_row(x.n * x.K * x.D);
        x.v = random_row(x.n * x.K * x.D);
        for (size_t a = 0; a < QN_COUNT(isa_names); a++)
            for (int mode = QN_MODE_F32; mode <= QN_MODE_BF16; mode++) {
                const qn_kernels *k;
                setenv("QUERN_ISA", isa_names[a], 1);
                if (qn_kernels_infer(&k, (qn_mode)mode, QN_WEIGHTS_F32, &err) != QN_OK) continue;
                check(k, reference, &x, QN_F32);
                check(k, reference, &x, QN_BF16);
            }
        unsetenv("QUERN_ISA");
        free(x.q);
        free(x.k);
        free(x.v);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_set_meets_the_definition)};
    print_message("seed %d\n", SEED);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
