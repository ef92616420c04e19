/* A real model through the program: convert, generate, eval, info, on any number of workers; and tokenizers that are learned. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/program.h"

static bool have_stories;

static int set_up(void **state)
{
    (void)state;
    if (make_root("e2e_model")) return 1;
    write_corpus(in_root("text"), 4000);
    const char *weights = data_file("stories260k/stories260K.bin"), *tokens = data_file("stories260k/tok512.bin");
    have_stories = weights != NULL && tokens != NULL;
    if (!have_stories) return 0;
    run("convert", "--from", "llama2c", "--weights", weights, "--tokenizer", tokens, "--out", in_root("stories"));
    return last.code;
}

static void need_stories(void)
{
    if (!have_stories) skip();
}

static void greedy_text_is_the_known_one_on_any_workers(void **state)
{
    (void)state;
    need_stories();
    char *want = file_text(data_file("stories260k/greedy.txt"));
    if (want[strlen(want) - 1] == '\n') want[strlen(want) - 1] = '\0';
    for (int workers = 1; workers <= 4; workers++) {
        run_line("generate --model %s --max-tokens 257 --temperature 0 --workers %d", in_root("stories"), workers);
        must_be(0);
        const size_t n = strlen(last.out);
        if (n > 0 && last.out[n - 1] == '\n') last.out[n - 1] = '\0';
        if (strcmp(last.out, want) != 0) fail_msg("%d workers wrote: %s", workers, last.out);
    }
    qn_free(want);
}

static void more_workers_than_layers_work(void **state)
{
    (void)state;
    need_stories();
    run_line("generate --model %s --max-tokens 8 --temperature 0 --workers 9", in_root("stories"));
    must_be(0);
    assert_int_equal(strncmp(last.out, "Once upon", 9), 0);
}

static double eval_loss(const char *more)
{
    run_line("eval --model %s --data %s --json %s", in_root("stories"), data_file("stories260k/greedy.txt"), more);
    must_be(0);
    json_t *all = json_line(0);
    const double loss = json_at(all, "loss");
    assert_true(fabs(json_at(all, "perplexity") - exp(loss)) < 1e-9 * exp(loss));
    const double bits = loss * json_at(all, "tokens") / log(2) / json_at(all, "bytes");
    assert_true(fabs(json_at(all, "bits_per_byte") - bits) < 1e-9);
    json_decref(all);
    return loss;
}

static void evaluation_does_not_depend_on_workers(void **state)
{
    (void)state;
    need_stories();
    const double one = eval_loss("");
    assert_true(one > 0 && one < 1); /* the model's own greedy text */
    assert_true(eval_loss("--workers 2") == one);
    assert_true(eval_loss("--workers 3 --batch 2") == one);
    assert_true(fabs(eval_loss("--dtype bf16") - one) < 1e-2);
}

static void sampling_repeats_with_its_seed(void **state)
{
    static char first[PROGRAM_TEXT];
    (void)state;
    need_stories();
    run_line("generate --model %s --max-tokens 40 --temperature 1 --top-k 40 --top-p 0.95 --min-p 0.01 --seed 7",
             in_root("stories"));
    must_be(0);
    strcpy(first, last.out);
    run_line("generate --model %s --max-tokens 40 --temperature 1 --top-k 40 --top-p 0.95 --min-p 0.01 --seed 7 --workers 2",
             in_root("stories"));
    assert_string_equal(first, last.out);
    run_line("generate --model %s --max-tokens 40 --temperature 1 --seed 8", in_root("stories"));
    assert_string_not_equal(first, last.out);
    run("generate", "--model", in_root("stories"), "--prompt", "Tim had a dog", "--max-tokens", "5", "--temperature", "0");
    must_be(0);
    assert_int_equal(strncmp(last.out, "Tim had a dog", 13), 0);
}

/* Kind of what info finds at a path. */
static void must_be_kind(const char *path, const char *kind)
{
    run("info", path, "--json");
    must_be(0);
    json_t *all = json_line(0);
    assert_string_equal(json_string_value(json_object_get(all, "kind")), kind);
    json_decref(all);
    run("info", path);
    must_be(0);
    assert_int_equal(strncmp(last.out, "kind", 4), 0);
}

static void info_knows_the_files(void **state)
{
    (void)state;
    run_line("train --data %s --layers 2 --heads 2 --width 32 --context 16 --steps 2 --out %s", in_root("text"), in_root("run"));
    must_be(0);
    must_be_kind(in_root("run"), "run");
    must_be_kind(in_root("run/checkpoints/step-00000002"), "checkpoint");
    must_be_kind(in_root("run/checkpoints/step-00000002/model.safetensors"), "safetensors");
    must_be_kind(in_root("run/tokenizer.json"), "tokenizer");
    must_be_kind(in_root("run/tokens.bin"), "token shard");
    if (have_stories) {
        must_be_kind(in_root("stories"), "model");
        must_be_kind(data_file("stories260k/stories260K.bin"), "llama2.c weights");
        must_be_kind(data_file("stories260k/tok512.bin"), "tokenizer");
    }
    run("info", in_root("text"));
    must_say(1, "nothing that Quern knows", "safetensors");
    run("info", in_root("nothing"));
    must_say(1, "there is no", NULL);
}

static void a_learned_tokenizer_trains_a_model(void **state)
{
    (void)state;
    run_line("tokenize train --data %s --vocab 280 --out %s", in_root("text"), in_root("tokenizer.json"));
    must_be(0);
    run_line("tokenize train --data %s --vocab 280 --out %s", in_root("text"), in_root("tokenizer.json"));
    must_say(2, "exists", "--force");
    run("info", in_root("tokenizer.json"), "--json");
    must_be(0);
    json_t *all = json_line(0);
    assert_int_equal(json_at(all, "vocabulary"), 280);
    json_decref(all);
    run_line("train --data %s --tokenizer %s --arch llama --kv-heads 1 --heads 2 --layers 3 --width 32 --context 16 --steps 3 "
             "--workers 2 "
             "--schedule interleaved --out %s",
             in_root("text"), in_root("tokenizer.json"), in_root("learned"));
    must_be(0);
    run("generate", "--model", in_root("learned"), "--prompt", "the mill", "--max-tokens", "6");
    must_be(0);
    assert_int_equal(strncmp(last.out, "the mill", 8), 0);
    run_line("train --data %s --init %s --steps 2 --context 16 --out %s", in_root("text"), in_root("learned"), in_root("tuned"));
    must_be(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_text_is_the_known_one_on_any_workers),
        cmocka_unit_test(more_workers_than_layers_work),
        cmocka_unit_test(evaluation_does_not_depend_on_workers),
        cmocka_unit_test(sampling_repeats_with_its_seed),
        cmocka_unit_test(info_knows_the_files),
        cmocka_unit_test(a_learned_tokenizer_trains_a_model),
    };
    return cmocka_run_group_tests(tests, set_up, remove_root);
}
