/* Files: what is read and written, and that the n-th failing read, write, sync or rename, for every n, loses nothing. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "alloc.h"
#include "compiler.h"
#include "io.h"

enum { PATH = 512, BIG = 300000 };

static char root[PATH];
static char bytes_a[BIG], bytes_b[BIG];

/* A path below the root; good until the fourth call from now. */
static const char *in_root(const char *name)
{
    static char buf[4][PATH];
    static int turn;
    turn = (turn + 1) % 4;
    assert_int_equal(qn_path_join(buf[turn], PATH, root, name, NULL), QN_OK);
    return buf[turn];
}

static int set_up(void **state)
{
    const char *tmp = getenv("QUERN_TEST_TMP");
    (void)state;
    snprintf(root, sizeof(root), "%s/io_test_%ld", tmp != NULL ? tmp : P_tmpdir, (long)getpid());
    for (int i = 0; i < BIG; i++) {
        bytes_a[i] = (char)(i * 7);
        bytes_b[i] = (char)(i * 13 + 1);
    }
    return qn_make_dirs(root, NULL) != QN_OK;
}

static int tear_down(void **state)
{
    (void)state;
    return qn_remove_tree(root, NULL) != QN_OK;
}

/* 1 when the file holds exactly these bytes. */
static int holds(const char *path, const char *want, size_t n)
{
    char *got;
    size_t bytes;
    if (qn_file_read(&got, &bytes, path, SIZE_MAX, NULL) != QN_OK) return 0;
    const int same = bytes == n && memcmp(got, want, n) == 0 && got[n] == '\0';
    qn_free(got);
    return same;
}

static void what_is_written_is_read(void **state)
{
    static const size_t sizes[] = {0, 1, 65535, 65536, 65537, 131072, BIG};
    (void)state;
    for (size_t i = 0; i < QN_COUNT(sizes); i++) {
        qn_map map;
        const char *path = in_root("whole");
        assert_int_equal(qn_file_write(path, bytes_a, sizes[i], NULL), QN_OK);
        assert_true(holds(path, bytes_a, sizes[i]));
        assert_int_equal(qn_map_open(&map, path, NULL), QN_OK);
        assert_int_equal(map.bytes, sizes[i]);
        assert_true(sizes[i] == 0 ? map.data == NULL : memcmp(map.data, bytes_a, sizes[i]) == 0);
        const size_t third = sizes[i] / 3;
        qn_map_want(map.data, sizes[i]);
        qn_map_done(sizes[i] == 0 ? NULL : map.data + third, sizes[i] - third); /* what left comes back */
        assert_true(sizes[i] == 0 || memcmp(map.data, bytes_a, sizes[i]) == 0);
        qn_map_close(&map);
    }
    qn_writer *w; /* in pieces of every size around the buffer */
    assert_int_equal(qn_writer_open(&w, in_root("pieces"), NULL), QN_OK);
    size_t at = 0;
    for (size_t piece = 1; at < BIG; piece = piece * 3 + 1) {
        const size_t n = piece < BIG - at ? piece : BIG - at;
        qn_writer_put(w, bytes_a + at, n);
        at += n;
    }
    assert_int_equal(qn_writer_commit(w, NULL), QN_OK);
    assert_true(holds(in_root("pieces"), bytes_a, BIG));
}

static void a_file_without_a_size_is_read_to_its_end(void **state)
{
    char *got;
    size_t n;
    qn_err err;
    (void)state;
    assert_int_equal(qn_file_read(&got, &n, "/proc/self/status", 1 << 20, &err), QN_OK);
    assert_true(n > 100 && strlen(got) == n);
    qn_free(got);
    assert_int_equal(qn_file_read(&got, &n, "/proc/self/status", 10, &err), QN_ERANGE);
    assert_int_equal(qn_file_read(&got, &n, "/dev/zero", 200000, &err), QN_ERANGE);
}

