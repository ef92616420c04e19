/* Safetensors files: 8 bytes of header length, a JSON header, then the tensors. Reading maps the file and checks every name,
 * type, shape and offset (in bounds, no overlap, no gap, sizes as the shape says) before anything is used. */
#ifndef QN_DATA_SAFETENSORS_H
#define QN_DATA_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "core/tensor.h"
#include "quern/status.h"

typedef struct qn_tensor_view {
    const char *name; /* owned by the file */
    qn_dtype dtype;   /* QN_DTYPES: a type of the format that Quern does not compute with */
    const char *type; /* as the file names it: "F32"; static storage */
    qn_shape shape;
    const void *data; /* in the mapping; not necessarily aligned */
    size_t bytes;
    const char *path; /* the file, owned by the handle; NULL: memory alone */
    uint64_t offset;  /* of the data in the file */
} qn_tensor_view;

typedef struct qn_safetensors qn_safetensors;

/* path: a .safetensors file, or a directory with model.safetensors or model.safetensors.index.json and its shards.
 * Errors: QN_ENOENT, QN_EFORMAT (tensor, what was found and wanted), QN_ENOMEM. */
qn_status qn_safetensors_open(qn_safetensors **out, const char *path, qn_err *err) QN_MUST_USE;
void qn_safetensors_close(qn_safetensors *f);
int32_t qn_safetensors_count(const qn_safetensors *f);
const qn_tensor_view *qn_safetensors_at(const qn_safetensors *f, int32_t i);          /* sorted by name */
const qn_tensor_view *qn_safetensors_find(const qn_safetensors *f, const char *name); /* or NULL */

/* Writing streams: all tensors are declared first, then their bytes come in that order through fill. One file when the total is
 * at most shard_bytes (0: no limit), else model-00001-of-0000N.safetensors and model.safetensors.index.json. Each file is written
 * under a temporary name, synced, renamed. Errors: QN_EINVAL (a name twice, a type that the format lacks), QN_ERANGE, QN_EIO,
 * QN_ENOMEM, those of fill. */
typedef struct qn_tensor_desc {
    const char *name;
    qn_dtype dtype;
    qn_shape shape;
} qn_tensor_desc;
/* Puts elements [first, first + count) of tensor i into to. Called by two threads at once where there is much to write. */
typedef qn_status qn_tensor_fill_fn(void *ctx, int32_t i, int64_t first, int64_t count, void *to, qn_err *err);
qn_status qn_safetensors_write(const char *dir, const char *base, const qn_tensor_desc *tensor, int32_t count, size_t shard_bytes,
                               qn_tensor_fill_fn *fill, void *ctx, qn_err *err) QN_MUST_USE;

/* count elements of a view from element first, converted to f32. Errors: QN_EUNSUPPORTED for other types, QN_ERANGE. */
qn_status qn_tensor_read_f32(float *out, const qn_tensor_view *t, int64_t first, int64_t count, qn_err *err) QN_MUST_USE;

#endif
