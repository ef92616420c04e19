/* RoundPipe (arXiv:2604.27085) before it is an order: where forward and backward are cut, which worker gets which stage, and how
 * long that takes. Workers are a stateless pool; stages go round it.
 *
 *   forward cut    F_1 .. F_Sf         layers from 0 up
 *   backward cut   B_1 .. B_Sb         B_1: the last layers, with the head and the loss, forward and backward in one ("fused"):
 *                                      nothing is recomputed; then downwards to layer 0, each made of recompute and backward
 *   slots          F_1 .. F_Sf, B_1 .. B_Sb: slot i of a round goes to worker (g0 + i) mod N, which runs it for all items of the
 *                  round before it takes another
 *
 * After a round g0 moves on by S = Sf + Sb (the library), or the worker that is free first begins (the paper's simulator). */
#ifndef QN_SCHEDULE_ROUND_PIPE_H
#define QN_SCHEDULE_ROUND_PIPE_H

#include <stdbool.h>
#include <stdint.h>

#include "quern/status.h"

/* --- cuts */
typedef struct qn_round_cut {
    int32_t forward_stages, backward_stages; /* Sf >= 0, Sb >= 1 */
    int32_t *forward, *backward;             /* layers of each stage, in the order of the slots; arrays of the caller, [layers] */
} qn_round_cut;

/* Pieces: what both cuts leave whole, from layer 0 up. first_layer [layers + 1]; forward_slot, backward_slot [layers]: the slots
 * that run a piece; they are equal in the fused stage. Stages without layers belong to no piece. Returns how many pieces. */
int32_t qn_round_pieces(int32_t *first_layer, int32_t *forward_slot, int32_t *backward_slot, const qn_round_cut *cut);

/* --- time */
typedef struct qn_round_shape {
    int32_t workers, items, round_items; /* N, M, items of a round (the last may have fewer) */
    int32_t iterations;
    int32_t forward_stages, backward_stages;
    const int64_t *forward;              /* [forward_stages] ticks of one item */
    const int64_t *recompute, *backward; /* [backward_stages]; recompute[0]: the forward of the fused stage */
    int64_t hop;                         /* of a message between different workers */
    bool free_first;                     /* a round begins on the worker that is free first, not where the cursor stands */
    bool input_late; /* as the paper's simulator: only the backward waits for its input. The fused stage's forward then runs
                        before what it reads is there, which no run can do */
} qn_round_shape;

typedef struct qn_round_time {
    int64_t makespan, busy; /* busy: of all workers */
    int64_t fill, drain;    /* before the first task of each worker, after its last, summed */
} qn_round_time;

/* Slot by slot. first_worker: [rounds], each round's g0, may be NULL; end: [iterations] ends of the last task, and busy_then, may
 * be NULL. A stage that takes no time extends nothing. Errors: QN_EINVAL, QN_ENOMEM. */
qn_status qn_round_simulate(qn_round_time *out, int32_t *first_worker, int64_t *end, int64_t *busy_then, const qn_round_shape *s,
                            qn_err *err) QN_MUST_USE;

/* --- the partitioner */
typedef struct qn_round_layers {
    int32_t layers, workers, items;
    const int64_t *forward, *recompute, *backward; /* [layers] ticks; the last layer has the head */
    const int64_t *forward_bytes, *backward_bytes; /* [layers]: parameters; with gradients. NULL: not limited */
    int64_t limit;                                 /* bytes for two stages: the one that runs and the one that is fetched */
    int64_t hop;
    bool greedy_only; /* without the evening out */
} qn_round_layers;

/* How long one round of all items takes, as runs can do it (not by the published simulator's rule). scratch: [3 * layers].
 * Errors: those of qn_round_simulate. */
qn_status qn_round_cut_time(int64_t *makespan, const qn_round_cut *cut, const qn_round_layers *in, int64_t *scratch,
                            qn_err *err) QN_MUST_USE;

/* Longest stages between the longest layer and 1.1 times that are tried; per length the fused stage is filled from the last layer
 * down, forward stages from the one before it down to 0, backward stages from 0 up; the one with the smallest (M S + N (N - 1)) t
 * is taken. Then each direction is evened out at its number of stages (smallest longest stage, then smallest sum of squares), and
 * what is shortest in the simulation wins. *limit: what the limit became where one layer alone is more than half of it, may be
 * NULL. Errors: QN_EINVAL (no layers, negative numbers), QN_ENOMEM. */
qn_status qn_round_partition(qn_round_cut *cut, int64_t *limit, const qn_round_layers *in, qn_err *err) QN_MUST_USE;

/* Moves layers between neighbouring stages, and cuts stages in two, while one round of all items gets shorter and stages of more
 * than one layer stay within half of the limit (round_improve.c; not in the paper). Errors: QN_ENOMEM, those of
 * qn_round_simulate.
 */
qn_status qn_round_improve(qn_round_cut *cut, const qn_round_layers *in, qn_err *err) QN_MUST_USE;

#endif
