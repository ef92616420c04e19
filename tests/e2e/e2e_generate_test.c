/* Generation through the program: many prompts together say what each says alone; drafts change nothing; GGUF files and small
 * directories go through convert, generate and info. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/program.h"

static const char *const prompts[] = {"Once upon", "Tim had a dog", "The", "Lily and her friend went to the park", "A"};
enum { PROMPTS = 5 };
static bool have_stories;

static int set_up(void **state)
{
    (void)state;
    if (make_root("e2e_generate")) return 1;
    const char *weights = data_file("stories260k/stories260K.bin"), *tokens = data_file("stories260k/tok512.bin");
    have_stories = weights != NULL && tokens != NULL;
    FILE *f = fopen(in_root("prompts"), "w");
    if (f == NULL) return 1;
    for (int i = 0; i < PROMPTS; i++) fprintf(f, "%s\n", prompts[i]);
    fclose(f);
    if (!have_stories) return 0;
    run("convert", "--weights", weights, "--tokenizer", tokens, "--out", in_root("stories"));
    return last.code;
}

static json_t *line_of(int64_t i)
{
    json_t *all = json_line((int)i);
    assert_non_null(all);
    return all;
}

static void texts_do_not_depend_on_their_company(void **state)
{
    (void)state;
    if (!have_stories) skip();
    static char alone[PROMPTS][4096];
    for (int i = 0; i < PROMPTS; i++) {
        run("generate", "--model", in_root("stories"), "--prompt", prompts[i], "--max-tokens", "80", "--temperature", "0");
        must_be(0);
        assert_true(strlen(last.out) < sizeof(alone[i]));
        strcpy(alone[i], last.out);
        const size_t n = strlen(alone[i]);
        if (n > 0 && alone[i][n - 1] == '\n') alone[i][n - 1] = '\0';
    }
    static const char *const ways[] = {"--batch 1", "--batch 3 --workers 2", "--batch 16 --threads 2",
                                       "--batch 2 --speculate 5 --workers 3"};
    for (size_t w = 0; w < sizeof(ways) / sizeof(ways[0]); w++) {
        run_line("generate --model %s --prompts %s --max-tokens 80 --temperature 0 --json %s", in_root("stories"),
                 in_root("prompts"), ways[w]);
        must_be(0);
        for (int i = 0; i < PROMPTS; i++) {
            json_t *one = line_of(i);
            assert_string_equal(json_string_value(json_object_get(one, "prompt")), prompts[i]);
            assert_string_equal(json_string_value(json_object_get(one, "says")), alone[i]);
            json_decref(one);
        }
        json_t *sums = line_of(PROMPTS);
        assert_int_equal(json_integer_value(json_object_get(sums, "texts")), PROMPTS);
        const double acceptance = json_number_value(json_object_get(sums, "acceptance"));
        assert_true(w == 3 ? acceptance > 0 && acceptance <= 1 : acceptance == 0);
        json_decref(sums);
    }
    run_line("generate --model %s --prompts %s --max-tokens 4 --temperature 0", in_root("stories"), in_root("prompts"));
    must_be(0);
    assert_non_null(strstr(last.out, "\n----\nTim had a dog"));
}

static void small_directories_say_the_same(void **state)
{
    (void)state;
    if (!have_stories) skip();
    static const char *const kinds[] = {"f32", "bf16", "q8"};
    static char want[PROGRAM_TEXT];
    for (int k = 0; k < 3; k++) {
        run_line("generate --model %s --weights %s --max-tokens 60 --temperature 0", in_root("stories"), kinds[k]);
        must_be(0);
        strcpy(want, last.out);
        run("convert", in_root("stories"), "--store", kinds[k], "--out", in_root("small"), "--force");
        must_be(0);
        run_line("generate --model %s --weights %s --max-tokens 60 --temperature 0", in_root("small"), kinds[k]);
        must_be(0);
        assert_string_equal(last.out, want);
    }
}

static void gguf_files_go_through(void **state)
{
    (void)state;
    static char want[PROGRAM_TEXT];
    static const char *const names[] = {"gguf_llama", "gguf_gpt2"};
    for (int i = 0; i < 2; i++) {
        char path[PROGRAM_PATH];
        const char *source = getenv("QUERN_TEST_SOURCE");
        snprintf(path, sizeof(path), "%s/tests/golden/%s.gguf", source != NULL ? source : ".", names[i]);
        run("info", path, "--json");
        must_be(0);
        assert_non_null(strstr(last.out, "GGUF"));
        run("generate", "--model", path, "--prompt", "ab", "--max-tokens", "8", "--temperature", "0", "--weights", "q8");
        must_be(0);
        strcpy(want, last.out);
        run("convert", path, "--out", in_root("model"), "--force");
        must_be(0);
        run("generate", "--model", in_root("model"), "--prompt", "ab", "--max-tokens", "8", "--temperature", "0", "--weights",
            "q8");
        must_be(0);
        assert_string_equal(last.out, want);
    }
}

static void what_cannot_be_is_told(void **state)
{
    (void)state;
    FILE *f = fopen(in_root("nothing"), "w");
    assert_non_null(f);
    fclose(f);
    run("generate", "--model", in_root("stories"), "--prompts", in_root("nothing"));
    assert_int_equal(last.code, 1);
    assert_non_null(strstr(last.err, "one prompt a line"));
    run("generate", "--model", in_root("stories"), "--prompts", in_root("not there"));
    assert_int_equal(last.code, 1);
    run("generate", "--model", in_root("stories"), "--batch", "0");
    assert_int_equal(last.code, 2);
    run("generate", "--model", in_root("stories"), "--weights", "q4");
    assert_int_equal(last.code, 2);
    f = fopen(in_root("cut.gguf"), "w");
    assert_non_null(f);
    fputs("GGUF\3", f);
    fclose(f);
    run("generate", "--model", in_root("cut.gguf"));
    assert_int_equal(last.code, 1);
    assert_non_null(strstr(last.err, "cut short"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_do_not_depend_on_their_company),
        cmocka_unit_test(small_directories_say_the_same),
        cmocka_unit_test(gguf_files_go_through),
        cmocka_unit_test(what_cannot_be_is_told),
    };
    return cmocka_run_group_tests(tests, set_up, remove_root);
}
