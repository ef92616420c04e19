/* quern schedule: the numbers of its JSON against the papers' formulas, files checked and run. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/program.h"

static int set_up(void **state)
{
    (void)state;
    return make_root("e2e_schedule");
}

static double array_at(const json_t *all, const char *key, size_t i)
{
    const json_t *array = json_object_get(all, key);
    if (!json_is_array(array) || !json_is_number(json_array_get(array, i))) fail_msg("no %s[%zu]", key, i);
    return json_number_value(json_array_get(array, i));
}

/* GPipe idles (K-1)/(M+K-1) of the step, on every worker; 1F1B the same with at most min(P - r, M) stashes. */
static void bubbles_are_the_papers(void **state)
{
    (void)state;
    for (int P = 1; P <= 5; P += 2) {
        for (int M = 1; M <= 8; M += 3) {
            for (int which = 0; which < 2; which++) {
                run_line("schedule simulate --schedule %s --workers %d --micro-batches %d --cost F=1.5,B=2.25 --json",
                         which ? "1f1b" : "gpipe", P, M);
                must_be(0);
                json_t *all = json_line(0);
                assert_true(json_at(all, "makespan") == 3.75 * (M + P - 1));
                assert_true(fabs(json_at(all, "bubble") - (double)(P - 1) / (M + P - 1)) < 1e-15);
                for (int r = 0; r < P; r++) {
                    assert_true(array_at(all, "idle_makespan", (size_t)r) == 3.75 * (P - 1));
                    assert_true(array_at(all, "idle_span", (size_t)r) == 3.75 * (P - 1 - r));
                    assert_true(array_at(all, "peak", (size_t)r) == (which == 0 ? M : P - r < M ? P - r : M));
                }
                json_decref(all);
            }
        }
    }
}

static void the_contracts_example_works(void **state)
{
    (void)state;
    run_line("schedule simulate --schedule 1f1b --workers 8 --micro-batches 24 --cost F=1,B=2 --json --svg %s --trace %s",
             in_root("a.svg"), in_root("a.json"));
    must_be(0);
    json_t *all = json_line(0);
    assert_true(json_at(all, "makespan") == 93);
    json_decref(all);
    char *svg = file_text(in_root("a.svg"));
    assert_non_null(strstr(svg, "</svg>"));
    qn_free(svg);
    run_line("schedule simulate --schedule interleaved --workers 4 --micro-batches 8 --chunks 2 --cost F=1,B=2 --json");
    must_be(0);
    all = json_line(0);
    assert_true(json_at(all, "makespan") == 8 * 2 * 3 + 9);
    json_decref(all);
    /* W given: B is the input gradient, and a whole backward takes both */
    run_line("schedule simulate --schedule gpipe --workers 2 --micro-batches 2 --cost F=1,B=1,W=1 --json");
    must_be(0);
    all = json_line(0);
    assert_true(json_at(all, "makespan") == 9);
    json_decref(all);
}

static void what_show_writes_is_a_schedule(void **state)
{
    (void)state;
    run_line("schedule show --schedule interleaved --workers 2 --micro-batches 4");
    must_be(0);
    write_text(in_root("mine.txt"), last.out);
    run("schedule", "check", in_root("mine.txt"));
    must_say(0, "", NULL);
    assert_non_null(strstr(last.out, "valid order"));
    run_line("schedule simulate --schedule %s --json", in_root("mine.txt"));
    must_be(0);
    json_t *all = json_line(0);
    assert_true(json_at(all, "makespan") == 4 * 2 * 3 + 3);
    json_decref(all);
    run("info", in_root("mine.txt"));
    must_be(0);
    assert_non_null(strstr(last.out, "schedule"));
    write_corpus(in_root("text"), 3000);
    static double loss[2][5];
    for (int k = 0; k < 2; k++) {
        run_line("train --data %s --layers 2 --heads 2 --width 32 --context 16 --batch 8 --steps 5 --workers %d --micro-batches "
                 "4 --schedule %s "
                 "--out %s --json",
                 in_root("text"), k ? 2 : 1, k ? in_root("mine.txt") : "gpipe", in_root(k ? "file" : "plain"));
        must_be(0);
        for (int i = 0; i < 5; i++) {
            json_t *step = json_line(i);
            loss[k][i] = json_at(step, "loss");
            json_decref(step);
        }
    }
    for (int i = 0; i < 5; i++) assert_true(loss[0][i] == loss[1][i]);
}

