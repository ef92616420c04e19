/* The lagging optimizer (RoundPipe arXiv:2604.27085): step k computes its gradients on the parameters that the optimizer had made
 * two steps before, so that the optimizer works on the gradients of step k - 1 meanwhile. Internal to src/runtime.
 *
 *   theta_k  the optimizer's copy before step k;  g_k = gradient of L at theta_max(k-1, 0);  theta_k+1 = step(theta_k, g_k)
 *
 * Copies: the optimizer's (the homes), the one that devices load (loaded), the one that gradients land in (landed). In the plan's
 * order of step k: OPT theta_k = step(theta_k-1, g_k-1); PCOPY loaded = theta_k once all LOADs of the piece are over; GCOPY the
 * homes' gradients = g_k once it is down. */
#ifndef QN_RUNTIME_LAG_H
#define QN_RUNTIME_LAG_H

#include "optimizer.h"

typedef struct qni_lag {
    qni_homes *h;   /* of one worker, the host; borrowed */
    void **loaded;  /* [params] */
    void ***landed; /* [replicas][uses]: the levels of the homes' tree behind each other */
    qn_arena block;
    bool pending; /* the homes' gradients are those of a step that the optimizer has not seen */
    qni_verdict verdict;
    int64_t step;
    double lr;
} qni_lag;

/* Errors: QN_ENOMEM. fini accepts zeroes. */
qn_status qni_lag_init(qni_lag *l, qni_homes *h, qn_err *err) QN_MUST_USE;
void qni_lag_fini(qni_lag *l);
/* stage: of the first replica; for all of them. */
void qni_lag_opt(qni_lag *l, int32_t stage, const qn_hyper *hyper);
void qni_lag_pcopy(qni_lag *l, int32_t stage);
void qni_lag_gcopy(qni_lag *l, int32_t stage);
/* A group's gradients of the stage have landed. Any thread. */
void qni_lag_landed(qni_lag *l, int32_t stage, int32_t group);
/* The step is over: what it found is the next one's business. */
void qni_lag_note(qni_lag *l, const qni_verdict *v, int64_t step, double lr);
/* Does what is pending now instead of beside the next step; later steps are the same to the bit. */
void qni_lag_settle(qni_lag *l, const qn_hyper *hyper);
/* The homes were written from outside: they are what is loaded next, and nothing is pending. */
void qni_lag_restart(qni_lag *l);

#endif
