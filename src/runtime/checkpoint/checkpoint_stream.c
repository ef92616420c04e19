/* Tensors out of their files, by several threads: each takes the next piece of the list, reads it into memory of its own and
 * brings it to its place, so that while some wait for the disk the others copy, convert or transpose. Pieces have no parts in
 * common, so nothing depends on who takes which. */
#include "checkpoint_stream.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "checkpoint_tile.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "core/io.h"
#include "core/team.h"

enum { PIECE = 1 << 20 /* elements */, THREADS = 4 /* two copy while two wait for the disk */ };

typedef struct piece {
    const qni_stream_item *item;
    const qn_reader *file;
    int64_t first, count; /* elements in the file's order; of a transposed tensor whole rows */
} piece;

typedef struct stream {
    piece *piece;
    int64_t pieces, most; /* most: elements of the largest */
    qn_reader **file;     /* [files] */
    int32_t files;
    char *room; /* [threads][room_bytes]: a piece as the file has it, and in f32 */
    size_t raw_bytes, room_bytes;
    atomic_llong next;
    struct {
        qn_status st;
        qn_err err;
    } outcome[THREADS];
} stream;

static int by_place(const void *x, const void *y)
{
    const qn_tensor_view *a = ((const qni_stream_item *)x)->tensor, *b = ((const qni_stream_item *)y)->tensor;
    const int file = a->path == b->path ? 0 : strcmp(a->path, b->path);
    return file != 0 ? file : (a->offset > b->offset) - (a->offset < b->offset);
}

/* --- one piece */

static qn_status move_piece(const piece *p, void *raw, float *band, qn_err *err)
{
    const qni_stream_item *item = p->item;
    const qn_tensor_view *t = item->tensor;
    const size_t size = qn_dtype_bytes(t->dtype);
    qn_tensor_view part = {.name = t->name, .dtype = t->dtype, .type = t->type, .bytes = (size_t)p->count * size};
    qn_status st = qn_reader_get(&part.data, p->file, raw, t->offset + (uint64_t)p->first * size, part.bytes, err);
    if (st != QN_OK || item->O == 0) return st != QN_OK ? st : qn_tensor_read_f32(item->to + p->first, &part, 0, p->count, err);
    const float *from = band;
    if (t->dtype == QN_F32 && (uintptr_t)part.data % sizeof(float) == 0)
        from = part.data;
    else
        st = qn_tensor_read_f32(band, &part, 0, p->count, err);
    const int64_t O = item->O, I = item->I, begin = p->first / O, rows = p->count / O;
    for (int64_t r = 0; r < rows && st == QN_OK; r += QNI_TILE)
        for (int64_t o = 0; o < O; o += QNI_TILE)
            qni_copy_tile(item->to + o * I + begin + r, I, from + r * O + o, O, qn_min64(QNI_TILE, O - o),
                          qn_min64(QNI_TILE, rows - r));
    return st;
}

static void work(void *ctx, int32_t thread, int32_t threads)
{
    stream *s = ctx;
    char *room = s->room + (size_t)thread * s->room_bytes;
    (void)threads;
    for (;;) {
        const int64_t i = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed);
        if (i >= s->pieces) return;
        s->outcome[thread].st = move_piece(&s->piece[i], room, (float *)(void *)(room + s->raw_bytes), &s->outcome[thread].err);
        if (s->outcome[thread].st == QN_OK) continue;
        atomic_store_explicit(&s->next, s->pieces, memory_order_relaxed); /* nobody begins another */
        return;
    }
}

/* --- the list */

static int64_t piece_elements(const qni_stream_item *item)
{
    const int64_t band = item->O * QNI_TILE;
    return band == 0 ? PIECE : qn_max64(PIECE / band, 1) * band;
}

static int64_t elements(const qni_stream_item *item)
{
    return (int64_t)(item->tensor->bytes / qn_dtype_bytes(item->tensor->dtype));
}

static qn_status list_pieces(stream *s, const qni_stream_item *item, int32_t items, qn_err *err)
{
    int64_t n = 0;
    for (int32_t i = 0; i < items; i++) n += elements(&item[i]) / piece_elements(&item[i]) + 1;
    s->piece = qn_calloc((size_t)n, sizeof(*s->piece));
    s->file = qn_calloc((size_t)items, sizeof(*s->file));
    if (s->piece == NULL || s->file == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for a list of %lld pieces", (long long)n);
    for (int32_t i = 0; i < items; i++) {
        const bool same = i > 0 && strcmp(item[i].tensor->path, item[i - 1].tensor->path) == 0;
        const qn_status st = same ? QN_OK : qn_reader_open(&s->file[s->files], item[i].tensor->path, err);
        if (st != QN_OK) return st;
        s->files += !same;
        const int64_t all = elements(&item[i]), step = piece_elements(&item[i]);
        for (int64_t first = 0; first < all; first += step) {
            const int64_t count = qn_min64(step, all - first);
            s->piece[s->pieces++] = (piece){.item = &item[i], .file = s->file[s->files - 1], .first = first, .count = count};
            s->most = qn_max64(s->most, count);
        }
    }
    return QN_OK;
}

static qn_status run(stream *s, qn_err *err)
{
    enum { PAGE = 4096 };
    const int32_t threads = (int32_t)qn_min64(THREADS, qn_max64(s->pieces, 1));
    qn_team *team = NULL;
    s->raw_bytes = (qn_reader_room((size_t)s->most * sizeof(double)) + PAGE - 1) / PAGE * PAGE;
    s->room_bytes = (s->raw_bytes + (size_t)s->most * sizeof(float) + PAGE - 1) / PAGE * PAGE;
    s->room = qn_alloc_pages((size_t)threads * s->room_bytes); /* what a thread does not need is never touched */
    if (s->room == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for reading pieces of %lld elements", (long long)s->most);
    qn_status st = threads > 1 ? qn_team_open(&team, threads, -1, err) : QN_OK;
    if (st == QN_OK && team != NULL) qn_team_run(team, work, s);
    if (st == QN_OK && team == NULL) work(s, 0, 1);
    qn_team_close(team);
    qn_free_pages(s->room, (size_t)threads * s->room_bytes);
    for (int32_t i = 0; st == QN_OK && i < threads; i++) {
        st = s->outcome[i].st;
        if (st != QN_OK && err != NULL) *err = s->outcome[i].err;
    }
    return st;
}

qn_status qni_stream_tensors(qni_stream_item *item, int32_t items, qn_err *err)
{
    stream s = {.most = 0};
    if (items == 0) return QN_OK;
    qsort(item, (size_t)items, sizeof(*item), by_place);
    qn_status st = list_pieces(&s, item, items, err);
    if (st == QN_OK) st = run(&s, err);
    for (int32_t i = 0; i < s.files; i++) qn_reader_close(s.file[i]);
    qn_free(s.file);
    qn_free(s.piece);
    return st;
}