static void bad_files_say_which_tasks(void **state)
{
    static const char head[] = "quern-order 1\nworkers 2\nstages 2\nitems 2\n";
    static const struct {
        const char *body, *says;
        int code;
    } cases[] = {
        /* worker 0 wants BW 0.0 before F 0.1, worker 1 F 1.1 before BW 1.0 */
        {"F 0.0 @0\nBW 0.0 @0\nF 0.1 @0\nBW 0.1 @0\nF 1.0 @1\nF 1.1 @1\nBW 1.0 @1\nBW 1.1 @1\n", "wait", 2},
        {"F 0.0 @0\nF 0.1 @0\nB 0.0 @0\nW 0.0 @0\nB 0.1 @0\nF 1.0 @1\nBW 1.0 @1\nF 1.1 @1\nBW 1.1 @1\n", "W 0.1", 2},
        {"F 0.0 @0\nF 0.1 @0\nBW 0.0 @0\nBW 0.1 @0\nF 1.0 @1\nBW 1.0 @1\nF 1.1 @1\n", "1.1", 2},
        {"memory 0 10\nsize act 1 8\nsize stash 0 8\nF 0.0 @0\nF 0.1 @0\nBW 0.0 @0\nBW 0.1 @0\nF 1.0 @1\nBW 1.0 @1\nF 1.1 @1\nBW "
         "1.1 @1\n",
         "bytes", 2},
        {"F 0.0 @0\nF 0.x @0\n", "line", 1},
        {"F 0.0 @7\n", "", 1},
    };
    (void)state;
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        char text[1024];
        snprintf(text, sizeof(text), "%s%s", head, cases[i].body);
        write_text(in_root("bad.txt"), text);
        run("schedule", "check", in_root("bad.txt"));
        if (last.code != cases[i].code || strstr(last.err, cases[i].says) == NULL)
            fail_msg("case %zu: exit %d, '%s' wanted in: %s", i, last.code, cases[i].says, last.err);
    }
    run_line("schedule check %s", in_root("absent"));
    must_be(1);
    run_line("schedule simulate --schedule 1f2b");
    must_say(2, "1f2b", "1f1b");
    static const char *const costs[] = {"F=1",     "F=-1,B=2",  "F=1,B=2,F=3", "X=1",
                                        "F=1;B=2", "F=1e9,B=2", "F=,B=2",      "F=0.0000001,B=1"};
    for (size_t i = 0; i < QN_COUNT(costs); i++) {
        run("schedule", "simulate", "--cost", costs[i]);
        if (last.code != 2) fail_msg("--cost %s: exit %d", costs[i], last.code);
    }
}

static void all_are_listed_and_compared(void **state)
{
    (void)state;
    run("schedule", "list", "--json");
    must_be(0);
    int schedules = 0;
    for (json_t *one; (one = json_line(schedules)) != NULL; schedules++) {
        assert_non_null(json_string_value(json_object_get(one, "paper")));
        json_decref(one);
    }
    assert_true(schedules >= 3);
    run_line("schedule compare --workers 4 --micro-batches 8 --json --svg %s", in_root("all.svg"));
    must_be(0);
    double before = 0;
    for (int i = 0; i < schedules; i++) {
        json_t *one = json_line(i);
        if (json_object_get(one, "refused") != NULL) { /* for one worker only; behind all others */
            before = INFINITY;
            json_decref(one);
            continue;
        }
        assert_true(json_at(one, "makespan") >= before);
        before = json_at(one, "makespan");
        json_decref(one);
    }
    /* a task of a schedule with one chunk covers both of another's, so that all speak of one model */
    run_line("schedule compare --names 1f1b,interleaved --workers 4 --micro-batches 8 --latency 0.5 --json");
    must_be(0);
    json_t *one = json_line(1);
    assert_string_equal(json_string_value(json_object_get(one, "schedule")), "1f1b");
    assert_true(json_at(one, "makespan") >= 2 * 33 && json_at(one, "makespan") < 2 * 33 + 15);
    json_decref(one);
    run_line("schedule compare --names gpipe,1f1b");
    must_be(0);
    assert_null(strstr(last.out, "interleaved"));
}

