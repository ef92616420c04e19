/* Reading safetensors.
 *
 *   u64 n | n bytes of JSON: {"name": {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]}, .., "__metadata__": {..}} |
 * data
 *
 * Invariants after open: every view lies inside its mapping; within a file the tensors cover the data exactly once, in some
 * order; names are unique over all files; tensors are sorted by name. */
#include "data/safetensors/safetensors_internal.h"

#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "core/cursor.h"
#include "core/io.h"

enum { MAX_FILES = 4096, MAX_INDEX = 64 << 20 };

typedef struct type_row {
    const char *name;
    size_t bytes;
    qn_dtype dtype; /* QN_DTYPES: known to the format, unknown to Quern */
} type_row;

static const type_row types[] = {
    {"F32", 4, QN_F32},        {"BF16", 2, QN_BF16},      {"F16", 2, QN_F16},        {"F64", 8, QN_F64},
    {"I32", 4, QN_I32},        {"U16", 2, QN_U16},        {"U8", 1, QN_U8},          {"BOOL", 1, QN_DTYPES},
    {"I8", 1, QN_DTYPES},      {"I16", 2, QN_DTYPES},     {"U32", 4, QN_DTYPES},     {"I64", 8, QN_DTYPES},
    {"U64", 8, QN_DTYPES},     {"F8_E4M3", 1, QN_DTYPES}, {"F8_E5M2", 1, QN_DTYPES}, {"C64", 8, QN_DTYPES},
    {"F8_E8M0", 1, QN_DTYPES},
};

struct qn_safetensors {
    qn_map *map; /* [maps] */
    char **path; /* [maps] */
    json_t **header;
    int32_t files, maps;    /* headers and mappings held */
    qn_tensor_view *tensor; /* names point into the headers */
    int32_t count;
};

const char *qni_safetensors_type(qn_dtype dtype)
{
    for (size_t i = 0; i < QN_COUNT(types); i++)
        if (types[i].dtype == dtype && dtype != QN_DTYPES) return types[i].name;
    return NULL;
}

static qn_status read_shape(qn_tensor_view *v, const json_t *shape, const char *file, qn_err *err)
{
    const size_t rank = json_array_size(shape);
    if (!json_is_array(shape) || rank > QN_MAX_RANK)
        return QN_FAIL(err, QN_EFORMAT, "%s: tensor %s has no shape of at most %d sizes", file, v->name, QN_MAX_RANK);
    v->shape = (qn_shape){.rank = (int32_t)rank};
    for (size_t i = 0; i < rank; i++) {
        const json_t *n = json_array_get(shape, i);
        if (!json_is_integer(n) || json_integer_value(n) < 0)
            return QN_FAIL(err, QN_EFORMAT, "%s: tensor %s: size %zu of its shape is not a number from 0", file, v->name, i);
        v->shape.dim[i] = json_integer_value(n);
    }
    return QN_OK;
}

/* One entry of the header; data and bytes are the file's data. */
static qn_status read_tensor(qn_tensor_view *v, const char *name, const json_t *o, const uint8_t *data, size_t bytes,
                             const char *file, qn_err *err)
{
    const json_t *offsets = json_object_get(o, "data_offsets"), *b = json_array_get(offsets, 0), *e = json_array_get(offsets, 1);
    const char *dtype = json_string_value(json_object_get(o, "dtype"));
    const type_row *type = NULL;
    int64_t count, wanted;
    *v = (qn_tensor_view){.name = name};
    for (size_t i = 0; i < QN_COUNT(types) && dtype != NULL; i++)
        if (strcmp(types[i].name, dtype) == 0) type = &types[i];
    if (type == NULL)
        return QN_FAIL(err, QN_EFORMAT, "%s: tensor %s has the type '%.32s', which the format does not have", file, name,
                       dtype ? dtype : "");
    v->dtype = type->dtype;
    v->type = type->name;
    qn_status st = read_shape(v, json_object_get(o, "shape"), file, err);
    if (st != QN_OK) return st;
    if (json_array_size(offsets) != 2 || !json_is_integer(b) || !json_is_integer(e) || json_integer_value(b) < 0 ||
        json_integer_value(e) < json_integer_value(b) || (uint64_t)json_integer_value(e) > bytes)
        return QN_FAIL(err, QN_EFORMAT,
                       "%s: tensor %s: its data_offsets [%lld, %lld] are not a range inside the %zu bytes of data", file, name,
                       (long long)json_integer_value(b), (long long)json_integer_value(e), bytes);
    if (!qn_shape_count(&count, &v->shape) || !qn_mul_i64(&wanted, count, (int64_t)type->bytes))
        return QN_FAIL(err, QN_EFORMAT, "%s: tensor %s: its shape has more elements than can be addressed", file, name);
    v->data = data + json_integer_value(b);
    v->bytes = (size_t)(json_integer_value(e) - json_integer_value(b));
    if ((uint64_t)wanted != v->bytes)
        return QN_FAIL(err, QN_EFORMAT, "%s: tensor %s has %zu bytes; its shape of %" PRId64 " %s wants %" PRId64, file, name,
                       v->bytes, count, type->name, wanted);
    return QN_OK;
}

