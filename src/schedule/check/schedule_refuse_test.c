/* Every refusal of validator and lowering, by the message that a user sees; the tasks must be named. */
#include "schedule/schedule_rig.h"

/* Lowering an order text must fail with all of these words. */
static void refuse_order(const char *text, const char *want)
{
    qn_err err = {0};
    qn_order *o = NULL;
    qn_plan *p = NULL;
    const qn_lowering how = {.step_tasks = true, .tied_owner = QN_NONE, .tied_replica = QN_NONE};
    if (qn_order_read(&o, text, strlen(text), &err) != QN_OK) fail_msg("%s", err.text);
    if (qn_lower(&p, o, &how, &err) != QN_ESCHEDULE) fail_msg("accepted, but wanted: %s", want);
    if (strstr(err.text, want) == NULL) fail_msg("'%s' does not say '%s'", err.text, want);
    qn_order_close(o);
}

#define HEAD "quern-order 1\nworkers 2\nstages 2\nitems 2\n"
#define W0   "F 0.0 @0\nF 0.1 @0\nBW 0.0 @0\nBW 0.1 @0\n"
#define W1   "F 1.0 @1\nBW 1.0 @1\nF 1.1 @1\nBW 1.1 @1\n"

static void refused_orders(void **state)
{
    (void)state;
    refuse_order(HEAD W0 "F 1.0 @1\nBW 1.0 @1\nF 1.1 @1\n", "F 1.1 @1 has no backward");
    refuse_order(HEAD W0 "F 1.0 @1\nBW 1.0 @1\nBW 1.1 @1\n", "F 1.1 is missing on worker 1");
    refuse_order(HEAD W0 "F 1.0 @1\n", "F 1.0 @1 has no backward");
    refuse_order(HEAD "F 0.0 @0\n", "incomplete: F 0.1 is missing");
    refuse_order(HEAD W0 W1 "F 1.0 @1\n", "F 1.0 @1 occurs twice");
    refuse_order(HEAD W0 "F 1.0 @1\nB 1.0 @1\nF 1.1 @1\nBW 1.1 @1\n", "B 1.0 @1 has no W 1.0");
    refuse_order(HEAD W0 "F 1.0 @1\nW 1.0 @1\nF 1.1 @1\nBW 1.1 @1\n", "W 1.0 @1 has no B 1.0");
    refuse_order(HEAD W0 "F 1.0 @1\nW 1.0 @1\nB 1.0 @1\nF 1.1 @1\nBW 1.1 @1\n", "W 1.0 @1 comes before B 1.0 @1");
    refuse_order(HEAD W0 "BW 1.0 @1\nF 1.0 @1\nF 1.1 @1\nBW 1.1 @1\n", "BW 1.0 @1 comes before F 1.0 @1");
    refuse_order(HEAD W0 "F 1.0 @1\nBW 1.0 @1\nW 1.0 @1\nF 1.1 @1\nBW 1.1 @1\n", "do the same work");
    refuse_order(HEAD W0 "F 1.0 @1\nF 1.1 @1\nBW 1.1 @1\nBW 1.0 @1\n", "BW 1.1 @1 comes before BW 1.0 @1: weight gradients");
    refuse_order(HEAD "place 0 1\n" W0 W1, "F 0.0 @0 is on worker 0, but stage 0 is placed on worker 1");
    refuse_order(HEAD "F 0.0 @0\nBW 0.0 @0\nF 0.1 @0\nBW 0.1 @0\nF 1.0 @1\nF 1.1 @1\nBW 1.0 @1\nBW 1.1 @1\n", "deadlock: ");
    refuse_order(HEAD "memory 1 3\n" W0 W1, "worker 1 needs ");
    refuse_order(HEAD "memory 1 3\n" W0 W1, " and has 3: at the peak, in ");
    refuse_order("quern-order 1\nworkers 1\nstages 2\nitems 1\nF 1.0 @0\nF 0.0 @0\nBW 1.0 @0\nBW 0.0 @0\n",
                 "deadlock: F 1.0 @0 needs act 1.0 @0 from F 0.0 @0, which stands behind it");
}