/* Idle time by cause adds up, memory limits are judged, the page is written. */
static void causes_and_limits(void **state)
{
    static const char *const part[] = {"fill", "drain", "switch", "internal", "blocked_memory", "blocked_transfer"};
    (void)state;
    run_line("schedule simulate --schedule zb-v --workers 4 --micro-batches 8 --latency 0.5 --cost "
             "0-3:F=1,B=2;4-6:F=1.5,B=2;7:F=3,B=5,W=1 --json");
    must_be(0);
    json_t *all = json_line(0);
    for (size_t w = 0; w < 4; w++) {
        double sum = 0;
        for (size_t k = 0; k < QN_COUNT(part); k++) sum += array_at(all, part[k], w);
        assert_true(fabs(sum - array_at(all, "idle_makespan", w)) < 1e-9);
    }
    const json_t *path = json_object_get(all, "critical_path");
    assert_true(json_is_array(path) && json_array_size(path) > 4);
    assert_true(json_at(json_array_get(path, 0), "start") == 0);
    assert_true(json_at(json_array_get(path, json_array_size(path) - 1), "end") == json_at(all, "makespan"));
    assert_true(json_at(all, "exposed") > 0);
    json_decref(all);
    run_line("schedule simulate --schedule 1f1b --workers 4 --micro-batches 8 --memory 3");
    must_say(2, "smallest limit it fits in is 4", NULL);
    run_line("schedule simulate --schedule 1f1b --workers 4 --micro-batches 8 --memory 1K --sizes act=8,stash=256");
    must_say(2, "bytes", NULL);
    run_line("schedule compare --workers 4 --micro-batches 8 --memory 3 --json --html %s", in_root("page.html"));
    must_be(0);
    assert_non_null(strstr(last.out, "\"refused\": \"1f1b"));
    char *page = file_text(in_root("page.html"));
    assert_non_null(strstr(page, "</svg>"));
    qn_free(page);
    run_line("schedule compare --workers 4 --micro-batches 8 --memory 0.25");
    must_say(2, "smallest limit", NULL);
}

