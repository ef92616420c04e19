/* Linear maps for generation: y = x W^T + b on weights that stay in their compact form, for 1 to many rows. Internal to
 * src/kernels; kernels.h hands them out as tables (qn_kernels_infer).
 *
 *   f32    the weights as they are
 *   bf16   rounded to bf16. Where the machine has bf16 products and act is bf16, pairs are multiplied as such; else widened
 *   q8     blocks of 32 of a row share a scale: weight = scale (f16) * integer (-127 .. 127), as GGUF's Q8_0. The products are of
 *          integers: a row of x is rounded to 8 bits by blocks of 32 as well, with a scale in f32
 *
 * Packed layout, `columns` outputs a panel, so that a lane is an output and no sum crosses lanes:
 *
 *   f32    panel [C][columns] f32
 *   bf16   panel [C/2][columns] pairs of k
 *   q8     panel [C/32] of { scale [columns] f16; [8][columns] four k each, as integer + 128 }
 *
 * Padding (of C to whole pairs or blocks, of O to whole panels) is zero. A row's result is one chain over ascending k for each
 * output, whatever the rows and threads of the call: the same bits alone and among others. Threads split the panels. */
#ifndef QN_KERNELS_COMPACT_H
#define QN_KERNELS_COMPACT_H

#include "fast.h"
#include "q8.h"

/* y [R, O] act = x [R, C] act * W^T + bias. x_room: scratch for the prepared rows (qni_compact_room). */
typedef void qni_compact_fn(const qn_exec *ex, const qn_linear *lin, void *y, const void *x, const void *packed,
                            const float *bias, int64_t R, void *x_room);

typedef struct qni_compact {
    qn_weights weights;
    bool act_bf16;
    bool dots;       /* products of bf16 pairs and of bytes, as the machine has them: instruction set avx512_bf16 */
    int64_t columns; /* of a panel: 1 for the reference */
    qni_compact_fn *forward;
} qni_compact;

/* What the forward functions need of a handle. */
typedef struct qni_compact_view {
    int64_t C, O, columns, panels;
    size_t panel_bytes;
    qn_weights weights;
    bool act_bf16, dots;
} qni_compact_view;
qni_compact_view qni_compact_view_of(const qn_linear *lin);

/* Bytes of prepared rows: f32 copies of bf16 rows, or blocks of 32 in 8 bits with scale and sum. */
size_t qni_compact_room(const qni_compact_view *v, int64_t R);

#define QNI_COMPACT_DECLARE(isa) qni_compact_fn qni_compact_forward_##isa;
QNI_COMPACT_DECLARE(portable)
#if defined(__x86_64__)
QNI_COMPACT_DECLARE(avx2)
QNI_COMPACT_DECLARE(avx512)
#endif

/* Entries of the tables. */
#define QNI_COMPACT_OPENS(X)                                                                                                     \
    X(f32, f32) X(f32, bf16) X(f32, q8) X(bf16, f32) X(bf16, bf16) X(bf16, q8) X(ref, f32) X(ref, bf16) X(ref, q8)
#define QNI_COMPACT_OPEN(act, weights)                                                                                           \
    qn_status qni_compact_open_##act##_##weights(qn_linear **out, const qn_linear_shape *shape, qn_err *err);
QNI_COMPACT_OPENS(QNI_COMPACT_OPEN)
#undef QNI_COMPACT_OPEN
void qni_compact_close(qn_linear *lin);
size_t qni_compact_packed_bytes(const qn_linear *lin, unsigned copies);
size_t qni_compact_scratch(const qn_linear *lin);
void qni_compact_pack(const qn_exec *ex, qn_linear *lin, void *packed, const void *w, unsigned copies);
void qni_compact_forward(const qn_exec *ex, qn_linear *lin, void *y, const void *x, const void *packed, const void *bias,
                         int64_t R);

#endif