/* The arena's exact size fits; one byte less is refused. */
static void memory_to_the_byte(void **state)
{
    (void)state;
    qn_lowering how = rig_plain();
    static const int64_t act[4] = {64, 64, 64, 64}, stash[4] = {1000, 2000, 3000, 4000};
    int64_t limit[4];
    how.act_bytes = act;
    how.stash_bytes = stash;
    how.arena_limit = limit;
    for (int32_t w = 0; w < 4; w++) limit[w] = INT64_MAX;
    qn_order *o = rig_generate("1f1b", 4, 8, 1, 0);
    qn_plan *p = rig_lower(o, &how), *q = NULL;
    for (int32_t w = 0; w < 4; w++) limit[w] = p->arena_bytes[w];
    q = rig_lower(o, &how);
    qn_plan_close(q);
    q = NULL;
    for (int32_t w = 0; w < 4; w++) {
        qn_err err = {0};
        char want[32];
        limit[w]--;
        snprintf(want, sizeof want, "worker %d needs %lld", w, (long long)limit[w] + 1);
        assert_int_equal(qn_lower(&q, o, &how, &err), QN_ESCHEDULE);
        if (strstr(err.text, want) == NULL || strstr(err.text, "stash of F") == NULL) fail_msg("%s", err.text);
        limit[w]++;
    }
    qn_plan_close(p);
    qn_order_close(o);
}

/* --- broken plans: a good one, one thing changed */
static qn_plan *good_plan(void)
{
    const qn_lowering how = {.step_tasks = true, .tied_owner = 0, .tied_replica = 1, .tied_bytes = 100, .stat_bytes = 16};
    return rig_plan("1f1b", 2, 3, 1, &how);
}

static int32_t task_named(const qn_plan *p, const char *name)
{
    char text[64];
    for (int32_t t = 0; t < p->tasks; t++) {
        if (strcmp(qn_task_text(text, sizeof text, p, t), name) == 0) return t;
    }
    fail_msg("no task %s", name);
    return 0;
}

static int32_t send_of(const qn_plan *p, int32_t channel, int32_t k)
{
    for (int32_t t = 0; t < p->tasks; t++) {
        if (p->task[t].op == QN_OP_SEND && p->task[t].channel == channel && k-- == 0) return t;
    }
    fail_msg("no send");
    return 0;
}

static void refuse_plan(qn_plan *p, const char *want)
{
    qn_err err = {0};
    const qn_status st = qn_plan_validate(p, &err);
    if (st != QN_ESCHEDULE) fail_msg("accepted, but wanted: %s", want);
    if (strstr(err.text, want) == NULL) fail_msg("'%s' does not say '%s'", err.text, want);
    qn_plan_close(p);
}

/* Exchanges two neighbours in a lane. */
static void swap_tasks(qn_plan *p, int32_t a, int32_t b)
{
    const qn_task x = p->task[a];
    p->task[a] = p->task[b];
    p->task[b] = x;
}

