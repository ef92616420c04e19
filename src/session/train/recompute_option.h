/* --recompute and --recompute-at as numbers. Internal to src/session. */
#ifndef QN_SESSION_RECOMPUTE_OPTION_H
#define QN_SESSION_RECOMPUTE_OPTION_H

#include <stdbool.h>
#include <stdint.h>

#include "model/model.h"
#include "schedule/ir.h"

typedef struct qni_recompute {
    qn_recompute how;
    bool late;
    uint8_t *again; /* [layers of the chain] with QN_RECOMPUTE_PART, else NULL; freed by qni_recompute_fini */
} qni_recompute;

/* text: none, full, except-last, or selective:WHAT,... where WHAT is a block (3), a range of blocks (0-3), all, or a group of
 * operations in every block (attention; norm and activation change nothing: these are made again in any case). at: 0 the usual
 * (early for whole stages, late for a selection), 1 early, 2 late. Errors: QN_EINVAL (what is not understood, with what is
 * possible), QN_ENOMEM. */
qn_status qni_recompute_read(qni_recompute *out, const char *text, int32_t at, const qn_model *model, qn_err *err) QN_MUST_USE;
void qni_recompute_fini(qni_recompute *r);

#endif
