/* Devices with little memory through the program: a model four times their memory trains to the resident run's bytes, the lagging
 * optimizer runs and goes on, adapters train, and what cannot be is refused before anything is written. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/program.h"

enum { DEVICE = 1200 << 10 };

static const char *text;

static int set_up(void **state)
{
    static char path[PROGRAM_PATH];
    (void)state;
    if (make_root("e2e_devices")) return 1;
    snprintf(path, sizeof(path), "%s", in_root("text"));
    write_corpus(path, 3000);
    text = path;
    return 0;
}

/* 5.2 MB of weights. Gives the line that says done. */
static json_t *train(const char *out, const char *more)
{
    run_line(
        "train --data %s --out %s --force --layers 26 --heads 2 --width 64 --context 8 --batch 4 --micro-batches 4 --steps 6 "
        "--warmup 2 --json %s",
        text, in_root(out), more);
    must_be(0);
    return json_line(6);
}

static char *read_saved(const char *run, const char *name, size_t *bytes)
{
    char path[PROGRAM_PATH], *got = NULL;
    qn_err err;
    snprintf(path, sizeof(path), "%s/checkpoints/step-00000006/%s", in_root(run), name);
    if (qn_file_read(&got, bytes, path, 1 << 26, &err) != QN_OK) fail_msg("%s", err.text);
    return got;
}

static bool same_file(const char *a, const char *b, const char *name)
{
    size_t n = 0, m = 0;
    char *one = read_saved(a, name, &n), *two = read_saved(b, name, &m);
    const bool same = n == m && memcmp(one, two, n) == 0;
    qn_free(one);
    qn_free(two);
    return same;
}

static void same_run(const char *a, const char *b, json_t *x, json_t *y)
{
    if (!same_file(a, b, "model.safetensors") || !same_file(a, b, "quern/optimizer.safetensors"))
        fail_msg("%s and %s end with other weights", a, b);
    assert_true(json_at(x, "val_loss") == json_at(y, "val_loss"));
}

static void a_model_four_times_the_device_trains(void **state)
{
    static const char *const way[] = {
        "--device-memory 1200K --schedule roundpipe --workers 2",
        "--device-memory 1200K --schedule roundpipe --workers 2 --link 900M/s --transport self",
        "--device-memory 1200K --schedule superpipe --window 1",
        "--device-memory 1200K --schedule superpipe --link 2G",
    };
    (void)state;
    size_t bytes = 0;
    json_t *want = train("resident", "");
    qn_free(read_saved("resident", "model.safetensors", &bytes));
    assert_true(bytes >= 4 * (size_t)DEVICE);
    assert_null(json_object_get(want, "device_high_water"));
    for (size_t i = 0; i < QN_COUNT(way); i++) {
        json_t *got = train("small", way[i]);
        same_run("resident", "small", want, got);
        const json_t *high = json_object_get(got, "device_high_water");
        assert_int_equal(json_array_size(high), i < 2 ? 2 : 1);
        for (size_t w = 0; w < json_array_size(high); w++) {
            const int64_t used = json_integer_value(json_array_get(high, w));
            assert_true(used > DEVICE / 2 && used <= DEVICE);
        }
        assert_true(json_at(got, "bytes_up") > 6.0 * (double)bytes / 1.1 && json_at(got, "bytes_down") > 0);
        json_decref(got);
    }
    json_decref(want);
}

static void other_schedules_and_windows(void **state)
{
    static const char *const way[] = {"--schedule 1f1b --workers 2 --chunks 1 --device-memory 16M",
                                      "--schedule interleaved --workers 2 --chunks 4 --link 4G/s",
                                      "--schedule gpipe --workers 3 --device-memory 16M --window 1",
                                      "--schedule superpipe --window 4,2",
                                      "--schedule superpipe --window 2 --cuts 1,7,13,19,27",
                                      "--schedule roundpipe --workers 3",
                                      "--schedule roundpipe --workers 2 --group 3 --device-memory 16M",
                                      "--schedule roundpipe --workers 2 --chunks 4 --window 1"};
    (void)state;
    json_t *want = train("resident", "");
    for (size_t i = 0; i < QN_COUNT(way); i++) {
        json_t *got = train("small", way[i]);
        same_run("resident", "small", want, got);
        json_decref(got);
    }
    json_decref(want);
}

/* Two shards, a device for each. */
static void tensor_shards(void **state)
{
    static const char *const way[] = {"--tensor 2 --schedule 1f1b --workers 4 --device-memory 6M",
                                      "--tensor 2 --schedule superpipe --workers 2 --device-memory 1200K --window 2",
                                      "--tensor 2 --schedule roundpipe --workers 4 --link 4G/s"};
    (void)state;
    json_t *want = train("resident", "--tensor 2");
    for (size_t i = 0; i < QN_COUNT(way); i++) {
        json_t *got = train("small", way[i]);
        same_run("resident", "small", want, got);
        json_decref(got);
    }
    json_decref(want);
}

static void adapters_and_frozen_weights(void **state)
{
    char line[PROGRAM_PATH];
    (void)state;
    json_decref(train("resident", ""));
    json_t *want = train("frozen", "--freeze transformer.wte*");
    json_t *got = train("small", "--freeze transformer.wte* --schedule roundpipe --workers 2 --device-memory 1200K");
    same_run("frozen", "small", want, got);
    json_decref(want);
    json_decref(got);
    snprintf(line, sizeof(line), "--init %s --lora-rank 2", in_root("resident"));
    want = train("adapter", line);
    snprintf(line, sizeof(line), "--init %s --lora-rank 2 --schedule superpipe --device-memory 1200K", in_root("resident"));
    got = train("small", line);
    assert_true(same_file("adapter", "small", "adapter_model.safetensors"));
    assert_true(json_at(want, "val_loss") == json_at(got, "val_loss"));
    json_decref(want);
    json_decref(got);
}

