/* A small pinned team of threads: the only thread pool in Quern. The caller is thread 0. A team of one runs inline.
 *
 * Kernels split their work by output, never a reduction by thread, so that results do not depend on the team's size. */
#ifndef QN_CORE_TEAM_H
#define QN_CORE_TEAM_H

#include <stdint.h>

#include "arena.h"
#include "quern/status.h"

typedef struct qn_team qn_team;
typedef void qn_team_fn(void *ctx, int32_t thread, int32_t threads);

/* threads >= 1; first_core >= 0 pins thread i to core first_core + i modulo the machine's cores, -1 pins nothing (the calling
 * thread is pinned by qn_team_pin_self). Errors: QN_ENOMEM, QN_ERANGE. */
qn_status qn_team_open(qn_team **out, int32_t threads, int32_t first_core, qn_err *err) QN_MUST_USE;
void qn_team_close(qn_team *team);
int32_t qn_team_threads(const qn_team *team);

/* Runs fn(ctx, i, threads) on every thread and returns when all are done. One caller at a time. Never allocates. */
void qn_team_run(qn_team *team, qn_team_fn *fn, void *ctx);

/* Pins the calling thread to a core, or with -1 lets it run on any again; a machine that refuses is no error. */
void qn_team_pin_self(int32_t core);
int32_t qn_team_cores(void); /* usable cores of this machine, at least 1 (hwloc, respecting the process's affinity) */

/* What a fast kernel needs besides its arguments: who works, and where its temporary memory comes from. */
typedef struct qn_exec {
    qn_team *team;     /* NULL: the calling thread alone */
    qn_arena *scratch; /* kernels push here and release before they return; their _scratch function tells how much */
} qn_exec;

int32_t qn_exec_threads(const qn_exec *ex);
void qn_exec_run(const qn_exec *ex, qn_team_fn *fn, void *ctx);

/* The part [*begin, *end) of n that thread i of k works on, in multiples of grain (the last may be short). */
void qn_split(int64_t *begin, int64_t *end, int64_t n, int64_t grain, int32_t i, int32_t k);

#endif
