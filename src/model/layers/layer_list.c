/* The list of layers: which builder makes layer i of a chain. A new kind of layer is a file beside this one and a line here. */
#include "model/layer.h"

#include "core/compiler.h"

static qn_layer_builder *const block_of[] = {
    [QN_ARCH_GPT2] = qni_build_gpt2_block,
    [QN_ARCH_LLAMA] = qni_build_llama_block,
};

qn_layer_builder *qni_layer_builder(const qn_model_config *c, int32_t i)
{
    QN_ASSERT((size_t)c->arch < QN_COUNT(block_of));
    if (i > c->layers + 1) return qni_build_vocab_shard;
    if (c->vocab_shards > 0 && (i == 0 || i > c->layers)) return i == 0 ? qni_build_vocab_input : qni_build_vocab_norm;
    if (i == 0) return qni_build_embedding;
    return i <= c->layers ? block_of[c->arch] : qni_build_lm_head;
}
