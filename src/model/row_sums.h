/* The gradient of a table that is looked up, kept as the rows that were: of a vocabulary of 50,257 rows a step of 256 tokens
 * meets at most 256, and what is not there has neither to be added nor to be cleared.
 *
 *   sum    [most, width]   the first *count are in use
 *   place  [rows]          1 + where the row's sum is; 0: the row was not met
 *   id     [most]          which row a sum is of
 *
 * All zero means that nothing was met, so that whoever owns the memory may clear it as a whole. One owning thread at a time. */
#ifndef QN_MODEL_ROW_SUMS_H
#define QN_MODEL_ROW_SUMS_H

#include "core/arena.h"
#include "kernels/kernels.h"

typedef struct qn_row_sums {
    int64_t width, rows, most;
    size_t element; /* bytes */
    char *sum;
    int32_t *place, *id;
    int32_t *found; /* [ids] of the latest call */
    int32_t *count;
} qn_row_sums;

/* Takes its memory from an arena of zeroes (or measures). rows, width: of the table; ids: the most that are met until the sums
 * are folded. */
void qn_row_sums_lay(qn_row_sums *s, qn_arena *a, int64_t rows, int64_t width, int64_t ids, size_t element);

/* Where the sums of n rows are: an index into sum for each id, valid until the next call. Sums that did not exist are zero.
 * id [n], 0 <= id < rows. */
const int32_t *qn_row_sums_find(qn_row_sums *s, const int32_t *id, int64_t n);

/* table [rows, width] param += the sums; none are left. A sum has the bits of a whole table's row that the same terms were added
 * to, and the order of two summands changes none, so the result is that of two tables folded, but for the sign of a zero. */
void qn_row_sums_fold(qn_row_sums *s, const qn_kernels *k, const qn_exec *ex, void *table);

#endif
