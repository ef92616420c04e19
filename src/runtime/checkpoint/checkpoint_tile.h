/* Transposing in tiles, for files that hold a matrix the other way round. Internal to src/runtime. */
#ifndef QN_RUNTIME_CHECKPOINT_TILE_H
#define QN_RUNTIME_CHECKPOINT_TILE_H

#include <stdint.h>
#include <string.h>

enum { QNI_TILE = 16 };

/* to [rows, columns] with L floats from row to row becomes the transpose of from [columns, rows] with K; at most QNI_TILE each.
 * Whole cache lines on both sides: sizes of models are multiples of 1024 bytes so often that a column's lines drive each other
 * out of the cache. */
static inline void qni_copy_tile(float *to, int64_t L, const float *from, int64_t K, int64_t rows, int64_t columns)
{
    float tile[QNI_TILE][QNI_TILE];
    for (int64_t c = 0; c < columns; c++)
        for (int64_t r = 0; r < rows; r++) tile[r][c] = from[c * K + r];
    for (int64_t r = 0; r < rows; r++) memcpy(to + r * L, tile[r], (size_t)columns * sizeof(float));
}

#endif
