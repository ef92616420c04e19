/* quern schedule with devices and several steps, as a user meets them: exit codes, JSON, a run's own profile; and that the lines
 * of docs/schedule-tools.md do what they say. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/program.h"

#include "quern/config.h"
#include "quern/schedule.h"
#include "quern/session.h"
#include "quern/bench.h"

static int set_up(void **state)
{
    (void)state;
    return make_root("e2e_schedule_device");
}

static double first_of(const json_t *all, const char *key)
{
    const json_t *x = json_array_get(json_object_get(all, key), 0);
    if (!json_is_number(x)) fail_msg("no %s[0]", key);
    return json_number_value(x);
}

/* A model is trained on devices; its profile says what its stages weigh, and the tools copy as many bytes as the run did. */
static void a_run_is_simulated_from_its_profile(void **state)
{
    (void)state;
    write_corpus(in_root("text"), 3000);
    run_line("train --data %s --layers 3 --heads 2 --width 32 --context 16 --batch 4 --steps 3 --workers 1 --micro-batches 2 "
             "--schedule superpipe --device-memory 8M --window 2 --link 1G/s --no-pin --out %s",
             in_root("text"), in_root("run"));
    must_be(0);
    char *text = file_text(in_root("run/profile.json"));
    json_t *profile = json_loads(text, 0, NULL), *stages = json_object_get(profile, "stages");
    double weights = 0, most = 0, grads = 0;
    const size_t n = json_array_size(stages);
    assert_true(n == 5);
    for (size_t i = 0; i < n; i++) {
        const double w = json_at(json_array_get(stages, i), "weights");
        weights += w;
        grads += json_at(json_array_get(stages, i), "grads");
        most = w > most ? w : most;
    }
    assert_true(weights > 0 && grads == weights);
    qn_free(text);
    run_line("schedule simulate superpipe --workers 1 --pieces 5 --micro-batches 2 --cost-from %s --link 50M/s --window 2 --json",
             in_root("run"));
    must_be(0);
    json_t *all = json_line(0);
    /* forward and backward each bring all up, less the two that are there when it turns round; inputs of stages besides */
    assert_true(first_of(all, "bytes_up") > 1.2 * weights && first_of(all, "bytes_down") >= grads);
    assert_true(first_of(all, "blocked_transfer") + first_of(all, "blocked_memory") + first_of(all, "fill") > 0);
    json_decref(all);
    run_line("schedule simulate superpipe --workers 1 --pieces 5 --micro-batches 2 --cost-from %s --device-memory %.0f",
             in_root("run"), most - 1);
    must_say(2, "smaller than stage", "the smallest that would do");
    json_decref(profile);
}

static void numbers_come_as_json(void **state)
{
    (void)state;
    run_line("schedule simulate zb-v --workers 3 --micro-batches 6 --cost F=1,B=1,W=1 --steps 6 --post-validate --json");
    must_be(0);
    json_t *all = json_line(0);
    assert_true(json_at(all, "steps") == 6 && json_array_size(json_object_get(all, "step_time")) == 6);
    assert_true(json_at(json_object_get(all, "steady"), "bubble") == 0);
    json_decref(all);
    run_line("schedule check zb-h1 --workers 3 --device-memory 1G --sizes weights=1M,act=1K --json");
    must_be(0);
    all = json_line(0);
    assert_true(first_of(all, "arena_bytes") >= 1 << 20);
    json_decref(all);
    run_line("schedule compare 1f1b zb-h1 --workers 3 --steps 5 --cost F=1,B=1,W=1");
    must_be(0);
    assert_true(strstr(last.out, "zb-h1") < strstr(last.out, "1f1b") && strstr(last.out, "steady step") != NULL);
    run_line("schedule show superpipe --workers 1 --link 1G/s --sizes weights=4M --cost F=1,B=2");
    must_be(0);
    write_text(in_root("shown.txt"), last.out); /* the picture is a comment, the rest is a file */
    run_line("schedule check %s", in_root("shown.txt"));
    must_be(0);
    run_line("schedule search --workers 2 --micro-batches 4 --cost 0-2:F=1,B=1,W=1;3:F=5,B=5,W=5 --rounds 200 --json");
    must_be(0);
    all = json_line(0);
    const json_t *with = json_object_get(all, "train_with");
    assert_true(json_is_array(with) && json_array_size(with) == (json_at(all, "copies") > 1));
    json_decref(all);
}

