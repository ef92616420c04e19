/* Fast attention of every instruction set of this machine against the reference in double, and equal bits for any number of
 * threads and of rows in a call.
 *
 * Bound: inputs below 1 in magnitude, so a score is off by at most s = (D + 4) eps scale D and p by p (2 s + (T + 16) eps), which
 * over a row sums to e = 2 s + (T + 16) eps; o is off by e, and by (T + 2) eps for its own sum. A gradient is a sum over at
 * most G T terms ds x with |ds| <= p 2 D scale g, where g bounds dO; in bf16 o itself is off by 2^-8, which moves delta by D
 * 2^-8. Where products take bf16 operands, p, ds and dO are each off by r = 2^-9 of themselves besides. */
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
#include "core/checked.h"
#include "fast.h"

QN_ATTENTION_ENTRIES(QN_ENTRY_DECLARE, ref_f64)

typedef struct isa {
    const char *name;
    bool bf16;
    QN_TYPEOF(((qn_kernels *)0)->attention_scratch) scratch;
    QN_TYPEOF(((qn_kernels *)0)->attention_forward) forward;
    QN_TYPEOF(((qn_kernels *)0)->attention_backward) backward;
    QN_TYPEOF(((qn_kernels *)0)->attention_infer) infer;
} isa;

#define SET(act, set)                                                                                                            \
    {                                                                                                                            \
#act "/" #set, sizeof(#act) == 5, qni_attention_scratch_##act##_##set, qni_attention_forward_##act##_##set,              \
            qni_attention_backward_##act##_##set, qni_attention_infer_##act##_##set                                              \
    }

static const isa sets[] = {
    SET(f32, portable), SET(bf16, portable),
#if defined(__x86_64__)
    SET(f32, avx2),     SET(bf16, avx2),     SET(f32, avx512), SET(bf16, avx512), SET(bf16, avx512_bf16),
#endif
};

/* Multiplies operands rounded to bf16. */
static bool is_dot(const isa *s)
{
    return strstr(s->name, "avx512_bf16") != NULL;
}

static bool usable(const isa *s)
{
#if defined(__x86_64__)
    if (strstr(s->name, "avx2") != NULL) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (is_dot(s) && !__builtin_cpu_supports("avx512bf16")) return false;
    if (strstr(s->name, "avx512") != NULL) return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#endif
    return true;
}

enum { SEED = 11, GUARD = 8 };
enum { Q = 1, K, V, DO, O, LSE, DQ, DK, DV, ARRAYS };

static uint32_t state = SEED;

static float draw(void)
{
    state = state * 1664525u + 1013904223u;
    return (float)((int)(state >> 8) % 255 - 127) / 128;
}

/* The arrays of one problem: in double for the reference, and as the kernels take them, with guard elements at the end. */
typedef struct problem {
    qn_attention_shape s;
    const isa *set;
    int64_t n[ARRAYS];
    double *plain[ARRAYS];
    void *fast[ARRAYS];
} problem;

static bool is_act(const problem *p, int i)
{
    return p->set->bf16 && i != DO && i != LSE;
}

static double get(const problem *p, int i, int64_t j)
{
    return is_act(p, i) ? (double)qn_bf16_to_f32(((const qn_bf16 *)p->fast[i])[j]) : (double)((const float *)p->fast[i])[j];
}

static void put(problem *p, int i, int64_t j, float x)
{
    if (is_act(p, i))
        ((qn_bf16 *)p->fast[i])[j] = qn_f32_to_bf16(x);
    else
        ((float *)p->fast[i])[j] = x;
}

static problem problem_new(const isa *set, int64_t B, int64_t T, int64_t H, int64_t heads_kv, int64_t D, int64_t gap, float scale)
{
    problem p = {.set = set, .s = {.B = B, .T = T, .H = H, .K = heads_kv, .D = D, .scale = (double)scale / sqrt((double)D)}};
    p.s.ldq = H * D + gap;
    p.s.ldk = heads_kv * D + 2 * gap;
    p.s.ldv = heads_kv * D + gap;
    p.s.ldo = H * D + 3 * gap;
    const int64_t ld[ARRAYS] = {0, p.s.ldq, p.s.ldk, p.s.ldv, p.s.ldo, p.s.ldo, H, p.s.ldq, p.s.ldk, p.s.ldv};
    const int first = Q;
    for (int i = first; i < ARRAYS; i++) {
        p.n[i] = B * T * ld[i];
        p.plain[i] = calloc((size_t)p.n[i] + GUARD, sizeof(double));
        p.fast[i] = calloc((size_t)p.n[i] + GUARD, sizeof(float));
        assert_true(p.plain[i] != NULL && p.fast[i] != NULL);
        for (int64_t j = 0; j < p.n[i] + GUARD; j++) {
            put(&p, i, j, i <= DO ? draw() : 77);
            p.plain[i][j] = get(&p, i, j);
        }
    }
    return p;
}

