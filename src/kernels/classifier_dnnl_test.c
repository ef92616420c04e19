/* The fused classifier on oneDNN against plain loops in double; its parts, thread counts and row counts give the same bits.
 *
 * Bound: weights and inputs are exact in bf16, so a logit is off by at most d = (C + 2) eps sum |x w|. A loss then is off by 2 d
 * and the roundings of a sum of V / 4 terms a lane, each exponential within 2 units: e = 2 d + (V / 4 + 32) eps in all. A
 * gradient g = p - onehot is off by p e, plus 2^-9 of itself in bf16; dx and dw by those times the weights or inputs, plus the
 * sum's own roundings. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "fast.h"

enum { SEED = 7, ALL = QN_CLASS_LOSS | QN_CLASS_INPUT | QN_CLASS_WEIGHT, GUARD = 8 };

static uint32_t state = SEED;

static float draw(void)
{
    state = state * 1664525u + 1013904223u;
    return (float)((int)(state >> 8) % 255 - 127) / 128;
}

typedef struct problem {
    int64_t R, C, V;
    bool bf16;
    float *x, *w; /* as numbers */
    void *act;    /* x as the kernel takes it */
    int32_t *target;
} problem;

typedef struct result {
    double loss;
    float *dx, *dw; /* guard words after each */
} result;

static problem problem_new(int64_t R, int64_t C, int64_t V, bool bf16, float scale)
{
    problem p = {.R = R, .C = C, .V = V, .bf16 = bf16};
    p.x = calloc((size_t)(R * C) + 1, sizeof(float));
    p.w = calloc((size_t)(V * C), sizeof(float));
    p.act = calloc((size_t)(R * C) + 1, sizeof(float));
    p.target = calloc((size_t)R + 1, sizeof(int32_t));
    assert_true(p.x != NULL && p.w != NULL && p.act != NULL && p.target != NULL);
    for (int64_t i = 0; i < V * C; i++) p.w[i] = draw();
    for (int64_t i = 0; i < R * C; i++) {
        p.x[i] = draw() * scale;
        if (bf16)
            ((qn_bf16 *)p.act)[i] = qn_f32_to_bf16(p.x[i]);
        else
            ((float *)p.act)[i] = p.x[i];
    }
    for (int64_t r = 0; r < R; r++) p.target[r] = r % 5 == 3 ? -1 : (int32_t)((r * 7919 + 3) % V);
    return p;
}

static void problem_free(problem *p)
{
    free(p->x);
    free(p->w);
    free(p->act);
    free(p->target);
}

static void result_free(result *r)
{
    free(r->dx);
    free(r->dw);
}

/* Rows from .. from + R of p; dw starts at 1/2, dx at rubbish. */
static result classify(const problem *p, int64_t from, int64_t R, int32_t threads, unsigned what)
{
    const int64_t C = p->C, V = p->V;
    const qn_linear_shape shape = {.in = C, .out = V, .rows = p->R, .threads = threads};
    result out = {.loss = 0.25};
    qn_linear *lin;
    qn_team *team;
    qn_arena scratch;
    qn_err err;
    if ((p->bf16 ? qni_dnnl_linear_open_bf16 : qni_dnnl_linear_open_f32)(&lin, &shape, &err) != QN_OK) fail_msg("%s", err.text);
    assert_int_equal(qn_team_open(&team, threads, -1, NULL), QN_OK);
    assert_int_equal(qn_arena_open(&scratch, qni_dnnl_classifier_scratch(lin), NULL), QN_OK);
    const qn_exec ex = {team, &scratch};
    void *packed = qn_alloc_pages(qni_dnnl_linear_packed_bytes(lin, 3));
    out.dx = malloc((size_t)(R * C + GUARD) * sizeof(float));
    out.dw = malloc((size_t)(V * C + GUARD) * sizeof(float));
    assert_true(packed != NULL && out.dx != NULL && out.dw != NULL);
    for (int64_t i = 0; i < R * C + GUARD; i++) out.dx[i] = 77;
    for (int64_t i = 0; i < V * C + GUARD; i++) out.dw[i] = 0.5f;
    qni_dnnl_linear_pack(&ex, lin, packed, p->w, 3);
    qni_dnnl_classifier(&ex, lin, &out.loss, out.dx, out.dw, (const char *)p->act + (size_t)(from * C) * (p->bf16 ? 2 : 4),
                        packed, p->target + from, R, what);
    assert_int_equal(scratch.used, 0);
    for (int i = 0; i < GUARD; i++) assert_true(out.dx[R * C + i] == 77 && out.dw[V * C + i] == 0.5f);
    qn_free_pages(packed, qni_dnnl_linear_packed_bytes(lin, 3));
    qni_dnnl_linear_close(lin);
    qn_team_close(team);
    qn_arena_close(&scratch);
    return out;
}

