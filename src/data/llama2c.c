/* llama2.c's checkpoint, version 0.
 *
 *   28 bytes of header, then f32 tensors, each over all layers:
 *   token_embedding [V, C] | rms_att [L, C] | wq [L, C, C] | wk [L, K, C] | wv [L, K, C] | wo [L, C, C] | rms_ffn [L, C] |
 *   w1 [L, H, C] | w2 [L, C, H] | w3 [L, H, C] | rms_final [C] | two rotary tables [T, D / 2] | classifier [V, C] if not tied
 *
 * K = C * kv_heads / heads, D = C / heads. llama2.c rotates neighbours (2 i, 2 i + 1) of a head, Hugging Face's layout halves
 * (i, i + D / 2): reading q and k moves row 2 i to i and row 2 i + 1 to i + D / 2 within each head. */
#include "data/llama2c.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/cursor.h"
#include "core/io.h"
#include "data/llama2c_internal.h"

enum { HEADER_BYTES = 28, MAX_SIDE = 1 << 24, PARTS = 14 };

/* In file order. layered: one matrix for each layer. heads: rows are to be permuted, 1: query heads, 2: KV heads. */
typedef struct part {
    const char *name; /* behind "model.layers.N." if layered; NULL: skipped */
    bool layered;
    int heads;
    int64_t rows, cols; /* of one matrix */
    size_t at;          /* first float */
} part;

struct qn_llama2c {
    qn_llama2c_header h;
    qn_map map;
    const uint8_t *data; /* behind the header */
    part part[PARTS];
};

static bool side(int32_t n)
{
    return n > 0 && n <= MAX_SIDE;
}

static qn_status read_header(qn_llama2c_header *h, qn_cursor *c, const char *name, qn_err *err)
{
    int32_t n[7];
    for (int i = 0; i < 7; i++) n[i] = (int32_t)qn_cursor_u32(c);
    if (c->failed)
        return QN_FAIL(err, QN_EFORMAT, "%s is too short for a llama2.c checkpoint: its header alone has %d bytes", name,
                       HEADER_BYTES);
    *h = (qn_llama2c_header){
        .width = n[0], .hidden = n[1], .layers = n[2], .heads = n[3], .kv_heads = n[4], .vocab = n[5], .context = n[6]};
    h->tied = h->vocab > 0;
    if (!h->tied && h->vocab > -MAX_SIDE) h->vocab = -h->vocab;
    if (!side(h->width) || !side(h->hidden) || !side(h->layers) || !side(h->heads) || !side(h->kv_heads) || !side(h->vocab) ||
        !side(h->context) || h->width % h->heads != 0 || h->width / h->heads % 2 != 0 || h->heads % h->kv_heads != 0)
        return QN_FAIL(err, QN_EFORMAT,
                       "%s is no llama2.c checkpoint of version 0: width %" PRId32 ", hidden %" PRId32 ", layers %" PRId32
                       ", heads %" PRId32 ", KV heads %" PRId32 ", vocabulary %" PRId32 ", context %" PRId32 " cannot be",
                       name, n[0], n[1], n[2], n[3], n[4], n[5], n[6]);
    return QN_OK;
}

/* Floats of all parts; false on overflow. */
static bool lay_out(qn_llama2c *f, size_t *floats)
{
    const qn_llama2c_header *h = &f->h;
    const int64_t C = h->width, D = C / h->heads, K = D * h->kv_heads, V = h->vocab, H = h->hidden;
    const part parts[PARTS] = {
        {"model.embed_tokens.weight", false, 0, V, C, 0},
        {"input_layernorm.weight", true, 0, 1, C, 0},
        {"self_attn.q_proj.weight", true, 1, C, C, 0},
        {"self_attn.k_proj.weight", true, 2, K, C, 0},
        {"self_attn.v_proj.weight", true, 0, K, C, 0},
        {"self_attn.o_proj.weight", true, 0, C, C, 0},
        {"post_attention_layernorm.weight", true, 0, 1, C, 0},
        {"mlp.gate_proj.weight", true, 0, H, C, 0},
        {"mlp.down_proj.weight", true, 0, C, H, 0},
        {"mlp.up_proj.weight", true, 0, H, C, 0},
        {"model.norm.weight", false, 0, 1, C, 0},
        {NULL, false, 0, h->context, D / 2, 0}, /* cosines */
        {NULL, false, 0, h->context, D / 2, 0}, /* sines */
        {"lm_head.weight", false, 0, h->tied ? 0 : V, C, 0},
    };
    *floats = 0;
    for (int i = 0; i < PARTS; i++) {
        size_t n;
        f->part[i] = parts[i];
        f->part[i].at = *floats;
        if (!qn_mul_size(&n, (size_t)parts[i].rows, (size_t)parts[i].cols) ||
            !qn_mul_size(&n, n, parts[i].layered ? (size_t)h->layers : 1) || !qn_add_size(floats, *floats, n))
            return false;
    }
    return true;
}

