/* Files and directories. Every read, write, sync and rename first asks the fault counter, so that tests can make the n-th one
 * fail. Long files have files of their own: writer.c, reader.c. */
#include "io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "alloc.h"
#include "checked.h"
#include "compiler.h"
#include "io_calls.h"

enum { READ_STEP = 1 << 16, TREE_DEPTH = 8 };

/* The system calls, with fault injection and without EINTR; -1 and errno on failure. */
static ssize_t read_some(int fd, void *buf, size_t bytes)
{
    ssize_t n;
    if (qni_fault_hit(QN_FAULT_IO)) {
        errno = EIO;
        return -1;
    }
    do n = read(fd, buf, bytes);
    while (n < 0 && errno == EINTR);
    return n;
}

int qni_write_all(int fd, const char *p, size_t bytes)
{
    while (bytes > 0) {
        if (qni_fault_hit(QN_FAULT_IO)) {
            errno = ENOSPC;
            return -1;
        }
        ssize_t n = write(fd, p, bytes < SSIZE_MAX ? bytes : SSIZE_MAX);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EINVAL && qni_set_direct(fd, false)) continue;
        if (n < 0) return -1;
        p += n;
        bytes -= (size_t)n;
    }
    return 0;
}

bool qni_set_direct(int fd, bool on)
{
    const int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || ((flags & O_DIRECT) != 0) == on) return false;
    return fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
}

int qni_sync_data(int fd)
{
    int r;
    if (qni_fault_hit(QN_FAULT_IO)) {
        errno = EIO;
        return -1;
    }
    do r = fdatasync(fd);
    while (r < 0 && errno == EINTR);
    return r;
}

static int sync_fd(int fd)
{
    int r;
    if (qni_fault_hit(QN_FAULT_IO)) {
        errno = EIO;
        return -1;
    }
    do r = fsync(fd);
    while (r < 0 && errno == EINTR);
    return r;
}

int qni_rename(const char *from, const char *to, unsigned flags)
{
    if (qni_fault_hit(QN_FAULT_IO)) {
        errno = EIO;
        return -1;
    }
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, flags);
}

int qni_open(const char *path, int flags)
{
    int fd;
    do fd = open(path, flags | O_CLOEXEC, 0666);
    while (fd < 0 && errno == EINTR);
    return fd;
}

