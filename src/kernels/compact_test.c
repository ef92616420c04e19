/* Linear maps on compact weights, on each instruction set of this machine, against their scalar definition; the same bits for any
 * rows and threads; the 8-bit form itself.
 *
 * Bound: a chain of C fused multiply-adds is off by at most C roundings of the sum of magnitudes; with 8 bits the integers are
 * exact, and each block adds three roundings (two scales, one sum). A bf16 result is off by one more rounding, 2^-8. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <stdio.h>
#include <stdlib.h>

#include "compact.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"

enum { MOST_ROWS = 13, MOST_THREADS = 3, SEED = 20261122 };
static const char *const isa_names[] = {"portable", "avx2", "avx512", "avx512_bf16"};
static const int64_t shapes[][2] = {{1, 1}, {7, 5}, {31, 64}, {32, 33}, {33, 65}, {64, 130}, {172, 64}, {96, 257}};

static uint32_t state = SEED;
static float draw(void)
{
    state = state * 1664525u + 1013904223u;
    return (float)((int32_t)(state >> 8) - (1 << 23)) / (1 << 23);
}

typedef struct problem {
    int64_t C, O;
    float *w, *x, *bias;     /* [O, C], [MOST_ROWS, C], [O] */
    qn_bf16 *xh;             /* x, which is exact in bf16 */
    float *want, *magnitude; /* [MOST_ROWS, O] */
} problem;

static void *bytes(int64_t n)
{
    void *p = calloc((size_t)n, 1);
    assert_non_null(p);
    return p;
}

static qn_linear *open_packed(const qn_kernels *k, const problem *p, int32_t threads, const qn_exec *ex, void **packed)
{
    qn_err err;
    qn_linear *lin;
    const qn_linear_shape shape = {.in = p->C, .out = p->O, .rows = MOST_ROWS, .threads = threads};
    assert_int_equal(k->linear_open(&lin, &shape, &err), QN_OK);
    *packed = qn_alloc_pages(k->linear_packed_bytes(lin, QN_PACK_FORWARD));
    assert_non_null(*packed);
    k->linear_pack(ex, lin, *packed, p->w, QN_PACK_FORWARD);
    return lin;
}

static void close_packed(const qn_kernels *k, qn_linear *lin, void *packed)
{
    qn_free_pages(packed, k->linear_packed_bytes(lin, QN_PACK_FORWARD));
    k->linear_close(lin);
}

static void make(problem *p, int64_t C, int64_t O, qn_weights weights)
{
    const qn_kernels *k;
    qn_err err;
    void *packed;
    const qn_exec ex = {0};
    *p = (problem){.C = C,
                   .O = O,
                   .w = bytes(O * C * 4),
                   .x = bytes(MOST_ROWS * C * 4),
                   .bias = bytes(O * 4),
                   .xh = bytes(MOST_ROWS * C * 2)};
    p->want = bytes(MOST_ROWS * O * 4);
    p->magnitude = bytes(MOST_ROWS * O * 4);
    for (int64_t i = 0; i < O * C; i++) p->w[i] = draw() * (i / C % 3 == 0 ? 1 : 40);
    for (int64_t i = 0; i < O; i++) p->bias[i] = draw();
    for (int64_t i = 0; i < MOST_ROWS * C; i++) {
        p->xh[i] = qn_f32_to_bf16(i / C == 2 ? 0 : draw());
        p->x[i] = qn_bf16_to_f32(p->xh[i]);
    }
    assert_int_equal(qn_kernels_infer(&k, QN_MODE_REF_F32, weights, &err), QN_OK);
    qn_linear *lin = open_packed(k, p, 1, &ex, &packed);
    k->linear_forward(&ex, lin, p->want, p->x, packed, p->bias, MOST_ROWS);
    close_packed(k, lin, packed);
    for (int64_t r = 0; r < MOST_ROWS; r++)
        for (int64_t o = 0; o < O; o++) {
            double sum = fabs((double)p->bias[o]);
            for (int64_t c = 0; c < C; c++) sum += fabs((double)p->x[r * C + c] * p->w[o * C + c]);
            p->magnitude[r * O + o] = (float)sum * 1.05f; /* the rounding of weights and x may enlarge it a little */
        }
}