/* What is saved and evaluated on the way does not change what comes after it; a resumed run starts its lag anew. */
static void the_lagging_optimizer(void **state)
{
    char path[PROGRAM_PATH];
    (void)state;
    json_t *sync = train("resident", ""), *want = train("lag", "--schedule roundpipe --workers 2 --optimizer-lag 1"),
           *got = train("small", "--schedule superpipe --device-memory 1200K --optimizer-lag 1 --save-every 2 --eval-every 3");
    same_run("lag", "small", want, got);
    assert_true(json_at(sync, "val_loss") != json_at(want, "val_loss"));
    json_decref(sync);
    json_decref(want);
    json_decref(got);
    snprintf(path, sizeof(path), "%s/checkpoints/step-00000006", in_root("small"));
    assert_int_equal(qn_remove_tree(path, NULL), QN_OK);
    run_line("train --resume --out %s --optimizer-lag 0", in_root("small"));
    must_be(2);
    run_line("train --resume --out %s --device-memory 1300K --link 3G/s --json", in_root("small"));
    must_be(0);
    got = json_line(2);
    assert_true(json_is_true(json_object_get(got, "done")) && json_at(got, "steps") == 6);
    assert_true(json_at(got, "val_loss") > 0 && json_at(got, "val_loss") < 4);
    json_decref(got);
}

static void refuse(const char *more, const char *first, const char *second)
{
    run_line("train --data %s --out %s --layers 8 --heads 2 --width 64 --context 8 --batch 4 --steps 2 %s", text, in_root("bad"),
             more);
    must_say(2, first, second);
    assert_int_equal(qn_path_exists(in_root("bad")), 0);
}

static void what_cannot_be_is_refused(void **state)
{
    static const char *const columns[] = {"--tensor 2 --sequence-parallel --workers 2", "--vocab-parallel 1 --workers 2",
                                          "--memory 1G", NULL};
    (void)state;
    refuse("--schedule superpipe --link 0", "--link 0 has no bandwidth", NULL);
    refuse("--schedule superpipe --link 0G/s", "--link 0G/s has no bandwidth", NULL);
    refuse("--schedule superpipe --link fast", "bytes per second were wanted", NULL);
    refuse("--schedule superpipe --link 99999999999999999999", "bytes per second were wanted", NULL);
    refuse("--schedule superpipe --window 0", "--window 0", "from 1");
    refuse("--schedule superpipe --window 2,3", "--window 2,3", "from 1 to k");
    refuse("--schedule superpipe --window 2,", "--window is '2,'", NULL);
    refuse("--schedule superpipe --window two", "--window is 'two'", NULL);
    refuse("--window 2", "--window means something", "--device-memory");
    refuse("--group 2 --workers 2", "--group 2 is for interleaved and roundpipe", "1f1b has no groups");
    refuse("--schedule roundpipe --group 1 --workers 2", "at least as many as workers (2)", "groups of 1");
    refuse("--optimizer-lag 1 --workers 2", "--optimizer-lag means something", "--device-memory");
    refuse("--schedule superpipe --workers 2 --device-memory 16M", "superpipe with 2 workers: 1 is possible", NULL);
    for (int i = 0; columns[i] != NULL; i++) {
        char line[256];
        snprintf(line, sizeof(line), "--device-memory 16M %s", columns[i]);
        refuse(line, "does not go with workers that load", NULL);
    }
    refuse("--schedule roundpipe --data-parallel 2 --workers 2", "runs any stage on any of them", "--grad-groups 2");
    refuse("--schedule roundpipe --workers 2 --post-validate --optimizer-lag 1", "nothing to validate", "leave one of them out");
    refuse("--device-memory 16M --tensor 2 --workers 3", "device 0 would hold two of the 2 shards", "a multiple of 2");
}

/* The smallest memory that is named does, and a byte less does not. */
static void the_smallest_device_is_named(void **state)
{
    static const char *const way[] = {"--schedule roundpipe --workers 2", "--schedule superpipe", "--schedule 1f1b --workers 2",
                                      "--schedule zb-h1 --workers 4 --data-parallel 2 --micro-batches 4",
                                      "--schedule dualpipe --workers 2 --micro-batches 4"};
    (void)state;
    for (size_t i = 0; i < QN_COUNT(way); i++) {
        char line[256];
        snprintf(line, sizeof(line), "%s --device-memory 1000", way[i]);
        refuse(line, "memory of 1000 bytes is smaller than one ", "the smallest that would do");
        const char *said = strstr(last.err, "is ");
        assert_non_null(said = strstr(strstr(last.err, "the smallest"), "is "));
        const long long least = strtoll(said + 3, NULL, 10);
        snprintf(line, sizeof(line), "%s --device-memory %lld", way[i], least - 1);
        refuse(line, "the smallest that would do", NULL);
        run_line("train --data %s --out %s --force --layers 8 --heads 2 --width 64 --context 8 --batch 4 --steps 2 %s "
                 "--device-memory %lld",
                 text, in_root("good"), way[i], least);
        must_be(0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_four_times_the_device_trains),
        cmocka_unit_test(other_schedules_and_windows),
        cmocka_unit_test(tensor_shards),
        cmocka_unit_test(adapters_and_frozen_weights),
        cmocka_unit_test(the_lagging_optimizer),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(the_smallest_device_is_named),
    };
    return cmocka_run_group_tests(tests, set_up, remove_root);
}
