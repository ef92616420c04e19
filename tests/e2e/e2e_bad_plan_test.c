/* Hand-written schedules that cannot be, through `quern schedule check`: every negative case of the schedule IR's own list, each
 * a good plan or order with one thing changed; exit 2 and one sentence that names the tasks. */
#include "schedule/schedule_rig.h"

#include "support/program.h"

static int set_up(void **state)
{
    (void)state;
    return make_root("e2e_bad_plan");
}

/* The file is refused with these words, in one line. */
static void refused(const char *text, const char *first, const char *second)
{
    write_text(in_root("bad.txt"), text);
    run("schedule", "check", in_root("bad.txt"));
    must_say(2, first, second);
    const char *line = strchr(last.err, '\n');
    assert_true(line != NULL && line[1] == '\0');
}

/* The plan as it is passes, and is refused once it was changed. */
static void passes(const qn_plan *p)
{
    char *text = NULL;
    qn_err err = {0};
    if (qn_plan_write(&text, p, &err) != QN_OK) fail_msg("%s", err.text);
    write_text(in_root("good.txt"), text);
    run("schedule", "check", in_root("good.txt"));
    must_be(0);
    qn_free(text);
}

static void refused_plan(qn_plan *p, const char *first, const char *second)
{
    char *text = NULL;
    qn_err err = {0};
    if (qn_plan_write(&text, p, &err) != QN_OK) fail_msg("%s", err.text);
    refused(text, first, second);
    qn_free(text);
    qn_plan_close(p);
}

static int32_t named(const qn_plan *p, const char *name)
{
    char text[64];
    for (int32_t t = 0; t < p->tasks; t++)
        if (strcmp(qn_task_text(text, sizeof text, p, t), name) == 0) return t;
    fail_msg("no task %s", name);
    return 0;
}

static void swap_tasks(qn_plan *p, const char *a, const char *b)
{
    const int32_t i = named(p, a), j = named(p, b);
    const qn_task x = p->task[i];
    p->task[i] = p->task[j];
    p->task[j] = x;
}

static void channels_that_lock_up(void **state)
{
    (void)state;
    refused("quern-plan 1\nworkers 2\nstages 2\nitems 1\narena 0 2\narena 1 2\n"
            "channel 0 act 0>1 edge=1 depth=0 slot=1\nchannel 1 stat 1>0 edge=0 depth=0 slot=1\n"
            "value 0 act 1.0 @0 bytes=1 at=0\nvalue 1 act 1.0 @1 bytes=1 at=0\nvalue 2 stat @1 bytes=1\n"
            "value 3 stat @0 bytes=1 carried\nvalue 4 stash 0.0 @0 bytes=1 at=1\nvalue 5 stash 1.0 @1 bytes=1 at=1\n"
            "F 0.0 @0 out=0,4 free=4\nSEND act 1.0 @0>1 lane=comp ch=0 tag=1 in=0 free=0\n"
            "RECV stat @1>0 lane=comp ch=1 tag=2 out=3\nNORM @1 out=2\n"
            "SEND stat @1>0 lane=comp ch=1 tag=2 in=2 free=2\nRECV act 1.0 @0>1 lane=comp ch=0 tag=1 out=1\n"
            "F 1.0 @1 in=1 out=5 free=1,5\n",
            "deadlock: ", "stands behind SEND stat @1>0");
    qn_lowering how = rig_plain();
    how.one_lane = true;
    how.depth = 1;
    qn_plan *p = rig_plan("1f1b", 4, 8, 1, &how);
    passes(p);
    for (int32_t c = 0; c < p->channels; c++) p->channel[c].depth = 0;
    refused_plan(p, "deadlock: ", "SEND");
}

static void tasks_that_are_missing_or_misplaced(void **state)
{
    (void)state;
    static const char head[] = "quern-order 1\nworkers 1\nstages 1\nitems 2\n";
    static const char *const bad[][3] = {
        {"F 0.0 @0\nF 0.1 @0\nB 0.0 @0\nW 0.0 @0\nB 0.1 @0\n", "B 0.1 @0 has no W 0.1", NULL},
        {"F 0.0 @0\nF 0.1 @0\nW 0.0 @0\nB 0.0 @0\nB 0.1 @0\nW 0.1 @0\n", "W 0.0 @0 comes before B 0.0 @0", NULL},
        {"F 0.0 @0\nF 0.1 @0\nBW 0.0 @0\nF 0.0 @0\nBW 0.1 @0\n", "F 0.0 @0 occurs twice", NULL}, /* a path that comes again */
    };
    for (size_t i = 0; i < QN_COUNT(bad); i++) {
        char text[512];
        snprintf(text, sizeof(text), "%s%s", head, bad[i][0]);
        refused(text, bad[i][1], bad[i][2]);
    }
    const qn_lowering how = {.step_tasks = true, .tied_owner = QN_NONE, .tied_replica = QN_NONE, .stat_bytes = 16};
    qn_plan *p = rig_plan("zb-h1", 2, 3, 1, &how);
    passes(p);
    swap_tasks(p, "OPT 1 @1", "W 1.2 @1");
    refused_plan(p, "OPT 1 @1 comes before W 1.2 @1", NULL);
}