static void drop(problem *p)
{
    void *const all[] = {p->w, p->x, p->bias, p->xh, p->want, p->magnitude};
    for (size_t i = 0; i < QN_COUNT(all); i++) free(all[i]);
}

static void check_one(const qn_kernels *k, const problem *p, int32_t threads)
{
    const bool half = k->act == QN_BF16;
    const size_t e = half ? 2 : 4;
    qn_err err;
    void *packed;
    qn_exec ex = {0};
    qn_arena scratch;
    if (threads > 1) assert_int_equal(qn_team_open(&ex.team, threads, -1, &err), QN_OK);
    ex.scratch = &scratch;
    qn_linear_shape shape = {.in = p->C, .out = p->O, .rows = MOST_ROWS, .threads = threads};
    qn_linear *probe;
    assert_int_equal(k->linear_open(&probe, &shape, &err), QN_OK);
    assert_int_equal(qn_arena_open(&scratch, k->linear_scratch(probe), &err), QN_OK);
    k->linear_close(probe);
    qn_linear *lin = open_packed(k, p, threads, &ex, &packed);
    char *all = bytes(MOST_ROWS * p->O * 4), *part = bytes(MOST_ROWS * p->O * 4);
    const char *x = half ? (const char *)p->xh : (const char *)p->x;
    k->linear_forward(&ex, lin, all, x, packed, p->bias, MOST_ROWS);
    for (int64_t i = 0; i < MOST_ROWS * p->O; i++) {
        const double got = half ? (double)qn_bf16_to_f32(((qn_bf16 *)(void *)all)[i]) : (double)((float *)(void *)all)[i];
        const double bound = ((double)p->C + 8) * FLT_EPSILON * p->magnitude[i] + (half ? fabs((double)p->want[i]) / 256 : 0);
        if (fabs(got - p->want[i]) > bound)
            fail_msg("%s: %lld -> %lld, element %lld: %g, wanted %g within %g", k->name, (long long)p->C, (long long)p->O,
                     (long long)i, got, p->want[i], bound);
    }
    for (int64_t R = 0; R <= MOST_ROWS; R++)
        for (int64_t r = 0; r + R <= MOST_ROWS; r += 3) {
            memset(part, 0x5a, (size_t)(MOST_ROWS * p->O) * 4);
            k->linear_forward(&ex, lin, part, x + (size_t)(r * p->C) * e, packed, p->bias, R);
            assert_memory_equal(part, all + (size_t)(r * p->O) * e, (size_t)(R * p->O) * e);
            if (R < MOST_ROWS) assert_int_equal(part[(size_t)(R * p->O) * e], 0x5a);
        }
    assert_int_equal(scratch.used, 0);
    close_packed(k, lin, packed);
    qn_arena_close(&scratch);
    qn_team_close(ex.team);
    free(all);
    free(part);
}

static void every_set_meets_the_definition(void **unused)
{
    (void)unused;
    for (int w = QN_WEIGHTS_F32; w < QN_WEIGHTS; w++)
        for (size_t s = 0; s < QN_COUNT(shapes); s++) {
            problem p;
            make(&p, shapes[s][0], shapes[s][1], (qn_weights)w);
            for (size_t i = 0; i < QN_COUNT(isa_names); i++)
                for (int mode = QN_MODE_F32; mode <= QN_MODE_BF16; mode++) {
                    const qn_kernels *k;
                    qn_err err;
                    setenv("QUERN_ISA", isa_names[i], 1);
                    if (qn_kernels_infer(&k, (qn_mode)mode, (qn_weights)w, &err) != QN_OK) continue;
                    for (int32_t threads = 1; threads <= MOST_THREADS; threads += 2) check_one(k, &p, threads);
                }
            unsetenv("QUERN_ISA");
            drop(&p);
        }
}

