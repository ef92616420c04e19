/* Applies merges to one word: the lowest rank first, the leftmost among equals (Sennrich et al. 2016, arXiv:1508.07909). */
#ifndef QN_DATA_TOKENIZER_BPE_H
#define QN_DATA_TOKENIZER_BPE_H

#include "token_table.h"

typedef struct qni_symbol {
    int32_t id, prev, next; /* -1: none; id -1: merged away */
} qni_symbol;

typedef struct qni_candidate {
    const qni_merge *merge;
    int32_t at; /* left symbol */
} qni_candidate;

/* Scratch of one encode call; reused from word to word. */
typedef struct qni_bpe {
    qni_symbol *symbol;
    int32_t count, cap;
    qni_candidate *heap;
    size_t used, heap_cap;
} qni_bpe;

/* Appends a symbol. Errors: QN_ENOMEM, QN_ERANGE (2^30 symbols in one word). */
qn_status qni_bpe_push(qni_bpe *b, int32_t id, qn_err *err) QN_MUST_USE;
/* Merges the symbols pushed since the last clear; what is left has id >= 0, in order. Cost: O(n log n). Errors: QN_ENOMEM. */
qn_status qni_bpe_run(qni_bpe *b, const qni_merges *m, qn_err *err) QN_MUST_USE;
static inline void qni_bpe_clear(qni_bpe *b)
{
    b->count = 0;
}
void qni_bpe_fini(qni_bpe *b);

#endif
