/* One matrix product c [m, n] = a [m, k] b [k, n] (+ bias [n]) (+ c) as a oneDNN primitive that one thread runs alone.
 *
 * Owns the primitive and, for each thread of the team, its memory objects; borrows every array. oneDNN sees one OpenMP thread
 * at creation and at execution (it fixes the thread count at both), so that our own team does the splitting. Scratch memory is
 * the caller's. dnnl_primitive_execute allocates small objects inside the library on each call; nothing of ours does. */
#ifndef QN_KERNELS_DNNL_PRODUCT_H
#define QN_KERNELS_DNNL_PRODUCT_H

#include <oneapi/dnnl/dnnl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quern/status.h"

#if DNNL_VERSION_MAJOR != 2
#error "Quern's products use oneDNN's version 2 interface: install libdnnl-dev 2.x"
#endif

typedef struct qni_product_spec {
    int64_t m, n, k;
    int64_t lda;                 /* row stride of a as it is stored */
    bool a_transposed;           /* a is stored [k, m] */
    bool bf16;                   /* type of a and b: bf16, else f32 */
    bool c_bf16;                 /* type of c */
    bool bias, add;              /* add bias; add to what c holds */
    const dnnl_memory_desc_t *b; /* layout of b; NULL: the library's choice */
} qni_product_spec;

enum { QNI_PRODUCT_ARGS = 5 };

typedef struct qni_product_slot { /* one thread's arguments */
    dnnl_memory_t memory[QNI_PRODUCT_ARGS];
    void *handle[QNI_PRODUCT_ARGS];
} qni_product_slot;

typedef struct qni_product {
    int64_t m, k;
    int32_t kind;
    uint64_t used; /* when it was last looked up; 0: an empty place */
    dnnl_primitive_t primitive;
    dnnl_memory_desc_t b;
    size_t scratch_bytes;
    char *own; /* scratch of its own, own_bytes for each thread, when it needs more than the owner planned; the owner's */
    size_t own_bytes;
    qni_product_slot *slots; /* [threads], given at open */
    int32_t threads;
} qni_product;

/* Fills p, whose slots [threads] belong to the caller and are empty. Errors: QN_ENOMEM, QN_EUNSUPPORTED (this library or
 * processor lacks the combination), QN_EINTERNAL. On failure p is closed. */
qn_status qni_product_open(qni_product *p, dnnl_engine_t engine, const qni_product_spec *spec, qn_err *err) QN_MUST_USE;
void qni_product_close(qni_product *p);
/* Runs it on the calling thread with the memory objects of slot thread. */
void qni_product_run(qni_product *p, dnnl_stream_t stream, int32_t thread, void *c, const void *a, const void *b,
                     const float *bias, void *scratch);

/* dst = src in another layout or type, on the calling thread. */
typedef struct qni_reorder {
    dnnl_primitive_t primitive;
    dnnl_memory_t from, to;
} qni_reorder;
qn_status qni_reorder_open(qni_reorder *r, dnnl_engine_t engine, const dnnl_memory_desc_t *from, const dnnl_memory_desc_t *to,
                           qn_err *err) QN_MUST_USE;
void qni_reorder_close(qni_reorder *r);
void qni_reorder_run(qni_reorder *r, dnnl_stream_t stream, void *dst, const void *src);

/* A status of oneDNN as ours, with the message "oneDNN: <what>: ...". QN_OK writes nothing. */
qn_status qni_dnnl_status(dnnl_status_t status, const char *what, qn_err *err) QN_MUST_USE;

/* Between the two the calling thread's OpenMP team is the thread alone. */
int qni_dnnl_enter(void);
void qni_dnnl_leave(int before);

#endif