static void blocks_of_8_bits(void **unused)
{
    (void)unused;
    float w[QNI_Q8_BLOCK], again[QNI_Q8_BLOCK];
    int8_t q[QNI_Q8_BLOCK], q2[QNI_Q8_BLOCK];
    for (int round = 0; round < 2000; round++) {
        const int64_t n = 1 + round % QNI_Q8_BLOCK;
        const float size = ldexpf(1, round % 40 - 20);
        float most = 0;
        for (int64_t i = 0; i < n; i++) {
            w[i] = draw() * size;
            most = fmaxf(most, fabsf(w[i]));
        }
        const float scale = qn_f16_to_f32(qni_q8_block(q, w, n));
        const float step = fmaxf(most / 127, 0x1p-24f);
        for (int64_t i = 0; i < QNI_Q8_BLOCK; i++) {
            assert_true(i < n || q[i] == 0);
            if (i < n) assert_true(fabsf(scale * q[i] - w[i]) <= step * (0.5f + 127 * 0x1p-11f) + 127 * 0x1p-25f);
            again[i] = scale * q[i];
        }
        if (scale >= 0x1p-14f) { /* what is in the form already stays as it is */
            assert_true(qn_f16_to_f32(qni_q8_block(q2, again, n)) == scale);
            assert_memory_equal(q, q2, sizeof(q));
        }
    }
    memset(w, 0, sizeof(w));
    assert_int_equal(qni_q8_block(q, w, 32), 0);
    w[3] = INFINITY;
    w[4] = NAN;
    (void)qni_q8_block(q, w, 32); /* defined behaviour is all that is asked */
}

static void halves(void **unused)
{
    (void)unused;
    for (uint32_t h = 0; h < 65536; h++) {
        const float f = qn_f16_to_f32((qn_f16)h);
        if (f != f)
            assert_true((qn_f32_to_f16(f) & 0x7c00) == 0x7c00 && (qn_f32_to_f16(f) & 0x3ff) != 0);
        else
            assert_int_equal(qn_f32_to_f16(f), h);
    }
    assert_int_equal(qn_f32_to_f16(1 + 0x1p-11f), 0x3c00); /* ties to even */
    assert_int_equal(qn_f32_to_f16(1 + 3 * 0x1p-11f), 0x3c02);
    assert_int_equal(qn_f32_to_f16(65520), 0x7c00);
    assert_int_equal(qn_f32_to_f16(65519), 0x7bff);
}

static void not_a_number_shows(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < QN_COUNT(isa_names); i++) {
        const qn_kernels *k;
        qn_err err;
        problem p;
        void *packed;
        qn_arena scratch;
        qn_exec ex = {.scratch = &scratch};
        float y[33];
        setenv("QUERN_ISA", isa_names[i], 1);
        if (qn_kernels_infer(&k, QN_MODE_F32, QN_WEIGHTS_Q8, &err) != QN_OK) continue;
        make(&p, 64, 33, QN_WEIGHTS_Q8);
        assert_int_equal(qn_arena_open(&scratch, 1 << 16, &err), QN_OK);
        qn_linear *lin = open_packed(k, &p, 1, &ex, &packed);
        for (int c = 0; c < 64; c += 21) {
            const float kept = p.x[c];
            p.x[c] = c % 2 ? NAN : INFINITY;
            k->linear_forward(&ex, lin, y, p.x, packed, NULL, 1);
            for (int o = 0; o < 33; o++) assert_false(y[o] - y[o] == 0);
            p.x[c] = kept;
        }
        close_packed(k, lin, packed);
        qn_arena_close(&scratch);
        drop(&p);
    }
    unsetenv("QUERN_ISA");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_set_meets_the_definition),
        cmocka_unit_test(blocks_of_8_bits),
        cmocka_unit_test(halves),
        cmocka_unit_test(not_a_number_shows),
    };
    print_message("seed %d\n", SEED);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
