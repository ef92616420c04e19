/* quern bench scale: points of its curves, how they are measured, kept in a file and drawn. Internal to src/session. */
#ifndef QN_SESSION_BENCH_SCALE_H
#define QN_SESSION_BENCH_SCALE_H

#include "bench_common.h"

typedef enum qni_scale_axis { QNI_SCALE_WORKERS, QNI_SCALE_CONTEXT, QNI_SCALE_PARAMETERS, QNI_SCALE_AXES } qni_scale_axis;
typedef enum qni_scale_work { QNI_WORK_SLEEP, QNI_WORK_TRAIN, QNI_WORK_LORA, QNI_WORK_FORWARD, QNI_WORKS } qni_scale_work;

/* Ceilings are 0 where there is none: ideal_s is the simulated step, or that of its operations at the rate of its matrix products
 * as oneDNN alone does them in the same run; floor_bytes is 16 bytes a parameter that is trained and 2 of one that is not. */
typedef struct qni_scale_point {
    char name[32]; /* what it is known by: "context-512" */
    qni_scale_axis axis;
    qni_scale_work work;
    double x, tokens; /* workers, tokens of a sample, parameters; tokens of a step, 0: sleeping ones */
    double step_s, least_s, most_s, spread, ideal_s;
    double start_s, memory_bytes, floor_bytes;
} qni_scale_point;

enum { QNI_SCALE_MOST = 64 };

/* --- measuring. Each fills all but name. steps: at most 64. Errors: those of training, QN_ENOMEM. */
qn_status qni_scale_workers(qni_scale_point *p, int32_t workers, int32_t steps, qn_err *err) QN_MUST_USE;
/* opt: without zeros; lora: rank, 0: all parameters are trained. */
qn_status qni_scale_train(qni_scale_point *p, const qn_bench_options *opt, int32_t lora, qn_err *err) QN_MUST_USE;
/* Passes over opt->context tokens on bf16 weights, with the last token's logits. */
qn_status qni_scale_forward(qni_scale_point *p, const qn_bench_options *opt, qn_err *err) QN_MUST_USE;

/* --- points as lines and in a file of JSON lines, which need not be there yet. Errors: QN_EIO, QN_EFORMAT, QN_ENOMEM. */
void qni_scale_line(qni_line *l, const qni_scale_point *p);
qn_status qni_scale_read(qni_scale_point *point, int32_t *points, const char *path, qn_err *err) QN_MUST_USE;
qn_status qni_scale_write(const char *path, const qni_scale_point *point, int32_t points, qn_err *err) QN_MUST_USE;

/* Time of a step, memory and start-up (rows) by workers, context and parameters (columns), both axes of each panel logarithmic,
 * ceilings dashed. The file is written at once. Errors: QN_EIO, QN_ENOMEM. */
qn_status qni_scale_svg(const char *path, const qni_scale_point *point, int32_t points, qn_err *err) QN_MUST_USE;

#endif
