/* Tensor shards through the program: the checkpoint's bytes for any number of workers at a fixed t, close losses for another t, a
 * run gone on with at another t, the model read by generate and eval, and numbers of shards that cannot be. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/program.h"

static const char *text;

static int set_up(void **state)
{
    static char path[PROGRAM_PATH];
    (void)state;
    if (make_root("e2e_tensor")) return 1;
    snprintf(path, sizeof(path), "%s", in_root("text"));
    write_corpus(path, 3000);
    text = path;
    return 0;
}

static void train(const char *out, const char *tensor, const char *workers, const char *schedule, const char *transport)
{
    run_line(
        "train --data %s --out %s --force --layers 2 --heads 4 --width 32 --context 16 --batch 6 --micro-batches 3 --steps 8 "
        "--warmup 2 --dropout 0.1 --save-every 4 --tensor %s --workers %s --schedule %s --transport %s",
        text, in_root(out), tensor, workers, schedule, transport);
    must_be(0);
}

static void same_file(const char *a, const char *b, const char *name)
{
    char x[PROGRAM_PATH], y[PROGRAM_PATH], *one = NULL, *two = NULL;
    size_t n = 0, m = 0;
    qn_err err;
    snprintf(x, sizeof(x), "%s/checkpoints/step-00000008/%s", in_root(a), name);
    snprintf(y, sizeof(y), "%s/checkpoints/step-00000008/%s", in_root(b), name);
    if (qn_file_read(&one, &n, x, 1 << 26, &err) != QN_OK || qn_file_read(&two, &m, y, 1 << 26, &err) != QN_OK)
        fail_msg("%s", err.text);
    if (n != m || memcmp(one, two, n) != 0) fail_msg("%s and %s differ", x, y);
    qn_free(one);
    qn_free(two);
}

static double val_loss(const char *run_name)
{
    run_line("eval --model %s --data %s --json", in_root(run_name), text);
    must_be(0);
    json_t *j = json_line(0);
    const double loss = json_at(j, "loss");
    json_decref(j);
    assert_true(loss > 0);
    return loss;
}

static void any_number_of_workers_writes_the_same_files(void **state)
{
    static const char *const ways[][3] = {
        {"2", "1f1b", "thread"}, {"4", "gpipe", "thread"}, {"3", "zb-h1", "self"}, {"2", "gpipe", "self"}};
    (void)state;
    train("t2", "2", "1", "1f1b", "thread");
    for (size_t i = 0; i < QN_COUNT(ways); i++) {
        train("other", "2", ways[i][0], ways[i][1], ways[i][2]);
        same_file("t2", "other", "model.safetensors");
        same_file("t2", "other", "quern/optimizer.safetensors");
    }
}

static void another_number_of_shards_is_near_and_goes_on(void **state)
{
    (void)state;
    train("t1", "1", "2", "1f1b", "thread");
    train("t4", "4", "2", "1f1b", "thread");
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

static void numbers_of_shards_that_cannot_be(void **state)
{
    (void)state;
    run_line("train --data %s --out %s --heads 4 --tensor 3 --workers 2", text, in_root("bad"));
    must_say(2, "3 tensor shards", "these do: 1, 2, 4");
    run_line("train --data %s --out %s --tensor 0", text, in_root("bad"));
    must_be(2);
    assert_int_equal(qn_path_exists(in_root("bad")), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_workers_writes_the_same_files),
        cmocka_unit_test(another_number_of_shards_is_near_and_goes_on),
        cmocka_unit_test(numbers_of_shards_that_cannot_be),
    };
    return cmocka_run_group_tests(tests, set_up, remove_root);
}
