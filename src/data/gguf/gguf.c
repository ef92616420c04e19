/* Reading GGUF: one pass over the header with a bounded cursor; afterwards everything is an index into the mapping. */
#include "gguf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/cursor.h"
#include "core/half.h"
#include "core/io.h"

enum { MAX_KEYS = 1 << 20, MAX_TENSORS = 1 << 20, MAX_NAME = 65535, MAX_DIMS = 4, MAX_ALIGN = 1 << 20, BLOCK = 32 };

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, TEXT, ARRAY, U64, I64, F64, VALUE_TYPES };
static const uint8_t value_bytes[VALUE_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

enum { T_F32 = 0, T_F16 = 1, T_Q4_0 = 2, T_Q8_0 = 8, T_BF16 = 30 };

typedef struct gguf_value {
    qn_gguf_text key;
    uint32_t type, of; /* of: the elements' type of an array */
    int64_t count;     /* of an array */
    const uint8_t *at; /* the value, or the first element */
} gguf_value;

struct qn_gguf {
    qn_map map;
    const char *file; /* for messages */
    char *file_own;
    gguf_value *value;
    int64_t values;
    qn_gguf_tensor *tensor; /* in the file's order */
    int32_t tensors;
    int32_t *by_name; /* [tensors], sorted */
    char *names;
    struct { /* where the last text that was asked for ends */
        const gguf_value *of;
        int64_t next;
        const uint8_t *at;
    } walk;
    const uint8_t *end;
};

/* --- header */
static qn_status cut_short(const qn_gguf *f, const char *what, qn_err *err)
{
    return QN_FAIL(err, QN_EFORMAT, "%s ends inside %s; the file is cut short or damaged", f->file, what);
}

static bool take_text(qn_gguf_text *out, qn_cursor *c)
{
    const uint64_t n = qn_cursor_u64(c);
    if (c->failed || n > qn_cursor_left(c)) {
        c->failed = true;
        return false;
    }
    *out = (qn_gguf_text){.at = qn_cursor_take(c, (size_t)n), .bytes = (size_t)n};
    return !c->failed;
}

/* Steps over count values of a type that is no array. */
static bool skip_values(qn_cursor *c, uint32_t type, uint64_t count)
{
    if (type == TEXT) {
        qn_gguf_text t;
        for (uint64_t i = 0; i < count; i++)
            if (!take_text(&t, c)) return false;
        return true;
    }
    if (count > qn_cursor_left(c) / value_bytes[type]) return false;
    return qn_cursor_take(c, (size_t)count * value_bytes[type]) != NULL || count == 0;
}

static qn_status read_value(qn_gguf *f, gguf_value *v, qn_cursor *c, qn_err *err)
{
    if (!take_text(&v->key, c)) return cut_short(f, "a key", err);
    const int n = (int)(v->key.bytes < 64 ? v->key.bytes : 64);
    v->type = qn_cursor_u32(c);
    if (c->failed) return cut_short(f, "a value", err);
    if (v->type >= VALUE_TYPES)
        return QN_FAIL(err, QN_EFORMAT, "%s: key '%.*s' has a value of type %" PRIu32 "; 0 to %d are known", f->file, n,
                       v->key.at, v->type, VALUE_TYPES - 1);
    uint64_t count = 1;
    if (v->type == ARRAY) {
        v->of = qn_cursor_u32(c);
        count = qn_cursor_u64(c);
        if (c->failed) return cut_short(f, "a value", err);
        if (v->of >= VALUE_TYPES || v->of == ARRAY)
            return QN_FAIL(err, QN_EFORMAT, "%s: key '%.*s' is an array of type %" PRIu32 "; plain values are wanted", f->file, n,
                           v->key.at, v->of);
        if (count > qn_cursor_left(c)) return cut_short(f, "an array", err);
    }
    v->count = (int64_t)count;
    v->at = c->at;
    return skip_values(c, v->type == ARRAY ? v->of : v->type, count) ? QN_OK : cut_short(f, "a value", err);
}

static bool same_key(const qn_gguf_text *a, const char *key)
{
    return a->bytes == strlen(key) && memcmp(a->at, key, a->bytes) == 0;
}

static const gguf_value *find_value(const qn_gguf *f, const char *key)
{
    for (int64_t i = 0; i < f->values; i++)
        if (same_key(&f->value[i].key, key)) return &f->value[i];
    return NULL;
}

static const char *type_name(int32_t type)
{
    static const char *const names[] = {
        [T_F32] = "F32",   [T_F16] = "F16", [T_Q4_0] = "Q4_0", [3] = "Q4_1",    [6] = "Q5_0",     [7] = "Q5_1",
        [T_Q8_0] = "Q8_0", [9] = "Q8_1",    [10] = "Q2_K",     [11] = "Q3_K",   [12] = "Q4_K",    [13] = "Q5_K",
        [14] = "Q6_K",     [15] = "Q8_K",   [16] = "IQ2_XXS",  [17] = "IQ2_XS", [18] = "IQ3_XXS", [19] = "IQ1_S",
        [20] = "IQ4_NL",   [21] = "IQ3_S",  [22] = "IQ2_S",    [23] = "IQ4_XS", [24] = "I8",      [25] = "I16",
        [26] = "I32",      [27] = "I64",    [28] = "F64",      [29] = "IQ1_M",  [T_BF16] = "BF16"};
    if (type < 0 || (size_t)type >= sizeof(names) / sizeof(names[0]) || names[type] == NULL) return "an unknown type";
    return names[type];
}

/* Bytes of a row of that many elements; 0: a type that is not read, or a row that is no whole number of blocks. */
static size_t row_bytes(int32_t type, int64_t n)
{
    switch (type) {
    case T_F32:
        return (size_t)n * 4;
    case T_F16:
    case T_BF16:
        return (size_t)n * 2;
    case T_Q4_0:
        return n % BLOCK == 0 ? (size_t)(n / BLOCK) * 18 : 0;
    case T_Q8_0:
        return n % BLOCK == 0 ? (size_t)(n / BLOCK) * 34 : 0;
    default:
        return 0;
    }
}

/* A tensor's description; its data is placed when the beginning of the data is known. data holds the offset meanwhile. */
static qn_status read_tensor(qn_gguf *f, qn_gguf_tensor *t, uint64_t *offset, char **names, qn_cursor *c, qn_err *err)
{
    qn_gguf_text name;
    if (!take_text(&name, c)) return cut_short(f, "the name of a tensor", err);
    if (name.bytes == 0 || name.bytes > MAX_NAME || memchr(name.at, '\0', name.bytes) != NULL)
        return QN_FAIL(err, QN_EFORMAT, "%s: a tensor's name has %zu bytes; 1 to %d, none of them 0, are wanted", f->file,
                       name.bytes, MAX_NAME);
    memcpy(*names, name.at, name.bytes);
    t->name = *names;
    *names += name.bytes + 1;
    const uint32_t dims = qn_cursor_u32(c);
    if (!c->failed && (dims < 1 || dims > MAX_DIMS))
        return QN_FAIL(err, QN_EFORMAT, "%s: tensor %s has %" PRIu32 " dimensions; 1 to %d are wanted", f->file, t->name, dims,
                       MAX_DIMS);
    t->shape.rank = (int32_t)dims;
    for (uint32_t i = 0; i < dims && !c->failed; i++) {
        const uint64_t d = qn_cursor_u64(c);
        if (d > INT64_MAX) return QN_FAIL(err, QN_EFORMAT, "%s: tensor %s has a dimension of %" PRIu64, f->file, t->name, d);
        t->shape.dim[dims - 1 - i] = (int64_t)d;
    }
    t->type = (int32_t)qn_cursor_u32(c);
    *offset = qn_cursor_u64(c);
    if (c->failed) return cut_short(f, "the description of a tensor", err);
    t->type_name = type_name(t->type);
    if (!qn_shape_count(&t->count, &t->shape) || t->count > INT64_MAX / 8)
        return QN_FAIL(err, QN_EFORMAT, "%s: the shape of tensor %s is too large", f->file, t->name);
    return QN_OK;
}

static qn_status place_tensor(const qn_gguf *f, qn_gguf_tensor *t, uint64_t offset, uint64_t align, const uint8_t *data,
                              qn_err *err)
{
    const size_t left = (size_t)(f->end - data);
    const int64_t row = t->shape.dim[t->shape.rank - 1], rows = row > 0 ? t->count / row : 0;
    const size_t bytes = row_bytes(t->type, row);
    if (offset % align != 0 || offset > left)
        return QN_FAIL(err, QN_EFORMAT,
                       "%s: tensor %s begins at %" PRIu64 " of %zu bytes of data; a multiple of %" PRIu64 " is wanted", f->file,
                       t->name, offset, left, align);
    t->data = data + offset;
    if (bytes == 0 && row > 0) return QN_OK; /* listed, and refused when it is read */
    if (rows > 0 && bytes > (left - (size_t)offset) / (size_t)rows)
        return QN_FAIL(err, QN_EFORMAT, "%s: tensor %s of %" PRId64 " rows of %zu bytes does not fit into the file", f->file,
                       t->name, rows, bytes);
    t->bytes = bytes * (size_t)rows;
    return QN_OK;
}

/* --- open and close */
static void sift(int32_t *heap, int32_t n, int32_t i, const qn_gguf_tensor *t)
{
    const int32_t id = heap[i];
    for (int32_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && strcmp(t[heap[child + 1]].name, t[heap[child]].name) > 0) child++;
        if (strcmp(t[heap[child]].name, t[id].name) <= 0) break;
        heap[i] = heap[child];
    }
    heap[i] = id;
}

