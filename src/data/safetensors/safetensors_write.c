/* Writing safetensors: layout first (header and offsets of every file), then the bytes in the declared order, a block at a time.
 * The header is what the safetensors library writes: compact JSON, "__metadata__" first, padded with blanks to a multiple of 8.
 */
#include "data/safetensors/safetensors_internal.h"

#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/io.h"
#include "core/team.h"
#include "data/text/text.h"

enum { BLOCK = 1 << 16, THREADS = 2 /* copying keeps ahead of the disk with two */, MANY = 1 << 16 /* elements */ };
static const size_t LONG = (size_t)16 << 20; /* bytes that are worth a thread */

typedef struct writing {
    const char *dir, *base;
    const qn_tensor_desc *tensor;
    int32_t count;
    size_t *bytes; /* [count] of each tensor */
    int32_t *file; /* [count] its file */
    int32_t files;
    qn_tensor_fill_fn *fill;
    void *ctx;
    qn_team *team; /* NULL: the caller alone */
} writing;

/* Elements of one tensor that the threads of the team fill in, each an equal part. */
typedef struct filling {
    const writing *w;
    int32_t i;
    int64_t first, count, size;
    char *to;
    struct {
        qn_status st;
        qn_err err;
    } outcome[THREADS];
} filling;

/* Sizes, and the tensors spread over files: a file ends when the next tensor would make it larger than shard_bytes. */
static qn_status lay_out(writing *w, size_t shard_bytes, size_t *total, qn_err *err)
{
    size_t in_file = 0, all = 0;
    w->files = 1;
    for (int32_t i = 0; i < w->count; i++) {
        const qn_tensor_desc *t = &w->tensor[i];
        int64_t n;
        if (qni_safetensors_type(t->dtype) == NULL || t->shape.rank < 0 || t->shape.rank > QN_MAX_RANK || t->name[0] == '\0' ||
            qn_utf8_check(t->name, strlen(t->name)) >= 0 || strcmp(t->name, "__metadata__") == 0)
            return QN_FAIL(err, QN_EINVAL, "tensor %" PRId32 " ('%.64s') has no name or no type that safetensors can hold", i,
                           t->name);
        if (!qn_shape_count(&n, &t->shape) || !qn_mul_size(&w->bytes[i], (size_t)n, qn_dtype_bytes(t->dtype)) ||
            !qn_add_size(&all, all, w->bytes[i]))
            return QN_FAIL(err, QN_ERANGE, "tensor %s has more bytes than can be addressed", t->name);
        if (shard_bytes > 0 && in_file > 0 && w->bytes[i] > shard_bytes - (in_file < shard_bytes ? in_file : shard_bytes)) {
            w->files++;
            in_file = 0;
        }
        in_file += w->bytes[i];
        w->file[i] = w->files - 1;
    }
    *total = all;
    return QN_OK;
}

static qn_status file_name(char *buf, size_t cap, const writing *w, int32_t file, qn_err *err)
{
    const int n = w->files == 1
                      ? snprintf(buf, cap, "%s.safetensors", w->base)
                      : snprintf(buf, cap, "%s-%05" PRId32 "-of-%05" PRId32 ".safetensors", w->base, file + 1, w->files);
    return n < 0 || (size_t)n >= cap ? QN_FAIL(err, QN_ERANGE, "the file name %s is too long", w->base) : QN_OK;
}

static qn_status put_header(qn_writer *out, const writing *w, int32_t file, qn_err *err)
{
    static const char blanks[8] = {' ', ' ', ' ', ' ', ' ', ' ', ' ', ' '};
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    size_t at = 0;
    bool twin = false;
    for (int32_t i = 0; i < w->count; i++) {
        const qn_tensor_desc *t = &w->tensor[i];
        if (w->file[i] != file) continue;
        json_t *shape = json_array();
        for (int32_t d = 0; d < t->shape.rank; d++) json_array_append_new(shape, json_integer(t->shape.dim[d]));
        json_t *o = json_pack("{s:s, s:o, s:[I, I]}", "dtype", qni_safetensors_type(t->dtype), "shape", shape, "data_offsets",
                              (json_int_t)at, (json_int_t)(at + w->bytes[i]));
        twin = twin || json_object_get(root, t->name) != NULL;
        if (json_object_set_new(root, t->name, o) != 0) {
            json_decref(root);
            root = NULL;
        }
        at += w->bytes[i];
    }
    char *text = root == NULL ? NULL : json_dumps(root, JSON_COMPACT);
    json_decref(root);
    if (text == NULL || twin) {
        free(text); /* jansson's, not ours */
        return twin ? QN_FAIL(err, QN_EINVAL, "two tensors have one name")
                    : QN_FAIL(err, QN_ENOMEM, "no memory for a safetensors header");
    }
    const size_t n = strlen(text), padded = (n + 7) / 8 * 8;
    uint8_t length[8];
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)((uint64_t)padded >> 8 * i);
    qn_writer_put(out, length, sizeof(length));
    qn_writer_put(out, text, n);
    qn_writer_put(out, blanks, padded - n);
    free(text); /* jansson's, not ours */
    return QN_OK;
}

static void fill_part(void *ctx, int32_t thread, int32_t threads)
{
    filling *f = ctx;
    int64_t begin, end;
    qn_split(&begin, &end, f->count, 1024, thread, threads);
    if (begin < end)
        f->outcome[thread].st =
            f->w->fill(f->w->ctx, f->i, f->first + begin, end - begin, f->to + begin * f->size, &f->outcome[thread].err);
}

