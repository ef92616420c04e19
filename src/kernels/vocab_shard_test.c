/* Vocabulary shards against one dense softmax in double: loss, dx and dw of both algorithms for 1 to 8 shards, with a vocabulary
 * that they do not divide, shards of padding alone, logits of +-80, shards without any target and tokens that are ignored.
 *
 * Weights and inputs are exact in every type. Bound: 1e-6 of the largest element in f32 and f64; in bf16 p is rounded twice to
 * 8 bits, so 2^-7 of it. */
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
#include "kernels.h"

enum { MOST = 8 };

static uint32_t state = 11;

static double draw(void)
{
    state = state * 1664525u + 1013904223u;
    return (double)((int)(state >> 8) % 255 - 127) / 128;
}

typedef struct problem {
    int64_t R, C, V;
    double *x, *w, *dx, *dw, loss;
    int32_t *target;
} problem;

static double *numbers(int64_t n)
{
    double *a = calloc((size_t)n + 1, sizeof(*a));
    assert_non_null(a);
    return a;
}

/* The dense answer, left to right in double. */
static void solve(problem *p)
{
    double *l = numbers(p->V);
    for (int64_t r = 0; r < p->R; r++) {
        double top = -INFINITY, sum = 0;
        if (p->target[r] < 0) continue;
        for (int64_t v = 0; v < p->V; v++) {
            l[v] = 0;
            for (int64_t c = 0; c < p->C; c++) l[v] += p->x[r * p->C + c] * p->w[v * p->C + c];
            top = fmax(top, l[v]);
        }
        for (int64_t v = 0; v < p->V; v++) sum += exp(l[v] - top);
        p->loss += log(sum) + top - l[p->target[r]];
        for (int64_t v = 0; v < p->V; v++) {
            const double g = exp(l[v] - top) / sum - (v == p->target[r]);
            for (int64_t c = 0; c < p->C; c++) {
                p->dx[r * p->C + c] += g * p->w[v * p->C + c];
                p->dw[v * p->C + c] += g * p->x[r * p->C + c];
            }
        }
    }
    free(l);
}

/* sharp: logits reach +-80. low: all targets lie below this token, so that later shards have none. */
static problem make(int64_t R, int64_t C, int64_t V, bool sharp, int64_t low)
{
    problem p = {.R = R, .C = C, .V = V, .x = numbers(R * C), .w = numbers(V * C), .dx = numbers(R * C), .dw = numbers(V * C)};
    p.target = calloc((size_t)R + 1, sizeof(*p.target));
    assert_non_null(p.target);
    for (int64_t i = 0; i < V * C; i++) p.w[i] = draw();
    for (int64_t i = 0; i < R * C; i++) p.x[i] = draw();
    for (int64_t v = 0; sharp && v < V; v += 7) p.w[v * C] = v % 2 == 0 ? 80 : -80;
    for (int64_t r = 0; sharp && r < R; r++) p.x[r * C] = r % 3 == 0 ? -1 : 1;
    for (int64_t r = 0; r < R; r++) p.target[r] = r % 5 == 3 ? -1 : (int32_t)((r * 7919 + 3) % low);
    solve(&p);
    return p;
}

static void destroy(problem *p)
{
    free(p->x);
    free(p->w);
    free(p->dx);
    free(p->dw);
    free(p->target);
}

static void store(void *to, qn_dtype type, const double *from, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (type == QN_F64)
            ((double *)to)[i] = from[i];
        else if (type == QN_F32)
            ((float *)to)[i] = (float)from[i];
        else
            ((qn_bf16 *)to)[i] = qn_f32_to_bf16((float)from[i]);
    }
}

static double at(const void *a, qn_dtype type, int64_t i)
{
    return type == QN_F64 ? ((const double *)a)[i] : (double)((const float *)a)[i];
}

static double worst(const void *got, qn_dtype type, const double *want, int64_t n, double least)
{
    double off = 0, most = least;
    for (int64_t i = 0; i < n; i++) most = fmax(most, fabs(want[i]));
    for (int64_t i = 0; i < n; i++) off = fmax(off, fabs(at(got, type, i) - want[i]));
    return off / most;
}

