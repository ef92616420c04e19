/* qn_train as embedders call it: a run stopped after any step and gone on with, on other workers, threads and schedules and with
 * other recomputation, has the losses of a run in one piece, bit for bit; and so has any spread of the work from the start. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "quern/session.h"
#include "support/program.h"

enum { STEPS = 20 };

typedef struct record {
    double loss[STEPS], norm[STEPS], val_loss;
    int64_t stop_after, steps; /* 0: never */
    int asked, stop_asked;     /* the question that is answered with yes; 0: none */
} record;

static void stepped(void *ctx, const qn_train_step *s)
{
    record *r = ctx;
    r->loss[s->step - 1] = s->loss;
    r->norm[s->step - 1] = s->grad_norm;
    r->steps = s->step;
}

static int stop(void *ctx)
{
    record *r = ctx;
    return (r->stop_after > 0 && r->steps >= r->stop_after) || ++r->asked == r->stop_asked;
}

/* How the work is spread; nothing of it may change a number. */
typedef struct spread {
    int64_t workers, threads, chunks;
    const char *schedule, *transport;
    int32_t recompute; /* of modes */
} spread;

static const char *const modes[] = {"none", "full", "except-last", "selective:0", "selective:norm,activation"};

static const spread spreads[] = {
    {1, 1, 0, "1f1b", "thread", 4},  {2, 1, 0, "1f1b", "thread", 1},        {2, 2, 0, "gpipe", "thread", 2},
    {4, 1, 0, "1f1b", "thread", 0},  {2, 1, 2, "interleaved", "thread", 0}, {3, 1, 0, "gpipe", "self", 1},
    {4, 2, 0, "gpipe", "thread", 3}, {3, 1, 2, "interleaved", "self", 2},   {1, 2, 3, "interleaved", "thread", 1},
    {2, 1, 2, "gpipe", "thread", 2},
};

/* The same with four groups of gradients: more replicas can share the work. */
typedef struct wide_spread {
    spread how;
    int64_t replicas;
    int zero1;
} wide_spread;

static const wide_spread grouped[] = {
    {{1, 1, 0, "1f1b", "thread", 0}, 1, 0},        {{2, 1, 0, "gpipe", "thread", 1}, 2, 1},
    {{4, 1, 0, "zb-h1", "thread", 0}, 2, 0},       {{4, 1, 0, "1f1b", "self", 0}, 4, 1},
    {{2, 2, 2, "interleaved", "thread", 2}, 1, 0}, {{4, 1, 0, "1f1b", "thread", 0}, 4, 0},
    {{6, 1, 0, "1f1b", "thread", 2}, 2, 1},
};

static qn_train_options base;
static qn_config *config;
static const char *text;

static int set_up(void **state)
{
    static char path[PROGRAM_PATH];
    qn_err err;
    (void)state;
    if (make_root("e2e_resume")) return 1;
    snprintf(path, sizeof(path), "%s", in_root("text"));
    write_corpus(path, 3000);
    text = path;
    if (qn_config_parse(&config, &qn_train_table, &base, sizeof(base), 0, NULL, &err) != QN_OK) return 1;
    base.data = (qn_list){.count = 1, .item = &text};
    base.layers = 3;
    base.heads = 2;
    base.width = 32;
    base.context = 16;
    base.batch = 7; /* micro-batches of 2, 2, 2 and 1 */
    base.steps = STEPS;
    base.warmup = 4;
    base.dropout = 0.1;
    base.pin = 0;
    return 0;
}

static int tear_down(void **state)
{
    qn_config_close(config);
    return remove_root(state);
}

static qn_status train(record *r, qn_train_options o, const spread *how, bool resume)
{
    qn_train_done done;
    qn_err err = {.code = QN_OK};
    const qn_train_hooks hooks = {.ctx = r, .stepped = stepped, .stop = stop};
    o.out = in_root("run");
    o.workers = how->workers;
    o.threads = how->threads;
    o.chunks = how->chunks;
    o.schedule = how->schedule;
    o.transport = how->transport;
    o.recompute = modes[how->recompute];
    o.resume = resume;
    o.force = !resume;
    const qn_status st = qn_train(&done, &o, &hooks, &err);
    if (st != QN_OK && st != QN_EINTR) fail_msg("%s", err.text);
    r->val_loss = done.val_loss;
    return st;
}

static void same(const record *got, const record *want, const char *what, int number)
{
    for (int i = 0; i < STEPS; i++)
        if (got->loss[i] != want->loss[i] || got->norm[i] != want->norm[i])
            fail_msg("%s %d, step %d: loss %.17g, norm %.17g; %.17g and %.17g were wanted", what, number, i + 1, got->loss[i],
                     got->norm[i], want->loss[i], want->norm[i]);
    assert_true(got->val_loss == want->val_loss);
}

