/* Checkpoints: a Hugging Face directory that other tools read unchanged, plus Quern's own state beside it.
 *
 *   DIR/config.json, model.safetensors (or shards and index), generation_config.json, tokenizer.json, tokenizer_config.json
 *   DIR/quern/optimizer.safetensors   first and second moments, f32, named NAME.m and NAME.v
 *   DIR/quern/state.json              step, seed, settings that must fit on resume
 *
 * A model with adapters becomes an adapter directory instead (peft.h), with the same state beside it.
 *
 * Written as DIR.tmp, synced, renamed: at every moment the old or the new one is there whole. */
#ifndef QN_RUNTIME_CHECKPOINT_H
#define QN_RUNTIME_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>

#include "model/model.h"
#include "quern/status.h"

/* Where parameters are read from and written to: element access by parameter, value types f32. */
typedef struct qn_state_view {
    const qn_model *model;
    float *const *value; /* [params] */
    float *const *m;     /* [params] or NULL: no optimizer state; an entry is NULL where the parameter is frozen */
    float *const *v;
} qn_state_view;

typedef struct qn_checkpoint_desc {
    const char *tokenizer_json; /* text, or NULL */
    size_t tokenizer_bytes;
    int32_t bos, eos;       /* -1: none */
    const char *base_model; /* of a model with adapters: where its base is, for adapter_config.json; may be NULL */
    const char *state_json; /* text of quern/state.json, or NULL: model only */
    size_t shard_bytes;     /* 0: 4 GiB */
    qn_weights store;       /* of a plain model: matrices in bf16 or in 8 bits (docs/weights.md); OWN or F32: all in f32 */
} qn_checkpoint_desc;

qn_status qn_checkpoint_write(const char *dir, const qn_state_view *state, const qn_checkpoint_desc *desc,
                              qn_err *err) QN_MUST_USE;

/* Whether the directory holds a config.json: a plain model, not an adapter. */
bool qn_checkpoint_is(const char *dir);
/* Reads config.json (GPT2LMHeadModel, LlamaForCausalLM) into a config. Errors: QN_ENOENT, QN_EFORMAT (key, found, wanted),
 * QN_EUNSUPPORTED (another architecture, rope scaling, an activation we lack). */
qn_status qn_checkpoint_read_config(qn_model_config *out, const char *dir, qn_err *err) QN_MUST_USE;
/* Fills the values of all parameters but adapters' (and m, v when the view has them). f32, f16, bf16 files, and 8 bits. Errors:
 * QN_EFORMAT with tensor name, found, wanted. */
qn_status qn_checkpoint_read(const char *dir, const qn_state_view *state, qn_err *err) QN_MUST_USE;
/* Text of quern/state.json, *out freed with qn_free; QN_ENOENT when the directory is a plain model. */
qn_status qn_checkpoint_read_state(char **out, size_t *bytes, const char *dir, qn_err *err) QN_MUST_USE;

#endif
