/* Writing a file that appears whole or not at all.
 *
 *   open -> (put | room, filled)* -> commit: flush, sync, close, rename, sync of the directory
 *                                 -> abort:  close, remove the temporary file
 * Until the rename, what was at the path is untouched; after it, the new file is whole.
 *
 * The bytes go through buffers that the caller fills and, once the first one of 4 MiB is full, a thread empties:
 *
 *   caller:  fills piece[put % PIECES]; full: put + 1, waits while put - done == PIECES
 *   thread:  waits for put > done; writes piece[done % PIECES]; done + 1
 *
 * The thread writes whole pieces alone, so that all of its writes are aligned in memory and in the file; what is left at the end
 * the caller writes at commit, the last part of a block through the cache. The thread takes any core: whoever writes a checkpoint
 * may be bound to one. `failed` is the first errno; afterwards pieces are passed over. The mutex guards put, done, failed, end.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "io.h"
#include "io_calls.h"
#include "team.h"

enum { FIRST = 1 << 16, PIECE = 4 << 20, PIECES = 4 };

struct qn_writer {
    char *path, *tmp;
    int fd;
    int failed; /* errno of the first failure */
    char *at;   /* the buffer that is being filled: first, or a piece */
    size_t used, room;
    char *piece; /* [PIECES][PIECE] once more than FIRST bytes have come */
    uint64_t put, done;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t moved;
    bool threaded, end;
    _Alignas(64) char first[FIRST];
};

static void writer_free(qn_writer *w)
{
    pthread_cond_destroy(&w->moved);
    pthread_mutex_destroy(&w->mutex);
    qn_free_pages(w->piece, (size_t)PIECE * PIECES);
    qn_free(w->path);
    qn_free(w->tmp);
    qn_free_pages(w, sizeof(*w));
}

qn_status qn_writer_open(qn_writer **out, const char *path, qn_err *err)
{
    *out = NULL;
    qn_writer *w = qn_alloc_pages(sizeof(*w));
    const size_t n = strlen(path);
    if (w == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for writing %s", path);
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->moved, NULL);
    w->at = w->first;
    w->room = FIRST;
    w->path = qn_strdup(path);
    w->tmp = qn_malloc(n + sizeof(".tmp"), 1);
    if (w->path == NULL || w->tmp == NULL) {
        writer_free(w);
        return QN_FAIL(err, QN_ENOMEM, "no memory for writing %s", path);
    }
    memcpy(w->tmp, path, n);
    memcpy(w->tmp + n, ".tmp", sizeof(".tmp"));
    w->fd = qni_open(w->tmp, O_WRONLY | O_CREAT | O_TRUNC);
    if (w->fd < 0) {
        const qn_status st = QN_FAIL(err, QN_EIO, "cannot create %s: %s", w->tmp, strerror(errno));
        writer_free(w);
        return st;
    }
    *out = w;
    return QN_OK;
}

static void *write_pieces(void *arg)
{
    qn_writer *w = arg;
    qn_team_pin_self(-1);
    pthread_mutex_lock(&w->mutex);
    for (;;) {
        while (w->done == w->put && !w->end) pthread_cond_wait(&w->moved, &w->mutex);
        if (w->done == w->put) break;
        if (w->failed == 0) {
            const char *from = w->piece + w->done % PIECES * PIECE;
            pthread_mutex_unlock(&w->mutex);
            const int failed = qni_write_all(w->fd, from, PIECE) < 0 ? errno : 0;
            pthread_mutex_lock(&w->mutex);
            if (w->failed == 0) w->failed = failed;
        }
        w->done++;
        pthread_cond_signal(&w->moved);
    }
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}

/* The piece that is full is on its way; the next one becomes the caller's. Without a thread the caller writes it. */
static void send_piece(qn_writer *w)
{
    if (w->put == 0) {
        (void)qni_set_direct(w->fd, true); /* a file system that cannot: through the cache */
        w->threaded = pthread_create(&w->thread, NULL, write_pieces, w) == 0;
    }
    if (w->threaded) {
        pthread_mutex_lock(&w->mutex);
        w->put++;
        pthread_cond_signal(&w->moved);
        while (w->put - w->done == PIECES) pthread_cond_wait(&w->moved, &w->mutex);
        pthread_mutex_unlock(&w->mutex);
    } else {
        if (w->failed == 0 && qni_write_all(w->fd, w->at, PIECE) < 0) w->failed = errno;
        w->done = ++w->put;
    }
    w->at = w->piece + w->put % PIECES * PIECE;
    w->used = 0;
}

