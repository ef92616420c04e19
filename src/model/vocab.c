/* See vocab.h. */
#include "vocab.h"

#include <string.h>

#include "core/arena.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "stage.h"

static const qn_op *op_of(const qn_stage *s)
{
    return &s->layer[0].layer->op[0];
}

typedef struct range { /* rows of the vocabulary; n of them real */
    int64_t first, rows, n;
} range;

/* Shards of all tensor shards, which follow each other; and the number of a stage among them. */
static int32_t shards_of(const qn_model_config *c)
{
    return c->vocab_shards * c->shards;
}

static int32_t shard_of(const qn_stage *side)
{
    const qn_model_config *c = &side->m->config;
    return c->shard * c->vocab_shards + side->first - c->layers - 2;
}

static range range_of(const qn_stage *s)
{
    const qn_model_config *c = &s->m->config;
    range r = {.rows = op_of(s)->size[1]};
    r.first = shard_of(s) * r.rows;
    r.n = qn_max64(0, qn_min64(r.rows, c->vocab - r.first));
    return r;
}

static const char *packed_of(const qn_stage *s)
{
    return (const char *)s->packed + s->layer[0].op[0].packed_offset;
}

static size_t begin(const qn_stage *s, const qn_mb *mb, bool side)
{
    QN_ASSERT(mb->B >= 0 && mb->T >= 0 && mb->B <= s->limits.B && mb->T <= s->limits.T);
    QN_ASSERT(s->m->config.vocab_shards > 0 && side == (s->first >= s->m->config.layers + 2));
    return qn_arena_mark(s->ex->scratch);
}

qn_vocab_sizes qn_vocab_sizes_of(const qn_model *m, const qn_kernels *k, int64_t rows, int32_t algorithm)
{
    const qn_model_config *c = &m->config;
    const int64_t O = qni_vocab_rows(c);
    const size_t act = qn_dtype_bytes(k->act), res = qn_dtype_bytes(k->res), stream = (size_t)(rows * c->width);
    return (qn_vocab_sizes){.x = stream * act,
                            .p = (size_t)(rows * O) * act,
                            .stats = (size_t)(3 * rows) * res,
                            .dx = stream * res * (algorithm == 2 ? 2 : 1),
                            .part = stream * res};
}

int32_t qn_vocab_use(const qn_model *m, int32_t shard, bool lookups)
{
    return m->layer[m->config.layers + 2 + shard].op[0].use[lookups];
}

void qn_vocab_scores(qn_stage *s, const qn_mb *mb, void *p, void *stats, void *dx, const void *x)
{
    const size_t mark = begin(s, mb, true);
    const qn_kernels *k = s->k;
    const int64_t R = mb->B * mb->T, C = op_of(s)->size[0];
    const stage_op *so = &s->layer[0].op[0];
    const range v = range_of(s);
    k->vocab_scores(s->ex, so->lin, p, stats, x, packed_of(s), mb->targets, v.first, v.n, R);
    if (dx != NULL) {
        k->linear_backward_input(s->ex, so->lin, dx, p, packed_of(s), R, false);
        k->range_gather(s->ex, (char *)dx + (size_t)(R * C) * qn_dtype_bytes(k->res), mb->targets, v.first, v.n, so->w[0], R, C);
    }
    qn_arena_release(s->ex->scratch, mark);
}

void qn_vocab_gradients(qn_stage *s, const qn_mb *mb, void *dx, void *p, const void *x, const void *const *stats)
{
    const size_t mark = begin(s, mb, true);
    const qn_kernels *k = s->k;
    const int64_t R = mb->B * mb->T;
    const stage_op *so = &s->layer[0].op[0];
    const range v = range_of(s);
    void *factor = qn_arena_push(s->ex->scratch, (size_t)R, qn_dtype_bytes(k->res), QN_CACHE_LINE);
    QN_ASSERT(factor != NULL || R == 0);
    k->vocab_fold(factor, mb->loss, stats, shards_of(&s->m->config), shard_of(s), mb->targets, R);
    void *const dw = so->dw[0]; /* NULL: frozen */
    if (dx != NULL || dw != NULL) k->vocab_scale(s->ex, p, factor, mb->targets, v.first, v.n, R, v.rows);
    if (dx != NULL) k->linear_backward_input(s->ex, so->lin, dx, p, packed_of(s), R, false);
    if (dw != NULL) k->linear_backward_weight(s->ex, so->lin, dw, NULL, p, x, R);
    qn_arena_release(s->ex->scratch, mark);
}

void qn_vocab_loss(const qn_stage *s, const qn_mb *mb, const void *const *stats)
{
    s->k->vocab_fold(NULL, mb->loss, stats, shards_of(&s->m->config), 0, mb->targets, mb->B * mb->T);
}

void qn_vocab_lookup(qn_stage *s, const qn_mb *mb, void *part)
{
    const range v = range_of(s);
    s->k->range_gather(s->ex, part, mb->tokens, v.first, v.n, s->layer[0].op[0].w[1], mb->B * mb->T, op_of(s)->size[0]);
}

void qn_vocab_scatter(qn_stage *s, const qn_mb *mb, const void *dpart)
{
    const range v = range_of(s);
    void *const dw = s->layer[0].op[0].dw[1];
    if (dw != NULL) s->k->range_scatter(s->ex, dw, mb->tokens, v.first, v.n, dpart, mb->B * mb->T, op_of(s)->size[0]);
}

void qn_vocab_input(const qn_stage *s, const qn_mb *mb, void *x, const void *const *part)
{
    const qn_model_config *c = &s->m->config;
    const size_t row = (size_t)c->width * qn_dtype_bytes(s->k->res);
    const int64_t rows = qni_vocab_rows(c), first = (int64_t)c->shard * c->vocab_shards; /* of this tensor shard's */
    for (int64_t r = 0; r < mb->B * mb->T; r++) {
        const int64_t k = mb->tokens[r] / rows - first;
        char *to = (char *)x + (size_t)r * row;
        if (k >= 0 && k < c->vocab_shards)
            memcpy(to, (const char *)part[k] + (size_t)r * row, row);
        else
            memset(to, 0, row);
    }
}

void qn_vocab_join(const qn_stage *s, const qn_mb *mb, void *dy, const void *const *dx, const void *const *stats)
{
    const size_t mark = begin(s, mb, false);
    const qn_kernels *k = s->k;
    const int64_t R = mb->B * mb->T;
    const qn_model_config *c = &s->m->config;
    void *factor = stats != NULL ? qn_arena_push(s->ex->scratch, (size_t)R, qn_dtype_bytes(k->res), QN_CACHE_LINE) : NULL;
    QN_ASSERT(factor != NULL || stats == NULL || R == 0);
    for (int32_t i = 0; i < c->vocab_shards; i++) {
        if (stats != NULL) k->vocab_fold(factor, NULL, stats, shards_of(c), c->shard * c->vocab_shards + i, mb->targets, R);
        k->vocab_join(s->ex, dy, dx[i], factor, R, c->width, i > 0);
    }
    qn_arena_release(s->ex->scratch, mark);
}
