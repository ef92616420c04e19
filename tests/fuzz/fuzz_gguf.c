/* A GGUF file: every tensor that an opened file shows must lie inside it; metadata, configuration and tokenizer are taken from
 * it. */
#include <stdint.h>
#include <stdlib.h>

#include "session/gguf_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    qn_gguf *f;
    qn_tokenizer *t;
    qn_model_config config;
    if (qn_gguf_open_memory(&f, data, size, "fuzz", NULL) != QN_OK) return 0;
    for (int32_t i = 0; i < qn_gguf_tensors(f); i++) {
        const qn_gguf_tensor *one = qn_gguf_tensor_at(f, i);
        float x[2];
        if (qn_gguf_find(f, one->name) != one) abort();
        if (one->bytes > 0 && (one->data < data || one->bytes > size || one->data + one->bytes > data + size)) abort();
        if (one->count > 0 && qn_gguf_read_f32(x, one, 0, 1, NULL) == QN_OK &&
            qn_gguf_read_f32(x, one, one->count - 1, 1, NULL) != QN_OK)
            abort();
    }
    if (qni_gguf_config(&config, f, NULL) == QN_OK && config.vocab < 0) abort();
    if (qn_gguf_tokenizer(&t, f, NULL) == QN_OK) qn_tokenizer_close(t);
    qn_gguf_close(f);
    return 0;
}