/* Names alone, flags that only some schedules have a use for, and refusals that say which numbers work. */
static void names_flags_and_ranges(void **state)
{
    (void)state;
    static const struct {
        const char *line, *says;
        double makespan; /* 0: refused */
    } cases[] = {
        {"simulate dualpipe --workers 8 --micro-batches 20 --cost F=1,B=1,W=1", NULL, 63},
        {"simulate dualpipe --workers 8 --micro-batches 20 --cost F=1,B=1,W=1 --pairs opaque", NULL, 66},
        {"simulate 1f1b --workers 4 --micro-batches 8", NULL, 33},
        {"simulate interleaved --workers 2 --micro-batches 6 --group 3", NULL, 0.5},
        {"simulate roundpipe --workers 2 --micro-batches 6 --pieces 5", NULL, 0.5},
        {"simulate 1f1b zb-v", "one schedule was wanted", 0},
        {"simulate 1f1b --pairs opaque", "dualpipe and dualpipev have pairs", 0},
        {"simulate 1f1b --group 4", "is for interleaved", 0},
        {"simulate 1f1b --pieces 4", "made of pieces", 0},
        {"simulate 1f1b --vocab-shards 3", "needs --vocab-parallel", 0},
        {"simulate dualpipe --workers 3 --micro-batches 5", "for instance 4 and 8", 0},
        {"simulate dualpipe --workers 4 --micro-batches 9", "for instance 4 and 10", 0},
        {"simulate dualpipev --workers 4 --micro-batches 7",
         "at least 8 micro-batches are needed (2 for each worker), or at most 3", 0},
        {"simulate superpipe --workers 2", "superpipe with 2 workers: 1 is possible", 0},
        {"simulate zb-v --workers 2 --cost 0-2:F=1,B=2", "zb-v: costs of 3 stages, but the schedule has 4", 0},
        {"search 1f1b", "stands alone", 0},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        run_line("schedule %s --json", cases[i].line);
        if (cases[i].makespan == 0) {
            must_say(2, cases[i].says, NULL);
            continue;
        }
        must_be(0);
        json_t *all = json_line(0);
        if (cases[i].makespan >= 1) assert_true(json_at(all, "makespan") == cases[i].makespan);
        json_decref(all);
    }
    run_line("schedule compare 1f1b zb-v --json");
    must_be(0);
    assert_non_null(strstr(last.out, "zb-v"));
    assert_null(strstr(last.out, "gpipe"));
    /* parts that all numbers of chunks are made of: nobody is left out for its chunks */
    run_line("schedule compare --chunks 3 --workers 3 --micro-batches 6");
    must_be(0);
    assert_null(strstr(last.out, "a multiple of"));
    /* a limit in bytes chooses v-adaptive's block, too */
    double most[2];
    for (int k = 0; k < 2; k++) {
        run_line("schedule simulate v-adaptive --workers 4 --micro-batches 12 --cost F=3,B=4,W=2 --sizes "
                 "act=1K,stash=100K,wstash=10K --memory %s --json",
                 k ? "600K" : "10M");
        must_be(0);
        json_t *all = json_line(0);
        most[k] = 0;
        for (size_t w = 0; w < 4; w++) most[k] = fmax(most[k], array_at(all, "memory", w));
        json_decref(all);
    }
    assert_true(most[0] > 600 * 1024 && most[1] <= 600 * 1024);
}

/* What search finds is a file that is valid, no longer than what is published, the same for a seed, and trains to the same bits.
 */
