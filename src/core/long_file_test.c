/* Files longer than a buffer: what the writer's thread writes and the reader's thread reads, in pieces of every kind, and that
 * the n-th failing call, for every n, loses nothing and is told. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "compiler.h"
#include "io.h"
#include "rng.h"

enum { PATH = 512, PIECE = 4 << 20 };
static const size_t LONG = (size_t)5 * PIECE + 12345; /* more pieces than there are buffers */

static char folder[PATH], path[PATH + 8], tmp[PATH + 16];
static uint8_t *bytes;

static int set_up(void **state)
{
    const char *above = getenv("QUERN_TEST_TMP");
    (void)state;
    snprintf(folder, sizeof(folder), "%s/long_file_test_%ld", above != NULL ? above : ".", (long)getpid());
    snprintf(path, sizeof(path), "%s/file", folder);
    snprintf(tmp, sizeof(tmp), "%s.tmp", path);
    bytes = malloc(LONG);
    uint32_t x = 1;
    for (size_t i = 0; bytes != NULL && i < LONG; i++) bytes[i] = (uint8_t)((x = x * 1664525u + 1013904223u) >> 24);
    return bytes == NULL || qn_make_dirs(folder, NULL) != QN_OK;
}

static int tear_down(void **state)
{
    (void)state;
    free(bytes);
    return qn_remove_tree(folder, NULL) != QN_OK;
}

static int holds(size_t n)
{
    char *got;
    size_t found;
    if (qn_file_read(&got, &found, path, SIZE_MAX, NULL) != QN_OK) return 0;
    const int same = found == n && memcmp(got, bytes, n) == 0;
    qn_free(got);
    return same;
}

/* Every size around a buffer's end, given in pieces, or filled in. */
static void what_is_written_is_there(void **state)
{
    static const size_t size[] = {65535, 65537, PIECE - 1, PIECE, PIECE + 1, PIECE + 4096, 2 * PIECE + 4097, 4 * PIECE};
    (void)state;
    for (size_t i = 0; i <= QN_COUNT(size); i++) {
        const size_t n = i < QN_COUNT(size) ? size[i] : LONG;
        for (int fill = 0; fill < 2; fill++) {
            qn_writer *w;
            size_t at = 0;
            assert_int_equal(qn_writer_open(&w, path, NULL), QN_OK);
            for (size_t step = 1; at < n; step = step * 5 % 3000001 + 1) {
                size_t room = n, take = step < n - at ? step : n - at;
                void *to = fill ? qn_writer_room(w, &room) : NULL;
                assert_true(room > 0);
                if (take > room) take = room;
                if (fill) {
                    assert_int_equal((uintptr_t)to % 64, at % 64);
                    memcpy(to, bytes + at, take);
                    qn_writer_filled(w, take);
                } else {
                    qn_writer_put(w, bytes + at, take);
                }
                at += take;
            }
            assert_int_equal(qn_writer_commit(w, NULL), QN_OK);
            if (!holds(n)) fail_msg("%zu bytes, %s", n, fill ? "filled" : "put");
        }
    }
}

static void an_aborted_write_leaves_the_old_file(void **state)
{
    (void)state;
    assert_int_equal(qn_file_write(path, bytes, 100, NULL), QN_OK);
    for (size_t n = 0; n <= LONG; n += LONG / 3) {
        qn_writer *w;
        assert_int_equal(qn_writer_open(&w, path, NULL), QN_OK);
        qn_writer_put(w, bytes, n);
        qn_writer_abort(w);
        assert_true(holds(100));
        assert_int_equal(qn_path_exists(tmp), 0);
    }
}

