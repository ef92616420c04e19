/* The shard file.
 *
 *   0 "QNTOKENS" | 8 u32 version | 12 u32 width | 16 u64 count | 24 u32 vocabulary | 28 u32 CRC-32 | 32 tokens, little endian
 *
 * A shard that opened has been read once: its size, its checksum and every token were right at that moment. */
#include "data/dataset/shards_internal.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "core/cursor.h"
#include "core/io.h"

enum { HEADER = 32, VERSION = 1, BLOCK = 1 << 14 };

static const char magic[8] = {'Q', 'N', 'T', 'O', 'K', 'E', 'N', 'S'};

struct qn_tokens {
    qn_map map;
    const uint8_t *data;
    int64_t count;
    int32_t vocab, width;
};

/* CRC-32 of IEEE 802.3 (reflected, 0xedb88320). */
static void crc_table(uint32_t table[256])
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c & 1 ? 0xedb88320u ^ c >> 1 : c >> 1;
        table[i] = c;
    }
}

static uint32_t crc_add(uint32_t crc, const uint32_t table[256], const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) crc = table[(crc ^ p[i]) & 0xff] ^ crc >> 8;
    return crc;
}

static void put_le(uint8_t *to, uint64_t x, int bytes)
{
    for (int i = 0; i < bytes; i++) to[i] = (uint8_t)(x >> 8 * i);
}

/* Encodes count <= BLOCK ids; returns bytes. */
static size_t pack(uint8_t *to, const int32_t *ids, int64_t count, int width)
{
    for (int64_t i = 0; i < count; i++) put_le(to + i * width, (uint32_t)ids[i], width);
    return (size_t)(count * width);
}

