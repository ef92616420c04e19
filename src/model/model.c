/* Opening a model: the configuration is checked, then each layer's builder fills in its parameters and operations. */
#include "model/layer.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "core/rng.h"
#include "kernels/shard_sum.h"

/* Bounds that keep every product of sizes inside 64 bits and a layer's index inside the random key. */
enum { MAX_LAYERS = UINT16_MAX - 2, MAX_WIDTH = 1 << 22, MAX_HIDDEN = 1 << 24, MAX_VOCAB = 1 << 28, MAX_CONTEXT = 1 << 28 };

static const double TWO_PI = 6.283185307179586476925286766559;

static qn_status check_size(const char *name, int64_t value, int64_t most, qn_err *err)
{
    if (value >= 1 && value <= most) return QN_OK;
    return QN_FAIL(err, QN_EINVAL, "the model's %s is %lld; 1 to %lld are possible", name, (long long)value, (long long)most);
}

static qn_status check_sizes(const qn_model_config *c, qn_err *err)
{
    qn_status st;
    if (c->arch != QN_ARCH_GPT2 && c->arch != QN_ARCH_LLAMA)
        return QN_FAIL(err, QN_EINVAL, "architecture %d is unknown; gpt2 and llama are possible", (int)c->arch);
    QN_TRY(st, check_size("number of layers", c->layers, MAX_LAYERS, err), out);
    QN_TRY(st, check_size("width", c->width, MAX_WIDTH, err), out);
    QN_TRY(st, check_size("number of heads", c->heads, c->width, err), out);
    QN_TRY(st, check_size("number of key/value heads", c->kv_heads, c->heads, err), out);
    QN_TRY(st, check_size("hidden width", c->hidden, MAX_HIDDEN, err), out);
    QN_TRY(st, check_size("context", c->context, MAX_CONTEXT, err), out);
    QN_TRY(st, check_size("vocabulary", c->vocab, MAX_VOCAB, err), out);
out:
    return st;
}

static qn_status check_heads(const qn_model_config *c, qn_err *err)
{
    if (c->width % c->heads != 0)
        return QN_FAIL(err, QN_EINVAL, "%d heads do not divide the width %d; choose a width that is a multiple of the heads",
                       c->heads, c->width);
    if (c->heads % c->kv_heads != 0)
        return QN_FAIL(err, QN_EINVAL, "%d key/value heads do not divide the %d heads", c->kv_heads, c->heads);
    if (c->arch == QN_ARCH_GPT2 && c->kv_heads != c->heads)
        return QN_FAIL(err, QN_EINVAL, "GPT-2 has as many key/value heads as heads: %d was asked for, %d is possible",
                       c->kv_heads, c->heads);
    if (c->arch == QN_ARCH_LLAMA && c->width / c->heads % 2 != 0)
        return QN_FAIL(err, QN_EINVAL, "a head is %d wide; rotary embedding needs an even width", c->width / c->heads);
    return QN_OK;
}

static qn_status check_numbers(const qn_model_config *c, qn_err *err)
{
    if (!(c->dropout >= 0 && c->dropout < 1))
        return QN_FAIL(err, QN_EINVAL, "dropout is %g; at least 0 and less than 1 is possible", c->dropout);
    if (!(c->norm_eps > 0 && c->norm_eps < 1))
        return QN_FAIL(err, QN_EINVAL, "the norms' epsilon is %g; a number between 0 and 1 is possible", c->norm_eps);
    if (!(c->rope_theta > 0 && isfinite(c->rope_theta)))
        return QN_FAIL(err, QN_EINVAL, "the base of the rotary embedding is %g; it has to be positive", c->rope_theta);
    return QN_OK;
}

static bool shards_fit(const qn_model_config *c, int32_t t)
{
    return c->heads % t == 0 && c->kv_heads % t == 0 && c->hidden % t == 0;
}

static qn_status check_vocab_shards(const qn_model_config *c, qn_err *err)
{
    if (c->vocab_shards < 0 || c->vocab_shards > QN_MAX_VOCAB_SHARDS)
        return QN_FAIL(err, QN_EINVAL, "%d vocabulary shards; 1 to %d are possible, or 0 for none", c->vocab_shards,
                       QN_MAX_VOCAB_SHARDS);
    if (c->vocab_shards * c->shards > QN_MAX_VOCAB_SHARDS)
        return QN_FAIL(err, QN_EINVAL, "%d vocabulary shards of each of %d tensor shards; %d are possible in all",
                       c->vocab_shards, c->shards, QN_MAX_VOCAB_SHARDS);
    return QN_OK;
}

/* Each shard sees its rows alone: what is whole in all of them and used there has a part of its gradient in each. */
static void mark_joined(qn_model *m)
{
    for (int32_t i = 0; i < m->layers; i++) {
        const qn_layer *l = &m->layer[i];
        for (int32_t o = 0; o < l->ops; o++)
            for (int32_t u = 0; l->op[o].sliced && l->op[o].kind->backward_weight != NULL && u < l->op[o].uses; u++)
                if (l->op[o].use[u] >= 0) m->param[m->use[l->op[o].use[u]].param].joined = true;
    }
}

