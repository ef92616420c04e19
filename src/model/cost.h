/* What the layers of a model cost, and the cuts that follow from it before anything was measured.
 *
 * Counted are the floating-point operations of matrix products and attention; everything else is bound by memory and small beside
 * them. This header stands without the kernels, for planning on machines that are not there. */
#ifndef QN_MODEL_COST_H
#define QN_MODEL_COST_H

#include <stdint.h>

#include "quern/status.h"

typedef struct qn_model qn_model;

typedef struct qn_layer_flops {
    int64_t forward; /* F */
    int64_t input;   /* B: input gradient (for the head also the loss) */
    int64_t weight;  /* W: weight gradients; BW is input + weight */
} qn_layer_flops;

/* Cost of layer i of the chain for B samples of T tokens; attention counts its causal half. */
qn_layer_flops qn_layer_cost(const qn_model *m, int32_t layer, int64_t B, int64_t T);

/* Cuts the chain into contiguous stages: stage s holds the layers cut[s] .. cut[s + 1] - 1. cut [stages + 1] out.
 * The largest cost F + B + W of a stage is as small as possible; among such cuts the sum of squares is, then the earlier layers
 * lie on the earlier stages. No stage is empty unless there are more stages than layers: then those before the last are,
 * which keeps the last layer (a model's head) on the last stage.
 * Cost: layers^2 * stages. Errors: QN_EINVAL (stages < 1), QN_ENOMEM. */
qn_status qn_model_default_cuts(const qn_model *m, int64_t B, int64_t T, int32_t stages, int32_t *cut, qn_err *err) QN_MUST_USE;

/* The same for costs given by the caller (measured ones, say): cost [layers], each at least 0. */
qn_status qn_cuts_of_costs(const int64_t *cost, int32_t layers, int32_t stages, int32_t *cut, qn_err *err) QN_MUST_USE;

#endif
