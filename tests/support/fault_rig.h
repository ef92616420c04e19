/* Runs with a spike, an infinity or a NaN in a gradient, and what comes of them. */
#ifndef QN_TEST_FAULT_RIG_H
#define QN_TEST_FAULT_RIG_H

#include <math.h>

#include "runtime/trainer/trainer_internal.h"
#include "trainer_rig.h"

typedef struct rig_fault {
    int64_t step;
    int32_t stage, item; /* stage of a replica; the item says of which */
    double value;        /* 0: none */
} rig_fault;

static inline void rig_spoil(qn_trainer *t, rig_fault f)
{
    t->spoil.step = f.step;
    t->spoil.stage = f.stage;
    t->spoil.item = f.item;
    t->spoil.value = f.value;
}

typedef struct rig_journey {
    double loss[RIG_MOST_STEPS], norm[RIG_MOST_STEPS];
    int32_t taken[RIG_MOST_STEPS]; /* 0: refused */
    char *state;                   /* free */
    qn_speculated early;
} rig_journey;

/* Through all steps; what is refused is passed over, as a trainer that goes on would. still: behind the fault the weights stay as
 * they are. */
static inline rig_journey rig_fly(const qn_model *m, const rig_way *way, int32_t items, int32_t steps, rig_fault f, bool still)
{
    rig_journey out = {.state = malloc(rig_state_bytes(m, sizeof(float)))};
    double lr[RIG_MOST_STEPS];
    qn_trainer *t = rig_open(m, QN_MODE_F32, way, items);
    assert_non_null(out.state);
    rig_spoil(t, f);
    for (int32_t i = 0; i < steps; i++) lr[i] = still && i > f.step ? 0.0 : RIG_LR;
    for (int32_t at = 0; at < steps;) {
        qn_step_result r[RIG_MOST_STEPS];
        int32_t done;
        qn_err err;
        const qn_status st = qn_trainer_flight(t, at, steps - at, lr + at, r, &done, NULL, &err);
        for (int32_t i = 0; i < done; i++) {
            out.loss[at + i] = r[i].loss;
            out.norm[at + i] = r[i].grad_norm;
            out.taken[at + i] = 1;
        }
        at += done;
        if (st == QN_OK) break;
        char step[32];
        snprintf(step, sizeof step, "step %d:", at + 1);
        if (st != QN_ENONFINITE || strstr(err.text, step) == NULL || at != f.step)
            fail_msg("step %d: %s: %s", at + 1, qn_status_name(st), err.text);
        at++;
    }
    rig_state(out.state, t, m, sizeof(float), 0);
    out.early = qn_trainer_speculated(t);
    qn_trainer_close(t);
    return out;
}

/* Of the weights. */
static inline double rig_difference(const rig_journey *got, const rig_journey *want, const qn_model *m)
{
    const float *a = (const float *)(const void *)got->state, *b = (const float *)(const void *)want->state;
    double most = 0;
    for (int32_t p = 0; p < qn_model_params(m); p++) {
        const int64_t n = qn_model_param(m, p)->count;
        for (int64_t i = 0; i < n; i++) {
            const double d = fabs((double)a[i] - b[i]) / (1e-3 + fabs((double)b[i]));
            most = d <= most ? most : d; /* not a number counts as far */
        }
        a += 3 * n;
        b += 3 * n;
    }
    return most;
}

/* The same steps taken, with the same bits; undone in place: with weights that are near. */
static inline bool rig_same_journey(const rig_journey *got, const rig_journey *want, const qn_model *m, bool near)
{
    if (memcmp(got->taken, want->taken, sizeof got->taken) != 0) return false;
    if (near) return rig_difference(got, want, m) <= 1e-5;
    return memcmp(got->state, want->state, rig_state_bytes(m, sizeof(float))) == 0 &&
           memcmp(got->loss, want->loss, sizeof got->loss) == 0 && memcmp(got->norm, want->norm, sizeof got->norm) == 0;
}

#endif
