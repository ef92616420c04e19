/* The vocabulary: token bytes by id, ids by token bytes; and the merges: (left, right) to rank and result. Both grow by doubling.
 */
#ifndef QN_DATA_TOKENIZER_TOKEN_TABLE_H
#define QN_DATA_TOKENIZER_TOKEN_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quern/status.h"

enum {
    QNI_TOKEN_HERE = 1,    /* the id is in use; ids between may be holes */
    QNI_TOKEN_ADDED = 2,   /* matched literally before splitting */
    QNI_TOKEN_SPECIAL = 4, /* an added token that is no text */
    QNI_TOKEN_BYTE = 8,    /* <0xNN>: stands for one byte */
};

typedef struct qni_token {
    size_t at;
    uint32_t bytes;
    uint32_t flags;
} qni_token;

typedef struct qni_table {
    char *pool;
    size_t pool_used, pool_cap;
    qni_token *token; /* [count], by id */
    int32_t count, cap;
    int32_t *slot; /* open addressing: id + 1, 0 when free */
    size_t slots, indexed;
} qni_table;

enum { QNI_MAX_ID = 1 << 24 };

/* Sets the bytes of id (0 <= id < QNI_MAX_ID, not in use). Errors: QN_ENOMEM, QN_ERANGE, QN_EFORMAT (id used twice). */
qn_status qni_table_set(qni_table *t, int64_t id, const char *bytes, size_t n, uint32_t flags, qn_err *err) QN_MUST_USE;
/* Makes id findable by its bytes; *twin is the id that already has these bytes, or -1. Errors: QN_ENOMEM. */
qn_status qni_table_index(qni_table *t, int32_t id, int32_t *twin, qn_err *err) QN_MUST_USE;
/* The id of these bytes, or -1. */
int32_t qni_table_find(const qni_table *t, const char *bytes, size_t n);
static inline const char *qni_table_bytes(const qni_table *t, int32_t id)
{
    return t->pool + t->token[id].at;
}
void qni_table_fini(qni_table *t);

typedef struct qni_merge {
    int32_t left, right, rank, result; /* result < 0: slot free */
} qni_merge;

typedef struct qni_merges {
    qni_merge *slot;
    size_t slots, used;
} qni_merges;

/* Errors: QN_ENOMEM. *twin: the pair was there already (and stays as it was). */
qn_status qni_merges_add(qni_merges *m, qni_merge merge, bool *twin, qn_err *err) QN_MUST_USE;
const qni_merge *qni_merges_find(const qni_merges *m, int32_t left, int32_t right); /* or NULL */
void qni_merges_fini(qni_merges *m);

uint64_t qni_hash(const void *data, size_t n);
uint64_t qni_hash_pair(int32_t left, int32_t right);

#endif
