/* A model for the verbs that run it forward: its values in memory, or left in their files for devices with little memory.
 * Internal to src/session. */
#ifndef QN_SESSION_DEVICE_MODEL_H
#define QN_SESSION_DEVICE_MODEL_H

#include "device_option.h"
#include "load.h"
#include "runtime/checkpoint/checkpoint_source.h"
#include "runtime/forward/runner.h"

typedef struct qni_device_model {
    qni_loaded model;
    qn_checkpoint_source *source; /* NULL: the values are in memory */
    qn_runner_tiers tiers;        /* borrows source */
    bool devices;                 /* tiers counts */
} qni_device_model;

typedef struct qni_device_wish { /* the options as given */
    int64_t memory;
    const char *link, *window;
    bool from_file;
} qni_device_wish;

/* Errors: those of qni_device_read, qni_load and qn_checkpoint_source_open. fini accepts a zeroed struct. */
qn_status qni_device_model_open(qni_device_model *out, const char *path, const char *lora, const qni_device_wish *wish,
                                qn_err *err) QN_MUST_USE;
void qni_device_model_fini(qni_device_model *m);

#endif
