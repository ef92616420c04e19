/* Adapter directories as Hugging Face's peft writes and reads them.
 *
 *   DIR/adapter_config.json          rank, alpha, target modules, where the base model is
 *   DIR/adapter_model.safetensors    "base_model.model.<module>.lora_A.weight" [rank, in], "....lora_B.weight" [out, rank]
 *
 * qn_checkpoint_write makes one of a model with adapters (with tokenizer and Quern's state beside them). Of peft's variants,
 * those that are LoRA on products with one rank for all are read; others are refused by the key that asks for them. */
#ifndef QN_RUNTIME_PEFT_H
#define QN_RUNTIME_PEFT_H

#include <stdbool.h>
#include <stddef.h>

#include "checkpoint.h"
#include "model/lora.h"

/* Whether the directory holds an adapter_config.json. */
bool qn_adapter_is(const char *dir);
/* base_model_name_or_path: "" when it is null. Errors: QN_ENOENT, QN_EFORMAT, QN_ERANGE (longer than cap). */
qn_status qn_adapter_base(char *out, size_t cap, const char *dir, qn_err *err) QN_MUST_USE;
/* Errors: QN_ENOENT, QN_EFORMAT (key, found, wanted), QN_EUNSUPPORTED, QN_EINVAL (targets that the architecture lacks). */
qn_status qn_adapter_read_config(qn_lora *out, const char *dir, qn_arch arch, qn_err *err) QN_MUST_USE;

/* Fills the adapters' values of a model with adapters, and their moments where the view has them; the base is
 * qn_checkpoint_read's business. Errors: QN_ENOENT, QN_EFORMAT (a tensor that is missing, of another shape, or that the model
 * lacks). */
qn_status qn_adapter_read(const char *dir, const qn_state_view *state, qn_err *err) QN_MUST_USE;
/* W += alpha / rank * B A in place, for every adapter in the directory; state: of the plain model. Sums in double, rounded once.
 * Errors: as above; nothing says which matrices were done before one. */
qn_status qn_adapter_merge(const char *dir, const qn_state_view *state, qn_err *err) QN_MUST_USE;

#endif
