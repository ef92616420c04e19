/* What the fast tables are made of: prototypes of every fast kernel, one set per instruction set. dispatch.c joins them. */
#ifndef QN_KERNELS_FAST_H
#define QN_KERNELS_FAST_H

#include "core/compiler.h"
#include "entries.h"

/* cpu/lanes_*.c. Kernels that do not touch act exist once, under f32. */
#define QN_FAST_DECLARE(isa)                                                                                                     \
    QN_RES_ENTRIES(QN_ENTRY_DECLARE, f32_##isa)                                                                                  \
    QN_ACT_ENTRIES(QN_ENTRY_DECLARE, f32_##isa)                                                                                  \
    QN_ACT_ENTRIES(QN_ENTRY_DECLARE, bf16_##isa)                                                                                 \
    QN_CACHED_ENTRIES(QN_ENTRY_DECLARE, f32_##isa)                                                                               \
    QN_CACHED_ENTRIES(QN_ENTRY_DECLARE, bf16_##isa)                                                                              \
    QN_ATTENTION_ENTRIES(QN_ENTRY_DECLARE, f32_##isa)                                                                            \
    QN_ATTENTION_ENTRIES(QN_ENTRY_DECLARE, bf16_##isa)

QN_FAST_DECLARE(portable)
#if defined(__x86_64__)
QN_FAST_DECLARE(avx2)
QN_FAST_DECLARE(avx512)
QN_ATTENTION_ENTRIES(QN_ENTRY_DECLARE, bf16_avx512_bf16) /* avx512 and products of bf16 pairs */
#endif

/* oneDNN (linear_dnnl.c, classifier_dnnl.c). The handle carries the type it was opened with; everything else serves both. */
qn_status qni_dnnl_linear_open_f32(qn_linear **out, const qn_linear_shape *shape, qn_err *err);
qn_status qni_dnnl_linear_open_bf16(qn_linear **out, const qn_linear_shape *shape, qn_err *err);
void qni_dnnl_linear_close(qn_linear *lin);
size_t qni_dnnl_linear_packed_bytes(const qn_linear *lin, unsigned copies);
size_t qni_dnnl_linear_scratch(const qn_linear *lin);
void qni_dnnl_linear_pack(const qn_exec *ex, qn_linear *lin, void *packed, const void *w, unsigned copies);
void qni_dnnl_linear_step(const qn_exec *ex, qn_linear *lin, void *packed, void *w, void *g, void *m, void *v,
                          const qn_adamw *hyper, unsigned copies);
void qni_dnnl_linear_forward(const qn_exec *ex, qn_linear *lin, void *y, const void *x, const void *packed, const void *bias,
                             int64_t R);
void qni_dnnl_linear_backward_input(const qn_exec *ex, qn_linear *lin, void *dx, const void *dy, const void *packed, int64_t R,
                                    bool add);
void qni_dnnl_linear_backward_weight(const qn_exec *ex, qn_linear *lin, void *dw, void *db, const void *dy, const void *x,
                                     int64_t R);
size_t qni_dnnl_classifier_scratch(const qn_linear *lin);
void qni_dnnl_classifier(const qn_exec *ex, qn_linear *lin, double *loss, void *dx, void *dw, const void *x, const void *packed,
                         const int32_t *target, int64_t R, unsigned what);
size_t qni_dnnl_vocab_scratch(const qn_linear *lin);
void qni_dnnl_vocab_scores(const qn_exec *ex, qn_linear *lin, void *p, void *stats, const void *x, const void *packed,
                           const int32_t *target, int64_t first, int64_t n, int64_t R);

#endif
