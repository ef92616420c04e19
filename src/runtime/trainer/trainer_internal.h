/* What the trainer's files share. Private to trainer*.c. */
#ifndef QN_RUNTIME_TRAINER_INTERNAL_H
#define QN_RUNTIME_TRAINER_INTERNAL_H

#include <stdatomic.h>

#include "core/compiler.h"
#include "runtime/forward/forward.h"
#include "homes.h"
#include "lag.h"
#include "optimizer.h"
#include "speculate.h"
#include "runtime/stage_set.h"
#include "tensor_shards.h"
#include "tier.h"
#include "trainer.h"
#include "vocab_tasks.h"

typedef struct train_worker {
    QN_ALIGNED(QN_CACHE_LINE) int64_t read_step; /* whose samples are in tokens and targets; -1: none */
    int32_t *tokens, *targets;                   /* [batch, T]; NULL on workers with neither embedding nor head. With tiers the
                                                    host's: [most, batch, T] */
    double *sums;
    double *partial;    /* post-validated: sums of the workers up to this one */
    double *result;     /* a qni_verdict */
    double copied_loss; /* of heads whose loss another shard counts */
} train_worker;

struct qn_trainer {
    qn_trainer_desc desc;
    qn_model *sharded; /* desc.model with vocabulary shards, NULL: as it is */
    qn_stage_set set;
    qni_homes homes;
    qn_plan *one, *plan; /* of one step, and of `span` steps; the same where span is 1 */
    int32_t most;        /* steps of a flight */
    int32_t period;      /* steps after which the cursor is where it was */
    int32_t span;        /* most + period - 1: a flight begins where the cursor is, at step `phase` of the plan */
    int32_t phase;
    int32_t *place;            /* [span * tasks of one], as qn_plan_chain gives it; span 1: NULL */
    qn_span_time *flight_time; /* [tasks of plan]; span 1: NULL */
    int64_t *flight_cpu;       /* the same */
    qn_executor *ex;
    qni_shards shards; /* with one shard: unused */
    /* Tiers: set, homes and worker[0] are the host's; devices are the tier's. */
    bool tiered;
    qni_tier tier;
    int64_t link_bytes_per_s;
    qni_lag lag;      /* opened when the optimizer lags */
    qni_forward eval; /* opened by the first evaluation */
    bool eval_open;
    int64_t item_samples; /* of a full item */
    int64_t sums_count;
    train_worker *worker; /* [workers] */
    size_t worker_bytes;
    double **inbox;       /* [workers]: sums as they came to worker 0; [0] is its own */
    double *loss;         /* [most * items] */
    int32_t tied_stage;   /* whose TIE the plan has (shard 0's), or QN_NONE */
    bool joins;           /* the plan has JOINs */
    int64_t step;         /* in progress; of a flight the first */
    int32_t steps;        /* in this flight */
    const double *lr;     /* [steps] */
    qni_verdict *verdict; /* [most], and when FOLD gave it; written by FOLD's worker */
    int64_t *decided_ns;
    int32_t ended;               /* the step whose FOLD ended the flight before its last step, or QN_NONE */
    atomic_bool cancelled;       /* since the flight began, by the caller */
    atomic_bool stopping;        /* since then desc.stop has said so */
    qni_speculation speculation; /* post-validated steps; else unused */
    struct {                     /* test hook: adds value to what an item adds to a gradient of a stage */
        int64_t step;
        int32_t stage, item; /* stage: as in replica 0; item: the step's, so of the replica that runs it; on devices any */
        double value;
    } spoil;
    bool dirty; /* the last step stopped early: gradients are not zero */
};

/* trainer_tasks.c: for the executor; and the step's samples, read once a step by each worker that needs them before its first
 * task; k: which step of the flight. */
qn_task_fns qni_trainer_fns(const qn_trainer *t);
void qni_trainer_read(qn_trainer *t, train_worker *w, int32_t k);
/* trainer_flight.c: tables of flights; what of them is in a worker's place. Errors: QN_ENOMEM, those of qn_plan_chain. */
qn_status qni_trainer_flights_open(qn_trainer *t, qn_err *err) QN_MUST_USE;
void qni_trainer_flights_close(qn_trainer *t);
/* trainer_plan.c. *groups: as asked for, or as many as replicas. Errors: QN_EINVAL. */
qn_status qni_trainer_groups(int32_t *groups, const qn_trainer_desc *d, qn_err *err) QN_MUST_USE;
/* The order as a plan, with the sizes of stages and homes; sets sums_count and tied_stage too. Errors as qn_lower. */
qn_status qni_trainer_plan(qn_trainer *t, qn_err *err) QN_MUST_USE;

#endif
