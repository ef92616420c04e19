/* The sum over tensor shards: what every member of a group computes from all contributions. */
#ifndef QN_KERNELS_SHARD_SUM_H
#define QN_KERNELS_SHARD_SUM_H

#include <stdint.h>

#include "core/team.h"
#include "core/tensor.h"

enum { QN_MAX_SHARDS = 64 };

/* out[o][i] = the sum of part[0][i] .. part[parts - 1][i] for all o, in a fixed tree: neighbours in pairs, then the pairs' sums,
 * and so on; one that is left over goes up as it is. In the type itself, but bf16 in f32, rounded once at the end.
 *   part  [parts][n], 1 <= parts <= QN_MAX_SHARDS; out [outs][n]: may be the parts themselves, else not overlapping them
 * The same bits for any number of threads. */
void qn_shard_sum(const qn_exec *ex, void *const *out, int32_t outs, const void *const *part, int32_t parts, qn_dtype type,
                  int64_t n);

#endif
