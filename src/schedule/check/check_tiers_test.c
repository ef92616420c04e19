/* Host copies in plans: text, waits between workers, and what the validator refuses. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "core/alloc.h"
#include "schedule/schedule_rig.h"
#include "schedule/text/schedule_text.h"

/* An activation goes down from worker 0 and up to worker 1, whose parameters come up in two chunks. */
static const char HOP[] =
    "quern-plan 1\nworkers 2\nstages 2\nitems 1\nplace 0 0\nplace 1 1\nbackward 1 0\narena 0 72\narena 1 192\n"
    "value 0 act 1.0 @0 bytes=64 at=0\n"
    "value 1 act 1.0 @0 bytes=64 carried host\n"
    "value 2 act 1.0 @1 bytes=64 at=0\n"
    "value 3 stash 0.0 @0 bytes=8 at=64\n"
    "value 4 stash 1.0 @1 bytes=8 at=64\n"
    "value 5 param 1#0 @1 bytes=32 carried host\n"
    "value 6 param 1#1 @1 bytes=32 carried host\n"
    "value 7 param 1#0 @1 bytes=32 at=128\n"
    "value 8 param 1#1 @1 bytes=32 at=160\n"
    "F 0.0 @0 cost=1 out=0,3 free=3\n"
    "OFFLOAD act 1.0 @0 cost=2 in=0 out=1 free=0 wait=comp:0\n"
    "F 1.0 @1 cost=1 in=2,7,8 out=4 free=2,4,7,8 wait=up:2\n"
    "LOAD param 1#0 @1 cost=4 in=5 out=7\n"
    "LOAD act 1.0 @1 cost=2 in=1 out=2 wait=down@0:0\n"
    "LOAD param 1#1 @1 cost=4 in=6 out=8\n";

static qn_plan *hop(void)
{
    qn_plan *p = NULL;
    qn_err err = {0};
    if (qn_plan_read(&p, HOP, strlen(HOP), &err) != QN_OK) fail_msg("%s", err.text);
    return p;
}

static void hop_is_valid(void **state)
{
    (void)state;
    qn_plan *p = hop();
    qn_err err = {0};
    char *text = NULL, name[96];
    if (qn_plan_validate(p, &err) != QN_OK) fail_msg("%s", err.text);
    assert_int_equal(qn_plan_write(&text, p, &err), QN_OK);
    assert_string_equal(text, HOP);
    qn_free(text);
    assert_true(qn_token_game(p, 0));
    assert_string_equal(qn_task_text(name, sizeof name, p, p->lane[1][QN_LANE_UP][0]), "LOAD param 1#0 @1");
    qn_span_time time[16];
    qn_trace trace = {.plan = p, .time = time};
    const qn_sim_options opt = {0};
    assert_int_equal(qn_simulate(&trace, p, &opt, &err), QN_OK);
    /* F 0: 0-1, down 1-3; up: chunk 0 0-4, act 4-6, chunk 1 6-10; F 1 10-11 */
    assert_int_equal(time[p->lane[0][QN_LANE_DOWN][0]].end, 3);
    assert_int_equal(time[p->lane[1][QN_LANE_UP][0] + 1].start, 4);
    assert_int_equal(time[p->lane[1][QN_LANE_COMP][0]].start, 10);
    qn_plan_close(p);
}

static void refuse(qn_plan *p, const char *want)
{
    qn_err err = {0};
    assert_int_equal(qn_plan_validate(p, &err), QN_ESCHEDULE);
    if (strstr(err.text, want) == NULL) fail_msg("'%s' does not say '%s'", err.text, want);
    qn_plan_close(p);
}

static void refused(void **state)
{
    (void)state;
    qn_plan *p = hop();
    const int32_t load = p->lane[1][QN_LANE_UP][0], off = p->lane[0][QN_LANE_DOWN][0], f1 = p->lane[1][QN_LANE_COMP][0];
    p->task[load + 1].wait.count = 0;
    refuse(p, "LOAD act 1.0 @1 reads the host copy act 1.0 @0 without waiting for OFFLOAD act 1.0 @0");
    p = hop();
    p->task[off].wait.count = 0;
    refuse(p, "frees act 1.0 @0 too early: F 0.0 @0 still uses it");
    p = hop();
    p->task[f1].wait.count = 0;
    refuse(p, "before LOAD act 1.0 @1 has written it");
    p = hop();
    p->value[8].offset = 140; /* over chunk 0 */
    refuse(p, "share bytes 140 to 160");
    p = hop();
    p->value[1].offset = 0;
    refuse(p, "is a host copy");
    p = hop();
    p->value[5].bytes = 16;
    refuse(p, "copies param 1 of 16 bytes to param 1 of 32 bytes");
    p = hop();
    p->ref[p->task[load].in.first] = 1;
    refuse(p, "copies act 1 of 64 bytes to param 1");
    p = hop();
    p->task[load].op = QN_OP_OFFLOAD;
    refuse(p, "is on lane up");
    p = hop(); /* a circle over two workers: the send down waits for the load it feeds */
    p->ref[p->task[off].wait.first] = load + 1;
    refuse(p, "deadlock");
}

/* Backward on another worker is a table of the order, and travels with its text. */
static void backward_of_in_orders(void **state)
{
    (void)state;
    static const char text[] = "quern-order 1\nworkers 2\nstages 2\nitems 1\nplace 0 0\nplace 1 1\nbackward 0 1\nF 0.0 @0\n"
                               "F 1.0 @1\nBW 1.0 @1\nBW 0.0 @1\n";
    qn_order *o = NULL;
    qn_plan *p = NULL;
    qn_err err = {0};
    char *again = NULL;
    if (qn_order_read(&o, text, strlen(text), &err) != QN_OK) fail_msg("%s", err.text);
    assert_int_equal(o->backward_of[0], 1);
    assert_int_equal(o->backward_of[1], 1);
    assert_int_equal(qn_order_write(&again, o, &err), QN_OK);
    assert_string_equal(again, text);
    qn_free(again);
    qn_lowering how = {.step_tasks = true, .tied_owner = QN_NONE, .tied_replica = QN_NONE, .stat_bytes = 8};
    assert_int_equal(qn_lower(&p, o, &how, &err), QN_ESCHEDULE);
    assert_non_null(strstr(err.text, "--device-memory"));
    qn_order_close(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(hop_is_valid), cmocka_unit_test(refused),
                                       cmocka_unit_test(backward_of_in_orders)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
