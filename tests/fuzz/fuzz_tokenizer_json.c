/* A tokenizer.json from anywhere (up to the first NUL), then text to encode with it. What opens must write itself and open again.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "data/tokenizer/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const qn_tokenizer *t, const char *text, size_t bytes)
{
    int32_t *id;
    int64_t n;
    char *out;
    size_t m;
    if (qn_tokenizer_encode(&id, &n, t, text, bytes, NULL) != QN_OK) return;
    for (int64_t i = 0; i < n; i++)
        if (id[i] < 0 || id[i] >= qn_tokenizer_vocab(t)) abort();
    if (qn_tokenizer_decode(&out, &m, t, id, n, NULL) != QN_OK) abort();
    if (strlen(out) > m) abort();
    qn_free(out);
    qn_free(id);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char fixed[] = "the quick  brown\tfox's 12345 \xc3\xa4\xe6\x9d\xb1\xf0\x9f\x98\x80\n\n <s></s><|endoftext|>";
    const uint8_t *end = size == 0 ? NULL : memchr(data, 0, size);
    const size_t n = end == NULL ? size : (size_t)(end - data);
    qn_tokenizer *t, *again;
    char *json;
    size_t bytes;
    if (qn_tokenizer_open_json(&t, (const char *)data, n, NULL) != QN_OK) return 0;
    use(t, fixed, sizeof(fixed) - 1);
    if (n < size) use(t, (const char *)data + n + 1, size - n - 1 < 256 ? size - n - 1 : 256);
    if (qn_tokenizer_json(&json, &bytes, t, NULL) != QN_OK || qn_tokenizer_open_json(&again, json, bytes, NULL) != QN_OK) abort();
    qn_free(json);
    qn_tokenizer_close(again);
    qn_tokenizer_close(t);
    return 0;
}
