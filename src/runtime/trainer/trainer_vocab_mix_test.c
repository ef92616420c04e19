/* Vocabulary shards with groups of gradients, replicas, zero1, frozen parameters, adapters and partial recomputation: at one
 * number of shards, groups and one algorithm the same bits as one worker, and near the whole model with the same of them. */
#include "model/lora.h"
#include "support/sanitized.h"
#include "support/trainer_rig.h"

#include <math.h>

enum { STEPS = 4, ITEMS = 8 };

static const char *const transports[] = {"thread", "self", "sim"};
static const char *const schedules[] = {"1f1b", "v-half"};

/* All replicas that divide the groups, on one to three workers each. again: what PART makes again, or NULL. */
static void sweep(const qn_model *m, int32_t algorithm, int32_t sides, int32_t groups, const uint8_t *again, uint32_t *turn)
{
    const rig_way whole = {.schedule = "gpipe", .workers = 1, .threads = 1, .transport = "self", .groups = groups};
    rig_way one = whole;
    one.schedule = "1f1b";
    one.vocab = algorithm;
    one.sides = sides;
    rig_outcome want = rig_compute(m, QN_MODE_F32, &one, ITEMS, STEPS), plain = rig_compute(m, QN_MODE_F32, &whole, ITEMS, STEPS);
    rig_assert_near(&want, &plain, STEPS);
    for (int32_t R = 1; R <= groups; R *= 2) {
        for (int32_t P = 1; P <= 3; P++) {
            for (int32_t zero1 = 0; zero1 < 2; zero1++, (*turn)++) {
                if ((*turn * 2654435761u >> 16) % (QN_SANITIZED ? 8 : 3) != 0) continue; /* a scattered part */
                const rig_way way = {.schedule = schedules[*turn / 3 % 2],
                                     .workers = P,
                                     .threads = 1 + (int32_t)(*turn % 2),
                                     .recompute = again != NULL && *turn % 2 ? QN_RECOMPUTE_PART : (qn_recompute)(*turn % 3),
                                     .again = again,
                                     .recompute_late = *turn / 2 % 2 != 0,
                                     .transport = transports[*turn / 2 % 3],
                                     .seed = *turn / 2 % 3 == 2 ? 1000u + *turn : 0,
                                     .replicas = R,
                                     .groups = groups,
                                     .zero1 = zero1 != 0,
                                     .together = *turn % 5 == 3,
                                     .flight = 1 + (int32_t)(*turn % 4 == 1) * 3,
                                     .vocab = algorithm,
                                     .sides = sides};
                rig_assert_same(m, QN_MODE_F32, &way, ITEMS, STEPS, &want);
            }
        }
    }
    free(want.state);
    free(plain.state);
}

static void groups_and_replicas(void **unused)
{
    static const int32_t sides[] = {2, 3, 5, 1};
    (void)unused;
    uint32_t turn = 0;
    for (int32_t c = 0; c < RIG_CONFIGS; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        for (int32_t G = 1; G <= 4; G *= 2) sweep(m, 1 + (c + G / 2) % 2, sides[c], G, NULL, &turn);
        qn_model_close(m);
    }
}

/* By architecture; which uses of the tables are trained differs. */
static const char *const patterns[][2] = {
    {"*.w[tp]e.*", "model.embed*"},               /* tied: both tables; untied: the look-ups */
    {"transformer.[wh]*", "model.[el]*"},         /* all but the end */
    {"transformer.h*", "*norm*"},                 /* the tables learn, and the way to the look-ups leads through all */
    {"lm_head*", "lm_head*"},                     /* untied: the output matrix */
    {"*.h.*.c_*.weight", "model.layers.*proj*t"}, /* all products of the blocks */
};

static void frozen_parameters(void **unused)
{
    (void)unused;
    uint32_t turn = 0;
    for (int32_t c = 0; c < RIG_CONFIGS; c++) {
        for (size_t i = 0; i < QN_COUNT(patterns); i++) {
            const char *pattern = patterns[i][rig_config[c].arch];
            qn_err err;
            if (rig_config[c].tied && strcmp(pattern, "lm_head*") == 0) continue;
            qn_model *m = rig_model(&rig_config[c]);
            rig_ok(qn_model_freeze(m, &pattern, 1, &err), &err);
            sweep(m, 1 + (c + (int32_t)i) % 2, 3, 1 + (int32_t)(i % 2), NULL, &turn);
            qn_model_close(m);
        }
    }
}

static void adapters(void **unused)
{
    const char *target = "all-linear";
    (void)unused;
    uint32_t turn = 1;
    for (int32_t c = 0; c < RIG_CONFIGS; c++) {
        qn_model_config config = rig_config[c];
        qn_err err;
        config.lora = (qn_lora){.rank = 2, .alpha = 8};
        rig_ok(qn_lora_targets(&config.lora.targets, config.arch, &target, 1, &err), &err);
        qn_model *m = rig_model(&config);
        sweep(m, 1 + c % 2, 2 + c, 2, NULL, &turn);
        qn_model_close(m);
    }
}

static void parts_made_again(void **unused)
{
    (void)unused;
    uint32_t turn = 0;
    for (int32_t c = 0; c < RIG_CONFIGS; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        const uint8_t again[] = {0, QN_AGAIN_ALL, QN_AGAIN_ATTENTION, QN_AGAIN_NORM | QN_AGAIN_ACTIVATION, 0};
        for (int32_t algorithm = 1; algorithm <= 2; algorithm++) sweep(m, algorithm, 2, algorithm, again, &turn);
        qn_model_close(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(groups_and_replicas), cmocka_unit_test(frozen_parameters),
                                       cmocka_unit_test(adapters), cmocka_unit_test(parts_made_again)};
    return cmocka_run_group_tests_name("trainer_vocab_mix", tests, NULL, NULL);
}
