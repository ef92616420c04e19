/* Vocabulary shards through the program: the checkpoint's bytes for any number of workers at a fixed number of shards, losses
 * near the whole model's, a run gone on with at another number, the model read by generate and eval, what cannot be, and the
 * published makespan from quern schedule simulate. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/small_runs.h"

static int set_up(void **state)
{
    (void)state;
    return small_runs_set_up("e2e_vocab");
}

static void any_number_of_workers_writes_the_same_files(void **state)
{
    static const char *const ways[][3] = {{"2", "1f1b", "thread"}, {"4", "1f1b", "self"}, {"2", "v-half", "thread"}};
    static const char *const shards[] = {"--vocab-parallel 1 --vocab-shards 3", "--vocab-parallel 2 --vocab-shards 2 --untied"};
    (void)state;
    for (size_t k = 0; k < QN_COUNT(shards); k++) {
        train("one", shards[k], "1", "1f1b", "thread");
        for (size_t i = k; i < k + 2; i++) {
            train("other", shards[k], ways[i][0], ways[i][1], ways[i][2]);
            same_file("one", "other", "model.safetensors");
            same_file("one", "other", "quern/optimizer.safetensors");
        }
    }
}

static void near_the_whole_model_and_goes_on(void **state)
{
    (void)state;
    train("whole", "", "2", "1f1b", "thread");
    train("cut", "--vocab-parallel 2", "2", "1f1b", "thread");
    const double whole = val_loss("whole"), cut = val_loss("cut");
    assert_true(fabs(cut / whole - 1) < 1e-4);
    run_line("generate --model %s --prompt a --max-tokens 5", in_root("cut"));
    must_be(0);
    char path[PROGRAM_PATH];
    snprintf(path, sizeof(path), "%s/checkpoints/step-00000008", in_root("cut"));
    assert_int_equal(qn_remove_tree(path, NULL), QN_OK);
    run_line("train --resume --out %s --vocab-parallel 1 --vocab-shards 5 --workers 3", in_root("cut"));
    must_be(0);
    assert_true(fabs(val_loss("cut") / whole - 1) < 1e-4);
    assert_int_equal(qn_remove_tree(path, NULL), QN_OK);
    run_line("train --resume --out %s --vocab-parallel 0 --vocab-shards 0 --workers 1", in_root("cut"));
    must_be(0);
    assert_true(fabs(val_loss("cut") / whole - 1) < 1e-4);
}

/* Each tensor shard's rows cut into 2: the same files for any number of workers, near the whole model, gone on with without. */
static void together_with_tensor_shards(void **state)
{
    static const char *const ways[][3] = {{"2", "1f1b", "thread"}, {"4", "v-half", "thread"}, {"3", "1f1b", "self"}};
    static const char *const shards[] = {"--tensor 2 --vocab-parallel 1 --vocab-shards 2",
                                         "--tensor 2 --vocab-parallel 2 --vocab-shards 2 --sequence-parallel --untied"};
    (void)state;
    for (size_t k = 0; k < QN_COUNT(shards); k++) {
        train("one", shards[k], "1", "1f1b", "thread");
        for (size_t i = k; i < k + 2; i++) {
            train("other", shards[k], ways[i][0], ways[i][1], ways[i][2]);
            same_file("one", "other", "model.safetensors");
            same_file("one", "other", "quern/optimizer.safetensors");
        }
        train("whole", k == 0 ? "" : "--untied", "2", "1f1b", "thread");
        assert_true(fabs(val_loss("one") / val_loss("whole") - 1) < 1e-4);
    }
    char path[PROGRAM_PATH];
    snprintf(path, sizeof(path), "%s/checkpoints/step-00000008", in_root("one"));
    assert_int_equal(qn_remove_tree(path, NULL), QN_OK);
    run_line("train --resume --out %s --vocab-parallel 0 --vocab-shards 0 --tensor 4 --workers 2", in_root("one"));
    must_be(0);
    assert_true(fabs(val_loss("one") / val_loss("whole") - 1) < 1e-4);
}

static void what_cannot_be(void **state)
{
    (void)state;
    run_line("train --data %s --out %s --workers 2 --vocab-parallel 1 --schedule gpipe", text, in_root("bad"));
    must_say(2, "gpipe", "1f1b and v-half");
    run_line("train --data %s --out %s --workers 2 --vocab-shards 2", text, in_root("bad"));
    must_say(2, "--vocab-shards 2", "--vocab-parallel");
    run_line("train --data %s --out %s --workers 2 --vocab-parallel 1 --vocab-shards 600 --heads 4 --tensor 2", text,
             in_root("bad"));
    must_say(2, "600 vocabulary shards of each of 2 tensor shards", "1024 are possible");
    run_line("train --data %s --out %s --workers 2 --vocab-parallel 3", text, in_root("bad"));
    must_be(2);
    assert_int_equal(qn_path_exists(in_root("bad")), 0);
}

static double makespan(const char *more)
{
    run_line("schedule simulate --json --schedule 1f1b --workers 4 --micro-batches 16 --cost F=1,B=2,S=0.5,T=0.5 %s", more);
    must_be(0);
    json_t *j = json_line(0);
    const double x = json_at(j, "makespan");
    json_decref(j);
    return x;
}

static void the_simulator_gives_the_published_makespan(void **state)
{
    (void)state;
    assert_true(makespan("--vocab-parallel 1") == 16 * 4 + 9);
    assert_true(makespan("--vocab-parallel 2") == 16 * 4 + 8.5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_workers_writes_the_same_files),
        cmocka_unit_test(near_the_whole_model_and_goes_on),
        cmocka_unit_test(together_with_tensor_shards),
        cmocka_unit_test(what_cannot_be),
        cmocka_unit_test(the_simulator_gives_the_published_makespan),
    };
    return cmocka_run_group_tests(tests, set_up, remove_root);
}
