/* Which table qn_kernels_get hands out. */
#include "support/near.h"

#include "kernels/kernels.h"

static void references_always_there(void **state)
{
    (void)state;
    const qn_kernels *k;
    setenv("QUERN_ISA", "portable", 1);
    assert_int_equal(qn_kernels_get(&k, QN_MODE_REF_F32, NULL), QN_OK);
    assert_string_equal(k->name, "f32/reference");
    assert_true(k->act == QN_F32 && k->res == QN_F32 && k->param == QN_F32);
    assert_int_equal(qn_kernels_get(&k, QN_MODE_REF_F64, NULL), QN_OK);
    assert_true(k->act == QN_F64 && k->res == QN_F64 && k->param == QN_F64);
}

static void isa_can_be_named(void **state)
{
    (void)state;
    static const char *const isas[] = {"portable", "avx2", "avx512", "avx512_bf16"};
    for (size_t i = 0; i < QN_COUNT(isas); i++) {
        const qn_kernels *k;
        qn_err err;
        char name[32];
        setenv("QUERN_ISA", isas[i], 1);
        if (qn_kernels_get(&k, QN_MODE_F32, &err) != QN_OK) {
            assert_int_not_equal(i, 0);
            assert_int_equal(err.code, QN_EUNSUPPORTED);
            assert_non_null(strstr(err.text, isas[i]));
            continue;
        }
        assert_string_equal(qn_kernels_isa(), isas[i]);
        snprintf(name, sizeof(name), "f32/%s", isas[i]);
        assert_string_equal(k->name, name);
        assert_true(k->mode == QN_MODE_F32 && k->act == QN_F32);
    }
}

static void unknown_isa_is_refused(void **state)
{
    (void)state;
    const qn_kernels *k;
    qn_err err;
    setenv("QUERN_ISA", "abacus", 1);
    assert_int_equal(qn_kernels_get(&k, QN_MODE_F32, &err), QN_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "abacus"));
    assert_string_equal(qn_kernels_isa(), "none");
}

/* The best set is the last in the list that the machine has. */
static void best_isa_by_default(void **state)
{
    (void)state;
    const qn_kernels *k;
    unsetenv("QUERN_ISA");
    assert_int_equal(qn_kernels_get(&k, QN_MODE_F32, NULL), QN_OK);
    const char *best = qn_kernels_isa();
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        assert_string_equal(best, __builtin_cpu_supports("avx512bf16") ? "avx512_bf16" : "avx512");
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        assert_string_equal(best, "avx2");
    else
        assert_string_equal(best, "portable");
#else
    assert_string_equal(best, "portable");
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(references_always_there),
        cmocka_unit_test(isa_can_be_named),
        cmocka_unit_test(unknown_isa_is_refused),
        cmocka_unit_test(best_isa_by_default),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
