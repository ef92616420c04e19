/* Hook of the fuzzer: a checkpoint in memory that the caller keeps until close. */
#ifndef QN_DATA_LLAMA2C_INTERNAL_H
#define QN_DATA_LLAMA2C_INTERNAL_H

#include "data/llama2c.h"

qn_status qni_llama2c_open_memory(qn_llama2c **out, const void *data, size_t bytes, const char *name, qn_err *err) QN_MUST_USE;

#endif
