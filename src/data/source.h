/* The batch contract: what a trainer asks of a dataset. A reader yields names, types, shapes and numbers and does not know who
 * asks.
 *
 * Reading is a pure function of (step, sample): any worker may read any part at any time, in any order, and resume needs no more
 * than the step number. */
#ifndef QN_DATA_SOURCE_H
#define QN_DATA_SOURCE_H

#include <stdint.h>

#include "quern/status.h"

typedef struct qn_source qn_source;

typedef struct qn_source_ops {
    /* Sample number `sample` (0 <= sample < batch) of step `step`: T inputs and the T tokens that follow them. Thread-safe,
     * allocates nothing. */
    void (*read)(const qn_source *s, int64_t step, int64_t sample, int32_t *inputs, int32_t *targets);
    void (*close)(qn_source *s);
} qn_source_ops;

struct qn_source {
    const qn_source_ops *ops;
    int64_t T;     /* tokens of a sample */
    int64_t batch; /* samples of a step */
    int32_t vocab; /* all tokens are below */
};

#endif
