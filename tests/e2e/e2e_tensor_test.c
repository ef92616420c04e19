/* Tensor shards through the program: the checkpoint's bytes for any number of workers at a fixed t, close losses for another t, a
 * run gone on with at another t, the model read by generate and eval, and numbers of shards that cannot be. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/small_runs.h"

static int set_up(void **state)
{
    (void)state;
    return small_runs_set_up("e2e_tensor");
}

static void any_number_of_workers_writes_the_same_files(void **state)
{
    static const char *const ways[][3] = {
        {"2", "1f1b", "thread"}, {"4", "gpipe", "thread"}, {"3", "zb-h1", "self"}, {"2", "gpipe", "self"}};
    (void)state;
    train("t2", "--tensor 2", "1", "1f1b", "thread");
    for (size_t i = 0; i < QN_COUNT(ways); i++) {
        train("other", "--tensor 2", ways[i][0], ways[i][1], ways[i][2]);
        same_file("t2", "other", "model.safetensors");
        same_file("t2", "other", "quern/optimizer.safetensors");
    }
}

static void another_number_of_shards_is_near_and_goes_on(void **state)
{
    (void)state;
    train("t1", "--tensor 1", "2", "1f1b", "thread");
    train("t4", "--tensor 4", "2", "1f1b", "thread");
    const double one = val_loss("t1"), four = val_loss("t4");
    assert_true(fabs(four / one - 1) < 1e-5);
    run_line("generate --model %s --prompt a --max-tokens 5", in_root("t4"));
    must_be(0);
    char path[PROGRAM_PATH];
    snprintf(path, sizeof(path), "%s/checkpoints/step-00000008", in_root("t4"));
    assert_int_equal(qn_remove_tree(path, NULL), QN_OK);
    run_line("train --resume --out %s --tensor 2 --workers 4", in_root("t4"));
    must_be(0);
    assert_true(fabs(val_loss("t4") / one - 1) < 1e-5);
}

/* Slices of the tokens: the same files for any number of workers, near the run without them, and gone on with otherwise. */
static void slices_of_the_tokens(void **state)
{
    (void)state;
    train("s2", "--tensor 2 --sequence-parallel", "1", "1f1b", "thread");
    train("other", "--tensor 2 --sequence-parallel", "4", "zb-h1", "thread");
    same_file("s2", "other", "model.safetensors");
    same_file("s2", "other", "quern/optimizer.safetensors");
    const double one = val_loss("t1");
    assert_true(fabs(val_loss("s2") / one - 1) < 1e-5);
    char path[PROGRAM_PATH];
    snprintf(path, sizeof(path), "%s/checkpoints/step-00000008", in_root("s2"));
    assert_int_equal(qn_remove_tree(path, NULL), QN_OK);
    run_line("train --resume --out %s --tensor 1 --workers 2", in_root("s2"));
    must_be(0);
    assert_true(fabs(val_loss("s2") / one - 1) < 1e-5);
}

/* Adapters on a base that the runs above have made. */
static void adapters_are_saved_whole(void **state)
{
    static const char *const ways[][2] = {{"--tensor 1", "1"}, {"--tensor 2", "1"}, {"--tensor 2", "2"}, {"--tensor 2", "4"}};
    static const char *const name[] = {"a1", "a2", "b2", "c2"};
    char more[3 * PROGRAM_PATH];
    (void)state;
    for (size_t i = 0; i < QN_COUNT(ways); i++) {
        run_line("train --data %s --init %s --out %s --lora-rank 2 --lora-targets all-linear --context 16 --batch 6 "
                 "--micro-batches 3 --steps 8 "
                 "--warmup 2 --save-every 4 --eval-every 4 --lr 1e-3 --schedule 1f1b --workers %s %s",
                 text, in_root("t2"), in_root(name[i]), ways[i][1], ways[i][0]);
        must_be(0);
        if (i > 1) same_file("a2", name[i], "adapter_model.safetensors");
    }
    snprintf(more, sizeof(more), "%s", in_root("merged"));
    run_line("convert --lora %s --out %s", in_root("a2"), more);
    must_be(0);
    assert_true(fabs(val_loss("a2") / val_loss("a1") - 1) < 1e-5);
    assert_true(fabs(val_loss("merged") / val_loss("a1") - 1) < 1e-5);
}

static void numbers_of_shards_that_cannot_be(void **state)
{
    (void)state;
    run_line("train --data %s --out %s --heads 4 --tensor 3 --workers 2", text, in_root("bad"));
    must_say(2, "3 tensor shards", "these do: 1, 2, 4");
    run_line("train --data %s --out %s --sequence-parallel", text, in_root("bad"));
    must_say(2, "--sequence-parallel", "it needs --tensor 2 or more");
    run_line("train --data %s --out %s --tensor 0", text, in_root("bad"));
    must_be(2);
    assert_int_equal(qn_path_exists(in_root("bad")), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_workers_writes_the_same_files),
        cmocka_unit_test(another_number_of_shards_is_near_and_goes_on),
        cmocka_unit_test(slices_of_the_tokens),
        cmocka_unit_test(adapters_are_saved_whole),
        cmocka_unit_test(numbers_of_shards_that_cannot_be),
    };
    return cmocka_run_group_tests(tests, set_up, remove_root);
}