int qni_sync_parent(const char *path)
{
    char dir[PATH_MAX];
    const char *slash = strrchr(path, '/');
    const size_t n = slash == NULL ? 0 : (size_t)(slash - path);
    if (n >= sizeof(dir)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    if (slash == NULL)
        strcpy(dir, ".");
    else if (n == 0)
        strcpy(dir, "/");
    else {
        memcpy(dir, path, n);
        dir[n] = '\0';
    }
    const int fd = qni_open(dir, O_RDONLY | O_DIRECTORY);
    if (fd < 0) return -1;
    int r = sync_fd(fd);
    if (r < 0 && errno == EINVAL) r = 0; /* a file system that cannot sync directories */
    const int saved = errno;
    close(fd);
    errno = saved;
    return r;
}

static qn_status open_for_reading(int *fd, struct stat *info, const char *path, qn_err *err)
{
    *fd = qni_open(path, O_RDONLY);
    if (*fd < 0)
        return QN_FAIL(err, errno == ENOENT || errno == ENOTDIR ? QN_ENOENT : QN_EIO, "cannot open %s: %s", path,
                       strerror(errno));
    if (fstat(*fd, info) == 0 && !S_ISDIR(info->st_mode)) return QN_OK;
    const qn_status st = S_ISDIR(info->st_mode) ? QN_FAIL(err, QN_EIO, "%s is a directory; a file is needed", path)
                                                : QN_FAIL(err, QN_EIO, "cannot look at %s: %s", path, strerror(errno));
    close(*fd);
    return st;
}

/* Reads until the end of the file into a growing buffer of at most limit + 1 bytes. */
static qn_status read_to_end(char **buf, size_t *used, int fd, size_t hint, const char *path, size_t limit, qn_err *err)
{
    size_t cap = hint;
    for (;;) {
        if (*buf == NULL || *used > cap) {
            char *more = NULL;
            if (*buf == NULL || qn_add_size(&cap, cap, cap / 2 + READ_STEP)) more = qn_realloc(*buf, cap + 1, 1);
            if (more == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for the %zu bytes of %s", cap, path);
            *buf = more;
        }
        /* The terminator's place is read into as well, so that the end of a file of known size is seen without growing. */
        const ssize_t n = read_some(fd, *buf + *used, cap + 1 - *used);
        if (n < 0) return QN_FAIL(err, QN_EIO, "cannot read %s: %s", path, strerror(errno));
        if (n == 0) return QN_OK;
        *used += (size_t)n;
        if (*used > limit) return QN_FAIL(err, QN_ERANGE, "%s is larger than the limit of %zu bytes", path, limit);
    }
}

qn_status qn_file_read(char **out, size_t *bytes, const char *path, size_t limit, qn_err *err)
{
    int fd;
    struct stat info;
    char *buf = NULL;
    size_t used = 0;
    *out = NULL;
    *bytes = 0;
    qn_status st = open_for_reading(&fd, &info, path, err);
    if (st != QN_OK) return st;
    const size_t size = info.st_size > 0 ? (size_t)info.st_size : 0;
    if (size > limit)
        st = QN_FAIL(err, QN_ERANGE, "%s has %zu bytes; at most %zu are accepted", path, size, limit);
    else
        st = read_to_end(&buf, &used, fd, size > 0 ? size : READ_STEP, path, limit, err);
    close(fd);
    if (st == QN_OK) {
        buf[used] = '\0';
        *out = buf;
        *bytes = used;
        buf = NULL;
    }
    qn_free(buf);
    return st;
}

qn_status qn_map_open(qn_map *out, const char *path, qn_err *err)
{
    int fd;
    struct stat info;
    *out = (qn_map){0};
    qn_status st = open_for_reading(&fd, &info, path, err);
    if (st != QN_OK) return st;
    if (info.st_size > 0) {
        const bool fault = qni_fault_hit(QN_FAULT_IO) != 0;
        void *p = fault ? MAP_FAILED : mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            st = QN_FAIL(err, QN_EIO, "cannot map %s: %s", path, strerror(fault ? EIO : errno));
        else
            *out = (qn_map){.data = p, .bytes = (size_t)info.st_size};
    }
    close(fd);
    return st;
}

void qn_map_close(qn_map *m)
{
    if (m->data != NULL) munmap((void *)(uintptr_t)m->data, m->bytes);
    *m = (qn_map){0};
}

void qn_map_want(const void *data, size_t bytes)
{
    const uintptr_t page = 4096, begin = (uintptr_t)data / page * page;
    if (bytes > 0) (void)madvise((void *)begin, (uintptr_t)data + bytes - begin, MADV_WILLNEED);
}

void qn_map_done(const void *data, size_t bytes)
{
    const uintptr_t page = 4096, begin = (uintptr_t)data / page * page;
    if (bytes > 0) (void)madvise((void *)begin, (uintptr_t)data + bytes - begin, MADV_DONTNEED);
}

qn_status qn_make_dirs(const char *path, qn_err *err)
{
    char buf[PATH_MAX];
    const size_t n = strlen(path);
    if (n == 0 || n >= sizeof(buf))
        return QN_FAIL(err, QN_EIO, "'%s' is no usable directory name: it has %zu bytes, 1 to %zu are possible", path, n,
                       sizeof(buf) - 1);
    memcpy(buf, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (buf[i] != '/' && buf[i] != '\0') continue;
        const char end = buf[i];
        buf[i] = '\0';
        if (mkdir(buf, 0777) < 0 && errno != EEXIST && qn_path_exists(buf) != 2)
            return QN_FAIL(err, QN_EIO, "cannot make directory %s: %s", buf, strerror(errno));
        buf[i] = end;
    }
    if (qn_path_exists(path) != 2) return QN_FAIL(err, QN_EIO, "%s is there, but is not a directory", path);
    return QN_OK;
}

/* Empties the open directory (and closes it). Links are removed, never followed. 0, or an errno. */
static int empty_dir(int fd, int depth)
{
    DIR *dir = fdopendir(fd);
    if (dir == NULL) {
        const int failed = errno;
        close(fd);
        return failed;
    }
    int failed = 0;
    const struct dirent *e;
    while (failed == 0 && (errno = 0, e = readdir(dir)) != NULL) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        const int sub = openat(dirfd(dir), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (sub < 0) {
            if (unlinkat(dirfd(dir), e->d_name, 0) < 0) failed = errno;
            continue;
        }
        if (depth + 1 >= TREE_DEPTH) {
            close(sub);
            failed = ELOOP;
        } else {
            failed = empty_dir(sub, depth + 1);
            if (failed == 0 && unlinkat(dirfd(dir), e->d_name, AT_REMOVEDIR) < 0) failed = errno;
        }
    }
    if (failed == 0) failed = errno;
    closedir(dir);
    return failed;
}

qn_status qn_remove_tree(const char *path, qn_err *err)
{
    const int fd = qni_open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT) return QN_OK;
    if (fd < 0) return QN_FAIL(err, QN_EIO, "cannot remove directory %s: %s", path, strerror(errno));
    const int failed = empty_dir(fd, 0);
    if (failed == ELOOP)
        return QN_FAIL(err, QN_EIO, "%s is deeper than %d directories; Quern did not write it and leaves it", path, TREE_DEPTH);
    if (failed != 0) return QN_FAIL(err, QN_EIO, "cannot empty directory %s: %s", path, strerror(failed));
    if (rmdir(path) < 0) return QN_FAIL(err, QN_EIO, "cannot remove directory %s: %s", path, strerror(errno));
    return QN_OK;
}

/* For file systems that cannot exchange two names: the old directory steps aside, and back if the new one cannot come. */
static qn_status replace_by_two_renames(const char *path, const char *tmp, const char *aside, qn_err *err)
{
    qn_status st = qn_remove_tree(aside, err);
    if (st != QN_OK) return st;
    if (qni_rename(path, aside, 0) < 0)
        return QN_FAIL(err, QN_EIO, "cannot move %s aside to %s: %s", path, aside, strerror(errno));
    if (qni_rename(tmp, path, 0) < 0) {
        const int failed = errno;
        const bool back = qni_rename(aside, path, 0) == 0;
        return QN_FAIL(err, QN_EIO, "cannot rename %s to %s: %s; the old directory is at %s", tmp, path, strerror(failed),
                       back ? path : aside);
    }
    return QN_OK;
}

qn_status qn_replace_dir(const char *path, const char *tmp, qn_err *err)
{
    char aside[PATH_MAX];
    const int n = snprintf(aside, sizeof(aside), "%s.old", path);
    if (n < 0 || (size_t)n >= sizeof(aside)) return QN_FAIL(err, QN_EIO, "the path %s is too long", path);
    const char *old = NULL; /* where the replaced directory is after the exchange */
    if (qn_path_exists(path) == 0) {
        if (qni_rename(tmp, path, 0) < 0) return QN_FAIL(err, QN_EIO, "cannot rename %s to %s: %s", tmp, path, strerror(errno));
        old = aside; /* one that an earlier, interrupted replacement left */
    } else if (qni_rename(tmp, path, RENAME_EXCHANGE) == 0) {
        old = tmp;
    } else if (errno == EINVAL || errno == ENOSYS) {
        const qn_status st = replace_by_two_renames(path, tmp, aside, err);
        if (st != QN_OK) return st;
        old = aside;
    } else {
        return QN_FAIL(err, QN_EIO, "cannot exchange %s and %s: %s", tmp, path, strerror(errno));
    }
    if (qni_sync_parent(path) < 0)
        return QN_FAIL(err, QN_EIO, "%s is replaced, but its directory cannot be synced: %s", path, strerror(errno));
    return qn_remove_tree(old, err);
}

int qn_path_exists(const char *path)
{
    struct stat info;
    if (stat(path, &info) < 0) return 0;
    return S_ISDIR(info.st_mode) ? 2 : 1;
}

qn_status qn_path_join(char *buf, size_t cap, const char *dir, const char *name, qn_err *err)
{
    const size_t n = strlen(dir);
    const char *slash = n == 0 || dir[n - 1] == '/' ? "" : "/";
    const int r = snprintf(buf, cap, "%s%s%s", dir, slash, name);
    if (r < 0 || (size_t)r >= cap)
        return QN_FAIL(err, QN_ERANGE, "the path %s%s%s is longer than %zu bytes", dir, slash, name, cap);
    return QN_OK;
}
