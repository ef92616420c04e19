/* Architectures "llama" and "gpt2" of GGUF.
 *
 * Two things differ from Hugging Face's files: GPT-2's matrices are [out, in] as in memory; and LLaMA's rows of queries and keys
 * are in pairs (2 i, 2 i + 1) of a head, where Hugging Face, and Quern, have (i, i + D / 2). */
#include "gguf_model.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"

enum { NAME = 160 };

/* --- configuration; a failure sticks, so that the callers read on and look once */
typedef struct reader {
    const qn_gguf *f;
    const char *arch;
    qn_status status;
    qn_err *err;
} reader;

static const char *key_of(char buf[NAME], const reader *r, const char *key)
{
    snprintf(buf, NAME, "%s.%s", r->arch, key);
    return buf;
}

/* otherwise < 0: the key is needed. */
static int32_t read_size(reader *r, const char *key, int32_t otherwise)
{
    char name[NAME];
    int64_t n = otherwise;
    const bool there = qn_gguf_has(r->f, key_of(name, r, key));
    if (r->status != QN_OK || (!there && otherwise >= 0)) return otherwise;
    if (there && qn_gguf_integer(&n, r->f, name) && n >= 1 && n <= INT32_MAX) return (int32_t)n;
    r->status = there ? QN_FAIL(r->err, QN_EFORMAT, "key %s is no whole number from 1 to %d", name, INT32_MAX)
                      : QN_FAIL(r->err, QN_EFORMAT, "key %s is missing; a whole number is wanted", name);
    return 1;
}

static double read_real(reader *r, const char *key, double otherwise)
{
    char name[NAME];
    double x = otherwise;
    if (qn_gguf_has(r->f, key_of(name, r, key)) && !qn_gguf_real(&x, r->f, name) && r->status == QN_OK)
        r->status = QN_FAIL(r->err, QN_EFORMAT, "key %s is no number", name);
    return x;
}

static void refuse_scaling(reader *r)
{
    char name[NAME];
    qn_gguf_text kind;
    const bool scaled = qn_gguf_text_of(&kind, r->f, key_of(name, r, "rope.scaling.type")) &&
                        !(kind.bytes == 4 && memcmp(kind.at, "none", 4) == 0);
    if (r->status == QN_OK &&
        (scaled || qn_gguf_find(r->f, "rope_freqs.weight") != NULL || read_real(r, "rope.scale_linear", 1) != 1))
        r->status = QN_FAIL(r->err, QN_EUNSUPPORTED, "the file scales its rotary embedding; plain ones are supported");
}

static void read_llama(reader *r, qn_model_config *c)
{
    c->arch = QN_ARCH_LLAMA;
    c->kv_heads = read_size(r, "attention.head_count_kv", c->heads);
    c->norm_eps = read_real(r, "attention.layer_norm_rms_epsilon", 1e-6);
    c->rope_theta = read_real(r, "rope.freq_base", 10000);
    refuse_scaling(r);
    const int32_t width = c->heads > 0 ? c->width / c->heads : 0, rope = read_size(r, "rope.dimension_count", width);
    if (r->status == QN_OK && rope != width)
        r->status = QN_FAIL(r->err, QN_EUNSUPPORTED, "llama.rope.dimension_count is %d; the width of a head, %d, is supported",
                            rope, width);
    if (r->status == QN_OK && read_size(r, "expert_count", 0) > 0)
        r->status = QN_FAIL(r->err, QN_EUNSUPPORTED, "the file holds a mixture of experts; dense models are supported");
}

static void read_gpt2(reader *r, qn_model_config *c)
{
    c->arch = QN_ARCH_GPT2;
    c->kv_heads = c->heads;
    c->norm_eps = read_real(r, "attention.layer_norm_epsilon", 1e-5);
}