static void problem_free(problem *p)
{
    for (int i = Q; i < ARRAYS; i++) {
        for (int64_t j = p->n[i]; j < p->n[i] + GUARD; j++) assert_true(p->plain[i][j] == get(p, i, j));
        free(p->plain[i]);
        free(p->fast[i]);
    }
}

static void run_fast(problem *p, int32_t threads, bool backward)
{
    qn_team *team;
    qn_arena scratch;
    assert_int_equal(qn_team_open(&team, threads, -1, NULL), QN_OK);
    assert_int_equal(qn_arena_open(&scratch, p->set->scratch(&p->s, threads), NULL), QN_OK);
    const qn_exec ex = {team, &scratch};
    void **a = p->fast;
    qni_no_alloc_begin();
    p->set->forward(&ex, a[O], a[LSE], a[Q], a[K], a[V], &p->s);
    if (backward) p->set->backward(&ex, a[DQ], a[DK], a[DV], a[DO], a[O], a[LSE], a[Q], a[K], a[V], &p->s);
    assert_int_equal(qni_no_alloc_end(), 0);
    assert_int_equal(scratch.used, 0);
    qn_team_close(team);
    qn_arena_close(&scratch);
}

static void run_plain(problem *p)
{
    qn_arena scratch;
    assert_int_equal(qn_arena_open(&scratch, qni_attention_scratch_ref_f64(&p->s, 1), NULL), QN_OK);
    const qn_exec ex = {NULL, &scratch};
    double **a = p->plain;
    qni_attention_forward_ref_f64(&ex, a[O], a[LSE], a[Q], a[K], a[V], &p->s);
    qni_attention_backward_ref_f64(&ex, a[DQ], a[DK], a[DV], a[DO], a[O], a[LSE], a[Q], a[K], a[V], &p->s);
    qn_arena_close(&scratch);
}

static void compare(const problem *p, int i, double bound)
{
    static const char *const names[ARRAYS] = {[O] = "o", [LSE] = "lse", [DQ] = "dq", [DK] = "dk", [DV] = "dv"};
    for (int64_t j = 0; j < p->n[i]; j++) {
        const double want = p->plain[i][j], got = get(p, i, j), room = bound + (is_act(p, i) ? fabs(want) / 256 : 0);
        if (!(fabs(got - want) <= room))
            fail_msg("%s of %s at %lld: got %.9g, want %.9g within %.3g (T %lld, H %lld, K %lld, D %lld)", names[i], p->set->name,
                     (long long)j, got, want, room, (long long)p->s.T, (long long)p->s.H, (long long)p->s.K, (long long)p->s.D);
    }
}

static void one_shape(const isa *set, int64_t B, int64_t T, int64_t H, int64_t heads_kv, int64_t D, int64_t gap)
{
    problem p = problem_new(set, B, T, H, heads_kv, D, gap, 1);
    run_fast(&p, 1 + (int32_t)(T % 3), true);
    run_plain(&p);
    const double d = (double)D, t = (double)T, g = (double)(H / heads_kv), scale = p.s.scale;
    const double score = (d + 4) * FLT_EPSILON * scale * d, row = 2 * score + (t + 16) * FLT_EPSILON;
    const double r = is_dot(set) ? 0x1p-9 : 0;
    const double o = row + r + (t + 2) * FLT_EPSILON, delta = set->bf16 ? d / 256 : d * o;
    const double grad = scale * (2 * d * (row + r + (d + 4) * FLT_EPSILON) + d * r + delta); /* of a row's sum of ds */
    compare(&p, O, o);
    compare(&p, LSE, row);
    compare(&p, DQ, grad + (t + 2) * FLT_EPSILON * 2 * d * scale);
    compare(&p, DK, g * t * (grad + (t * g + 2) * FLT_EPSILON * 2 * d * scale));
    compare(&p, DV, g * t * (row + 2 * r + (t * g + 2) * FLT_EPSILON));
    problem_free(&p);
}

