/* Values stored in bf16 or 8 bits; docs/weights.md says how. Internal to src/runtime. */
#ifndef QN_RUNTIME_CHECKPOINT_COMPACT_H
#define QN_RUNTIME_CHECKPOINT_COMPACT_H

#include "checkpoint.h"
#include "data/safetensors/safetensors.h"

/* The file or files of values: matrices as store says (BF16 or Q8), all else in f32. Errors: as qn_safetensors_write. */
qn_status qni_write_compact(const char *dir, const qn_state_view *s, qn_weights store, size_t shard_bytes,
                            qn_err *err) QN_MUST_USE;
/* Puts into the text of a config.json what kind of values are beside it; replaces *text. Errors: QN_ENOMEM. */
qn_status qni_compact_config(char **text, qn_weights store, qn_err *err) QN_MUST_USE;
/* Whether the parameter is there in 8 bits, and its values. Errors: QN_EFORMAT (shapes, types or scales that do not fit). */
bool qni_has_q8(const qn_safetensors *f, const qn_param *p);
qn_status qni_read_q8(float *value, const qn_safetensors *f, const qn_param *p, qn_err *err) QN_MUST_USE;
/* Whether a tensor's name is that of a parameter's scales. */
bool qni_is_scale_of(const char *tensor, const char *param);

#endif
