/* The report and the Chrome trace: complete, escaped, without anything from outside, small for long runs, and clean when memory
 * or disk fails. The page of the first test is left in the folder for temporary files, to be looked at. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chart.h"
#include "core/alloc.h"
#include "core/compiler.h"
#include "core/io.h"
#include "core/rng.h"
#include "report.h"
#include "schedule/gen/gen.h"

enum { STEPS = 2000, EVALS = 9 };

static char root[512];
static qn_metrics_row rows[STEPS];
static int64_t eval_step[EVALS];
static double eval_loss[EVALS];
static qn_plan *plan;
static qn_trace measured, simulated;

static const qn_report_fact fact[] = {
    {"model", "gpt2, 4 layers, 128 wide, 4 heads, context 64, vocabulary 97"},
    {"parameters", "813,440"},
    {"text", "1,441,792 tokens (characters), the last tenth held out"},
    {"steps", "2000 of 2000"},
    {"batch", "24 samples of 64 tokens in 4 micro-batches"},
    {"workers", "4 with 1 thread each"},
    {"schedule", "1f1b, 4 stages <b>"},
    {"memory", "9.3 MB of parameters, gradients and moments; 3.1 MB packed weights; 8.4 MB activations; 2.0 MB scratch"},
};

static const char sample[] = "The <script>alert(1)</script> & \"hacker\"\nof the old school \xE2\x80\x94 wrote code \xFF that "
                             "nobody\ncould read.\x01 It ran, though.";

static void make_traces(void)
{
    const qn_pattern pattern = {.workers = 4, .items = 8, .chunks = 1};
    const qn_lowering how = {.tied_owner = QN_NONE, .tied_replica = QN_NONE, .step_tasks = true, .stat_bytes = 8};
    qn_order *order;
    qn_err err;
    if (qn_generate(&order, "1f1b", &pattern, &err) != QN_OK) fail_msg("%s", err.text);
    if (qn_lower(&plan, order, &how, &err) != QN_OK) fail_msg("%s", err.text);
    qn_order_close(order);
    int64_t *cost = calloc((size_t)plan->tasks, sizeof(*cost));
    measured.time = calloc((size_t)plan->tasks, sizeof(qn_span_time));
    simulated.time = calloc((size_t)plan->tasks, sizeof(qn_span_time));
    assert_true(cost != NULL && measured.time != NULL && simulated.time != NULL);
    qn_rng rng = qn_rng_of((qn_rng_key){.seed = 5});
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t i = 0; i < plan->tasks; i++) {
            const int32_t op = plan->task[i].op;
            const double base = op == QN_OP_F                          ? 1e6
                                : op == QN_OP_BW                       ? 2e6
                                : op == QN_OP_OPT                      ? 4e5
                                : op == QN_OP_SEND || op == QN_OP_RECV ? 0
                                                                       : 5e4;
            cost[i] = (int64_t)(base * (pass == 0 ? 1 + 0.2 * qn_rng_unit(&rng) : 1.1));
        }
        const qn_sim_options opt = {.cost = cost};
        if (qn_simulate(pass == 0 ? &measured : &simulated, plan, &opt, &err) != QN_OK) fail_msg("%s", err.text);
    }
    free(cost);
}

static int set_up(void **state)
{
    const char *tmp = getenv("QUERN_TEST_TMP");
    (void)state;
    snprintf(root, sizeof(root), "%s/report", tmp != NULL ? tmp : P_tmpdir);
    qn_rng rng = qn_rng_of((qn_rng_key){.seed = 3});
    for (int64_t i = 0; i < STEPS; i++) {
        const double smooth = 1.85 + 2.6 * exp(-(double)i / 220);
        rows[i] = (qn_metrics_row){.step = i + 1,
                                   .loss = i >= 900 && i < 930 ? NAN : smooth + 0.08 * qn_rng_normal(&rng),
                                   .grad_norm = 1,
                                   .lr = 1e-3,
                                   .tokens_per_s = 50000,
                                   .step_ms = i % 250 == 0 ? 90 : 29 + 1.5 * qn_rng_unit(&rng)};
    }
    for (int i = 0; i < EVALS; i++) {
        eval_step[i] = i == 8 ? STEPS : 220 * (i + 1);
        eval_loss[i] = i == 3 ? NAN : 1.9 + 2.6 * exp(-(double)eval_step[i] / 220);
    }
    make_traces();
    return qn_make_dirs(root, NULL) != QN_OK;
}

static int tear_down(void **state)
{
    (void)state;
    qn_plan_close(plan);
    free(measured.time);
    free(simulated.time);
    return 0;
}

static qn_report_data data_of_run(void)
{
    return (qn_report_data){.title = "gpt2, 4 layers, 128 wide, on 4 workers",
                            .fact = fact,
                            .facts = (int32_t)QN_COUNT(fact),
                            .row = rows,
                            .rows = STEPS,
                            .eval_step = eval_step,
                            .eval_loss = eval_loss,
                            .evals = EVALS,
                            .measured = &measured,
                            .simulated = &simulated,
                            .sample = sample};
}

/* The page that this data gives, as text. */
static char *page_of(const qn_report_data *d, const char *name)
{
    char path[600], *text;
    size_t bytes;
    qn_err err = {.code = QN_OK};
    snprintf(path, sizeof(path), "%s/%s", root, name);
    if (qn_report_write(path, d, &err) != QN_OK) fail_msg("%s", err.text);
    if (qn_file_read(&text, &bytes, path, 16 << 20, &err) != QN_OK) fail_msg("%s", err.text);
    assert_int_equal(strlen(text), bytes);
    return text;
}