static void matches_the_reference(void **unused)
{
    (void)unused;
    static const int64_t shapes[][6] = {{1, 1, 1, 1, 1, 0},    {2, 3, 2, 1, 5, 1},     {1, 17, 2, 2, 16, 0},
                                        {1, 63, 1, 1, 64, 3},  {2, 64, 4, 2, 24, 0},   {1, 65, 6, 2, 8, 7},
                                        {1, 96, 3, 1, 80, 0},  {1, 130, 2, 2, 64, 16}, {1, 200, 4, 1, 33, 0},
                                        {1, 70, 2, 1, 256, 0}, {0, 5, 2, 1, 8, 0},     {3, 0, 2, 1, 8, 0}};
    print_message("seed %d\n", SEED);
    for (size_t k = 0; k < QN_COUNT(sets); k++) {
        if (!usable(&sets[k])) continue;
        for (size_t i = 0; i < QN_COUNT(shapes); i++) {
            const int64_t *s = shapes[i];
            one_shape(&sets[k], s[0], s[1], s[2], s[3], s[4], s[5]);
        }
    }
}

static void every_length_matches(void **unused)
{
    (void)unused;
    for (size_t k = 0; k < QN_COUNT(sets); k++)
        for (int64_t T = 1; T <= 130 && usable(&sets[k]); T++) one_shape(&sets[k], 1, T, 2, 1, 16, 0);
}

static void threads_give_the_same_bits(void **unused)
{
    (void)unused;
    for (size_t k = 0; k < QN_COUNT(sets); k++) {
        if (!usable(&sets[k])) continue;
        problem p = problem_new(&sets[k], 2, 77, 6, 3, 40, 0, 4);
        void *first[ARRAYS] = {NULL};
        run_fast(&p, 1, true);
        for (int i = O; i < ARRAYS; i++) {
            first[i] = malloc((size_t)p.n[i] * sizeof(float));
            memcpy(first[i], p.fast[i], (size_t)p.n[i] * (is_act(&p, i) ? 2 : 4));
        }
        for (int32_t threads = 2; threads <= 9; threads++) { /* beyond 6 a group's heads are split in the forward */
            run_fast(&p, threads, true);
            for (int i = O; i < ARRAYS; i++) assert_memory_equal(first[i], p.fast[i], (size_t)p.n[i] * (is_act(&p, i) ? 2 : 4));
        }
        for (int i = O; i < ARRAYS; i++) free(first[i]);
        problem_free(&p);
    }
}

/* A sequence through attention_infer, cut into chunks of chunk rows, against the same rows of one forward call. */
static void check_infer(problem *p, int64_t chunk, int32_t threads)
{
    const size_t bytes = p->set->bf16 ? 2 : 4;
    const int64_t T = p->s.T, width = p->s.H * p->s.D;
    char *o = calloc((size_t)(T * width), sizeof(float));
    qn_team *team;
    qn_arena scratch;
    qn_attention_shape s = p->s;
    assert_non_null(o);
    assert_int_equal(qn_team_open(&team, threads, -1, NULL), QN_OK);
    s.T = chunk;
    assert_int_equal(qn_arena_open(&scratch, p->set->scratch(&s, threads), NULL), QN_OK);
    const qn_exec ex = {team, &scratch};
    for (int64_t P = 0; P < T; P += chunk) {
        s.T = qn_min64(chunk, T - P);
        p->set->infer(&ex, o + (size_t)(P * width) * bytes, (const char *)p->fast[Q] + (size_t)(P * width) * bytes, p->fast[K],
                      p->fast[V], &s, P);
    }
    assert_memory_equal(o, p->fast[O], (size_t)(T * width) * bytes);
    qn_team_close(team);
    qn_arena_close(&scratch);
    free(o);
}

static void rows_give_the_same_bits_in_any_chunk(void **unused)
{
    (void)unused;
    static const int64_t chunks[] = {1, 2, 7, 8, 13, 64, 65, 140, 150};
    for (size_t k = 0; k < QN_COUNT(sets); k++) {
        if (!usable(&sets[k])) continue;
        problem p = problem_new(&sets[k], 1, 150, 4, 2, 24, 0, 3);
        run_fast(&p, 1, false);
        for (size_t i = 0; i < QN_COUNT(chunks); i++) check_infer(&p, chunks[i], 1 + (int32_t)(i % 3));
        problem_free(&p);
    }
}

static void huge_scores_stay_finite(void **unused)
{
    (void)unused;
    for (size_t k = 0; k < QN_COUNT(sets); k++) {
        if (!usable(&sets[k])) continue;
        problem p = problem_new(&sets[k], 1, 90, 2, 1, 32, 0, 0x1p100f);
        run_fast(&p, 2, true);
        for (int64_t j = 0; j < p.n[O]; j++) assert_true(isfinite(get(&p, O, j)));
        for (int64_t j = 0; j < p.n[DV]; j++) assert_true(isfinite(get(&p, DV, j)));
        problem_free(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_the_reference),      cmocka_unit_test(every_length_matches),
        cmocka_unit_test(threads_give_the_same_bits), cmocka_unit_test(rows_give_the_same_bits_in_any_chunk),
        cmocka_unit_test(huge_scores_stay_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
