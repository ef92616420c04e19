/* quern train, as a user runs it: its JSON, its directory, refusals, interruption and resumption. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/program.h"

#define TINY "--layers 2 --heads 2 --width 32 --context 16 --batch 8 --warmup 5 --lr 3e-3 --micro-batches 4"

static int set_up(void **state)
{
    (void)state;
    if (make_root("e2e_train")) return 1;
    write_corpus(in_root("text"), 4000);
    return 0;
}

static void json_says_what_the_contract_says(void **state)
{
    static const char *const keys[] = {"step", "loss", "grad_norm", "lr", "tokens_per_s", "step_ms"};
    (void)state;
    run_line("train --data %s " TINY " --steps 20 --workers 2 --out %s --json", in_root("text"), in_root("contract"));
    must_be(0);
    double first = NAN, loss = NAN;
    for (int64_t i = 0; i < 20; i++) {
        json_t *step = json_line(i);
        assert_non_null(step);
        for (size_t k = 0; k < QN_COUNT(keys); k++) json_at(step, keys[k]);
        assert_int_equal(json_at(step, "step"), i + 1);
        loss = json_at(step, "loss");
        if (i == 0) first = loss;
        json_decref(step);
    }
    assert_true(loss < first - 0.2);
    json_t *done = json_line(20);
    assert_non_null(done);
    assert_true(json_is_true(json_object_get(done, "done")));
    assert_int_equal(json_at(done, "steps"), 20);
    assert_true(json_at(done, "val_loss") > 0 && json_at(done, "tokens_per_s") > 0);
    json_decref(done);
    assert_null(json_line(21));
}

static void a_run_leaves_what_it_says(void **state)
{
    static const char *const left[] = {"config.json",
                                       "metrics.sqlite",
                                       "log.jsonl",
                                       "trace.json",
                                       "profile.json",
                                       "report.html",
                                       "tokens.bin",
                                       "checkpoints/step-00000003/model.safetensors",
                                       "checkpoints/step-00000003/quern/state.json"};
    (void)state;
    run_line("train --data %s " TINY " --steps 3 --eval-every 1 --out %s", in_root("text"), in_root("left"));
    must_be(0);
    assert_true(strlen(last.out) > 4); /* the sample */
    for (size_t i = 0; i < QN_COUNT(left); i++) {
        char name[200];
        snprintf(name, sizeof(name), "left/%s", left[i]);
        if (qn_path_exists(in_root(name)) != 1) fail_msg("the run left no %s", left[i]);
    }
    run("info", in_root("left"), "--json");
    must_be(0);
    json_t *info = json_line(0);
    assert_string_equal(json_string_value(json_object_get(info, "kind")), "run");
    assert_int_equal(json_at(info, "checkpoint_step"), 3);
    assert_int_equal(json_at(info, "last_step"), 3);
    json_decref(info);
}

static void an_existing_run_is_refused(void **state)
{
    (void)state;
    run_line("train --data %s " TINY " --steps 2 --out %s", in_root("text"), in_root("twice"));
    must_be(0);
    char *before = file_text(in_root("twice/config.json"));
    run_line("train --data %s " TINY " --steps 5 --out %s", in_root("text"), in_root("twice"));
    must_say(2, "--resume", "--force");
    char *after = file_text(in_root("twice/config.json"));
    assert_string_equal(before, after);
    run_line("train --resume --out %s", in_root("twice"));
    must_say(1, "finished", NULL);
    run_line("train --resume --width 64 --out %s", in_root("twice"));
    must_say(2, "--width is 64", "32");
    run_line("train --data %s " TINY " --steps 3 --force --out %s", in_root("text"), in_root("twice"));
    must_be(0);
    run_line("train --resume --out %s", in_root("nowhere"));
    must_say(1, "no run", NULL);
    qn_free(before);
    qn_free(after);
}

/* Starts a run, interrupts it when it has said n lines, and collects all that it said. */
static void interrupted_run(const char *line_text, int n)
{
    char line[4096], *argv[PROGRAM_ARGS];
    int ends[2];
    size_t used = 0;
    bool sent = false;
    snprintf(line, sizeof(line), "%s", line_text);
    split_line(argv, line);
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    const pid_t child = start_program("quern", argv, ends[1]);
    close(ends[1]);
    for (ssize_t got; (got = read(ends[0], last.out + used, PROGRAM_TEXT - 1 - used)) > 0;) {
        used += (size_t)got;
        last.out[used] = '\0';
        int lines = 0;
        for (const char *at = last.out; (at = strchr(at, '\n')) != NULL; at++) lines++;
        if (lines >= n && !sent) {
            kill(child, SIGINT);
            sent = true;
        }
    }
    close(ends[0]);
    last.code = wait_for(child);
    read_back(last.err, in_root("stderr"));
}

