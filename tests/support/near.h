/* Helpers of kernel tests: seeded numbers, arrays between guard words, comparison within a bound, teams of 1 to 3 threads.
 * Header only; a test executable includes it once. */
#ifndef QN_TESTS_NEAR_H
#define QN_TESTS_NEAR_H

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/compiler.h"
#include "core/rng.h"
#include "core/team.h"
#include "core/tensor.h"

/* QUERN_TEST_SEED or 1; printed once. */
QN_UNUSED static uint64_t near_seed(void)
{
    static uint64_t seed;
    if (seed == 0) {
        const char *text = getenv("QUERN_TEST_SEED");
        seed = text != NULL ? strtoull(text, NULL, 10) : 1;
        if (seed == 0) seed = 1;
        print_message("seed %llu\n", (unsigned long long)seed);
    }
    return seed;
}

/* Uniform in [low, high): number i of stream op. */
QN_UNUSED static double near_uniform(uint16_t op, uint32_t i, double low, double high)
{
    const qn_rng_key key = {.seed = near_seed(), .op = op};
    uint32_t word[4];
    qn_rng_block(word, &key, i / 4);
    return low + (high - low) * (word[i % 4] * 0x1p-32);
}

/* --- an array between guards, in one of the element types, with the same values as float beside it */
enum { NEAR_GUARD = 128 }; /* bytes on each side, all ones: NaN in every type */

typedef struct near_array {
    qn_dtype type;
    int64_t n;
    void *p;     /* n elements of type */
    float *f;    /* the same values, or what a reference says they should be */
    void *start; /* what near_rewind puts back */
    unsigned char *raw;
} near_array;

QN_UNUSED static size_t near_bytes(const near_array *a)
{
    return (size_t)a->n * qn_dtype_bytes(a->type);
}

QN_UNUSED static double near_get(const near_array *a, int64_t i)
{
    return a->type == QN_F32 ? ((const float *)a->p)[i] : (double)qn_bf16_to_f32(((const qn_bf16 *)a->p)[i]);
}

QN_UNUSED static void near_rewind(near_array *a)
{
    memcpy(a->p, a->start, near_bytes(a));
}

/* Filled with numbers in [low, high) of stream op, rounded to the type. */
QN_UNUSED static near_array near_open(qn_dtype type, int64_t n, uint16_t op, double low, double high)
{
    near_array a = {.type = type, .n = n};
    const size_t bytes = near_bytes(&a);
    a.raw = malloc(bytes + 2 * NEAR_GUARD);
    a.start = malloc(bytes + 1);
    a.f = malloc((size_t)n * sizeof(float) + 1);
    assert_true(a.raw != NULL && a.start != NULL && a.f != NULL);
    memset(a.raw, 0xff, bytes + 2 * NEAR_GUARD);
    a.p = a.raw + NEAR_GUARD;
    for (int64_t i = 0; i < n; i++) {
        const float v = (float)near_uniform(op, (uint32_t)i, low, high);
        if (type == QN_F32)
            ((float *)a.p)[i] = v;
        else
            ((qn_bf16 *)a.p)[i] = qn_f32_to_bf16(v);
        a.f[i] = (float)near_get(&a, i);
    }
    memcpy(a.start, a.p, bytes);
    return a;
}

/* Fails when a guard was written. */
QN_UNUSED static void near_check_guards(const near_array *a, const char *what)
{
    const size_t bytes = near_bytes(a);
    for (size_t i = 0; i < NEAR_GUARD; i++)
        if (a->raw[i] != 0xff || a->raw[NEAR_GUARD + bytes + i] != 0xff)
            fail_msg("%s: written outside its %lld elements, near byte %zu of a guard", what, (long long)a->n, i);
}

QN_UNUSED static void near_close(near_array *a)
{
    free(a->raw);
    free(a->start);
    free(a->f);
    *a = (near_array){0};
}

/* got within bound of want; both NaN or both the same infinity also agree. */
QN_UNUSED static bool near_within(double got, double want, double bound)
{
    if (isnan(want) || isnan(got)) return isnan(want) && isnan(got);
    if (isinf(want) || isinf(got)) return got == want;
    return fabs(got - want) <= bound;
}

/* The half unit in the last place that storing v in the type may cost, doubled for values on a border. */
QN_UNUSED static double near_rounding(qn_dtype type, double v)
{
    return fabs(v) * (type == QN_BF16 ? 0x1p-8 : 0x1p-23);
}

/* --- executors with 1, 2 and 3 threads and 1 MiB of scratch each */
enum { NEAR_TEAMS = 3 };
typedef struct near_teams {
    qn_exec ex[NEAR_TEAMS];
    qn_arena scratch[NEAR_TEAMS];
} near_teams;

QN_UNUSED static void near_teams_open(near_teams *t)
{
    for (int i = 0; i < NEAR_TEAMS; i++) {
        assert_int_equal(qn_arena_open(&t->scratch[i], 1 << 20, NULL), QN_OK);
        t->ex[i] = (qn_exec){.scratch = &t->scratch[i]};
        assert_int_equal(qn_team_open(&t->ex[i].team, i + 1, -1, NULL), QN_OK);
    }
}

QN_UNUSED static void near_teams_close(near_teams *t)
{
    for (int i = 0; i < NEAR_TEAMS; i++) {
        qn_team_close(t->ex[i].team);
        qn_arena_close(&t->scratch[i]);
    }
}

#endif