static qn_status check_shards(const qn_model_config *c, qn_err *err)
{
    char fit[128];
    size_t used = 0;
    if (c->sequence && c->shards == 1)
        return QN_FAIL(err, QN_EINVAL, "sequence parallelism cuts the rows between tensor shards: it needs at least 2 of them");
    if (c->shards >= 1 && c->shards <= QN_MAX_SHARDS && shards_fit(c, c->shards)) {
        if (c->shard >= 0 && c->shard < c->shards) return QN_OK;
        return QN_FAIL(err, QN_EINVAL, "shard %d of %d: shards go from 0 to %d", c->shard, c->shards, c->shards - 1);
    }
    for (int32_t t = 1; t <= qn_min32(c->kv_heads, QN_MAX_SHARDS) && used + 8 < sizeof(fit); t++)
        if (shards_fit(c, t)) used += (size_t)snprintf(fit + used, sizeof(fit) - used, "%s%d", used > 0 ? ", " : "", t);
    return QN_FAIL(err, QN_EINVAL,
                   "%d tensor shards do not divide %d heads, %d key/value heads and a hidden width of %d; these do: %s",
                   c->shards, c->heads, c->kv_heads, c->hidden, fit);
}

static void fill_defaults(qn_model_config *c)
{
    if (c->kv_heads == 0) c->kv_heads = c->heads;
    if (c->shards == 0) c->shards = 1;
    if (c->norm_eps == 0) c->norm_eps = 1e-5;
    if (c->rope_theta == 0) c->rope_theta = 10000;
    if (c->hidden == 0 && c->width > 0 && c->width <= MAX_WIDTH) {
        const int32_t four = 4 * c->width;
        c->hidden = c->arch == QN_ARCH_LLAMA ? (2 * four / 3 + 31) / 32 * 32 : four;
    }
}

qn_status qn_model_open(qn_model **out, const qn_model_config *config, qn_err *err)
{
    qn_status st;
    qn_model *m = NULL;
    qn_model_config c = *config;
    *out = NULL;
    fill_defaults(&c);
    QN_TRY(st, check_sizes(&c, err), out);
    QN_TRY(st, check_heads(&c, err), out);
    QN_TRY(st, check_numbers(&c, err), out);
    QN_TRY(st, check_shards(&c, err), out);
    QN_TRY(st, qni_lora_check(&c, err), out);
    QN_TRY(st, check_vocab_shards(&c, err), out);

    m = qn_calloc(1, sizeof(*m));
    if (m != NULL) m->layer = qn_calloc((size_t)c.layers + 2 + (size_t)c.vocab_shards, sizeof(*m->layer));
    qn_build b = {.m = m, .failed = m == NULL || m->layer == NULL};
    if (!b.failed) {
        m->config = c;
        m->layers = c.layers + 2 + c.vocab_shards;
    }
    for (int32_t i = 0; !b.failed && i < m->layers; i++) {
        if (i == c.layers + 2) m->chain_params = m->params;
        b.layer = &m->layer[i];
        b.index = i;
        b.keys = 0;
        b.sliced = c.sequence;
        (void)qni_value(&b, c.width, QN_ELEM_RES); /* value 0: the stream that enters */
        qni_layer_builder(&c, i)(&b);
    }
    if (b.failed) {
        st = QN_FAIL(err, QN_ENOMEM, "no memory for the parameter table of a model of %d layers", c.layers);
        goto out;
    }
    mark_joined(m);
    for (int32_t i = 0; c.lora.rank > 0 && i < m->params; i++) m->param[i].frozen = !m->param[i].adapter;
    *out = m;
    m = NULL;
out:
    qn_model_close(m);
    return st;
}

qn_status qn_model_open_shard(qn_model **out, const qn_model *whole, int32_t shards, int32_t shard, bool sequence, qn_err *err)
{
    qn_model_config c = whole->config;
    c.shards = shards;
    c.shard = shard;
    c.sequence = sequence;
    const qn_status st = qn_model_open(out, &c, err);
    for (int32_t p = 0; st == QN_OK && p < whole->params; p++) (*out)->param[p].frozen = whole->param[p].frozen;
    return st;
}

qn_status qn_model_open_vocab(qn_model **out, const qn_model *whole, int32_t shards, qn_err *err)
{
    qn_model_config c = whole->config;
    c.vocab_shards = shards;
    const qn_status st = qn_model_open(out, &c, err);
    for (int32_t p = 0; st == QN_OK && p < (*out)->params; p++)
        (*out)->param[p].frozen = whole->param[(*out)->param[p].origin].frozen;
    return st;
}

void qn_model_close(qn_model *m)
{
    if (m == NULL) return;
    qn_free(m->layer);
    qn_free(m->param);
    qn_free(m->use);
    qn_free(m);
}

const qn_model_config *qn_model_config_of(const qn_model *m)
{
    return &m->config;
}
int32_t qn_model_layers(const qn_model *m)
{
    return m->layers;
}
int32_t qn_model_chain(const qn_model *m)
{
    return m->config.layers + 2;
}
int32_t qn_model_params(const qn_model *m)
{
    return m->params;
}
int32_t qn_model_uses(const qn_model *m)
{
    return m->uses;
}

