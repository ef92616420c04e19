/* What lowering adds for tensor shards: channels for parts between the workers of a stage, slices on the links between stages;
 * and that both survive the text form. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "core/alloc.h"
#include "schedule/gen/gen.h"
#include "schedule/ir.h"
#include "schedule/text/schedule_text.h"
#include "schedule/trace.h"

enum { WHOLE = 1, JOINS = 2, SPLIT = 4 };

static qn_plan *wide_plan(int32_t workers, int32_t shards, int32_t together, int what)
{
    qn_order *base, *wide;
    qn_plan *p;
    qn_err err;
    int64_t bytes[64];
    const qn_pattern pattern = {.workers = workers, .items = 4, .chunks = 1};
    if (qn_generate(&base, what & SPLIT ? "zb-h1" : "1f1b", &pattern, &err) != QN_OK) fail_msg("%s", err.text);
    if (qn_order_widen(&wide, base, 1, shards, together, &err) != QN_OK) fail_msg("%s", err.text);
    for (int32_t s = 0; s < wide->stages; s++) bytes[s] = 200; /* does not divide into eights by 3 or 4 */
    const qn_lowering how = {.act_bytes = bytes,
                             .stash_bytes = bytes,
                             .wstash_bytes = bytes,
                             .tied_owner = QN_NONE,
                             .tied_replica = QN_NONE,
                             .part_bytes = 96,
                             .step_tasks = (what & JOINS) != 0,
                             .stat_bytes = 8,
                             .joins = (what & JOINS) != 0,
                             .whole_links = (what & WHOLE) != 0};
    if (qn_lower(&p, wide, &how, &err) != QN_OK) fail_msg("%s", err.text);
    qn_order_close(wide);
    qn_order_close(base);
    return p;
}

static void channels_between_workers_of_a_stage(void **state)
{
    (void)state;
    for (int32_t P = 1; P <= 3; P++) {
        for (int32_t t = 1; t <= 4; t++) {
            for (int32_t tw = 1; tw <= t; tw++) {
                if (t % tw != 0) continue;
                qn_plan *p = wide_plan(P, t, tw, 0);
                int32_t parts = 0, links = 0;
                for (int32_t c = 0; c < p->channels; c++) {
                    const qn_channel *x = &p->channel[c];
                    parts += x->cls == QN_V_PART;
                    links += x->cls == QN_V_ACT || x->cls == QN_V_GRAD;
                    if (x->cls == QN_V_PART) {
                        assert_int_equal(x->slot_bytes, 96);
                        assert_int_equal(x->from / tw, x->to / tw);
                        assert_int_equal(x->slices, 0);
                    } else if (t > 1) {
                        assert_int_equal(x->slices, t);
                        assert_true(x->slot_bytes <= 200 / t + 8);
                    }
                }
                assert_int_equal(parts, P * tw * (tw - 1));
                assert_int_equal(links, 2 * (P - 1) * t);
                qn_plan_close(p);
            }
        }
    }
}

/* Slices lie side by side and make the whole. */
static void slices_cover_the_value(void **state)
{
    (void)state;
    for (int64_t bytes = 0; bytes < 300; bytes++) {
        for (int32_t t = 1; t <= 7; t++) {
            int64_t end = 0;
            for (int32_t k = 0; k < t; k++) {
                int64_t first;
                const qn_channel c = {.slice = k, .slices = t};
                const int64_t n = qn_channel_carries(&c, bytes, &first);
                assert_int_equal(first, end);
                assert_true(n >= 0);
                end = first + n;
            }
            assert_int_equal(end, bytes);
        }
    }
}

static void text_keeps_slices(void **state)
{
    (void)state;
    qn_plan *p = wide_plan(3, 4, 2, 0), *again;
    char *one, *two;
    qn_err err;
    assert_int_equal(qn_plan_write(&one, p, &err), QN_OK);
    assert_non_null(strstr(one, "slice=3 of=4"));
    if (qn_plan_read(&again, one, strlen(one), &err) != QN_OK || qn_plan_validate(again, &err) != QN_OK) fail_msg("%s", err.text);
    assert_int_equal(qn_plan_write(&two, again, &err), QN_OK);
    assert_string_equal(one, two);
    qn_plan_close(again);
    char *bad = strstr(one, "slice=3 of=4");
    bad[6] = '9';
    assert_int_not_equal(qn_plan_read(&again, one, strlen(one), &err), QN_OK);
    assert_non_null(strstr(err.text, "slice"));
    qn_free(one);
    qn_free(two);
    qn_plan_close(p);
    p = wide_plan(3, 4, 2, WHOLE);
    assert_int_equal(qn_plan_write(&one, p, &err), QN_OK);
    assert_null(strstr(one, "slice="));
    qn_free(one);
    qn_plan_close(p);
}

