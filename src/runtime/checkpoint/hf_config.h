/* config.json and its companions as Hugging Face's transformers writes and reads them. Internal to src/runtime. */
#ifndef QN_RUNTIME_HF_CONFIG_H
#define QN_RUNTIME_HF_CONFIG_H

#include <stddef.h>
#include <stdint.h>

#include "model/model.h"

/* Each gives a text that is freed with qn_free. bos, eos: -1 for none. Errors: QN_ENOMEM. */
qn_status qni_hf_config_text(char **out, const qn_model_config *config, int32_t bos, int32_t eos, qn_err *err) QN_MUST_USE;
qn_status qni_hf_generation_text(char **out, int32_t bos, int32_t eos, qn_err *err) QN_MUST_USE;
/* tokenizer: the text of tokenizer.json, where the names of bos and eos are looked up. Errors: QN_EFORMAT when it is no JSON. */
qn_status qni_hf_tokenizer_text(char **out, const qn_model_config *config, const char *tokenizer, size_t bytes, int32_t bos,
                                int32_t eos, qn_err *err) QN_MUST_USE;

/* Text of a JSON object, indented, keys sorted; takes root (NULL: a failed build; what: for the message). */
struct json_t;
qn_status qni_hf_dump(char **out, struct json_t *root, const char *what, qn_err *err) QN_MUST_USE;

/* The reverse of qni_hf_config_text. path is for messages. Errors: QN_EFORMAT (key, found, wanted), QN_EUNSUPPORTED. */
qn_status qni_hf_config_parse(qn_model_config *out, const char *text, size_t bytes, const char *path, qn_err *err) QN_MUST_USE;

#endif