static void errors_name_the_file(void **state)
{
    char *got;
    size_t n;
    qn_map map;
    qn_err err;
    qn_writer *w;
    (void)state;
    assert_int_equal(qn_file_read(&got, &n, in_root("absent"), 10, &err), QN_ENOENT);
    assert_non_null(strstr(err.text, "absent"));
    assert_int_equal(qn_map_open(&map, in_root("absent"), &err), QN_ENOENT);
    assert_int_equal(qn_file_read(&got, &n, root, 10, &err), QN_EIO);
    assert_int_equal(qn_file_write(in_root("limit"), "12345", 5, &err), QN_OK);
    assert_int_equal(qn_file_read(&got, &n, in_root("limit"), 4, &err), QN_ERANGE);
    assert_null(got);
    assert_int_equal(qn_file_read(&got, &n, in_root("limit"), 5, &err), QN_OK);
    qn_free(got);
    assert_int_equal(qn_writer_open(&w, in_root("no/such/dir"), &err), QN_EIO);
    assert_null(w);
    qn_writer_abort(NULL);
    char small[4];
    assert_int_equal(qn_path_join(small, sizeof(small), "ab", "c", &err), QN_ERANGE);
    assert_int_equal(qn_path_join(small, sizeof(small), "a", "c", &err), QN_OK);
    assert_string_equal(small, "a/c");
    assert_int_equal(qn_path_join(small, sizeof(small), "a/", "c", &err), QN_OK);
    assert_string_equal(small, "a/c");
}

static void an_aborted_write_leaves_the_old_file(void **state)
{
    qn_writer *w;
    (void)state;
    assert_int_equal(qn_file_write(in_root("kept"), bytes_a, 100, NULL), QN_OK);
    assert_int_equal(qn_writer_open(&w, in_root("kept"), NULL), QN_OK);
    qn_writer_put(w, bytes_b, BIG);
    qn_writer_abort(w);
    assert_true(holds(in_root("kept"), bytes_a, 100));
    assert_int_equal(qn_path_exists(in_root("kept.tmp")), 0);
}

/* Every I/O event of a write fails once. Before the rename the old file stays; the last event, the sync of the directory, comes
 * after it, and then the new file is there whole. No temporary file is left in any case. */
static void the_nth_failure_of_a_write_loses_nothing(void **state)
{
    const char *path = in_root("precious"), *tmp = in_root("precious.tmp");
    int failures = 0, new_ones = 0;
    (void)state;
    for (long n = 1;; n++) {
        qn_err err;
        assert_int_equal(qn_file_write(path, bytes_a, BIG - 1, NULL), QN_OK);
        qn_writer *w;
        assert_int_equal(qn_writer_open(&w, path, NULL), QN_OK);
        qni_fault_arm(QN_FAULT_IO, n);
        for (int i = 0; i < BIG; i += 1000) qn_writer_put(w, bytes_b + i, 1000);
        const qn_status st = qn_writer_commit(w, &err);
        qni_fault_arm(QN_FAULT_IO, 0);
        assert_int_equal(qn_path_exists(tmp), 0);
        if (st == QN_OK) break;
        assert_int_equal(st, QN_EIO);
        failures++;
        const int old = holds(path, bytes_a, BIG - 1);
        assert_true(old || holds(path, bytes_b, BIG));
        new_ones += !old;
    }
    printf("%d failing events, the old file kept in %d of them\n", failures, failures - new_ones);
    assert_true(failures >= 4 && new_ones == 1);
    assert_true(holds(path, bytes_b, BIG));
}

static void the_nth_failure_of_a_read_is_reported(void **state)
{
    qn_map map;
    (void)state;
    assert_int_equal(qn_file_write(in_root("readable"), bytes_a, BIG, NULL), QN_OK);
    for (long n = 1;; n++) {
        char *got;
        size_t bytes;
        qni_fault_arm(QN_FAULT_IO, n);
        const qn_status st = qn_file_read(&got, &bytes, in_root("readable"), BIG, NULL);
        qni_fault_arm(QN_FAULT_IO, 0);
        qn_free(got);
        if (st == QN_OK) {
            assert_true(n > 1);
            break;
        }
        assert_int_equal(st, QN_EIO);
        assert_null(got);
    }
    qni_fault_arm(QN_FAULT_IO, 1);
    assert_int_equal(qn_map_open(&map, in_root("readable"), NULL), QN_EIO);
    for (long n = 1; n <= 4; n++) {
        char *got;
        size_t bytes;
        qn_writer *w;
        qni_fault_arm(QN_FAULT_ALLOC, n);
        const qn_status st = n == 1 ? qn_file_read(&got, &bytes, in_root("readable"), BIG, NULL)
                                    : (qni_fault_arm(QN_FAULT_ALLOC, n - 1), qn_writer_open(&w, in_root("other"), NULL));
        qni_fault_arm(QN_FAULT_ALLOC, 0);
        assert_int_equal(st, QN_ENOMEM);
    }
}

