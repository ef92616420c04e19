/* The kernels: every operation a layer is made of, as one table of functions per numeric mode.
 *
 * A kernel sees pointers, sizes and strides, never a tensor or a model. A mode fixes three element types:
 *
 *   mode      act    res    param    what for
 *   F32       f32    f32    f32      training and generation
 *   BF16      bf16   f32    f32      the same with matrix products in bf16, accumulated in f32, f32 master weights
 *   REF_F32   f32    f32    f32      the scalar definition of every operation, one thread, left to right
 *   REF_F64   f64    f64    f64      the same source in double: gradients are checked against it
 *
 * act: inputs and outputs of matrix products (and gradients of their outputs). res: the residual stream, statistics, and
 * gradients of the inputs of matrix products. param: weights, their gradients, optimizer state. In the comments below a type in
 * brackets after a name says which: y [R, C] act.
 *
 * Letters: B samples, T tokens of a sample, R = B * T rows, C width, O outputs, F hidden width of the MLP, H heads, K key/value
 * heads, D width of a head, V vocabulary, P positions already in a cache. All arrays are row-major, the last index fastest, not
 * overlapping unless said. Every kernel accepts R = 0 and allocates nothing; temporary memory comes from ex->scratch.
 *
 * Results do not depend on the number of threads: work is split by output element, and every reduction has a fixed order. A row's
 * result does not depend on how many other rows are in the call. Functions whose name ends in _backward_weight ADD to the
 * gradient (a left fold over micro-batches, design: idea 5); the optimizer clears it. Where they have two gradients (embedding,
 * LayerNorm, linear) either may be NULL: not wanted. */
#ifndef QN_KERNELS_H
#define QN_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/rng.h"
#include "core/team.h"
#include "core/tensor.h"

typedef enum qn_mode { QN_MODE_F32, QN_MODE_BF16, QN_MODE_REF_F32, QN_MODE_REF_F64, QN_MODES } qn_mode;

/* What a linear map reads when it only infers: OWN what the mode trains with, the others a compact form (compact.h). Q8: integers
 * of 8 bits with a scale for each 32, and x rounded likewise in the product. */
typedef enum qn_weights { QN_WEIGHTS_OWN, QN_WEIGHTS_F32, QN_WEIGHTS_BF16, QN_WEIGHTS_Q8, QN_WEIGHTS } qn_weights;

/* A linear map y = x W^T + b with its primitives for one set of sizes. W [O, C] param. Opened at start, one owner, used by
 * one worker at a time. */
typedef struct qn_linear qn_linear;
typedef struct qn_linear_shape {
    int64_t in, out; /* C, O */
    int64_t rows;    /* the most rows of a call */
    int32_t threads; /* of the exec it will be used with */
} qn_linear_shape;

enum { QN_PACK_FORWARD = 1, QN_PACK_BACKWARD = 2 }; /* which copies a pack holds */

/* What the classifier computes in one pass over row blocks; the [R, V] logits never exist as a whole. */
enum {
    QN_CLASS_LOSS = 1,   /* loss sums */
    QN_CLASS_INPUT = 2,  /* dx */
    QN_CLASS_WEIGHT = 4, /* dw += */
};

typedef struct qn_attention_shape {
    int64_t B, T, H, K, D;      /* H % K == 0: grouped queries */
    int64_t ldq, ldk, ldv, ldo; /* row strides in elements of q, k, v, o (and of their gradients) */
    double scale;               /* usually 1 / sqrt(D) */
} qn_attention_shape;

/* The new rows of one sequence with a cache, among those of others. */
typedef struct qn_cached_rows {
    char *cache;   /* of this attention and sequence: cached_bytes, aligned to 64; kept between calls as the kernel left it */
    int64_t first; /* row of q, k, v, o at which its rows begin */
    int64_t T, P;  /* its rows; positions in the cache before them */
} qn_cached_rows;

/* AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with the constants of one step. */
typedef struct qn_adamw {
    double lr, beta1, beta2, eps, decay;
    double correct1, correct2; /* 1 - beta^t */
    double grad_scale;         /* 1 / tokens, times the clipping factor */
    bool keep;                 /* leave g as it is */
} qn_adamw;

