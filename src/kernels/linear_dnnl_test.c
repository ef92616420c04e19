/* The linear map on oneDNN against plain loops in double, and that its bits depend on neither threads nor rows.
 *
 * Bound: weights and inputs are multiples of 1/128 below 1, exact in bf16, so each product is exact in f32 and a sum of k terms
 * in any order is off by at most k roundings of at most the sum of magnitudes; (k + 2) * eps * sum |a b| allows for bias and
 * accumulation, and a bf16 result is off by one more rounding, 2^-8 of its value. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "fast.h"

enum { GUARD = 16, MAX_THREADS = 3, SEED = 20240517 };

static uint32_t state = SEED;

static uint32_t draw(void)
{
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

/* n elements between guard words, as f32 or bf16; one heap block. */
typedef struct array {
    char *block;
    void *at;
    int64_t n;
    bool bf16;
} array;

static size_t width(const array *a)
{
    return a->bf16 ? 2 : 4;
}

static array array_new(int64_t n, bool bf16)
{
    array a = {.n = n, .bf16 = bf16};
    const size_t bytes = (size_t)n * width(&a);
    a.block = malloc(bytes + 2 * GUARD * 4);
    assert_non_null(a.block);
    memset(a.block, 0xa5, bytes + 2 * GUARD * 4);
    a.at = a.block + GUARD * 4;
    return a;
}

static void array_set(array *a, int64_t i, float x)
{
    if (a->bf16)
        ((qn_bf16 *)a->at)[i] = qn_f32_to_bf16(x);
    else
        ((float *)a->at)[i] = x;
}

static double array_get(const array *a, int64_t i)
{
    return a->bf16 ? (double)qn_bf16_to_f32(((const qn_bf16 *)a->at)[i]) : (double)((const float *)a->at)[i];
}

static array array_random(int64_t n, bool bf16)
{
    array a = array_new(n, bf16);
    for (int64_t i = 0; i < n; i++) array_set(&a, i, (float)((int)(draw() % 255) - 127) / 128);
    return a;
}

static array array_copy(const array *from)
{
    array a = array_new(from->n, from->bf16);
    memcpy(a.at, from->at, (size_t)a.n * width(&a));
    return a;
}

static void array_free(array *a)
{
    const unsigned char *p = (const unsigned char *)a->block, *end = p + GUARD * 8 + (size_t)a->n * width(a);
    for (int i = 0; i < GUARD * 4; i++) assert_true(p[i] == 0xa5 && end[-1 - i] == 0xa5);
    free(a->block);
}

/* A map of every thread count, with what it needs to run. */
typedef struct maps {
    qn_linear *lin[MAX_THREADS];
    qn_team *team[MAX_THREADS];
    qn_arena scratch[MAX_THREADS];
    void *packed[MAX_THREADS];
    int64_t C, O;
    bool bf16;
} maps;

static void maps_open(maps *m, int64_t C, int64_t O, int64_t rows, bool bf16, const array *w)
{
    qn_err err;
    *m = (maps){.C = C, .O = O, .bf16 = bf16};
    for (int32_t t = 0; t < MAX_THREADS; t++) {
        const qn_linear_shape shape = {.in = C, .out = O, .rows = rows, .threads = t + 1};
        const qn_status st = (bf16 ? qni_dnnl_linear_open_bf16 : qni_dnnl_linear_open_f32)(&m->lin[t], &shape, &err);
        if (st != QN_OK) fail_msg("%s", err.text);
        assert_int_equal(qn_team_open(&m->team[t], t + 1, -1, NULL), QN_OK);
        assert_int_equal(qn_arena_open(&m->scratch[t], qni_dnnl_linear_scratch(m->lin[t]), NULL), QN_OK);
        m->packed[t] = qn_alloc_pages(qni_dnnl_linear_packed_bytes(m->lin[t], 3));
        assert_non_null(m->packed[t]);
        const qn_exec ex = {m->team[t], &m->scratch[t]};
        qni_dnnl_linear_pack(&ex, m->lin[t], m->packed[t], w->at, QN_PACK_FORWARD | QN_PACK_BACKWARD);
    }
}

