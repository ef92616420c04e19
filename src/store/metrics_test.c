/* Metrics: what is written is read back, also by others while the run goes on; a resumed run overwrites; the n-th failing read,
 * write or allocation leaves a file that opens and holds whole rows only. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/compiler.h"
#include "core/io.h"
#include "metrics.h"

enum { PATH = 512 };

static char root[PATH], path[PATH];

static int set_up(void **state)
{
    const char *tmp = getenv("QUERN_TEST_TMP");
    (void)state;
    snprintf(root, sizeof(root), "%s/metrics_test_%ld", tmp != NULL ? tmp : P_tmpdir, (long)getpid());
    return qn_make_dirs(root, NULL) != QN_OK || qn_path_join(path, sizeof(path), root, "metrics.sqlite", NULL) != QN_OK;
}

static int tear_down(void **state)
{
    (void)state;
    return qn_remove_tree(root, NULL) != QN_OK;
}

static int fresh_file(void **state)
{
    char buf[PATH + 8];
    (void)state;
    static const char *const tails[] = {"", "-wal", "-shm"};
    for (size_t i = 0; i < QN_COUNT(tails); i++) {
        snprintf(buf, sizeof(buf), "%s%s", path, tails[i]);
        unlink(buf);
    }
    return 0;
}

static qn_metrics_row row_of(int64_t step)
{
    return (qn_metrics_row){.step = step,
                            .loss = 4.0 / (double)step,
                            .grad_norm = 0.1 * (double)step,
                            .lr = 1e-3,
                            .tokens_per_s = 1e4 + (double)step,
                            .step_ms = 1.0 / 3};
}

static void same_row(const qn_metrics_row *got, const qn_metrics_row *want)
{
    assert_int_equal(got->step, want->step);
    assert_true(got->loss == want->loss && got->grad_norm == want->grad_norm && got->lr == want->lr);
    assert_true(got->tokens_per_s == want->tokens_per_s && got->step_ms == want->step_ms);
}

static void write_steps(qn_metrics *m, int64_t first, int64_t last)
{
    for (int64_t s = first; s <= last; s++) {
        const qn_metrics_row row = row_of(s);
        assert_int_equal(qn_metrics_step(m, &row, NULL), QN_OK);
        if (s % 100 == 0) assert_int_equal(qn_metrics_eval(m, s, 2.0 + 1.0 / (double)s, NULL), QN_OK);
    }
}

static void rows_come_back(void **state)
{
    enum { STEPS = 1000 };
    static qn_metrics_row rows[STEPS + 1];
    int64_t eval_step[32];
    double eval_loss[32];
    qn_metrics *m;
    (void)state;
    assert_int_equal(qn_metrics_open(&m, path, -1, NULL), QN_OK);
    write_steps(m, 1, STEPS);
    qn_metrics_close(m); /* commits */
    assert_int_equal(qn_metrics_read(path, rows, STEPS + 1, NULL), STEPS);
    for (int64_t s = 1; s <= STEPS; s++) {
        const qn_metrics_row want = row_of(s);
        same_row(&rows[s - 1], &want);
    }
    assert_int_equal(qn_metrics_read(path, rows, 7, NULL), 7);
    qn_metrics_row last;
    const qn_metrics_row want_last = row_of(STEPS);
    assert_int_equal(qn_metrics_last(path, &last, NULL), STEPS);
    same_row(&last, &want_last);
    assert_int_equal(qn_metrics_read_evals(path, eval_step, eval_loss, 32, NULL), 10);
    assert_true(eval_step[9] == 1000 && eval_loss[9] == 2.0 + 1.0 / 1000);
}

static void numbers_that_are_not_finite_are_gaps(void **state)
{
    qn_metrics *m;
    qn_metrics_row row = {.step = 1, .loss = NAN, .grad_norm = INFINITY, .lr = -INFINITY, .tokens_per_s = 3, .step_ms = 0}, got;
    int64_t step;
    double loss;
    (void)state;
    assert_int_equal(qn_metrics_open(&m, path, -1, NULL), QN_OK);
    assert_int_equal(qn_metrics_step(m, &row, NULL), QN_OK);
    assert_int_equal(qn_metrics_eval(m, 1, NAN, NULL), QN_OK);
    qn_metrics_close(m);
    assert_int_equal(qn_metrics_read(path, &got, 1, NULL), 1);
    assert_true(isnan(got.loss) && isnan(got.grad_norm) && isnan(got.lr) && got.tokens_per_s == 3 && got.step_ms == 0);
    assert_int_equal(qn_metrics_read_evals(path, &step, &loss, 1, NULL), 1);
    assert_true(step == 1 && isnan(loss));
}

