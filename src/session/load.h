/* A model read from a directory with its tokenizer and values: what generate, eval, info and train --init start from. */
#ifndef QN_SESSION_LOAD_H
#define QN_SESSION_LOAD_H

#include <stdbool.h>

#include "data/tokenizer/tokenizer.h"
#include "model/model.h"
#include "quern/status.h"

enum { QNI_PATH = 1024 };

/* A model or adapter directory as it is; a run directory becomes its newest checkpoint. Errors: QN_ENOENT. */
qn_status qni_model_dir(char out[QNI_PATH], const char *path, qn_err *err) QN_MUST_USE;

typedef struct qni_loaded {
    char dir[QNI_PATH];
    qn_model *model;
    qn_tokenizer *tokenizer; /* NULL when the directory has none */
    float **value;           /* [params], all in one block */
    void *block;
    size_t block_bytes;
} qni_loaded;

/* path: a directory, a run, or a GGUF file. lora: NULL, or an adapter (or a run of one) that is merged into the values; path may
 * then be NULL: the base that the adapter names. A path that is an adapter itself is loaded so too. Errors: those of reading
 * config, tensors and tokenizer; QN_ENOENT when an adapter's base is not there. fini accepts a zeroed struct. */
qn_status qni_load(qni_loaded *out, const char *path, const char *lora, qn_err *err) QN_MUST_USE;
/* The same without values (value is NULL), for a plain model's directory or a run. Errors besides: QN_EINVAL for GGUF files and
 * adapters. */
qn_status qni_load_bare(qni_loaded *out, const char *path, qn_err *err) QN_MUST_USE;
void qni_load_fini(qni_loaded *l);

/* Whether a run that may pin should: when it takes the whole machine. A smaller one leaves the choice of cores to the system, so
 * that two of them side by side do not share a core. */
bool qni_pin(bool allowed, int64_t workers, int64_t threads);

/* One block of memory with an f32 array for each parameter. */
qn_status qni_values_open(float ***value, void **block, size_t *bytes, const qn_model *m, qn_err *err) QN_MUST_USE;
void qni_values_close(float **value, void *block, size_t bytes);

#endif