static void maps_close(maps *m)
{
    for (int t = 0; t < MAX_THREADS; t++) {
        qn_free_pages(m->packed[t], qni_dnnl_linear_packed_bytes(m->lin[t], 3));
        qni_dnnl_linear_close(m->lin[t]);
        qn_team_close(m->team[t]);
        qn_arena_close(&m->scratch[t]);
    }
}

static void forward(maps *m, int t, void *y, const void *x, const void *bias, int64_t R)
{
    const qn_exec ex = {m->team[t], &m->scratch[t]};
    qni_dnnl_linear_forward(&ex, m->lin[t], y, x, m->packed[t], bias, R);
    assert_int_equal(m->scratch[t].used, 0);
}

static void backward_input(maps *m, int t, void *dx, const void *dy, int64_t R, bool add)
{
    const qn_exec ex = {m->team[t], &m->scratch[t]};
    qni_dnnl_linear_backward_input(&ex, m->lin[t], dx, dy, m->packed[t], R, add);
    assert_int_equal(m->scratch[t].used, 0);
}

static void backward_weight(maps *m, int t, void *dw, void *db, const void *dy, const void *x, int64_t R)
{
    const qn_exec ex = {m->team[t], &m->scratch[t]};
    qni_dnnl_linear_backward_weight(&ex, m->lin[t], dw, db, dy, x, R);
    assert_int_equal(m->scratch[t].used, 0);
}

/* got = start + sum over k of a[ai + k * as] b[bi + k * bs], within the bound. */
static void check_sum(double got, double start, const array *a, int64_t ai, int64_t as, const array *b, int64_t bi, int64_t bs,
                      int64_t k, bool bf16)
{
    double want = start, size = fabs(start);
    for (int64_t i = 0; i < k; i++) {
        const double p = array_get(a, ai + i * as) * array_get(b, bi + i * bs);
        want += p;
        size += fabs(p);
    }
    const double bound = (double)(k + 2) * FLT_EPSILON * size + (bf16 ? fabs(want) / 256 : 0);
    if (!(fabs(got - want) <= bound)) fail_msg("got %.9g, want %.9g within %.3g (k = %lld)", got, want, bound, (long long)k);
}

static void one_shape(int64_t C, int64_t O, int64_t R, bool bf16)
{
    maps m;
    array w = array_random(O * C, false), x = array_random(R * C, bf16), dy = array_random(R * O, bf16);
    array bias = array_random(O, false), y = array_new(R * O, bf16), y0 = array_new(R * O, bf16);
    array dx = array_new(R * C, false), sum = array_random(R * C, false), before = array_copy(&sum);
    array dw = array_random(O * C, false), dw0 = array_copy(&dw), db = array_random(O, false), db0 = array_copy(&db);
    maps_open(&m, C, O, R, bf16, &w);
    const int t = (int)(draw() % MAX_THREADS);
    forward(&m, t, y.at, x.at, bias.at, R);
    forward(&m, t, y0.at, x.at, NULL, R);
    backward_input(&m, t, dx.at, dy.at, R, false);
    backward_input(&m, t, sum.at, dy.at, R, true);
    backward_weight(&m, t, dw.at, db.at, dy.at, x.at, R);
    for (int64_t r = 0; r < R; r++) {
        for (int64_t o = 0; o < O; o++) {
            check_sum(array_get(&y, r * O + o), array_get(&bias, o), &x, r * C, 1, &w, o * C, 1, C, bf16);
            check_sum(array_get(&y0, r * O + o), 0, &x, r * C, 1, &w, o * C, 1, C, bf16);
        }
        for (int64_t c = 0; c < C; c++) {
            check_sum(array_get(&dx, r * C + c), 0, &dy, r * O, 1, &w, c, C, O, false);
            check_sum(array_get(&sum, r * C + c), array_get(&before, r * C + c), &dy, r * O, 1, &w, c, C, O, false);
        }
    }
    array one = array_new(1, false);
    array_set(&one, 0, 1);
    for (int64_t o = 0; o < O; o++) {
        check_sum(array_get(&db, o), array_get(&db0, o), &dy, o, O, &one, 0, 0, R, false);
        for (int64_t c = 0; c < C; c++)
            check_sum(array_get(&dw, o * C + c), array_get(&dw0, o * C + c), &dy, o, O, &x, c, C, R, false);
    }
    maps_close(&m);
    array *all[] = {&w, &x, &dy, &bias, &y, &y0, &dx, &sum, &before, &dw, &dw0, &db, &db0, &one};
    for (size_t i = 0; i < QN_COUNT(all); i++) array_free(all[i]);
}

