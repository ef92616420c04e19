/* Small training runs on generated text, of eight steps, compared by their files and their losses. For tests/e2e. */
#ifndef QN_TESTS_SMALL_RUNS_H
#define QN_TESTS_SMALL_RUNS_H

#include "support/program.h"

static const char *text;

static int small_runs_set_up(const char *name)
{
    static char path[PROGRAM_PATH];
    if (make_root(name)) return 1;
    snprintf(path, sizeof(path), "%s", in_root("text"));
    write_corpus(path, 3000);
    text = path;
    return 0;
}

/* more: flags, or "". */
static void train(const char *out, const char *more, const char *workers, const char *schedule, const char *transport)
{
    run_line(
        "train --data %s --out %s --force --layers 3 --heads 4 --width 32 --context 16 --batch 6 --micro-batches 3 --steps 8 "
        "--warmup 2 --dropout 0.1 --save-every 4 --eval-every 4 --workers %s --schedule %s --transport %s %s",
        text, in_root(out), workers, schedule, transport, more);
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

#endif
