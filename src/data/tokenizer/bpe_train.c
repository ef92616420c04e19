/* Learning a byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909), with counts kept up to date merge by merge.
 *
 *   texts -> GPT-2's pattern -> distinct words with their counts -> one array of symbols, words one after the other, each a
 * linked list -> for each pair of ids: its count, and the places where it was seen -> a heap by (count, left, right)
 *
 * A place is stale when its symbols have changed since. Counts in the heap may be too high; the top is corrected and put back
 * until it is right. A pair whose count grew in a step is pushed again after it. Two merges may give one token ("a" "bc", "ab"
 * "c"). The cost is that of the merges really made, not words times merges. Ids: the 256 bytes in the order of the byte
 * alphabet's characters (as Hugging Face's trainer sorts them), then merges in order, <|endoftext|> last. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "data/text/text.h"
#include "tokenizer_internal.h"

enum { BYTES = 256, SPECIALS = 1, PROGRESS_STEP = 64 };

typedef struct word {
    const char *text; /* its first occurrence */
    uint32_t bytes;
    int64_t count;
} word;

typedef struct pair {
    int32_t left, right; /* left < 0: slot free */
    int64_t count;
    uint32_t *place;
    uint32_t places, cap;
    int32_t step; /* when it was last seen anew */
} pair;

typedef struct entry {
    int64_t count;
    int32_t left, right;
} entry;

typedef struct place_symbol {
    int32_t id;          /* -1: merged away */
    uint32_t prev, next; /* NONE at the ends of a word */
    uint32_t word;
} place_symbol;

static const uint32_t NONE = UINT32_MAX;

typedef struct trainer {
    word *word;
    size_t words, word_cap;
    uint32_t *word_slot; /* index + 1 */
    size_t word_slots;
    place_symbol *symbol;
    size_t symbols;
    pair *pair; /* open addressing */
    size_t pair_slots, pairs;
    entry *heap;
    size_t heap_used, heap_cap;
    int32_t step;
    entry *grown; /* pairs whose count grew in this step */
    size_t grown_used, grown_cap;
} trainer;

static qn_status no_memory(qn_err *err)
{
    return QN_FAIL(err, QN_ENOMEM, "no memory for training a tokenizer");
}

static size_t word_probe(const trainer *t, const char *text, size_t n)
{
    size_t i = qni_hash(text, n) & (t->word_slots - 1);
    while (t->word_slot[i] != 0) {
        const word *w = &t->word[t->word_slot[i] - 1];
        if (w->bytes == n && memcmp(w->text, text, n) == 0) break;
        i = (i + 1) & (t->word_slots - 1);
    }
    return i;
}

static qn_status grow_words(trainer *t, qn_err *err)
{
    const size_t cap = t->word_cap == 0 ? 1024 : 2 * t->word_cap;
    word *more = qn_realloc(t->word, cap, sizeof(*more));
    if (more == NULL) return no_memory(err);
    t->word = more;
    t->word_cap = cap;
    qn_free(t->word_slot);
    t->word_slots = 2 * cap;
    t->word_slot = qn_calloc(t->word_slots, sizeof(*t->word_slot));
    if (t->word_slot == NULL) return no_memory(err);
    for (size_t i = 0; i < t->words; i++) t->word_slot[word_probe(t, t->word[i].text, t->word[i].bytes)] = (uint32_t)i + 1;
    return QN_OK;
}

static qn_status count_word(void *ctx, const char *text, size_t n, qn_err *err)
{
    trainer *t = ctx;
    if (n >= UINT32_MAX || t->words >= UINT32_MAX - 1)
        return QN_FAIL(err, QN_ERANGE, "a word of %zu bytes is too long to learn from", n);
    if (t->words == t->word_cap) {
        const qn_status st = grow_words(t, err);
        if (st != QN_OK) return st;
    }
    const size_t i = word_probe(t, text, n);
    if (t->word_slot[i] == 0) {
        t->word[t->words++] = (word){.text = text, .bytes = (uint32_t)n};
        t->word_slot[i] = (uint32_t)t->words;
    }
    t->word[t->word_slot[i] - 1].count++;
    return QN_OK;
}

