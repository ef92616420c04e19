/* Fine-tuning with adapters through the program: a base, adapters on it on any spread of work, stop and resume, merge, generate,
 * evaluate; and who is refused. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/program.h"

#define TINY  "--layers 2 --heads 2 --width 32 --context 16 --batch 8 --micro-batches 4 --steps 4 --lr 1e-2 --warmup 1"
#define TUNED "--context 16 --batch 8 --micro-batches 4 --steps 8 --lr 1e-2 --warmup 1 --lora-rank 2 --lora-alpha 4"

static const char *const arch[] = {"gpt2", "llama"};

static int set_up(void **state)
{
    (void)state;
    if (make_root("e2e_lora")) return 1;
    write_corpus(in_root("text"), 3000);
    for (int a = 0; a < 2; a++) {
        run_line("train --data %s --arch %s " TINY " --out %s", in_root("text"), arch[a], in_root(arch[a]));
        if (last.code != 0) return 1;
    }
    return 0;
}

static char *bytes_of(const char *name, size_t *n)
{
    char *text = NULL;
    assert_int_equal(qn_file_read(&text, n, in_root(name), 64 << 20, NULL), QN_OK);
    return text;
}

static void assert_same_file(const char *a, const char *b)
{
    size_t n, k;
    char *x = bytes_of(a, &n), *y = bytes_of(b, &k);
    assert_int_equal(n, k);
    assert_memory_equal(x, y, n);
    qn_free(x);
    qn_free(y);
}

#define LAST    "/checkpoints/step-00000008"
#define ADAPTER LAST "/adapter_model.safetensors"
#define MOMENTS LAST "/quern/optimizer.safetensors"

/* One run on one worker; another, stopped half-way by its budget of checkpoints, on two. The files are the same, byte for byte.
 */
static void the_same_adapter_on_any_spread_and_after_resume(void **state)
{
    (void)state;
    for (int a = 0; a < 2; a++) {
        char base[PROGRAM_PATH];
        snprintf(base, sizeof(base), "%s", in_root(arch[a]));
        run_line("train --data %s --init %s " TUNED " --lora-targets q,o,down --save-every 4 --keep 9 --out %s --force",
                 in_root("text"), base, in_root("one"));
        must_be(0);
        assert_non_null(strstr(last.err, "trained)"));
        run_line("train --data %s --init %s " TUNED
                 " --lora-targets q,o,down --workers 3 --schedule gpipe --recompute full --out %s --force",
                 in_root("text"), base, in_root("three"));
        must_be(0);
        assert_same_file("one" ADAPTER, "three" ADAPTER);
        assert_same_file("one" MOMENTS, "three" MOMENTS);
        assert_int_equal(qn_remove_tree(in_root("one" LAST), NULL), QN_OK); /* back to step 4 */
        run_line("train --resume --out %s --workers 2 --schedule zb-h1", in_root("one"));
        must_be(0);
        assert_same_file("one" ADAPTER, "three" ADAPTER);
        assert_same_file("one" MOMENTS, "three" MOMENTS);
        run_line("train --resume --out %s --lora-rank 3", in_root("one"));
        must_say(2, "lora-rank", NULL);
    }
}

static double loss_of(const char *arguments)
{
    char line[3 * PROGRAM_PATH];
    double loss = 0;
    snprintf(line, sizeof(line), "eval --data %s %s", in_root("text"), arguments);
    run_line("%s", line);
    must_be(0);
    assert_int_equal(sscanf(last.out, "loss %lf", &loss), 1);
    return loss;
}

static void merged_is_adapted(void **state)
{
    char arguments[2 * PROGRAM_PATH];
    (void)state;
    run_line("train --data %s --init %s " TUNED " --lora-targets all-linear --out %s --force", in_root("text"), in_root("llama"),
             in_root("tuned"));
    must_be(0);
    snprintf(arguments, sizeof(arguments), "--model %s", in_root("llama"));
    const double base = loss_of(arguments);
    snprintf(arguments, sizeof(arguments), "--model %s --lora %s", in_root("llama"), in_root("tuned"));
    const double adapted = loss_of(arguments);
    assert_true(adapted < base - 0.01);
    snprintf(arguments, sizeof(arguments), "--lora %s", in_root("tuned" LAST));
    assert_true(loss_of(arguments) == adapted);
    snprintf(arguments, sizeof(arguments), "--model %s", in_root("tuned"));
    assert_true(loss_of(arguments) == adapted);
    run_line("convert --lora %s --out %s --force", in_root("tuned"), in_root("merged"));
    must_be(0);
    snprintf(arguments, sizeof(arguments), "--model %s", in_root("merged"));
    assert_true(loss_of(arguments) == adapted);
    run_line("generate --lora %s --max-tokens 5 --temperature 0", in_root("tuned"));
    must_be(0);
    run_line("info %s", in_root("tuned" LAST));
    must_be(0);
    assert_non_null(strstr(last.out, "adapter"));
}

static void refused(const char *more, const char *first, const char *second)
{
    run_line("train --data %s --steps 2 --context 16 --out %s %s", in_root("text"), in_root("never"), more);
    must_say(2, first, second);
    assert_int_equal(qn_path_exists(in_root("never")), 0);
}

static void who_is_refused(void **state)
{
    char more[2 * PROGRAM_PATH];
    (void)state;
    refused("--lora-rank 2", "--init", NULL);
    snprintf(more, sizeof(more), "--init %s --lora-rank 2 --lora-targets q,v_prj", in_root("llama"));
    refused(more, "'v_prj'", "did you mean 'v_proj'");
    snprintf(more, sizeof(more), "--init %s --lora-rank 2 --lora-targets gate", in_root("gpt2"));
    refused(more, "'gate'", "c_attn");
    snprintf(more, sizeof(more), "--init %s --lora-rank 4000", in_root("gpt2"));
    refused(more, "rank", "32");
    run_line("train --data %s --init %s " TUNED " --out %s --force", in_root("text"), in_root("gpt2"), in_root("small"));
    must_be(0);
    snprintf(more, sizeof(more), "--init %s", in_root("small"));
    refused(more, "adapter", "convert");
    run_line("eval --data %s --model %s --lora %s", in_root("text"), in_root("llama"), in_root("small"));
    assert_in_range(last.code, 1, 2); /* another model's */
    assert_non_null(strstr(last.err, "c_attn"));
    run_line("eval --data %s --model %s --lora %s", in_root("text"), in_root("llama"), in_root("llama"));
    assert_in_range(last.code, 1, 2);
    assert_non_null(strstr(last.err, "no adapter"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_adapter_on_any_spread_and_after_resume),
        cmocka_unit_test(merged_is_adapted),
        cmocka_unit_test(who_is_refused),
    };
    return cmocka_run_group_tests_name("e2e_lora", tests, set_up, remove_root);
}
