/* What the tests of devices with little memory share: small models of so many blocks, and their layers dealt out as pieces. */
#ifndef QN_TESTS_DEVICE_RIG_H
#define QN_TESTS_DEVICE_RIG_H

#include "support/trainer_rig.h"

/* A tied GPT-2 with dropout, and a LLaMA. */
#define RIG_DEVICE_MODELS(blocks)                                                                                                \
    {                                                                                                                            \
        {.arch = QN_ARCH_GPT2,                                                                                                   \
         .layers = (blocks),                                                                                                     \
         .heads = 2,                                                                                                             \
         .width = 16,                                                                                                            \
         .context = 8,                                                                                                           \
         .vocab = RIG_VOCAB,                                                                                                     \
         .tied = true,                                                                                                           \
         .dropout = 0.1},                                                                                                        \
            {.arch = QN_ARCH_LLAMA, .layers = (blocks), .heads = 2, .width = 16, .context = 8, .vocab = RIG_VOCAB},              \
    }

/* Pieces dealt to N devices in turn, forward, the last one fused, and backward. */
static inline qn_order *rig_dealt(int32_t N, int32_t pieces, int32_t items)
{
    qn_order *o;
    qn_err err;
    rig_ok(qn_order_open(&o, N, pieces, items, &err), &err);
    rig_ok(qn_order_split_backward(o, &err), &err);
    for (int32_t i = 0; i < 2 * pieces - 1; i++) {
        const int32_t piece = i < pieces ? i : 2 * pieces - 2 - i, w = i % N;
        if (i < pieces) o->worker_of[piece] = w;
        if (i >= pieces - 1) o->backward_of[piece] = w;
        for (int32_t m = 0; m < items; m++) {
            if (i < pieces) qn_order_push(o, w, QN_OP_F, piece, m);
            if (i >= pieces - 1) qn_order_push(o, w, QN_OP_BW, piece, m);
        }
    }
    return o;
}

#endif
