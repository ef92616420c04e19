/* Weights read from a model's safetensors files when they are needed: the files are mapped, and each read converts (f32, f16,
 * bf16 to f32) and transposes what was asked for straight into the caller's memory. No copy of the model is held, and a tensor
 * that was read to its end leaves the process's memory: what it holds does not grow with the model. */
#ifndef QN_RUNTIME_CHECKPOINT_SOURCE_H
#define QN_RUNTIME_CHECKPOINT_SOURCE_H

#include "model/model.h"
#include "quern/status.h"

typedef struct qn_checkpoint_source qn_checkpoint_source;

/* dir: as qn_checkpoint_read wants it; all names, shapes and types are checked here. The model is borrowed until close. Errors:
 * QN_EFORMAT with tensor name, found, wanted; QN_EUNSUPPORTED (weights of 8 bits, adapters); QN_ENOENT, QN_ENOMEM. */
qn_status qn_checkpoint_source_open(qn_checkpoint_source **out, const char *dir, const qn_model *m, qn_err *err) QN_MUST_USE;
void qn_checkpoint_source_close(qn_checkpoint_source *s); /* accepts NULL */

/* A qn_param_read (runner.h) of f32, ctx: the source. The same bits as qn_checkpoint_read. Allocates nothing; any thread, several
 * at once. */
qn_status qn_checkpoint_source_read(void *ctx, int32_t param, int64_t first, int64_t count, void *to, qn_err *err) QN_MUST_USE;

#endif
