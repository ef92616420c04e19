/* Vocabulary and merges: open addressing with linear probing, at most half full. Ids and pairs are never removed. */
#include "token_table.h"

#include <inttypes.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"

uint64_t qni_hash(const void *data, size_t n)
{
    const unsigned char *p = data;
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a, then mixed so that the low bits are good */
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h ^ h >> 29;
}

uint64_t qni_hash_pair(int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 32;
}

static qn_status table_grow_ids(qni_table *t, int64_t id, qn_err *err)
{
    if (id >= t->cap) {
        const int64_t cap = qn_max64(id + 1, qn_max64(256, (int64_t)t->cap * 2));
        qni_token *more = qn_realloc(t->token, (size_t)cap, sizeof(*more));
        if (more == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for a vocabulary of %" PRId64 " entries", cap);
        t->token = more;
        t->cap = (int32_t)cap;
    }
    for (; t->count <= id; t->count++) t->token[t->count] = (qni_token){0};
    return QN_OK;
}

qn_status qni_table_set(qni_table *t, int64_t id, const char *bytes, size_t n, uint32_t flags, qn_err *err)
{
    if (id < 0 || id >= QNI_MAX_ID)
        return QN_FAIL(err, QN_ERANGE, "token id %" PRId64 " of '%.*s' is outside 0 to %d", id, (int)(n < 64 ? n : 64), bytes,
                       QNI_MAX_ID - 1);
    if (n > INT32_MAX / 2) return QN_FAIL(err, QN_ERANGE, "token %" PRId64 " has %zu bytes", id, n);
    if (id < t->count && t->token[id].flags != 0)
        return QN_FAIL(err, QN_EFORMAT, "token id %" PRId64 " is given twice: to '%.*s' and to '%.*s'", id,
                       (int)qn_min32((int32_t)t->token[id].bytes, 64), qni_table_bytes(t, (int32_t)id), (int)(n < 64 ? n : 64),
                       bytes);
    qn_status st = table_grow_ids(t, id, err);
    if (st != QN_OK) return st;
    if (n > t->pool_cap - t->pool_used || t->pool == NULL) {
        size_t cap;
        char *more = NULL;
        if (qn_mul_size(&cap, t->pool_cap, 2) && qn_add_size(&cap, cap, n + 4096)) more = qn_realloc(t->pool, cap, 1);
        if (more == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for the vocabulary's text");
        t->pool = more;
        t->pool_cap = cap;
    }
    if (n > 0) memcpy(t->pool + t->pool_used, bytes, n);
    t->token[id] = (qni_token){.at = t->pool_used, .bytes = (uint32_t)n, .flags = flags | QNI_TOKEN_HERE};
    t->pool_used += n;
    return QN_OK;
}

/* The slot where these bytes are or would be. */
static size_t table_probe(const qni_table *t, const char *bytes, size_t n)
{
    size_t i = qni_hash(bytes, n) & (t->slots - 1);
    while (t->slot[i] != 0) {
        const qni_token *k = &t->token[t->slot[i] - 1];
        if (k->bytes == n && memcmp(t->pool + k->at, bytes, n) == 0) break;
        i = (i + 1) & (t->slots - 1);
    }
    return i;
}

qn_status qni_table_index(qni_table *t, int32_t id, int32_t *twin, qn_err *err)
{
    if (2 * (t->indexed + 1) > t->slots) {
        int32_t *old = t->slot;
        const size_t old_slots = t->slots, slots = old_slots == 0 ? 1024 : old_slots * 2;
        int32_t *fresh = qn_calloc(slots, sizeof(*fresh));
        if (fresh == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for a vocabulary of %zu entries", slots / 2);
        t->slot = fresh;
        t->slots = slots;
        for (size_t i = 0; i < old_slots; i++)
            if (old[i] != 0) t->slot[table_probe(t, qni_table_bytes(t, old[i] - 1), t->token[old[i] - 1].bytes)] = old[i];
        qn_free(old);
    }
    const size_t i = table_probe(t, qni_table_bytes(t, id), t->token[id].bytes);
    *twin = t->slot[i] - 1;
    if (t->slot[i] == 0) {
        t->slot[i] = id + 1;
        t->indexed++;
    }
    return QN_OK;
}

int32_t qni_table_find(const qni_table *t, const char *bytes, size_t n)
{
    return t->slots == 0 ? -1 : t->slot[table_probe(t, bytes, n)] - 1;
}

void qni_table_fini(qni_table *t)
{
    qn_free(t->pool);
    qn_free(t->token);
    qn_free(t->slot);
    *t = (qni_table){0};
}

static size_t merges_probe(const qni_merges *m, int32_t left, int32_t right)
{
    size_t i = qni_hash_pair(left, right) & (m->slots - 1);
    while (m->slot[i].result >= 0 && (m->slot[i].left != left || m->slot[i].right != right)) i = (i + 1) & (m->slots - 1);
    return i;
}

qn_status qni_merges_add(qni_merges *m, qni_merge merge, bool *twin, qn_err *err)
{
    if (2 * (m->used + 1) > m->slots) {
        const qni_merges old = *m;
        m->slots = old.slots == 0 ? 1024 : old.slots * 2;
        m->slot = qn_malloc(m->slots, sizeof(*m->slot));
        if (m->slot == NULL) {
            *m = old;
            return QN_FAIL(err, QN_ENOMEM, "no memory for %zu merges", old.slots);
        }
        for (size_t i = 0; i < m->slots; i++) m->slot[i].result = -1;
        for (size_t i = 0; i < old.slots; i++)
            if (old.slot[i].result >= 0) m->slot[merges_probe(m, old.slot[i].left, old.slot[i].right)] = old.slot[i];
        qn_free(old.slot);
    }
    const size_t i = merges_probe(m, merge.left, merge.right);
    *twin = m->slot[i].result >= 0;
    if (!*twin) {
        m->slot[i] = merge;
        m->used++;
    }
    return QN_OK;
}

const qni_merge *qni_merges_find(const qni_merges *m, int32_t left, int32_t right)
{
    if (m->used == 0) return NULL;
    const size_t i = merges_probe(m, left, right);
    return m->slot[i].result >= 0 ? &m->slot[i] : NULL;
}

void qni_merges_fini(qni_merges *m)
{
    qn_free(m->slot);
    *m = (qni_merges){0};
}
