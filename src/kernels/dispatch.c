/* The tables, and the choice of one: which kernels this machine gets for a mode.
 *
 * A fast table joins four sources: res and act entries and attention per instruction set (cpu/lanes_*.c), products by oneDNN,
 * which looks at the machine itself. A mode without a complete table is refused when it is asked for. */
#include <stdlib.h>
#include <string.h>

#include "fast.h"
#include "reference.h"

static const qn_kernels reference_f32 = {.name = "f32/reference",
                                         .mode = QN_MODE_REF_F32,
                                         .act = QN_F32,
                                         .res = QN_F32,
                                         .param = QN_F32,
                                         QN_ALL_ENTRIES(QN_ENTRY_FILL, ref_f32)};

static const qn_kernels reference_f64 = {.name = "f64/reference",
                                         .mode = QN_MODE_REF_F64,
                                         .act = QN_F64,
                                         .res = QN_F64,
                                         .param = QN_F64,
                                         QN_ALL_ENTRIES(QN_ENTRY_FILL, ref_f64)};

qn_status qn_kernels_get(const qn_kernels **out, qn_mode mode, qn_err *err)
{
    switch (mode) {
    case QN_MODE_REF_F32:
        *out = &reference_f32;
        return QN_OK;
    case QN_MODE_REF_F64:
        *out = &reference_f64;
        return QN_OK;
    default:
        return QN_FAIL(err, QN_EUNSUPPORTED, "numeric mode %d has no kernels in this build", (int)mode);
    }
}

const char *qn_kernels_isa(void)
{
    return "portable";
}
