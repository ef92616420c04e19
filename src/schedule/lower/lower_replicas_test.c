/* Sums of replicas: what was folded has left its home before somebody clears it there, and in post-validated plans it has come to
 * all that step it before their worker guesses. */
#include "schedule/schedule_rig.h"

#include "schedule/schedule_internal.h"

typedef struct way {
    const char *schedule;
    int32_t workers, replicas;
    bool zero1, validate, ahead;
} way;

static qn_plan *plan_of(const way *x, int64_t piece)
{
    qn_order *base = rig_generate(x->schedule, x->workers, 4, qn_generator_find(x->schedule)->usual_chunks, 0), *wide;
    qn_err err;
    int64_t bytes[64];
    for (size_t i = 0; i < QN_COUNT(bytes); i++) bytes[i] = 5 * piece; /* more than a channel's slots hold */
    if (qn_order_widen(&wide, base, x->replicas, 1, 1, &err) != QN_OK) fail_msg("%s", err.text);
    qn_lowering how = rig_plain();
    how.step_tasks = true;
    how.tied_owner = 0;
    how.tied_replica = qn_depth(qn_order_grid(wide)) - 1;
    if (how.tied_replica == 0) how.tied_owner = how.tied_replica = QN_NONE;
    how.tied_bytes = how.stat_bytes = 8;
    how.sum_bytes = how.value_bytes = bytes;
    how.piece_bytes = piece;
    how.zero1 = x->zero1;
    how.post_validate = x->validate;
    how.ahead = x->ahead;
    qn_plan *p = rig_lower(wide, &how);
    qn_order_close(base);
    qn_order_close(wide);
    return p;
}

static const qn_value *only(const qn_plan *p, qn_span s)
{
    return &p->value[p->ref[s.first]];
}

/* The last task of the lane of that op, of a stage or (QN_NONE) of any, before which `other` has to be complete. */
static void assert_complete(const qn_plan *p, const int32_t (*clock)[QN_LANES], int32_t other, int32_t op, int32_t stage)
{
    char a[QNI_NAME], b[QNI_NAME];
    bool found = false;
    for (int32_t t = 0; t < p->tasks; t++) {
        const qn_task *x = &p->task[t];
        if (x->worker != p->task[other].worker || x->op != op || (stage != QN_NONE && x->stage != stage)) continue;
        found = true;
        if (clock[t][p->task[other].lane] < qni_lane_index(p, other))
            fail_msg("%s does not wait for %s", qn_task_text(a, sizeof a, p, t), qn_task_text(b, sizeof b, p, other));
    }
    assert_true(found);
}

static int check_plan(const qn_plan *p, const way *x)
{
    int32_t(*clock)[QN_LANES];
    qn_err err;
    qni_graph g;
    int sums = 0;
    if (qni_graph_open(&g, p, 0, 0, &err) != QN_OK || qni_clocks(&clock, &g, &err) != QN_OK) fail_msg("%s", err.text);
    for (int32_t t = 0; t < p->tasks; t++) {
        const qn_task *k = &p->task[t];
        const bool send = k->op == QN_OP_SEND, recv = k->op == QN_OP_RECV;
        if (!send && !recv) continue;
        const qn_value *v = only(p, send ? k->in : k->out);
        if (v->cls != QN_V_PGRAD || v->item == QN_NONE) continue;
        const bool back = v->item == qn_replica(qn_plan_grid(p), v->stage); /* the owner's own */
        if (send && back)
            assert_complete(p, (const int32_t(*)[QN_LANES])clock, t, x->validate ? QN_OP_VALIDATE : QN_OP_OPT, v->stage);
        if (recv) assert_complete(p, (const int32_t(*)[QN_LANES])clock, t, x->validate ? QN_OP_GUESS : QN_OP_OPT, QN_NONE);
        sums += recv;
    }
    qn_free(clock);
    qni_graph_close(&g);
    return sums;
}

static void sums_are_there_in_time(void **state)
{
    (void)state;
    static const char *const schedules[] = {"1f1b", "zb-h1", "zb-v", "interleaved"};
    for (uint32_t turn = 0; turn < 4 * 3 * 2 * 2 * 3; turn++) {
        const way x = {.schedule = schedules[turn % 4],
                       .workers = 1 + (int32_t)(turn / 4 % 3),
                       .replicas = 2 << (turn / 12 % 2),
                       .zero1 = turn / 24 % 2 != 0,
                       .validate = turn / 48 > 0,
                       .ahead = turn / 48 > 1};
        qn_plan *p = plan_of(&x, 16);
        const int sums = check_plan(p, &x);
        assert_true((sums == 0) == x.zero1);
        qn_plan_close(p);
    }
}

/* Sums travel along the chain, replicas of a stage behind each other, and worker by worker where there is one replica. */
static void guesses_stand_in_the_chains_order(void **state)
{
    (void)state;
    for (int32_t R = 1; R <= 4; R *= 2) {
        const way x = {.schedule = "1f1b", .workers = 3, .replicas = R, .validate = true};
        qn_plan *p = plan_of(&x, 16);
        int hops = 0;
        for (int32_t c = 0; c < p->channels; c++) {
            const qn_channel *k = &p->channel[c];
            bool sums = false;
            for (int32_t t = 0; t < p->tasks; t++)
                sums = sums || (p->task[t].op == QN_OP_SEND && p->task[t].channel == c && k->cls == QN_V_STAT &&
                                only(p, p->task[t].in)->item == 0);
            if (!sums) continue;
            const int32_t from = k->from % 3 * R + k->from / 3, to = k->to % 3 * R + k->to / 3; /* by stage, then replica */
            assert_int_equal(to, from + 1);
            hops++;
        }
        assert_int_equal(hops, 3 * R - 1);
        qn_plan_close(p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_there_in_time),
        cmocka_unit_test(guesses_stand_in_the_chains_order),
    };
    return cmocka_run_group_tests_name("lower_replicas", tests, NULL, NULL);
}