enum { STEPS = 600 };

static void losses_of_last(double *loss, int64_t *first, int64_t *count)
{
    *count = 0;
    for (int64_t i = 0;; i++) {
        json_t *step = json_line(i);
        if (step == NULL) break;
        if (json_object_get(step, "step") != NULL) {
            if (i == 0) *first = (int64_t)json_at(step, "step");
            loss[(int64_t)json_at(step, "step") - 1] = json_at(step, "loss");
            ++*count;
        }
        json_decref(step);
    }
}

/* Ctrl-C: the step is finished and saved; resuming, on other workers and another schedule, gives the losses of a run that was
 * never interrupted, bit for bit (17 significant digits tell doubles apart). */
static void ctrl_c_saves_and_resuming_is_exact(void **state)
{
    static double whole[STEPS], pieces[STEPS];
    char line[2048];
    int64_t first = 0, count = 0, done, from;
    (void)state;
    run_line("train --data %s " TINY " --dropout 0.1 --steps %d --workers 2 --out %s --json", in_root("text"), STEPS,
             in_root("whole"));
    must_be(0);
    losses_of_last(whole, &first, &count);
    assert_int_equal(count, STEPS);
    snprintf(line, sizeof(line), "train --data %s " TINY " --dropout 0.1 --steps %d --workers 2 --out %s --json", in_root("text"),
             STEPS, in_root("pieces"));
    interrupted_run(line, 7);
    must_say(130, "interrupted after step", "--resume");
    losses_of_last(pieces, &first, &done);
    assert_in_range(done, 7, STEPS - 1);
    snprintf(line, sizeof(line), "train --resume --out %s --workers 3 --schedule gpipe --json", in_root("pieces"));
    interrupted_run(line, 5);
    must_be(130);
    losses_of_last(pieces, &from, &count);
    assert_int_equal(from, done + 1);
    run_line("train --resume --out %s --workers 1 --threads 2 --recompute full --json", in_root("pieces"));
    must_be(0);
    losses_of_last(pieces, &from, &count);
    assert_int_equal(from + count - 1, STEPS);
    for (int i = 0; i < STEPS; i++)
        if (whole[i] != pieces[i]) fail_msg("step %d: %.17g in one piece, %.17g in three", i + 1, whole[i], pieces[i]);
}

static void a_wrong_flag_names_the_nearest(void **state)
{
    (void)state;
    run_line("train --wdith 64");
    must_say(2, "--wdith", "--width");
    run_line("trian");
    must_say(2, "trian", "train");
    run_line("train --micro_batch 3");
    must_say(2, "--micro-batches", NULL);
    run_line("train --steps many --out x");
    must_say(2, "steps", "many");
    run_line("train --arch gtp2 --out x");
    must_say(2, "gpt2", NULL);
    run_line("train --help");
    must_be(0);
    assert_non_null(strstr(last.out, "--micro-batches"));
    run_line("--version");
    must_be(0);
    assert_non_null(strstr(last.out, "quern "));
    assert_null(strstr(last.out, "@"));
}

static void a_disk_that_is_full_loses_nothing_saved(void **state)
{
    char line[2048];
    (void)state;
    snprintf(line, sizeof(line), "train --data %s " TINY " --steps %d --out %s --json", in_root("text"), STEPS, in_root("full"));
    interrupted_run(line, 3);
    must_be(130);
    file_limit = 60000; /* less than the model */
    run_line("train --resume --out %s --save-every 2", in_root("full"));
    file_limit = 0;
    must_be(1);
    assert_true(strlen(last.err) > 10);
    run_line("generate --model %s --max-tokens 5", in_root("full"));
    must_be(0);
    run_line("train --resume --out %s", in_root("full"));
    must_be(0);
}

static void the_example_runs(void **state)
{
    char *argv[] = {(char *)(uintptr_t) "example_hello_pipeline", in_root("text"), in_root("hello"), NULL};
    (void)state;
    run_args("example_hello_pipeline", argv);
    must_be(0);
    assert_non_null(strstr(last.out, "step 200 of 200"));
    assert_int_equal(qn_path_exists(in_root("hello/report.html")), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_says_what_the_contract_says),
        cmocka_unit_test(a_run_leaves_what_it_says),
        cmocka_unit_test(an_existing_run_is_refused),
        cmocka_unit_test(ctrl_c_saves_and_resuming_is_exact),
        cmocka_unit_test(a_wrong_flag_names_the_nearest),
        cmocka_unit_test(a_disk_that_is_full_loses_nothing_saved),
        cmocka_unit_test(the_example_runs),
    };
    return cmocka_run_group_tests(tests, set_up, remove_root);
}
