/* Bad input: a clear sentence, exit 1 or 2, and nothing lost or left behind. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/program.h"

#define TINY "--layers 2 --heads 2 --width 32 --context 16 --batch 8 --micro-batches 4"

static char *model, *weights_file; /* a small model and its tensors */
static char *weights;
static size_t weights_bytes;

static int set_up(void **state)
{
    static char dir[PROGRAM_PATH], file[PROGRAM_PATH];
    (void)state;
    if (make_root("e2e_input")) return 1;
    write_corpus(in_root("text"), 3000);
    run_line("train --data %s " TINY " --untied --steps 2 --out %s", in_root("text"), in_root("run"));
    snprintf(dir, sizeof(dir), "%s", in_root("run/checkpoints/step-00000002"));
    snprintf(file, sizeof(file), "%s", in_root("run/checkpoints/step-00000002/model.safetensors"));
    model = dir;
    weights_file = file;
    return last.code != 0 || qn_file_read(&weights, &weights_bytes, file, 16 << 20, NULL) != QN_OK;
}

static int tear_down(void **state)
{
    qn_free(weights);
    return remove_root(state);
}

/* Training on this text fails with both words and leaves no directory. */
static void bad_text(int code, const char *path, const char *more, const char *first, const char *second)
{
    run_line("train --data %s " TINY " --steps 2 --out %s %s", path, in_root("never"), more);
    must_say(code, first, second);
    assert_int_equal(qn_path_exists(in_root("never")), 0);
}

static void texts(void **state)
{
    (void)state;
    bad_text(1, in_root("absent"), "", "absent", NULL);
    write_text(in_root("empty"), "");
    run_line("train --data %s --out %s", in_root("empty"), in_root("never"));
    assert_in_range(last.code, 1, 2);
    assert_non_null(strstr(last.err, "empty"));
    write_text(in_root("latin1"), "na\xEFve text that is not UTF-8, and long enough to be read as a text of some length");
    bad_text(1, in_root("latin1"), "", "UTF-8", "latin1");
    write_text(in_root("cut"), "a text that ends inside a character \xE2\x80");
    bad_text(1, in_root("cut"), "", "UTF-8", NULL);
    write_text(in_root("short"), "too short");
    bad_text(2, in_root("short"), "", "tokens", "--context");
    bad_text(1, test_root, "", test_root, NULL); /* a directory */
    run_line("train " TINY " --out %s", in_root("never"));
    must_say(2, "--data", NULL);
    run_line("train --data %s", in_root("text"));
    must_say(2, "--out", NULL);
}

static void settings_that_cannot_be(void **state)
{
    (void)state;
    bad_text(2, in_root("text"), "--heads 5", "heads", "32");
    bad_text(2, in_root("text"), "--width 0", "width", NULL);
    bad_text(2, in_root("text"), "--tied --untied", "--tied", "--untied");
    bad_text(2, in_root("text"), "--kv-heads 1", "kv-heads", "llama");
    bad_text(2, in_root("text"), "--schedule 1f2b", "1f2b", "1f1b");
    bad_text(2, in_root("text"), "--workers 2 --cuts 9", "cuts", "9");
    bad_text(2, in_root("text"), "--workers 2 --cuts 1,2", "cuts", NULL);
    bad_text(2, in_root("text"), "--workers 2 --memory 1000", "1000", "bytes");
    bad_text(2, in_root("text"), "--transport pigeon", "pigeon", "thread");
    bad_text(2, in_root("text"), "--workers 3 --data-parallel 2", "3 workers", "--workers 2");
    bad_text(2, in_root("text"), "--workers 3 --data-parallel 3 --micro-batches 6", "3 replicas", "power of two");
    bad_text(2, in_root("text"), "--grad-groups 3", "3 groups", "power of two");
    bad_text(2, in_root("text"), "--workers 2 --data-parallel 2 --grad-groups 1", "2 replicas", "at least 2");
    bad_text(2, in_root("text"), "--freeze transformer.wtf*", "transformer.wtf*", "transformer.wte.weight");
    bad_text(2, in_root("text"), "--freeze *", "frozen", "train");
    bad_text(1, in_root("text"), "--tokenizer /nowhere/tokenizer.json", "/nowhere", NULL);
    run_line("tokenize train --data %s --vocab 10 --out %s", in_root("text"), in_root("t.json"));
    must_say(2, "10", NULL);
    run_line("tokenize train --data %s --vocab 100000 --out %s", in_root("text"), in_root("t.json"));
    must_say(2, "100000", NULL);
}

static void more_workers_than_layers_work_and_say_so(void **state)
{
    (void)state;
    run_line("train --data %s " TINY " --steps 2 --workers 6 --out %s", in_root("text"), in_root("many"));
    must_be(0);
    assert_non_null(strstr(last.err, "empty"));
}

static void a_loss_that_is_not_finite_stops(void **state)
{
    (void)state;
    run_line("train --data %s " TINY " --steps 400 --lr 100 --clip 0 --warmup 0 --weight-decay 100 --save-every 1 --out %s",
             in_root("text"), in_root("nan"));
    must_say(1, "step", "last good checkpoint");
    run_line("generate --model %s --max-tokens 3", in_root("nan"));
    must_be(0);
}

