/* Lowering, pass step tasks, for a post-validated step (Qi et al. 2024, arXiv:2401.10241, section 4): no worker waits for all
 * others before it steps. Sums travel along the workers; each steps on what it has heard so far; the decision comes back and is
 * checked.
 *
 *   the one before u            worker w                              the next one               the last one
 *   SEND stat u.0 ---------->   NORM, RECV, GUESS (sums so far),
 *                               SEND stat w.0 ------------------->    RECV, GUESS                GUESS, FOLD
 *                               OPT of its stages, on the guess
 *                               RECV <-----------------------------------------------------      SEND stat (the result)
 *                               VALIDATE of its stages: as guessed, or undone and done again
 *
 * STAT of worker w with item 0 is the sum over the workers up to w. They stand in the order of the first stage of the chain that
 * they have, so that replicas of one stage stand together, as in the paper, where they share one norm. A step by itself ends with
 * VALIDATE. In a flight of steps the decision travels in the next step's warm-up, as in the paper: chain.c moves it there, and
 * `ahead` lets what other workers need of a stage leave behind its OPT.
 *
 * With several replicas all of this comes behind their sums (lower_replicas.c). GUESS reads all that its worker steps, also what
 * another replica owns: so each guess knows its own gradients, and once all have guessed, all gradients are where they are
 * stepped, whatever the decision will be. */
#include "core/alloc.h"
#include "core/checked.h"
#include "lower.h"
#include "lower_vocab.h"

/* line: [workers] in the order in which sums travel. first: [workers] the first stage of the chain, in any column, that each has.
 */
static void line_up(const qni_lower *l, int32_t *line, int32_t *first)
{
    for (int32_t w = 0; w < l->workers; w++) first[w] = INT32_MAX;
    for (int32_t s = 0; s < l->stages; s++) {
        int32_t *at = &first[l->order->worker_of[s]];
        *at = qn_min32(*at, qn_chain_stage(qn_order_grid(l->order), s));
    }
    for (int32_t w = 0; w < l->workers; w++) {
        int32_t at = w;
        for (; at > 0 && first[line[at - 1]] > first[w]; at--) line[at] = line[at - 1];
        line[at] = w;
    }
}

/* The sums up to worker w. *before: those so far as they came here (QN_NONE for the first one), then those for the worker `next`
 * (QN_NONE: w is the last). */
static int32_t add_guess(qni_lower *l, int32_t w, int32_t next, int32_t *before)
{
    int32_t own;
    (void)qni_lower_norm(l, w, &own);
    const int32_t guess = qni_lower_comp(l, QN_OP_GUESS, QN_NONE, QN_NONE, w);
    const int32_t sums = qni_add_value(&l->b, QN_V_STAT, w, 0, w, l->how->stat_bytes);
    qni_add_link(&l->b, guess, QNI_IN, own);
    if (*before != QN_NONE) qni_add_link(&l->b, guess, QNI_IN, *before);
    for (int32_t s = 0; s < l->stages; s++)
        if (l->order->worker_of[s] == w) qni_lower_replica_reads(l, guess, s);
    qni_add_link(&l->b, guess, QNI_OUT, sums);
    if (next != QN_NONE) {
        *before = qni_add_value(&l->b, QN_V_STAT, w, 0, next, l->how->stat_bytes);
        qni_lower_message(l, qni_lower_channel(l, w, next, QN_V_STAT, w), guess, sums, *before,
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
        qni_vocab_pgrads(l, task, w, s);
        qni_lower_replica_reads(l, task, s);
        if (op == (l->how->ahead ? QN_OP_OPT : QN_OP_VALIDATE)) qni_lower_stage_done(l, task, s);
    }
}

void qni_lower_validated(qni_lower *l)
{
    const int32_t W = l->workers;
    int32_t before = QN_NONE;
    int32_t *sums = qn_calloc(4 * (size_t)W, sizeof *sums);
    if (sums == NULL) {
        l->b.failed = true;
        return;
    }
    int32_t *result = sums + W, *line = result + W;
    line_up(l, line, line + W);
    for (int32_t i = 0; i < W; i++) sums[line[i]] = add_guess(l, line[i], i + 1 < W ? line[i + 1] : QN_NONE, &before);
    result[0] = sums[line[W - 1]];
    qni_lower_fold(l, line[W - 1], 1, result);
    for (int32_t w = 0; w < W; w++) add_stages(l, w, QN_OP_OPT, sums[w]);
    for (int32_t w = 0; w < W; w++) add_stages(l, w, QN_OP_VALIDATE, result[w]);
    qn_free(sums);
}
