/* Which products of a block may have an adapter, and the operations of one.
 *
 *   a = x A^T        linear           [R, rank]
 *   c = s a          scale            [R, rank], s = alpha / rank
 *   y += c B^T       adapter, in place in the product's own output
 *
 * The scale stands between the two products, so that both gradients come out right by themselves: dB = dy^T c, da = s dy B. */
#include "model/lora.h"

#include <stdio.h>
#include <string.h>

#include "core/compiler.h"
#include "model/layer.h"
#include "quern/config.h"

enum { LORA_Q = 1, LORA_K = 2, LORA_V = 4, LORA_O = 8, LORA_GATE = 16, LORA_UP = 32, LORA_DOWN = 64 };

typedef struct module {
    const char *path;    /* how the parameter's name ends, without ".weight" */
    const char *name;    /* in adapter_config.json: as short as is clear */
    const char *letters; /* short names, separated by spaces */
    uint32_t bit;        /* of the set */
} module;

static const module llama_modules[] = {
    {"self_attn.q_proj", "q_proj", "q", LORA_Q},       {"self_attn.k_proj", "k_proj", "k", LORA_K},
    {"self_attn.v_proj", "v_proj", "v", LORA_V},       {"self_attn.o_proj", "o_proj", "o", LORA_O},
    {"mlp.gate_proj", "gate_proj", "gate", LORA_GATE}, {"mlp.up_proj", "up_proj", "up", LORA_UP},
    {"mlp.down_proj", "down_proj", "down", LORA_DOWN},
};
static const module gpt2_modules[] = {
    {"attn.c_attn", "c_attn", "q k v", LORA_Q},
    {"attn.c_proj", "attn.c_proj", "o", LORA_O},
    {"mlp.c_fc", "c_fc", "up", LORA_UP},
    {"mlp.c_proj", "mlp.c_proj", "down", LORA_DOWN},
};

static const module *modules_of(qn_arch arch, int32_t *count)
{
    *count = arch == QN_ARCH_GPT2 ? QN_COUNT(gpt2_modules) : QN_COUNT(llama_modules);
    return arch == QN_ARCH_GPT2 ? gpt2_modules : llama_modules;
}

/* Whether path is name, or ends with it behind a dot. */
static bool ends_at_dot(const char *path, const char *name)
{
    const size_t n = strlen(path), k = strlen(name);
    return n >= k && strcmp(path + n - k, name) == 0 && (n == k || path[n - k - 1] == '.');
}

static bool has_word(const char *words, const char *word)
{
    const size_t k = strlen(word);
    for (const char *at = words; k > 0 && (at = strstr(at, word)) != NULL; at++)
        if ((at == words || at[-1] == ' ') && (at[k] == '\0' || at[k] == ' ')) return true;
    return false;
}

static uint32_t bits_of(qn_arch arch, const char *name)
{
    int32_t n;
    uint32_t bits = 0;
    const module *list = modules_of(arch, &n);
    for (int32_t i = 0; i < n; i++)
        if (name[0] != '\0' &&
            (has_word(list[i].letters, name) || ends_at_dot(list[i].path, name) || strcmp(name, "all-linear") == 0))
            bits |= list[i].bit;
    return bits;
}

static qn_status refuse(qn_arch arch, const char *name, qn_err *err)
{
    static const char *const llama[] = {"q",      "k",      "v",      "o",       "gate",      "up",        "down",      "q_proj",
                                        "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj", "all-linear"};
    static const char *const gpt2[] = {"q",      "k",    "v",      "o",           "up",         "down",
                                       "c_attn", "c_fc", "c_proj", "attn.c_proj", "mlp.c_proj", "all-linear"};
    const bool is_gpt2 = arch == QN_ARCH_GPT2;
    const char *near = is_gpt2 ? qn_nearest(name, gpt2, QN_COUNT(gpt2)) : qn_nearest(name, llama, QN_COUNT(llama));
    return QN_FAIL(err, QN_EINVAL, "'%s' is no LoRA target of %s%s%s%s; there are %s", name, is_gpt2 ? "gpt2" : "llama",
                   near != NULL ? " (did you mean '" : "", near != NULL ? near : "", near != NULL ? "'?)" : "",
                   is_gpt2 ? "q, k, v (all three: c_attn), o (attn.c_proj), up (c_fc), down (mlp.c_proj), all-linear"
                           : "q, k, v, o, gate, up, down, q_proj ... down_proj, all-linear");
}

