/* What the benchmarks share: a source of random tokens, a trainer on it, lines of results. */
#ifndef QN_SESSION_BENCH_COMMON_H
#define QN_SESSION_BENCH_COMMON_H

#include <stdbool.h>

#include "model/model.h"
#include "quern/bench.h"
#include "runtime/trainer/trainer.h"
#include "session/schedules/schedule_costs.h"

/* A trainer on random tokens, with everything it stands on. */
typedef struct qni_bench_run {
    qn_source *source; /* on the heap: a run may be moved */
    qn_model *model;
    qn_order *order;
    int32_t *first_layer;
    qn_trainer *trainer;
    qn_trace *trace; /* [traces] */
    int32_t traces;
} qni_bench_run;

/* The options with every 0 replaced by this benchmark's own: GPT-2 124M for train and kernels, a light model of 12 equal blocks
 * for pipeline. */
qn_bench_options qni_bench_defaults(const qn_bench_options *given, bool pipeline);
/* The same for a part of pipeline: every 0 replaced by that of usual (a struct of the sizes it has of its own), then by
 * pipeline's. */
qn_bench_options qni_bench_usual(const qn_bench_options *given, qn_bench_options usual);

/* How a run is spread. */
typedef struct qni_bench_how {
    const char *schedule;
    int32_t chunks; /* stages of a worker; 0: the schedule's usual number */
    int32_t vocab;  /* 1 or 2: both ends cut into vocabulary shards over all workers */
    int32_t sides;  /* shards of the vocabulary; 0: one for each worker */
    bool even;      /* as many blocks in each stage; else cut by cost */
    int32_t shift;  /* layers more on the first stage than that, at the expense of the second */
    const qn_trainer_tiers
        *tiers;             /* workers are devices, and the state is the host's; NULL: only where the schedule asks for it */
    int64_t memory;         /* of each device; 0: no limit */
    const qni_costs *costs; /* roundpipe: measured costs to cut by; NULL: operations */
    bool layers;            /* roundpipe: a stage for each layer each way; superpipe always has a piece for each layer */
    int32_t traces;         /* how many steps' traces to make room for */
    int32_t lora;           /* rank of adapters on q and v; all else is frozen; 0: everything is trained */
    int32_t flight;         /* steps without a barrier between them; 0: 1 */
} qni_bench_how;
/* opt: without zeros. Errors: QN_EINVAL (numbers the schedule cannot do; memory too small), QN_ENOMEM. */
qn_status qni_bench_open(qni_bench_run *b, const qn_bench_options *opt, const qni_bench_how *how, qn_err *err) QN_MUST_USE;
void qni_bench_close(qni_bench_run *b);

/* The median time of `steps` steps (at most 1000) after one that is not counted; the last steps' traces are kept. */
qn_status qni_bench_steps(double *seconds, qni_bench_run *b, int32_t steps, qn_err *err) QN_MUST_USE;

/* The lines of quern bench link that are about hand-overs between workers. */
qn_status qni_bench_handover(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

/* The median of n numbers; sorts them. */
double qni_median(double *x, int32_t n);
/* The width of the middle half of n sorted numbers (as qni_median leaves them), as a share of their median; 0 for less than 2. */
double qni_spread(const double *x, int32_t n);

/* One line of results: name and value pairs, as JSON or as text. The text form shows 4 significant digits, and goes on in an
 * indented line before it gets wider than QNI_COLUMNS. */
enum { QNI_COLUMNS = 100 };
typedef struct qni_line {
    char text[2048];
    size_t used, column;
    int json;
} qni_line;
qni_line qni_line_begin(int json);
void qni_line_text(qni_line *l, const char *name, const char *value);
void qni_line_number(qni_line *l, const char *name, double value);
/* The spread of n sorted times: least_ms and most_ms (in_ms: milliseconds of their unit), and qni_spread. */
void qni_line_range(qni_line *l, const double *sorted, int32_t n, double in_ms);
void qni_line_end(qni_line *l, qn_line_fn *line, void *ctx);

/* A figure that something claims: what was measured, what the simulator says (NaN: nothing), the least that is wanted. The text
 * says whether it is reached. */
void qni_line_claim(qni_line *l, double measured, double predicted, double wanted);

#endif