static void refused_plans(void **state)
{
    (void)state;
    qn_plan *p = good_plan();
    swap_tasks(p, task_named(p, "OPT 1 @1"), task_named(p, "BW 1.2 @1"));
    refuse_plan(p, "OPT 1 @1 comes before BW 1.2 @1");
    p = good_plan();
    swap_tasks(p, task_named(p, "PACK 0 @0"), task_named(p, "F 0.0 @0"));
    refuse_plan(p, "PACK 0 @0 comes after F 0.0 @0");
    p = good_plan();
    p->task[task_named(p, "OPT 1 @1")].op = QN_OP_NORM;
    refuse_plan(p, "OPT 1 is missing on worker 1");
    p = good_plan();
    p->task[task_named(p, "F 0.1 @0")].item = 0;
    refuse_plan(p, "F 0.0 @0 occurs twice");
    p = good_plan();
    p->task[send_of(p, 0, 1)].tag = p->task[send_of(p, 0, 0)].tag;
    refuse_plan(p, "have the same tag");
    p = good_plan();
    p->task[send_of(p, 0, 1)].tag += 100;
    refuse_plan(p, "receives of a channel stand in the order of its sends");
    p = good_plan();
    p->value[p->ref[p->task[send_of(p, 0, 1)].in.first]].bytes++;
    refuse_plan(p, "sends 2 bytes, ");
    p = good_plan();
    p->task[send_of(p, 0, 2)].channel = 1;
    refuse_plan(p, "not its end of channel 1");
    p = good_plan();
    p->task[task_named(p, "BW 1.0 @1")].acc.count = 0;
    refuse_plan(p, "BW 1.0 @1 does not add to pgrad 1");
    p = good_plan();
    p->task[task_named(p, "F 1.1 @1")].in.count = 0;
    refuse_plan(p, "F 1.1 @1 does not read its act 1.1");
    p = good_plan();
    p->task[task_named(p, "F 1.1 @1")].wait.count = 0;
    refuse_plan(p, "F 1.1 @1 reads act 1.1 @1 before RECV act 1.1 @0>1 has written it");
    p = good_plan();
    p->task[task_named(p, "BW 1.1 @1")].free.count = 0;
    refuse_plan(p, "is never freed");
    p = good_plan();
    { /* BW 1.2 frees what BW 1.1 has freed */
        const qn_span a = p->task[task_named(p, "BW 1.1 @1")].free, b = p->task[task_named(p, "BW 1.2 @1")].free;
        p->ref[b.first] = p->ref[a.first];
    }
    refuse_plan(p, "is freed twice: by BW 1.1 @1 and by BW 1.2 @1");
    p = good_plan();
    { /* F 1.2 frees its input, which the backward reads */
        const int32_t f = task_named(p, "F 1.2 @1"), b = task_named(p, "BW 1.2 @1");
        p->task[f].free = p->task[b].free;
        p->task[b].free.count = 0;
    }
    refuse_plan(p, "F 1.2 @1 frees ");
    p = good_plan();
    { /* F 0.1 writes the stash of F 0.0 too */
        const qn_span a = p->task[task_named(p, "F 0.0 @0")].out, b = p->task[task_named(p, "F 0.1 @0")].out;
        p->ref[b.first + b.count - 1] = p->ref[a.first + a.count - 1];
    }
    refuse_plan(p, "is written twice: by F 0.0 @0 and by F 0.1 @0");
    p = good_plan();
    p->arena_limit[0] = p->arena_bytes[0] - 1;
    refuse_plan(p, "worker 0 needs ");
    p = good_plan();
    p->arena_bytes[0]--;
    refuse_plan(p, "beyond its arena");
    p = good_plan();
    p->arena_bytes[0]++;
    refuse_plan(p, "an arena is as large as what its run uses");
    p = good_plan();
    p->worker_of[1] = 0;
    refuse_plan(p, "but stage 1 is placed on worker 0");
}

/* Two values alive at once in the same bytes; and a receive into bytes that are still read. */
static void refused_overlaps(void **state)
{
    (void)state;
    qn_plan *p = good_plan();
    const qn_span a = p->task[task_named(p, "F 0.0 @0")].out, b = p->task[task_named(p, "F 0.1 @0")].out;
    p->value[p->ref[b.first + b.count - 1]].offset = p->value[p->ref[a.first + a.count - 1]].offset;
    refuse_plan(p, "share bytes");
    p = good_plan();
    int32_t changed = 0;
    for (int32_t t = 0; t < p->tasks; t++) { /* receives that forget to wait for their slot */
        if (p->task[t].op != QN_OP_RECV || p->task[t].wait.count == 0 || p->channel[p->task[t].channel].cls != QN_V_ACT) continue;
        p->task[t].wait.count = 0;
        changed++;
    }
    qn_plan_close(p);
    qn_order *o = rig_generate("1f1b", 4, 12, 1, 0);
    const qn_lowering how = rig_plain();
    p = rig_lower(o, &how);
    for (int32_t t = 0; t < p->tasks; t++) {
        if (p->task[t].op == QN_OP_RECV) p->task[t].wait.count = 0;
    }
    refuse_plan(p, "without waiting for");
    qn_order_close(o);
}

