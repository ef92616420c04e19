/* bf16 over its whole range, shapes and bundles at their borders. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "tensor.h"

static void every_bf16_survives_the_round_trip(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits <= 0xffff; bits++) {
        const float f = qn_bf16_to_f32((qn_bf16)bits);
        const qn_bf16 back = qn_f32_to_bf16(f);
        if (isnan(f))
            assert_true(isnan(qn_bf16_to_f32(back)));
        else
            assert_int_equal(back, bits);
    }
}

static float from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

/* Around every pair of neighbours: below the middle down, above it up, the middle itself to the even one. */
static void rounding_is_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x7f80; bits++) {
        const uint32_t low = bits << 16;
        for (uint32_t sign = 0; sign <= 0x8000; sign += 0x8000) {
            assert_int_equal(qn_f32_to_bf16(from_bits(low | 0x7fff | sign << 16)), bits | sign);
            assert_int_equal(qn_f32_to_bf16(from_bits(low | 0x8000 | sign << 16)), (bits + (bits & 1)) | sign);
            assert_int_equal(qn_f32_to_bf16(from_bits(low | 0x8001 | sign << 16)), (bits + 1) | sign);
        }
    }
    assert_int_equal(qn_f32_to_bf16(INFINITY), 0x7f80);
    assert_true(isnan(qn_bf16_to_f32(qn_f32_to_bf16(from_bits(0x7f800001))))); /* payload in the dropped half only */
    assert_true(isnan(qn_bf16_to_f32(qn_f32_to_bf16(from_bits(0xffffffff)))));
}

static void dtypes_have_sizes_and_names(void **state)
{
    static const size_t bytes[QN_DTYPES] = {4, 2, 8, 2, 4, 2, 1};
    (void)state;
    for (int dt = 0; dt < QN_DTYPES; dt++) {
        assert_int_equal(qn_dtype_bytes((qn_dtype)dt), bytes[dt]);
        for (int other = 0; other < dt; other++)
            assert_string_not_equal(qn_dtype_name((qn_dtype)dt), qn_dtype_name((qn_dtype)other));
    }
    assert_string_equal(qn_dtype_name(QN_DTYPES), "unknown");
}

static void shapes_count_or_refuse(void **state)
{
    int64_t n = -1;
    (void)state;
    assert_true(qn_shape_count(&n, &(qn_shape){.rank = 0}));
    assert_int_equal(n, 1);
    assert_true(qn_shape_count(&n, &(qn_shape){.rank = 3, .dim = {2, 0, 5}}));
    assert_int_equal(n, 0);
    n = -1;
    assert_false(qn_shape_count(&n, &(qn_shape){.rank = 2, .dim = {3, -1}}));
    assert_false(qn_shape_count(&n, &(qn_shape){.rank = 2, .dim = {INT64_MAX, 2}}));
    assert_false(qn_shape_count(&n, &(qn_shape){.rank = 7}));
    assert_false(qn_shape_count(&n, &(qn_shape){.rank = -1}));
    assert_int_equal(n, -1);
}

static qn_bundle two_parts(void)
{
    return (qn_bundle){.parts = 2,
                       .part = {{.name = "x", .dtype = QN_F32, .shape = {.rank = 2, .dim = {3, 5}}, .rows = 3},
                                {.name = "mask", .dtype = QN_U8, .shape = {.rank = 1, .dim = {3}}, .rows = 0}}};
}

static void bundles_are_laid_out_and_checked(void **state)
{
    const qn_bundle plan = two_parts();
    size_t bytes;
    qn_err err;
    (void)state;
    assert_true(qn_bundle_bytes(&bytes, &plan));
    assert_int_equal(bytes, 128);
    assert_int_equal(qn_bundle_offset(&plan, 0), 0);
    assert_int_equal(qn_bundle_offset(&plan, 1), 64);
    assert_int_equal(qn_bundle_check(&plan, &plan, &err), QN_OK);
    qn_bundle bad[8];
    for (int i = 0; i < 8; i++) bad[i] = two_parts();
    bad[0].parts = 1;
    bad[1].parts = 1 << 30;
    bad[2].part[1].name[0] = 'M';
    bad[3].part[0].dtype = QN_BF16;
    bad[4].part[0].dtype = (qn_dtype)99;
    bad[5].part[0].shape.dim[1] = 6;
    bad[6].part[0].rows = 4;
    bad[7].part[1].rows = -1;
    for (int i = 0; i < 8; i++) {
        assert_int_equal(qn_bundle_check(&bad[i], &plan, &err), QN_EFORMAT);
        assert_true(strlen(err.text) > 20);
    }
    qn_bundle huge = two_parts();
    huge.part[0].shape.dim[0] = INT64_MAX / 5;
    assert_false(qn_bundle_bytes(&bytes, &huge));
    huge.parts = QN_BUNDLE_MAX + 1;
    assert_false(qn_bundle_bytes(&bytes, &huge));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_bf16_survives_the_round_trip), cmocka_unit_test(rounding_is_to_nearest_even),
        cmocka_unit_test(dtypes_have_sizes_and_names),        cmocka_unit_test(shapes_count_or_refuse),
        cmocka_unit_test(bundles_are_laid_out_and_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
