/* Shared by reader, writer and fuzzer. */
#ifndef QN_DATA_SAFETENSORS_INTERNAL_H
#define QN_DATA_SAFETENSORS_INTERNAL_H

#include "data/safetensors/safetensors.h"

enum { QNI_SAFETENSORS_MAX_HEADER = 100000000 };

/* One file in memory that the caller keeps until close; name is for messages. */
qn_status qni_safetensors_open_memory(qn_safetensors **out, const void *data, size_t bytes, const char *name,
                                      qn_err *err) QN_MUST_USE;
/* The format's name of a type ("F32"), NULL when it has none. */
const char *qni_safetensors_type(qn_dtype dtype);

#endif
