/* The window of Superpipeline (arXiv:2410.08791): a chain of n pieces whose weights live on the host, k of them on the device at
 * a time; k' finished ones leave together and as many come in their place. Pure functions: which piece is loaded after which,
 * what that moves and how long it takes, which k and k' to take. The paper's method section was not available: RECONSTRUCTED
 * from what it claims.
 *
 * A pass visits all pieces in order; a training step visits them forward, then backward. The last k pieces of the forward are
 * still there when the backward begins, so that a step loads 2n - k pieces and sends n gradients down. Passes without a backward
 * go round: the next pass is loaded while the last one ends. */
#ifndef QN_SCHEDULE_PIECE_WINDOW_H
#define QN_SCHEDULE_PIECE_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

#include "quern/status.h"

typedef struct qn_window {
    int32_t pieces;   /* n >= 1 */
    int32_t resident; /* k >= 1; as many as pieces: all stay for good */
    int32_t group;    /* k', 1 to k */
    int32_t passes;   /* of the forward, one after the other; not with training */
    bool training;    /* one pass forward and one backward */
} qn_window;

/* One visit of the compute lane, in its order. Indices below are of visits. */
typedef struct qn_window_visit {
    int32_t piece;
    int32_t slot;  /* of the device's k */
    bool backward; /* its gradient goes down (training) */
    bool load;     /* its weights come up; else they are there from an earlier visit */
    int32_t after; /* load: the visit behind which it may start: computed, and what was to go down is down. -1: at once */
    int32_t batch; /* load: those of equal numbers may travel as one message; ascending from 0 */
    int32_t flush; /* backward: the visit behind which its gradient goes down, together with its group's; else -1 */
    bool last;     /* the slot is free, or another's, behind this visit */
} qn_window_visit;

/* How many visits: pieces * passes, or 2 * pieces. */
int64_t qn_window_visits(const qn_window *w);
/* Fills visit [qn_window_visits]. Errors: QN_EINVAL (numbers that cannot be, with those that can), QN_ENOMEM. */
qn_status qn_window_plan(qn_window_visit *visit, const qn_window *w, qn_err *err) QN_MUST_USE;

/* Bytes that go up; weight [pieces]. A forward pass from nothing: all of them; a training step: twice, less the last k. */
int64_t qn_window_loaded(const qn_window_visit *visit, int64_t visits, const int64_t *weight);
/* Bytes of the k consecutive pieces that are largest together: what the weights take on the device. */
int64_t qn_window_bytes(const int64_t *weight, int32_t pieces, int32_t resident);

typedef struct qn_window_costs {
    const int64_t *forward, *backward; /* [pieces] ticks of a visit; backward NULL: none */
    const int64_t *up, *down;          /* [pieces] ticks of its transfers; down NULL: nothing goes down */
    int64_t latency;                   /* of a message up */
    bool batched;                      /* a group is one message up: all of it arrives at its end */
} qn_window_costs;

/* End of the last visit (and of the last transfer down): visit i starts when the one before has ended and it is loaded; a load
 * starts when its slot is free and the load before has ended. Loads and transfers down go on side by side. end: [visits], of
 * each visit, may be NULL. Errors: QN_ENOMEM. */
qn_status qn_window_makespan(int64_t *makespan, int64_t *end, const qn_window *w, const qn_window_visit *visit,
                             const qn_window_costs *c, qn_err *err) QN_MUST_USE;

/* k and k' of w from costs and room, by the rule: k' = 1, or where the latency is more than 5 % of the shortest transfer the
 * smallest that brings it below; the smallest k with k - k' >= ceil(largest up / smallest compute) + 1. Where that many do not
 * fit, the most that do (k' below k, so that something overlaps); where the rule wants more than there are, all.
 * weight: [pieces] bytes. room: bytes for weights. Errors: QN_EINVAL when not one piece fits (says how much would do). */
qn_status qn_window_choose(qn_window *w, const qn_window_costs *c, const int64_t *weight, int64_t room, qn_err *err) QN_MUST_USE;

#endif