static void matches_plain_loops(void **unused)
{
    (void)unused;
    static const int64_t sizes[][3] = {{1, 1, 1},    {3, 5, 0},     {5, 3, 2},    {7, 64, 33},  {64, 7, 40},    {64, 64, 17},
                                       {64, 172, 9}, {172, 64, 48}, {65, 33, 49}, {33, 65, 97}, {128, 384, 64}, {96, 400, 130}};
    print_message("seed %d\n", SEED);
    for (size_t i = 0; i < QN_COUNT(sizes); i++)
        for (int bf16 = 0; bf16 < 2; bf16++) one_shape(sizes[i][0], sizes[i][1], sizes[i][2], bf16);
}

static void check_same(const void *a, const void *b, size_t bytes, const char *what, const maps *m, int64_t R, int t)
{
    if (memcmp(a, b, bytes) != 0)
        fail_msg("%s differs: C %lld, O %lld, R %lld, %s, %d threads", what, (long long)m->C, (long long)m->O, (long long)R,
                 m->bf16 ? "bf16" : "f32", t + 1);
}

/* Rows at .. at + R of a call of all rows, against a call of those alone. */
static void check_rows(maps *m, const array *x, const array *dy, const array *bias, const array *y, const array *dx, int64_t at,
                       int64_t R)
{
    const size_t act = m->bf16 ? 2 : 4;
    array some_y = array_new(R * m->O, m->bf16), some_dx = array_random(R * m->C, false);
    for (int t = 0; t < MAX_THREADS; t++) {
        forward(m, t, some_y.at, (const char *)x->at + (size_t)(at * m->C) * act, bias->at, R);
        check_same(some_y.at, (const char *)y->at + (size_t)(at * m->O) * act, (size_t)(R * m->O) * act, "y", m, R, t);
        for (int64_t i = 0; i < R * m->C; i++) array_set(&some_dx, i, (float)((at * m->C + i) % 7) / 3);
        backward_input(m, t, some_dx.at, (const char *)dy->at + (size_t)(at * m->O) * act, R, true);
        check_same(some_dx.at, (const char *)dx->at + (size_t)(at * m->C) * 4, (size_t)(R * m->C) * 4, "dx", m, R, t);
    }
    array_free(&some_y);
    array_free(&some_dx);
}

static void check_weight(maps *m, const array *x, const array *dy, int64_t R)
{
    array start = array_random(m->O * m->C, false), bias = array_random(m->O, false), dw[MAX_THREADS], db[MAX_THREADS];
    for (int t = 0; t < MAX_THREADS; t++) {
        dw[t] = array_copy(&start);
        db[t] = array_copy(&bias);
        backward_weight(m, t, dw[t].at, db[t].at, dy->at, x->at, R);
        check_same(dw[t].at, dw[0].at, (size_t)(m->O * m->C) * 4, "dw", m, R, t);
        check_same(db[t].at, db[0].at, (size_t)m->O * 4, "db", m, R, t);
    }
    for (int t = 0; t < MAX_THREADS; t++) {
        array_free(&dw[t]);
        array_free(&db[t]);
    }
    array_free(&start);
    array_free(&bias);
}