static void the_nth_failure_of_a_write_loses_nothing(void **state)
{
    int failures = 0, new_ones = 0;
    (void)state;
    for (long n = 1;; n++) {
        qn_err err;
        assert_int_equal(qn_file_write(path, bytes, 1000, NULL), QN_OK);
        qni_fault_arm(QN_FAULT_IO, n);
        const qn_status st = qn_file_write(path, bytes, LONG, &err);
        qni_fault_arm(QN_FAULT_IO, 0);
        assert_int_equal(qn_path_exists(tmp), 0);
        if (st == QN_OK) break;
        assert_int_equal(st, QN_EIO);
        assert_true(holds(1000) || holds(LONG));
        new_ones += holds(LONG);
        failures++;
    }
    printf("%d failing events, the old file kept in %d of them\n", failures, failures - new_ones);
    assert_true(failures >= 9 && new_ones == 1); /* 5 pieces, the rest in two parts, sync, rename, sync of the directory */
    for (long n = 1; n <= 4; n++) {
        assert_int_equal(qn_file_write(path, bytes, 1000, NULL), QN_OK);
        qni_fault_arm(QN_FAULT_ALLOC, n);
        assert_int_equal(qn_file_write(path, bytes, LONG, NULL), QN_ENOMEM);
        qni_fault_arm(QN_FAULT_ALLOC, 0);
        assert_true(holds(1000));
        assert_int_equal(qn_path_exists(tmp), 0);
    }
}

/* Parts of random lengths anywhere, from the cache and past it, and one at the very end. */
static void what_is_read_is_the_file(void **state)
{
    qn_rng rng = qn_rng_of((qn_rng_key){.seed = 3});
    const size_t most = 3 * PIECE, room_bytes = qn_reader_room(most);
    void *room = qn_alloc_pages(room_bytes);
    (void)state;
    assert_non_null(room);
    printf("seed 3\n");
    for (int round = 0; round < 4; round++) {
        const size_t n = round == 0 ? 5000 : LONG - (size_t)round * 511;
        const void *got;
        qn_reader *r;
        assert_int_equal(qn_file_write(path, bytes, n, NULL), QN_OK);
        if (round == 2) assert_true(holds(n)); /* now the cache has it */
        assert_int_equal(qn_reader_open(&r, path, NULL), QN_OK);
        for (int i = 0; i < 40; i++) {
            const size_t at = i == 0 ? n - 1 : (size_t)qn_rng_below(&rng, n), left = n - at;
            const size_t want = (size_t)qn_rng_below(&rng, i % 4 == 0 ? most : 10000) + 1, take = want < left ? want : left;
            assert_int_equal(qn_reader_get(&got, r, room, at, take, NULL), QN_OK);
            assert_int_equal((uintptr_t)got % 4096, at % 4096);
            if (memcmp(got, bytes + at, take) != 0) fail_msg("round %d: %zu bytes at %zu", round, take, at);
        }
        qn_reader_close(r);
    }
    qn_free_pages(room, room_bytes);
}

static void what_cannot_be_read_is_told(void **state)
{
    const size_t room_bytes = qn_reader_room(PIECE);
    void *room = qn_alloc_pages(room_bytes);
    const void *got;
    qn_reader *r;
    qn_err err;
    (void)state;
    assert_non_null(room);
    assert_int_equal(qn_reader_open(&r, "no/such/file", &err), QN_ENOENT);
    assert_int_equal(qn_reader_open(&r, folder, &err), QN_EIO);
    assert_int_equal(qn_file_write(path, bytes, LONG, NULL), QN_OK);
    for (long n = 1; n <= 2; n++) {
        qni_fault_arm(QN_FAULT_ALLOC, n);
        assert_int_equal(qn_reader_open(&r, path, &err), QN_ENOMEM);
        qni_fault_arm(QN_FAULT_ALLOC, 0);
    }
    assert_int_equal(qn_reader_open(&r, path, &err), QN_OK);
    assert_int_equal(qn_reader_get(&got, r, room, LONG - 10, 11, &err), QN_ERANGE);
    assert_int_equal(qn_reader_get(&got, r, room, LONG + 1, 0, &err), QN_ERANGE);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(qn_reader_get(&got, r, room, LONG, 0, &err), QN_OK);
    qni_fault_arm(QN_FAULT_IO, 1);
    assert_int_equal(qn_reader_get(&got, r, room, 1, PIECE, &err), QN_EIO);
    qni_fault_arm(QN_FAULT_IO, 0);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(qn_reader_get(&got, r, room, 1, PIECE, &err), QN_OK);
    qn_reader_close(r);
    qn_reader_close(NULL);
    qn_free_pages(room, room_bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_there),
        cmocka_unit_test(an_aborted_write_leaves_the_old_file),
        cmocka_unit_test(the_nth_failure_of_a_write_loses_nothing),
        cmocka_unit_test(what_is_read_is_the_file),
        cmocka_unit_test(what_cannot_be_read_is_told),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
