/* Hook of the fuzzer: a shard in memory that the caller keeps until close. */
#ifndef QN_DATA_DATASET_SHARDS_INTERNAL_H
#define QN_DATA_DATASET_SHARDS_INTERNAL_H

#include <stddef.h>

#include "data/dataset/shards.h"

qn_status qni_tokens_open_memory(qn_tokens **out, const void *data, size_t bytes, const char *name, qn_err *err) QN_MUST_USE;

#endif