static void same_bits(int64_t C, int64_t O, int64_t R, bool bf16, const int64_t *counts, size_t n)
{
    maps m;
    array w = array_random(O * C, false), x = array_random(R * C, bf16), dy = array_random(R * O, bf16),
          bias = array_random(O, false);
    /* products whose sums do round: scale by thirds */
    for (int64_t i = 0; i < O * C; i++) array_set(&w, i, (float)array_get(&w, i) / 3);
    for (int64_t i = 0; i < R * C; i++) array_set(&x, i, (float)array_get(&x, i) / 3);
    for (int64_t i = 0; i < R * O; i++) array_set(&dy, i, (float)array_get(&dy, i) / 3);
    array y = array_new(R * O, bf16), dx = array_new(R * C, false);
    maps_open(&m, C, O, R, bf16, &w);
    for (int64_t i = 0; i < R * C; i++) array_set(&dx, i, (float)(i % 7) / 3);
    forward(&m, 0, y.at, x.at, bias.at, R);
    backward_input(&m, 0, dx.at, dy.at, R, true);
    for (size_t i = 0; i < n; i++) {
        if (counts[i] > R) continue;
        check_rows(&m, &x, &dy, &bias, &y, &dx, R - counts[i], counts[i]);
        check_rows(&m, &x, &dy, &bias, &y, &dx, (R - counts[i]) / 3, counts[i]);
        check_weight(&m, &x, &dy, counts[i]);
    }
    maps_close(&m);
    array *all[] = {&w, &x, &dy, &bias, &y, &dx};
    for (size_t i = 0; i < QN_COUNT(all); i++) array_free(all[i]);
}

static void small_sizes_have_the_same_bits(void **unused)
{
    (void)unused;
    static const int64_t widths[][2] = {{64, 64}, {64, 172}, {172, 64}, {96, 96}, {128, 33}, {65, 130}, {1, 1}, {5, 3}};
    int64_t counts[41];
    for (int i = 0; i < 40; i++) counts[i] = i + 1;
    counts[40] = 97;
    for (size_t i = 0; i < QN_COUNT(widths); i++)
        for (int bf16 = 0; bf16 < 2; bf16++) same_bits(widths[i][0], widths[i][1], 97, bf16, counts, QN_COUNT(counts));
}

static void large_sizes_have_the_same_bits(void **unused)
{
    (void)unused;
    static const int64_t widths[][2] = {{768, 2304}, {3072, 768}, {256, 1024}, {768, 9001}};
    static const int64_t counts[] = {1, 2, 15, 64, 100, 255, 341, 512, 683, 1024};
    for (size_t i = 0; i < QN_COUNT(widths); i++)
        for (int bf16 = 0; bf16 < 2; bf16++)
            same_bits(widths[i][0], widths[i][1], widths[i][1] > 9000 ? 128 : 1024, bf16, counts, QN_COUNT(counts));
}

static void a_pack_may_hold_one_copy(void **unused)
{
    (void)unused;
    enum { C = 40, O = 70, R = 20 };
    for (int bf16 = 0; bf16 < 2; bf16++) {
        maps m;
        array w = array_random(O * C, false), x = array_random(R * C, bf16), dy = array_random(R * O, bf16);
        array y = array_new(R * O, bf16), y1 = array_new(R * O, bf16), dx = array_new(R * C, false),
              dx1 = array_new(R * C, false);
        maps_open(&m, C, O, R, bf16, &w);
        forward(&m, 1, y.at, x.at, NULL, R);
        backward_input(&m, 1, dx.at, dy.at, R, false);
        const qn_exec ex = {m.team[1], &m.scratch[1]};
        qni_dnnl_linear_pack(&ex, m.lin[1], m.packed[1], w.at, QN_PACK_FORWARD);
        forward(&m, 1, y1.at, x.at, NULL, R);
        qni_dnnl_linear_pack(&ex, m.lin[1], m.packed[1], w.at, QN_PACK_BACKWARD);
        backward_input(&m, 1, dx1.at, dy.at, R, false);
        assert_memory_equal(y.at, y1.at, (size_t)(R * O) * width(&y));
        assert_memory_equal(dx.at, dx1.at, (size_t)(R * C) * 4);
        assert_true(qni_dnnl_linear_packed_bytes(m.lin[1], 1) < qni_dnnl_linear_packed_bytes(m.lin[1], 3));
        maps_close(&m);
        array *all[] = {&w, &x, &dy, &y, &y1, &dx, &dx1};
        for (size_t i = 0; i < QN_COUNT(all); i++) array_free(all[i]);
    }
}