qn_status qn_lora_targets(uint32_t *out, qn_arch arch, const char *const *name, int32_t names, qn_err *err)
{
    *out = 0;
    if (names < 1) return QN_FAIL(err, QN_EINVAL, "LoRA needs at least one target, such as q,v");
    for (int32_t i = 0; i < names; i++) {
        const uint32_t bits = bits_of(arch, name[i]);
        if (bits == 0) return refuse(arch, name[i], err);
        *out |= bits;
    }
    return QN_OK;
}

int32_t qn_lora_modules(const char *out[QN_LORA_MODULES], qn_arch arch, uint32_t targets)
{
    int32_t n, used = 0;
    const module *list = modules_of(arch, &n);
    for (int32_t i = 0; i < n; i++)
        if (targets & list[i].bit) out[used++] = list[i].name;
    return used;
}

/* Whether the matrix of that name is a target. */
static bool is_target(const qn_model_config *c, const char *name)
{
    char path[sizeof(((qn_param *)0)->name)];
    int32_t n;
    const module *list = modules_of(c->arch, &n);
    const char *end = strstr(name, ".weight");
    if (c->lora.rank == 0 || end == NULL) return false;
    snprintf(path, sizeof(path), "%.*s", (int)(end - name), name);
    for (int32_t i = 0; i < n; i++)
        if ((c->lora.targets & list[i].bit) && ends_at_dot(path, list[i].path)) return true;
    return false;
}

qn_status qni_lora_check(const qn_model_config *c, qn_err *err)
{
    const qn_lora *l = &c->lora;
    int32_t most = c->width < c->hidden ? c->width : c->hidden;
    if (l->rank == 0) return QN_OK;
    if (l->rank < 0 || l->rank > most)
        return QN_FAIL(err, QN_EINVAL, "a LoRA rank of %d; 1 to %d, the smaller side of the model's matrices, are possible",
                       l->rank, most);
    if (!(l->alpha > 0 && l->alpha < 1e6))
        return QN_FAIL(err, QN_EINVAL, "a LoRA alpha of %g; a positive number is needed (often the rank, or twice the rank)",
                       l->alpha);
    if (l->targets == 0) return QN_FAIL(err, QN_EINVAL, "LoRA needs at least one target, such as q,v");
    return QN_OK;
}

/* An adapter is cut as its product is. Where that holds a part of its outputs, so does B, and all of A is in every shard; where
 * it holds a part of its inputs, so does A, and B is in every shard: the shards' outputs are summed with the product's. What
 * every shard has sees a part of the gradient. */
static void cut_adapter(qn_build *b, int32_t w, int32_t A, int32_t B, bool inputs)
{
    const qn_model_config *c = &b->m->config;
    if (b->failed || c->shards == 1) return;
    if (inputs)
        (void)qni_cut_in(b, A);
    else
        (void)qni_cut_out(b, B, (int32_t)b->m->param[b->m->use[w].param].slice.runs);
    b->m->param[b->m->use[inputs ? B : A].param].joined = true;
}

void qni_lora(qn_build *b, const char *label, int32_t x, int32_t y, int32_t w, bool inputs)
{
    const qn_model_config *c = &b->m->config;
    const qn_lora *l = &c->lora;
    char name[sizeof(((qn_param *)0)->name)], op[sizeof(((qn_op *)0)->name)];
    if (b->failed || w < 0) return;
    snprintf(name, sizeof(name), "%s", b->m->param[b->m->use[w].param].name);
    if (!is_target(c, name)) return;
    *strstr(name, ".weight") = '\0';
    const int64_t in = b->layer->value[x].width * (inputs ? c->shards : 1),
                  out = b->layer->value[y].width * (inputs ? 1 : c->shards); /* of all shards */
    const int32_t A = qni_adapter(b, l->rank, in, QN_INIT_UNIFORM, "%s.lora_A.weight", name);
    const int32_t B = qni_adapter(b, out, l->rank, QN_INIT_ZERO, "%s.lora_B.weight", name);
    cut_adapter(b, w, A, B, inputs);
    const int32_t keys = b->keys; /* the dropout of the layer stays what it is without adapters */
    snprintf(op, sizeof(op), "%.20s.A", label);
    int32_t v = qni_linear(b, op, x, l->rank, A, -1);
    snprintf(op, sizeof(op), "%.20s.scale", label);
    v = qni_scale(b, op, v, l->alpha / l->rank);
    snprintf(op, sizeof(op), "%.20s.B", label);
    qni_adapt(b, op, y, v, B);
    b->keys = keys;
}