static int by_place(const void *x, const void *y)
{
    const qn_tensor_view *a = x, *b = y;
    const uintptr_t p = (uintptr_t)a->data, q = (uintptr_t)b->data;
    if (p != q) return p < q ? -1 : 1;
    return (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

static int by_name(const void *x, const void *y)
{
    return strcmp(((const qn_tensor_view *)x)->name, ((const qn_tensor_view *)y)->name);
}

/* The tensors of one file cover its data without gap and overlap. */
static qn_status check_cover(qn_tensor_view *v, int32_t n, const uint8_t *data, size_t bytes, const char *file, qn_err *err)
{
    const uint8_t *at = data;
    if (n > 0) qsort(v, (size_t)n, sizeof(*v), by_place);
    for (int32_t i = 0; i < n; i++) {
        const uint8_t *begin = v[i].data;
        if (begin != at)
            return QN_FAIL(err, QN_EFORMAT, "%s: tensor %s begins at byte %zu of the data, %s byte %zu where %s ends", file,
                           v[i].name, (size_t)(begin - data), begin < at ? "before" : "not at", (size_t)(at - data),
                           i > 0 ? v[i - 1].name : "the header");
        at = begin + v[i].bytes;
    }
    if ((size_t)(at - data) != bytes)
        return QN_FAIL(err, QN_EFORMAT, "%s has %zu bytes of data, its tensors cover %zu", file, bytes, (size_t)(at - data));
    return QN_OK;
}

static qn_status make_room(qn_safetensors *f, size_t more, qn_err *err)
{
    if (more > (size_t)(INT32_MAX - f->count)) return QN_FAIL(err, QN_EFORMAT, "a safetensors header with %zu entries", more);
    qn_tensor_view *v = qn_realloc(f->tensor, (size_t)f->count + more + 1, sizeof(*v));
    if (v == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for %zu tensors", more);
    f->tensor = v;
    return QN_OK;
}

/* Adds the tensors of one file to f, which takes a reference to the header. path: where it is, NULL: in memory. */
static qn_status add_file(qn_safetensors *f, const uint8_t *data, size_t bytes, const char *file, const char *path, qn_err *err)
{
    qn_cursor c = qn_cursor_of(bytes > 0 ? (const void *)data : "", bytes);
    const uint64_t length = qn_cursor_u64(&c);
    json_error_t why;
    const char *name;
    json_t *o;
    if (c.failed || length > qn_cursor_left(&c) || length > QNI_SAFETENSORS_MAX_HEADER)
        return QN_FAIL(err, QN_EFORMAT,
                       "%s: a header of %" PRIu64 " bytes cannot be in a safetensors file of %zu bytes (at most %d)", file,
                       length, bytes, QNI_SAFETENSORS_MAX_HEADER);
    const char *text = qn_cursor_take(&c, (size_t)length);
    if (length == 0 || *text != '{')
        return QN_FAIL(err, QN_EFORMAT, "%s is not a safetensors file: its header does not start with '{'", file);
    json_t *root = json_loadb(text, (size_t)length, JSON_REJECT_DUPLICATES, &why);
    if (root == NULL) return QN_FAIL(err, QN_EFORMAT, "%s: its header is not JSON: column %d: %s", file, why.column, why.text);
    f->header[f->files++] = root;
    qn_status st = make_room(f, json_object_size(root), err);
    const int32_t first = f->count;
    json_object_foreach(root, name, o)
    {
        if (st != QN_OK) break;
        if (strcmp(name, "__metadata__") == 0) continue;
        qn_tensor_view *v = &f->tensor[f->count++];
        st = read_tensor(v, name, o, c.at, qn_cursor_left(&c), file, err);
        if (st != QN_OK) break;
        v->path = path;
        v->offset = (uint64_t)((const uint8_t *)v->data - data);
    }
    if (st == QN_OK) st = check_cover(f->tensor + first, f->count - first, c.at, qn_cursor_left(&c), file, err);
    return st;
}

/* Names unique and in order. */
static qn_status finish(qn_safetensors *f, qn_err *err)
{
    if (f->count > 0) qsort(f->tensor, (size_t)f->count, sizeof(*f->tensor), by_name);
    for (int32_t i = 1; i < f->count; i++)
        if (strcmp(f->tensor[i - 1].name, f->tensor[i].name) == 0)
            return QN_FAIL(err, QN_EFORMAT, "tensor %s is in two files", f->tensor[i].name);
    return QN_OK;
}

static qn_status new_handle(qn_safetensors **out, size_t files, qn_err *err)
{
    qn_safetensors *f = qn_calloc(1, sizeof(*f));
    if (f != NULL) {
        f->map = qn_calloc(files, sizeof(*f->map));
        f->path = qn_calloc(files, sizeof(*f->path));
        f->header = qn_calloc(files, sizeof(*f->header));
    }
    *out = f;
    return f == NULL || f->map == NULL || f->path == NULL || f->header == NULL
               ? QN_FAIL(err, QN_ENOMEM, "no memory for safetensors handles")
               : QN_OK;
}

qn_status qni_safetensors_open_memory(qn_safetensors **out, const void *data, size_t bytes, const char *name, qn_err *err)
{
    qn_safetensors *f;
    *out = NULL;
    qn_status st = new_handle(&f, 1, err);
    if (st == QN_OK) st = add_file(f, data, bytes, name, NULL, err);
    if (st == QN_OK) st = finish(f, err);
    if (st == QN_OK)
        *out = f;
    else
        qn_safetensors_close(f);
    return st;
}

static qn_status add_path(qn_safetensors *f, const char *path, qn_err *err)
{
    qn_map *m = &f->map[f->maps];
    const qn_status st = qn_map_open(m, path, err);
    if (st != QN_OK) return st;
    char *own = f->path[f->maps++] = qn_strdup(path);
    if (own == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for the name %s", path);
    return add_file(f, m->data, m->bytes, path, own, err);
}

static int by_text(const void *x, const void *y)
{
    return strcmp(*(const char *const *)x, *(const char *const *)y);
}

/* The distinct shard names of a weight_map, sorted, pointing into it. */
static qn_status shard_names(const char ***out, size_t *count, json_t *map, const char *path, qn_err *err)
{
    const char *key;
    json_t *v;
    size_t n = 0, k = 0;
    const char **names = qn_malloc(json_object_size(map) + 1, sizeof(*names));
    *out = names;
    *count = 0;
    if (names == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for the index %s", path);
    json_object_foreach(map, key, v)
    {
        const char *file = json_string_value(v);
        if (file == NULL || *file == '\0' || strchr(file, '/') != NULL || strlen(file) != json_string_length(v))
            return QN_FAIL(err, QN_EFORMAT, "%s: the file of tensor %.200s is not a plain file name", path, key);
        names[n++] = file;
    }
    if (n == 0) return QN_FAIL(err, QN_EFORMAT, "%s: its weight_map names no file", path);
    qsort(names, n, sizeof(*names), by_text);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || strcmp(names[i], names[k - 1]) != 0) names[k++] = names[i];
    if (k > MAX_FILES) return QN_FAIL(err, QN_EFORMAT, "%s names %zu files; at most %d are accepted", path, k, MAX_FILES);
    *count = k;
    return QN_OK;
}

static qn_status open_index(qn_safetensors **out, const char *dir, const char *path, qn_err *err)
{
    char *text = NULL, file[PATH_MAX];
    const char **names = NULL, *key;
    size_t bytes, count = 0;
    json_error_t why;
    json_t *root = NULL, *v;
    qn_safetensors *f = NULL;
    qn_status st;
    QN_TRY(st, qn_file_read(&text, &bytes, path, MAX_INDEX, err), out);
    root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why);
    json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map)) {
        st = QN_FAIL(err, QN_EFORMAT, "%s: %s", path, root == NULL ? why.text : "it has no weight_map");
        goto out;
    }
    QN_TRY(st, shard_names(&names, &count, map, path, err), out);
    QN_TRY(st, new_handle(&f, count, err), out);
    for (size_t i = 0; i < count; i++) {
        QN_TRY(st, qn_path_join(file, sizeof(file), dir, names[i], err), out);
        QN_TRY(st, add_path(f, file, err), out);
    }
    QN_TRY(st, finish(f, err), out);
    json_object_foreach(map, key, v)
    {
        if (qn_safetensors_find(f, key) != NULL) continue;
        st = QN_FAIL(err, QN_EFORMAT, "%s: tensor %.200s is not in %.200s", path, key, json_string_value(v));
        goto out;
    }
    *out = f;
    f = NULL;
out:
    qn_safetensors_close(f);
    qn_free(names);
    json_decref(root);
    qn_free(text);
    return st;
}

qn_status qn_safetensors_open(qn_safetensors **out, const char *path, qn_err *err)
{
    char file[PATH_MAX];
    *out = NULL;
    const bool dir = qn_path_exists(path) == 2;
    if (dir) {
        qn_status st = qn_path_join(file, sizeof(file), path, "model.safetensors", err);
        const bool one = st == QN_OK && qn_path_exists(file) == 1;
        if (st == QN_OK && !one) st = qn_path_join(file, sizeof(file), path, "model.safetensors.index.json", err);
        if (st != QN_OK) return st;
        if (!one && qn_path_exists(file) == 1) return open_index(out, path, file, err);
        if (!one) return QN_FAIL(err, QN_ENOENT, "%s holds neither model.safetensors nor model.safetensors.index.json", path);
        path = file;
    }
    qn_safetensors *f;
    qn_status st = new_handle(&f, 1, err);
    if (st == QN_OK) st = add_path(f, path, err);
    if (st == QN_OK) st = finish(f, err);
    if (st == QN_OK)
        *out = f;
    else
        qn_safetensors_close(f);
    return st;
}

void qn_safetensors_close(qn_safetensors *f)
{
    if (f == NULL) return;
    for (int32_t i = 0; i < f->files; i++) json_decref(f->header[i]);
    for (int32_t i = 0; i < f->maps; i++) qn_map_close(&f->map[i]);
    for (int32_t i = 0; i < f->maps; i++) qn_free(f->path[i]);
    qn_free(f->map);
    qn_free(f->path);
    qn_free(f->header);
    qn_free(f->tensor);
    qn_free(f);
}

int32_t qn_safetensors_count(const qn_safetensors *f)
{
    return f->count;
}

const qn_tensor_view *qn_safetensors_at(const qn_safetensors *f, int32_t i)
{
    QN_ASSERT(i >= 0 && i < f->count);
    return &f->tensor[i];
}

const qn_tensor_view *qn_safetensors_find(const qn_safetensors *f, const char *name)
{
    int32_t low = 0, high = f->count;
    while (low < high) {
        const int32_t mid = low + (high - low) / 2, c = strcmp(f->tensor[mid].name, name);
        if (c == 0) return &f->tensor[mid];
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

/* IEEE binary16. */
static float half_to_f32(uint16_t x)
{
    union {
        uint32_t u;
        float f;
    } v;
    const uint32_t sign = (uint32_t)(x & 0x8000u) << 16, exponent = x >> 10 & 31, fraction = x & 0x3ffu;
    if (exponent == 31) {
        v.u = sign | 0x7f800000u | fraction << 13;
        return v.f;
    }
    if (exponent == 0) { /* zero or subnormal: fraction * 2^-24, exact in f32 */
        v.f = (float)fraction * 0x1p-24f;
        v.u |= sign;
        return v.f;
    }
    v.u = sign | (exponent + 112) << 23 | fraction << 13;
    return v.f;
}

qn_status qn_tensor_read_f32(float *out, const qn_tensor_view *t, int64_t first, int64_t count, qn_err *err)
{
    if (t->dtype != QN_F32 && t->dtype != QN_BF16 && t->dtype != QN_F16 && t->dtype != QN_F64)
        return QN_FAIL(err, QN_EUNSUPPORTED, "tensor %s has the type %s; F32, BF16, F16 or F64 is needed", t->name, t->type);
    const size_t size = qn_dtype_bytes(t->dtype);
    if (first < 0 || count < 0 || (uint64_t)first > t->bytes / size || (uint64_t)count > t->bytes / size - (uint64_t)first)
        return QN_FAIL(err, QN_ERANGE, "tensor %s has %zu elements; %" PRId64 " from %" PRId64 " are asked for", t->name,
                       t->bytes / size, count, first);
    const uint8_t *p = (const uint8_t *)t->data + (size_t)first * size;
    if (t->dtype == QN_F32) {
        if (count > 0) memcpy(out, p, (size_t)count * size);
        return QN_OK;
    }
    for (int64_t i = 0; i < count; i++, p += size) {
        uint16_t half;
        double d;
        if (t->dtype == QN_F64) {
            memcpy(&d, p, sizeof(d));
            out[i] = (float)d;
            continue;
        }
        memcpy(&half, p, sizeof(half));
        out[i] = t->dtype == QN_BF16 ? qn_bf16_to_f32(half) : half_to_f32(half);
    }
    return QN_OK;
}