/* Packing rounds as qn_f32_to_bf16 does: the same results from weights rounded beforehand. Where oneDNN has no bf16 products a
 * pack holds the weights in f32, and there is nothing to round. */
static void packing_rounds_to_nearest(void **unused)
{
    (void)unused;
    static const int64_t widths[][2] = {{1, 1}, {33, 65}, {64, 172}, {130, 64}, {97, 31}, {768, 200}};
    enum { R = 9 };
    qn_linear *probe = NULL;
    const qn_linear_shape wide = {.in = 256, .out = 256, .rows = 1, .threads = 1};
    assert_int_equal(qni_dnnl_linear_open_bf16(&probe, &wide, NULL), QN_OK);
    const bool in_f32 = qni_dnnl_linear_packed_bytes(probe, QN_PACK_FORWARD) > 256 * 256 * 4;
    qni_dnnl_linear_close(probe);
    if (in_f32) {
        print_message("no bf16 products here: weights stay in f32\n");
        return;
    }
    for (size_t i = 0; i < QN_COUNT(widths); i++) {
        const int64_t C = widths[i][0], O = widths[i][1];
        array w = array_random(O * C, false), rounded = array_new(O * C, false), x = array_random(R * C, true);
        array dy = array_random(R * O, true), y[2], dx[2];
        for (int64_t j = 0; j < O * C; j++) {
            array_set(&w, j, (float)array_get(&w, j) / 3);
            array_set(&rounded, j, qn_bf16_to_f32(qn_f32_to_bf16((float)array_get(&w, j))));
        }
        for (int k = 0; k < 2; k++) {
            maps m;
            y[k] = array_new(R * O, true);
            dx[k] = array_new(R * C, false);
            maps_open(&m, C, O, R, true, k == 0 ? &w : &rounded);
            forward(&m, 2, y[k].at, x.at, NULL, R);
            backward_input(&m, 1, dx[k].at, dy.at, R, false);
            maps_close(&m);
        }
        assert_memory_equal(y[0].at, y[1].at, (size_t)(R * O) * 2);
        assert_memory_equal(dx[0].at, dx[1].at, (size_t)(R * C) * 4);
        array *all[] = {&w, &rounded, &x, &dy, &y[0], &y[1], &dx[0], &dx[1]};
        for (size_t j = 0; j < QN_COUNT(all); j++) array_free(all[j]);
    }
}

/* The optimizer's step that packs against one after the other: state and both copies, padding included, bit for bit; sizes with
 * remainders of every kind, and one whose copies go past the caches. */
static void a_step_packs_what_it_made(void **unused)
{
    (void)unused;
    static const int64_t widths[][2] = {{1, 1}, {33, 65}, {64, 172}, {130, 64}, {97, 31}, {64, 177}, {768, 817}};
    const qn_adamw h = {
        .lr = 0.01, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .decay = 0.1, .correct1 = 0.1, .correct2 = 0.05, .grad_scale = 0.5};
    const qn_kernels *k;
    assert_int_equal(qn_kernels_get(&k, QN_MODE_F32, NULL), QN_OK);
    for (size_t i = 0; i < QN_COUNT(widths); i++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            const int64_t C = widths[i][0], O = widths[i][1];
            array given[4], want[4];
            maps m;
            for (int j = 0; j < 4; j++) given[j] = array_random(O * C, false);
            for (int64_t j = 0; j < O * C; j++) array_set(&given[3], j, fabsf((float)array_get(&given[3], j)));
            for (int j = 0; j < 4; j++) want[j] = array_copy(&given[j]);
            maps_open(&m, C, O, 1, bf16 == 1, &given[0]);
            const size_t bytes = qni_dnnl_linear_packed_bytes(m.lin[0], 3);
            k->adamw(&(qn_exec){NULL, NULL}, want[0].at, want[1].at, want[2].at, want[3].at, O * C, &h);
            for (int t = 0; t < MAX_THREADS; t++) {
                array got[4];
                const qn_exec ex = {m.team[t], &m.scratch[t]};
                void *packed = qn_alloc_pages(bytes);
                assert_non_null(packed);
                qni_dnnl_linear_pack(&ex, m.lin[t], packed, want[0].at, 3);
                for (int j = 0; j < 4; j++) got[j] = array_copy(&given[j]);
                qni_dnnl_linear_step(&ex, m.lin[t], m.packed[t], got[0].at, got[1].at, got[2].at, got[3].at, &h, 3);
                for (int j = 0; j < 4; j++) assert_memory_equal(got[j].at, want[j].at, (size_t)(O * C) * 4);
                assert_memory_equal(m.packed[t], packed, bytes);
                for (int j = 0; j < 4; j++) array_free(&got[j]);
                qn_free_pages(packed, bytes);
            }
            maps_close(&m);
            for (int j = 0; j < 4; j++) {
                array_free(&given[j]);
                array_free(&want[j]);
            }
        }
}

