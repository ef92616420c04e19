/* Parts of a long file, wanted by several threads at once.
 *
 * What the system's cache holds is copied from there; the rest is read past it, in one request into the caller's aligned memory,
 * where the file system can. (Faults of a mapping read a cold file at a sixth of the disk's rate, and buffered reads moved
 * between a fifth and all of it.) Nothing changes after open, so there is nothing to guard. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "alloc.h"
#include "io.h"
#include "io_calls.h"

struct qn_reader {
    char *path;
    int fd, direct; /* direct: -1 where the file system cannot */
    uint64_t bytes;
    qn_map map;
};

qn_status qn_reader_open(qn_reader **out, const char *path, qn_err *err)
{
    struct stat info;
    *out = NULL;
    qn_reader *r = qn_calloc(1, sizeof(*r));
    if (r == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for reading %s", path);
    r->fd = r->direct = -1;
    r->path = qn_strdup(path);
    qn_status st = QN_OK;
    if (r->path == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "no memory for reading %s", path);
    } else if ((r->fd = qni_open(path, O_RDONLY)) < 0) {
        st = QN_FAIL(err, errno == ENOENT || errno == ENOTDIR ? QN_ENOENT : QN_EIO, "cannot open %s: %s", path, strerror(errno));
    } else if (fstat(r->fd, &info) < 0 || !S_ISREG(info.st_mode)) {
        st = QN_FAIL(err, QN_EIO, "%s is no plain file", path);
    } else if ((st = qn_map_open(&r->map, path, err)) == QN_OK) {
        r->bytes = r->map.bytes;
        r->direct = qni_open(path, O_RDONLY | O_DIRECT);
        *out = r;
        return QN_OK;
    }
    qn_reader_close(r);
    return st;
}

void qn_reader_close(qn_reader *r)
{
    if (r == NULL) return;
    if (r->fd >= 0) close(r->fd);
    if (r->direct >= 0) close(r->direct);
    qn_map_close(&r->map);
    qn_free(r->path);
    qn_free(r);
}

/* Whether the cache holds all of these bytes; offset at a page's begin. */
static bool is_cached(const qn_reader *r, uint64_t offset, size_t bytes)
{
    enum { PAGES = 512 };
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char there[PAGES];
    for (size_t done = 0; done < bytes; done += PAGES * page) {
        const size_t left = bytes - done, part = left < PAGES * page ? left : PAGES * page;
        if (mincore((void *)(uintptr_t)(r->map.data + offset + done), part, there) < 0) return false;
        for (size_t i = 0; i < (part + page - 1) / page; i++)
            if ((there[i] & 1) == 0) return false;
    }
    return true;
}

/* Bytes [offset, offset + bytes), offset at a block's begin; room for whole blocks. 0, or an errno. */
static int read_blocks(const qn_reader *r, char *to, uint64_t offset, size_t bytes)
{
    bool past = r->direct >= 0;
    for (size_t done = 0; done < bytes;) {
        past = past && done % QNI_DIRECT_GRAIN == 0;
        const size_t left = bytes - done, blocks = (left + QNI_DIRECT_GRAIN - 1) / QNI_DIRECT_GRAIN * QNI_DIRECT_GRAIN;
        const ssize_t n = pread(past ? r->direct : r->fd, to + done, past ? blocks : left, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EINVAL && past) {
            past = false;
            continue;
        }
        if (n < 0) return errno;
        if (n == 0) return ENODATA; /* the file became shorter */
        done += (size_t)n;
    }
    return 0;
}

size_t qn_reader_room(size_t bytes)
{
    return bytes + 2 * (size_t)QNI_DIRECT_GRAIN;
}

qn_status qn_reader_get(const void **out, const qn_reader *r, void *room, uint64_t offset, size_t bytes, qn_err *err)
{
    const size_t skip = (size_t)(offset % QNI_DIRECT_GRAIN);
    *out = (const char *)room + skip;
    if (offset > r->bytes || bytes > r->bytes - offset)
        return QN_FAIL(err, QN_ERANGE, "%s: %zu bytes at %" PRIu64 " are asked for; it has %" PRIu64, r->path, bytes, offset,
                       r->bytes);
    if (bytes == 0) return QN_OK;
    const bool fault = qni_fault_hit(QN_FAULT_IO) != 0;
    if (!fault && is_cached(r, offset - skip, skip + bytes)) {
        *out = r->map.data + offset;
        return QN_OK;
    }
    const int failed = fault ? EIO : read_blocks(r, room, offset - skip, skip + bytes);
    return failed == 0 ? QN_OK : QN_FAIL(err, QN_EIO, "cannot read %s: %s", r->path, strerror(failed));
}
