/* Element types, shapes and bundle headers. */
#include "tensor.h"

#include <string.h>

#include "checked.h"
#include "compiler.h"

static const struct {
    const char *name;
    size_t bytes;
} dtypes[QN_DTYPES] = {
    [QN_F32] = {"f32", 4}, [QN_BF16] = {"bf16", 2}, [QN_F64] = {"f64", 8}, [QN_F16] = {"f16", 2},
    [QN_I32] = {"i32", 4}, [QN_U16] = {"u16", 2},   [QN_U8] = {"u8", 1},
};

size_t qn_dtype_bytes(qn_dtype dt)
{
    QN_ASSERT((unsigned)dt < QN_DTYPES);
    return dtypes[dt].bytes;
}

const char *qn_dtype_name(qn_dtype dt)
{
    return (unsigned)dt < QN_DTYPES ? dtypes[dt].name : "unknown";
}

bool qn_shape_count(int64_t *out, const qn_shape *s)
{
    int64_t n = 1;
    if (s->rank < 0 || s->rank > QN_MAX_RANK) return false;
    for (int32_t i = 0; i < s->rank; i++) {
        if (s->dim[i] < 0 || !qn_mul_i64(&n, n, s->dim[i])) return false;
    }
    *out = n;
    return true;
}

/* Adds part i to the running size, aligned to a cache line. */
static bool add_part(size_t *total, const qn_bundle *b, int32_t i)
{
    int64_t count;
    size_t bytes, padded;
    const qn_bundle_part *p = &b->part[i];
    return (unsigned)p->dtype < QN_DTYPES && qn_shape_count(&count, &p->shape) &&
           qn_mul_size(&bytes, (size_t)count, dtypes[p->dtype].bytes) && qn_align_size(&padded, bytes, QN_CACHE_LINE) &&
           qn_add_size(total, *total, padded);
}

bool qn_bundle_bytes(size_t *out, const qn_bundle *b)
{
    size_t total = 0;
    if (b->parts < 0 || b->parts > QN_BUNDLE_MAX) return false;
    for (int32_t i = 0; i < b->parts; i++) {
        if (!add_part(&total, b, i)) return false;
    }
    *out = total;
    return true;
}

size_t qn_bundle_offset(const qn_bundle *b, int32_t i)
{
    size_t offset = 0;
    QN_ASSERT(i >= 0 && i < b->parts && b->parts <= QN_BUNDLE_MAX);
    for (int32_t k = 0; k < i; k++) QN_ASSERT(add_part(&offset, b, k)); /* planned sizes were checked by qn_bundle_bytes */
    return offset;
}

static qn_status check_part(const qn_bundle_part *got, const qn_bundle_part *want, qn_err *err)
{
    if (strncmp(got->name, want->name, sizeof(got->name)) != 0)
        return QN_FAIL(err, QN_EFORMAT, "a received bundle has a tensor of another name where '%.16s' was planned", want->name);
    if (got->dtype != want->dtype)
        return QN_FAIL(err, QN_EFORMAT, "received tensor '%.16s' has type %s, planned was %s", want->name,
                       qn_dtype_name(got->dtype), qn_dtype_name(want->dtype));
    if (got->shape.rank != want->shape.rank)
        return QN_FAIL(err, QN_EFORMAT, "received tensor '%.16s' has %d dimensions, planned were %d", want->name, got->shape.rank,
                       want->shape.rank);
    for (int32_t d = 0; d < want->shape.rank; d++) {
        if (got->shape.dim[d] != want->shape.dim[d])
            return QN_FAIL(err, QN_EFORMAT, "received tensor '%.16s' has size %lld in dimension %d, planned was %lld", want->name,
                           (long long)got->shape.dim[d], d, (long long)want->shape.dim[d]);
    }
    const int64_t most = want->shape.rank > 0 ? want->shape.dim[0] : 1;
    if (got->rows < 0 || got->rows > most)
        return QN_FAIL(err, QN_EFORMAT, "received tensor '%.16s' claims %lld rows, planned were at most %lld", want->name,
                       (long long)got->rows, (long long)most);
    return QN_OK;
}

qn_status qn_bundle_check(const qn_bundle *got, const qn_bundle *planned, qn_err *err)
{
    qn_status st = QN_OK;
    if (got->parts != planned->parts)
        return QN_FAIL(err, QN_EFORMAT, "a received bundle has %d tensors, planned were %d", got->parts, planned->parts);
    for (int32_t i = 0; i < planned->parts && st == QN_OK; i++) st = check_part(&got->part[i], &planned->part[i], err);
    return st;
}
