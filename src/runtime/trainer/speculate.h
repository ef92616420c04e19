/* Post-validated steps (Qi et al. 2024, arXiv:2401.10241, section 4): each worker steps on the norm of its own gradients and
 * those of the workers before it, and the step's decision, which comes later, is held against what was done. Internal to
 * src/runtime.
 *
 *   GUESS     sums of workers 0 .. w -> may this worker's stages step already?
 *   OPT       if so: keep what undoing needs, step, leave the gradients as they are
 *   VALIDATE  the decision says the same: done. Otherwise undo, and step or not as it says. Gradients are zero afterwards
 *
 * The norm only grows along the way: who refuses to step is right, who steps may be wrong. With clipping nobody guesses
 * before PATIENCE steps in a row went unclipped. What a worker's stages need is written by that worker alone.
 *
 * With replicas a worker may step what a worker behind it owns. GUESS then adds the squares of that (qni_norm_rest), from its own
 * copy of the same sums, so that nobody steps on a gradient whose norm he has not seen.
 *
 * On devices the host alone steps: it guesses piece by piece, from the last one on, as gradients come down. Nobody loads what is
 * not validated.
 *
 * Either all guesses of a step hold, or none does. A worker's sums are the whole step's with zeros for the workers behind it.
 * Rounded addition of numbers that are not negative grows with each of them, and the order is the same, so that the norm of a
 * part is at most the norm of all; a part is finite when all is. So when the decision is to step with a norm that is not clipped,
 * every worker guessed just that, with the same scale, 1 / tokens. When it is anything else, a step taken on a guess was wrong
 * and one not taken is still owed: every stage goes back, where it stepped, and does what the decision says.
 *
 * In a flight the step k + 1 warms up before VALIDATE of step k (chain.c). FOLD, which decides, ends the flight when it does not
 * agree: nobody comes past VALIDATE without the decision, so all gradients are still those of step k, every stage's step k is
 * done, not done, and never half done, and nothing of step k + 1 but forwards was computed. The trainer then validates every
 * stage itself, drops those forwards with the epoch, and begins again with step k + 1. */
#ifndef QN_RUNTIME_SPECULATE_H
#define QN_RUNTIME_SPECULATE_H

#include "optimizer.h"

enum { QNI_PATIENCE = 10 };

typedef struct qni_speculation {
    qni_homes *homes;      /* borrowed */
    const qn_hyper *hyper; /* borrowed */
    qn_undo undo;
    int32_t streak;               /* steps in a row that were not clipped; counted between steps */
    qni_verdict *guess;           /* [workers]: on which this step's OPT runs; finding other than QNI_GOOD: not at all */
    bool *taken;                  /* [stages]: stepped on the guess, which is not yet held against the decision */
    char **kept;                  /* [stages]: values and moments before the step (QN_UNDO_COPY) */
    size_t *kept_bytes;           /* [stages] */
    int64_t steps, wrong;         /* stages stepped on a guess, and of them undone; counted between steps */
    int64_t *taken_of, *wrong_of; /* [stages]: since then */
} qni_speculation;

/* Errors: QN_ENOMEM. fini accepts zeroes. */
qn_status qni_speculation_init(qni_speculation *s, qni_homes *homes, const qn_hyper *hyper, qn_undo undo,
                               qn_err *err) QN_MUST_USE;
void qni_speculation_fini(qni_speculation *s);

/* sums: of workers 0 .. w, as qni_norm leaves them; tokens: targets of the whole step. */
void qni_speculation_guess(qni_speculation *s, int32_t worker, const double *sums, int64_t tokens);
void qni_speculation_step(qni_speculation *s, int32_t stage, int64_t step, double lr);
/* True: as guessed. */
bool qni_speculation_validate(qni_speculation *s, int32_t stage, const qni_verdict *v, int64_t step, double lr);
/* May workers step on guesses now? Else a step by itself is all that is possible. */
bool qni_speculation_ready(const qni_speculation *s);
/* Does a decision bear out what all workers guessed? If not, it bears out none of them. */
bool qni_speculation_agrees(const qni_speculation *s, const qni_verdict *v);
/* Between steps, with every worker at rest: before the first of a flight; after each of its steps, with its decision. */
void qni_speculation_begin(qni_speculation *s);
void qni_speculation_settle(qni_speculation *s, const qni_verdict *v);

#endif