/* The first buffer is full: on to pieces, with what it holds. */
static void outgrow(qn_writer *w)
{
    w->piece = qn_alloc_pages((size_t)PIECE * PIECES);
    if (w->piece == NULL) {
        w->failed = ENOMEM;
        w->used = 0;
        return;
    }
    memcpy(w->piece, w->first, w->used);
    w->at = w->piece;
    w->room = PIECE;
}

void *qn_writer_room(qn_writer *w, size_t *bytes)
{
    if (w->used == w->room && w->piece != NULL)
        send_piece(w);
    else if (w->used == w->room)
        outgrow(w);
    *bytes = w->room - w->used;
    return w->at + w->used;
}

void qn_writer_filled(qn_writer *w, size_t bytes)
{
    w->used += bytes;
}

void qn_writer_put(qn_writer *w, const void *data, size_t bytes)
{
    for (const char *from = data; bytes > 0;) {
        size_t n;
        char *to = qn_writer_room(w, &n);
        if (n > bytes) n = bytes;
        memcpy(to, from, n);
        w->used += n;
        from += n;
        bytes -= n;
    }
}

/* Waits until the thread has written all pieces, and ends it. */
static void join(qn_writer *w)
{
    if (!w->threaded) return;
    pthread_mutex_lock(&w->mutex);
    w->end = true;
    pthread_cond_signal(&w->moved);
    pthread_mutex_unlock(&w->mutex);
    pthread_join(w->thread, NULL);
    w->threaded = false;
}

static int write_rest(qn_writer *w)
{
    const size_t blocks = w->put > 0 ? w->used / QNI_DIRECT_GRAIN * QNI_DIRECT_GRAIN : 0;
    if (qni_write_all(w->fd, w->at, blocks) < 0) return -1;
    if (w->put > 0) (void)qni_set_direct(w->fd, false);
    return qni_write_all(w->fd, w->at + blocks, w->used - blocks);
}

qn_status qn_writer_commit(qn_writer *w, qn_err *err)
{
    join(w);
    if (w->failed == 0 && write_rest(w) < 0) w->failed = errno;
    if (w->failed == 0 && qni_sync_data(w->fd) < 0) w->failed = errno;
    if (close(w->fd) < 0 && w->failed == 0 && errno != EINTR) w->failed = errno;
    w->fd = -1;
    if (w->failed != 0) {
        const qn_status st = QN_FAIL(err, w->failed == ENOMEM ? QN_ENOMEM : QN_EIO,
                                     "cannot write %s: %s; what was there is unchanged", w->path, strerror(w->failed));
        qn_writer_abort(w);
        return st;
    }
    if (qni_rename(w->tmp, w->path, 0) < 0) {
        const qn_status st = QN_FAIL(err, QN_EIO, "cannot rename %s to %s: %s", w->tmp, w->path, strerror(errno));
        qn_writer_abort(w);
        return st;
    }
    qn_status st = QN_OK;
    if (qni_sync_parent(w->path) < 0)
        st = QN_FAIL(err, QN_EIO, "%s is written, but its directory cannot be synced: %s", w->path, strerror(errno));
    writer_free(w);
    return st;
}

void qn_writer_abort(qn_writer *w)
{
    if (w == NULL) return;
    if (w->threaded) {
        pthread_mutex_lock(&w->mutex);
        if (w->failed == 0) w->failed = ECANCELED; /* the pieces that wait are passed over */
        pthread_mutex_unlock(&w->mutex);
    }
    join(w);
    if (w->fd >= 0) close(w->fd);
    unlink(w->tmp);
    writer_free(w);
}

qn_status qn_file_write(const char *path, const void *data, size_t bytes, qn_err *err)
{
    qn_writer *w;
    const qn_status st = qn_writer_open(&w, path, err);
    if (st != QN_OK) return st;
    qn_writer_put(w, data, bytes);
    return qn_writer_commit(w, err);
}
