/* A doorbell: one sleeper, many ringers. Waiting spins for a bounded time and then sleeps in the kernel, so that a shared
 * core is not burnt. Usage: seen = qn_bell_look(b); look for work; if none, qn_bell_wait(b, seen). */
#ifndef QN_CORE_BELL_H
#define QN_CORE_BELL_H

#include <stdatomic.h>
#include <stdint.h>

#include "compiler.h"

typedef struct qn_bell {
    QN_ALIGNED(QN_CACHE_LINE) _Atomic uint32_t count;
    _Atomic uint32_t sleeping;
} qn_bell;

void qn_bell_init(qn_bell *b);
uint32_t qn_bell_look(const qn_bell *b);
void qn_bell_ring(qn_bell *b);
/* Returns when the count is no longer seen, or after timeout_ns (-1: never). spins: how often to look before sleeping. */
void qn_bell_wait(qn_bell *b, uint32_t seen, int32_t spins, int64_t timeout_ns);

#endif