/* One for each shard of each stage, behind its last backward and before its worker's NORM; live, joint, kept by the text form. */
static void joins_come_before_norms(void **state)
{
    (void)state;
    for (int32_t i = 0; i < 24; i++) {
        const int32_t P = 1 + i % 3, t = 1 + i / 6, tw = t == 4 ? 2 : t;
        qn_plan *p = wide_plan(P, t, tw, JOINS | (i % 2 ? SPLIT : 0)), *again;
        int32_t joins = 0, norms[64] = {0};
        for (int32_t k = 0; k < p->tasks; k++) {
            const qn_task *x = &p->task[k];
            norms[x->worker] += x->op == QN_OP_NORM;
            if (x->op != QN_OP_JOIN) continue;
            joins++;
            assert_int_equal(norms[x->worker], 0);
            assert_int_equal(qn_joint_last(p, k) - qn_joint_first(p, k) + 1, t / tw);
        }
        assert_int_equal(joins, t > 1 ? P * t : 0);
        assert_true(qn_token_game(p, 0));
        char *text;
        qn_err err;
        assert_int_equal(qn_plan_write(&text, p, &err), QN_OK);
        if (qn_plan_read(&again, text, strlen(text), &err) != QN_OK || qn_plan_validate(again, &err) != QN_OK)
            fail_msg("%s", err.text);
        qn_plan_close(again);
        qn_free(text);
        qn_plan_close(p);
    }
}

static int32_t first_join(const qn_plan *p)
{
    int32_t k = 0;
    while (p->task[k].op != QN_OP_JOIN) k++;
    return k;
}

static void refused(qn_plan *p, const char *says)
{
    qn_err err;
    assert_int_equal(qn_plan_validate(p, &err), QN_ESCHEDULE);
    if (strstr(err.text, says) == NULL) fail_msg("'%s' does not say '%s'", err.text, says);
    qn_plan_close(p);
}

static void joins_without_partner_or_in_another_order_are_refused(void **state)
{
    (void)state;
    qn_plan *p = wide_plan(2, 2, 2, JOINS);
    p->task[first_join(p)].op = QN_OP_TIE;
    refused(p, "has no partner JOIN");
    p = wide_plan(2, 2, 2, JOINS);
    const int32_t k = first_join(p);
    const qn_task x = p->task[k];
    p->task[k] = p->task[k - 1]; /* before the last BW */
    p->task[k - 1] = x;
    refused(p, "stands outside of the time between");
    qn_order *base, *wide; /* both stages on the same two workers: they must join them in one order */
    qn_err err;
    const qn_pattern pattern = {.workers = 1, .items = 2, .chunks = 2};
    const qn_lowering how = {
        .tied_owner = QN_NONE, .tied_replica = QN_NONE, .part_bytes = 64, .step_tasks = true, .stat_bytes = 8, .joins = true};
    if (qn_generate(&base, "interleaved", &pattern, &err) != QN_OK) fail_msg("%s", err.text);
    if (qn_order_widen(&wide, base, 1, 2, 2, &err) != QN_OK || qn_lower(&p, wide, &how, &err) != QN_OK) fail_msg("%s", err.text);
    const int32_t a = first_join(p);
    assert_int_equal(p->task[a + 1].op, QN_OP_JOIN);
    const qn_task y = p->task[a];
    p->task[a] = p->task[a + 1];
    p->task[a + 1] = y;
    refused(p, "deadlock: ");
    qn_order_close(wide);
    qn_order_close(base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(channels_between_workers_of_a_stage),
        cmocka_unit_test(slices_cover_the_value),
        cmocka_unit_test(text_keeps_slices),
        cmocka_unit_test(joins_come_before_norms),
        cmocka_unit_test(joins_without_partner_or_in_another_order_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
