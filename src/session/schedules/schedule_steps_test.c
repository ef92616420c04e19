/* Several steps through the tools: shares of steps add up, and what stays idle in the steady state is what the papers say. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "quern/session.h"
#include "schedule_subject.h"

static json_t *simulated(const qn_schedule_options *opt)
{
    char *text = NULL;
    qn_err err = {0};
    if (qn_schedule_simulate(&text, opt, true, &err) != QN_OK) fail_msg("%s: %s", opt->schedule, err.text);
    json_t *all = json_loads(text, 0, NULL);
    assert_non_null(all);
    qn_text_free(text);
    return all;
}

static double number(const json_t *all, const char *part, const char *key)
{
    const json_t *x = json_object_get(part != NULL ? json_object_get(all, part) : all, key);
    if (!json_is_number(x)) fail_msg("no %s", key);
    return json_number_value(x);
}

/* Every worker's time, added up by hand: what lies between its last ends of two steps. */
static void check_shares(const qni_subject *s)
{
    const qn_plan *p = s->plan;
    int64_t share[8] = {0}, busy[8] = {0}, all = 0;
    for (int32_t w = 0; w < p->workers; w++) {
        int64_t end[9] = {0};
        for (int32_t k = 0; k < p->steps; k++) {
            end[k + 1] = end[k];
            for (int32_t i = 0; i < p->tasks; i++) {
                const qn_task *t = &p->task[i];
                const qn_span_time x = s->trace.time[i];
                if (t->worker != w || t->step != k || t->lane != QN_LANE_COMP || t->op > QN_OP_VJ || x.end == x.start) continue;
                end[k + 1] = qn_max64(end[k + 1], x.end);
                busy[k] += x.end - x.start;
            }
            share[k] += end[k + 1] - end[k];
        }
        share[p->steps - 1] += s->sum->makespan - end[p->steps];
    }
    for (int32_t k = 0; k < p->steps; k++) {
        const qn_step_share *x = &s->steps[k];
        int64_t idle = 0;
        for (int i = 0; i < QN_IDLE_PARTS; i++) {
            assert_true(x->part[i] >= 0);
            idle += x->part[i];
        }
        assert_int_equal(x->share, share[k]);
        assert_int_equal(x->busy, busy[k]);
        assert_int_equal(x->share, x->busy + idle);
        assert_true(k == 0 || x->part[QN_IDLE_FILL] == 0);
        assert_true(k == p->steps - 1 || x->part[QN_IDLE_DRAIN] == 0);
        all += x->share;
    }
    assert_int_equal(all, s->sum->makespan * p->workers);
}

static void shares_add_up(void **state)
{
    (void)state;
    int32_t cases = 0;
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        for (int32_t P = 1; P <= 4; P++) {
            for (int32_t steps = 2; steps <= 5; steps++) {
                const int32_t M = 2 * P + steps % 2;
                qni_subject s = {.fine = 0};
                qni_costs costs = {.scale = 1};
                qn_err err = {0};
                qn_schedule_options opt = {.schedule = g->name,
                                           .workers = P,
                                           .micro_batches = M,
                                           .cost = "F=3,B=4,W=2",
                                           .latency = 1,
                                           .depth = 2,
                                           .steps = steps,
                                           .optimizer_lag = steps == 4,
                                           .post_validate = steps == 5 && g->usual_chunks == 1 && !g->host_state &&
                                                            qn_generator_replicas(g) == 1};
                if (!qn_generator_can(g, P, M) || (g->max_workers > 0 && P > g->max_workers)) continue;
                if (qn_generator_replicas(g) > 1 && M % 2 != 0) continue;
                if (g->host_state && P > 1 && steps == 3) {
                    opt.sizes = "weights=10,act=1";
                    opt.link = "10000/s";
                }
                qn_status st = qni_costs_take(&costs, &opt, &err);
                if (st == QN_OK) st = qni_subject_open(&s, g->name, 0, &opt, &costs, 0, &err);
                if (st == QN_OK) st = qni_subject_simulate(&s, &opt, &costs, &err);
                if (st != QN_OK) fail_msg("%s P=%d M=%d, %d steps: %s", g->name, P, M, steps, err.text);
                check_shares(&s);
                cases++;
                qni_subject_close(&s);
                qni_costs_fini(&costs);
            }
        }
    }
    print_message("%d cases\n", cases);
    assert_true(cases > 150);
}

/* Zero bubble (arXiv:2401.10241, table 1): with a barrier each step also has the parallelogram's sides. */
static void post_validated_steps_lose_their_idle_time(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int32_t chunks, idle; /* times P - 1 */
    } of[] = {{"1f1b", 1, 3}, {"zb-h1", 1, 1}, {"zb-1p", 1, 1}, {"zb-h2", 1, 0}, {"zb-2p", 1, 0}, {"zb-v", 2, 0}};
    for (size_t i = 0; i < QN_COUNT(of); i++) {
        for (int32_t P = 2; P <= 8; P += 2) {
            const int32_t M = 3 * P, work = 3 * M * of[i].chunks;
            qn_schedule_options opt = {
                .schedule = of[i].name, .workers = P, .micro_batches = M, .cost = "F=1,B=1,W=1", .depth = 2, .steps = 6};
            json_t *x = simulated(&opt);
            assert_true(number(x, "steady", "time") == work + qn_max32(of[i].idle, 1) * (P - 1));
            assert_true(number(x, NULL, "steps") == 6);
            json_decref(x);
            opt.post_validate = 1;
            x = simulated(&opt);
            const double steady = of[i].idle * (P - 1);
            assert_true(number(x, "steady", "time") == work + steady);
            assert_true(fabs(number(x, "steady", "bubble") - steady / (work + steady)) < 1e-15);
            assert_true(number(x, "first", "fill") == (P - 1) / 2.0);
            json_decref(x);
        }
    }
}

static void refused(qn_schedule_options opt, const char *says)
{
    char *text = NULL;
    qn_err err = {0};
    const qn_status st = qn_schedule_simulate(&text, &opt, false, &err);
    assert_null(text);
    if (st != QN_EINVAL || strstr(err.text, says) == NULL) fail_msg("'%s' wanted in: %s", says, err.text);
}

static void bad_steps_are_refused(void **state)
{
    (void)state;
    qn_schedule_options opt = {.schedule = "zb-h2", .workers = 2, .micro_batches = 4, .depth = 2, .steps = 1, .post_validate = 1};
    refused(opt, "--steps 8");
    opt.steps = 3;
    opt.optimizer_lag = 1;
    refused(opt, "choose one");
    opt.post_validate = opt.optimizer_lag = 0;
    opt.forward = 1;
    refused(opt, "no optimizer steps");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_add_up),
        cmocka_unit_test(post_validated_steps_lose_their_idle_time),
        cmocka_unit_test(bad_steps_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
