/* Token and position embedding: y[r] = wte[tok[r]] + wpe[pos[r]]. */
#ifndef QN_REAL
#define QN_SELF "embedding.c"
#include "reference.h"
#else

void QN_REF(embedding_forward)(const qn_exec *ex, void *y_, const int32_t *tok, const int32_t *pos, const void *wte_,
                               const void *wpe_, int64_t R, int64_t C)
{
    (void)ex;
    QN_REAL *y = y_;
    const QN_REAL *wte = wte_, *wpe = wpe_;
    for (int64_t r = 0; r < R; r++)
        for (int64_t c = 0; c < C; c++) y[r * C + c] = wte[tok[r] * C + c] + (wpe != NULL ? wpe[pos[r] * C + c] : 0);
}

/* dwte[tok[r]] += dy[r], dwpe[pos[r]] += dy[r], in ascending r. */
void QN_REF(embedding_backward_weight)(const qn_exec *ex, void *dwte_, void *dwpe_, const int32_t *tok, const int32_t *pos,
                                       const void *dy_, int64_t R, int64_t C)
{
    (void)ex;
    QN_REAL *dwte = dwte_, *dwpe = dwpe_;
    const QN_REAL *dy = dy_;
    for (int64_t r = 0; r < R; r++)
        for (int64_t c = 0; c < C; c++) {
            if (dwte != NULL) dwte[tok[r] * C + c] += dy[r * C + c];
            if (dwpe != NULL) dwpe[pos[r] * C + c] += dy[r * C + c];
        }
}

#endif
