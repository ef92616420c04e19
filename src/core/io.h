/* Files: whole-file reading with a bound, memory mapping, and writing that never leaves a half-written file behind. */
#ifndef QN_CORE_IO_H
#define QN_CORE_IO_H

#include <stddef.h>
#include <stdint.h>

#include "quern/status.h"

/* The bytes of a file, followed by a NUL that is not counted; freed with qn_free. Files larger than limit are refused.
 * Errors: QN_ENOENT, QN_EIO, QN_ERANGE, QN_ENOMEM. */
qn_status qn_file_read(char **out, size_t *bytes, const char *path, size_t limit, qn_err *err) QN_MUST_USE;

/* A read-only mapping. data is NULL for an empty file. Errors: QN_ENOENT, QN_EIO. */
typedef struct qn_map {
    const uint8_t *data;
    size_t bytes;
} qn_map;
qn_status qn_map_open(qn_map *out, const char *path, qn_err *err) QN_MUST_USE;
void qn_map_close(qn_map *m);
/* Asks the system to begin reading a part of a mapping that is wanted soon; one that does not is no error. */
void qn_map_want(const void *data, size_t bytes);
/* The process lets go of the pages of a part of a mapping, which are read again when they are touched; the system may still keep
 * them. Others may be reading there. */
void qn_map_done(const void *data, size_t bytes);

/* An output file written under path.tmp, then synced and renamed by commit. abort (or close without commit) removes it and
 * leaves what was at path. Errors stick: write may be called without looking, commit reports. A file that outgrows the first
 * buffer of 4 MiB is written by a thread of its own, while the caller makes the next bytes, past the system's cache where the
 * file system can (O_DIRECT): what is larger than the cache gains nothing by going through it. */
typedef struct qn_writer qn_writer;
qn_status qn_writer_open(qn_writer **out, const char *path, qn_err *err) QN_MUST_USE;
void qn_writer_put(qn_writer *w, const void *data, size_t bytes);
/* Instead of put, without a copy: room for the next *bytes >= 1 bytes of the file, aligned as their place in the file is (up to
 * 64); then how many of them were filled. */
void *qn_writer_room(qn_writer *w, size_t *bytes);
void qn_writer_filled(qn_writer *w, size_t bytes);
qn_status qn_writer_commit(qn_writer *w, qn_err *err) QN_MUST_USE; /* frees w in any case; QN_EIO, QN_ENOMEM */
void qn_writer_abort(qn_writer *w);                                /* accepts NULL */

/* Parts of a long file, for any threads at once: from the system's cache what is there, the rest past it (O_DIRECT) where the
 * file system can. get: *out becomes the bytes at offset, in the cache or inside room, which is the caller's:
 * qn_reader_room(bytes) bytes that begin on a page. Errors of open: QN_ENOENT, QN_EIO, QN_ENOMEM; of get: QN_EIO, QN_ERANGE (the
 * file is shorter). */
typedef struct qn_reader qn_reader;
qn_status qn_reader_open(qn_reader **out, const char *path, qn_err *err) QN_MUST_USE;
size_t qn_reader_room(size_t bytes);
qn_status qn_reader_get(const void **out, const qn_reader *r, void *room, uint64_t offset, size_t bytes, qn_err *err) QN_MUST_USE;
void qn_reader_close(qn_reader *r); /* accepts NULL */

qn_status qn_file_write(const char *path, const void *data, size_t bytes, qn_err *err) QN_MUST_USE; /* open, put, commit */

/* Directories. make_dirs is mkdir -p. remove_tree deletes a directory that Quern wrote (bounded depth 8; links are removed, not
 * followed; one that is not there is no error). replace_dir renames the complete directory tmp to path, synced, and removes the
 * old one last: at every moment either the old or the new one is there whole. The two are exchanged in one step; on a file system
 * that cannot do so the old one steps aside to path.old first, and back if the new one cannot come. Errors: QN_EIO. */
qn_status qn_make_dirs(const char *path, qn_err *err) QN_MUST_USE;
qn_status qn_remove_tree(const char *path, qn_err *err) QN_MUST_USE;
qn_status qn_replace_dir(const char *path, const char *tmp, qn_err *err) QN_MUST_USE;
int qn_path_exists(const char *path); /* 0 no, 1 file, 2 directory */

/* Joins with one slash into buf; QN_ERANGE when it does not fit. */
qn_status qn_path_join(char *buf, size_t cap, const char *dir, const char *name, qn_err *err) QN_MUST_USE;

#endif
