/* The layers of a model whose vocabulary is cut into shards (model/vocab.h): its first and last layer without the matrices, and
 * a shard's side layer with its rows of them. */
#include "model/layer.h"

void qni_build_vocab_input(qn_build *b)
{
    const qn_model_config *c = &b->m->config;
    const bool gpt2 = c->arch == QN_ARCH_GPT2;
    const int32_t wpe = gpt2 ? qni_table(b, c->context, c->width, 0.02, "transformer.wpe.weight") : -1;
    const int32_t y = c->shards > 1 ? qni_lookup_sum(b, 0, wpe) : qni_position(b, "position", 0, wpe);
    if (c->dropout > 0) qni_dropout(b, "dropout", y, c->dropout);
    b->layer->output = y;
}

void qni_build_vocab_norm(qn_build *b)
{
    const qn_model_config *c = &b->m->config;
    const int64_t C = c->width;
    int32_t v;
    if (c->arch == QN_ARCH_GPT2) {
        const int32_t w = qni_vector(b, C, QN_INIT_ONE, "transformer.ln_f.weight");
        const int32_t bias = qni_vector(b, C, QN_INIT_ZERO, "transformer.ln_f.bias");
        v = qni_layernorm(b, "ln_f", 0, w, bias, c->norm_eps);
    } else {
        v = qni_rmsnorm(b, "norm", 0, qni_vector(b, C, QN_INIT_ONE, "model.norm.weight"), c->norm_eps);
    }
    b->layer->output = qni_shard_in(b, "vocabulary.shards", v);
    b->layer->off_stream = true;
}

/* Names as in the whole model, with the shard's number behind. */
void qni_build_vocab_shard(qn_build *b)
{
    const qn_model_config *c = &b->m->config;
    const int32_t shard = b->index - c->layers - 2;
    const int64_t rows = qni_vocab_rows(c);
    const char *table = c->arch == QN_ARCH_GPT2 ? "transformer.wte.weight" : "model.embed_tokens.weight";
    const int32_t in = qni_rows(b, qni_table(b, rows, c->width, 0.02, "%s:%d", table, shard), shard, false);
    const int32_t out = c->tied
                            ? qni_again(b, in)
                            : qni_rows(b, qni_matrix(b, rows, c->width, 0.02, false, "lm_head.weight:%d", shard), shard, true);
    qni_vocabulary(b, "vocabulary", rows, out, in);
    b->layer->output = -1;
}