qn_status qni_gguf_config(qn_model_config *out, const qn_gguf *f, qn_err *err)
{
    qn_gguf_text arch;
    if (!qn_gguf_text_of(&arch, f, "general.architecture"))
        return QN_FAIL(err, QN_EFORMAT, "key general.architecture is missing; llama or gpt2 is wanted");
    const bool llama = arch.bytes == 5 && memcmp(arch.at, "llama", 5) == 0,
               gpt2 = arch.bytes == 4 && memcmp(arch.at, "gpt2", 4) == 0;
    if (!llama && !gpt2)
        return QN_FAIL(err, QN_EUNSUPPORTED, "general.architecture is '%.*s'; llama and gpt2 are supported",
                       (int)(arch.bytes < 64 ? arch.bytes : 64), arch.at);
    const qn_gguf_tensor *table = qn_gguf_find(f, "token_embd.weight");
    if (table == NULL || table->shape.rank != 2 || table->shape.dim[0] > INT32_MAX)
        return QN_FAIL(err, QN_EFORMAT, "tensor token_embd.weight is missing or no matrix; the embedding table is wanted");
    reader r = {.f = f, .arch = llama ? "llama" : "gpt2", .status = QN_OK, .err = err};
    *out = (qn_model_config){.vocab = (int32_t)table->shape.dim[0], .tied = qn_gguf_find(f, "output.weight") == NULL};
    out->layers = read_size(&r, "block_count", -1);
    out->heads = read_size(&r, "attention.head_count", -1);
    out->width = read_size(&r, "embedding_length", -1);
    out->hidden = read_size(&r, "feed_forward_length", -1);
    out->context = read_size(&r, "context_length", -1);
    if (llama)
        read_llama(&r, out);
    else
        read_gpt2(&r, out);
    return r.status;
}

/* --- tensors */
typedef struct name_pair {
    const char *hugging_face, *gguf;
} name_pair;

static const name_pair llama_block[] = {
    {"input_layernorm.weight", "attn_norm.weight"},    {"self_attn.q_proj.weight", "attn_q.weight"},
    {"self_attn.k_proj.weight", "attn_k.weight"},      {"self_attn.v_proj.weight", "attn_v.weight"},
    {"self_attn.o_proj.weight", "attn_output.weight"}, {"post_attention_layernorm.weight", "ffn_norm.weight"},
    {"mlp.gate_proj.weight", "ffn_gate.weight"},       {"mlp.up_proj.weight", "ffn_up.weight"},
    {"mlp.down_proj.weight", "ffn_down.weight"},       {NULL, NULL}};
static const name_pair gpt2_block[] = {{"ln_1.weight", "attn_norm.weight"},
                                       {"ln_1.bias", "attn_norm.bias"},
                                       {"attn.c_attn.weight", "attn_qkv.weight"},
                                       {"attn.c_attn.bias", "attn_qkv.bias"},
                                       {"attn.c_proj.weight", "attn_output.weight"},
                                       {"attn.c_proj.bias", "attn_output.bias"},
                                       {"ln_2.weight", "ffn_norm.weight"},
                                       {"ln_2.bias", "ffn_norm.bias"},
                                       {"mlp.c_fc.weight", "ffn_up.weight"},
                                       {"mlp.c_fc.bias", "ffn_up.bias"},
                                       {"mlp.c_proj.weight", "ffn_down.weight"},
                                       {"mlp.c_proj.bias", "ffn_down.bias"},
                                       {NULL, NULL}};
static const name_pair ends[] = {{"model.embed_tokens.weight", "token_embd.weight"},
                                 {"model.norm.weight", "output_norm.weight"},
                                 {"transformer.wte.weight", "token_embd.weight"},
                                 {"transformer.wpe.weight", "position_embd.weight"},
                                 {"transformer.ln_f.weight", "output_norm.weight"},
                                 {"transformer.ln_f.bias", "output_norm.bias"},
                                 {"lm_head.weight", "output.weight"},
                                 {NULL, NULL}};

static const char *translate(const name_pair *list, const char *name)
{
    for (; list->gguf != NULL; list++)
        if (strcmp(list->hugging_face, name) == 0) return list->gguf;
    return NULL;
}