static qn_status fill_all(const writing *w, int32_t i, int64_t first, int64_t count, void *to, qn_err *err)
{
    if (w->team == NULL || count < MANY) return w->fill(w->ctx, i, first, count, to, err);
    filling f = {.w = w, .i = i, .first = first, .count = count, .size = (int64_t)qn_dtype_bytes(w->tensor[i].dtype), .to = to};
    qn_team_run(w->team, fill_part, &f);
    for (int32_t k = 0; k < THREADS; k++) {
        if (f.outcome[k].st == QN_OK) continue;
        if (err != NULL) *err = f.outcome[k].err;
        return f.outcome[k].st;
    }
    return QN_OK;
}

/* Elements go straight into the writer's buffers, where these are aligned for them. */
static qn_status put_tensor(qn_writer *out, const writing *w, int32_t i, void *block, qn_err *err)
{
    const int64_t size = (int64_t)qn_dtype_bytes(w->tensor[i].dtype), count = (int64_t)w->bytes[i] / size;
    qn_status st = QN_OK;
    for (int64_t first = 0; first < count && st == QN_OK;) {
        size_t room;
        void *to = qn_writer_room(out, &room);
        const bool straight = room >= (size_t)size && (uintptr_t)to % (size_t)size == 0;
        const int64_t n = qn_min64(straight ? (int64_t)room / size : BLOCK / size, count - first);
        st = fill_all(w, i, first, n, straight ? to : block, err);
        if (st == QN_OK && straight) qn_writer_filled(out, (size_t)(n * size));
        if (st == QN_OK && !straight) qn_writer_put(out, block, (size_t)(n * size));
        first += n;
    }
    return st;
}

static qn_status write_file(const writing *w, int32_t file, void *block, qn_err *err)
{
    char name[NAME_MAX], path[PATH_MAX];
    qn_writer *out = NULL;
    qn_status st = file_name(name, sizeof(name), w, file, err);
    if (st == QN_OK) st = qn_path_join(path, sizeof(path), w->dir, name, err);
    if (st == QN_OK) st = qn_writer_open(&out, path, err);
    if (st != QN_OK) return st;
    st = put_header(out, w, file, err);
    for (int32_t i = 0; i < w->count && st == QN_OK; i++)
        if (w->file[i] == file) st = put_tensor(out, w, i, block, err);
    if (st == QN_OK) return qn_writer_commit(out, err);
    qn_writer_abort(out);
    return st;
}

static qn_status write_index(const writing *w, size_t total, qn_err *err)
{
    char name[NAME_MAX], path[PATH_MAX];
    json_t *map = json_object(),
           *root = json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    qn_status st = QN_OK;
    for (int32_t i = 0; i < w->count && st == QN_OK; i++) {
        st = file_name(name, sizeof(name), w, w->file[i], err);
        if (st == QN_OK && json_object_get(map, w->tensor[i].name) != NULL)
            st = QN_FAIL(err, QN_EINVAL, "two tensors are named %s", w->tensor[i].name);
        if (st == QN_OK && json_object_set_new(map, w->tensor[i].name, json_string(name)) != 0)
            st = QN_FAIL(err, QN_ENOMEM, "no memory for the index of %s", w->base);
    }
    char *text = st == QN_OK ? json_dumps(root, JSON_INDENT(2)) : NULL;
    if (st == QN_OK && text == NULL) st = QN_FAIL(err, QN_ENOMEM, "no memory for the index of %s", w->base);
    const int n = snprintf(name, sizeof(name), "%s.safetensors.index.json", w->base);
    if (st == QN_OK && (n < 0 || (size_t)n >= sizeof(name)))
        st = QN_FAIL(err, QN_ERANGE, "the file name %s is too long", w->base);
    if (st == QN_OK) st = qn_path_join(path, sizeof(path), w->dir, name, err);
    if (st == QN_OK) st = qn_file_write(path, text, strlen(text), err);
    free(text); /* jansson's, not ours */
    json_decref(map);
    json_decref(root);
    return st;
}

qn_status qn_safetensors_write(const char *dir, const char *base, const qn_tensor_desc *tensor, int32_t count, size_t shard_bytes,
                               qn_tensor_fill_fn *fill, void *ctx, qn_err *err)
{
    writing w = {.dir = dir, .base = base, .tensor = tensor, .count = count, .fill = fill, .ctx = ctx};
    size_t total = 0;
    void *block = qn_malloc(BLOCK, 1);
    w.bytes = qn_calloc((size_t)count + 1, sizeof(*w.bytes));
    w.file = qn_calloc((size_t)count + 1, sizeof(*w.file));
    qn_status st = QN_OK;
    if (block == NULL || w.bytes == NULL || w.file == NULL)
        st = QN_FAIL(err, QN_ENOMEM, "no memory for writing %" PRId32 " tensors", count);
    if (st == QN_OK) st = lay_out(&w, shard_bytes, &total, err);
    if (st == QN_OK && total >= LONG) st = qn_team_open(&w.team, THREADS, -1, err);
    for (int32_t f = 0; f < w.files && st == QN_OK; f++) st = write_file(&w, f, block, err);
    if (st == QN_OK && w.files > 1) st = write_index(&w, total, err);
    qn_team_close(w.team);
    qn_free(block);
    qn_free(w.bytes);
    qn_free(w.file);
    return st;
}
