/* quern bench scale: points of its curves, and the picture of them. */
#ifndef QN_SESSION_BENCH_SCALE_H
#define QN_SESSION_BENCH_SCALE_H

#include "quern/bench.h"

typedef enum qni_scale_axis { QNI_SCALE_WORKERS, QNI_SCALE_CONTEXT, QNI_SCALE_PARAMETERS, QNI_SCALE_AXES } qni_scale_axis;

typedef struct qni_scale_point {
    qni_scale_axis axis;
    double x; /* workers, tokens of a sample, parameters */
    bool forward_only;
    double step_s, ideal_s; /* ideal: simulated; 0: not known */
    double start_s, memory_bytes;
} qni_scale_point;

enum { QNI_SCALE_MOST = 64 };

/* Three panels with both axes logarithmic: time of a step, memory and start-up by workers, context and parameters. The file is
 * written at once. Errors: QN_EIO, QN_ENOMEM. */
qn_status qni_scale_svg(const char *path, const qni_scale_point *point, int32_t points, qn_err *err) QN_MUST_USE;

#endif
