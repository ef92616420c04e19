/* Adapters on tensor shards through the whole trainer: the same bits for any number of workers, schedule, recomputation and
 * replicas at a fixed t, near t = 1, and whole adapters from the shards' parts. */
#include <math.h>

#include "model/lora.h"
#include "support/sanitized.h"
#include "support/trainer_rig.h"

enum { STEPS = QN_SANITIZED ? 4 : 10, ITEMS = 4 };

static const char *const schedules[] = {"gpipe", "1f1b", "split", "zb-h1", "v-half", "interleaved"};
static const char *const transports[] = {"thread", "self", "sim"};

static qn_model *adapted(qn_arch arch, const char *target)
{
    qn_err err;
    qn_model_config c = {.arch = arch,
                         .layers = 3,
                         .heads = 8,
                         .kv_heads = arch == QN_ARCH_LLAMA ? 4 : 8,
                         .width = 32,
                         .context = 8,
                         .vocab = RIG_VOCAB,
                         .dropout = 0.1,
                         .lora = {.rank = 3, .alpha = 6}};
    rig_ok(qn_lora_targets(&c.lora.targets, arch, &target, 1, &err), &err);
    return rig_model(&c);
}

static void same_bits_for_any_number_of_workers(void **unused)
{
    (void)unused;
    int32_t turn = 0;
    for (int32_t arch = 0; arch < 2; arch++) {
        for (int32_t t = 2; t <= 4; t *= 2) {
            qn_model *m = adapted((qn_arch)arch, "all-linear");
            const rig_way base = {
                .schedule = "gpipe", .workers = 1, .threads = 1, .transport = "self", .shards = t, .replicas = 1, .groups = 2};
            rig_outcome want = rig_compute(m, QN_MODE_F32, &base, ITEMS, STEPS);
            assert_true(want.loss[STEPS - 1] < want.loss[0]);
            for (int i = 0; i < (QN_SANITIZED ? 3 : 9); i++, turn++) {
                const rig_way way = {.schedule = schedules[turn % 6],
                                     .workers = 1 + turn % 3,
                                     .threads = 1 + turn % 2,
                                     .recompute = (qn_recompute)(turn % 3),
                                     .transport = transports[turn % 3],
                                     .seed = turn % 3 == 2 ? 30u + (uint64_t)turn : 0,
                                     .shards = t,
                                     .shard_workers = 1 << turn % (t == 2 ? 2 : 3),
                                     .replicas = 1 + turn % 4 / 3,
                                     .groups = 2,
                                     .zero1 = turn % 8 == 7};
                rig_assert_same(m, QN_MODE_F32, &way, ITEMS, STEPS, &want);
            }
            free(want.state);
            qn_model_close(m);
        }
    }
}

/* Every target by itself; the adapters' values after the steps as well as the losses. */
static void near_one_shard(void **unused)
{
    static const char *const targets[2][7] = {{"q", "o", "up", "down"}, {"q", "k", "v", "o", "gate", "up", "down"}};
    (void)unused;
    for (int32_t arch = 0; arch < 2; arch++) {
        for (int32_t k = 0; k < 7 && targets[arch][k] != NULL; k++) {
            qn_model *m = adapted((qn_arch)arch, targets[arch][k]);
            const rig_way one = {.schedule = "1f1b", .workers = 2, .threads = 1, .transport = "self"};
            rig_way way = one;
            way.shards = way.shard_workers = 2 << k % 2;
            rig_outcome want = rig_compute(m, QN_MODE_F32, &one, ITEMS, STEPS);
            rig_outcome got = rig_compute(m, QN_MODE_F32, &way, ITEMS, STEPS);
            for (int32_t step = 0; step < STEPS; step++) {
                assert_true(fabs(got.loss[step] / want.loss[step] - 1) < 1e-5);
                assert_true(fabs(got.norm[step] / want.norm[step] - 1) < 1e-4);
            }
            const float *a = (const float *)(const void *)got.state, *b = (const float *)(const void *)want.state;
            for (int32_t p = 0; p < qn_model_params(m); p++) {
                const int64_t n = qn_model_param(m, p)->count;
                for (int64_t i = 0; i < n; i++)
                    if (fabsf(a[i] - b[i]) > 1e-3f)
                        fail_msg("%s[%lld] is %.9g, wanted %.9g", qn_model_param(m, p)->name, (long long)i, (double)a[i],
                                 (double)b[i]);
                a += 3 * n;
                b += 3 * n;
            }
            free(want.state);
            free(got.state);
            qn_model_close(m);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_for_any_number_of_workers),
        cmocka_unit_test(near_one_shard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
