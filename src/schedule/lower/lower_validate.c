/* Lowering, pass step tasks, for a post-validated step (Qi et al. 2024, arXiv:2401.10241, section 4): no worker waits for all
 * others before it steps. Sums travel up the workers; each steps on what it has heard so far; the decision comes back and is
 * checked.
 *
 *   worker w - 1                worker w                              worker w + 1              the last worker
 *   SEND stat w-1.0 -------->   NORM, RECV, GUESS (sums of 0 .. w),
 *                               SEND stat w.0 ------------------->    RECV, GUESS               GUESS, FOLD
 *                               OPT of its stages, on the guess
 *                               RECV <-----------------------------------------------------     SEND stat (the result)
 *                               VALIDATE of its stages: as guessed, or undone and done again
 *
 * STAT of worker w with item 0 is the sum over the workers 0 .. w. A step by itself ends with VALIDATE. In a flight of steps the
 * decision travels in the next step's warm-up, as in the paper: chain.c moves it there, and `ahead` lets what other workers need
 * of a stage leave behind its OPT. */
#include "core/alloc.h"
#include "lower.h"

/* The sums of workers 0 .. w. *before: those of 0 .. w - 1 as they came here (QN_NONE for worker 0), then those for w + 1. */
static int32_t add_guess(qni_lower *l, int32_t w, int32_t *before)
{
    int32_t own;
    (void)qni_lower_norm(l, w, &own);
    const int32_t guess = qni_lower_comp(l, QN_OP_GUESS, QN_NONE, QN_NONE, w);
    const int32_t sums = qni_add_value(&l->b, QN_V_STAT, w, 0, w, l->how->stat_bytes);
    qni_add_link(&l->b, guess, QNI_IN, own);
    if (*before != QN_NONE) qni_add_link(&l->b, guess, QNI_IN, *before);
    qni_add_link(&l->b, guess, QNI_OUT, sums);
    if (w + 1 < l->workers) {
        *before = qni_add_value(&l->b, QN_V_STAT, w, 0, w + 1, l->how->stat_bytes);
        qni_lower_message(l, qni_lower_channel(l, w, w + 1, QN_V_STAT, w), guess, sums, *before,
                          qni_lower_step_tag(QN_V_STAT, w, 0));
    }
    return sums;
}

static void add_stages(qni_lower *l, int32_t w, qn_op op, int32_t stat)
{
    for (int32_t s = 0; s < l->stages; s++) {
        if (l->order->worker_of[s] != w) continue;
        const int32_t task = qni_lower_comp(l, op, s, QN_NONE, w);
        qni_add_link(&l->b, task, QNI_IN, stat);
        qni_add_link(&l->b, task, QNI_IN, l->pgrad[s]);
        if (op == (l->how->ahead ? QN_OP_OPT : QN_OP_VALIDATE)) qni_lower_stage_done(l, task, s);
    }
}

void qni_lower_validated(qni_lower *l)
{
    const int32_t last = l->workers - 1;
    int32_t before = QN_NONE;
    int32_t *sums = qn_calloc(2 * (size_t)l->workers, sizeof *sums);
    if (sums == NULL) {
        l->b.failed = true;
        return;
    }
    int32_t *result = sums + l->workers;
    for (int32_t w = 0; w < l->workers; w++) sums[w] = add_guess(l, w, &before);
    result[0] = sums[last];
    qni_lower_fold(l, last, 1, result);
    for (int32_t w = 0; w < l->workers; w++) add_stages(l, w, QN_OP_OPT, sums[w]);
    for (int32_t w = 0; w < l->workers; w++) add_stages(l, w, QN_OP_VALIDATE, result[w]);
    qn_free(sums);
}