/* Row counts seen at open need nothing from our heap; others only their first time. */
static void the_hot_path_allocates_nothing(void **unused)
{
    (void)unused;
    enum { C = 64, O = 172, R = 100 };
    maps m;
    array w = array_random(O * C, false), x = array_random(R * C, true), dy = array_random(R * O, true);
    array y = array_new(R * O, true), dx = array_new(R * C, false), dw = array_random(O * C, false), db = array_random(O, false);
    maps_open(&m, C, O, R, true, &w);
    for (int t = 0; t < MAX_THREADS; t++) {
        qni_no_alloc_begin();
        forward(&m, t, y.at, x.at, db.at, R);
        backward_input(&m, t, dx.at, dy.at, R, true);
        backward_weight(&m, t, dw.at, db.at, dy.at, x.at, R);
        assert_int_equal(qni_no_alloc_end(), 0);
    }
    maps_close(&m);
    array *all[] = {&w, &x, &dy, &y, &dx, &dw, &db};
    for (size_t i = 0; i < QN_COUNT(all); i++) array_free(all[i]);
}

/* More distinct row counts than the cache has places. */
static void the_cache_of_primitives_turns_over(void **unused)
{
    (void)unused;
    enum { C = 8, O = 24, R = 150 };
    maps m;
    array w = array_random(O * C, false), x = array_random(R * C, false), y = array_new(R * O, false),
          some = array_new(R * O, false);
    maps_open(&m, C, O, R, false, &w);
    forward(&m, 0, y.at, x.at, NULL, R);
    for (int pass = 0; pass < 2; pass++)
        for (int64_t n = 1; n <= R; n++) {
            forward(&m, 2, some.at, x.at, NULL, n);
            assert_memory_equal(some.at, y.at, (size_t)(n * O) * 4);
        }
    maps_close(&m);
    array *all[] = {&w, &x, &y, &some};
    for (size_t i = 0; i < QN_COUNT(all); i++) array_free(all[i]);
}

static void bad_shapes_are_refused(void **unused)
{
    (void)unused;
    static const qn_linear_shape bad[] = {{0, 4, 4, 1}, {4, -1, 4, 1}, {4, 4, -1, 1}, {4, 4, 4, 0}, {INT64_MAX, 4, 4, 1}};
    for (size_t i = 0; i < QN_COUNT(bad); i++) {
        qn_linear *lin = NULL;
        qn_err err;
        assert_int_equal(qni_dnnl_linear_open_f32(&lin, &bad[i], &err), QN_ERANGE);
        assert_null(lin);
    }
    qni_dnnl_linear_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_plain_loops),
        cmocka_unit_test(small_sizes_have_the_same_bits),
        cmocka_unit_test(large_sizes_have_the_same_bits),
        cmocka_unit_test(a_pack_may_hold_one_copy),
        cmocka_unit_test(packing_rounds_to_nearest),
        cmocka_unit_test(a_step_packs_what_it_made),
        cmocka_unit_test(the_hot_path_allocates_nothing),
        cmocka_unit_test(the_cache_of_primitives_turns_over),
        cmocka_unit_test(bad_shapes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