static qn_status load_symbols(trainer *t, qn_err *err)
{
    int32_t id_of[BYTES];
    size_t total = 0, at = 0;
    for (int32_t i = 0; i < BYTES; i++) id_of[qni_alphabet_byte(i)] = i;
    for (size_t w = 0; w < t->words; w++) total += t->word[w].bytes;
    if (total >= NONE)
        return QN_FAIL(err, QN_ERANGE, "the distinct words have %zu bytes; at most %" PRIu32 " can be learned from", total,
                       NONE - 1);
    t->symbol = qn_malloc(total + 1, sizeof(*t->symbol));
    if (t->symbol == NULL) return no_memory(err);
    for (size_t w = 0; w < t->words; w++) {
        for (uint32_t i = 0; i < t->word[w].bytes; i++, at++)
            t->symbol[at] = (place_symbol){.id = id_of[(unsigned char)t->word[w].text[i]],
                                           .prev = i == 0 ? NONE : (uint32_t)at - 1,
                                           .next = i + 1 == t->word[w].bytes ? NONE : (uint32_t)at + 1,
                                           .word = (uint32_t)w};
    }
    t->symbols = total;
    return QN_OK;
}

static size_t pair_probe(const trainer *t, int32_t left, int32_t right)
{
    size_t i = qni_hash_pair(left, right) & (t->pair_slots - 1);
    while (t->pair[i].left >= 0 && (t->pair[i].left != left || t->pair[i].right != right)) i = (i + 1) & (t->pair_slots - 1);
    return i;
}

/* The pair, made when it is new; NULL: no memory. Pointers to pairs last until the next call. */
static pair *pair_get(trainer *t, int32_t left, int32_t right)
{
    if (2 * (t->pairs + 1) > t->pair_slots) {
        pair *old = t->pair;
        const size_t old_slots = t->pair_slots, slots = old_slots == 0 ? 4096 : 2 * old_slots;
        pair *fresh = qn_malloc(slots, sizeof(*fresh));
        if (fresh == NULL) return NULL;
        for (size_t i = 0; i < slots; i++) fresh[i] = (pair){.left = -1};
        t->pair = fresh;
        t->pair_slots = slots;
        for (size_t i = 0; i < old_slots; i++)
            if (old[i].left >= 0) t->pair[pair_probe(t, old[i].left, old[i].right)] = old[i];
        qn_free(old);
    }
    pair *p = &t->pair[pair_probe(t, left, right)];
    if (p->left < 0) {
        *p = (pair){.left = left, .right = right, .step = -1};
        t->pairs++;
    }
    return p;
}

/* Room for one more of size bytes in a growing array; NULL: no memory. */
static void *room(void *array, size_t used, size_t *cap, size_t size)
{
    if (used < *cap) return array;
    const size_t more_cap = *cap == 0 ? 4096 : 2 * *cap;
    void *more = qn_realloc(array, more_cap, size);
    if (more != NULL) *cap = more_cap;
    return more;
}

/* One more occurrence of (left, right), at this place. */
static qn_status pair_seen(trainer *t, int32_t left, int32_t right, uint32_t place, qn_err *err)
{
    pair *p = pair_get(t, left, right);
    if (p == NULL) return no_memory(err);
    if (p->places == p->cap) {
        const uint32_t cap = p->cap == 0 ? 4 : p->cap < UINT32_MAX / 2 ? 2 * p->cap : UINT32_MAX;
        uint32_t *more = qn_realloc(p->place, cap, sizeof(*more));
        if (more == NULL) return no_memory(err);
        p->place = more;
        p->cap = cap;
    }
    p->place[p->places++] = place;
    p->count += t->word[t->symbol[place].word].count;
    if (p->step == t->step) return QN_OK;
    entry *grown = room(t->grown, t->grown_used, &t->grown_cap, sizeof(*grown));
    if (grown == NULL) return no_memory(err);
    t->grown = grown;
    t->grown[t->grown_used++] = (entry){.left = left, .right = right};
    p->step = t->step;
    return QN_OK;
}

static bool before(entry x, entry y)
{
    if (x.count != y.count) return x.count > y.count;
    if (x.left != y.left) return x.left < y.left;
    return x.right < y.right;
}

static qn_status heap_push(trainer *t, const pair *p, qn_err *err)
{
    const entry e = {.count = p->count, .left = p->left, .right = p->right};
    if (e.count <= 0) return QN_OK;
    entry *heap = room(t->heap, t->heap_used, &t->heap_cap, sizeof(*heap));
    if (heap == NULL) return no_memory(err);
    t->heap = heap;
    size_t i = t->heap_used++;
    for (; i > 0 && before(e, t->heap[(i - 1) / 2]); i = (i - 1) / 2) t->heap[i] = t->heap[(i - 1) / 2];
    t->heap[i] = e;
    return QN_OK;
}

