/* Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): y = x W^T + (alpha / rank) (x A^T) B^T for chosen products of a block, W
 * frozen, A [rank, in] and B [out, rank] trained. Names are those of Hugging Face's peft. In a tensor shard an adapter is cut as
 * its product is: B by outputs, or A by inputs; the other matrix is whole in every shard.
 *
 *   short   LLaMA              GPT-2
 *   q       self_attn.q_proj   attn.c_attn, which holds q, k and v in one matrix: any of the three names all of it
 *   k       self_attn.k_proj   attn.c_attn
 *   v       self_attn.v_proj   attn.c_attn
 *   o       self_attn.o_proj   attn.c_proj
 *   gate    mlp.gate_proj      -
 *   up      mlp.up_proj        mlp.c_fc
 *   down    mlp.down_proj      mlp.c_proj */
#ifndef QN_MODEL_LORA_H
#define QN_MODEL_LORA_H

#include "model/model.h"

enum { QN_LORA_MODULES = 7 }; /* the most modules of a block */

/* The set of targets that the names stand for: short names, module names ("q_proj", "attn.c_proj"), or "all-linear". A name
 * stands for every module whose name ends with it, as in peft. Errors: QN_EINVAL (a name that the architecture lacks, with the
 * nearest and with those there are; no name at all). */
qn_status qn_lora_targets(uint32_t *out, qn_arch arch, const char *const *name, int32_t names, qn_err *err) QN_MUST_USE;

/* The modules of a set, as peft's target_modules names them; returns how many. */
int32_t qn_lora_modules(const char *out[QN_LORA_MODULES], qn_arch arch, uint32_t targets);

#endif
