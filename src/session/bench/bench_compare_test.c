/* What quern bench --compare says about stored results. The benchmark is one that repeats stored lines. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "quern/bench.h"

static const char *const *replayed;
static char said[8192];

static qn_status replay(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err)
{
    (void)err;
    assert_true(opt->json);
    for (int i = 0; replayed[i] != NULL; i++) line(ctx, replayed[i]);
    return QN_OK;
}

static void remember(void *ctx, const char *line)
{
    (void)ctx;
    assert_true(strlen(said) + strlen(line) + 2 < sizeof(said));
    strcat(said, line);
    strcat(said, "\n");
}

static qn_status compare(const char *old, const char *const *now, int json, qn_err *err)
{
    char path[] = "bench_compare_XXXXXX";
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, old, strlen(old)), strlen(old));
    close(fd);
    const qn_bench_options opt = {.json = json, .compare = path, .steps = 1};
    said[0] = '\0';
    replayed = now;
    const qn_status st = qn_bench_compare(replay, &opt, remember, NULL, err);
    unlink(path);
    return st;
}

static const char stored[] = "{\"kernel\": \"gelu\", \"gbs\": 100, \"us\": 10, \"spread\": 0.01}\n"
                             "a line of a log\n"
                             "{\"kernel\": \"gelu\", \"gbs\": 50, \"us\": 20, \"spread\": 0.2}\n"
                             "{\"memory\": \"copy\", \"threads\": 2, \"gbs\": 40}\n"
                             "{\"decode\": \"batch n\", \"batch\": 16, \"tokens_per_s\": 1000}\n";

static void same_results_are_not_slower(void **state)
{
    static const char *const now[] = {"{\"kernel\": \"gelu\", \"gbs\": 100, \"us\": 10, \"spread\": 0.01}",
                                      "{\"kernel\": \"gelu\", \"gbs\": 50, \"us\": 20, \"spread\": 0.2}", NULL};
    (void)state;
    assert_int_equal(compare(stored, now, 1, NULL), QN_OK);
    assert_null(strstr(said, "\"slower\""));
    assert_non_null(strstr(said, "\"alike\": 2, \"only_now\": 0, \"slower_figures\": 0"));
}

static void slower_beyond_the_spread_is_said(void **state)
{
    static const char *const now[] = {"{\"kernel\": \"gelu\", \"gbs\": 90, \"us\": 11.1, \"spread\": 0.01}",
                                      "{\"kernel\": \"gelu\", \"gbs\": 41, \"us\": 24, \"spread\": 0.02}", NULL};
    (void)state;
    assert_int_equal(compare(stored, now, 1, NULL), QN_OK);
    assert_non_null(strstr(said, "{\"slower\": \"kernel gelu\", \"figure\": \"gbs\", \"old\": 100, \"new\": 90"));
    assert_non_null(strstr(said, "\"figure\": \"us\", \"old\": 10, \"new\": 11.1"));
    assert_null(strstr(said, "\"old\": 50")); /* within 0.22 */
    assert_non_null(strstr(said, "\"slower_figures\": 2"));
}

static void faster_and_unknown_lines_are_not_slower(void **state)
{
    static const char *const now[] = {"{\"kernel\": \"gelu\", \"gbs\": 200, \"us\": 5}", "{\"kernel\": \"new\", \"gbs\": 1}",
                                      "{\"decode\": \"batch n\", \"batch\": 8, \"tokens_per_s\": 1}", NULL};
    (void)state;
    assert_int_equal(compare(stored, now, 0, NULL), QN_OK);
    assert_non_null(strstr(said, "kernel gelu  gbs 200  us 5\n"));
    assert_non_null(strstr(said, "alike 1  only_now 2  slower_figures 0"));
}

static void a_slower_machine_is_named_apart(void **state)
{
    static const char *const now[] = {"{\"memory\": \"copy\", \"threads\": 2, \"gbs\": 20}", NULL};
    (void)state;
    assert_int_equal(compare(stored, now, 1, NULL), QN_OK);
    assert_non_null(strstr(said, "\"slower_machine\": \"memory copy, threads 2\""));
    assert_non_null(strstr(said, "\"slower_figures\": 0"));
}

static void other_files_are_refused_before_the_run(void **state)
{
    static const char *const none[] = {NULL};
    static const char *const wrong[] = {"", "text\n", "{\"a\": \n", "[1]\n{]\n"};
    qn_err err;
    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) assert_int_equal(compare(wrong[i], none, 1, &err), QN_EFORMAT);
    const qn_bench_options opt = {.compare = "no/such/file"};
    assert_int_equal(qn_bench_compare(replay, &opt, remember, NULL, &err), QN_ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_results_are_not_slower), cmocka_unit_test(slower_beyond_the_spread_is_said),
        cmocka_unit_test(faster_and_unknown_lines_are_not_slower), cmocka_unit_test(a_slower_machine_is_named_apart),
        cmocka_unit_test(other_files_are_refused_before_the_run)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