typedef struct qn_kernels {
    const char *name; /* "f32/avx512" */
    qn_mode mode;
    qn_dtype act, res, param;

    /* --- embedding: y [R, C] res = wte[tok[r]] + wpe[pos[r]]; wte [V, C], wpe [*, C] param (NULL: none); tok, pos [R], in range
     * (the caller checked). Backward adds rows in ascending r. */
    void (*embedding_forward)(const qn_exec *ex, void *y, const int32_t *tok, const int32_t *pos, const void *wte,
                              const void *wpe, int64_t R, int64_t C);
    void (*embedding_backward_weight)(const qn_exec *ex, void *dwte, void *dwpe, const int32_t *tok, const int32_t *pos,
                                      const void *dy, int64_t R, int64_t C);

    /* --- LayerNorm (Ba et al. 2016, arXiv:1607.06450): y [R, C] act, mean and rstd [R] res, x [R, C] res, w, b [C] param.
     * backward_input: dx [R, C] res (= or +=), dy [R, C] res. */
    void (*layernorm_forward)(const qn_exec *ex, void *y, void *mean, void *rstd, const void *x, const void *w, const void *b,
                              int64_t R, int64_t C, double eps);
    void (*layernorm_backward_input)(const qn_exec *ex, void *dx, const void *dy, const void *x, const void *mean,
                                     const void *rstd, const void *w, int64_t R, int64_t C, bool add);
    void (*layernorm_backward_weight)(const qn_exec *ex, void *dw, void *db, const void *dy, const void *x, const void *mean,
                                      const void *rstd, int64_t R, int64_t C);

    /* --- RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467): as LayerNorm without mean and b. */
    void (*rmsnorm_forward)(const qn_exec *ex, void *y, void *rstd, const void *x, const void *w, int64_t R, int64_t C,
                            double eps);
    void (*rmsnorm_backward_input)(const qn_exec *ex, void *dx, const void *dy, const void *x, const void *rstd, const void *w,
                                   int64_t R, int64_t C, bool add);
    void (*rmsnorm_backward_weight)(const qn_exec *ex, void *dw, const void *dy, const void *x, const void *rstd, int64_t R,
                                    int64_t C);

    /* --- linear. Packed weights are made once per step and serve all its micro-batches.
     * forward: y [R, O] act = x [R, C] act * W^T + b [O] param (NULL: none).
     * backward_input: dx [R, C] res (= or +=) = dy [R, O] act * W.
     * backward_weight: dw [O, C] param += dy^T x, db [O] param += column sums of dy (NULL: none). */
    qn_status (*linear_open)(qn_linear **out, const qn_linear_shape *shape, qn_err *err);
    void (*linear_close)(qn_linear *lin); /* accepts NULL */
    size_t (*linear_packed_bytes)(const qn_linear *lin, unsigned copies);
    size_t (*linear_scratch)(const qn_linear *lin);
    void (*linear_pack)(const qn_exec *ex, qn_linear *lin, void *packed, const void *w, unsigned copies);
    /* adamw of W and, in the same sweep, linear_pack of its new values: the bits of one after the other. w, g, m, v [O, C] param.
     */
    void (*linear_step)(const qn_exec *ex, qn_linear *lin, void *packed, void *w, void *g, void *m, void *v,
                        const qn_adamw *hyper, unsigned copies);
    void (*linear_forward)(const qn_exec *ex, qn_linear *lin, void *y, const void *x, const void *packed, const void *bias,
                           int64_t R);
    void (*linear_backward_input)(const qn_exec *ex, qn_linear *lin, void *dx, const void *dy, const void *packed, int64_t R,
                                  bool add);
    void (*linear_backward_weight)(const qn_exec *ex, qn_linear *lin, void *dw, void *db, const void *dy, const void *x,
                                   int64_t R);

    /* --- classifier on a linear with O = V: loss sum of softmax cross-entropy over the rows whose target >= 0, in ascending
     * row order, added to *loss (a double sum); dx [R, C] res = (softmax - onehot) W; dw [V, C] += . Gradients are those of the
     * SUM; the step divides once. Any combination of what gives the same bits for each of its results. packed holds both copies.
     */
    size_t (*classifier_scratch)(const qn_linear *lin);
    void (*classifier)(const qn_exec *ex, qn_linear *lin, double *loss, void *dx, void *dw, const void *x, const void *packed,
                       const int32_t *target, int64_t R, unsigned what);

    /* --- a shard of the vocabulary (Yeung et al. 2024, arXiv:2411.05288) on a linear with O rows, of which n are rows first ..
     * first + n - 1 of the [V, C] matrix and the others padding (logit -inf).
     * vocab_scores: local softmax p [R, O] act, stats [3, R] res: the largest logit, sum of exp(logit - largest), and the
     * target's logit where the shard has it, else 0. x [R, C] act, packed forward copy. vocab_scale: p = p * factor - onehot, the
     * gradient of the shard's logits; factor [R] res. vocab_fold: what all shards' stats (in shard order) say: factor [R] res of
     * one shard (0 where target < 0; NULL: not asked), loss sum in ascending row order (NULL: not asked). On the calling thread.
     * vocab_join: dy [R, C] res = or += part [R, C] res; with factor, part is [2, R, C] and adds factor * part[0] - part[1]. */
    size_t (*vocab_scratch)(const qn_linear *lin);
    void (*vocab_scores)(const qn_exec *ex, qn_linear *lin, void *p, void *stats, const void *x, const void *packed,
                         const int32_t *target, int64_t first, int64_t n, int64_t R);
    void (*vocab_scale)(const qn_exec *ex, void *p, const void *factor, const int32_t *target, int64_t first, int64_t n,
                        int64_t R, int64_t O);
    void (*vocab_fold)(void *factor, double *loss, const void *const *stats, int32_t shards, int32_t shard, const int32_t *target,
                       int64_t R);
    void (*vocab_join)(const qn_exec *ex, void *dy, const void *part, const void *factor, int64_t R, int64_t C, bool add);

    /* --- look-ups by range: y [R, C] res = w[index[r] - first] where index[r] is one of the n rows from first on, else 0;
     * w [n, C] param. scatter adds the rows of dy [R, C] res back, in ascending r. */
    void (*range_gather)(const qn_exec *ex, void *y, const int32_t *index, int64_t first, int64_t n, const void *w, int64_t R,
                         int64_t C);
    void (*range_scatter)(const qn_exec *ex, void *dw, const int32_t *index, int64_t first, int64_t n, const void *dy, int64_t R,
                          int64_t C);

    /* --- activations, n elements. gelu: tanh form (Hendrycks and Gimpel 2016). x, y, dx act; dy res.
     * swiglu: y = silu(gate) * up (Shazeer 2020, arXiv:2002.05202). */
    void (*gelu_forward)(const qn_exec *ex, void *y, const void *x, int64_t n);
    void (*gelu_backward)(const qn_exec *ex, void *dx, const void *dy, const void *x, int64_t n);
    void (*swiglu_forward)(const qn_exec *ex, void *y, const void *gate, const void *up, int64_t n);
    void (*swiglu_backward)(const qn_exec *ex, void *dgate, void *dup, const void *dy, const void *gate, const void *up,
                            int64_t n);

    /* --- scaling, n elements: y = s x, both act; backward: dx act = s dy res. accumulate: y += x, both act. */
    void (*scale_forward)(const qn_exec *ex, void *y, const void *x, int64_t n, double s);
    void (*scale_backward)(const qn_exec *ex, void *dx, const void *dy, int64_t n, double s);
    void (*accumulate)(const qn_exec *ex, void *y, const void *x, int64_t n);

    /* --- rotary embedding (Su et al. 2021, arXiv:2104.09864), pairs (d, d + D/2) as Hugging Face stores them; y, x [R, H, D] act
     * (may be the same array) with row stride ld; pos [R]. inverse rotates back: it is the backward. */
    void (*rope)(const qn_exec *ex, void *y, const void *x, const int32_t *pos, int64_t R, int64_t H, int64_t D, int64_t ld,
                 double theta, bool inverse);

    /* --- causal attention in blocks, online softmax; no [B, H, T, T] array (Dao et al. 2022, arXiv:2205.14135).
     * q, o [B*T, H*D], k, v [B*T, K*D] act; lse [B, H, T] res. backward: dq, dk, dv act (set, not added), dO res.
     * infer: T new rows of one sample at positions P .. P + T - 1; kcache, vcache [P + T, K*D] act (row stride K*D) hold the new
     * rows already. */
    size_t (*attention_scratch)(const qn_attention_shape *s, int32_t threads);
    void (*attention_forward)(const qn_exec *ex, void *o, void *lse, const void *q, const void *k, const void *v,
                              const qn_attention_shape *s);
    void (*attention_backward)(const qn_exec *ex, void *dq, void *dk, void *dv, const void *dO, const void *o, const void *lse,
                               const void *q, const void *k, const void *v, const qn_attention_shape *s);
    void (*attention_infer)(const qn_exec *ex, void *o, const void *q, const void *kcache, const void *vcache,
                            const qn_attention_shape *s, int64_t P);

    /* The same with caches of the kernel's own layout, in f32 or bf16 (kv), for n sequences at once: each one's new keys and
     * values [T, K*D] act (row strides ldk, ldv) are put into its cache, then its rows attend. s: H, K, D, strides, scale; its B
     * and T are not read. len: positions of a cache, as for cached_bytes. A row's bits depend on its own sequence alone. NULL in
     * tables that train. */
    size_t (*cached_bytes)(const qn_attention_shape *s, int64_t len, qn_dtype kv);
    size_t (*cached_scratch)(const qn_attention_shape *s, int64_t len, int32_t threads);
    void (*attention_cached)(const qn_exec *ex, void *o, const void *q, const void *k, const void *v, const qn_attention_shape *s,
                             const qn_cached_rows *rows, int64_t n, int64_t len, qn_dtype kv);

    /* --- residual join with inverted dropout on the branch: y res = a res + drop(b act), for the elements first .. first +
     * count - 1 of samples of n elements each (y, a, b: these alone); the sample of element e has key->sample + e / n. p = 0: a
     * plain sum. y may be a. backward: db act = drop(dy res); da is dy itself. */
    void (*residual_forward)(const qn_exec *ex, void *y, const void *a, const void *b, int64_t first, int64_t count, int64_t n,
                             double p, const qn_rng_key *key);
    void (*residual_backward)(const qn_exec *ex, void *db, const void *dy, int64_t first, int64_t count, int64_t n, double p,
                              const qn_rng_key *key);
    /* dropout on the residual stream itself (after the embedding): y, x res, y may be x; it is its own backward. */
    void (*dropout)(const qn_exec *ex, void *y, const void *x, int64_t first, int64_t count, int64_t n, double p,
                    const qn_rng_key *key);

    /* --- optimizer. sumsq: of n gradients, in double, fixed order. adamw: one pass over p, g, m, v [n] param; clears g, unless
     * it is to be kept. adamw_undo: what the same call with g kept did to p, m, v, backwards; up to rounding. */
    double (*sumsq)(const qn_exec *ex, const void *g, int64_t n);
    void (*adamw)(const qn_exec *ex, void *p, void *g, void *m, void *v, int64_t n, const qn_adamw *hyper);
    void (*adamw_undo)(const qn_exec *ex, void *p, const void *g, void *m, void *v, int64_t n, const qn_adamw *hyper);
    /* a[i] += b[i], b[i] = 0: the fold of a tied weight's uses, in layer order. */
    void (*fold)(const qn_exec *ex, void *a, void *b, int64_t n);
} qn_kernels;

/* The table of a mode: the best instruction set of this machine, or the one QUERN_ISA (portable, avx2, avx512, avx512_bf16)
 * names. Static storage. Errors: QN_EUNSUPPORTED when QUERN_ISA names one this machine lacks. */
qn_status qn_kernels_get(const qn_kernels **out, qn_mode mode, qn_err *err) QN_MUST_USE;
/* The same for inference with weights of that kind; without backward functions and classifier unless OWN. Modes F32, BF16 and
 * REF_F32 have the compact kinds. Errors: as qn_kernels_get; QN_EINVAL. */
qn_status qn_kernels_infer(const qn_kernels **out, qn_mode mode, qn_weights weights, qn_err *err) QN_MUST_USE;
/* "avx512": what qn_kernels_get chose. */
const char *qn_kernels_isa(void);

#endif
