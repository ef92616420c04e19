/* Text forms: what is written reads back the same; what is wrong is refused with its line. */
#include "schedule/schedule_rig.h"

static void same_order(const qn_order *a, const qn_order *b)
{
    assert_int_equal(a->workers, b->workers);
    assert_int_equal(a->stages, b->stages);
    assert_int_equal(a->items, b->items);
    assert_memory_equal(a->worker_of, b->worker_of, (size_t)a->stages * sizeof *a->worker_of);
    for (int32_t w = 0; w < a->workers; w++) {
        assert_int_equal(a->count[w], b->count[w]);
        assert_memory_equal(a->task[w], b->task[w], (size_t)a->count[w] * sizeof **a->task);
    }
}

typedef qn_status write_fn(char **out, const qn_order *o, qn_err *err);

static void round_trip(const qn_order *o, write_fn *write, qn_schedule_form form)
{
    qn_err err = {0};
    char *text = NULL, *again = NULL;
    qn_order *back = NULL;
    assert_int_equal(write(&text, o, &err), QN_OK);
    assert_int_equal(qn_schedule_form_of(text, strlen(text)), form);
    if (qn_order_read(&back, text, strlen(text), &err) != QN_OK) fail_msg("%s\n%s", err.text, text);
    same_order(o, back);
    assert_int_equal(write(&again, back, &err), QN_OK);
    assert_string_equal(text, again);
    qn_free(text);
    qn_free(again);
    qn_order_close(back);
}

static void plan_round_trip(const qn_plan *p)
{
    qn_err err = {0};
    char *text = NULL, *again = NULL;
    qn_plan *back = NULL;
    assert_int_equal(qn_plan_write(&text, p, &err), QN_OK);
    assert_int_equal(qn_schedule_form_of(text, strlen(text)), QN_FORM_PLAN);
    if (qn_plan_read(&back, text, strlen(text), &err) != QN_OK) fail_msg("%s\n%s", err.text, text);
    if (qn_plan_validate(back, &err) != QN_OK) fail_msg("%s\n%s", err.text, text);
    assert_int_equal(qn_plan_write(&again, back, &err), QN_OK);
    assert_string_equal(text, again);
    qn_free(text);
    qn_free(again);
    qn_plan_close(back);
}

/* A plan's order, lowered again without being asked for recomputation, is the plan: nothing it said is lost. */
static void the_order_of_a_plan_is_all_of_it(void **state)
{
    (void)state;
    for (int r = QN_RECOMPUTE_NONE; r <= QN_RECOMPUTE_EXCEPT_LAST; r++) {
        for (int32_t P = 1; P <= 4; P++) {
            qn_err err = {0};
            qn_lowering how = rig_plain();
            how.recompute = (qn_recompute)r;
            qn_plan *p = rig_plan("1f1b", P, 5, 1, &how);
            qn_order *o = NULL;
            assert_int_equal(qn_plan_order(&o, p, &err), QN_OK);
            how.recompute = QN_RECOMPUTE_NONE;
            qn_plan *again = rig_lower(o, &how);
            char *want = NULL, *got = NULL;
            assert_int_equal(qn_plan_write(&want, p, &err), QN_OK);
            assert_int_equal(qn_plan_write(&got, again, &err), QN_OK);
            assert_string_equal(got, want);
            qn_free(want);
            qn_free(got);
            qn_order_close(o);
            qn_plan_close(again);
            qn_plan_close(p);
        }
    }
}

static void round_trips(void **state)
{
    (void)state;
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        for (int32_t P = 1; P <= 4; P++) {
            for (int32_t M = 1; M <= 7; M += 2) {
                if (!rig_possible(g, P, M)) continue;
                qn_order *o = rig_generate(g->name, P, M, g->usual_chunks, 0);
                round_trip(o, qn_order_write, QN_FORM_ORDER);
                for (int32_t w = 0; w < P; w++)
                    for (int32_t i = 0; i < o->count[w]; i++) o->task[w][i].pair = 0;
                if (!g->host_state)
                    round_trip(o, qn_order_write_csv, QN_FORM_CSV); /* it knows neither R, pairs, nor two workers of a stage */
                for (int32_t k = 0; k < (rig_one_lane(g) ? 8 : 4); k++) {
                    qn_lowering how = {.step_tasks = k % 2 != 0,
                                       .tied_owner = 0,
                                       .tied_replica = o->stages - 1,
                                       .tied_bytes = 1 << 20,
                                       .stat_bytes = 48,
                                       .recompute = k & 2 ? QN_RECOMPUTE_FULL : QN_RECOMPUTE_NONE,
                                       .one_lane = (k & 4) != 0};
                    if (how.step_tasks && g->host_state) continue;
                    qn_plan *p = rig_lower(o, &how);
                    plan_round_trip(p);
                    qn_plan_close(p);
                }
                qn_order_close(o);
            }
        }
    }
}

/* As PyTorch's pipelining schedules print them (compute only; cells where each task takes one step). */
static void pytorch_csv(void **state)
{
    (void)state;
    static const char f1b1[] = "0F0,0F1,,0B0,0F2,0B1,,0B2\n,1F0,1B0,1F1,1B1,1F2,1B2\n";
    qn_err err = {0};
    qn_order *o = NULL, *own = rig_generate("1f1b", 2, 3, 1, 0);
    char *text = NULL;
    assert_int_equal(qn_order_read(&o, f1b1, strlen(f1b1), &err), QN_OK);
    same_order(o, own);
    assert_int_equal(qn_order_write_csv(&text, o, &err), QN_OK);
    assert_string_equal(text, f1b1);
    qn_free(text);
    qn_order_close(o);
    qn_order_close(own);

    static const char split[] = "0F0,,,0I0,0W0\n,1F0,1I0,1W0\n";
    const qn_lowering how = rig_plain();
    assert_int_equal(qn_order_read(&o, split, strlen(split), &err), QN_OK);
    qn_plan *p = rig_lower(o, &how);
    plan_round_trip(p);
    qn_plan_close(p);
    qn_order_close(o);
}

