/* What the benchmarks share: a source of random tokens, a trainer on it, lines of results. */
#ifndef QN_SESSION_BENCH_COMMON_H
#define QN_SESSION_BENCH_COMMON_H

#include <stdbool.h>

#include "model/model.h"
#include "quern/bench.h"
#include "runtime/trainer.h"

/* A trainer on random tokens, with everything it stands on. */
typedef struct qni_bench_run {
    qn_source source;
    qn_model *model;
    qn_order *order;
    int32_t *first_layer;
    qn_trainer *trainer;
    qn_trace *trace; /* [traces] */
    int32_t traces;
} qni_bench_run;

/* The options with every 0 replaced by this benchmark's own: GPT-2 124M for train and kernels, a lighter model of 12 equal blocks
 * for pipeline. */
qn_bench_options qni_bench_defaults(const qn_bench_options *given, bool pipeline);

/* opt: without zeros. traces: how many steps' traces to make room for. */
qn_status qni_bench_open(qni_bench_run *b, const qn_bench_options *opt, const char *schedule, int32_t traces,
                         qn_err *err) QN_MUST_USE;
/* 1f1b with as many blocks on each worker, embedding on the first and output layer on the last; vocab 1 or 2: both cut into
 * shards over all workers. */
qn_status qni_bench_open_even(qni_bench_run *b, const qn_bench_options *opt, int32_t vocab, int32_t traces,
                              qn_err *err) QN_MUST_USE;
void qni_bench_close(qni_bench_run *b);

/* The median time of `steps` steps (at most 1000) after one that is not counted; the last steps' traces are kept. */
qn_status qni_bench_steps(double *seconds, qni_bench_run *b, int32_t steps, qn_err *err) QN_MUST_USE;

/* The median of n numbers; sorts them. */
double qni_median(double *x, int32_t n);

/* One line of results: name and value pairs, as JSON or as text. The text form shows 4 significant digits. */
typedef struct qni_line {
    char text[1024];
    size_t used;
    int json;
} qni_line;
qni_line qni_line_begin(int json);
void qni_line_text(qni_line *l, const char *name, const char *value);
void qni_line_number(qni_line *l, const char *name, double value);
void qni_line_end(qni_line *l, qn_line_fn *line, void *ctx);

#endif