/* Names in order, each once. */
static qn_status sort_names(qn_gguf *f, qn_err *err)
{
    const int32_t n = f->tensors;
    for (int32_t i = 0; i < n; i++) f->by_name[i] = i;
    for (int32_t i = n / 2 - 1; i >= 0; i--) sift(f->by_name, n, i, f->tensor);
    for (int32_t last = n - 1; last > 0; last--) {
        const int32_t top = f->by_name[0];
        f->by_name[0] = f->by_name[last];
        f->by_name[last] = top;
        sift(f->by_name, last, 0, f->tensor);
    }
    for (int32_t i = 0; i + 1 < n; i++)
        if (strcmp(f->tensor[f->by_name[i]].name, f->tensor[f->by_name[i + 1]].name) == 0)
            return QN_FAIL(err, QN_EFORMAT, "%s: two tensors are called %s", f->file, f->tensor[f->by_name[i]].name);
    return QN_OK;
}

static qn_status read_counts(qn_gguf *f, qn_cursor *c, qn_err *err)
{
    const char *magic = qn_cursor_take(c, 4);
    if (magic == NULL || memcmp(magic, "GGUF", 4) != 0) return QN_FAIL(err, QN_EFORMAT, "%s does not begin with GGUF", f->file);
    const uint32_t version = qn_cursor_u32(c);
    if (!c->failed && version != 2 && version != 3)
        return QN_FAIL(err, QN_EUNSUPPORTED, "%s is GGUF version %" PRIu32 "; 2 and 3, little endian, are read", f->file,
                       version);
    const uint64_t tensors = qn_cursor_u64(c), keys = qn_cursor_u64(c);
    if (c->failed) return cut_short(f, "its header", err);
    /* a tensor takes at least 24 bytes of header, a key 12 */
    if (tensors > MAX_TENSORS || keys > MAX_KEYS || tensors > qn_cursor_left(c) / 24 || keys > qn_cursor_left(c) / 12)
        return QN_FAIL(err, QN_EFORMAT, "%s claims %" PRIu64 " tensors and %" PRIu64 " keys, which its %zu bytes cannot hold",
                       f->file, tensors, keys, qn_cursor_left(c));
    f->value = qn_calloc((size_t)keys + 1, sizeof(*f->value));
    f->tensor = qn_calloc((size_t)tensors + 1, sizeof(*f->tensor));
    f->by_name = qn_calloc((size_t)tensors + 1, sizeof(*f->by_name));
    if (f->value == NULL || f->tensor == NULL || f->by_name == NULL)
        return QN_FAIL(err, QN_ENOMEM, "no memory for %" PRIu64 " tensors and %" PRIu64 " keys", tensors, keys);
    f->values = (int64_t)keys;
    f->tensors = (int32_t)tensors;
    return QN_OK;
}