static entry heap_pop(trainer *t)
{
    const entry top = t->heap[0], last = t->heap[--t->heap_used];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < t->heap_used) {
        if (child + 1 < t->heap_used && before(t->heap[child + 1], t->heap[child])) child++;
        if (!before(t->heap[child], last)) break;
        t->heap[i] = t->heap[child];
        i = child;
    }
    t->heap[i] = last;
    return top;
}

/* The most frequent pair with its true count; false when no pair is left. */
static qn_status best_pair(trainer *t, entry *best, bool *any, qn_err *err)
{
    qn_status st = QN_OK;
    *any = false;
    while (st == QN_OK && t->heap_used > 0) {
        *best = heap_pop(t);
        const pair *p = pair_get(t, best->left, best->right);
        if (p == NULL) return no_memory(err);
        if (p->count == best->count) {
            *any = true;
            return QN_OK;
        }
        st = heap_push(t, p, err);
    }
    return st;
}

/* The pair of symbols at and next is about to vanish. */
static void pair_gone(trainer *t, uint32_t at, uint32_t next)
{
    pair *p = &t->pair[pair_probe(t, t->symbol[at].id, t->symbol[next].id)];
    p->count -= t->word[t->symbol[at].word].count;
}

static int ascending(const void *x, const void *y)
{
    const uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return (a > b) - (a < b);
}

/* Replaces every occurrence of the pair by id, from left to right. */
static qn_status apply(trainer *t, entry e, int32_t id, qn_err *err)
{
    const size_t slot = pair_probe(t, e.left, e.right);
    uint32_t *place = t->pair[slot].place;
    const uint32_t places = t->pair[slot].places;
    t->pair[slot].place = NULL;
    t->pair[slot].places = t->pair[slot].cap = 0;
    qn_status st = QN_OK;
    bool sorted = true;
    for (uint32_t i = 1; i < places; i++) sorted = sorted && place[i - 1] <= place[i];
    if (!sorted) qsort(place, places, sizeof(*place), ascending);
    for (uint32_t i = 0; i < places && st == QN_OK; i++) {
        const uint32_t at = place[i];
        place_symbol *s = &t->symbol[at];
        if (s->id != e.left || s->next == NONE || t->symbol[s->next].id != e.right) continue;
        place_symbol *gone = &t->symbol[s->next];
        if (s->prev != NONE) pair_gone(t, s->prev, at);
        if (gone->next != NONE) pair_gone(t, s->next, gone->next);
        s->id = id;
        s->next = gone->next;
        gone->id = -1;
        if (s->next != NONE) t->symbol[s->next].prev = at;
        if (s->prev != NONE) st = pair_seen(t, t->symbol[s->prev].id, id, s->prev, err);
        if (st == QN_OK && s->next != NONE) st = pair_seen(t, id, t->symbol[s->next].id, at, err);
    }
    qn_free(place);
    t->pair[pair_probe(t, e.left, e.right)].count = 0;
    return st;
}

/* Puts the pairs whose count grew in this step into the heap, and starts the next step. */
static qn_status end_step(trainer *t, qn_err *err)
{
    qn_status st = QN_OK;
    for (size_t i = 0; i < t->grown_used && st == QN_OK; i++)
        st = heap_push(t, &t->pair[pair_probe(t, t->grown[i].left, t->grown[i].right)], err);
    t->grown_used = 0;
    t->step++;
    return st;
}

/* The id of the pair's text: a new token, or one that is there. joined: scratch of at least the text's length. */
static qn_status result_of(int32_t *id, qn_tokenizer *k, entry e, char *joined, qn_err *err)
{
    const size_t a = k->table.token[e.left].bytes, b = k->table.token[e.right].bytes;
    memcpy(joined, qni_table_bytes(&k->table, e.left), a);
    memcpy(joined + a, qni_table_bytes(&k->table, e.right), b);
    *id = qni_table_find(&k->table, joined, a + b);
    if (*id >= 0) return QN_OK;
    *id = k->table.count;
    return qni_tokenizer_add(k, *id, joined, a + b, 0, err);
}

