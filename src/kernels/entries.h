/* The entries of the kernel table by the code that provides them, and what that code is called.
 *
 * An entry called E is the function qni_E_<suffix>; its prototype is taken from the table itself, so the two cannot drift apart.
 * Suffixes: ref_f32, ref_f64 (the references), <type of act>_<instruction set> (cpu/lanes_*.c), f32 and bf16 (oneDNN). */
#ifndef QN_KERNELS_ENTRIES_H
#define QN_KERNELS_ENTRIES_H

#include "kernels.h"

/* Element-wise and row-wise kernels that touch res and param only: the same function in every mode. */
#define QN_RES_ENTRIES(X, suffix)                                                                                                \
    X(embedding_forward, suffix)                                                                                                 \
    X(embedding_backward_weight, suffix)                                                                                         \
    X(layernorm_backward_input, suffix)                                                                                          \
    X(layernorm_backward_weight, suffix)                                                                                         \
    X(rmsnorm_backward_input, suffix)                                                                                            \
    X(rmsnorm_backward_weight, suffix)                                                                                           \
    X(dropout, suffix)                                                                                                           \
    X(sumsq, suffix)                                                                                                             \
    X(adamw, suffix)                                                                                                             \
    X(adamw_undo, suffix)                                                                                                        \
    X(fold, suffix)                                                                                                              \
    X(vocab_join, suffix)                                                                                                        \
    X(range_gather, suffix)                                                                                                      \
    X(range_scatter, suffix)

/* The others of that kind, which read or write act. */
#define QN_ACT_ENTRIES(X, suffix)                                                                                                \
    X(layernorm_forward, suffix)                                                                                                 \
    X(rmsnorm_forward, suffix)                                                                                                   \
    X(gelu_forward, suffix)                                                                                                      \
    X(gelu_backward, suffix)                                                                                                     \
    X(swiglu_forward, suffix)                                                                                                    \
    X(swiglu_backward, suffix)                                                                                                   \
    X(scale_forward, suffix)                                                                                                     \
    X(scale_backward, suffix)                                                                                                    \
    X(accumulate, suffix)                                                                                                        \
    X(rope, suffix)                                                                                                              \
    X(residual_forward, suffix)                                                                                                  \
    X(residual_backward, suffix)                                                                                                 \
    X(vocab_scale, suffix)

#define QN_ATTENTION_ENTRIES(X, suffix)                                                                                          \
    X(attention_scratch, suffix)                                                                                                 \
    X(attention_forward, suffix)                                                                                                 \
    X(attention_backward, suffix)                                                                                                \
    X(attention_infer, suffix)

#define QN_CACHED_ENTRIES(X, suffix)                                                                                             \
    X(cached_bytes, suffix)                                                                                                      \
    X(cached_scratch, suffix)                                                                                                    \
    X(attention_cached, suffix)

#define QN_LINEAR_ENTRIES(X, suffix)                                                                                             \
    X(linear_open, suffix)                                                                                                       \
    X(linear_close, suffix)                                                                                                      \
    X(linear_packed_bytes, suffix)                                                                                               \
    X(linear_scratch, suffix)                                                                                                    \
    X(linear_pack, suffix)                                                                                                       \
    X(linear_step, suffix)                                                                                                       \
    X(linear_forward, suffix)                                                                                                    \
    X(linear_backward_input, suffix)                                                                                             \
    X(linear_backward_weight, suffix)                                                                                            \
    X(classifier_scratch, suffix)                                                                                                \
    X(classifier, suffix)                                                                                                        \
    X(vocab_scratch, suffix)                                                                                                     \
    X(vocab_scores, suffix)                                                                                                      \
    X(vocab_fold, suffix)

#define QN_ALL_ENTRIES(X, suffix)                                                                                                \
    QN_RES_ENTRIES(X, suffix)                                                                                                    \
    QN_ACT_ENTRIES(X, suffix)                                                                                                    \
    QN_ATTENTION_ENTRIES(X, suffix)                                                                                              \
    QN_CACHED_ENTRIES(X, suffix)                                                                                                 \
    QN_LINEAR_ENTRIES(X, suffix)

/* The two things done with a list: a prototype, and an initialiser of the table. */
#define QN_ENTRY_PASTE(name, suffix)   qni_##name##_##suffix
#define QN_ENTRY_NAME(name, suffix)    QN_ENTRY_PASTE(name, suffix)
#define QN_ENTRY_DECLARE(name, suffix) QN_TYPEOF(*((qn_kernels *)0)->name) QN_ENTRY_NAME(name, suffix);
#define QN_ENTRY_FILL(name, suffix)    .name = QN_ENTRY_NAME(name, suffix),

#endif
