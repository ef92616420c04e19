/* Makes the n-th event of a kind fail, for every n (or every stride-th) until the work goes through without meeting it. Each
 * failure must come back as a status with a message; leaks and bad accesses are the sanitizers' to find. */
#ifndef QN_TEST_FAULT_SWEEP_H
#define QN_TEST_FAULT_SWEEP_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>

#include "core/alloc.h"
#include "quern/status.h"

/* The work: leaves nothing behind, succeeds or not. */
typedef qn_status fault_work(void *ctx, qn_err *err);

/* Switches the fault off; true when it has struck since it was armed for the n-th event. */
static inline bool fault_struck(qn_fault kind, long n)
{
    bool left = false;
    for (long i = 0; i < n && !left; i++) left = qni_fault_hit(kind) != 0;
    qni_fault_arm(kind, 0);
    return !left;
}

static inline void fault_explained(qn_status st, const qn_err *err, long n)
{
    if (err->code != st || err->text[0] == '\0') fail_msg("event %ld: %s without a message", n, qn_status_name(st));
}

/* Returns the number of failures that came back. survived: how often the work may go well all the same. */
static inline long fault_sweep(qn_fault kind, fault_work *work, void *ctx, long stride, long survived)
{
    long failures = 0;
    for (long n = 1;; n += stride) {
        qn_err err = {.code = QN_OK};
        qni_fault_arm(kind, n);
        const qn_status st = work(ctx, &err);
        const bool struck = fault_struck(kind, n);
        if (!struck && st != QN_OK) fail_msg("without a failed event: %s", err.text);
        if (!struck) return failures;
        if (st == QN_OK && survived-- <= 0) fail_msg("event %ld failed and nobody said so", n);
        if (st == QN_OK) continue;
        fault_explained(st, &err, n);
        failures++;
    }
}

#endif
