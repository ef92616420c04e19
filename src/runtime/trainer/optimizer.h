/* The step tasks: sums over the gradients (NORM), the decision (FOLD), the update (OPT). Internal to src/runtime.
 *
 *   sums of a worker    [0, params) squares of its gradients, by parameter | [params, + items) losses | [.., + items) targets;
 * zeros elsewhere result              qni_verdict, the same on all workers
 *
 * Everything is folded by one worker in one order (parameters, then items, in double), so that the result is the same for any
 * placement. */
#ifndef QN_RUNTIME_OPTIMIZER_H
#define QN_RUNTIME_OPTIMIZER_H

#include "homes.h"
#include "trainer.h"

typedef enum qni_finding { QNI_GOOD, QNI_NO_TARGETS, QNI_BAD_LOSS, QNI_BAD_GRADIENT, QNI_BAD_NORM } qni_finding;

typedef struct qni_verdict {
    int64_t finding; /* qni_finding: anything but GOOD refuses the step */
    int64_t where;   /* item of a bad loss, parameter of a bad gradient */
    double loss;     /* sum over the step */
    double norm;     /* of the mean gradient, before clipping */
    double grad_scale;
    int64_t tokens;
} qni_verdict;

/* Doubles of one worker's sums; at least a verdict fits in. */
int64_t qni_sums_count(const qni_homes *h, int32_t items);

/* Adds the other uses of the weights that the stage owns into the first use's sum, in layer order. other: the gradient of the use
 * on another worker as it came here, or NULL. */
void qni_tie(qni_homes *h, int32_t stage, void *other);
/* Squares of the gradients that stages of this worker own, or (stage not QN_NONE) that one alone, into sums; else zeros. */
void qni_norm(const qni_homes *h, int32_t worker, int32_t stage, double *sums);
/* Whether the stage steps the parameter, in this or any replica. */
bool qni_steps(const qni_homes *h, int32_t stage, int32_t param);
/* Squares of the gradients that stages of this worker step and others own, where sums has none yet. */
void qni_norm_rest(const qni_homes *h, int32_t worker, double *sums);
/* The last stage of the replica that runs the item: its worker has the item's loss. */
int32_t qni_head_of_item(const qni_homes *h, int32_t item);
/* sums: [workers]. */
void qni_fold(qni_verdict *out, const qni_homes *h, const double *const *sums, int32_t items, double clip);
/* The update of what the stage steps: with the gradients cleared on the way, with the gradients kept, or a kept one undone. */
typedef enum qni_update_kind { QNI_UPDATE, QNI_UPDATE_KEEP, QNI_UPDATE_UNDO } qni_update_kind;
void qni_update(qni_homes *h, int32_t stage, qni_update_kind kind, const qni_verdict *v, const qn_hyper *hyper, int64_t step,
                double lr);
void qni_clear_grads(qni_homes *h, int32_t stage);
/* Updates the parameters that the stage steps when the verdict is good; in any case all gradients of the stage are zero
 * afterwards. step: 0-based. */
void qni_optimize(qni_homes *h, int32_t stage, const qni_verdict *v, const qn_hyper *hyper, int64_t step, double lr);
/* The same of the stage's copies in all replicas, where one host steps for them. stage: of the first. */
void qni_optimize_all(qni_homes *h, int32_t stage, const qni_verdict *v, const qn_hyper *hyper, int64_t step, double lr);

#endif