const qn_param *qn_model_param(const qn_model *m, int32_t i)
{
    QN_ASSERT(i >= 0 && i < m->params);
    return &m->param[i];
}

const qn_use *qn_model_use(const qn_model *m, int32_t i)
{
    QN_ASSERT(i >= 0 && i < m->uses);
    return &m->use[i];
}

int64_t qn_model_param_count(const qn_model *m)
{
    int64_t n = 0;
    for (int32_t i = 0; i < m->params; i++) n += m->param[i].count;
    return n;
}

int64_t qn_model_matmul_params(const qn_model *m)
{
    int64_t n = 0;
    for (int32_t i = 0; i < m->layers; i++) {
        const qn_layer *l = &m->layer[i];
        for (int32_t o = 0; o < l->ops; o++) {
            if (l->op[o].kind->is_product) n += l->op[o].size[0] * l->op[o].size[1];
        }
    }
    return n;
}

static void store(void *value, qn_dtype dtype, int64_t i, double x)
{
    switch (dtype) {
    case QN_F32:
        ((float *)value)[i] = (float)x;
        break;
    case QN_F64:
        ((double *)value)[i] = (float)x; /* the same start in either precision */
        break;
    case QN_BF16:
        ((qn_bf16 *)value)[i] = qn_f32_to_bf16((float)x);
        break;
    default:
        QN_ASSERT(!"parameters are f32, f64 or bf16");
    }
}

/* Four numbers in (-1, 1) from the four words of block b. */
static void uniform_block(double out[4], const qn_rng_key *key, uint32_t b)
{
    uint32_t word[4];
    qn_rng_block(word, key, b);
    for (int i = 0; i < 4; i++) out[i] = ((double)word[i] + 0.5) * 0x1p-31 - 1;
}

/* Four normal numbers from the four words of block b (Box and Muller 1958): element 4 b + i takes the i-th. */
static void normal_block(double out[4], const qn_rng_key *key, uint32_t b)
{
    uint32_t word[4];
    qn_rng_block(word, key, b);
    for (int i = 0; i < 4; i += 2) {
        const double u = ((double)word[i] + 1) * 0x1p-32; /* (0, 1]: the logarithm stays finite */
        const double radius = sqrt(-2.0 * log(u)), angle = TWO_PI * ((double)word[i + 1] * 0x1p-32);
        out[i] = radius * cos(angle);
        out[i + 1] = radius * sin(angle);
    }
}

void qn_model_init_param(const qn_model *m, int32_t i, uint64_t seed, qn_dtype dtype, void *value)
{
    const qn_param *p = qn_model_param(m, i);
    if (p->init == QN_INIT_ZERO || p->init == QN_INIT_ONE) {
        for (int64_t e = 0; e < p->count; e++) store(value, dtype, e, p->init == QN_INIT_ONE ? 1.0 : 0.0);
        return;
    }
    /* No training step has this number, so these words serve nothing else. The last fields hold the high part of the block index.
     */
    qn_rng_key key = {.seed = seed, .step = UINT32_MAX, .sample = (uint32_t)p->origin};
    const qn_slice *s = &p->slice;
    for (int64_t run = 0, local = 0; run < s->runs; run++) {
        const int64_t first = (run * s->shards + s->shard) * s->length;
        for (int64_t e = first; e < first + s->length;) { /* e: element of the full parameter */
            double x[4];
            const uint64_t block = (uint64_t)e / 4;
            key.layer = (uint16_t)(block >> 48);
            key.op = (uint16_t)(block >> 32);
            if (p->init == QN_INIT_NORMAL)
                normal_block(x, &key, (uint32_t)block);
            else
                uniform_block(x, &key, (uint32_t)block);
            const int64_t end = qn_min64((int64_t)(block + 1) * 4, first + s->length);
            for (; e < end; e++, local++) store(value, dtype, local, local < p->real ? p->init_std * x[e & 3] : 0.0);
        }
    }
}

/* Padding is no part of the full one. */
static void move_slice(const qn_param *p, char *part, char *full, size_t element, bool take)
{
    const qn_slice *s = &p->slice;
    const size_t bytes = (size_t)s->length * element, padding = (size_t)(p->count - p->real) * element;
    if (take && padding > 0) memset(part + (size_t)p->real * element, 0, padding);
    if (p->real == 0) return;
    full += (size_t)s->shard * bytes;
    for (int64_t run = 0; run < s->runs; run++, part += bytes, full += (size_t)s->shards * bytes)
        memcpy(take ? part : full, take ? full : part, bytes - padding); /* what is padded has one run */
}

void qn_param_take(const qn_param *p, void *part, const void *full, size_t element)
{
    move_slice(p, part, (char *)full, element, true); /* only read */
}

void qn_param_put(const qn_param *p, void *full, const void *part, size_t element)
{
    move_slice(p, (char *)part, full, element, false); /* only read */
}
