/* RoundPipe's steps in a row through the tools: the published steady bubbles, those of what can run, cuts as texts. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/compiler.h"
#include "quern/session.h"
#include "schedule_subject.h"

static qn_schedule_options options(const char *cost, double latency)
{
    return (qn_schedule_options){.schedule = "roundpipe",
                                 .workers = 8,
                                 .micro_batches = 16,
                                 .group = 8,
                                 .steps = 12,
                                 .optimizer_lag = 1,
                                 .cost = cost,
                                 .latency = latency};
}

static void steady(char text[16], const qn_schedule_options *opt)
{
    char *out = NULL;
    qn_err err = {0};
    if (qn_schedule_simulate(&out, opt, true, &err) != QN_OK) fail_msg("%s", err.text);
    json_t *all = json_loads(out, 0, NULL);
    snprintf(text, 16, "%.3f", 100 * json_number_value(json_object_get(json_object_get(all, "steady"), "bubble")));
    json_decref(all);
    qn_text_free(out);
}

/* arXiv:2604.27085, its artifact's inputs and cuts: eight workers, two rounds of eight micro-batches, twelve steps; idle shares
 * of the steady ones. published: by its simulator's rule; runs: with the head's forward behind its input. */
static void five_steady_bubbles(void **state)
{
    (void)state;
    static const struct {
        const char *cost, *cut;
        double hop;
        const char *published, *runs;
    } model[] = {
        {"0-27:F=7.429,B=15.831;28:F=22.0655,B=43.707", "7x4|1,3x8,2x2", 1.6, "4.496", "5.377"},
        {"0-31:F=18.503703,B=41.206594;32:F=37.2255,B=74.501", "5x4,6x2|1,2x16", 3.2, "2.222", "2.222"},
        {"0-23:F=21.644562,B=81.780875;24:F=44.2925,B=86.264", "4,5x4|1,1x24", 2.25, "4.205", "5.485"},
        {"0-63:F=40.561062,B=91.174297;64:F=54.928,B=108.294", "2x2,3x20|1,1x64", 4, "3.450", "3.716"},
        {"0-93:F=43.016,B=58.376;94:F=42.444,B=43.294", "2x47|1,1x94", 3.2, "1.105", "1.105"},
    };
    for (size_t i = 0; i < QN_COUNT(model); i++) {
        char published[16], runs[16], own[16];
        qn_schedule_options opt = options(model[i].cost, model[i].hop);
        steady(own, &opt);
        opt.cut = model[i].cut;
        steady(runs, &opt);
        opt.head_ahead = 1;
        steady(published, &opt);
        print_message("%s: %s %%, as it can run %s %%, cut by the partitioner %s %%\n", model[i].cut, published, runs, own);
        assert_string_equal(published, model[i].published);
        assert_string_equal(runs, model[i].runs);
        assert_true(atof(own) <= atof(runs));
    }
}

static void cuts_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *cut, *says;
    } bad[] = {{"3,2|1,5", "no cut of 7 layers"}, {"3,3|1", "no cut"},   {"3,3|2,5", "no cut"}, {"6", "no cut"},
               {"3x2|1x7x1", "no cut"},           {"3,3|0,7", "no cut"}, {"a|7", "no cut"},     {"6|1,6|", "no cut"},
               {"99999999999|1", "no cut"},       {"", "no cut"}};
    qn_schedule_options opt = options("0-6:F=1,B=2", 0);
    char text[16], *out = NULL;
    qn_err err = {0};
    opt.workers = 2;
    opt.group = 0;
    static const char *const good[] = {"3x2|1,3,3", "6|1,6", "|7", "1x6|1x7", "3,3|1,2,2,2"};
    for (size_t i = 0; i < QN_COUNT(good); i++) {
        opt.cut = good[i];
        steady(text, &opt);
    }
    for (size_t i = 0; i < QN_COUNT(bad); i++) {
        opt.cut = bad[i].cut;
        assert_int_equal(qn_schedule_simulate(&out, &opt, false, &err), QN_EINVAL);
        if (strstr(err.text, bad[i].says) == NULL) fail_msg("%s: %s", bad[i].cut, err.text);
    }
    opt.cut = "6|1,6";
    opt.cost = "F=1,B=2";
    assert_int_equal(qn_schedule_simulate(&out, &opt, false, &err), QN_EINVAL);
    assert_non_null(strstr(err.text, "costs of each layer"));
    opt.cut = NULL;
    opt.schedule = "1f1b";
    opt.head_ahead = 1;
    assert_int_equal(qn_schedule_simulate(&out, &opt, false, &err), QN_EINVAL);
    assert_non_null(strstr(err.text, "--head-ahead"));
    assert_null(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(five_steady_bubbles), cmocka_unit_test(cuts_are_read)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
