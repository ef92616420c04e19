/* After its first step a trainer allocates nothing. For tests that include support/malloc_guard.c. */
#ifndef QN_TEST_QUIET_RIG_H
#define QN_TEST_QUIET_RIG_H

#include "support/malloc_guard.h"
#include "support/trainer_rig.h"

static inline void rig_quiet_after_the_first(const qn_model *m, const rig_way *way, int32_t items)
{
    qn_trainer *t = rig_open(m, QN_MODE_F32, way, items);
    qn_step_result r;
    qn_err err;
    rig_ok(qn_trainer_step(t, 0, RIG_LR, &r, NULL, &err), &err);
    qni_malloc_guard_begin();
    for (int64_t step = 1; step < 4; step++)
        if (qn_trainer_step(t, step, RIG_LR, &r, NULL, NULL) != QN_OK) abort();
    const long allocations = qni_malloc_guard_end();
    void *caller = NULL;
    const size_t bytes = qni_malloc_guard_first(&caller);
    if (allocations != 0) {
        char text[512];
        rig_describe(text, sizeof(text), way, QN_MODE_F32, items);
        fail_msg("%s: %ld allocations, the first of %zu bytes from %p", text, allocations, bytes, caller);
    }
    qn_trainer_close(t);
}

#endif
