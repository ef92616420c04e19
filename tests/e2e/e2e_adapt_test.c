/* quern train: v-adaptive within a limit of memory; what post-validation did is said. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/program.h"

#define TINY "--layers 8 --heads 2 --width 32 --context 16 --batch 16 --steps 3 --workers 4 --micro-batches 8"

static int set_up(void **state)
{
    (void)state;
    if (make_root("e2e_adapt")) return 1;
    write_corpus(in_root("text"), 4000);
    return 0;
}

/* The number behind these words in what the last run said. */
static int64_t number_behind(const char *words)
{
    const char *at = strstr(last.err, words);
    if (at == NULL) fail_msg("'%s' is missing in: %s", words, last.err);
    return strtoll(at + strlen(words), NULL, 10);
}

static void losses(double loss[3])
{
    must_be(0);
    for (int i = 0; i < 3; i++) {
        json_t *step = json_line(i);
        loss[i] = json_at(step, "loss");
        json_decref(step);
    }
}

/* The limit that the message names fits, one byte less does not; other blocks give the same bits. */
static void the_smallest_limit_is_named(void **state)
{
    (void)state;
    static const char words[] = "the smallest limit for all workers is ";
    double want[3], got[3];
    run_line("train --data %s " TINY " --schedule v-adaptive --out %s --json", in_root("text"), in_root("free"));
    losses(want);
    run_line("train --data %s " TINY " --schedule v-adaptive --memory 1000 --out %s --json", in_root("text"), in_root("none"));
    must_say(2, "v-adaptive with --memory 1000: no block fits", words);
    const int64_t least = number_behind(words);
    run_line("train --data %s " TINY " --schedule v-adaptive --memory %lld --out %s --json", in_root("text"),
             (long long)(least - 1), in_root("less"));
    must_say(2, "no block fits", words);
    assert_int_equal(number_behind(words), least);
    run_line("train --data %s " TINY " --schedule v-adaptive --memory %lld --out %s --json", in_root("text"), (long long)least,
             in_root("least"));
    losses(got);
    for (int i = 0; i < 3; i++) assert_true(got[i] == want[i]);
    /* what holds the most needs more: the limit chose */
    run_line("train --data %s " TINY " --schedule v-zb --memory %lld --out %s --json", in_root("text"), (long long)least,
             in_root("zb"));
    must_say(2, words, NULL);
    assert_true(number_behind(words) > least);
}

static void early_steps_are_counted(void **state)
{
    (void)state;
    run_line("train --data %s " TINY " --schedule zb-h1 --post-validate --steps 12 --out %s --json", in_root("text"),
             in_root("early"));
    must_be(0);
    json_t *done = json_line(12);
    assert_true(json_at(done, "early_steps") >= 0 && json_at(done, "taken_back") >= 0);
    assert_true(json_at(done, "taken_back") <= json_at(done, "early_steps"));
    const double early = json_at(done, "early_steps"), back = json_at(done, "taken_back");
    json_decref(done);
    char *page = file_text(in_root("early/report.html"));
    char says[160];
    snprintf(says, sizeof(says), "%.0f optimizer steps of a stage taken early, %.0f of them taken back", early, back);
    if (strstr(page, says) == NULL) fail_msg("the report does not say '%s'", says);
    qn_free(page);
    run_line("train --data %s " TINY " --schedule zb-h1 --post-validate --out %s", in_root("text"), in_root("said"));
    must_be(0);
    assert_non_null(strstr(last.err, "taken before all gradients were known"));
    run_line("train --data %s " TINY " --schedule zb-h1 --out %s --json", in_root("text"), in_root("plain"));
    must_be(0);
    done = json_line(3);
    assert_null(json_object_get(done, "early_steps"));
    json_decref(done);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_smallest_limit_is_named),
        cmocka_unit_test(early_steps_are_counted),
    };
    return cmocka_run_group_tests(tests, set_up, remove_root);
}