/* Row r: gradients g and bounds of their errors e, both [V]; returns the loss, *bound its error. */
static double plain_row(double *g, double *e, double *bound, const problem *p, int64_t r)
{
    double max = -INFINITY, sum = 0, off = 0;
    for (int64_t v = 0; v < p->V; v++) {
        double size = 0;
        g[v] = 0;
        for (int64_t c = 0; c < p->C; c++) {
            const double t = (double)p->x[r * p->C + c] * p->w[v * p->C + c];
            g[v] += t;
            size += fabs(t);
        }
        off = fmax(off, (double)(p->C + 2) * FLT_EPSILON * size);
        max = fmax(max, g[v]);
    }
    const double hit = g[p->target[r]];
    for (int64_t v = 0; v < p->V; v++) sum += exp(g[v] - max);
    *bound = 2 * off + (double)(p->V / 4 + 32) * FLT_EPSILON;
    for (int64_t v = 0; v < p->V; v++) {
        const double q = exp(g[v] - max) / sum;
        g[v] = q - (v == p->target[r]);
        e[v] = q * *bound + FLT_MIN + FLT_EPSILON * fabs(g[v]) + (p->bf16 ? fabs(g[v]) / 256 : 0);
    }
    return max + log(sum) - hit;
}

static void near(double got, double want, double bound, const char *what)
{
    if (!(fabs(got - want) <= bound)) fail_msg("%s: got %.9g, want %.9g within %.3g", what, got, want, bound);
}

static void check(const problem *p, const result *got)
{
    const int64_t R = p->R, C = p->C, V = p->V;
    double *g = calloc((size_t)V, sizeof(double)), *e = calloc((size_t)V, sizeof(double)), loss = 0.25, loss_bound = 1e-12;
    double *dw = calloc((size_t)(V * C), sizeof(double)), *dw_bound = calloc((size_t)(V * C), sizeof(double));
    assert_true(g != NULL && e != NULL && dw != NULL && dw_bound != NULL);
    for (int64_t r = 0; r < R; r++) {
        double bound = 0;
        memset(g, 0, (size_t)V * sizeof(*g));
        memset(e, 0, (size_t)V * sizeof(*e));
        if (p->target[r] >= 0) loss += plain_row(g, e, &bound, p, r);
        loss_bound += bound;
        for (int64_t c = 0; c < C; c++) {
            double want = 0, off = 0;
            for (int64_t v = 0; v < V; v++) {
                const double w = p->w[v * C + c], x = p->x[r * C + c];
                want += g[v] * w;
                off += fabs(w) * (e[v] + (double)(V + 2) * FLT_EPSILON * fabs(g[v]));
                dw[v * C + c] += g[v] * x;
                dw_bound[v * C + c] += fabs(x) * (e[v] + (double)(R + 8) * FLT_EPSILON * fabs(g[v]));
            }
            near(got->dx[r * C + c], want, off, "dx");
        }
    }
    near(got->loss, loss, loss_bound, "loss");
    for (int64_t i = 0; i < V * C; i++) near(got->dw[i], 0.5 + dw[i], dw_bound[i] + (double)(R + 8) * FLT_EPSILON, "dw");
    free(g);
    free(e);
    free(dw);
    free(dw_bound);
}