static void search_finds_what_train_runs(void **state)
{
    (void)state;
    double makespan[2];
    for (int k = 0; k < 2; k++) {
        run_line("schedule search --workers 2 --micro-batches 4 --cost 0:F=1,B=1,W=1;1:F=2,B=3,W=1;2:F=1,B=1,W=1;3:F=1,B=2,W=2 "
                 "--memory 2 --rounds 500 --json --out %s",
                 in_root(k ? "found2.txt" : "found.txt"));
        must_be(0);
        json_t *all = json_line(0);
        makespan[k] = json_at(all, "makespan");
        assert_true(makespan[k] <= json_at(all, "published_makespan"));
        for (size_t w = 0; w < 2; w++) assert_true(array_at(all, "memory", w) <= 2);
        json_decref(all);
    }
    char *one = file_text(in_root("found.txt")), *two = file_text(in_root("found2.txt"));
    assert_string_equal(one, two);
    qn_free(one);
    qn_free(two);
    run("schedule", "check", in_root("found.txt"));
    must_be(0);
    run_line("schedule simulate --schedule %s --cost 0:F=1,B=1,W=1;1:F=2,B=3,W=1;2:F=1,B=1,W=1;3:F=1,B=2,W=2 --json",
             in_root("found.txt"));
    must_be(0);
    json_t *again = json_line(0);
    assert_true(json_at(again, "makespan") == makespan[0]);
    json_decref(again);
    write_corpus(in_root("text"), 3000);
    double loss[2][3];
    for (int k = 0; k < 2; k++) {
        run_line(
            "train --data %s --layers 2 --heads 2 --width 32 --context 16 --batch 8 --steps 3 --workers %d --micro-batches 4 "
            "--schedule %s --out %s --json",
            in_root("text"), k ? 2 : 1, k ? in_root("found.txt") : "gpipe", in_root(k ? "s-found" : "s-plain"));
        must_be(0);
        for (int i = 0; i < 3; i++) {
            json_t *step = json_line(i);
            loss[k][i] = json_at(step, "loss");
            json_decref(step);
        }
    }
    for (int i = 0; i < 3; i++) assert_true(loss[0][i] == loss[1][i]);
    /* made for other costs, the same losses; a run's costs are used by train and by the tools */
    run_line("train --data %s --layers 2 --heads 2 --width 32 --context 16 --batch 8 --steps 3 --workers 2 --micro-batches 4 "
             "--schedule zb-2p --cost-from %s --out %s --json",
             in_root("text"), in_root("s-found"), in_root("s-costs"));
    must_be(0);
    for (int i = 0; i < 3; i++) {
        json_t *step = json_line(i);
        assert_true(json_at(step, "loss") == loss[0][i]);
        json_decref(step);
    }
    run_line("train --data %s --steps 1 --workers 2 --schedule zb-2p --cost F=1 --out %s", in_root("text"), in_root("s-bad"));
    must_say(2, "both F and B", NULL);
    run_line("schedule simulate --schedule zb-h1 --workers 4 --micro-batches 4 --cost-from %s --json", in_root("s-found"));
    must_be(0);
    json_t *timed = json_line(0);
    assert_true(json_at(timed, "makespan") > 0);
    json_decref(timed);
    /* recomputation, vocabulary shards and copies of the model are starting points, too, and train */
    static const struct {
        const char *search, *train;
        bool same; /* as one copy */
    } more[] = {{"--recompute full --latency 0.3 --memory 2", "", true},
                {"--recompute full --latency 0.3 --memory 0.5", "--device-memory 16M", true},
                {"--cost F=1,B=1,W=1,S=0.4,T=0.6 --vocab-parallel 1", "", false},
                {"--cost 0-2:F=1,B=1,W=1;3:F=5,B=5,W=5", "--grad-groups 2", false}};
    for (size_t k = 0; k < QN_COUNT(more); k++) {
        char out[32];
        snprintf(out, sizeof(out), "s-more%zu", k);
        run_line("schedule search --workers 2 --micro-batches 4 %s --rounds 300 --json --out %s", more[k].search,
                 in_root("more.txt"));
        must_be(0);
        json_t *all = json_line(0);
        assert_true(json_at(all, "makespan") <= json_at(all, "published_makespan"));
        json_decref(all);
        run("schedule", "check", in_root("more.txt"));
        must_be(0);
        run_line("train --data %s --layers 2 --heads 2 --width 32 --context 16 --batch 8 --steps 3 --workers 2 --micro-batches 4 "
                 "--schedule %s %s --out %s --json",
                 in_root("text"), in_root("more.txt"), more[k].train, in_root(out));
        must_be(0);
        for (int i = 0; i < 3; i++) {
            json_t *step = json_line(i);
            const double is = json_at(step, "loss");
            assert_true(more[k].same ? is == loss[0][i] : fabs(is - loss[0][i]) < 1e-3);
            json_decref(step);
        }
    }
    run_line("schedule search --workers 2 --micro-batches 4 --memory 0.25");
    must_say(2, "smallest limit that would do is 0.5 micro", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bubbles_are_the_papers),
        cmocka_unit_test(the_contracts_example_works),
        cmocka_unit_test(causes_and_limits),
        cmocka_unit_test(names_flags_and_ranges),
        cmocka_unit_test(search_finds_what_train_runs),
        cmocka_unit_test(what_show_writes_is_a_schedule),
        cmocka_unit_test(bad_files_say_which_tasks),
        cmocka_unit_test(all_are_listed_and_compared),
    };
    return cmocka_run_group_tests(tests, set_up, remove_root);
}
