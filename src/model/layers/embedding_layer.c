/* Layer 0 of a language model: token embedding, for GPT-2 plus learned positions, then dropout. A tensor shard looks up its rows
 * of the table (ops/op_shard_vocab.c). */
#include "model/layer.h"

void qni_build_embedding(qn_build *b)
{
    const qn_model_config *c = &b->m->config;
    const bool gpt2 = c->arch == QN_ARCH_GPT2;
    const char *name = gpt2 ? "transformer.wte.weight" : "model.embed_tokens.weight";
    const int32_t wte = qni_cut_rows(b, qni_table(b, qni_vocab_rows(c), c->width, 0.02, "%s", name));
    const int32_t wpe = gpt2 ? qni_table(b, c->context, c->width, 0.02, "transformer.wpe.weight") : -1;
    const int32_t y = c->shards > 1 ? qni_lookup(b, "embedding", wte, wpe) : qni_embedding(b, "embedding", c->width, wte, wpe);
    if (c->dropout > 0) qni_dropout(b, "dropout", y, c->dropout);
    b->layer->output = y;
}
