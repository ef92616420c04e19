/* Known answers of Philox4x32-10 (the vectors distributed with Random123), and the properties of the streams on it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "compiler.h"
#include "rng.h"

static void known_answers(void **state)
{
    static const struct {
        uint32_t counter[4], key[2], want[4];
    } vectors[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    (void)state;
    for (size_t i = 0; i < QN_COUNT(vectors); i++) {
        uint32_t got[4];
        qn_philox(got, vectors[i].counter, vectors[i].key);
        assert_memory_equal(got, vectors[i].want, sizeof(got));
    }
}

/* Each field of the key changes the stream, and a block does not depend on what was drawn before. */
static void fields_give_different_streams(void **state)
{
    const qn_rng_key base = {.seed = 7, .step = 3, .sample = 5, .layer = 2, .op = 1};
    qn_rng_key key[7] = {base, base, base, base, base, base, base};
    uint32_t word[7][4], again[4];
    (void)state;
    key[1].seed++;
    key[2].seed += (uint64_t)1 << 32;
    key[3].step++;
    key[4].sample++;
    key[5].layer++;
    key[6].op++;
    for (int i = 0; i < 7; i++) {
        qn_rng_block(word[i], &key[i], 9);
        for (int j = 0; j < i; j++) assert_memory_not_equal(word[i], word[j], sizeof(word[i]));
    }
    qn_rng r = qn_rng_of(base);
    for (int i = 0; i < 36; i++) (void)qn_rng_u32(&r);
    for (int i = 0; i < 4; i++) again[i] = qn_rng_u32(&r);
    assert_memory_equal(again, word[0], sizeof(again));
}

static void unit_and_normal_have_their_moments(void **state)
{
    enum { N = 200000 };
    double sum = 0, normal = 0, square = 0, least = 1, most = 0;
    qn_rng r = qn_rng_of((qn_rng_key){.seed = 42});
    (void)state;
    printf("seed 42, %d draws\n", N);
    for (int i = 0; i < N; i++) {
        const double u = qn_rng_unit(&r), z = qn_rng_normal(&r);
        assert_true(u >= 0 && u < 1 && isfinite(z));
        sum += u;
        normal += z;
        square += z * z;
        if (u < least) least = u;
        if (u > most) most = u;
    }
    assert_true(least < 1e-3 && most > 1 - 1e-3);
    assert_true(fabs(sum / N - 0.5) < 5 * sqrt(1.0 / 12 / N)); /* five standard errors */
    assert_true(fabs(normal / N) < 5 * sqrt(1.0 / N));
    assert_true(fabs(square / N - 1) < 5 * sqrt(2.0 / N));
}

static void below_is_uniform_and_in_range(void **state)
{
    enum { N = 70000 };
    static const uint64_t large[] = {1, 2, 3, (uint64_t)1 << 63, UINT64_MAX, ((uint64_t)1 << 63) + 1};
    qn_rng r = qn_rng_of((qn_rng_key){.seed = 1});
    int count[7] = {0};
    (void)state;
    for (size_t i = 0; i < QN_COUNT(large); i++) {
        for (int k = 0; k < 1000; k++) assert_true(qn_rng_below(&r, large[i]) < large[i]);
    }
    for (int i = 0; i < N; i++) count[qn_rng_below(&r, 7)]++;
    for (int i = 0; i < 7; i++) assert_true(abs(count[i] - N / 7) < 5 * sqrt(N / 7.0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers),
        cmocka_unit_test(fields_give_different_streams),
        cmocka_unit_test(unit_and_normal_have_their_moments),
        cmocka_unit_test(below_is_uniform_and_in_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
