/* What the trainer's tests share: a tiny deterministic source, small models, cuts, orders, and runs whose every bit is compared.
 */
#ifndef QN_TEST_TRAINER_RIG_H
#define QN_TEST_TRAINER_RIG_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/compiler.h"
#include "core/rng.h"
#include "runtime/trainer/trainer.h"
#include "schedule/gen/gen.h"

enum { RIG_T = 6, RIG_BATCH = 7, RIG_VOCAB = 23, RIG_MAX_STAGES = 16 };

/* --- source: a function of (step, sample), where the next token mostly follows from the one before; some targets do not count */
static void rig_read(const qn_source *s, int64_t step, int64_t sample, int32_t *inputs, int32_t *targets)
{
    qn_rng rng = qn_rng_of((qn_rng_key){.seed = 99, .step = (uint32_t)step, .sample = (uint32_t)sample});
    int32_t token = (int32_t)qn_rng_below(&rng, (uint64_t)s->vocab);
    for (int64_t t = 0; t < s->T; t++) {
        inputs[t] = token;
        const int32_t stray = (int32_t)qn_rng_below(&rng, 8 * (uint64_t)s->vocab);
        token = stray < s->vocab ? stray : (5 * token + 3) % s->vocab;
        targets[t] = (sample + t) % 5 == 4 ? -1 : token;
    }
}

static const qn_source_ops rig_source_ops = {.read = rig_read};
static const qn_source rig_source = {.ops = &rig_source_ops, .T = RIG_T, .batch = RIG_BATCH, .vocab = RIG_VOCAB};

/* --- models */
static const qn_model_config rig_config[] = {
    {.arch = QN_ARCH_GPT2, .layers = 3, .heads = 2, .width = 16, .context = 8, .vocab = RIG_VOCAB, .tied = true, .dropout = 0.1},
    {.arch = QN_ARCH_LLAMA,
     .layers = 3,
     .heads = 4,
     .kv_heads = 2,
     .width = 32,
     .context = 8,
     .vocab = RIG_VOCAB,
     .dropout = 0.1},
    {.arch = QN_ARCH_GPT2, .layers = 3, .heads = 2, .width = 16, .context = 8, .vocab = RIG_VOCAB},
    {.arch = QN_ARCH_LLAMA, .layers = 3, .heads = 4, .kv_heads = 2, .width = 32, .context = 8, .vocab = RIG_VOCAB, .tied = true},
};
enum { RIG_CONFIGS = sizeof(rig_config) / sizeof(rig_config[0]) };

/* Whose heads can be dealt to shards: entries of a test's own table. */
#define RIG_SHARD_GPT2(columns)                                                                                                  \
    {                                                                                                                            \
        .arch = QN_ARCH_GPT2, .layers = 3, .heads = 4, .width = (columns), .context = 8, .vocab = RIG_VOCAB, .tied = true,       \
        .dropout = 0.1                                                                                                           \
    }
#define RIG_SHARD_LLAMA(queries)                                                                                                 \
    {                                                                                                                            \
        .arch = QN_ARCH_LLAMA, .layers = 3, .heads = (queries), .kv_heads = 4, .width = 32, .context = 8, .vocab = RIG_VOCAB,    \
        .dropout = 0.1                                                                                                           \
    }

static inline void rig_ok(qn_status st, const qn_err *err)
{
    if (st != QN_OK) print_error("%s: %s\n", qn_status_name(st), err->text);
    assert_int_equal(st, QN_OK);
}

static inline qn_model *rig_model(const qn_model_config *c)
{
    qn_model *m;
    qn_err err;
    rig_ok(qn_model_open(&m, c, &err), &err);
    return m;
}

/* Even cuts; with more stages than layers those between the first and the last are empty where they must be. */
static inline void rig_cut(int32_t *first, int32_t stages, int32_t layers)
{
    for (int32_t s = 0; s <= stages; s++) first[s] = s * layers / stages;
    if (stages <= layers) return;
    for (int32_t s = 1; s < stages; s++) first[s] = 1 + (s - 1) * (layers - 2) / (stages - 2);
}

