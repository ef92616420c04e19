/* Heap, fault counters, the no-allocation guard, arenas, checked arithmetic and the byte cursor. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "alloc.h"
#include "arena.h"
#include "checked.h"
#include "compiler.h"
#include "cursor.h"

static void sizes_that_overflow_are_refused(void **state)
{
    (void)state;
    assert_null(qn_malloc(SIZE_MAX, 2));
    assert_null(qn_calloc(SIZE_MAX / 2, 3));
    assert_null(qn_realloc(NULL, SIZE_MAX, SIZE_MAX));
    assert_null(qn_alloc_pages(SIZE_MAX));
    assert_null(qn_alloc_pages(SIZE_MAX - 4095));
    void *p = qn_malloc(0, 8);
    assert_non_null(p);
    qn_free(p);
}

static void the_nth_allocation_fails_once(void **state)
{
    (void)state;
    for (long n = 1; n <= 5; n++) {
        qni_fault_arm(QN_FAULT_ALLOC, n);
        for (long i = 1; i <= 8; i++) {
            void *p = i % 2 ? qn_malloc(1, 1) : (void *)qn_strdup("x");
            assert_true((p == NULL) == (i == n));
            qn_free(p);
        }
    }
    qni_fault_arm(QN_FAULT_ALLOC, 1);
    assert_null(qn_alloc_pages(1));
    qni_fault_arm(QN_FAULT_ALLOC, 3);
    qni_fault_arm(QN_FAULT_ALLOC, 0);
    for (int i = 0; i < 5; i++) {
        void *p = qn_calloc(1, 1);
        assert_non_null(p);
        qn_free(p);
    }
    assert_int_equal(qni_fault_hit(QN_FAULT_IO), 0);
    qni_fault_arm(QN_FAULT_MESSAGE, 2);
    assert_int_equal(qni_fault_hit(QN_FAULT_MESSAGE), 0);
    assert_int_equal(qni_fault_hit(QN_FAULT_MESSAGE), 1);
    assert_int_equal(qni_fault_hit(QN_FAULT_MESSAGE), 0);
}

static void the_guard_counts_allocations(void **state)
{
    (void)state;
    qni_no_alloc_begin();
    assert_int_equal(qni_no_alloc_end(), 0);
    qni_no_alloc_begin();
    void *p = qn_malloc(1, 1), *q = qn_alloc_pages(100);
    assert_int_equal(qni_no_alloc_end(), 2);
    qn_free(p);
    qn_free_pages(q, 100);
    p = qn_malloc(1, 1);
    qn_free(p);
    qni_no_alloc_begin();
    assert_int_equal(qni_no_alloc_end(), 0);
}

static void pages_are_zero_aligned_and_writable(void **state)
{
    static const size_t sizes[] = {0, 1, 4096, 4097, (2u << 20) - 1, 2u << 20, (2u << 20) + 1, 5u << 20};
    (void)state;
    for (size_t i = 0; i < QN_COUNT(sizes); i++) {
        unsigned char *p = qn_alloc_pages(sizes[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % (sizes[i] >= 2u << 20 ? 2u << 20 : 4096u), 0);
        for (size_t k = 0; k < sizes[i]; k += 511) assert_int_equal(p[k], 0);
        if (sizes[i] > 0) memset(p, 0xa5, sizes[i]);
        qn_free_pages(p, sizes[i]);
    }
    qn_free_pages(NULL, 10);
}

static void lay_out(qn_arena *a, void *out[4])
{
    out[0] = qn_arena_push(a, 3, 1, 1);
    out[1] = qn_arena_push(a, 5, 4, 64);
    out[2] = qn_arena_push(a, 0, 8, 8);
    out[3] = qn_arena_push(a, 7, 8, 4096);
}

static void a_probe_measures_what_the_arena_takes(void **state)
{
    qn_arena probe = QN_ARENA_PROBE, real, tight;
    void *none[4], *got[4];
    (void)state;
    lay_out(&probe, none);
    for (int i = 0; i < 4; i++) assert_null(none[i]);
    assert_false(probe.failed);
    assert_int_equal(qn_arena_open(&real, probe.used, NULL), QN_OK);
    lay_out(&real, got);
    assert_false(real.failed);
    assert_int_equal(real.used, probe.used);
    assert_int_equal((uintptr_t)got[1] % 64, 0);
    assert_int_equal((uintptr_t)got[3] % 4096, 0);
    memset(got[3], 1, 56);
    qn_arena_close(&real);
    assert_int_equal(qn_arena_open(&tight, probe.used - 1, NULL), QN_OK);
    lay_out(&tight, got);
    assert_true(tight.failed);
    qn_arena_close(&tight);
}

static void failed_and_sealed_pushes_stick(void **state)
{
    qn_arena a;
    (void)state;
    assert_int_equal(qn_arena_open(&a, 256, NULL), QN_OK);
    const size_t mark = qn_arena_mark(&a);
    assert_non_null(qn_arena_push(&a, 1, 200, 8));
    qn_arena_release(&a, mark);
    assert_int_equal(a.used, 0);
    assert_int_equal(a.peak, 200);
    assert_null(qn_arena_push(&a, SIZE_MAX / 2, 4, 8));
    assert_true(a.failed);
    assert_null(qn_arena_push(&a, 1, 1, 1));
    qn_arena_close(&a);
    assert_int_equal(qn_arena_open(&a, 256, NULL), QN_OK);
    qn_arena_seal(&a);
    assert_null(qn_arena_push(&a, 1, 1, 1));
    assert_true(a.failed);
    qn_arena_close(&a);
    qni_fault_arm(QN_FAULT_ALLOC, 1);
    qn_err err;
    assert_int_equal(qn_arena_open(&a, 256, &err), QN_ENOMEM);
    qn_arena_close(&a);
}

static void checked_arithmetic_at_its_borders(void **state)
{
    size_t s = 9;
    int64_t i = 9;
    (void)state;
    assert_false(qn_mul_size(&s, SIZE_MAX, 2));
    assert_false(qn_add_size(&s, SIZE_MAX, 1));
    assert_false(qn_align_size(&s, SIZE_MAX, 64));
    assert_int_equal(s, 9);
    assert_true(qn_align_size(&s, 65, 64));
    assert_int_equal(s, 128);
    assert_true(qn_add_size(&s, SIZE_MAX, 0));
    assert_false(qn_mul_i64(&i, INT64_MIN, -1));
    assert_int_equal(i, 9);
}

static void a_cursor_never_reads_past_the_end(void **state)
{
    static const uint8_t bytes[] = {1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x80, 0x3f, 0xff};
    (void)state;
    for (size_t n = 0; n <= sizeof(bytes); n++) {
        qn_cursor c = qn_cursor_of(bytes, n);
        const uint64_t x = qn_cursor_u64(&c);
        assert_true(x == (n >= 8 ? 0x0807060504030201u : 0));
        const float f = qn_cursor_f32(&c);
        assert_true(f == (n >= 12 ? 1.0f : 0.0f));
        assert_int_equal(c.failed, n < 12);
        assert_true(qn_cursor_u32(&c) == 0 && c.failed); /* sticks */
        assert_null(qn_cursor_take(&c, 0));
        assert_true(qn_cursor_left(&c) <= n);
    }
    qn_cursor c = qn_cursor_of(bytes, 4);
    assert_null(qn_cursor_take(&c, SIZE_MAX));
    c = qn_cursor_of(bytes, 4);
    assert_int_equal(qn_cursor_u32(&c), 0x04030201);
    assert_non_null(qn_cursor_take(&c, 0));
    assert_false(c.failed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_that_overflow_are_refused),       cmocka_unit_test(the_nth_allocation_fails_once),
        cmocka_unit_test(the_guard_counts_allocations),          cmocka_unit_test(pages_are_zero_aligned_and_writable),
        cmocka_unit_test(a_probe_measures_what_the_arena_takes), cmocka_unit_test(failed_and_sealed_pushes_stick),
        cmocka_unit_test(checked_arithmetic_at_its_borders),     cmocka_unit_test(a_cursor_never_reads_past_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