static void fill_dir(const char *dir, const char *bytes, size_t n)
{
    char path[PATH];
    assert_int_equal(qn_path_join(path, sizeof(path), dir, "sub", NULL), QN_OK);
    assert_int_equal(qn_make_dirs(path, NULL), QN_OK);
    assert_int_equal(qn_path_join(path, sizeof(path), dir, "sub/file", NULL), QN_OK);
    assert_int_equal(qn_file_write(path, bytes, n, NULL), QN_OK);
}

static void a_directory_is_replaced_whole(void **state)
{
    char path[PATH], tmp[PATH];
    (void)state;
    strcpy(path, in_root("run"));
    strcpy(tmp, in_root("run.new"));
    fill_dir(tmp, bytes_a, 10);
    assert_int_equal(qn_replace_dir(path, tmp, NULL), QN_OK); /* nothing there yet */
    assert_true(holds(in_root("run/sub/file"), bytes_a, 10));
    for (long n = 1;; n++) {
        fill_dir(path, bytes_a, 10);
        fill_dir(tmp, bytes_b, 20);
        qni_fault_arm(QN_FAULT_IO, n);
        const qn_status st = qn_replace_dir(path, tmp, NULL);
        qni_fault_arm(QN_FAULT_IO, 0);
        const int old = holds(in_root("run/sub/file"), bytes_a, 10), fresh = holds(in_root("run/sub/file"), bytes_b, 20);
        assert_true(old + fresh == 1);
        if (st == QN_OK) {
            assert_true(fresh && n > 2);
            break;
        }
    }
    assert_int_equal(qn_path_exists(tmp), 0);
    assert_int_equal(qn_replace_dir(path, in_root("absent"), NULL), QN_EIO);
    assert_true(holds(in_root("run/sub/file"), bytes_b, 20));
}

static void trees_are_made_and_removed_with_care(void **state)
{
    qn_err err;
    (void)state;
    assert_int_equal(qn_make_dirs(in_root("a/b/c/"), &err), QN_OK);
    assert_int_equal(qn_make_dirs(in_root("a/b/c"), &err), QN_OK);
    assert_int_equal(qn_path_exists(in_root("a/b/c")), 2);
    assert_int_equal(qn_file_write(in_root("a/file"), "x", 1, &err), QN_OK);
    assert_int_equal(qn_path_exists(in_root("a/file")), 1);
    assert_int_equal(qn_make_dirs(in_root("a/file"), &err), QN_EIO);
    assert_int_equal(qn_make_dirs(in_root("a/file/sub"), &err), QN_EIO);
    assert_int_equal(qn_make_dirs("", &err), QN_EIO);
    assert_int_equal(qn_file_write(in_root("outside"), "y", 1, &err), QN_OK);
    assert_int_equal(symlink(root, in_root("a/link")), 0); /* removed, not followed */
    assert_int_equal(qn_remove_tree(in_root("a"), &err), QN_OK);
    assert_int_equal(qn_path_exists(in_root("a")), 0);
    assert_int_equal(qn_path_exists(in_root("outside")), 1);
    assert_int_equal(qn_remove_tree(in_root("a"), &err), QN_OK);
    assert_int_equal(qn_remove_tree(in_root("outside"), &err), QN_EIO);
    assert_int_equal(qn_make_dirs(in_root("deep/2/3/4/5/6/7/8/9"), &err), QN_OK);
    assert_int_equal(qn_remove_tree(in_root("deep"), &err), QN_EIO);
    assert_int_equal(qn_path_exists(in_root("deep/2/3/4/5/6/7/8/9")), 2);
    assert_int_equal(qn_remove_tree(in_root("deep/2/3"), &err), QN_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(a_file_without_a_size_is_read_to_its_end),
        cmocka_unit_test(errors_name_the_file),
        cmocka_unit_test(an_aborted_write_leaves_the_old_file),
        cmocka_unit_test(the_nth_failure_of_a_write_loses_nothing),
        cmocka_unit_test(the_nth_failure_of_a_read_is_reported),
        cmocka_unit_test(a_directory_is_replaced_whole),
        cmocka_unit_test(trees_are_made_and_removed_with_care),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