/* --- one way of computing a run */
typedef struct rig_way {
    const char *schedule; /* a generator's name, or "split": B and W apart, by hand */
    int32_t workers, threads;
    qn_recompute recompute;
    const uint8_t *again; /* with QN_RECOMPUTE_PART: of each layer */
    bool recompute_late;
    const char *transport; /* thread: a thread per worker; self, sim: the loop */
    uint64_t seed;         /* of the simulated delays */
    int32_t shards;        /* tensor shards t; 0: 1 */
    int32_t shard_workers; /* workers that share a stage; 0: 1. workers counts those of one shard */
    int32_t replicas;      /* workers is of one of them; 0: 1 */
    int32_t groups;        /* of gradient accumulation; 0: as many as replicas */
    bool zero1;
    int32_t vocab, sides; /* vocabulary shards by algorithm 1 or 2; sides 0: one per worker */
    bool together;        /* all replicas on the workers of the first */
    int64_t part_bytes;   /* slots between workers whose shards meet; 0: chosen */
    bool whole_links;
    bool sequence;
    const qn_transport *counting;  /* in place of transport, or NULL */
    qn_undo undo;                  /* post-validated steps */
    double clip;                   /* 0: as rig_hyper says; below 0: none */
    int32_t flight;                /* the most steps without a barrier; 0: 1 */
    const qn_trainer_tiers *tiers; /* devices, or NULL */
    int32_t round;                 /* roundpipe: items of a round; 0: all */
    uint64_t jitter;
    bool (*stop)(void *ctx);
    void *stop_ctx;
} rig_way;

static inline qn_order *rig_split_order(int32_t workers, int32_t items)
{
    qn_order *o;
    qn_err err;
    rig_ok(qn_order_open(&o, workers, workers, items, &err), &err);
    for (int32_t s = 0; s < workers; s++) {
        for (int32_t i = 0; i < items; i++) qn_order_push(o, s, QN_OP_F, s, i);
        for (int32_t i = 0; i < items; i++) {
            qn_order_push(o, s, QN_OP_B, s, items - 1 - i); /* input gradients in any order, weight gradients ascending */
        }
        for (int32_t i = 0; i < items; i++) qn_order_push(o, s, QN_OP_W, s, i);
    }
    rig_ok(qn_order_done(o, &err), &err);
    return o;
}

static inline qn_order *rig_base_order(const rig_way *way, int32_t items)
{
    qn_order *o;
    qn_err err;
    if (strcmp(way->schedule, "split") == 0) return rig_split_order(way->workers, items);
    const qn_generator *g = qn_generator_find(way->schedule);
    const qn_pattern pattern = {.workers = way->workers,
                                .items = items,
                                .chunks = g->usual_chunks,
                                .vocab = way->vocab,
                                .sides = way->sides,
                                .group = way->round};
    rig_ok(qn_generate(&o, way->schedule, &pattern, &err), &err);
    return o;
}

/* Every worker's tasks go on worker w % workers, one replica after the other: each alone can run, so all can. */
static inline qn_order *rig_put_together(qn_order *wide, int32_t workers)
{
    qn_order *o;
    qn_err err;
    rig_ok(qn_order_open(&o, workers, wide->stages, wide->items, &err), &err);
    o->columns = wide->columns;
    o->shards = wide->shards;
    o->sides = wide->sides;
    o->vocab = wide->vocab;
    for (int32_t s = 0; s < wide->stages; s++) o->worker_of[s] = wide->worker_of[s] % workers;
    for (int32_t w = 0; w < wide->workers; w++)
        for (int32_t i = 0; i < wide->count[w]; i++)
            qn_order_push(o, w % workers, (qn_op)wide->task[w][i].op, wide->task[w][i].stage, wide->task[w][i].item);
    qn_order_close(wide);
    return o;
}

static inline qn_order *rig_order(const rig_way *way, int32_t items)
{
    const int32_t R = way->replicas > 1 ? way->replicas : 1, t = way->shards > 1 ? way->shards : 1;
    qn_order *base = rig_base_order(way, items / R), *wide;
    qn_err err;
    if (R == 1 && t == 1) return base;
    rig_ok(qn_order_widen(&wide, base, R, t, way->shard_workers > 0 ? way->shard_workers : 1, &err), &err);
    qn_order_close(base);
    return way->together ? rig_put_together(wide, wide->workers / R) : wide;
}

static const qn_hyper rig_hyper = {.beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .decay = 0.1, .clip = 0.05};
static const double RIG_LR = 1e-2;

