/* Schedules for embedders and the program: list, show, check, simulate, compare, search. Built on src/schedule. */
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
    int64_t vocab_parallel, vocab_shards; /* passes of a vocabulary cut into shards, by algorithm 1 or 2 (0: none; shards 0: one
                                             per worker); in costs S and T are those of one shard */
    int64_t group;    /* micro-batches that go round together: interleaved (0: as many as workers), roundpipe (a round; 0: all) */
    int64_t pieces;   /* roundpipe, superpipe: stages in all (0: those of the costs, or chunks) */
    int32_t pairs;    /* overlap pairs of dualpipe and dualpipev: 0 two tasks, 1 as one call that runs both */
    const char *cost; /* "F=1,B=2[,W=1]": time of one task (one chunk, one micro-batch); B is the whole backward unless W is
                         given;      per stage "0:F=1,B=2;1-3:F=2,B=4"; or a JSON or CSV file */
    const char *cost_from; /* a run's directory, a trace, a profile: costs and sizes measured there; NULL: cost */
    const char *sizes;     /* "act=1M,stash=4M,wstash=1M,weights=8M,grads=8M": bytes of a stage's values, or of each stage as in
                              cost; NULL: not known */
    /* Devices of little memory (quern train's flags): weights on the host, copies over a link; times are milliseconds unless a
     * cost file names another unit. Needs the bytes of weights. */
    int64_t device_memory;     /* bytes of each worker's arena; 0: no limit */
    const char *link, *window; /* "2G/s"; "k,k'"; NULL: as fast as memory; as many as fit */
    int forward;               /* forward passes alone */
    const char *cut;       /* roundpipe, with costs of each layer: "7x4|1,3x8,2x2", layers of the forward stages from layer 0 up,
                              then of the backward stages from the last layer down; NULL: the partitioner's */
    int head_ahead;        /* roundpipe: the head's forward before its input is there, as its published simulator has it */
    int64_t steps;         /* simulate: optimizer steps in a row, one plan; 0: 1 */
    int64_t optimizer_lag; /* between them: 1: the optimizer works beside the next step */
    int post_validate;     /* between them: workers step on what they know, and the decision comes while the next warms up */
    const char *memory;    /* of a worker: "2G" bytes where sizes are known, else micro-batches ("2.5"); NULL: no limit */
    double latency;        /* of a message, in the unit of the costs; -1: the cost file's own, else 0 */
    int64_t depth;         /* slots of a channel; 0: the usual number */
    int32_t recompute;     /* 0 none, 1 full, 2 except-last, 3 full when the gradient is there */
    const char *svg, *trace; /* files to write */
    const char *html;        /* compare: a page to write */
    int critical;            /* simulate: list the critical path */
    qn_list names;           /* compare: schedules, empty: all */
    int64_t seed, rounds;    /* search: rounds 0: as many as a few seconds take */
    double seconds;          /* search: stop after that time, 0: when the rounds are done. Results then depend on the machine */
    const char *out;         /* search: FILE for the order */
} qn_schedule_options;

extern const qn_table qn_schedule_table;

/* Each returns text through *out (freed with qn_text_free): lines for people, or with json one object a line.
 * opt->schedule is a name or a file.
 * Errors: QN_EINVAL (unknown name with the nearest, numbers the schedule cannot do), QN_ENOENT, QN_EFORMAT (line and column),
 * QN_ESCHEDULE (the tasks at fault), QN_EIO, QN_ENOMEM. */
qn_status qn_schedule_list(char **out, bool json, qn_err *err) QN_MUST_USE;
qn_status qn_schedule_show(char **out, const qn_schedule_options *opt, int32_t columns,
                           qn_err *err) QN_MUST_USE; /* order text and a drawing */
qn_status qn_schedule_check(char **out, const qn_schedule_options *opt, bool json, qn_err *err) QN_MUST_USE;
qn_status qn_schedule_simulate(char **out, const qn_schedule_options *opt, bool json, qn_err *err) QN_MUST_USE;
qn_status qn_schedule_compare(char **out, const qn_schedule_options *opt, bool json, qn_err *err) QN_MUST_USE;

/* Told how far the search is (0 to 1) and the time of the order at hand. */
typedef struct qn_schedule_watch {
    void (*fn)(void *ctx, double done, double time);
    void *ctx;
} qn_schedule_watch;
/* The shortest order that is found within opt->memory, from orders of one copy of the chain or two, with vocabulary shards or
 * recomputation where these are asked for; never longer than the best published schedule that fits. Uses workers,
 * micro_batches, costs, sizes, memory, chunks (the finest cut), latency, depth, seed, rounds, seconds, svg, trace, out. watch may
 * be NULL. Errors as above; QN_EINVAL when nothing fits (names a limit that would do). */
qn_status qn_schedule_search(char **out, const qn_schedule_options *opt, bool json, const qn_schedule_watch *watch,
                             qn_err *err) QN_MUST_USE;

#ifdef __cplusplus
}
#endif
#endif