/* PyTorch's 1F1B class returns an order whose last rank numbers its forwards 1..M. */
static void pytorch_1f1b_as_returned(void **state)
{
    (void)state;
    static const char text[] = "0F0,0F1,,0B0,0F2,0B1,,0B2\n,1F1,1B0,1F2,1B1,1F3,1B2\n";
    qn_err err = {0};
    qn_order *o = NULL;
    qn_plan *p = NULL;
    const qn_lowering how = rig_plain();
    assert_int_equal(qn_order_read(&o, text, strlen(text), &err), QN_OK);
    assert_int_equal(qn_lower(&p, o, &how, &err), QN_ESCHEDULE);
    assert_non_null(strstr(err.text, "incomplete: F 0.3 is missing"));
    qn_order_close(o);
}

static void refuse(const char *text, const char *want)
{
    qn_err err = {0};
    qn_order *o = NULL;
    qn_plan *p = NULL;
    const bool plan = qn_schedule_form_of(text, strlen(text)) == QN_FORM_PLAN;
    const qn_status st = plan ? qn_plan_read(&p, text, strlen(text), &err) : qn_order_read(&o, text, strlen(text), &err);
    if (st != QN_EFORMAT && st != QN_ERANGE) fail_msg("status %d for: %s", st, text);
    if (strstr(err.text, want) == NULL) fail_msg("'%s' does not say '%s'", err.text, want);
}

static void refused_texts(void **state)
{
    (void)state;
    refuse("", "'quern-order 1' wanted");
    refuse("hello\n", "line 1, column 1: 'hello' found");
    refuse("quern-order 2\n", "line 1, column 13");
    refuse("quern-order 1\nstages 2\n", "line 2, column 1: 'stages' found, 'workers N' wanted");
    refuse("quern-order 1\nworkers 5000\n", "1 to 1024");
    refuse("quern-order 1\nworkers 99999999999999999999\n", "a number from");
    refuse("quern-order 1\nworkers 2\nstages 2\nitems 1\nX 0.0 @0\n", "line 5, column 1: 'X' found");
    refuse("quern-order 1\nworkers 2\nstages 2\nitems 1\nF 0 @0\n", "STAGE.ITEM wanted");
    refuse("quern-order 1\nworkers 2\nstages 2\nitems 1\nF 2.0 @0\n", "there are 2 stages");
    refuse("quern-order 1\nworkers 2\nstages 2\nitems 1\nF 1.0 @2\n", "@WORKER wanted");
    refuse("quern-order 1\nworkers 2\nstages 2\nitems 1\nF 1.0 @1 x\n", "'x' is too much");
    refuse("quern-order 1\nworkers 2\nstages 2\nitems 1\nsize foo 0 1\n", "act, stash or wstash");
    refuse("quern-order 1\nworkers 2\nstages 2\nitems 1\nplace 7 0\n", "place 7 0");
    refuse("0F0,0Q1\n", "line 1, column 5: cell '0Q1'");
    refuse("0F0\n0B0\n", "stage 0 is on row 0 already");
    refuse("(0F3;7B1)OVERLAP_F_B\n", "cell '(0F3;7B1)OVERLAP_F_B'");
    refuse(",,\n", "no task");
    refuse("quern-plan 1\nworkers 1\nstages 1\nitems 1\nvalue 1 act @0\n", "the next value's number");
    refuse("quern-plan 1\nworkers 1\nstages 1\nitems 1\nF 0.0 @0 in=0\n", "in=");
    refuse("quern-plan 1\nworkers 1\nstages 1\nitems 1\nSEND act 0.0 @0>0\n", "ch=CHANNEL");
    refuse("quern-plan 1\nworkers 1\nstages 1\nitems 1\nF 0.0 @0 wait=send:3\n", "waits for send:3");
}

/* What an order file may say besides tasks. */
static void notes(void **state)
{
    (void)state;
    static const char text[] =
        "# by hand\nquern-order 1   # one worker\nworkers 1\nstages 1\nitems 2\n\nmemory 0 3000\nsize stash 0 1000\ncost F 5\n"
        "F 0.0 @0\nF 0.1 @0\nBW 0.0 @0\nBW 0.1 @0\n";
    qn_err err = {0};
    qn_order *o = NULL;
    char *again = NULL;
    const qn_lowering how = rig_plain();
    if (qn_order_read(&o, text, strlen(text), &err) != QN_OK) fail_msg("%s", err.text);
    qn_plan *p = rig_lower(o, &how);
    assert_int_equal(p->arena_bytes[0], 2000);
    assert_int_equal(p->arena_limit[0], 3000);
    assert_int_equal(p->task[0].cost, 5);
    assert_int_equal(qn_order_write(&again, o, &err), QN_OK);
    assert_non_null(strstr(again, "memory 0 3000\nsize stash 0 1000\ncost F 5\n"));
    qn_free(again);
    qn_plan_close(p);
    qn_order_close(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trips),   cmocka_unit_test(pytorch_csv), cmocka_unit_test(pytorch_1f1b_as_returned),
        cmocka_unit_test(refused_texts), cmocka_unit_test(notes),       cmocka_unit_test(the_order_of_a_plan_is_all_of_it)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