static void matches_plain_loops(void **unused)
{
    (void)unused;
    static const int64_t sizes[][3] = {{1, 1, 1},     {2, 3, 5},     {33, 24, 200}, {40, 64, 512},
                                       {130, 16, 63}, {97, 128, 65}, {0, 8, 9},     {300, 4, 70000}}; /* the last: two blocks */
    print_message("seed %d\n", SEED);
    for (size_t i = 0; i < QN_COUNT(sizes); i++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            problem p = problem_new(sizes[i][0], sizes[i][1], sizes[i][2], bf16, 1);
            result got = classify(&p, 0, p.R, 1 + (int)(i % 3), ALL);
            check(&p, &got);
            result_free(&got);
            problem_free(&p);
        }
}

static void threads_and_parts_give_the_same_bits(void **unused)
{
    (void)unused;
    static const int64_t sizes[][3] = {{1, 8, 100}, {37, 64, 301}, {200, 96, 1000}, {600, 16, 60000}};
    for (size_t i = 0; i < QN_COUNT(sizes); i++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            problem p = problem_new(sizes[i][0], sizes[i][1], sizes[i][2], bf16, 1.0f / 3);
            result all = classify(&p, 0, p.R, 1, ALL);
            for (unsigned what = 1; what <= ALL; what++) {
                if (sizes[i][2] > 2000 && what != 1 && what != 6) continue;
                result some = classify(&p, 0, p.R, 1 + (int)(what % 3), what);
                if (what & QN_CLASS_LOSS) assert_true(some.loss == all.loss);
                if (what & QN_CLASS_INPUT) assert_memory_equal(some.dx, all.dx, (size_t)(p.R * p.C) * sizeof(float));
                if (what & QN_CLASS_WEIGHT) assert_memory_equal(some.dw, all.dw, (size_t)(p.V * p.C) * sizeof(float));
                if (!(what & QN_CLASS_LOSS)) assert_true(some.loss == 0.25);
                result_free(&some);
            }
            result_free(&all);
            problem_free(&p);
        }
}

static void a_row_does_not_see_the_others(void **unused)
{
    (void)unused;
    for (int bf16 = 0; bf16 < 2; bf16++) {
        problem p = problem_new(150, 64, 300, bf16, 1.0f / 3);
        result all = classify(&p, 0, p.R, 2, ALL);
        for (int64_t from = 0; from < p.R; from += 7) {
            const int64_t n = from % 3 == 0 ? 1 : p.R - from;
            result some = classify(&p, from, n, 1 + (int)(from % 3), ALL);
            assert_memory_equal(some.dx, all.dx + from * p.C, (size_t)(n * p.C) * sizeof(float));
            result_free(&some);
        }
        result_free(&all);
        problem_free(&p);
    }
}

static void huge_logits_stay_finite(void **unused)
{
    (void)unused;
    for (int bf16 = 0; bf16 < 2; bf16++) {
        problem p = problem_new(20, 32, 97, bf16, 0x1p60f);
        result got = classify(&p, 0, p.R, 2, ALL);
        assert_true(isfinite(got.loss));
        for (int64_t i = 0; i < p.R * p.C; i++) assert_true(isfinite(got.dx[i]));
        for (int64_t i = 0; i < p.V * p.C; i++) assert_true(isfinite(got.dw[i]));
        result_free(&got);
        problem_free(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_plain_loops),
        cmocka_unit_test(threads_and_parts_give_the_same_bits),
        cmocka_unit_test(a_row_does_not_see_the_others),
        cmocka_unit_test(huge_logits_stay_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