/* Learns until k has so many entries. joined: scratch of the longest word's length. */
static qn_status learn(trainer *t, qn_tokenizer *k, int32_t entries, char *joined, qn_progress_fn *progress, void *ctx,
                       qn_err *err)
{
    qn_status st = QN_OK;
    int32_t rank = 0;
    for (size_t i = 0; i < t->symbols && st == QN_OK; i++)
        if (t->symbol[i].next != NONE) st = pair_seen(t, t->symbol[i].id, t->symbol[i + 1].id, (uint32_t)i, err);
    if (st == QN_OK) st = end_step(t, err);
    while (k->table.count < entries && st == QN_OK) {
        entry e;
        int32_t id;
        bool any = false;
        st = best_pair(t, &e, &any, err);
        if (st == QN_OK && !any)
            return QN_FAIL(err, QN_ERANGE,
                           "the text can fill a vocabulary of %" PRId32 " entries, %" PRId32
                           " are asked for: give more text or a smaller vocabulary",
                           k->table.count + SPECIALS, entries + SPECIALS);
        if (st == QN_OK) st = result_of(&id, k, e, joined, err);
        if (st == QN_OK) st = qni_tokenizer_merge(k, e.left, e.right, rank++, err);
        if (st == QN_OK) st = apply(t, e, id, err);
        if (st == QN_OK) st = end_step(t, err);
        if (st == QN_OK && progress != NULL && (rank % PROGRESS_STEP == 0 || k->table.count == entries))
            progress(ctx, k->table.count - BYTES, entries - BYTES);
    }
    return st;
}

static void trainer_fini(trainer *t)
{
    for (size_t i = 0; i < t->pair_slots; i++) qn_free(t->pair[i].place);
    qn_free(t->pair);
    qn_free(t->word);
    qn_free(t->word_slot);
    qn_free(t->symbol);
    qn_free(t->heap);
    qn_free(t->grown);
}

/* Words of all texts, counted; what the alphabet and <|endoftext|> need in k. */
static qn_status prepare(trainer *t, qn_tokenizer *k, const char *const *text, const size_t *bytes, int32_t texts, qn_err *err)
{
    qn_status st = qni_split_open(&k->split[0], qni_gpt2_pattern, strlen(qni_gpt2_pattern), true, err);
    if (st != QN_OK) return st;
    k->splits = 1;
    k->byte_level = true;
    for (int32_t i = 0; i < BYTES && st == QN_OK; i++) {
        const char byte = (char)qni_alphabet_byte(i);
        st = qni_tokenizer_add(k, i, &byte, 1, 0, err);
    }
    for (int32_t i = 0; i < texts && st == QN_OK; i++) {
        const int64_t bad = qn_utf8_check(text[i], bytes[i]);
        if (bad >= 0)
            st = QN_FAIL(err, QN_EFORMAT, "text %" PRId32 " is not UTF-8: byte 0x%02x at offset %" PRId64, i,
                         (unsigned)(unsigned char)text[i][bad], bad);
        else
            st = qni_split_run(k->split[0], text[i], bytes[i], count_word, t, err);
    }
    return st == QN_OK ? load_symbols(t, err) : st;
}

qn_status qn_tokenizer_train(qn_tokenizer **out, const char *const *text, const size_t *bytes, int32_t texts, int32_t vocab,
                             qn_progress_fn *progress, void *ctx, qn_err *err)
{
    trainer t = {0};
    size_t longest = 1;
    *out = NULL;
    if (vocab < BYTES + SPECIALS || vocab > QNI_MAX_ID)
        return QN_FAIL(err, QN_ERANGE,
                       "a vocabulary of %" PRId32 " entries; %d (every byte and <|endoftext|>) to %d are possible", vocab,
                       BYTES + SPECIALS, QNI_MAX_ID);
    qn_tokenizer *k = qni_tokenizer_new(QNI_TOK_BYTE_LEVEL);
    qn_status st = k == NULL ? no_memory(err) : prepare(&t, k, text, bytes, texts, err);
    for (size_t i = 0; i < t.words; i++)
        if (t.word[i].bytes > longest) longest = t.word[i].bytes;
    char *joined = qn_malloc(longest, 1);
    if (st == QN_OK && joined == NULL) st = no_memory(err);
    if (st == QN_OK) st = learn(&t, k, vocab - SPECIALS, joined, progress, ctx, err);
    if (st == QN_OK) st = qni_tokenizer_add(k, vocab - SPECIALS, "<|endoftext|>", 13, QNI_TOKEN_ADDED | QNI_TOKEN_SPECIAL, err);
    if (st == QN_OK) st = qni_tokenizer_seal(k, err);
    qn_free(joined);
    trainer_fini(&t);
    if (st == QN_OK)
        *out = k;
    else
        qn_tokenizer_close(k);
    return st;
}
