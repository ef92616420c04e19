/* Text of any bytes: UTF-8 checked against its own decoder; a tokenizer of each kind made from it gives it back. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "data/text/text.h"
#include "data/tokenizer/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Encodes and decodes; the text must come back. Takes t. */
static void round_trip(qn_tokenizer *t, const char *text, size_t bytes)
{
    int32_t *id;
    int64_t n;
    char *out;
    size_t m;
    if (qn_tokenizer_encode(&id, &n, t, text, bytes, NULL) != QN_OK) abort();
    if (qn_tokenizer_decode(&out, &m, t, id, n, NULL) != QN_OK) abort();
    if (m != bytes || memcmp(out, text, m) != 0) abort();
    qn_free(out);
    qn_free(id);
    qn_tokenizer_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    const int64_t bad = qn_utf8_check(text, size);
    qn_tokenizer *t;
    if (qn_tokenizer_open_bytes(&t, NULL) != QN_OK) abort();
    round_trip(t, text, size);
    const size_t good = bad < 0 ? size : (size_t)bad;
    for (size_t at = 0; at < good;) {
        char c[4];
        const size_t from = at;
        const uint32_t code = qn_utf8_next(text, good, &at);
        if ((size_t)qn_utf8_put(c, code) != at - from || memcmp(c, text + from, at - from) != 0) abort();
    }
    if (good == 0) return 0;
    if (qn_tokenizer_open_chars(&t, text, good, NULL) == QN_OK)
        round_trip(t, text, good);
    else if (memchr(text, 0, good) == NULL)
        abort();
    for (int32_t vocab = 257; vocab < 300; vocab += 30) {
        if (qn_tokenizer_train(&t, &text, &good, 1, vocab, NULL, NULL, NULL) != QN_OK) break;
        if (memchr(text, '<', good) == NULL) /* <|endoftext|> would not come back */
            round_trip(t, text, good);
        else
            qn_tokenizer_close(t);
    }
    return 0;
}
