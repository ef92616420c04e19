/* Generation on workers with little memory, through the program: the text of resident weights, from memory and from the files,
 * and exactly the bytes that the window says. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/program.h"

enum { TOKENS = 40, PIECES = 7 };
static bool have_stories;
static char model[PROGRAM_PATH];

static int set_up(void **state)
{
    (void)state;
    if (make_root("e2e_generate_device")) return 1;
    const char *weights = data_file("stories260k/stories260K.bin"), *tokens = data_file("stories260k/tok512.bin");
    have_stories = weights != NULL && tokens != NULL;
    snprintf(model, sizeof(model), "%s", in_root("stories"));
    if (!have_stories) return 0;
    run("convert", "--weights", weights, "--tokenizer", tokens, "--out", model);
    return last.code;
}

static int64_t number(const json_t *j, const char *key)
{
    const json_t *v = json_object_get(j, key);
    assert_true(json_is_integer(v));
    return json_integer_value(v);
}

/* Generates with these flags; the text is the wanted one, or becomes it. Gives what the devices did. */
static json_t *says(char want[PROGRAM_TEXT], const char *weights, const char *flags)
{
    run_line("generate --model %s --weights %s --max-tokens %d --temperature 0 --json %s", model, weights, TOKENS, flags);
    must_be(0);
    json_t *text = json_line(0), *sums = json_line(1);
    assert_non_null(text);
    assert_non_null(sums);
    const char *said = json_string_value(json_object_get(text, "says"));
    if (want[0] == '\0')
        snprintf(want, PROGRAM_TEXT, "%s", said);
    else
        assert_string_equal(said, want);
    json_decref(text);
    return sums;
}

static void every_window_says_the_same(void **state)
{
    (void)state;
    if (!have_stories) skip();
    static char want[PROGRAM_TEXT];
    want[0] = '\0';
    json_decref(says(want, "f32", ""));
    for (int k = 1; k <= PIECES; k++) {
        for (int replace = 1; replace <= k; replace++) {
            char flags[96];
            snprintf(flags, sizeof(flags), "--window %d,%d%s", k, replace, (k + replace) % 2 == 0 ? " --from-file" : "");
            json_t *sums = says(want, "f32", flags);
            const int64_t all = number(sums, "pass_bytes");
            assert_int_equal(number(sums, "passes"), TOKENS);
            assert_int_equal(number(sums, "loaded"), k < PIECES ? all * TOKENS : all);
            assert_true(number(sums, "high_water") <= number(sums, "device_bytes"));
            json_decref(sums);
        }
    }
    json_decref(says(want, "f32", "--window 2 --workers 3 --threads 2"));
    json_decref(says(want, "f32", "--from-file --workers 2"));
    json_decref(says(want, "f32", "--link 100M/s"));
}

/* The smallest memory that is said to do does, and one byte less does not. Returns its share of the weights. */
static double least_memory(const char *weights)
{
    static char want[PROGRAM_TEXT];
    want[0] = '\0';
    json_decref(says(want, weights, ""));
    run_line("generate --model %s --weights %s --max-tokens %d --device-memory 1K", model, weights, TOKENS);
    must_be(2);
    const char *at = strstr(last.err, "the smallest that would do");
    assert_non_null(strstr(last.err, "smaller than one layer: layer "));
    at = at != NULL ? strstr(at, "is ") : NULL;
    assert_non_null(at);
    const long long least = strtoll(at + 3, NULL, 10);
    run_line("generate --model %s --weights %s --max-tokens %d --device-memory %lld", model, weights, TOKENS, least - 1);
    must_be(2);
    double share = 1;
    for (int i = 0; i < 2; i++) {
        char flags[96];
        snprintf(flags, sizeof(flags), "--device-memory %lld --link 2G/s%s", least, i == 0 ? "" : " --from-file");
        json_t *sums = says(want, weights, flags);
        assert_true(number(sums, "high_water") <= least);
        assert_true(number(sums, "device_bytes") <= least);
        share = (double)least / (double)number(sums, "weight_bytes");
        json_decref(sums);
    }
    return share;
}

/* A layer is 15 % of this model's weights, and is there once, packed; half a layer's activations are beside it. */
static void memory_is_a_part_of_the_weights(void **state)
{
    (void)state;
    if (!have_stories) skip();
    const double f32 = least_memory("f32"), q8 = least_memory("q8");
    print_message("least memory: %.1f %% of the weights in f32, %.1f %% in q8\n", 100 * f32, 100 * q8);
    assert_true(f32 < 0.20 && q8 < 0.16);
}

static void what_cannot_be_is_told(void **state)
{
    (void)state;
    if (!have_stories) skip();
    static const char *const wrong[][2] = {{"--link 0", "no bandwidth"},     {"--link fast", "2G/s"},
                                           {"--link 0M/s", "no bandwidth"},  {"--device-memory 1.5", "1.5G"},
                                           {"--window 8", "1 to 7"},         {"--window 0", "--window 0"},
                                           {"--window 2,3", "--window 2,3"}, {"--window 2 --workers 8", "1 to 7"}};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        run_line("generate --model %s --max-tokens 4 %s", model, wrong[i][0]);
        must_be(2);
        assert_non_null(strstr(last.err, wrong[i][1]));
        const char *line = strchr(last.err, '\n');
        assert_true(line != NULL && line[1] == '\0'); /* one sentence */
    }
    run("convert", model, "--store", "q8", "--out", in_root("small"), "--force");
    must_be(0);
    run("generate", "--model", in_root("small"), "--from-file");
    assert_int_not_equal(last.code, 0);
    assert_non_null(strstr(last.err, "8 bits"));
}

static void eval_says_the_same(void **state)
{
    (void)state;
    if (!have_stories) skip();
    static char want[PROGRAM_TEXT];
    FILE *f = fopen(in_root("text"), "w");
    assert_non_null(f);
    for (int i = 0; i < 60; i++) fprintf(f, "Once upon a time there was a dog number %d. He liked to run.\n", i);
    fclose(f);
    static const char *const ways[] = {"", "--window 1", "--window 3,2 --from-file", "--device-memory 4m --link 2g/s --workers 2",
                                       "--device-memory 0.5G --link 1.5GiB/s"};
    for (int i = 0; i < 5; i++) {
        run_line("eval --model %s --data %s --context 64 --json %s", model, in_root("text"), ways[i]);
        must_be(0);
        if (i == 0)
            strcpy(want, last.out);
        else
            assert_string_equal(last.out, want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_window_says_the_same),
        cmocka_unit_test(memory_is_a_part_of_the_weights),
        cmocka_unit_test(what_cannot_be_is_told),
        cmocka_unit_test(eval_says_the_same),
    };
    return cmocka_run_group_tests(tests, set_up, remove_root);
}