static void a_page_is_complete_and_closed(void **state)
{
    (void)state;
    const qn_report_data d = data_of_run();
    char *text = page_of(&d, "report.html");
    static const char *const wanted[] = {"<h1>gpt2, 4 layers", "1f1b, 4 stages &lt;b&gt;", "&lt;script&gt;alert(1)",
                                         "loss by step",       "time of each step",        "bubble, measured",
                                         "simulated",          "prefers-color-scheme",     "</html>"};
    for (size_t i = 0; i < QN_COUNT(wanted); i++)
        if (strstr(text, wanted[i]) == NULL) fail_msg("the page lacks '%s'", wanted[i]);
    static const char *const forbidden[] = {"<script>", "src=", "@import", "nan", "inf ", "\x01", "\xFF", "href=\"http"};
    for (size_t i = 0; i < QN_COUNT(forbidden); i++)
        if (strstr(text, forbidden[i]) != NULL) fail_msg("the page has '%s'", forbidden[i]);
    qn_free(text);
}

static void an_empty_run_has_a_page(void **state)
{
    (void)state;
    const qn_report_data nothing = {.title = "nothing"};
    qn_free(page_of(&nothing, "empty.html"));
    qn_report_data one = data_of_run(); /* one step, then only gaps */
    one.rows = 1;
    one.evals = 1;
    one.measured = NULL;
    qn_free(page_of(&one, "one.html"));
    const qn_metrics_row gap = {.step = 1, .loss = NAN, .step_ms = INFINITY};
    one.row = &gap;
    one.evals = 0;
    one.simulated = NULL;
    char *text = page_of(&one, "gap.html");
    assert_null(strstr(text, "<path"));
    qn_free(text);
}

static void a_million_steps_stay_small(void **state)
{
    enum { MANY = 1000000 };
    (void)state;
    qn_metrics_row *many = calloc(MANY, sizeof(*many));
    assert_non_null(many);
    for (int64_t i = 0; i < MANY; i++)
        many[i] = (qn_metrics_row){.step = i + 1, .loss = 3 + sin((double)i / 9e4), .step_ms = i == 700001 ? 9000 : 10};
    qn_report_data d = data_of_run();
    d.row = many;
    d.rows = MANY;
    d.measured = d.simulated = NULL;
    char *text = page_of(&d, "million.html");
    assert_in_range(strlen(text), 1000, 120000);
    qn_free(text);
    free(many);
}

static void ticks_are_round(void **state)
{
    static const struct {
        double span;
        int parts;
        double want;
    } cases[] = {{10, 5, 2}, {2000, 8, 500}, {0.37, 5, 0.1}, {1, 1, 1}, {3, 4, 1}, {1e6, 8, 2e5}, {0, 5, 1}};
    (void)state;
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        const double got = qni_round_step(cases[i].span, cases[i].parts);
        if (fabs(got - cases[i].want) > 1e-9 * cases[i].want)
            fail_msg("%g in %d parts gave %g", cases[i].span, cases[i].parts, got);
    }
}

static void the_trace_is_what_chrome_reads(void **state)
{
    char path[600];
    json_error_t where;
    size_t i, spans = 0;
    json_t *event;
    (void)state;
    snprintf(path, sizeof(path), "%s/trace.json", root);
    assert_int_equal(qn_trace_write_chrome(path, &measured, 1000, NULL), QN_OK);
    json_t *all = json_load_file(path, JSON_REJECT_DUPLICATES, &where);
    if (!json_is_array(all)) fail_msg("line %d: %s", where.line, where.text);
    json_array_foreach(all, i, event)
    {
        const char *kind = json_string_value(json_object_get(event, "ph"));
        assert_non_null(json_string_value(json_object_get(event, "name")));
        if (strcmp(kind, "X") != 0) continue;
        spans++;
        assert_true(json_number_value(json_object_get(event, "dur")) >= 0 &&
                    json_number_value(json_object_get(event, "ts")) >= 0);
        assert_in_range(json_integer_value(json_object_get(event, "pid")), 0, 3);
    }
    assert_int_equal(spans, plan->tasks);
    json_decref(all);
}

static void the_nth_failure_leaves_the_old_page(void **state)
{
    static const qn_fault kinds[] = {QN_FAULT_ALLOC, QN_FAULT_IO};
    char path[600];
    (void)state;
    snprintf(path, sizeof(path), "%s/fault.html", root);
    qn_report_data d = data_of_run();
    d.rows = 50;
    for (size_t k = 0; k < QN_COUNT(kinds); k++) {
        for (long n = 1;; n++) {
            qn_err err = {.code = QN_OK};
            assert_int_equal(qn_file_write(path, "old", 3, NULL), QN_OK);
            qni_fault_arm(kinds[k], n);
            const qn_status st = qn_report_write(path, &d, &err);
            qni_fault_arm(kinds[k], 0);
            if (st == QN_OK) {
                assert_true(n > 1);
                break;
            }
            assert_true(strlen(err.text) > 0);
            char *text;
            size_t bytes;
            assert_int_equal(qn_file_read(&text, &bytes, path, 1 << 20, NULL), QN_OK);
            if (bytes != 3)
                assert_non_null(strstr(text, "</html>")); /* the last sync comes after the rename: either page, whole */
            qn_free(text);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_page_is_complete_and_closed),  cmocka_unit_test(an_empty_run_has_a_page),
        cmocka_unit_test(a_million_steps_stay_small),     cmocka_unit_test(ticks_are_round),
        cmocka_unit_test(the_trace_is_what_chrome_reads), cmocka_unit_test(the_nth_failure_leaves_the_old_page),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
