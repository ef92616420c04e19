/* Merging with a heap of candidates over a linked list of symbols.
 *
 * A candidate names a merge and its left symbol. It is stale, and skipped, when that symbol or its right neighbour has changed
 * since; the change pushed candidates of its own, so the best live pair is always in the heap. Every merge removes one symbol
 * and pushes at most two candidates: at most 3 n pushes in all. */
#include "bpe.h"

#include "core/alloc.h"

qn_status qni_bpe_push(qni_bpe *b, int32_t id, qn_err *err)
{
    if (b->count == b->cap) {
        const int32_t cap = b->cap == 0 ? 256 : b->cap * 2;
        if (b->cap >= 1 << 30)
            return QN_FAIL(err, QN_ERANGE, "a piece of text without a place to split has more than 2^30 characters");
        qni_symbol *more = qn_realloc(b->symbol, (size_t)cap, sizeof(*more));
        if (more == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for a word of %d characters", (int)cap);
        b->symbol = more;
        b->cap = cap;
    }
    b->symbol[b->count] = (qni_symbol){.id = id, .prev = b->count - 1, .next = -1};
    if (b->count > 0) b->symbol[b->count - 1].next = b->count;
    b->count++;
    return QN_OK;
}

static bool before(qni_candidate x, qni_candidate y)
{
    return x.merge->rank != y.merge->rank ? x.merge->rank < y.merge->rank : x.at < y.at;
}

static qn_status heap_push(qni_bpe *b, qni_candidate c, qn_err *err)
{
    if (b->used == b->heap_cap) {
        const size_t cap = b->heap_cap == 0 ? 256 : b->heap_cap * 2;
        qni_candidate *more = qn_realloc(b->heap, cap, sizeof(*more));
        if (more == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for %zu candidate merges", cap);
        b->heap = more;
        b->heap_cap = cap;
    }
    size_t i = b->used++;
    while (i > 0 && before(c, b->heap[(i - 1) / 2])) {
        b->heap[i] = b->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    b->heap[i] = c;
    return QN_OK;
}

static qni_candidate heap_pop(qni_bpe *b)
{
    const qni_candidate top = b->heap[0], last = b->heap[--b->used];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < b->used) {
        if (child + 1 < b->used && before(b->heap[child + 1], b->heap[child])) child++;
        if (!before(b->heap[child], last)) break;
        b->heap[i] = b->heap[child];
        i = child;
    }
    b->heap[i] = last;
    return top;
}

static qn_status offer(qni_bpe *b, const qni_merges *m, int32_t at, qn_err *err)
{
    const int32_t next = at < 0 ? -1 : b->symbol[at].next;
    if (next < 0) return QN_OK;
    const qni_merge *merge = qni_merges_find(m, b->symbol[at].id, b->symbol[next].id);
    return merge == NULL ? QN_OK : heap_push(b, (qni_candidate){.merge = merge, .at = at}, err);
}

qn_status qni_bpe_run(qni_bpe *b, const qni_merges *m, qn_err *err)
{
    qn_status st = QN_OK;
    b->used = 0;
    for (int32_t i = 0; i + 1 < b->count && st == QN_OK; i++) st = offer(b, m, i, err);
    while (st == QN_OK && b->used > 0) {
        const qni_candidate c = heap_pop(b);
        qni_symbol *s = &b->symbol[c.at];
        if (s->id != c.merge->left || s->next < 0 || b->symbol[s->next].id != c.merge->right) continue;
        qni_symbol *gone = &b->symbol[s->next];
        s->id = c.merge->result;
        s->next = gone->next;
        gone->id = -1;
        if (s->next >= 0) b->symbol[s->next].prev = c.at;
        st = offer(b, m, s->prev, err);
        if (st == QN_OK) st = offer(b, m, c.at, err);
    }
    return st;
}

void qni_bpe_fini(qni_bpe *b)
{
    qn_free(b->symbol);
    qn_free(b->heap);
    *b = (qni_bpe){0};
}