qn_status qn_tokens_write(const char *path, const int32_t *ids, int64_t count, int32_t vocab, qn_err *err)
{
    uint32_t table[256], crc = 0xffffffffu;
    uint8_t head[HEADER], *block;
    qn_writer *w;
    if (vocab < 1 || count < 0) return QN_FAIL(err, QN_ERANGE, "a shard needs a vocabulary of at least 1 and no negative count");
    const int width = vocab <= 65536 ? 2 : 4;
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return QN_FAIL(err, QN_ERANGE, "token %" PRId64 " is %" PRId32 ", outside the vocabulary of %" PRId32, i, ids[i],
                           vocab);
    block = qn_malloc(BLOCK, 4);
    if (block == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for writing %s", path);
    crc_table(table);
    for (int64_t i = 0; i < count; i += BLOCK)
        crc = crc_add(crc, table, block, pack(block, ids + i, qn_min64(BLOCK, count - i), width));
    memcpy(head, magic, 8);
    put_le(head + 8, VERSION, 4);
    put_le(head + 12, (uint64_t)width, 4);
    put_le(head + 16, (uint64_t)count, 8);
    put_le(head + 24, (uint32_t)vocab, 4);
    put_le(head + 28, crc ^ 0xffffffffu, 4);
    qn_status st = qn_writer_open(&w, path, err);
    if (st == QN_OK) {
        qn_writer_put(w, head, HEADER);
        for (int64_t i = 0; i < count; i += BLOCK)
            qn_writer_put(w, block, pack(block, ids + i, qn_min64(BLOCK, count - i), width));
        st = qn_writer_commit(w, err);
    }
    qn_free(block);
    return st;
}

static int32_t token(const qn_tokens *t, int64_t i)
{
    const uint8_t *p = t->data + i * t->width;
    if (t->width == 2) return p[0] | p[1] << 8;
    return (int32_t)((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
}

/* Fills t from the bytes of a shard. */
static qn_status check(qn_tokens *t, const void *data, size_t bytes, const char *path, qn_err *err)
{
    qn_cursor c = qn_cursor_of(bytes > 0 ? data : "", bytes);
    const void *found = qn_cursor_take(&c, sizeof(magic));
    const uint32_t version = qn_cursor_u32(&c), width = qn_cursor_u32(&c);
    const uint64_t count = qn_cursor_u64(&c);
    const uint32_t vocab = qn_cursor_u32(&c), crc = qn_cursor_u32(&c);
    uint32_t table[256];
    if (c.failed || memcmp(found, magic, sizeof(magic)) != 0)
        return QN_FAIL(err, QN_EFORMAT, "%s is not a token shard: it does not start with QNTOKENS and a header of %d bytes", path,
                       HEADER);
    if (version != VERSION)
        return QN_FAIL(err, QN_EFORMAT, "%s has shard version %" PRIu32 "; this program reads version %d", path, version,
                       VERSION);
    if ((width != 2 && width != 4) || vocab < 1 || vocab > INT32_MAX)
        return QN_FAIL(err, QN_EFORMAT,
                       "%s: %" PRIu32 " bytes per token and a vocabulary of %" PRIu32 "; 2 or 4 and 1 to %d are possible", path,
                       width, vocab, INT32_MAX);
    if (count > SIZE_MAX / width || count * width != qn_cursor_left(&c))
        return QN_FAIL(err, QN_EFORMAT,
                       "%s holds %zu bytes of tokens, its header announces %" PRIu64 " tokens of %" PRIu32 " bytes", path,
                       qn_cursor_left(&c), count, width);
    t->data = c.at;
    t->count = (int64_t)count;
    t->vocab = (int32_t)vocab;
    t->width = (int32_t)width;
    crc_table(table);
    if ((crc_add(0xffffffffu, table, t->data, qn_cursor_left(&c)) ^ 0xffffffffu) != crc)
        return QN_FAIL(err, QN_EFORMAT, "%s is damaged: the checksum of its tokens is wrong; make it again", path);
    for (int64_t i = 0; i < t->count; i++) {
        const uint32_t id = (uint32_t)token(t, i);
        if (id >= vocab)
            return QN_FAIL(err, QN_EFORMAT, "%s: token %" PRId64 " is %" PRIu32 ", the vocabulary has %" PRIu32, path, i, id,
                           vocab);
    }
    return QN_OK;
}

qn_status qni_tokens_open_memory(qn_tokens **out, const void *data, size_t bytes, const char *name, qn_err *err)
{
    *out = NULL;
    qn_tokens *t = qn_calloc(1, sizeof(*t));
    if (t == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for the shard %s", name);
    const qn_status st = check(t, data, bytes, name, err);
    if (st == QN_OK)
        *out = t;
    else
        qn_tokens_close(t);
    return st;
}

qn_status qn_tokens_open(qn_tokens **out, const char *path, qn_err *err)
{
    qn_map map;
    *out = NULL;
    qn_status st = qn_map_open(&map, path, err);
    if (st != QN_OK) return st;
    st = qni_tokens_open_memory(out, map.data, map.bytes, path, err);
    if (st == QN_OK)
        (*out)->map = map;
    else
        qn_map_close(&map);
    return st;
}

void qn_tokens_close(qn_tokens *t)
{
    if (t == NULL) return;
    qn_map_close(&t->map);
    qn_free(t);
}

int64_t qn_tokens_count(const qn_tokens *t)
{
    return t->count;
}

int32_t qn_tokens_vocab(const qn_tokens *t)
{
    return t->vocab;
}

int32_t qn_tokens_at(const qn_tokens *t, int64_t i)
{
    QN_ASSERT(i >= 0 && i < t->count);
    return token(t, i);
}

/* floor(9 n / 10) without overflow. */
static int64_t nine_tenths(int64_t n)
{
    return n / 10 * 9 + n % 10 * 9 / 10;
}

qn_split_range qn_tokens_train_part(const qn_tokens *t)
{
    return (qn_split_range){.first = 0, .count = nine_tenths(t->count)};
}

qn_split_range qn_tokens_valid_part(const qn_tokens *t)
{
    const int64_t first = nine_tenths(t->count);
    return (qn_split_range){.first = first, .count = t->count - first};
}
