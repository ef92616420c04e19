/* What the files of io share: system calls with fault injection and without EINTR. -1 and errno on failure. Internal to core. */
#ifndef QN_CORE_IO_CALLS_H
#define QN_CORE_IO_CALLS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

int qni_open(const char *path, int flags); /* closed in programs that are started */
int qni_write_all(int fd, const char *p, size_t bytes);
int qni_sync_data(int fd); /* bytes and size of the file */
int qni_rename(const char *from, const char *to, unsigned flags);
/* Syncs the directory that holds path, so that a rename in it survives a power cut. */
int qni_sync_parent(const char *path);
/* Past the system's cache or through it. Whether that changed something. */
bool qni_set_direct(int fd, bool on);

/* What a transfer past the cache is a multiple of, in memory and in the file. */
enum { QNI_DIRECT_GRAIN = 4096 };

#endif
