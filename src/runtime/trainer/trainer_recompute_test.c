/* Recomputation through the whole trainer: the same bits whatever is made again and when, and memory as the plan says it. */
#include "trainer_internal.h"
#include "schedule/trace.h"
#include "support/plan_peak.h"
#include "support/sanitized.h"
#include "support/trainer_rig.h"

enum { STEPS = QN_SANITIZED ? 2 : 4, ITEMS = 4, LAYERS = 5 };

static const uint8_t all[LAYERS] = {0, QN_AGAIN_ALL, QN_AGAIN_ALL, QN_AGAIN_ALL, 0}, some[LAYERS] = {0, 0, QN_AGAIN_ALL, 0, 0},
                     groups[LAYERS] = {0, QN_AGAIN_NORM | QN_AGAIN_ACTIVATION, QN_AGAIN_ATTENTION, QN_AGAIN_ACTIVATION, 0};

typedef struct mode {
    const char *name;
    qn_recompute how;
    bool late;
    const uint8_t *again;
} mode;

static const mode modes[] = {
    {"none", QN_RECOMPUTE_NONE, false, NULL},
    {"full, early", QN_RECOMPUTE_FULL, false, NULL},
    {"full, late", QN_RECOMPUTE_FULL, true, NULL},
    {"except last", QN_RECOMPUTE_EXCEPT_LAST, false, NULL},
    {"all blocks, early", QN_RECOMPUTE_PART, false, all},
    {"all blocks, late", QN_RECOMPUTE_PART, true, all},
    {"a block, early", QN_RECOMPUTE_PART, false, some},
    {"a block, late", QN_RECOMPUTE_PART, true, some},
    {"groups, early", QN_RECOMPUTE_PART, false, groups},
    {"groups, late", QN_RECOMPUTE_PART, true, groups},
};

static const char *const schedules[] = {"gpipe", "1f1b", "interleaved", "split", "zb-h1", "zb-v"};

static rig_way way_of(const char *schedule, int32_t workers, const mode *m, const char *transport)
{
    return (rig_way){.schedule = schedule,
                     .workers = workers,
                     .threads = 1,
                     .recompute = m->how,
                     .again = m->again,
                     .recompute_late = m->late,
                     .transport = transport};
}

static void steps(qn_trainer *t, double loss[STEPS])
{
    qn_err err;
    for (int64_t step = 0; step < STEPS; step++) {
        qn_step_result r;
        rig_ok(qn_trainer_step(t, step, RIG_LR, &r, NULL, &err), &err);
        loss[step] = r.loss;
    }
}

static void same_bits_for_any_mode(void **unused)
{
    (void)unused;
    uint32_t turn = 0;
    for (int32_t c = 0; c < 2; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        const size_t bytes = rig_state_bytes(m, sizeof(float));
        char *want = malloc(bytes), *got = malloc(bytes);
        double first[STEPS], loss[STEPS];
        const rig_way base = way_of("gpipe", 1, &modes[0], "self");
        qn_trainer *t = rig_open(m, QN_MODE_F32, &base, ITEMS);
        steps(t, first);
        rig_state(want, t, m, sizeof(float), 0);
        qn_trainer_close(t);
        for (size_t s = 0; s < QN_COUNT(schedules); s++) {
            for (int32_t P = 1; P <= 3; P++) {
                for (size_t k = 0; k < QN_COUNT(modes); k++, turn++) {
                    if ((turn * 2654435761u >> 16) % (QN_SANITIZED ? 8 : 2) != 0) continue; /* a scattered part */
                    const rig_way way = way_of(schedules[s], P, &modes[k], turn % 3 ? "self" : "thread");
                    t = rig_open(m, QN_MODE_F32, &way, ITEMS);
                    steps(t, loss);
                    rig_state(got, t, m, sizeof(float), 0);
                    if (memcmp(loss, first, sizeof(loss)) != 0 || memcmp(want, got, bytes) != 0)
                        fail_msg("%s on %d workers, %s: other bits", way.schedule, P, modes[k].name);
                    qn_trainer_close(t);
                }
            }
        }
        free(want);
        free(got);
        qn_model_close(m);
    }
}

/* One step as it ran: what was alive at once is what the executor counted, and its high water the arena; of all kinds of stash it
 * is what the simulator says, and never more than the arena. On one worker, in schedules whose stashes leave no holes, it is the
 * whole arena. */
static void check_memory(const qn_model *m, const rig_way *way, const char *name)
{
    const uint64_t stashes = 1u << QN_V_STASH | 1u << QN_V_WSTASH | 1u << QN_V_RSTASH;
    qn_trainer *t = rig_open(m, QN_MODE_F32, way, ITEMS);
    const qn_plan *p = t->plan;
    qn_trace ran = {.plan = p, .time = calloc((size_t)p->tasks, sizeof(*ran.time))},
             simulated = {.plan = p, .time = calloc((size_t)p->tasks, sizeof(*simulated.time))};
    int64_t *cost = calloc((size_t)p->tasks, sizeof(*cost));
    qn_step_result r;
    qn_err err;
    for (int32_t i = 0; i < p->tasks; i++) cost[i] = p->task[i].lane == QN_LANE_COMP ? 2 : 0;
    rig_ok(qn_trainer_step(t, 0, RIG_LR, &r, &ran, &err), &err);
    rig_ok(qn_simulate(&simulated, p, &(qn_sim_options){.cost = cost}, &err), &err);
    for (int32_t w = 0; w < way->workers; w++) {
        const int64_t most = qn_executor_most_alive(t->ex, w), high = qn_executor_high_water(t->ex, w), arena = p->arena_bytes[w];
        const bool whole = way->workers == 1 && strcmp(way->schedule, "interleaved") != 0 && strcmp(way->schedule, "zb-v") != 0;
        if (most != plan_peak(&ran, w, UINT64_MAX, false) || most > arena || high != arena || (whole && most != arena) ||
            plan_peak(&ran, w, stashes, true) != plan_peak(&simulated, w, stashes, true))
            fail_msg("%s on %d workers, %s, worker %d: alive %lld, by the trace %lld, arena %lld; stashes %lld, simulated %lld",
                     way->schedule, way->workers, name, w, (long long)most, (long long)plan_peak(&ran, w, UINT64_MAX, false),
                     (long long)arena, (long long)plan_peak(&ran, w, stashes, true),
                     (long long)plan_peak(&simulated, w, stashes, true));
    }
    free(cost);
    free(ran.time);
    free(simulated.time);
    qn_trainer_close(t);
}

static void memory_is_what_the_plan_says(void **unused)
{
    (void)unused;
    for (int32_t c = 0; c < 2; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        for (size_t s = 0; s < QN_COUNT(schedules); s++) {
            for (int32_t P = 1; P <= 3; P++) {
                for (size_t k = 0; k < QN_COUNT(modes); k++) {
                    const rig_way way = way_of(schedules[s], P, &modes[k], "self");
                    check_memory(m, &way, modes[k].name);
                }
            }
        }
        qn_model_close(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_for_any_mode),
        cmocka_unit_test(memory_is_what_the_plan_says),
    };
    return cmocka_run_group_tests_name("trainer_recompute", tests, NULL, NULL);
}
