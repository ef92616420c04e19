/* What the linear map and the classifier on oneDNN share: the handle, its cache of primitives, and the row split.
 *
 * How results stay independent of the split: forward and backward_input split rows. Where oneDNN is known to give the same bits
 * for any number of rows (AVX-512; linear_dnnl_test.c checks it on the machine it runs on), a thread's rows are one product;
 * elsewhere every product has exactly FIXED_ROWS rows and the last is padded. backward_weight cuts dw into row blocks that depend
 * on O alone, because there the cut does change bits. */
#ifndef QN_KERNELS_LINEAR_DNNL_H
#define QN_KERNELS_LINEAR_DNNL_H

#include "dnnl_product.h"
#include "fast.h"

enum { QNI_FIXED_ROWS = 48, QNI_ROW_GRAIN = 16, QNI_PRODUCTS = 64 };

typedef enum qni_product_kind {
    QNI_FORWARD,      /* y act = x W^T */
    QNI_FORWARD_BIAS, /* and + b */
    QNI_LOGITS,       /* y f32 = x W^T */
    QNI_INPUT,        /* dx f32 = dy W */
    QNI_INPUT_ADD,    /* dx f32 += dy W */
    QNI_WEIGHT,       /* rows of dw f32 += dy^T x */
} qni_product_kind;

/* Vectorised helpers, one set per instruction set (cpu/lanes_softmax.c).
 * softmax_loss_*: one row of V logits and its target: returns the loss; with grad, writes softmax - onehot in f32 (may be the
 * logits themselves) or bf16. A target < 0 gives loss 0 and a row of zeros. column_sum_*: sum[o] += sum over r of dy[r * ld + o],
 * o < n, in ascending r. */
typedef double qni_softmax_loss_fn(void *grad, const float *logits, int64_t V, int32_t target);
/* softmax_part_*: one row of a vocabulary shard: p, max and sum of its n real logits of O. */
typedef void qni_softmax_part_fn(void *p, float *max, float *sum, const float *logits, int64_t n, int64_t O);
typedef void qni_column_sum_fn(float *sum, const void *dy, int64_t R, int64_t n, int64_t ld);
/* pack_*: weights into oneDNN's blocked layouts, bf16 pairs or plain f32 (cpu/lanes_pack.c). stream: past the caches. */
typedef void qni_pack_fn(uint32_t *out, int64_t block, const float *w, int64_t K, int64_t N, int64_t begin, int64_t end,
                         bool stream);
/* step_range_*: adamw of n elements on the calling thread. */
typedef void qni_step_fn(float *p, float *g, float *m, float *v, int64_t n, const qn_adamw *hyper);
#define QNI_SOFTMAX_DECLARE(isa)                                                                                                 \
    qni_softmax_loss_fn qni_softmax_loss_f32_##isa, qni_softmax_loss_bf16_##isa, qni_softmax_loss_rounded_##isa;                 \
    qni_softmax_part_fn qni_softmax_part_f32_##isa, qni_softmax_part_bf16_##isa;                                                 \
    qni_column_sum_fn qni_column_sum_f32_##isa, qni_column_sum_bf16_##isa;                                                       \
    qni_pack_fn qni_pack_pairs_##isa, qni_pack_pairs_transposed_##isa, qni_pack_plain_##isa, qni_pack_plain_transposed_##isa;    \
    qni_step_fn qni_step_range_##isa;
QNI_SOFTMAX_DECLARE(portable)
#if defined(__x86_64__)
QNI_SOFTMAX_DECLARE(avx2)
QNI_SOFTMAX_DECLARE(avx512)
#endif

typedef struct qni_row_part { /* one thread's share of a call */
    int64_t begin, end;
    qni_product *product;
} qni_row_part;

struct qn_linear {
    qn_linear_shape shape;
    bool act_bf16, mul_bf16; /* type of act; type oneDNN multiplies (f32 where it lacks bf16) */
    bool any_rows;           /* bits do not depend on the rows of a product */
    dnnl_engine_t engine;
    dnnl_stream_t *streams;                    /* [threads] */
    dnnl_memory_desc_t forward, backward;      /* packed layouts */
    bool own_packs;                            /* layouts that plain and transposed write; else oneDNN reorders */
    qni_reorder *pack_forward, *pack_backward; /* [threads] each, unless own_packs */
    size_t thread_bytes;                       /* scratch of one thread: oneDNN's, then two padded blocks */
    size_t dnnl_bytes, pad_bytes;
    qni_product products[QNI_PRODUCTS];
    qni_product_slot *slots; /* [QNI_PRODUCTS * threads] */
    qni_row_part *parts;     /* [threads] */
    uint64_t clock;
    qni_softmax_loss_fn *softmax_loss;
    qni_softmax_part_fn *softmax_part;
    qni_column_sum_fn *column_sum;
    qni_pack_fn *plain, *transposed; /* our own packing of W as a product has it, and of its transpose */
    qni_step_fn *step;
};

/* The primitive of kind for m rows of c (k: the rows summed over, of QNI_WEIGHT only; else 0), made at first use. */
qni_product *qni_linear_product(qn_linear *lin, qni_product_kind kind, int64_t m, int64_t k);
/* Cuts rows among the exec's threads and finds each share's primitive: lin->parts. */
void qni_linear_split(const qn_exec *ex, qn_linear *lin, qni_product_kind kind, int64_t R, int64_t grain);
/* Rows of one thread: c = a b in products of p->m rows, the last padded. a and c point at the first of them; a is bf16 to be
 * widened (widen), c is bf16 to be narrowed (narrow) or what the primitive has. scratch: the thread's. */
void qni_linear_rows(qn_linear *lin, int32_t thread, qni_product *p, void *c, const void *a, const void *b, const float *bias,
                     int64_t rows, bool widen, bool narrow, char *scratch);
/* dw += dy^T x over R rows; dy [R, O], x [R, C] in the type oneDNN multiplies; scratch [threads] of thread_bytes.
 * db may be NULL. db_dy is dy as act. */
void qni_linear_weight(const qn_exec *ex, qn_linear *lin, float *dw, float *db, const void *dy, const void *x, const void *db_dy,
                       int64_t R, char *scratch);
/* Rows of a block of dw, by O alone. */
int64_t qni_linear_weight_rows(const qn_linear *lin);
/* linear_pack_dnnl.c: after layouts and helpers have been chosen. Errors: QN_ENOMEM, those of a product. */
qn_status qni_linear_open_packs(qn_linear *lin, qn_err *err) QN_MUST_USE;
void qni_linear_close_packs(qn_linear *lin);
/* Where the copies lie in a pack. */
const void *qni_linear_packed_forward(const qn_linear *lin, const void *packed);
const void *qni_linear_packed_backward(const qn_linear *lin, const void *packed);
/* Rows of a block of the classifier: at most, and for a call of R rows; and of a thread's step within a block. */
int64_t qni_classifier_most(const qn_linear *lin);
int64_t qni_classifier_rows(const qn_linear *lin, int64_t R);
enum { QNI_CLASSIFIER_STEP = 64 };

#endif