/* All shards in turn, as their holders would do it. */
static void run_shards(const qn_kernels *k, const problem *p, int32_t shards, int algorithm, int32_t threads, double bound)
{
    const int64_t O = (p->V + shards - 1) / shards, rows = O * shards;
    const size_t res = qn_dtype_bytes(k->res), act = qn_dtype_bytes(k->act);
    const qn_linear_shape shape = {.in = p->C, .out = O, .rows = p->R > 0 ? p->R : 1, .threads = threads};
    qn_arena scratch;
    qn_exec ex = {.scratch = &scratch};
    qn_linear *lin;
    qn_err err;
    if (threads > 1) assert_int_equal(qn_team_open(&ex.team, threads, -1, &err), QN_OK);
    assert_int_equal(k->linear_open(&lin, &shape, &err), QN_OK);
    const size_t need = k->vocab_scratch(lin) + k->linear_scratch(lin);
    assert_int_equal(qn_arena_open(&scratch, need + 4096, &err), QN_OK);
    double *padded = numbers(rows * p->C);
    memcpy(padded, p->w, (size_t)(p->V * p->C) * sizeof(*padded));
    char *x = calloc((size_t)(p->R * p->C) + 1, act), *w = calloc((size_t)(rows * p->C), res);
    char *dw = calloc((size_t)(rows * p->C), res), *dx = calloc((size_t)(p->R * p->C) + 1, res);
    char *part = calloc((size_t)(2 * p->R * p->C) + 1, res), *factor = calloc((size_t)p->R + 1, res);
    char *prob[MOST], *stats[MOST], *held[MOST], *packed[MOST];
    const void *all[MOST];
    double loss = 0;
    store(x, k->act, p->x, p->R * p->C);
    store(w, k->param, padded, rows * p->C);
    for (int32_t s = 0; s < shards; s++) {
        const int64_t first = s * O, n = qn_max64(0, qn_min64(O, p->V - first));
        prob[s] = calloc((size_t)(p->R * O) + 1, act);
        all[s] = stats[s] = calloc((size_t)(3 * p->R) + 1, res);
        held[s] = calloc((size_t)(2 * p->R * p->C) + 1, res);
        packed[s] = qn_alloc_pages(k->linear_packed_bytes(lin, QN_PACK_FORWARD | QN_PACK_BACKWARD));
        k->linear_pack(&ex, lin, packed[s], w + (size_t)(first * p->C) * res, QN_PACK_FORWARD | QN_PACK_BACKWARD);
        k->vocab_scores(&ex, lin, prob[s], stats[s], x, packed[s], p->target, first, n, p->R);
        if (algorithm == 1) continue;
        k->linear_backward_input(&ex, lin, held[s], prob[s], packed[s], p->R, false);
        k->range_gather(&ex, held[s] + (size_t)(p->R * p->C) * res, p->target, first, n, w + (size_t)(first * p->C) * res, p->R,
                        p->C);
    }
    for (int32_t s = 0; s < shards; s++) {
        const int64_t first = s * O, n = qn_max64(0, qn_min64(O, p->V - first));
        k->vocab_fold(factor, s == 0 ? &loss : NULL, all, shards, s, p->target, p->R);
        if (algorithm == 2) k->vocab_join(&ex, dx, held[s], factor, p->R, p->C, s > 0);
        k->vocab_scale(&ex, prob[s], factor, p->target, first, n, p->R, O);
        if (algorithm == 1) {
            k->linear_backward_input(&ex, lin, part, prob[s], packed[s], p->R, false);
            k->vocab_join(&ex, dx, part, NULL, p->R, p->C, s > 0);
        }
        k->linear_backward_weight(&ex, lin, dw + (size_t)(first * p->C) * res, NULL, prob[s], x, p->R);
    }
    const double off_loss = fabs(loss - p->loss) / fmax(1, fabs(p->loss)), off_dx = worst(dx, k->res, p->dx, p->R * p->C, 1),
                 off_dw = worst(dw, k->param, p->dw, p->V * p->C, 1);
    bool zero = true; /* padding learns nothing */
    for (int64_t i = p->V * p->C; i < rows * p->C; i++) zero = zero && at(dw, k->param, i) == 0;
    if (!(off_loss <= bound && off_dx <= bound && off_dw <= bound && zero))
        fail_msg("%s, algorithm %d, %d shards of %lld rows: loss off by %g, dx by %g, dw by %g, padding %s", k->name, algorithm,
                 shards, (long long)p->V, off_loss, off_dx, off_dw, zero ? "zero" : "moved");
    for (int32_t s = 0; s < shards; s++) {
        free(prob[s]);
        free(stats[s]);
        free(held[s]);
        qn_free_pages(packed[s], k->linear_packed_bytes(lin, QN_PACK_FORWARD | QN_PACK_BACKWARD));
    }
    char *const all_of[] = {x, w, dw, dx, part, factor};
    for (size_t i = 0; i < sizeof all_of / sizeof all_of[0]; i++) free(all_of[i]);
    free(padded);
    k->linear_close(lin);
    qn_arena_close(&scratch);
    if (ex.team != NULL) qn_team_close(ex.team);
}

static void both_algorithms(qn_mode mode, double bound)
{
    const qn_kernels *k;
    qn_err err;
    if (qn_kernels_get(&k, mode, &err) != QN_OK) {
        print_message("skipped: %s\n", err.text);
        skip();
    }
    for (int kind = 0; kind < 4; kind++) {
        const bool sharp = kind == 1;
        problem p = make(kind == 3 ? 0 : 70, 24, kind == 2 ? 5 : 137, sharp && mode != QN_MODE_BF16, kind == 0 ? 137 : 5);
        for (int32_t shards = 1; shards <= MOST; shards++)
            for (int algorithm = 1; algorithm <= 2; algorithm++) run_shards(k, &p, shards, algorithm, 1 + shards % 2, bound);
        destroy(&p);
    }
}

static void double_reference(void **unused)
{
    (void)unused;
    both_algorithms(QN_MODE_REF_F64, 1e-6);
}
static void float_reference(void **unused)
{
    (void)unused;
    both_algorithms(QN_MODE_REF_F32, 1e-6);
}
static void fast_float(void **unused)
{
    (void)unused;
    both_algorithms(QN_MODE_F32, 1e-6);
}
static void fast_bf16(void **unused)
{
    (void)unused;
    both_algorithms(QN_MODE_BF16, 1.0 / 128);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(double_reference), cmocka_unit_test(float_reference),
                                       cmocka_unit_test(fast_float), cmocka_unit_test(fast_bf16)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
