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

/* An output file written under path.tmp, then synced and renamed by commit. abort (or close without commit) removes it and
 * leaves what was at path. Errors stick: write may be called without looking, commit reports. */
typedef struct qn_writer qn_writer;
qn_status qn_writer_open(qn_writer **out, const char *path, qn_err *err) QN_MUST_USE;
void qn_writer_put(qn_writer *w, const void *data, size_t bytes);
qn_status qn_writer_commit(qn_writer *w, qn_err *err) QN_MUST_USE; /* frees w in any case */
void qn_writer_abort(qn_writer *w);                                /* accepts NULL */

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