/* --- liveness */
static void refuse_text(const char *text, const char *want)
{
    qn_err err = {0};
    qn_plan *p = NULL;
    if (qn_plan_read(&p, text, strlen(text), &err) != QN_OK) fail_msg("%s", err.text);
    assert_false(qn_token_game(p, 0));
    refuse_plan(p, want);
}

/* Two workers that both send before they receive, on channels that hold nothing. */
static void rendezvous_exchange(void **state)
{
    (void)state;
    static const char head[] =
        "quern-plan 1\nworkers 2\nstages 2\nitems 1\narena 0 2\narena 1 2\n"
        "channel 0 act 0>1 edge=1 depth=0 slot=1\nchannel 1 stat 1>0 edge=0 depth=0 slot=1\n"
        "value 0 act 1.0 @0 bytes=1 at=0\nvalue 1 act 1.0 @1 bytes=1 at=0\nvalue 2 stat @1 bytes=1\nvalue 3 stat @0 bytes=1 "
        "carried\n"
        "value 4 stash 0.0 @0 bytes=1 at=1\nvalue 5 stash 1.0 @1 bytes=1 at=1\n"
        "F 0.0 @0 out=0,4 free=4\nSEND act 1.0 @0>1 lane=comp ch=0 tag=1 in=0 free=0\nRECV stat @1>0 lane=comp ch=1 tag=2 out=3\n"
        "NORM @1 out=2\nSEND stat @1>0 lane=comp ch=1 tag=2 in=2 free=2\nRECV act 1.0 @0>1 lane=comp ch=0 tag=1 out=1\n"
        "F 1.0 @1 in=1 out=5 free=1,5\n";
    refuse_text(head, "deadlock: SEND act 1.0 @0>1 meets RECV act 1.0 @0>1, which stands behind SEND stat @1>0");
    char buffered[sizeof head + 8];
    snprintf(buffered, sizeof buffered, "%s", head);
    strstr(buffered, "edge=1 depth=0")[13] = '1';
    qn_err err = {0};
    qn_plan *p = NULL;
    assert_int_equal(qn_plan_read(&p, buffered, strlen(buffered), &err), QN_OK);
    if (qn_plan_validate(p, &err) != QN_OK) fail_msg("%s", err.text);
    assert_true(qn_token_game(p, 0));
    qn_plan_close(p);
}

/* Schedule dossier: on one blocking lane only GPipe survives rendezvous; with one slot all do. */
static void one_lane(void **state)
{
    (void)state;
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        if (!rig_one_lane(g) || g->max_workers > 0) continue;
        for (int32_t P = 4; P <= 8; P += 4) {
            qn_lowering how = rig_plain();
            how.one_lane = true;
            how.depth = 1;
            qn_plan *p = rig_plan(g->name, P, 3 * P, g->usual_chunks, &how);
            assert_true(qn_token_game(p, 1));
            for (int32_t c = 0; c < p->channels; c++) p->channel[c].depth = 0;
            qn_err err = {0};
            const qn_status st = qn_plan_validate(p, &err);
            assert_true(qn_token_game(p, 0) == (st == QN_OK));
            assert_true((strcmp(g->name, "gpipe") == 0) == (st == QN_OK));
            if (st != QN_OK) assert_non_null(strstr(err.text, "deadlock: "));
            qn_plan_close(p);
        }
    }
}

/* A message with no other end. */
static void lonely_messages(void **state)
{
    (void)state;
    static const char text[] = "quern-plan 1\nworkers 2\nstages 1\nitems 1\narena 0 9\nchannel 0 stat 1>0 edge=0 depth=2 slot=1\n"
                               "value 0 stash 0.0 @0 bytes=1 at=0\nvalue 1 stat @0 bytes=1 carried\nF 0.0 @0 out=0 free=0\n"
                               "RECV stat @1>0 ch=0 tag=2 out=1\n";
    refuse_text(text, "nobody sends what RECV stat @1>0 waits for");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refused_orders),   cmocka_unit_test(memory_to_the_byte),  cmocka_unit_test(refused_plans),
        cmocka_unit_test(refused_overlaps), cmocka_unit_test(rendezvous_exchange), cmocka_unit_test(one_lane),
        cmocka_unit_test(lonely_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