/* Two shards of a stage on two workers meet in every task: both in the same order, or never. */
static void meetings_out_of_order(void **state)
{
    (void)state;
    qn_order *base = rig_generate("gpipe", 1, 2, 1, 0), *wide = NULL;
    qn_lowering how = rig_plain();
    qn_err err = {0};
    how.part_bytes = 64;
    assert_int_equal(qn_order_widen(&wide, base, 1, 2, 2, &err), QN_OK);
    qn_plan *p = rig_lower(wide, &how);
    passes(p);
    swap_tasks(p, "F 1.0 @1", "F 1.1 @1");
    refused_plan(p, "deadlock: ", "runs together with");
    qn_order_close(wide);
    qn_order_close(base);
}

/* The arena's capacity is the peak: it passes; a byte less does not. */
static void one_byte_too_few(void **state)
{
    (void)state;
    const qn_lowering how = rig_plain();
    qn_plan *p = rig_plan("1f1b", 2, 4, 1, &how);
    const long long peak = p->arena_bytes[0];
    char line[96], needs[64];
    qn_plan_close(p);
    for (int i = 0; i < 2; i++) {
        snprintf(line, sizeof(line), "quern-order 1\nworkers 2\nstages 2\nitems 4\nmemory 0 %lld\n", peak - i);
        char text[1024];
        qn_order *o = rig_generate("1f1b", 2, 4, 1, 0);
        char *whole = NULL;
        qn_err err = {0};
        assert_int_equal(qn_order_write(&whole, o, &err), QN_OK);
        const char *tasks = strstr(whole, "\nF ");
        assert_non_null(tasks);
        snprintf(text, sizeof(text), "%s%s", line, tasks + 1);
        snprintf(needs, sizeof(needs), "worker 0 needs %lld bytes and has %lld", peak, peak - 1);
        if (i == 1) {
            refused(text, needs, "at the peak");
        } else {
            write_text(in_root("good.txt"), text);
            run("schedule", "check", in_root("good.txt"));
            must_be(0);
        }
        qn_free(whole);
        qn_order_close(o);
    }
}

/* Three steps without a barrier, the optimizer one step behind: a LOAD that does not wait for its copy reads weights that are two
 * steps old. */
static void weights_two_steps_old(void **state)
{
    (void)state;
    const qn_tiers tiers = {.window = 1, .replace = 1, .lag = 1};
    const qn_lowering how = {
        .tiers = &tiers, .step_tasks = true, .tied_owner = QN_NONE, .tied_replica = QN_NONE, .stat_bytes = 16};
    const qn_pattern pat = {.workers = 1, .items = 2, .chunks = 1, .pieces = 3};
    qn_order *o = NULL;
    qn_plan *one = NULL, *p = NULL;
    qn_err err = {0};
    if (qn_generate(&o, "superpipe", &pat, &err) != QN_OK || qn_lower(&one, o, &how, &err) != QN_OK ||
        qn_plan_chain(&p, one, 3, NULL, &err) != QN_OK)
        fail_msg("%s", err.text);
    passes(p);
    int32_t load = -1;
    for (int32_t t = 0; t < p->tasks && load < 0; t++) {
        const qn_task *x = &p->task[t];
        if (x->op != QN_OP_LOAD || x->step != 2 || p->value[p->ref[x->in.first]].cls != QN_V_PARAM) continue;
        for (int32_t i = 0; i < x->wait.count; i++)
            if (p->task[p->ref[x->wait.first + i]].op == QN_OP_PCOPY) load = t;
    }
    assert_true(load >= 0);
    const qn_span wait = p->task[load].wait;
    int32_t kept = 0;
    for (int32_t i = 0; i < wait.count; i++)
        if (p->task[p->ref[wait.first + i]].op != QN_OP_PCOPY) p->ref[wait.first + kept++] = p->ref[wait.first + i];
    p->task[load].wait.count = kept;
    refused_plan(p, "without waiting for PCOPY", "LOAD param");
    qn_plan_close(one);
    qn_order_close(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(channels_that_lock_up), cmocka_unit_test(tasks_that_are_missing_or_misplaced),
        cmocka_unit_test(meetings_out_of_order), cmocka_unit_test(one_byte_too_few), cmocka_unit_test(weights_two_steps_old)};
    return cmocka_run_group_tests(tests, set_up, remove_root);
}
