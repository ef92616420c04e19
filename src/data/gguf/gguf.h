/* GGUF files (version 2 and 3, little endian): metadata and tensors of a model in one mapping. Opening checks every count,
 * length, type, shape and offset against the bytes that are there, before anything is used.
 *
 *   "GGUF" | version u32 | tensors u64 | keys u64 | { key, type, value } | { name, dims, dim.., type, offset } | padding | data
 *
 * Format: ggml-org/ggml, docs/gguf.md. Tensor types: F32, F16, BF16, and blocks of 32: Q8_0 (scale f16, 32 integers of 8 bits),
 * Q4_0 (scale f16, 32 integers of 4 bits less 8: first the 16 low halves, then the 16 high ones). */
#ifndef QN_DATA_GGUF_H
#define QN_DATA_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/tensor.h"
#include "data/tokenizer/tokenizer.h"
#include "quern/status.h"

typedef struct qn_gguf qn_gguf;

typedef struct qn_gguf_tensor {
    const char *name; /* owned by the file */
    int32_t type;     /* the format's number */
    const char *type_name;
    qn_shape shape; /* the last is the fastest, as everywhere here */
    int64_t count;  /* elements */
    const uint8_t *data;
    size_t bytes;
} qn_gguf_tensor;

typedef struct qn_gguf_text {
    const char *at; /* not terminated */
    size_t bytes;
} qn_gguf_text;

/* Errors: QN_ENOENT, QN_EFORMAT (where, what was found and wanted), QN_EUNSUPPORTED (another version or byte order), QN_ENOMEM.
 */
qn_status qn_gguf_open(qn_gguf **out, const char *path, qn_err *err) QN_MUST_USE;
/* bytes that the caller keeps until close; name is for messages. */
qn_status qn_gguf_open_memory(qn_gguf **out, const void *data, size_t bytes, const char *name, qn_err *err) QN_MUST_USE;
void qn_gguf_close(qn_gguf *f);    /* accepts NULL */
bool qn_gguf_is(const char *path); /* a file that begins as one */

int32_t qn_gguf_tensors(const qn_gguf *f);
const qn_gguf_tensor *qn_gguf_tensor_at(const qn_gguf *f, int32_t i);
const qn_gguf_tensor *qn_gguf_find(const qn_gguf *f, const char *name); /* or NULL */
/* count elements from element first, as f32. Errors: QN_EUNSUPPORTED (another type), QN_ERANGE. */
qn_status qn_gguf_read_f32(float *out, const qn_gguf_tensor *t, int64_t first, int64_t count, qn_err *err) QN_MUST_USE;

/* Metadata by key; false when the key is missing or of another kind. Integers of any width, floats of either, texts, flags. */
bool qn_gguf_integer(int64_t *out, const qn_gguf *f, const char *key);
bool qn_gguf_real(double *out, const qn_gguf *f, const char *key);
bool qn_gguf_text_of(qn_gguf_text *out, const qn_gguf *f, const char *key);
bool qn_gguf_has(const qn_gguf *f, const char *key);
/* Elements of an array; element i of an array of texts, integers or floats. Texts are quick in ascending order. */
int64_t qn_gguf_array(const qn_gguf *f, const char *key); /* -1: none */
bool qn_gguf_array_text(qn_gguf_text *out, qn_gguf *f, const char *key, int64_t i);
bool qn_gguf_array_integer(int64_t *out, const qn_gguf *f, const char *key, int64_t i);
bool qn_gguf_array_real(double *out, const qn_gguf *f, const char *key, int64_t i);

/* The tokenizer that tokenizer.ggml.* describe: "llama" (pieces with scores) and "gpt2" (byte-level BPE, with the splitting of
 * GPT-2 or Llama 3). Errors: QN_ENOENT (none there), QN_EFORMAT, QN_EUNSUPPORTED (another kind or splitting, by name), QN_ENOMEM.
 */
qn_status qn_gguf_tokenizer(qn_tokenizer **out, qn_gguf *f, qn_err *err) QN_MUST_USE;

#endif
