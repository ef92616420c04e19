/* Schedules for embedders and the program: list, show, check, simulate, compare. Built on src/schedule. */
#ifndef QUERN_SCHEDULE_H
#define QUERN_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

#include "quern/config.h"
#include "quern/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qn_schedule_options {
    const char *schedule; /* a name or a file */
    int64_t workers, micro_batches, chunks;
    const char *cost;      /* "F=1,B=2[,W=1]": time of one task (one chunk, one micro-batch); B is the whole backward unless W is
                              given;      per stage "0:F=1,B=2;1-3:F=2,B=4"; or a JSON or CSV file */
    const char *cost_from; /* a run's directory, a trace, a profile: costs and sizes measured there; NULL: cost */
    const char *sizes;     /* "act=1M,stash=4M,wstash=1M": bytes of a stage's values; NULL: not known */
    const char *memory;    /* of a worker: "2G" bytes where sizes are known, else micro-batches ("2.5"); NULL: no limit */
    double latency;        /* of a message, in the unit of the costs; -1: the cost file's own, else 0 */
    int64_t depth;         /* slots of a channel */
    int32_t recompute;     /* 0 none, 1 full, 2 except-last */
    const char *svg, *trace; /* files to write */
    const char *html;        /* compare: a page to write */
    int critical;            /* simulate: list the critical path */
    qn_list names;           /* compare: schedules, empty: all */
} qn_schedule_options;

extern const qn_table qn_schedule_table;

/* Each returns text through *out (freed with qn_text_free): lines for people, or with json one object a line.
 * Errors: QN_EINVAL (unknown name with the nearest, numbers the schedule cannot do), QN_ENOENT, QN_EFORMAT (line and column),
 * QN_ESCHEDULE (the tasks at fault), QN_EIO, QN_ENOMEM. */
qn_status qn_schedule_list(char **out, bool json, qn_err *err) QN_MUST_USE;
qn_status qn_schedule_show(char **out, const qn_schedule_options *opt, int32_t columns,
                           qn_err *err) QN_MUST_USE; /* order text and a drawing */
qn_status qn_schedule_check(char **out, const char *path, bool json, qn_err *err) QN_MUST_USE;
qn_status qn_schedule_simulate(char **out, const qn_schedule_options *opt, bool json, qn_err *err) QN_MUST_USE;
qn_status qn_schedule_compare(char **out, const qn_schedule_options *opt, bool json, qn_err *err) QN_MUST_USE;

#ifdef __cplusplus
}
#endif
#endif