/* The way's trainer for an order, whichever that is, cut evenly; or why there is none. */
static inline qn_status rig_try(qn_trainer **t, const qn_model *m, qn_mode mode, const rig_way *way, const qn_order *order,
                                qn_err *err)
{
    int32_t first[RIG_MAX_STAGES + 1];
    rig_cut(first, qn_depth(qn_order_grid(order)), qn_model_layers(m));
    qn_hyper hyper = rig_hyper;
    if (way->clip != 0.0) hyper.clip = way->clip > 0.0 ? way->clip : 0.0;
    const qn_trainer_desc d = {.model = m,
                               .order = order,
                               .first_layer = first,
                               .recompute = way->recompute,
                               .again = way->again,
                               .recompute_late = way->recompute_late,
                               .groups = way->groups,
                               .tiers = way->tiers,
                               .jitter = way->jitter,
                               .stop = way->stop,
                               .stop_ctx = way->stop_ctx,
                               .zero1 = way->zero1,
                               .mode = mode,
                               .threads = way->threads,
                               .part_bytes = way->part_bytes,
                               .whole_links = way->whole_links,
                               .sequence = way->sequence,
                               .source = &rig_source,
                               .hyper = hyper,
                               .post_validate = way->undo,
                               .flight = way->flight,
                               .seed = 5,
                               .transport = way->counting != NULL ? way->counting : qn_transport_find(way->transport),
                               .driver = strcmp(way->transport, "thread") == 0 ? QN_DRIVE_THREADS : QN_DRIVE_LOOP,
                               .faults = {.seed = way->seed, .max_delay = way->seed != 0 ? 50 : 0, .dead_worker = -1}};
    return qn_trainer_open(t, &d, err);
}

static inline qn_trainer *rig_open_on(const qn_model *m, qn_mode mode, const rig_way *way, const qn_order *order)
{
    qn_trainer *t;
    qn_err err;
    rig_ok(rig_try(&t, m, mode, way, order, &err), &err);
    return t;
}

static inline qn_trainer *rig_open(const qn_model *m, qn_mode mode, const rig_way *way, int32_t items)
{
    qn_order *order = rig_order(way, items);
    qn_trainer *t = rig_open_on(m, mode, way, order);
    qn_order_close(order);
    return t;
}

/* What cannot be has no trainer, and its message says so with these words. Closes the order. */
static inline void rig_refused_on(const qn_model *m, const rig_way *way, qn_order *order, qn_status status, const char *wanted)
{
    qn_trainer *t;
    qn_err err = {0};
    assert_int_equal(rig_try(&t, m, QN_MODE_F32, way, order, &err), status);
    if (strstr(err.text, wanted) == NULL) fail_msg("'%s' lacks '%s'", err.text, wanted);
    qn_order_close(order);
}

static inline void rig_refused(const qn_model *m, const rig_way *way, int32_t items, qn_status status, const char *wanted)
{
    rig_refused_on(m, way, rig_order(way, items), status, wanted);
}

/* --- the whole state: values, m and v of all parameters, one after the other */
static inline size_t rig_state_bytes(const qn_model *m, size_t element)
{
    return (size_t)qn_model_param_count(m) * 3 * element;
}

static inline void rig_state(char *state, qn_trainer *t, const qn_model *m, size_t element, int into)
{
    for (int32_t p = 0; p < qn_model_params(m); p++) {
        const size_t n = (size_t)qn_model_param(m, p)->count * element;
        if (!into) memset(state, 0, 3 * n); /* what is frozen has no moments */
        if (into)
            qn_trainer_put(t, p, state, state + n, state + 2 * n);
        else
            qn_trainer_get(t, p, state, state + n, state + 2 * n);
        state += 3 * n;
    }
    if (into) qn_trainer_refresh(t);
}

static inline size_t rig_element(qn_mode mode)
{
    return mode == QN_MODE_REF_F64 ? sizeof(double) : sizeof(float);
}

/* --- a whole run with all that is compared; steps beyond those taken stay 0 */
enum { RIG_MOST_STEPS = 20 };

typedef struct rig_outcome {
    double loss[RIG_MOST_STEPS], norm[RIG_MOST_STEPS];
    char *state; /* free */
    size_t bytes;
    qn_memory memory;
} rig_outcome;

static inline rig_outcome rig_compute(const qn_model *m, qn_mode mode, const rig_way *way, int32_t items, int32_t steps)
{
    rig_outcome out = {.bytes = rig_state_bytes(m, rig_element(mode))};
    qn_err err;
    qn_trainer *t = rig_open(m, mode, way, items);
    double lr[RIG_MOST_STEPS];
    qn_step_result r[RIG_MOST_STEPS];
    int32_t done;
    for (int32_t step = 0; step < steps; step++) lr[step] = RIG_LR;
    rig_ok(qn_trainer_flight(t, 0, steps, lr, r, &done, NULL, &err), &err);
    assert_int_equal(done, steps);
    for (int32_t step = 0; step < steps; step++) {
        out.loss[step] = r[step].loss;
        out.norm[step] = r[step].grad_norm;
    }
    qn_trainer_settle(t);
    out.state = malloc(out.bytes);
    assert_non_null(out.state);
    rig_state(out.state, t, m, rig_element(mode), 0);
    out.memory = qn_trainer_memory(t);
    const qn_plan *p = qn_trainer_run_plan(t);
    for (int32_t w = 0; w < p->workers && steps > 0; w++) { /* what was predicted is what was used, wherever the cursor went */
        assert_true(qn_trainer_high_water(t, w) <= p->arena_bytes[w]);
        if (steps >= qn_cursor_period(p)) assert_int_equal(qn_trainer_high_water(t, w), p->arena_bytes[w]);
    }
    qn_trainer_close(t);
    return out;
}

