/* llama2.c's checkpoint (version 0): seven int32 (dim, hidden, layers, heads, KV heads, vocabulary, context), then f32 tensors.
 * Read as views under Hugging Face's names, q and k rows permuted to the rotate-half order when they are read. */
#ifndef QN_DATA_LLAMA2C_H
#define QN_DATA_LLAMA2C_H

#include <stdbool.h>
#include <stdint.h>

#include "quern/status.h"

typedef struct qn_llama2c qn_llama2c;
typedef struct qn_llama2c_header {
    int32_t width, hidden, layers, heads, kv_heads, vocab, context;
    bool tied; /* positive vocabulary size in the file */
} qn_llama2c_header;

/* Errors: QN_ENOENT, QN_EFORMAT (header numbers that cannot be, a file cut short: how many bytes were found and wanted). */
qn_status qn_llama2c_open(qn_llama2c **out, const char *path, qn_err *err) QN_MUST_USE;
void qn_llama2c_close(qn_llama2c *f);
const qn_llama2c_header *qn_llama2c_header_of(const qn_llama2c *f);
/* The tensor of that Hugging Face name ("model.layers.0.self_attn.q_proj.weight"), [count] f32 into out. Errors: QN_ENOENT,
 * QN_ERANGE (count differs). */
qn_status qn_llama2c_read(float *out, const qn_llama2c *f, const char *name, int64_t count, qn_err *err) QN_MUST_USE;

#endif
