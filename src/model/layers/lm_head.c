/* The last layer: final norm, then the classifier over the vocabulary. F runs the norm alone; loss and gradients of the
 * classifier are computed in one pass of B, so that the [R, V] logits never exist as a whole. A tensor shard has its rows of the
 * output matrix (ops/op_shard_vocab.c). */
#include "model/layer.h"

void qni_build_lm_head(qn_build *b)
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
    const int32_t use = c->tied ? qni_again(b, 0) /* the embedding table: use 0 of every chain */
                                : qni_cut_rows(b, qni_matrix(b, qni_vocab_rows(c), C, 0.02, false, "lm_head.weight"));
    if (c->shards > 1)
        qni_classifier_shard(b, "classifier", qni_shard_in(b, "classifier.shards", v), use);
    else
        qni_classifier(b, "classifier", v, c->vocab, use);
    b->layer->output = -1;
}
