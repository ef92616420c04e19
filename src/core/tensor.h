/* Element types, shapes, and the header of a bundle: the named tensors that cross a cut.
 *
 * A bundle's planned shapes are fixed at start; its header travels with every message and holds the rows that are
 * really there, at most the planned ones. Zero rows are legal everywhere. */
#ifndef QN_CORE_TENSOR_H
#define QN_CORE_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quern/status.h"

typedef enum qn_dtype { QN_F32, QN_BF16, QN_F64, QN_F16, QN_I32, QN_U16, QN_U8, QN_DTYPES } qn_dtype;

size_t qn_dtype_bytes(qn_dtype dt);
const char *qn_dtype_name(qn_dtype dt); /* "f32" */

/* bfloat16 as bits; rounding to nearest even, NaN stays NaN. */
typedef uint16_t qn_bf16;
static inline float qn_bf16_to_f32(qn_bf16 x)
{
    union {
        uint32_t u;
        float f;
    } v = {.u = (uint32_t)x << 16};
    return v.f;
}
static inline qn_bf16 qn_f32_to_bf16(float x)
{
    union {
        float f;
        uint32_t u;
    } v = {.f = x};
    if ((v.u & 0x7fffffffu) > 0x7f800000u) return (qn_bf16)(v.u >> 16 | 0x40);
    return (qn_bf16)((v.u + 0x7fffu + (v.u >> 16 & 1u)) >> 16);
}

enum { QN_MAX_RANK = 6, QN_BUNDLE_MAX = 4 };

typedef struct qn_shape {
    int32_t rank;
    int64_t dim[QN_MAX_RANK]; /* the last is the fastest */
} qn_shape;

/* Number of elements; false on a negative size or overflow. */
bool qn_shape_count(int64_t *out, const qn_shape *s);

typedef struct qn_bundle_part {
    char name[16];
    qn_dtype dtype;
    qn_shape shape; /* planned; dim[0] is rows */
    int64_t rows;   /* really there, 0 <= rows <= shape.dim[0] */
} qn_bundle_part;

typedef struct qn_bundle {
    int32_t parts;
    qn_bundle_part part[QN_BUNDLE_MAX];
} qn_bundle;

/* Bytes of the planned payload, each part aligned to 64; false on overflow. */
bool qn_bundle_bytes(size_t *out, const qn_bundle *b);
/* Byte offset of part i in the payload. */
size_t qn_bundle_offset(const qn_bundle *b, int32_t i);
/* A header that came over a wire against the planned one. Errors: QN_EFORMAT, with what was found and wanted. */
qn_status qn_bundle_check(const qn_bundle *got, const qn_bundle *planned, qn_err *err) QN_MUST_USE;

#endif