/* The file's name of a parameter; false when there is none. */
static bool gguf_name(char out[NAME], const char *name)
{
    int layer, at = 0;
    const name_pair *block = llama_block;
    if (sscanf(name, "model.layers.%d.%n", &layer, &at) != 1 || at == 0) {
        at = 0;
        block = gpt2_block;
        if (sscanf(name, "transformer.h.%d.%n", &layer, &at) != 1) at = 0;
    }
    const char *found = at > 0 ? translate(block, name + at) : translate(ends, name);
    if (found == NULL) return false;
    if (at > 0)
        snprintf(out, NAME, "blk.%d.%s", layer, found);
    else
        snprintf(out, NAME, "%s", found);
    return true;
}

/* Rows of each head from pairs to halves. */
static qn_status unpair_rows(float *w, int64_t rows, int64_t columns, int64_t heads, qn_err *err)
{
    const int64_t D = rows / heads;
    float *head = qn_malloc((size_t)(D * columns), sizeof(float));
    if (head == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for a head of %" PRId64 " rows", D);
    for (int64_t h = 0; h < heads; h++) {
        float *at = w + h * D * columns;
        memcpy(head, at, (size_t)(D * columns) * sizeof(float));
        for (int64_t i = 0; i < D; i++)
            memcpy(at + (i % 2 * (D / 2) + i / 2) * columns, head + i * columns, (size_t)columns * sizeof(float));
    }
    qn_free(head);
    return QN_OK;
}

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

static qn_status read_param(float *value, const qn_param *p, const qn_model_config *c, const qn_gguf *f, qn_err *err)
{
    char name[NAME];
    if (!gguf_name(name, p->name)) return QN_FAIL(err, QN_EINTERNAL, "parameter %s has no name in a GGUF file", p->name);
    const qn_gguf_tensor *t = qn_gguf_find(f, name);
    if (t == NULL) return QN_FAIL(err, QN_EFORMAT, "tensor %s is missing; it is the model's %s", name, p->name);
    bool same = t->shape.rank == p->rank;
    for (int32_t i = 0; same && i < p->rank; i++) same = t->shape.dim[i] == p->dim[i];
    if (!same)
        return QN_FAIL(err, QN_EFORMAT,
                       "tensor %s has %d dimensions and %" PRId64 " elements; [%" PRId64 ", %" PRId64 "] is wanted", name,
                       t->shape.rank, t->count, p->dim[0], p->rank == 2 ? p->dim[1] : 1);
    qn_status st = qn_gguf_read_f32(value, t, 0, p->count, err);
    if (st == QN_OK && ends_with(p->name, ".q_proj.weight")) st = unpair_rows(value, p->dim[0], p->dim[1], c->heads, err);
    if (st == QN_OK && ends_with(p->name, ".k_proj.weight")) st = unpair_rows(value, p->dim[0], p->dim[1], c->kv_heads, err);
    return st;
}

/* A tensor that no parameter reads would change what the model says. */
static qn_status refuse_unknown(const qn_model *m, const qn_gguf *f, qn_err *err)
{
    for (int32_t i = 0; i < qn_gguf_tensors(f); i++) {
        const char *found = qn_gguf_tensor_at(f, i)->name;
        char name[NAME];
        bool known = false;
        for (int32_t p = 0; p < qn_model_params(m) && !known; p++)
            known = gguf_name(name, qn_model_param(m, p)->name) && strcmp(name, found) == 0;
        if (!known)
            return QN_FAIL(err, QN_EUNSUPPORTED, "tensor %s is no parameter of a plain %s model", found,
                           qn_model_config_of(m)->arch == QN_ARCH_LLAMA ? "LLaMA" : "GPT-2");
    }
    return QN_OK;
}

qn_status qni_gguf_values(float *const *value, const qn_model *m, const qn_gguf *f, qn_err *err)
{
    qn_status st = refuse_unknown(m, f, err);
    for (int32_t i = 0; st == QN_OK && i < qn_model_params(m); i++)
        st = read_param(value[i], qn_model_param(m, i), qn_model_config_of(m), f, err);
    return st;
}
