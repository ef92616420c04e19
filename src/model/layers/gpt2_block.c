/* A block of GPT-2 (Radford et al. 2019): x + attention(norm(x)), then the same with a two-layer MLP. Names as Hugging Face's
 * GPT2LMHeadModel, whose Conv1D matrices lie transposed in the file. With t shards each holds H / t heads and F / t hidden units.
 */
#include "model/layer.h"

#include <math.h>

void qni_build_gpt2_block(qn_build *b)
{
    const qn_model_config *c = &b->m->config;
    const int32_t n = b->index - 1;
    const int64_t C = c->width, F = c->hidden, H = c->heads, t = c->shards, A = C / t; /* A: attention columns of this shard */
    const double std = 0.02, join = std / sqrt(2.0 * c->layers);                       /* residual projections start smaller */

    const int32_t ln1_w = qni_vector(b, C, QN_INIT_ONE, "transformer.h.%d.ln_1.weight", n);
    const int32_t ln1_b = qni_vector(b, C, QN_INIT_ZERO, "transformer.h.%d.ln_1.bias", n);
    const int32_t qkv_w = qni_cut_out(b, qni_matrix(b, 3 * C, C, std, true, "transformer.h.%d.attn.c_attn.weight", n), 3);
    const int32_t qkv_b = qni_cut_out(b, qni_vector(b, 3 * C, QN_INIT_ZERO, "transformer.h.%d.attn.c_attn.bias", n), 3);
    const int32_t out_w = qni_cut_in(b, qni_matrix(b, C, C, join, true, "transformer.h.%d.attn.c_proj.weight", n));
    const int32_t out_b = qni_vector(b, C, QN_INIT_ZERO, "transformer.h.%d.attn.c_proj.bias", n);
    const int32_t ln2_w = qni_vector(b, C, QN_INIT_ONE, "transformer.h.%d.ln_2.weight", n);
    const int32_t ln2_b = qni_vector(b, C, QN_INIT_ZERO, "transformer.h.%d.ln_2.bias", n);
    const int32_t fc_w = qni_cut_out(b, qni_matrix(b, F, C, std, true, "transformer.h.%d.mlp.c_fc.weight", n), 1);
    const int32_t fc_b = qni_cut_out(b, qni_vector(b, F, QN_INIT_ZERO, "transformer.h.%d.mlp.c_fc.bias", n), 1);
    const int32_t proj_w = qni_cut_in(b, qni_matrix(b, C, F, join, true, "transformer.h.%d.mlp.c_proj.weight", n));
    const int32_t proj_b = qni_vector(b, C, QN_INIT_ZERO, "transformer.h.%d.mlp.c_proj.bias", n);

    const int32_t x = 0;
    int32_t v = qni_layernorm(b, "ln_1", x, ln1_w, ln1_b, c->norm_eps);
    v = qni_shard_in(b, "attn.shards", v);
    v = qni_linear(b, "c_attn", v, 3 * A, qkv_w, qkv_b);
    v = qni_attention(b, "attention", (qn_ref){v, 0}, (qn_ref){v, A}, (qn_ref){v, 2 * A}, H / t, H / t, C / H);
    v = qni_linear_sum(b, "attn.c_proj", v, C, out_w, out_b);
    const int32_t mid = qni_residual(b, "attn.join", x, v, c->dropout);

    v = qni_layernorm(b, "ln_2", mid, ln2_w, ln2_b, c->norm_eps);
    v = qni_shard_in(b, "mlp.shards", v);
    v = qni_linear(b, "c_fc", v, F / t, fc_w, fc_b);
    v = qni_gelu(b, "gelu", v);
    v = qni_linear_sum(b, "mlp.c_proj", v, C, proj_w, proj_b);
    b->layer->output = qni_residual(b, "mlp.join", mid, v, c->dropout);
}
