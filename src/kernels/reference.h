/* The scalar references: each src/kernels/<operation>.c is the definition of one operation and its backward.
 *
 * Such a file defines QN_SELF as its own name and includes this header last, which includes it back twice: with QN_REAL float
 * (table REF_F32) and double (REF_F64, against which gradients are checked). References run on the calling thread, left to
 * right, accumulate in double and round once, when they store. */
#ifndef QN_KERNELS_REFERENCE_H
#define QN_KERNELS_REFERENCE_H

#include <math.h>

#include "core/arena.h"
#include "core/compiler.h"
#include "entries.h"

/* The reference's linear map needs no primitives. */
struct qn_linear {
    qn_linear_shape shape;
};

QN_ALL_ENTRIES(QN_ENTRY_DECLARE, ref_f32)
QN_ALL_ENTRIES(QN_ENTRY_DECLARE, ref_f64)

#endif

#ifdef QN_SELF

#define QN_REAL      float
#define QN_REF(name) QN_ENTRY_NAME(name, ref_f32)
#include QN_SELF
#undef QN_REF
#undef QN_REAL

#define QN_REAL      double
#define QN_REF(name) QN_ENTRY_NAME(name, ref_f64)
#include QN_SELF
#undef QN_REF
#undef QN_REAL

#endif
