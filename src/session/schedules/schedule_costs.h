/* What the tasks of a schedule cost: as a user writes it, from a file, from the trace or profile of a run. Times are integer
 * ticks inside; sizes are whole bytes (or any unit).
 *
 *   text       F=1,B=2[,W=1][,BW=3][,R=1][,S=1,T=1,VI=1,VJ=1]   the same for all stages; the last four of one vocabulary shard
 *              0:F=3,B=6;1-3:F=1,B=2   per stage (all of 0 .. the last one)
 *   JSON       {"unit": "ms", "latency": 0.1, "stages": [{"F": 1, "B": 2, "W": 1, "R": 1, "BW": 3, "S": 1, "T": 2, "VI": 0, "VJ":
 * 0, "act": 4096, "stash": 65536, "wstash": 4096, "weights": 1048576, "grads": 1048576}, ...]}, or one such stage a line with its
 * "stage" (what quern bench pipeline
 * --json prints) CSV        stage,F,B,W,...          a header of the same names, then a line per stage trace      trace.json of a
 * run, or what simulate --trace wrote: medians per (operation, stage), the latency of messages. A simulated trace gives back what
 * it was simulated with
 *
 * B is the whole backward, of which a schedule that splits it gets half for each part; with W given B is the input gradient and a
 * whole backward takes both, unless BW says what it takes. R is F's time unless given. */
#ifndef QN_SESSION_SCHEDULE_COSTS_H
#define QN_SESSION_SCHEDULE_COSTS_H

#include "quern/status.h"
#include "schedule/ir.h"
#include "session/device_option.h"

enum { QNI_SIZE_ACT, QNI_SIZE_STASH, QNI_SIZE_WSTASH, QNI_SIZE_WEIGHTS, QNI_SIZE_GRADS, QNI_SIZES };

typedef struct qni_costs {
    int64_t tick[QN_OPS]; /* F, B, W, BW, R; of all stages alike, or the mean over them; -1: not said */
    int64_t latency;
    double scale;             /* ticks of a unit of time: a power of ten that makes all times whole */
    int32_t stages;           /* 0: tick holds for every stage */
    int64_t (*stage)[QN_OPS]; /* [stages] */
    int64_t *size[QNI_SIZES]; /* [stages or 1]; NULL: not said */
    char unit[8];             /* "ms", or "" */
    qni_device device;        /* devices of little memory (schedule_devices.h); zeroes: weights are where their stage is */
    double copy_ticks;        /* of a byte over the link; 0: none */
} qni_costs;

/* text: one of the forms above or the name of a file, or NULL: nothing is said, and scale is that of latency. from: a run's
 * directory (its profile.json, else its trace.json) or a file, or NULL; not both. latency: in the unit of the times, < 0: the
 * file's own, else 0. Errors: QN_EINVAL (what was found and wanted), QN_ERANGE, QN_ENOENT, QN_EFORMAT, QN_ENOMEM. fini accepts
 * zeroes. */
qn_status qni_costs_parse(qni_costs *out, const char *text, const char *from, double latency, qn_err *err) QN_MUST_USE;
void qni_costs_fini(qni_costs *c);

/* "act=1M,stash=4M,wstash=1M,weights=8M,grads=8M" for all stages, or "0-6:weights=8M;7:weights=20M" for each, from stage 0 on;
 * overrides what a file said. Errors: QN_EINVAL (what was found and wanted), QN_ENOMEM. */
qn_status qni_costs_sizes(qni_costs *c, const char *text, qn_err *err) QN_MUST_USE;

/* Costs and sizes of a schedule with this many stages: neighbouring stages of the costs add up to one of its stages. fine: stages
 * that a cost that holds for all is one of (stages: of this very schedule). *cost [stages][QN_OPS] and size[k] [stages] (NULL
 * where not said) are the caller's (qn_free). Errors: QN_EINVAL (numbers that do not divide), QN_ENOMEM. */
qn_status qni_costs_spread(int64_t (**cost)[QN_OPS], int64_t *size[QNI_SIZES], const qni_costs *c, int32_t stages, int32_t fine,
                           qn_err *err) QN_MUST_USE;

/* "2G" bytes, or "2.5" micro-batches where sizes are not known; 0: NULL, no limit. Errors: QN_EINVAL. */
qn_status qni_memory_parse(double *out, const char *text, qn_err *err) QN_MUST_USE;

#endif
