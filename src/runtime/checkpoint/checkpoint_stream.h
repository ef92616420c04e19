/* Tensors of safetensors files into parameters, in the order of the files. Internal to src/runtime. */
#ifndef QN_RUNTIME_CHECKPOINT_STREAM_H
#define QN_RUNTIME_CHECKPOINT_STREAM_H

#include "data/safetensors/safetensors.h"

typedef struct qni_stream_item {
    const qn_tensor_view *tensor; /* of a file, f32, f16, bf16 or f64 */
    float *to;                    /* all of its elements */
    int64_t O, I;                 /* O > 0: to is [O, I], the file has [I, O] */
} qni_stream_item;

/* Sorts the items by file and place and reads each file once, about from front to back (core/io.h, qn_reader). Errors: QN_EIO,
 * QN_ENOMEM, QN_ENOENT; those of qn_tensor_read_f32. */
qn_status qni_stream_tensors(qni_stream_item *item, int32_t items, qn_err *err) QN_MUST_USE;

#endif
