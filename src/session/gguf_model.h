/* A GGUF file as a model: its metadata as a configuration, its tensors under Hugging Face's names. */
#ifndef QN_SESSION_GGUF_MODEL_H
#define QN_SESSION_GGUF_MODEL_H

#include "data/gguf/gguf.h"
#include "model/model.h"

/* Errors: QN_EFORMAT (key, found, wanted), QN_EUNSUPPORTED (another architecture, scaled rotary embedding). */
qn_status qni_gguf_config(qn_model_config *out, const qn_gguf *f, qn_err *err) QN_MUST_USE;
/* The values of all parameters, f32, as held in memory. Errors: QN_EFORMAT (a tensor is missing or has another shape),
 * QN_EUNSUPPORTED (its type, or a tensor that the model does not have), QN_ENOMEM. */
qn_status qni_gguf_values(float *const *value, const qn_model *m, const qn_gguf *f, qn_err *err) QN_MUST_USE;

#endif