static void stopped_after_any_step(void **state)
{
    static record whole, pieces;
    (void)state;
    whole = pieces = (record){.stop_after = 0};
    assert_int_equal(train(&whole, base, &spreads[0], false), QN_OK);
    for (int k = 1; k < STEPS; k++) {
        pieces = (record){.stop_after = k};
        assert_int_equal(train(&pieces, base, &spreads[(size_t)k % QN_COUNT(spreads)], false), QN_EINTR);
        assert_int_equal(pieces.steps, k);
        pieces.stop_after = 0;
        assert_int_equal(train(&pieces, base, &spreads[(size_t)(k + 3) % QN_COUNT(spreads)], true), QN_OK);
        same(&pieces, &whole, "stopped after step", k);
    }
}

static void spread_in_any_way(void **state)
{
    static record want, got;
    (void)state;
    for (int kind = 0; kind < 4; kind++) {
        qn_train_options o = base;
        o.arch = kind % 2;
        o.tied = kind < 2;
        o.untied = !o.tied;
        o.kv_heads = o.arch == 1 ? 1 : 0;
        want = (record){.stop_after = 0};
        assert_int_equal(train(&want, o, &spreads[0], false), QN_OK);
        for (size_t i = 1; i < QN_COUNT(spreads); i++) {
            got = (record){.stop_after = 0};
            assert_int_equal(train(&got, o, &spreads[i], false), QN_OK);
            same(&got, &want, "spread", (int)i);
        }
    }
}

static qn_status train_wide(record *r, const wide_spread *how, bool resume)
{
    qn_train_options o = base;
    o.grad_groups = 4;
    o.data_parallel = how->replicas;
    o.zero1 = how->zero1;
    return train(r, o, &how->how, resume);
}

static void stopped_with_other_replicas(void **state)
{
    static record whole, pieces;
    (void)state;
    whole = (record){.stop_after = 0};
    assert_int_equal(train_wide(&whole, &grouped[0], false), QN_OK);
    for (int k = 1; k < (int)QN_COUNT(grouped); k++) {
        pieces = (record){.stop_after = k};
        assert_int_equal(train_wide(&pieces, &grouped[k], false), QN_EINTR);
        pieces.stop_after = 0;
        assert_int_equal(train_wide(&pieces, &grouped[((size_t)k + 2) % QN_COUNT(grouped)], true), QN_OK);
        same(&pieces, &whole, "stopped with replicas after step", k);
    }
}

/* Ctrl-C during a flight: it ends behind the step under way, with a lagging optimizer as a whole. */
static void stopped_in_a_flight(void **state)
{
    static const struct {
        spread how;
        int post_validate;
        int64_t replicas, lag;
    } ways[] = {{{2, 1, 0, "zb-h2", "thread", 0}, 1, 1, 0},
                {{4, 1, 0, "1f1b", "self", 0}, 1, 2, 0},
                {{2, 1, 0, "1f1b", "thread", 0}, 0, 1, 0},
                {{2, 1, 0, "roundpipe", "thread", 1}, 1, 1, 0},
                {{2, 1, 0, "roundpipe", "thread", 1}, 0, 1, 1}};
    static record whole, pieces;
    enum { FLIGHT = 8 };
    (void)state;
    for (size_t i = 0; i < QN_COUNT(ways); i++) {
        qn_train_options o = base;
        int between = 0;
        o.flight = FLIGHT;
        o.grad_groups = 2;
        o.clip = 0;
        o.batch = 8;
        o.post_validate = ways[i].post_validate;
        o.data_parallel = ways[i].replicas;
        o.optimizer_lag = ways[i].lag;
        whole = (record){.stop_after = 0};
        assert_int_equal(train(&whole, o, &ways[i].how, false), QN_OK);
        for (int question = 3; question < 120; question += 23) {
            pieces = (record){.stop_asked = question};
            assert_int_equal(train(&pieces, o, &ways[i].how, false), QN_EINTR);
            between += pieces.steps % FLIGHT != 0;
            if (ways[i].lag > 0) continue; /* a run that goes on begins with parameters that are up to date */
            pieces.stop_asked = 0;
            assert_int_equal(train(&pieces, o, &ways[i].how, true), QN_OK);
            same(&pieces, &whole, "stopped in a flight of way", (int)i);
        }
        assert_true((between > 0) == (ways[i].lag == 0));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stopped_after_any_step),
        cmocka_unit_test(spread_in_any_way),
        cmocka_unit_test(stopped_with_other_replicas),
        cmocka_unit_test(stopped_in_a_flight),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