static void a_resumed_run_writes_its_steps_again(void **state)
{
    static qn_metrics_row rows[400];
    int64_t eval_step[8];
    double eval_loss[8];
    qn_metrics *m;
    (void)state;
    assert_int_equal(qn_metrics_open(&m, path, -1, NULL), QN_OK);
    write_steps(m, 1, 300);
    qn_metrics_close(m);
    assert_int_equal(qn_metrics_open(&m, path, 150, NULL), QN_OK);
    write_steps(m, 151, 160);
    write_steps(m, 160, 160); /* a step written twice is one row */
    qn_metrics_close(m);
    assert_int_equal(qn_metrics_read(path, rows, 400, NULL), 160);
    assert_int_equal(rows[159].step, 160);
    assert_int_equal(qn_metrics_read_evals(path, eval_step, eval_loss, 8, NULL), 1);
    assert_int_equal(qn_metrics_open(&m, path, -1, NULL), QN_OK);
    qn_metrics_close(m);
    assert_int_equal(qn_metrics_read(path, rows, 400, NULL), 0);
    assert_int_equal(qn_metrics_last(path, rows, NULL), 0);
}

static void others_read_while_the_run_goes_on(void **state)
{
    qn_metrics_row rows[16];
    qn_metrics *m;
    (void)state;
    assert_int_equal(qn_metrics_open(&m, path, -1, NULL), QN_OK);
    write_steps(m, 1, 5);
    assert_in_range(qn_metrics_read(path, rows, 16, NULL), 0, 5); /* pending rows may be missing, never half */
    assert_int_equal(qn_metrics_flush(m, NULL), QN_OK);
    assert_int_equal(qn_metrics_read(path, rows, 16, NULL), 5);
    write_steps(m, 6, 7);
    assert_int_equal(qn_metrics_flush(m, NULL), QN_OK);
    assert_int_equal(qn_metrics_flush(m, NULL), QN_OK);
    assert_int_equal(qn_metrics_read(path, rows, 16, NULL), 7);
    qn_metrics_close(m);
}

static void foreign_files_are_refused(void **state)
{
    qn_metrics_row row;
    qn_metrics *m = NULL;
    qn_err err;
    sqlite3 *db;
    (void)state;
    char text[4096];
    memset(text, 'x', sizeof(text));
    assert_int_equal(qn_file_write(path, text, sizeof(text), NULL), QN_OK);
    assert_int_equal(qn_metrics_open(&m, path, -1, &err), QN_EIO);
    assert_non_null(strstr(err.text, "database"));
    assert_int_equal(qn_metrics_read(path, &row, 1, &err), -1);

    unlink(path);
    assert_int_equal(qn_metrics_read(path, &row, 1, &err), -1);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "CREATE TABLE steps(a); INSERT INTO steps VALUES(1)", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_int_equal(qn_metrics_open(&m, path, -1, &err), QN_EIO);
    assert_non_null(strstr(err.text, "not metrics"));
    assert_int_equal(qn_metrics_open(&m, root, -1, &err), QN_EIO); /* a directory */
    assert_null(m);
}

/* The whole life of a file; the first failure ends it. */
static qn_status life(int64_t *written, qn_err *err)
{
    qn_metrics *m = NULL;
    qn_status st;
    *written = 0;
    QN_TRY(st, qn_metrics_open(&m, path, -1, err), out);
    for (int64_t s = 1; s <= 5; s++) {
        const qn_metrics_row row = row_of(s);
        QN_TRY(st, qn_metrics_step(m, &row, err), out);
        *written = s;
    }
    QN_TRY(st, qn_metrics_eval(m, 5, 1.5, err), out);
    QN_TRY(st, qn_metrics_flush(m, err), out);
out:
    qn_metrics_close(m);
    return st;
}

static void the_nth_failure_is_clean(void **state)
{
    static const qn_fault kinds[] = {QN_FAULT_IO, QN_FAULT_ALLOC};
    for (size_t k = 0; k < QN_COUNT(kinds); k++) {
        long n = 1;
        for (;; n++) {
            qn_metrics_row rows[8];
            qn_err err = {.code = QN_OK};
            int64_t written;
            fresh_file(state);
            qni_fault_arm(kinds[k], n);
            const qn_status st = life(&written, &err);
            qni_fault_arm(kinds[k], 0);
            if (st == QN_OK) break;
            assert_int_equal(st, kinds[k] == QN_FAULT_IO ? QN_EIO : QN_ENOMEM);
            assert_int_equal(err.code, st);
            assert_true(strlen(err.text) > 0);
            if (written > 0) {
                assert_int_equal(qn_metrics_read(path, rows, 8, NULL), written); /* close commits what was accepted */
                const qn_metrics_row want = row_of(written);
                same_row(&rows[written - 1], &want);
            }
            qn_metrics *m;
            assert_int_equal(qn_metrics_open(&m, path, -1, NULL), QN_OK); /* and the file is usable at once */
            qn_metrics_close(m);
        }
        assert_true(n > 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(rows_come_back, fresh_file),
        cmocka_unit_test_setup(numbers_that_are_not_finite_are_gaps, fresh_file),
        cmocka_unit_test_setup(a_resumed_run_writes_its_steps_again, fresh_file),
        cmocka_unit_test_setup(others_read_while_the_run_goes_on, fresh_file),
        cmocka_unit_test_setup(foreign_files_are_refused, fresh_file),
        cmocka_unit_test_setup(the_nth_failure_is_clean, fresh_file),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
