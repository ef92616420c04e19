/* The published inputs of RoundPipe's simulator table (arXiv:2604.27085, artifact): five models, their cuts, times, makespans and
 * bubbles. Ticks are 1e-8 ms, so that the inputs are exact. For tests. */
#ifndef QN_SCHEDULE_ROUND_MODELS_H
#define QN_SCHEDULE_ROUND_MODELS_H

#include "round_pipe.h"
#include "schedule/schedule_rig.h"

enum { N = 8, M = 16, MOST = 128 };

typedef struct model {
    const char *name;
    int32_t layers;
    double f, b, head_f, head_b, hop;    /* ms of a layer and a micro-batch */
    int32_t eight[N];                    /* layers of the stages of 1F1B and GPipe */
    int32_t ones_from, ones, twos, tail; /* looped stages: ones_from stages of 0, ones of 1, twos of 2, tail of 0 layers */
    int32_t forward[MOST], backward[MOST];
    int32_t forward_stages, backward_stages;
    double makespan[5], bubble[5]; /* 1F1B, GPipe, interleaved, looped BFS, RoundPipe with a flush */
    double fill, drain, chained;   /* % */
} model;

/* clang-format off */
static const model qwen_1_7 = {"1.7B", 28, 7.429, 15.831, 22.0655, 43.707, 1.6, {3, 3, 4, 4, 4, 4, 4, 2}, 0, 18, 5, 1, {7, 7, 7, 7},
    {0, 3, 3, 3, 3, 3, 3, 3, 3, 2, 2}, 4, 11, {2854.722, 2896.917, 2560.802, 2467.271, 2286.017},
    {35.1906, 36.1346, 27.7520, 25.0131, 19.0676}, 7.5105, 7.5075, 4.496};
static const model llama_8 = {"8B", 32, 18.50370313, 41.20659375, 37.2255, 74.501, 3.2, {4, 4, 4, 4, 4, 4, 4, 4}, 0, 32, 0, 0,
    {5, 5, 5, 5, 6, 6}, {0}, 6, 17, {9028.112, 9028.112, 7539.218, 7385.618, 6100.545},
    {42.0793, 42.0793, 30.6407, 29.1982, 14.2839}, 5.4921, 7.5008, 2.222};
static const model gpt_20 = {"20B", 24, 21.6445625, 81.780875, 44.2925, 86.264, 2.25, {3, 3, 3, 3, 3, 3, 3, 3}, 0, 24, 0, 0,
    {4, 5, 5, 5, 5}, {0}, 5, 25, {10750.234, 10750.234, 9071.254, 8999.254, 7282.806},
    {41.7271, 41.7271, 30.9415, 30.3890, 13.9827}, 4.7780, 5.9025, 4.205};
static const model qwen_32 = {"32B", 64, 40.5610625, 91.17429688, 54.928, 108.294, 4, {8, 8, 8, 8, 8, 8, 8, 8}, 0, 64, 0, 0,
    {2, 2}, {0}, 22, 65, {34370.094, 34370.094, 26375.569, 25927.569, 23978.834},
    {34.8841, 34.8841, 15.1473, 13.6811, 6.6661}, 1.5596, 2.4565, 3.450};
static const model qwen_235 = {"235B", 94, 43.016, 58.376, 42.444, 43.294, 3.2, {11, 12, 12, 12, 12, 12, 12, 11}, 1, 94, 0, 1,
    {0}, {0}, 47, 95, {39716.460, 39698.330, 29052.882, 28575.714, 28250.032},
    {31.2119, 31.1805, 5.9640, 4.3937, 3.2915}, 1.1055, 1.2039, 1.105};
/* clang-format on */

static int64_t ticks(double ms)
{
    return (int64_t)(ms * 1e8 + 0.5);
}

/* The cuts that are mostly of one number are filled in here. */
static model complete(const model *from)
{
    model m = *from;
    const int32_t f = m.layers == 64 ? 3 : 2, b = m.layers == 32 ? 2 : 1;
    for (int32_t i = 0; i < m.forward_stages; i++) m.forward[i] = m.forward[i] > 0 ? m.forward[i] : f;
    for (int32_t i = 1; i < m.backward_stages; i++) m.backward[i] = m.backward[i] > 0 ? m.backward[i] : b;
    int32_t forward = 0, backward = 0;
    for (int32_t i = 0; i < m.forward_stages; i++) forward += m.forward[i];
    for (int32_t i = 0; i < m.backward_stages; i++) backward += m.backward[i];
    assert_int_equal(forward, m.layers);
    assert_int_equal(backward, m.layers);
    return m;
}

static const model *const models[] = {&qwen_1_7, &llama_8, &gpt_20, &qwen_32, &qwen_235};

typedef struct stage_times {
    int64_t forward[MOST], recompute[MOST], backward[MOST];
} stage_times;

static qn_round_shape shape_of(stage_times *t, const model *m)
{
    for (int32_t i = 0; i < m->forward_stages; i++) t->forward[i] = m->forward[i] * ticks(m->f);
    for (int32_t i = 0; i < m->backward_stages; i++) {
        t->recompute[i] = m->backward[i] * ticks(m->f) + (i == 0 ? ticks(m->head_f) : 0);
        t->backward[i] = m->backward[i] * ticks(m->b) + (i == 0 ? ticks(m->head_b) : 0);
    }
    return (qn_round_shape){.workers = N,
                            .items = M,
                            .round_items = N,
                            .iterations = 1,
                            .forward_stages = m->forward_stages,
                            .backward_stages = m->backward_stages,
                            .forward = t->forward,
                            .recompute = t->recompute,
                            .backward = t->backward,
                            .hop = ticks(m->hop),
                            .free_first = true,
                            .input_late = true};
}

/* To so many decimals. */
static void expect_share(const model *m, const char *what, double got, double want, int32_t digits)
{
    char a[32], b[32];
    snprintf(a, sizeof a, "%.*f", digits, got);
    snprintf(b, sizeof b, "%.*f", digits, want);
    if (strcmp(a, b) != 0) fail_msg("%s %s: %s %%, published %s", m->name, what, a, b);
}

#endif
