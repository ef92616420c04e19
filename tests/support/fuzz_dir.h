/* A folder in memory (where the system has one) for fuzz targets of functions that read by path. Removed at exit. */
#ifndef QN_TEST_FUZZ_DIR_H
#define QN_TEST_FUZZ_DIR_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/compiler.h"
#include "core/io.h"

static char fuzz_dir[64];

static void fuzz_dir_remove(void)
{
    if (qn_remove_tree(fuzz_dir, NULL) != QN_OK) perror(fuzz_dir);
}

static inline void fuzz_dir_make(void)
{
    if (fuzz_dir[0] != '\0') return;
    snprintf(fuzz_dir, sizeof(fuzz_dir), "%s/quern-fuzz-%ld", qn_path_exists("/dev/shm") == 2 ? "/dev/shm" : P_tmpdir,
             (long)getpid());
    QN_ASSERT(qn_make_dirs(fuzz_dir, NULL) == QN_OK);
    atexit(fuzz_dir_remove);
}

static inline void fuzz_file(const char *name, const uint8_t *data, size_t bytes)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", fuzz_dir, name);
    FILE *file = fopen(path, "wb");
    QN_ASSERT(file != NULL);
    QN_ASSERT(fwrite(data, 1, bytes, file) == bytes);
    fclose(file);
}

/* Cuts the part before the next NUL off *data; what is left follows it. */
static inline const uint8_t *fuzz_part(const uint8_t **data, size_t *left, size_t *bytes)
{
    const uint8_t *part = *data, *end = *left == 0 ? NULL : memchr(part, 0, *left);
    *bytes = end == NULL ? *left : (size_t)(end - part);
    const size_t taken = *bytes + (end != NULL);
    *data += taken;
    *left -= taken;
    return part;
}

#endif
