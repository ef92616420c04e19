/* A block of LLaMA (Touvron et al. 2023, arXiv:2302.13971) with grouped queries (Ainslie et al. 2023, arXiv:2305.13245): RMSNorm,
 * rotary positions, SwiGLU, no biases. Names as Hugging Face's LlamaForCausalLM. With t shards each holds H / t heads, K / t key
 * heads and F / t hidden units. */
#include "model/layer.h"

#include <math.h>

void qni_build_llama_block(qn_build *b)
{
    const qn_model_config *c = &b->m->config;
    const int32_t n = b->index - 1;
    const int64_t C = c->width, F = c->hidden, H = c->heads, K = c->kv_heads, D = C / H, t = c->shards;
    const double std = 0.02, join = std / sqrt(2.0 * c->layers);

    const int32_t q_w = qni_cut_out(b, qni_matrix(b, H * D, C, std, false, "model.layers.%d.self_attn.q_proj.weight", n), 1);
    const int32_t k_w = qni_cut_out(b, qni_matrix(b, K * D, C, std, false, "model.layers.%d.self_attn.k_proj.weight", n), 1);
    const int32_t v_w = qni_cut_out(b, qni_matrix(b, K * D, C, std, false, "model.layers.%d.self_attn.v_proj.weight", n), 1);
    const int32_t o_w = qni_cut_in(b, qni_matrix(b, C, H * D, join, false, "model.layers.%d.self_attn.o_proj.weight", n));
    const int32_t gate_w = qni_cut_out(b, qni_matrix(b, F, C, std, false, "model.layers.%d.mlp.gate_proj.weight", n), 1);
    const int32_t up_w = qni_cut_out(b, qni_matrix(b, F, C, std, false, "model.layers.%d.mlp.up_proj.weight", n), 1);
    const int32_t down_w = qni_cut_in(b, qni_matrix(b, C, F, join, false, "model.layers.%d.mlp.down_proj.weight", n));
    const int32_t norm1_w = qni_vector(b, C, QN_INIT_ONE, "model.layers.%d.input_layernorm.weight", n);
    const int32_t norm2_w = qni_vector(b, C, QN_INIT_ONE, "model.layers.%d.post_attention_layernorm.weight", n);

    const int32_t x = 0;
    const int32_t a = qni_shard_in(b, "attn.shards", qni_rmsnorm(b, "input_layernorm", x, norm1_w, c->norm_eps));
    const int32_t q = qni_linear(b, "q_proj", a, H / t * D, q_w, -1);
    const int32_t k = qni_linear(b, "k_proj", a, K / t * D, k_w, -1);
    const int32_t v = qni_linear(b, "v_proj", a, K / t * D, v_w, -1);
    qni_rope(b, "rope.q", q, H / t, D, c->rope_theta); /* in place: nothing reads the values before rotation again */
    qni_rope(b, "rope.k", k, K / t, D, c->rope_theta);
    const int32_t o = qni_attention(b, "attention", qni_whole(q), qni_whole(k), qni_whole(v), H / t, K / t, D);
    const int32_t mid = qni_residual(b, "attn.join", x, qni_linear_sum(b, "o_proj", o, C, o_w, -1), c->dropout);

    const int32_t m = qni_shard_in(b, "mlp.shards", qni_rmsnorm(b, "post_attention_layernorm", mid, norm2_w, c->norm_eps));
    const int32_t gate = qni_linear(b, "gate_proj", m, F / t, gate_w, -1);
    const int32_t up = qni_linear(b, "up_proj", m, F / t, up_w, -1);
    const int32_t h = qni_swiglu(b, "swiglu", gate, up);
    b->layer->output = qni_residual(b, "mlp.join", mid, qni_linear_sum(b, "down_proj", h, C, down_w, -1), c->dropout);
}