/* Replaces from by to (of the same length) once in the header of the model's tensors. */
static void patched(const char *from, const char *to)
{
    char *copy = malloc(weights_bytes);
    assert_non_null(copy);
    memcpy(copy, weights, weights_bytes);
    assert_int_equal(strlen(from), strlen(to));
    char *at = memmem(copy, weights_bytes < 8192 ? weights_bytes : 8192, from, strlen(from));
    if (at == NULL) fail_msg("no '%s' in the header", from);
    memcpy(at, to, strlen(to));
    assert_int_equal(qn_file_write(weights_file, copy, weights_bytes, NULL), QN_OK);
    free(copy);
    run_line("generate --model %s --max-tokens 3", model);
}

static void tensors_that_do_not_fit(void **state)
{
    (void)state;
    patched("transformer.ln_f.bias", "transformer.ln_f.bixs");
    must_say(1, "transformer.ln_f.bixs", "wanted");
    patched("\"shape\":[32,32]", "\"shape\":[16,64]");
    must_say(1, "[16, 64]", "32");
    patched("\"dtype\":\"F32\"", "\"dtype\":\"I32\"");
    must_say(1, "transformer", NULL);
    patched("\"data_offsets\":[0,", "\"data_offsets\":[4,");
    must_be(1);
    assert_int_equal(qn_file_write(weights_file, weights, weights_bytes, NULL), QN_OK);
}

static void files_cut_short_anywhere(void **state)
{
    (void)state;
    for (size_t keep = 0; keep < weights_bytes; keep += keep < 16 ? 3 : weights_bytes / 5) {
        assert_int_equal(qn_file_write(weights_file, weights, keep, NULL), QN_OK);
        run_line("info %s", model);
        must_say(1, "safetensors", NULL);
        run_line("generate --model %s --max-tokens 3", model);
        must_be(1);
    }
    assert_int_equal(qn_file_write(weights_file, weights, weights_bytes, NULL), QN_OK);
    run_line("generate --model %s --max-tokens 3", model);
    must_be(0);
    const char *stories = data_file("stories260k/stories260K.bin"), *tokens = data_file("stories260k/tok512.bin");
    if (stories == NULL || tokens == NULL) return;
    char *raw;
    size_t bytes;
    assert_int_equal(qn_file_read(&raw, &bytes, stories, 16 << 20, NULL), QN_OK);
    const size_t cuts[] = {0, 10, 28, 5000, bytes - 4};
    for (size_t i = 0; i < QN_COUNT(cuts); i++) {
        assert_int_equal(qn_file_write(in_root("cut.bin"), raw, cuts[i], NULL), QN_OK);
        run_line("convert --from llama2c --weights %s --tokenizer %s --out %s", in_root("cut.bin"), tokens, in_root("cut_model"));
        must_say(1, "cut.bin", NULL);
        assert_int_equal(qn_path_exists(in_root("cut_model")), 0);
    }
    qn_free(raw);
}

static void hostile_tokenizers(void **state)
{
    char *deep = malloc(200001);
    (void)state;
    assert_non_null(deep);
    memset(deep, '[', 200000);
    deep[200000] = '\0';
    write_text(in_root("deep.json"), deep);
    memcpy(deep, "{\"a\":", 5);
    write_text(in_root("deeper.json"), deep);
    free(deep);
    write_text(in_root("twice.json"),
               "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [\"a b\", \"a b\"]}}");
    write_text(in_root("huge.json"), "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 99999999999}, \"merges\": []}}");
    write_text(in_root("kind.json"), "{\"model\": {\"type\": \"Unigram\", \"vocab\": []}}");
    static const char *const names[] = {"deep.json", "deeper.json", "twice.json", "huge.json", "kind.json"};
    for (size_t i = 0; i < QN_COUNT(names); i++) {
        run_line("train --data %s " TINY " --steps 2 --tokenizer %s --out %s", in_root("text"), in_root(names[i]),
                 in_root("never"));
        assert_in_range(last.code, 1, 2);
        assert_non_null(strstr(last.err, names[i]));
        assert_int_equal(qn_path_exists(in_root("never")), 0);
    }
}

static void models_that_are_none(void **state)
{
    (void)state;
    run_line("generate --max-tokens 3");
    must_say(2, "--model", NULL);
    run_line("generate --model %s", in_root("absent"));
    must_say(1, "absent", NULL);
    run_line("generate --model %s", test_root);
    must_say(1, "config.json", "checkpoint");
    run_line("eval --model %s --data %s", model, in_root("empty"));
    assert_in_range(last.code, 1, 2);
    run_line("eval --model %s", model);
    must_say(2, "--data", NULL);
    run("generate", "--model", model, "--prompt", "~ is no character of the text");
    must_say(1, "~", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts),
        cmocka_unit_test(settings_that_cannot_be),
        cmocka_unit_test(more_workers_than_layers_work_and_say_so),
        cmocka_unit_test(a_loss_that_is_not_finite_stops),
        cmocka_unit_test(tensors_that_do_not_fit),
        cmocka_unit_test(files_cut_short_anywhere),
        cmocka_unit_test(hostile_tokenizers),
        cmocka_unit_test(models_that_are_none),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
