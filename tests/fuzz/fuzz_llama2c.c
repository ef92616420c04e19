/* llama2.c's files. First byte even: a checkpoint; odd: a tokenizer, its vocabulary from the second byte (0: counted). */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "data/llama2c_internal.h"
#include "data/tokenizer/tokenizer_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void weights(const uint8_t *data, size_t size)
{
    qn_llama2c *f;
    if (qni_llama2c_open_memory(&f, data, size, "fuzz", NULL) != QN_OK) return;
    const qn_llama2c_header *h = qn_llama2c_header_of(f);
    const int64_t n = (int64_t)h->width * h->width;
    float *x = malloc((size_t)n * sizeof(*x));
    if (x == NULL || qn_llama2c_read(x, f, "model.layers.0.self_attn.q_proj.weight", n, NULL) != QN_OK) abort();
    free(x);
    qn_llama2c_close(f);
}

static void tokens(const uint8_t *data, size_t size, int32_t vocab)
{
    qn_tokenizer *t, *again;
    int32_t *id;
    int64_t n;
    char *out;
    size_t bytes;
    if (vocab == 0) vocab = qni_llama2c_entries(data, size);
    if (qn_tokenizer_open_llama2c(&t, data, size, vocab, NULL) != QN_OK) return;
    if (qn_tokenizer_encode(&id, &n, t, " abc  ab\xc3\xa4 the", 14, NULL) == QN_OK) {
        if (qn_tokenizer_decode(&out, &bytes, t, id, n, NULL) != QN_OK) abort();
        qn_free(out);
        qn_free(id);
    }
    if (qn_tokenizer_json(&out, &bytes, t, NULL) == QN_OK) {
        if (qn_tokenizer_open_json(&again, out, bytes, NULL) == QN_OK) qn_tokenizer_close(again);
        qn_free(out);
    }
    qn_tokenizer_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    if (data[0] % 2 == 0)
        weights(data + 1, size - 1);
    else
        tokens(data + 2, size - 2, data[1]);
    return 0;
}
