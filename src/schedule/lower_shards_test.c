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
#include "schedule/schedule_text.h"

static qn_plan *wide_plan(int32_t workers, int32_t shards, int32_t together, bool whole)
{
    qn_order *base, *wide;
    qn_plan *p;
    qn_err err;
    int64_t bytes[64];
    const qn_pattern pattern = {.workers = workers, .items = 4, .chunks = 1};
    if (qn_generate(&base, "1f1b", &pattern, &err) != QN_OK) fail_msg("%s", err.text);
    if (qn_order_widen(&wide, base, 1, shards, together, &err) != QN_OK) fail_msg("%s", err.text);
    for (int32_t s = 0; s < wide->stages; s++) bytes[s] = 200; /* does not divide into eights by 3 or 4 */
    const qn_lowering how = {.act_bytes = bytes,
                             .stash_bytes = bytes,
                             .wstash_bytes = bytes,
                             .tied_owner = QN_NONE,
                             .tied_replica = QN_NONE,
                             .part_bytes = 96,
                             .whole_links = whole};
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
                qn_plan *p = wide_plan(P, t, tw, false);
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
    qn_plan *p = wide_plan(3, 4, 2, false), *again;
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
    p = wide_plan(3, 4, 2, true);
    assert_int_equal(qn_plan_write(&one, p, &err), QN_OK);
    assert_null(strstr(one, "slice="));
    qn_free(one);
    qn_plan_close(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(channels_between_workers_of_a_stage),
        cmocka_unit_test(slices_cover_the_value),
        cmocka_unit_test(text_keeps_slices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
