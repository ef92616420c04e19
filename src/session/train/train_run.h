/* One training run in the making: what qn_train's parts share. Opened by set-up, used by the loop, closed by qni_train_run_fini.
 */
#ifndef QN_SESSION_TRAIN_RUN_H
#define QN_SESSION_TRAIN_RUN_H

#include "session/device_option.h"
#include "session/load.h"
#include "recompute_option.h"
#include "quern/session.h"
#include "session/run_dir.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/trainer/trainer.h"
#include "store/metrics.h"

enum { QNI_TRACES = 15 }; /* the last steps' traces are kept; the median one is shown */

typedef struct qni_train_run {
    const qn_train_options *opt; /* own */
    qn_train_options own;        /* as given, with the groups of gradients settled */
    const qn_train_hooks *hooks; /* never NULL */

    qn_tokenizer *tokenizer;
    char *tokenizer_json;
    size_t tokenizer_bytes;
    qn_tokens *tokens;
    qn_split_range train, valid;
    qn_source *source;

    qn_model_config config;
    char base[QNI_PATH]; /* of a run with adapters: where the model under them is; else "" */
    qn_model *model;
    qn_order *order;
    qni_recompute recompute;
    int32_t *first_layer; /* [stages + 1] */
    int64_t *arena_limit; /* [workers], NULL: none */
    int32_t stashes;      /* v-adaptive: what a worker may hold of a stage's, 0: 2P */
    qni_device device;
    bool tiered; /* workers are devices: their arenas hold what device says, the state is the host's */
    qn_trainer *trainer;
    float **value, **m, **v; /* [params]: the homes themselves, or with tensor shards copies of the whole parameters */
    float *copies;           /* the memory of those, or NULL */

    char *settings;     /* JSON of all options */
    char dir[QNI_PATH]; /* where the run's files are now */
    bool is_new;        /* dir is beside --out still, and goes when the run does not come to its first step */
    FILE *log;
    qn_metrics *metrics;

    bool stopping;      /* the hook has said so */
    int64_t first_step; /* steps done before this call */
    qn_trace trace[QNI_TRACES];
    int64_t traced_ns[QNI_TRACES]; /* step times, 0: unused */
    int64_t step_ns;               /* of the last step; 0 before the first */
    int next_trace;                /* where the next flight's traces go, if they fit behind it */
} qni_train_run;

/* Everything up to a trainer that can take its next step. Errors as qn_train. */
qn_status qni_train_open(qni_train_run *r, qn_err *err) QN_MUST_USE;
void qni_train_run_fini(qni_train_run *r);

/* The views of the trainer's state. With one shard they are the homes; else take copies the homes into them, give back. */
qn_status qni_train_views_open(qni_train_run *r, qn_err *err) QN_MUST_USE;
void qni_train_views_close(qni_train_run *r);
void qni_train_views_take(qni_train_run *r);
void qni_train_views_give(qni_train_run *r);
/* train_wide.c. Workers and micro-batches of one chain. Errors: QN_EINVAL. */
qn_status qni_train_share(qn_pattern *pattern, const qn_train_options *o, qn_err *err) QN_MUST_USE;
/* The order, of one chain, becomes that of all replicas and shards. Errors as qn_order_widen. */
qn_status qni_train_widen(qni_train_run *r, qn_err *err) QN_MUST_USE;
/* Groups of gradients as the run's settings keep them: 0 for 1, else the number, asked for or from the replicas. */
int64_t qni_train_groups(const qn_train_options *o);

/* train.c, for the trainer too. ctx: the run. Whether the stop hook has ever said so. */
bool qni_train_stops(void *ctx);
/* The order and the cuts that the options ask for. */
qn_status qni_train_plan(qni_train_run *r, qn_err *err) QN_MUST_USE;
/* Steps that follow each other without a barrier, at most; as asked for, or chosen. */
int32_t qni_train_flight(const qni_train_run *r);
/* train_devices.c. Reads and checks the settings of devices. Errors: QN_EINVAL. */
qn_status qni_train_devices(qni_train_run *r, qn_err *err) QN_MUST_USE;
/* Whether the schedule is one of pieces that nobody cut by hand; then order and cuts: of the partitioner for roundpipe, else a
 * piece per layer. tight: the smallest stages. Errors: QN_EINVAL, QN_ENOMEM, those of qni_costs_parse. */
bool qni_train_has_pieces(const qni_train_run *r);
qn_status qni_train_pieces(qni_train_run *r, qn_pattern *pat, bool tight, qn_err *err) QN_MUST_USE;
/* train_adapt.c. Under --memory the blocks of v-adaptive are tried from the one that holds most on, until a trainer opens: *st of
 * the first attempt was QN_ESCHEDULE. Changes the order and its place in desc. Errors as qn_trainer_open: of the smallest block.
 */
bool qni_train_adapts(const qni_train_run *r);
qn_status qni_train_adapt(qni_train_run *r, qn_trainer_desc *desc, qn_err *err) QN_MUST_USE;
/* train_plan.c. The order again, for other numbers of stashes. Errors as qni_train_plan. */
qn_status qni_train_reorder(qni_train_run *r, qn_err *err) QN_MUST_USE;
/* The same order again from the smallest stages, for a device that the first ones do not fit into. */
qn_status qni_train_tighten(qni_train_run *r, qn_err *err) QN_MUST_USE;
/* High water and bytes moved into done. */
void qni_train_moved(const qni_train_run *r, qn_train_done *done);
/* Fills a pattern's costs and sizes: of --cost, --cost-from, or the model's operations. Errors as qni_costs_parse. */
qn_status qni_train_costs(qn_pattern *pat, const qni_train_run *r, qn_err *err) QN_MUST_USE;

/* train_model.c: config and model of a new run (tokenizer known; init_dir NULL: from the flags) or of one that goes on; the
 * values (and moments) in the homes from --init or the checkpoint. */
qn_status qni_train_model(qni_train_run *r, const char *init_dir, qn_err *err) QN_MUST_USE;
qn_status qni_train_model_resumed(qni_train_run *r, const char *checkpoint, qn_err *err) QN_MUST_USE;
qn_status qni_train_load(qni_train_run *r, const char *start, qn_err *err) QN_MUST_USE;

/* Checkpoint of `step` steps, then pruning. */
qn_status qni_train_save(qni_train_run *r, int64_t step, qn_err *err) QN_MUST_USE;

/* trace.json, profile.json and report.html; a short sample of text into done. */
qn_status qni_train_report(qni_train_run *r, qn_train_done *done, qn_err *err) QN_MUST_USE;
qn_status qni_train_sample(qni_train_run *r, qn_train_done *done, qn_err *err) QN_MUST_USE;

#endif
