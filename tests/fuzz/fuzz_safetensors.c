/* A safetensors file: every view that an opened file shows must lie inside it, end to end. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "data/safetensors/safetensors_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    qn_safetensors *f;
    size_t total = 0;
    if (qni_safetensors_open_memory(&f, data, size, "fuzz", NULL) != QN_OK) return 0;
    for (int32_t i = 0; i < qn_safetensors_count(f); i++) {
        const qn_tensor_view *v = qn_safetensors_at(f, i);
        float x[4];
        if (qn_safetensors_find(f, v->name) != v) abort();
        if ((const uint8_t *)v->data < data || v->bytes > size || (const uint8_t *)v->data + v->bytes > data + size) abort();
        total += v->bytes;
        for (int64_t n = 0; n <= 4; n++)
            if (qn_tensor_read_f32(x, v, 0, n, NULL) == QN_OK && (size_t)n * qn_dtype_bytes(v->dtype) > v->bytes) abort();
    }
    if (total > size) abort();
    qn_safetensors_close(f);
    return 0;
}
