/* Homes of the state: value, gradient accumulators, first and second moment of each parameter. Internal to src/runtime.
 *
 *   value[w][p]   on the owner (the worker of the parameter's first use) and, as a replica, wherever else the parameter is used
 *   grad[w][u]    one accumulator per use, on the worker of that use; all zero between steps
 *   m[p], v[p]    on the owner alone
 *
 * Of a frozen parameter there are values alone; grad, m and v are NULL.
 *
 * With t shards every (parameter, shard) and (use, shard) has a home of its own: p and u count them, shards innermost. What is
 * whole in all shards has t equal copies; shard 0's gradient is the one that counts in the norm.
 *
 * A worker's part lies in blocks of its own, so that pages belong to the threads that use them. */
#ifndef QN_RUNTIME_HOMES_H
#define QN_RUNTIME_HOMES_H

#include "stage_set.h"

typedef struct qni_homes {
    const qn_stage_set *set;      /* borrowed */
    int32_t shards, params, uses; /* params and uses of all shards */
    size_t element;               /* bytes */
    int32_t *owner;               /* [params] worker */
    int32_t *first_use;           /* [params] */
    int32_t *use_worker;          /* [uses] */
    int32_t *use_stage;           /* [uses] */
    void ***value;                /* [workers][params], NULL where not used */
    void ***grad;                 /* [workers][uses] */
    void **m, **v;                /* [params] */
    void **table;                 /* all pointers of value, grad, m and v */
    int32_t tied;                 /* parameter with uses on two workers, QN_NONE: none; of shard 0, the other shards' follow */
    int32_t tied_use;             /* its other use, likewise */
    void *inbox;                  /* gradient of that use as it came to the owner, for each shard */
    size_t inbox_bytes;           /* of one shard */
    qn_arena *block;              /* [workers][QNI_BLOCKS] */
} qni_homes;

enum { QNI_BLOCK_VALUES, QNI_BLOCK_GRADS, QNI_BLOCK_MOMENTS, QNI_BLOCKS };

static inline const qn_param *qni_home_param(const qni_homes *h, int32_t p)
{
    return qn_model_param(qni_stage_set_part(h->set, p % h->shards), p / h->shards);
}
/* The parameter of a use, both of one shard. */
static inline int32_t qni_use_param(const qni_homes *h, int32_t u)
{
    return qn_model_use(h->set->model, u / h->shards)->param * h->shards + u % h->shards;
}

/* Whether nothing but the value of the parameter exists. */
bool qni_homes_frozen(const qni_homes *h, int32_t param);

/* Errors: QN_ENOMEM (with the bytes needed), QN_EUNSUPPORTED (more than one weight shared between workers). fini accepts zeroes.
 */
qn_status qni_homes_init(qni_homes *h, const qn_stage_set *set, qn_err *err) QN_MUST_USE;
void qni_homes_fini(qni_homes *h);

void qni_homes_set_initial(qni_homes *h, uint64_t seed); /* values of the run's start, by each owner's team */
void qni_homes_refresh(qni_homes *h);                    /* owners' values to the replicas */
void qni_homes_clear_grads(qni_homes *h);
int64_t qni_homes_bytes(const qni_homes *h, int32_t block); /* over all workers */

/* The first parameter, in parameter order, that holds a number that is not finite, or QN_NONE. */
int32_t qni_homes_not_finite(const qni_homes *h);

#endif
