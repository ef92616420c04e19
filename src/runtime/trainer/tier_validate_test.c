/* Post-validated steps on devices: the host steps each piece as soon as its gradient is down, on the norm so far, and takes back
 * what the decision does not bear out before anybody loads it. Whatever spike, infinity or NaN appears in whatever piece at
 * whatever step, everything is as with a host that waits: bit for bit with a copy, within rounding when undone in place. */
#include "support/device_rig.h"
#include "support/fault_rig.h"
#include "support/sanitized.h"

enum { BLOCKS = 4, ITEMS = 4, STEPS = 5, PATIENT = QNI_PATIENCE + 4, SPARSE = QN_SANITIZED ? 9 : 1 };

static const qn_model_config models[] = RIG_DEVICE_MODELS(BLOCKS);
static const char *const transports[] = {"thread", "self", "thread"};
static const double values[] = {1e4, INFINITY, NAN, 0};

static int32_t pieces_of(const rig_way *way)
{
    qn_order *o = rig_order(way, ITEMS);
    const int32_t n = qn_depth(qn_order_grid(o));
    qn_order_close(o);
    return n;
}

static void compare(const qn_model *m, const rig_way *way, int32_t steps, rig_fault f, qn_speculated *sum)
{
    const bool near = way->undo == QN_UNDO_IN_PLACE;
    rig_way late = *way;
    late.undo = QN_UNDO_NONE;
    late.flight = 1;
    late.transport = "self";
    late.jitter = 0;
    const rig_journey got = rig_fly(m, way, ITEMS, steps, f, near), want = rig_fly(m, &late, ITEMS, steps, f, near);
    if (!rig_same_journey(&got, &want, m, near))
        fail_msg("%s on %d devices, window %d,%d, groups %d, %s, jitter %d, flights of %d, undo %d, clip %g: %g in piece %d at "
                 "step %d",
                 way->schedule, way->workers, way->tiers->window, way->tiers->replace, way->groups, way->transport,
                 (int)way->jitter, way->flight, (int)way->undo, way->clip, f.value, f.stage, (int)f.step);
    if (f.value == 0.0) assert_int_equal(got.early.wrong, 0);
    sum->steps += got.early.steps;
    sum->wrong += got.early.wrong;
    free(got.state);
    free(want.state);
}

static void sweep(qn_undo undo, const char *const schedule[3], double clip, int32_t replicas)
{
    uint32_t turn = 0;
    qn_speculated sum = {0};
    const int32_t steps = clip > 0 ? PATIENT : STEPS, begin = clip > 0 ? QNI_PATIENCE - 1 : 0;
    for (size_t c = 0; c < QN_COUNT(models); c++) {
        qn_model *m = rig_model(&models[c]);
        for (int32_t N = 1; N <= 3; N++) {
            rig_way way = {
                .schedule = schedule[N - 1], .workers = N, .threads = 1, .undo = undo, .clip = clip, .replicas = replicas};
            const int32_t pieces = pieces_of(&way);
            for (int32_t piece = 0; piece < pieces; piece++) {
                for (int32_t step = begin; step < steps; step++, turn++) {
                    if (turn % (uint32_t)(replicas * replicas * SPARSE) != 0) continue;
                    const int32_t k = 1 + (int32_t)(turn % 3);
                    const qn_trainer_tiers tiers = {.window = k, .replace = 1 + (int32_t)(turn / 3 % (uint32_t)k)};
                    way.tiers = &tiers;
                    way.groups = replicas << turn % (replicas > 1 ? 2 : 3);
                    way.transport = transports[turn % 3];
                    way.jitter = turn % 3 == 2 ? turn : 0;
                    way.flight = 1 + (int32_t)(turn / 2 % 4);
                    compare(m, &way, steps,
                            (rig_fault){.step = step, .stage = piece, .value = values[turn / 2 % QN_COUNT(values)]}, &sum);
                }
            }
        }
        qn_model_close(m);
    }
    print_message("undo %d: %lld steps taken early, %lld taken back\n", (int)undo, (long long)sum.steps, (long long)sum.wrong);
    assert_true(sum.steps > 0 && (sum.wrong > 0 || QN_SANITIZED));
}

static void the_host_steps_early(void **unused)
{
    (void)unused;
    sweep(QN_UNDO_COPY, (const char *const[]){"superpipe", "roundpipe", "roundpipe"}, -1, 1);
}

static void clipped_steps_of_the_host(void **unused)
{
    (void)unused;
    sweep(QN_UNDO_COPY, (const char *const[]){"superpipe", "1f1b", "roundpipe"}, 100, 1);
}

static void replicas_of_devices(void **unused)
{
    (void)unused;
    sweep(QN_UNDO_COPY, (const char *const[]){"superpipe", "1f1b", "zb-h1"}, 100, 2);
}

static void undone_in_place_it_is_close(void **unused)
{
    (void)unused;
    sweep(QN_UNDO_IN_PLACE, (const char *const[]){"1f1b", "roundpipe", "zb-h1"}, 100, 1);
}

/* One stage after the other steps while gradients of those before it are still on their way: its OPT waits for nothing else. */
static void opt_comes_with_its_gradient(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&models[1]);
    const qn_trainer_tiers tiers = {.window = 2, .replace = 1};
    const rig_way way = {
        .schedule = "roundpipe", .workers = 2, .threads = 1, .transport = "self", .undo = QN_UNDO_COPY, .tiers = &tiers};
    qn_trainer *t = rig_open(m, QN_MODE_F32, &way, ITEMS);
    const qn_plan *p = qn_trainer_plan(t);
    const int32_t first = p->lane[0][QN_LANE_HOST][0], count = p->lane[0][QN_LANE_HOST][1];
    static const int32_t ops[] = {QN_OP_NORM, QN_OP_GUESS, QN_OP_OPT};
    assert_int_equal(count, 4 * p->stages + 1);
    for (int32_t i = 0; i < count; i++) {
        const qn_task *x = &p->task[first + i];
        if (i < 3 * p->stages) {
            assert_int_equal(x->op, ops[i % 3]);
            assert_int_equal(x->stage, p->stages - 1 - i / 3);
            for (int32_t k = 0; k < x->in.count; k++)
                if (p->value[p->ref[x->in.first + k]].cls == QN_V_PGRAD)
                    assert_int_equal(p->value[p->ref[x->in.first + k]].stage, x->stage);
        } else {
            assert_int_equal(x->op, i == 3 * p->stages ? QN_OP_FOLD : QN_OP_VALIDATE);
        }
    }
    qn_trainer_close(t);
    qn_model_close(m);
}

static void a_lagging_optimizer_has_nothing_to_validate(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&models[1]);
    const qn_trainer_tiers tiers = {.window = 2, .replace = 1, .lag = 1};
    const rig_way way = {.workers = 2, .threads = 1, .transport = "self", .undo = QN_UNDO_COPY, .tiers = &tiers};
    rig_refused_on(m, &way, rig_dealt(2, BLOCKS + 2, ITEMS), QN_EUNSUPPORTED, "nothing to validate");
    qn_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_host_steps_early),        cmocka_unit_test(clipped_steps_of_the_host),
        cmocka_unit_test(replicas_of_devices),         cmocka_unit_test(undone_in_place_it_is_close),
        cmocka_unit_test(opt_comes_with_its_gradient), cmocka_unit_test(a_lagging_optimizer_has_nothing_to_validate),
    };
    return cmocka_run_group_tests_name("tier_validate", tests, NULL, NULL);
}