/* Bytes that the names will take with a NUL each: the cursor is a copy. */
static size_t names_bytes(const qn_gguf *f, qn_cursor c)
{
    size_t n = 1;
    for (int32_t i = 0; i < f->tensors; i++) {
        qn_gguf_text name;
        if (!take_text(&name, &c)) return n;
        n += name.bytes + 1;
        const uint32_t dims = qn_cursor_u32(&c);
        if (c.failed || dims > MAX_DIMS || qn_cursor_take(&c, (size_t)dims * 8 + 12) == NULL) return n;
    }
    return n;
}

static qn_status read_tensors(qn_gguf *f, qn_cursor *c, const uint8_t *begin, qn_err *err)
{
    qn_status st = QN_OK;
    int64_t align = 32;
    uint64_t *offset = qn_calloc((size_t)f->tensors + 1, sizeof(*offset));
    char *names = f->names = qn_calloc(names_bytes(f, *c), 1);
    if (offset == NULL || names == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "no memory for the names of %d tensors", f->tensors);
        goto out;
    }
    for (int32_t i = 0; i < f->tensors; i++) QN_TRY(st, read_tensor(f, &f->tensor[i], &offset[i], &names, c, err), out);
    if (qn_gguf_has(f, "general.alignment") &&
        (!qn_gguf_integer(&align, f, "general.alignment") || align < 1 || align > MAX_ALIGN || (align & (align - 1)) != 0)) {
        st = QN_FAIL(err, QN_EFORMAT, "%s: general.alignment is %" PRId64 "; a power of two up to %d is wanted", f->file, align,
                     MAX_ALIGN);
        goto out;
    }
    const size_t padding = (size_t)(-(c->at - begin) & (align - 1));
    const uint8_t *data = padding <= qn_cursor_left(c) ? c->at + padding : c->end; /* a file without tensors may end here */
    for (int32_t i = 0; i < f->tensors; i++)
        QN_TRY(st, place_tensor(f, &f->tensor[i], offset[i], (uint64_t)align, data, err), out);
    st = sort_names(f, err);