static void bad_numbers_end_with_2(void **state)
{
    static const struct {
        const char *line, *says;
    } bad[] = {
        {"simulate roundpipe --link 0/s", "no bandwidth"},
        {"simulate roundpipe --link 1G/s", "--sizes weights"},
        {"show superpipe --workers 1 --window 3,4 --sizes weights=1M", "1 to k"},
        {"check 1f1b --device-memory 1K --sizes weights=1M", "smaller than stage 0"},
        {"compare --device-memory 1K --sizes weights=1M", "smaller than stage 0"},
        {"simulate 1f1b --device-memory 1536K --sizes weights=1M", "the smallest that would do"},
        {"simulate 1f1b --sizes weight=1M", "weights or grads"},
        {"simulate 1f1b --sizes 0:weights=1M;2:weights=1M --cost F=1,B=1", "stage 1 was wanted"},
        {"simulate 1f1b --sizes 0-2:weights=1M --cost F=1,B=1 --link 1G/s", "costs of 3 stages"},
        {"simulate 1f1b --post-validate", "--steps 8"},
        {"simulate 1f1b --steps 0", "--steps"},
        {"simulate zb-h2 --steps 3 --post-validate --optimizer-lag 1", "choose one"},
        {"search --link 1G/s --sizes weights=1M", "search knows"},
        {"search --steps 3", "search knows"},
        {"check", "check wants one schedule"},
    };
    (void)state;
    for (size_t i = 0; i < QN_COUNT(bad); i++) {
        run_line("schedule %s", bad[i].line);
        if (last.code != 2 || strstr(last.err, bad[i].says) == NULL || last.out[0] != '\0')
            fail_msg("schedule %s: exit %d, '%s' wanted in: %s", bad[i].line, last.code, bad[i].says, last.err);
    }
}

/* ---- docs/schedule-tools.md */

static char *tools_page(void)
{
    char path[PROGRAM_PATH];
    const char *source = getenv("QUERN_TEST_SOURCE");
    snprintf(path, sizeof path, "%s/docs/schedule-tools.md", source != NULL ? source : ".");
    return file_text(path);
}

static bool has_flag(const qn_table *table, const char *name, size_t len)
{
    for (size_t i = 0; i < table->count; i++)
        if (strlen(table->keys[i].name) == len && strncmp(table->keys[i].name, name, len) == 0) return true;
    return false;
}

/* Every --flag that the page names is one of these verbs', and every flag of quern schedule is on the page or says itself. */
static void the_page_names_flags_that_exist(void **state)
{
    (void)state;
    static const char own[] = "json";
    char *page = tools_page();
    for (const char *at = strstr(page, "--"); at != NULL; at = strstr(at + 2, "--")) {
        const size_t len = strspn(at + 2, "abcdefghijklmnopqrstuvwxyz0123456789-");
        if (len == 0 || (at > page && (at[-1] == '-' || at[-1] == '|'))) continue;
        const bool known = has_flag(&qn_schedule_table, at + 2, len) || has_flag(&qn_train_table, at + 2, len) ||
                           has_flag(&qn_bench_table, at + 2, len) || (len == sizeof own - 1 && strncmp(at + 2, own, len) == 0);
        if (!known) fail_msg("docs/schedule-tools.md names --%.*s, which no verb takes", (int)len, at + 2);
    }
    qn_free(page);
}

static void put_in_place(char *line, size_t cap, const char *name, const char *path)
{
    char *at = strstr(line, name), rest[1024];
    if (at == NULL) return;
    snprintf(rest, sizeof rest, "%s", at + strlen(name));
    snprintf(at, cap - (size_t)(at - line), "%s%s", path, rest);
}

/* Lines "    quern schedule .." run, with files of the user's made here. */
static void the_pages_lines_run(void **state)
{
    (void)state;
    char *page = tools_page(), *lines;
    int ran = 0;
    run_line("schedule show 1f1b --workers 4 --micro-batches 16");
    write_text(in_root("mine.txt"), last.out);
    for (char *at = strtok_r(page, "\n", &lines); at != NULL; at = strtok_r(NULL, "\n", &lines)) {
        static const char begins[] = "    quern schedule ";
        static const char *const made[] = {"page.html", "zb-v.svg", "roundpipe.svg", "mine.txt"};
        char line[2048];
        if (strncmp(at, begins, sizeof begins - 1) != 0) continue;
        snprintf(line, sizeof line, "%.1500s", at + sizeof begins - 1);
        line[strcspn(line, "#")] = '\0';
        for (char *quote = strchr(line, '\''); quote != NULL; quote = strchr(quote, '\'')) /* as a shell would */
            memmove(quote, quote + 1, strlen(quote));
        for (size_t i = 0; i < QN_COUNT(made); i++) put_in_place(line, sizeof line, made[i], in_root(made[i]));
        put_in_place(line, sizeof line, "runs/first", in_root("run"));
        if (strncmp(line, "search", 6) == 0) snprintf(line + strlen(line), sizeof line - strlen(line), " --rounds 50");
        run_line("schedule %s", line);
        if (last.code != 0) fail_msg("docs/schedule-tools.md: quern schedule %s: %s", line, last.err);
        ran++;
    }
    qn_free(page);
    assert_true(ran >= 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_is_simulated_from_its_profile),
        cmocka_unit_test(numbers_come_as_json),
        cmocka_unit_test(bad_numbers_end_with_2),
        cmocka_unit_test(the_page_names_flags_that_exist),
        cmocka_unit_test(the_pages_lines_run),
    };
    return cmocka_run_group_tests(tests, set_up, remove_root);
}