qn_status qni_llama2c_open_memory(qn_llama2c **out, const void *data, size_t bytes, const char *name, qn_err *err)
{
    qn_cursor c = qn_cursor_of(bytes > 0 ? data : "", bytes);
    size_t floats = 0, wanted = 0;
    *out = NULL;
    qn_llama2c *f = qn_calloc(1, sizeof(*f));
    if (f == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for the checkpoint %s", name);
    qn_status st = read_header(&f->h, &c, name, err);
    f->data = c.at;
    if (st == QN_OK && (!lay_out(f, &floats) || !qn_mul_size(&wanted, floats, 4) || !qn_add_size(&wanted, wanted, HEADER_BYTES)))
        st = QN_FAIL(err, QN_EFORMAT, "%s: its header describes more weights than can be addressed", name);
    if (st == QN_OK && wanted != bytes)
        st = QN_FAIL(err, QN_EFORMAT, "%s has %zu bytes; its header wants %zu: it is %s", name, bytes, wanted,
                     bytes < wanted ? "cut short" : "not of version 0, or something was added");
    if (st == QN_OK)
        *out = f;
    else
        qn_llama2c_close(f);
    return st;
}

qn_status qn_llama2c_open(qn_llama2c **out, const char *path, qn_err *err)
{
    qn_map map;
    *out = NULL;
    qn_status st = qn_map_open(&map, path, err);
    if (st != QN_OK) return st;
    st = qni_llama2c_open_memory(out, map.data, map.bytes, path, err);
    if (st == QN_OK)
        (*out)->map = map;
    else
        qn_map_close(&map);
    return st;
}

void qn_llama2c_close(qn_llama2c *f)
{
    if (f == NULL) return;
    qn_map_close(&f->map);
    qn_free(f);
}

const qn_llama2c_header *qn_llama2c_header_of(const qn_llama2c *f)
{
    return &f->h;
}

/* The part of that name and its layer (0 when it has none), or NULL. */
static const part *find(const qn_llama2c *f, const char *name, int32_t *layer)
{
    char full[96];
    int32_t n = 0;
    int used = 0;
    *layer = 0;
    const char *rest = name;
    if (sscanf(name, "model.layers.%8" SCNd32 ".%n", &n, &used) == 1 && used > 0 && n >= 0 && n < f->h.layers) rest = name + used;
    if (rest != name) { /* only the plain spelling of the number */
        snprintf(full, sizeof(full), "model.layers.%" PRId32 ".", n);
        if (strncmp(full, name, strlen(full)) != 0) return NULL;
        *layer = n;
    }
    for (int i = 0; i < PARTS; i++) {
        const part *p = &f->part[i];
        if (p->name != NULL && p->rows > 0 && p->layered == (rest != name) && strcmp(p->name, rest) == 0) return p;
    }
    return NULL;
}

qn_status qn_llama2c_read(float *out, const qn_llama2c *f, const char *name, int64_t count, qn_err *err)
{
    int32_t layer;
    const part *p = find(f, name, &layer);
    if (p == NULL)
        return QN_FAIL(err, QN_ENOENT, "a llama2.c checkpoint of %" PRId32 " layers has no tensor %s", f->h.layers, name);
    if (count != p->rows * p->cols)
        return QN_FAIL(err, QN_ERANGE, "%s has %" PRId64 " numbers (%" PRId64 " x %" PRId64 "), %" PRId64 " are asked for", name,
                       p->rows * p->cols, p->rows, p->cols, count);
    const uint8_t *from = f->data + 4 * (p->at + (size_t)layer * (size_t)count);
    const int64_t half = f->h.width / f->h.heads / 2;
    for (int64_t r = 0; r < p->rows; r++) {
        const int64_t d = r % (2 * half); /* row within its head */
        const int64_t to = p->heads == 0 ? r : r - d + d / 2 + d % 2 * half;
        qn_cursor c = qn_cursor_of(from + 4 * r * p->cols, (size_t)(4 * p->cols));
        for (int64_t i = 0; i < p->cols; i++) out[to * p->cols + i] = qn_cursor_f32(&c);
    }
    return QN_OK;
}
