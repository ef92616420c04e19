/* The matrix products that a training step is made of, as oneDNN alone does them: the ceiling of benchmarks. Internal to
 * src/session. */
#ifndef QN_SESSION_BENCH_PRODUCTS_H
#define QN_SESSION_BENCH_PRODUCTS_H

#include "kernels/dnnl_ceiling.h"
#include "model/model.h"

enum { QNI_PRODUCTS = 64 }; /* the most distinct ones of a step */

typedef struct qni_products {
    struct {
        int64_t m, n, k, times; /* times: how often a step does it */
        bool c_f32;
        qni_ceiling *c;
        double *ns; /* [runs] */
    } list[QNI_PRODUCTS];
    int32_t count, runs, room;
} qni_products;

/* Of every linear map at that many rows: forward; with input also the gradient of its input, with weight of its weights. head:
 * the output layer's, too. runs: at most. Zeroes first; close accepts them, and what failed to open. Errors: QN_ENOMEM. */
typedef struct qni_products_of {
    const qn_model *model;
    int64_t rows;
    bool bf16, input, weight, head;
    int32_t threads, runs;
} qni_products_of;
qn_status qni_products_open(qni_products *p, const qni_products_of *of, qn_err *err) QN_MUST_USE;
void qni_products_close(qni_products *p);

/* Each distinct one once, on threads of the library's own, which take over the affinity of the thread that first calls: so this
 * thread may run anywhere meanwhile, and is bound to core 0 afterwards, as the trainer has its first worker. */
void qni_products_run(qni_products *p);

/* GFLOP/s of all products of a step together, by the median of each. */
double qni_products_rate(qni_products *p);

#endif