/* --- two ways, the same bits */
static inline void rig_append(char *text, size_t room, const char *format, ...) __attribute__((format(printf, 3, 4)));
static inline void rig_append(char *text, size_t room, const char *format, ...)
{
    const size_t n = strlen(text);
    va_list args;
    va_start(args, format);
    vsnprintf(text + n, room - n, format, args);
    va_end(args);
}

/* Everything that tells one way from another, in a line; what is as usual goes without saying. */
static inline void rig_describe(char *text, size_t room, const rig_way *way, qn_mode mode, int32_t items)
{
    text[0] = '\0';
    rig_append(text, room, "%s on %d workers of %d threads, %s, %d items", way->schedule, way->workers, way->threads,
               way->transport, items);
    if (way->round > 0) rig_append(text, room, " in rounds of %d", way->round);
    if (mode != QN_MODE_F32) rig_append(text, room, ", mode %d", (int)mode);
    if (way->seed != 0) rig_append(text, room, ", seed %llu", (unsigned long long)way->seed);
    if (way->jitter != 0) rig_append(text, room, ", jitter %llu", (unsigned long long)way->jitter);
    if (way->recompute != QN_RECOMPUTE_NONE)
        rig_append(text, room, ", recompute %d%s", (int)way->recompute, way->recompute_late ? " late" : "");
    if (way->shards > 1) rig_append(text, room, ", %d shards on %d workers each", way->shards, way->shard_workers);
    if (way->sequence) rig_append(text, room, ", slices of the rows");
    if (way->whole_links) rig_append(text, room, ", whole links");
    if (way->part_bytes > 0) rig_append(text, room, ", parts of %lld bytes", (long long)way->part_bytes);
    if (way->vocab > 0) rig_append(text, room, ", vocabulary algorithm %d in %d", way->vocab, way->sides);
    if (way->replicas > 1) rig_append(text, room, ", %d replicas%s", way->replicas, way->together ? " together" : "");
    if (way->groups > 0) rig_append(text, room, ", %d groups", way->groups);
    if (way->zero1) rig_append(text, room, ", zero1");
    if (way->undo != QN_UNDO_NONE) rig_append(text, room, ", undo %d", (int)way->undo);
    if (way->clip != 0.0) rig_append(text, room, ", clip %g", way->clip);
    if (way->flight > 1) rig_append(text, room, ", flights of %d", way->flight);
    if (way->tiers != NULL)
        rig_append(text, room, ", window %d,%d, lag %d", way->tiers->window, way->tiers->replace, way->tiers->lag);
}

/* Every loss, norm and byte of the state; got's state is freed. */
static inline void rig_assert_equal(const rig_outcome *got, const rig_outcome *want, qn_mode mode, const rig_way *way,
                                    int32_t items)
{
    const bool losses = memcmp(got->loss, want->loss, sizeof(got->loss)) == 0,
               norms = memcmp(got->norm, want->norm, sizeof(got->norm)) == 0,
               state = got->bytes == want->bytes && memcmp(got->state, want->state, want->bytes) == 0;
    free(got->state);
    if (losses && norms && state) return;
    char text[512];
    int32_t step = 0;
    while (step < RIG_MOST_STEPS - 1 && memcmp(&got->loss[step], &want->loss[step], sizeof(double)) == 0 &&
           memcmp(&got->norm[step], &want->norm[step], sizeof(double)) == 0)
        step++;
    rig_describe(text, sizeof(text), way, mode, items);
    if (losses && norms) fail_msg("%s: states differ", text);
    fail_msg("%s: loss of step %d is %.17g, wanted %.17g; norm %.17g, wanted %.17g", text, step, got->loss[step],
             want->loss[step], got->norm[step], want->norm[step]);
}

static inline void rig_assert_same(const qn_model *m, qn_mode mode, const rig_way *way, int32_t items, int32_t steps,
                                   const rig_outcome *want)
{
    const rig_outcome got = rig_compute(m, mode, way, items, steps);
    rig_assert_equal(&got, want, mode, way, items);
}

/* Losses that another order of the same sums gives. */
static inline void rig_assert_near(const rig_outcome *got, const rig_outcome *want, int32_t steps)
{
    for (int32_t i = 0; i < steps; i++)
        if (!(fabs(got->loss[i] - want->loss[i]) <= 1e-4 * want->loss[i]))
            fail_msg("loss of step %d is %.9g with shards, %.9g without", i, got->loss[i], want->loss[i]);
}

#endif
