/* GPT-2's two files, with a NUL between them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "data/tokenizer/tokenizer_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = size == 0 ? NULL : memchr(data, 0, size);
    const size_t n = end == NULL ? size : (size_t)(end - data);
    const char *merges = n < size ? (const char *)data + n + 1 : "";
    qn_tokenizer *t, *again;
    int32_t *id;
    int64_t count;
    char *json;
    size_t bytes;
    if (qni_tokenizer_open_gpt2(&t, (const char *)data, n, merges, n < size ? size - n - 1 : 0, NULL) != QN_OK) return 0;
    if (qn_tokenizer_encode(&id, &count, t, "abc ab<|endoftext|> \xc3\xa4", 20, NULL) == QN_OK) qn_free(id);
    if (qn_tokenizer_json(&json, &bytes, t, NULL) != QN_OK || qn_tokenizer_open_json(&again, json, bytes, NULL) != QN_OK) abort();
    qn_free(json);
    qn_tokenizer_close(again);
    qn_tokenizer_close(t);
    return 0;
}
