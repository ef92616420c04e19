/* What the files of checkpoints and of adapters share. Internal to src/runtime. */
#ifndef QN_RUNTIME_CHECKPOINT_PARTS_H
#define QN_RUNTIME_CHECKPOINT_PARTS_H

#include "checkpoint.h"
#include "data/safetensors/safetensors.h"

#define QNI_ADAPTER_PREFIX "base_model.model."
enum { QNI_TENSOR_NAME = sizeof(((qn_param *)0)->name) + sizeof(QNI_ADAPTER_PREFIX) };

/* Path of a file that is there. Errors: QN_ENOENT. */
qn_status qni_join_existing(char *path, size_t cap, const char *dir, const char *name, qn_err *err) QN_MUST_USE;
/* Where in the file the named tensor of that shape is. Errors: QN_EFORMAT with name, found, wanted. */
qn_status qni_find_tensor(const qn_tensor_view **out, const qn_safetensors *f, const char *dir, const char *name,
                          const qn_shape *want, qn_err *err) QN_MUST_USE;
/* As the file holds the parameter: transposed or not. */
qn_shape qni_file_shape(const qn_param *p);
/* Errors: QN_EFORMAT when the file holds a tensor that is none of the model's. */
qn_status qni_refuse_unknown(const qn_safetensors *f, const qn_model *m, const char *dir, qn_err *err) QN_MUST_USE;
/* The moments of all parameters that have some, from DIR/quern. */
qn_status qni_read_moments(const char *dir, const qn_state_view *s, qn_err *err) QN_MUST_USE;

/* adapter_config.json; *out is freed with qn_free. base: where the base model is, or NULL. Errors: QN_ENOMEM. */
qn_status qni_adapter_config_text(char **out, const qn_model_config *config, const char *base, qn_err *err) QN_MUST_USE;

#endif
