/* Building a layer: parameters, values and operations are appended in the order of the recipe in layers/<kind>.c.
 *
 * A recipe is code, not input: one with too many values or operations, or with a name that does not fit, is a programming error.
 */
#include "model/layer.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"

/* Room for one more element of an array that doubles. */
static bool grow(void **array, int32_t *cap, int32_t used, size_t size)
{
    if (used < *cap) return true;
    const int32_t more = *cap == 0 ? 64 : *cap * 2;
    void *p = qn_realloc(*array, (size_t)more, size);
    if (p == NULL) return false;
    *array = p;
    *cap = more;
    return true;
}

static int32_t add_use(qn_build *b, int32_t param)
{
    qn_model *m = b->m;
    if (b->failed || !grow((void **)&m->use, &m->uses_cap, m->uses, sizeof(*m->use))) {
        b->failed = true;
        return -1;
    }
    m->use[m->uses] = (qn_use){.param = param, .layer = b->index};
    return m->uses++;
}

static int32_t add_param(qn_build *b, qn_param p, const char *fmt, va_list args)
{
    qn_model *m = b->m;
    if (b->failed || !grow((void **)&m->param, &m->params_cap, m->params, sizeof(*m->param))) {
        b->failed = true;
        return -1;
    }
    const int n = vsnprintf(p.name, sizeof(p.name), fmt, args);
    QN_ASSERT(n > 0 && (size_t)n < sizeof(p.name));
    p.layer = b->index;
    p.count = p.rank == 2 ? p.dim[0] * p.dim[1] : p.dim[0];
    p.decay = p.rank == 2;
    p.slice = (qn_slice){.shards = 1, .runs = 1, .length = p.count};
    p.origin = m->params + (m->config.vocab_shards > 0); /* the embedding comes first in the whole model */
    p.real = p.count;
    m->param[m->params] = p;
    return add_use(b, m->params++);
}

static int32_t add_named(qn_build *b, qn_param p, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    const int32_t use = add_param(b, p, fmt, args);
    va_end(args);
    return use;
}

int32_t qni_matrix(qn_build *b, int64_t out, int64_t in, double std, bool transposed, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    const qn_param p = {.rank = 2, .dim = {out, in}, .file_transposed = transposed, .init = QN_INIT_NORMAL, .init_std = std};
    const int32_t use = add_param(b, p, fmt, args);
    va_end(args);
    return use;
}

int32_t qni_table(qn_build *b, int64_t rows, int64_t width, double std, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    const qn_param p = {.rank = 2, .dim = {rows, width}, .init = QN_INIT_NORMAL, .init_std = std};
    const int32_t use = add_param(b, p, fmt, args);
    va_end(args);
    return use;
}

int32_t qni_adapter(qn_build *b, int64_t out, int64_t in, qn_init init, const char *fmt, const char *module)
{
    const qn_param p = {.rank = 2, .dim = {out, in}, .init = init, .init_std = 1 / sqrt((double)in), .adapter = true};
    return add_named(b, p, fmt, module);
}

int32_t qni_vector(qn_build *b, int64_t n, qn_init init, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    const int32_t use = add_param(b, (qn_param){.rank = 1, .dim = {n, 1}, .init = init}, fmt, args);
    va_end(args);
    return use;
}

static void cut(qn_build *b, int32_t use, int32_t axis, int64_t runs)
{
    const qn_model_config *c = &b->m->config;
    qn_param *p = &b->m->param[b->m->use[use].param];
    QN_ASSERT(p->slice.shards == 1 && p->dim[axis] % c->shards == 0);
    p->dim[axis] /= c->shards;
    p->count /= c->shards;
    p->real = p->count;
    QN_ASSERT(p->count % runs == 0);
    p->slice = (qn_slice){.shards = c->shards, .shard = c->shard, .runs = runs, .length = p->count / runs};
}

int32_t qni_cut_out(qn_build *b, int32_t use, int32_t blocks)
{
    if (!b->failed && b->m->config.shards > 1) cut(b, use, 0, blocks);
    return use;
}

int32_t qni_cut_in(qn_build *b, int32_t use)
{
    if (!b->failed && b->m->config.shards > 1) cut(b, use, 1, b->m->param[b->m->use[use].param].dim[0]);
    return use;
}

/* Shard `shard` of so many of a table of V rows; rows from V on are padding. */
static void take_rows(qn_param *p, const qn_model_config *c, int32_t shards, int32_t shard)
{
    const int64_t left = ((int64_t)c->vocab - shard * p->dim[0]) * p->dim[1];
    p->slice = (qn_slice){.shards = shards, .shard = shard, .runs = 1, .length = p->count};
    p->real = qn_max64(0, qn_min64(p->count, left));
}

int32_t qni_rows(qn_build *b, int32_t use, int32_t shard, bool head)
{
    const qn_model_config *c = &b->m->config;
    if (b->failed) return use;
    qn_param *p = &b->m->param[b->m->use[use].param];
    p->origin = head ? b->m->chain_params + 1 : 0;
    take_rows(p, c, c->vocab_shards * c->shards, c->shard * c->vocab_shards + shard);
    return use;
}

int64_t qni_vocab_rows(const qn_model_config *c)
{
    const int64_t shards = (int64_t)c->shards * qn_max32(c->vocab_shards, 1);
    return (c->vocab + shards - 1) / shards;
}

int32_t qni_cut_rows(qn_build *b, int32_t use)
{
    const qn_model_config *c = &b->m->config;
    if (!b->failed && c->shards > 1) take_rows(&b->m->param[b->m->use[use].param], c, c->shards, c->shard);
    return use;
}

int32_t qni_again(qn_build *b, int32_t use)
{
    return b->failed ? -1 : add_use(b, b->m->use[use].param);
}

int32_t qni_value(qn_build *b, int64_t width, qn_elem elem)
{
    qn_layer *l = b->layer;
    QN_ASSERT(l->values < QN_LAYER_VALUES);
    l->value[l->values] = (qn_value){.width = width, .elem = elem, .sliced = b->sliced};
    return l->values++;
}

qn_op *qni_op(qn_build *b, const qn_op_kind *kind, const char *label)
{
    qn_layer *l = b->layer;
    QN_ASSERT(l->ops < QN_LAYER_OPS);
    qn_op *op = &l->op[l->ops++];
    *op = (qn_op){.kind = kind, .key = b->keys, .sliced = b->sliced};
    b->keys += !kind->of_shards;
    const int n = snprintf(op->name, sizeof(op->name), "%d.%s", (int)b->index, label);
    QN_ASSERT(n > 0 && (size_t)n < sizeof(op->name));
    return op;
}

void qni_op_in(qn_op *op, qn_ref ref)
{
    QN_ASSERT(op->ins < QN_OP_INS);
    op->in[op->ins++] = ref;
}

void qni_op_out(qn_op *op, int32_t value)
{
    QN_ASSERT(op->outs < QN_OP_OUTS);
    op->out[op->outs++] = qni_whole(value);
}

void qni_op_use(qn_op *op, int32_t use)
{
    QN_ASSERT(op->uses < QN_OP_USES);
    op->use[op->uses++] = use;
}
