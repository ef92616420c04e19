/* Homes of the state: value, gradient accumulators, first and second moment of each parameter. Internal to src/runtime.
 *
 *   value[w][p]       on every worker that has a stage with a use of the parameter
 *   grad[r][u]        the accumulator of use u in replica r, on the worker of that use; all zero between steps
 *   sum[r][u]         where the gradient of replica r's items is after their last backward: grad itself with one group per
 * replica m[w][p], v[w][p]  where the parameter is stepped: once per worker with its first use, or (zero1) on its owner alone
 *
 * The owner of a parameter is the stage of its first use in one replica: it folds all replicas' gradients and takes the norm.
 * The parameters of a stage of the chain are dealt out to the replicas whole, so that each owns about as many bytes.
 *
 * Items are cut into G groups; a replica has G / R of them. grad is a left fold over the items of a group; a binary counter of
 * levels folds the groups pairwise, so that a replica holds 1 + log2(G / R) accumulators; replicas are folded as the tree goes
 * on.
 *
 * A stage's gradients are one region per level, all levels alike; within it the uses of each owner lie together (a bundle: first
 * uses, then others), and so do the values of an owner's parameters, so that each travels as one message:
 *
 *   region of a stage, level 0   | bundle of replica 0: first uses, other uses | bundle of replica 1 | ..
 *
 * With t shards every (parameter, shard) and (use, shard) has a home of its own: p and u count them, shards innermost. What is
 * whole in all shards has t equal copies; shard 0's gradient is the one that counts in the norm.
 *
 * Of a frozen parameter there are values alone; grad, sum, m and v are NULL. A worker's part lies in blocks of its own, so that
 * pages belong to the threads that use them. */
#ifndef QN_RUNTIME_HOMES_H
#define QN_RUNTIME_HOMES_H

#include "runtime/stage_set.h"

typedef struct qni_bundle {
    size_t at;     /* in its stage's region */
    size_t bytes;  /* of all uses */
    size_t values; /* of the first uses: as many as of the values */
} qni_bundle;

typedef struct qni_homes {
    const qn_stage_set *set; /* borrowed */
    qn_grid grid;
    int32_t groups; /* G */
    int32_t levels; /* log2(G / R) */
    bool zero1;
    int32_t shards, params, uses; /* params and uses of all shards */
    size_t element;               /* bytes */
    int32_t *owner;               /* [params] stage */
    int32_t *first_use;           /* [params] */
    int32_t *use_chain;           /* [uses] stage of the chain */
    size_t *use_at;               /* [uses] in its stage's region */
    qni_bundle *bundle;           /* [depth][replicas]; alike for all shards */
    size_t *region_size;          /* [depth] of one level */
    char **region;                /* [stages] level 0; the next ones follow at multiples of 64 bytes */
    void ***value;                /* [workers][params], NULL where not used */
    void ***grad;                 /* [replicas][uses] */
    void ***sum;                  /* [replicas][uses] */
    void ***m, ***v;              /* [workers][params] */
    void **table;                 /* all pointers of value, grad, sum, m and v */
    /* Of a table that the embedding and the head of one stage share, with one group of gradients: the head adds to the table's
     * accumulator, what the embedding adds is kept by rows until TIE. rows_use: the embedding's, QN_NONE: there is none */
    qn_row_sums rows;
    int32_t rows_use;
    int64_t tokens;   /* of a step */
    int32_t tied;     /* parameter with uses in two stages of the chain, QN_NONE: none; of shard 0, the other shards' follow */
    int32_t tied_use; /* its other use, likewise */
    qn_arena *block;  /* [workers][QNI_BLOCKS] */
    /* Tables cut into vocabulary shards lie whole, padding included: value and, unless frozen, m and v one after the other; each
     * shard's rows belong to its owner's worker, other replicas have copies of their own. [0] embedding, [1] output matrix */
    char *whole[2];
    size_t whole_bytes[2]; /* of one of them */
    int32_t whole_arrays[2];
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
/* The stage of a use in a replica. */
static inline int32_t qni_use_stage(const qni_homes *h, int32_t replica, int32_t u)
{
    return qn_stage_at(h->grid, replica * h->shards + u % h->shards, h->use_chain[u]);
}

/* Whether nothing but the value of the parameter exists. */
bool qni_homes_frozen(const qni_homes *h, int32_t param);

/* Whether shards have parts of the parameter's gradient, which JOIN adds up; and the index-th such gradient of what a stage owns
 * in its replica, *count numbers, or NULL. */
static inline bool qni_homes_joined(const qni_homes *h, int32_t param)
{
    return qni_home_param(h, param)->joined && !qni_homes_frozen(h, param);
}
void *qni_homes_join(const qni_homes *h, int32_t stage, int32_t index, int64_t *count);

typedef struct qni_homes_shape {
    int32_t items, groups; /* groups: G, a power of two that the replicas divide and that divides the items */
    bool zero1;
    int64_t tokens; /* of a step */
} qni_homes_shape;

/* Errors: QN_ENOMEM (with the bytes needed), QN_EUNSUPPORTED (more than one weight shared between workers). fini accepts zeroes.
 */
qn_status qni_homes_init(qni_homes *h, const qn_stage_set *set, const qni_homes_shape *shape, qn_err *err) QN_MUST_USE;
void qni_homes_fini(qni_homes *h);

void qni_homes_set_initial(qni_homes *h, uint64_t seed); /* values of the run's start, by each owner's team */
void qni_homes_refresh(qni_homes *h);                    /* owners' values, and moments where there are, to the replicas */
void qni_homes_clear_grads(qni_homes *h);
int64_t qni_homes_bytes(const qni_homes *h, int32_t block); /* over all workers */
int64_t qni_homes_most(const qni_homes *h, int32_t block);  /* of one worker */

static inline int32_t qni_homes_worker(const qni_homes *h, int32_t stage)
{
    return h->set->worker_of[stage];
}
static inline qni_bundle qni_homes_bundle(const qni_homes *h, int32_t stage, int32_t replica)
{
    return h->bundle[qn_chain_stage(h->grid, stage) * qn_replicas(h->grid) + replica];
}
/* Where the summed gradients of a stage are that this replica owns. */
void *qni_homes_sums(const qni_homes *h, int32_t stage, int32_t replica);
/* The values that the replica owns of the stage's parameters, on the stage's worker. */
void *qni_homes_values(const qni_homes *h, int32_t stage, int32_t replica);

/* After the last weight gradient of an item: at the end of a group its sum goes up the tree. use: of this use alone, where the
 * uses of a stage are added to at different times. */
void qni_homes_added(qni_homes *h, int32_t stage, int32_t item);
void qni_homes_added_to(qni_homes *h, int32_t use, int32_t stage, int32_t item);
/* A group's sum goes up a tree whose levels lie stride bytes apart, as a binary counter: level k + 1 holds a sum of 2^k groups
 * where bit k of the number of groups so far is set; after all groups the top one has their sum, the others are zero. */
void qni_homes_count(const qni_homes *h, const qn_exec *ex, char *level, size_t stride, int32_t group, size_t bytes);
/* The gradients of a whole group have been put into grad, by whatever thread runs the caller. */
void qni_homes_landed(qni_homes *h, int32_t stage, int32_t group);
/* Adds the replicas' sums of what the stage owns, as a tree in replica order, into its own. from: [replicas] their bundles (its
 * own entry is not looked at); zero afterwards. */
void qni_homes_reduce(qni_homes *h, int32_t stage, void **from);

/* The first parameter, in parameter order, that holds a number that is not finite, or QN_NONE. */
int32_t qni_homes_not_finite(const qni_homes *h);

#endif