out:
    qn_free(offset);
    return st;
}

static qn_status read_all(qn_gguf *f, const void *data, size_t bytes, qn_err *err)
{
    qn_cursor c = qn_cursor_of(data, bytes);
    f->end = c.end;
    qn_status st = read_counts(f, &c, err);
    for (int64_t i = 0; st == QN_OK && i < f->values; i++) st = read_value(f, &f->value[i], &c, err);
    return st == QN_OK ? read_tensors(f, &c, data, err) : st;
}

qn_status qn_gguf_open_memory(qn_gguf **out, const void *data, size_t bytes, const char *name, qn_err *err)
{
    *out = NULL;
    qn_gguf *f = qn_calloc(1, sizeof(*f));
    if (f == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for a GGUF handle");
    f->file = name;
    const qn_status st = read_all(f, bytes > 0 ? data : "", bytes, err);
    if (st == QN_OK)
        *out = f;
    else
        qn_gguf_close(f);
    return st;
}

qn_status qn_gguf_open(qn_gguf **out, const char *path, qn_err *err)
{
    qn_map map;
    const size_t n = strlen(path) + 1;
    *out = NULL;
    qn_status st = qn_map_open(&map, path, err);
    if (st != QN_OK) return st;
    st = qn_gguf_open_memory(out, map.data, map.bytes, path, err);
    if (st == QN_OK && ((*out)->file_own = qn_malloc(n, 1)) == NULL) {
        qn_gguf_close(*out);
        *out = NULL;
        st = QN_FAIL(err, QN_ENOMEM, "no memory for a path of %zu bytes", n);
    }
    if (st != QN_OK) {
        qn_map_close(&map);
        return st;
    }
    memcpy((*out)->file_own, path, n);
    (*out)->file = (*out)->file_own;
    (*out)->map = map;
    return QN_OK;
}

void qn_gguf_close(qn_gguf *f)
{
    if (f == NULL) return;
    qn_free(f->value);
    qn_free(f->tensor);
    qn_free(f->by_name);
    qn_free(f->names);
    qn_free(f->file_own);
    qn_map_close(&f->map);
    qn_free(f);
}

bool qn_gguf_is(const char *path)
{
    qn_map map;
    if (qn_path_exists(path) != 1 || qn_map_open(&map, path, NULL) != QN_OK) return false;
    const bool is = map.bytes >= 4 && memcmp(map.data, "GGUF", 4) == 0;
    qn_map_close(&map);
    return is;
}

/* --- tensors */
int32_t qn_gguf_tensors(const qn_gguf *f)
{
    return f->tensors;
}

const qn_gguf_tensor *qn_gguf_tensor_at(const qn_gguf *f, int32_t i)
{
    return i >= 0 && i < f->tensors ? &f->tensor[i] : NULL;
}

const qn_gguf_tensor *qn_gguf_find(const qn_gguf *f, const char *name)
{
    int32_t low = 0, high = f->tensors;
    while (low < high) {
        const int32_t mid = low + (high - low) / 2, at = f->by_name[mid], c = strcmp(name, f->tensor[at].name);
        if (c == 0) return &f->tensor[at];
        if (c < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

static uint16_t half_at(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

/* Element i < 32 of a block. */
static float block_element(const uint8_t *block, int32_t type, int64_t i)
{
    const float scale = qn_f16_to_f32(half_at(block));
    if (type == T_Q8_0) return scale * (float)(int8_t)block[2 + i];
    const uint8_t two = block[2 + i % 16];
    return scale * (float)((i < 16 ? two & 15 : two >> 4) - 8);
}

static float element(const qn_gguf_tensor *t, int64_t i)
{
    float x;
    switch (t->type) {
    case T_F32:
        memcpy(&x, t->data + i * 4, sizeof(x));
        return x;
    case T_F16:
        return qn_f16_to_f32(half_at(t->data + i * 2));
    case T_BF16:
        return qn_bf16_to_f32(half_at(t->data + i * 2));
    default:
        return block_element(t->data + i / BLOCK * (t->type == T_Q8_0 ? 34 : 18), t->type, i % BLOCK);
    }
}

qn_status qn_gguf_read_f32(float *out, const qn_gguf_tensor *t, int64_t first, int64_t count, qn_err *err)
{
    if (row_bytes(t->type, t->shape.dim[t->shape.rank - 1]) == 0 && t->count > 0)
        return QN_FAIL(err, QN_EUNSUPPORTED,
                       "tensor %s is %s (type %d, rows of %" PRId64 "); F32, F16, BF16, Q8_0 and Q4_0 are read", t->name,
                       t->type_name, (int)t->type, t->shape.dim[t->shape.rank - 1]);
    if (first < 0 || count < 0 || first > t->count || count > t->count - first)
        return QN_FAIL(err, QN_ERANGE, "tensor %s has %" PRId64 " elements; %" PRId64 " from %" PRId64 " are asked for", t->name,
                       t->count, count, first);
    for (int64_t i = 0; i < count; i++) out[i] = element(t, first + i);
    return QN_OK;
}

/* --- metadata */
static uint64_t little(const uint8_t *p, int n)
{
    uint64_t u = 0;
    for (int i = 0; i < n; i++) u |= (uint64_t)p[i] << 8 * i;
    return u;
}

static bool integer_at(int64_t *out, uint32_t type, const uint8_t *p)
{
    switch (type) {
    case U8:
    case BOOL:
    case U16:
    case U32:
    case U64: {
        const uint64_t u = little(p, value_bytes[type]);
        *out = (int64_t)u;
        return u <= INT64_MAX;
    }
    case I8:
        *out = (int8_t)p[0];
        return true;
    case I16:
        *out = (int16_t)little(p, 2);
        return true;
    case I32:
        *out = (int32_t)little(p, 4);
        return true;
    case I64:
        *out = (int64_t)little(p, 8);
        return true;
    default:
        return false;
    }
}

static bool real_at(double *out, uint32_t type, const uint8_t *p)
{
    if (type == F32) {
        const uint32_t u = (uint32_t)little(p, 4);
        float x;
        memcpy(&x, &u, sizeof(x));
        *out = x;
        return true;
    }
    if (type == F64) {
        const uint64_t u = little(p, 8);
        memcpy(out, &u, sizeof(*out));
        return true;
    }
    int64_t i = 0;
    const bool is = integer_at(&i, type, p);
    *out = (double)i;
    return is;
}

bool qn_gguf_has(const qn_gguf *f, const char *key)
{
    return find_value(f, key) != NULL;
}

bool qn_gguf_integer(int64_t *out, const qn_gguf *f, const char *key)
{
    const gguf_value *v = find_value(f, key);
    return v != NULL && v->type != ARRAY && integer_at(out, v->type, v->at);
}

bool qn_gguf_real(double *out, const qn_gguf *f, const char *key)
{
    const gguf_value *v = find_value(f, key);
    return v != NULL && v->type != ARRAY && real_at(out, v->type, v->at);
}

bool qn_gguf_text_of(qn_gguf_text *out, const qn_gguf *f, const char *key)
{
    const gguf_value *v = find_value(f, key);
    if (v == NULL || v->type != TEXT) return false;
    *out = (qn_gguf_text){.at = (const char *)v->at + 8, .bytes = (size_t)little(v->at, 8)};
    return true;
}

int64_t qn_gguf_array(const qn_gguf *f, const char *key)
{
    const gguf_value *v = find_value(f, key);
    return v != NULL && v->type == ARRAY ? v->count : -1;
}

bool qn_gguf_array_text(qn_gguf_text *out, qn_gguf *f, const char *key, int64_t i)
{
    const gguf_value *v = f->walk.of != NULL && same_key(&f->walk.of->key, key) ? f->walk.of : find_value(f, key);
    if (v == NULL || v->type != ARRAY || v->of != TEXT || i < 0 || i >= v->count) return false;
    if (f->walk.of != v || f->walk.next > i) {
        f->walk.of = v;
        f->walk.next = 0;
        f->walk.at = v->at;
    }
    for (;; f->walk.next++) { /* lengths were checked when the file was opened */
        const size_t n = (size_t)little(f->walk.at, 8);
        *out = (qn_gguf_text){.at = (const char *)f->walk.at + 8, .bytes = n};
        f->walk.at += 8 + n;
        if (f->walk.next == i) break;
    }
    f->walk.next++;
    return true;
}

bool qn_gguf_array_integer(int64_t *out, const qn_gguf *f, const char *key, int64_t i)
{
    const gguf_value *v = find_value(f, key);
    return v != NULL && v->type == ARRAY && i >= 0 && i < v->count && v->of != TEXT &&
           integer_at(out, v->of, v->at + i * value_bytes[v->of]);
}

bool qn_gguf_array_real(double *out, const qn_gguf *f, const char *key, int64_t i)
{
    const gguf_value *v = find_value(f, key);
    return v != NULL && v->type == ARRAY && i >= 0 && i < v->count && v->of != TEXT &&
           real_at(out, v->of, v->at + i * value_bytes[v->of]);
}
