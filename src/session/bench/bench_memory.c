/* quern bench memory: how fast this machine reads, copies and rewrites memory, and the optimizer's pass beside it.
 *
 * read      all threads sum up an array
 * copy      all threads copy half of it to the other half; bytes read and written
 * rewrite   in place: every element read, changed and written, over the four arrays of the optimizer (32 bytes a parameter)
 * adamw     the optimizer's pass over the same arrays; its ceiling is rewrite
 *
 * The kinds take turns; figures are medians, spread is the width of the middle half of the times by their median. */
#include <string.h>

#include "bench_common.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
#include "kernels/kernels.h"

enum { ARRAYS = 4, KINDS = 4, ELEMENTS = 24 << 20, QUICK_ELEMENTS = 8 << 20, MOST_RUNS = 1000 };

typedef float wide __attribute__((vector_size(64), aligned(64)));

typedef struct memory_bench {
    qn_exec ex;
    qn_arena scratch;
    const qn_kernels *k;
    float *array[ARRAYS]; /* p, g, m, v */
    int64_t n;
    wide sink[64]; /* a cache line a thread */
    double ns[KINDS][MOST_RUNS];
} memory_bench;

static void read_part(void *ctx, int32_t thread, int32_t threads)
{
    memory_bench *b = ctx;
    wide sum[4] = {{0}};
    for (int a = 0; a < ARRAYS; a++) {
        int64_t i, end;
        qn_split(&i, &end, b->n, 64, thread, threads);
        for (; i < end; i += 64)
            for (int j = 0; j < 4; j++) sum[j] += *(const wide *)(const void *)(b->array[a] + i + 16 * j);
    }
    b->sink[thread % 64] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

static void copy_part(void *ctx, int32_t thread, int32_t threads)
{
    memory_bench *b = ctx;
    int64_t begin, end;
    qn_split(&begin, &end, b->n, 1024, thread, threads);
    for (int a = 0; a < ARRAYS; a += 2)
        memcpy(b->array[a] + begin, b->array[a + 1] + begin, (size_t)(end - begin) * sizeof(float));
}

static void rewrite_part(void *ctx, int32_t thread, int32_t threads)
{
    memory_bench *b = ctx;
    int64_t begin, end;
    qn_split(&begin, &end, b->n, 64, thread, threads);
    for (int64_t i = begin; i < end; i += 16)
        for (int a = 0; a < ARRAYS; a++) {
            wide *p = (wide *)(void *)(b->array[a] + i);
            *p = *p * 0.5f;
        }
}

static void run_kind(memory_bench *b, int kind)
{
    const qn_adamw hyper = {.lr = 1e-4,
                            .beta1 = 0.9,
                            .beta2 = 0.95,
                            .eps = 1e-8,
                            .decay = 0.1,
                            .correct1 = 0.1,
                            .correct2 = 0.05,
                            .grad_scale = 1e-6};
    if (kind == 0) qn_exec_run(&b->ex, read_part, b);
    if (kind == 1) qn_exec_run(&b->ex, copy_part, b);
    if (kind == 2) qn_exec_run(&b->ex, rewrite_part, b);
    if (kind == 3) b->k->adamw(&b->ex, b->array[0], b->array[1], b->array[2], b->array[3], b->n, &hyper);
}

/* Numbers of usual size: none may become denormal, which would cost time of its own. */
static void fill(memory_bench *b)
{
    for (int a = 0; a < ARRAYS; a++)
        for (int64_t i = 0; i < b->n; i++) b->array[a][i] = 1.0f;
}

static qn_status open_bench(memory_bench *b, const qn_bench_options *o, qn_err *err)
{
    qn_status st = qn_kernels_get(&b->k, QN_MODE_F32, err);
    b->n = o->quick ? QUICK_ELEMENTS : ELEMENTS;
    b->ex.scratch = &b->scratch;
    if (st == QN_OK) st = qn_team_open(&b->ex.team, (int32_t)o->threads, 0, err);
    if (st == QN_OK) st = qn_arena_open(&b->scratch, 1 << 20, err);
    for (int a = 0; st == QN_OK && a < ARRAYS; a++) {
        b->array[a] = qn_alloc_pages((size_t)b->n * sizeof(float));
        if (b->array[a] == NULL) st = QN_FAIL(err, QN_ENOMEM, "an array of %lld bytes", (long long)b->n * 4);
    }
    if (st == QN_OK) fill(b);
    return st;
}

static void show(memory_bench *b, const qn_bench_options *o, int32_t runs, qn_line_fn *line, void *ctx)
{
    static const char *const names[KINDS] = {"read", "copy", "rewrite in place", "adamw"};
    static const double bytes[KINDS] = {16, 16, 32, 32}; /* of an element of each of the four arrays */
    double rate[KINDS];
    for (int kind = 0; kind < KINDS; kind++) {
        const double ns = qni_median(b->ns[kind], runs);
        rate[kind] = bytes[kind] * (double)b->n / ns;
        qni_line l = qni_line_begin(o->json);
        qni_line_text(&l, kind == 3 ? "optimizer" : "memory", names[kind]);
        qni_line_number(&l, "threads", (double)o->threads);
        qni_line_number(&l, "gbs", rate[kind]);
        if (kind == 3) qni_line_number(&l, "ceiling", rate[2]);
        if (kind == 3) qni_line_number(&l, "share", rate[3] / rate[2]);
        qni_line_number(&l, "spread", qni_spread(b->ns[kind], runs));
        qni_line_end(&l, line, ctx);
    }
}

qn_status qn_bench_memory(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err)
{
    const qn_bench_options opt = qni_bench_defaults(given, false);
    const int32_t runs = (int32_t)opt.steps;
    memory_bench *b = qn_alloc_pages(sizeof(*b));
    if (b == NULL) return QN_FAIL(err, QN_ENOMEM, "results of %d runs", runs);
    const qn_status st = open_bench(b, &opt, err);
    qn_team_pin_self(0);
    for (int32_t i = -1; st == QN_OK && i < runs; i++)
        for (int kind = 0; kind < KINDS; kind++) {
            if (kind == 2) fill(b); /* halved each time */
            const int64_t from = qn_now_ns();
            run_kind(b, kind);
            if (i >= 0) b->ns[kind][i] = (double)(qn_now_ns() - from);
        }
    qn_team_pin_self(-1);
    if (st == QN_OK) show(b, &opt, runs, line, ctx);
    for (int a = 0; a < ARRAYS; a++) qn_free_pages(b->array[a], (size_t)b->n * sizeof(float));
    qn_team_close(b->ex.team);
    qn_arena_close(&b->scratch);
    qn_free_pages(b, sizeof(*b));
    return st;
}
