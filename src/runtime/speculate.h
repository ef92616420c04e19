/* Post-validated steps (Qi et al. 2024, arXiv:2401.10241, section 4): each worker steps on the norm of its own gradients and
 * those of the workers before it, and the step's decision, which comes later, is held against what was done. Internal to
 * src/runtime.
 *
 *   GUESS     sums of workers 0 .. w -> may this worker's stages step already?
 *   OPT       if so: keep what undoing needs, step, leave the gradients as they are
 *   VALIDATE  the decision says the same: done. Otherwise undo, and step or not as it says. Gradients are zero afterwards
 *
 * The norm only grows along the workers: who refuses to step is right, who steps may be wrong. With clipping nobody guesses
 * before PATIENCE steps in a row went unclipped. What a worker's stages need is written by that worker alone. */
#ifndef QN_RUNTIME_SPECULATE_H
#define QN_RUNTIME_SPECULATE_H

#include "optimizer.h"

enum { QNI_PATIENCE = 10 };

typedef struct qni_speculation {
    qni_homes *homes;      /* borrowed */
    const qn_hyper *hyper; /* borrowed */
    qn_undo undo;
    int32_t streak;       /* steps in a row that were not clipped; counted between steps */
    qni_verdict *guess;   /* [workers]: on which this step's OPT runs; finding other than QNI_GOOD: not at all */
    bool *taken;          /* [stages]: stepped on the guess */
    char **kept;          /* [stages]: values and moments before the step (QN_UNDO_COPY) */
    size_t *kept_bytes;   /* [stages] */
    int64_t steps, wrong; /* stages stepped on a guess, and of them undone; counted between steps */
    int64_t *wrong_of;    /* [stages]: this step's */
} qni_speculation;

/* Errors: QN_ENOMEM. fini accepts zeroes. */
qn_status qni_speculation_init(qni_speculation *s, qni_homes *homes, const qn_hyper *hyper, qn_undo undo,
                               qn_err *err) QN_MUST_USE;
void qni_speculation_fini(qni_speculation *s);

/* sums: of workers 0 .. w, as qni_norm leaves them; tokens: targets of the whole step. */
void qni_speculation_guess(qni_speculation *s, int32_t worker, const double *sums, int64_t tokens);
void qni_speculation_step(qni_speculation *s, int32_t stage, int64_t step, double lr);
void qni_speculation_validate(qni_speculation *s, int32_t stage, const qni_verdict *v, int64_t step, double lr);
/* After a step, with every worker at rest. */
void qni_speculation_settle(qni_speculation *s, const qni_verdict *v);

#endif
