/* Whole parameters from the homes of their shards, and into them. */
#include "trainer.h"

void qn_trainer_get(qn_trainer *t, int32_t param, void *value, void *m, void *v)
{
    for (int32_t k = 0; k < qn_trainer_shards(t); k++) {
        const qn_param_home h = qn_trainer_shard_home(t, param, k);
        if (h.part->slice.shards == 1 && k > 0) return; /* all have the same */
        if (value != NULL) qn_param_put(h.part, value, h.value, h.element);
        if (m != NULL && h.m != NULL) qn_param_put(h.part, m, h.m, h.element);
        if (v != NULL && h.v != NULL) qn_param_put(h.part, v, h.v, h.element);
    }
}

void qn_trainer_put(qn_trainer *t, int32_t param, const void *value, const void *m, const void *v)
{
    for (int32_t k = 0; k < qn_trainer_shards(t); k++) {
        const qn_param_home h = qn_trainer_shard_home(t, param, k);
        if (value != NULL) qn_param_take(h.part, h.value, value, h.element);
        if (m != NULL && h.m != NULL) qn_param_take(h.part, h.m, m, h.element);
        if (v != NULL && h.v != NULL) qn_param_take(h.part, h.v, v, h.element);
    }
}
