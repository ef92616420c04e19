/* See round_pipe.h: slots and their times. The partitioner is round_partition.c. */
#include "round_pipe.h"

#include "core/alloc.h"
#include "core/checked.h"

int32_t qn_round_pieces(int32_t *first_layer, int32_t *forward_slot, int32_t *backward_slot, const qn_round_cut *cut)
{
    const int32_t fused = cut->forward_stages;
    int32_t pieces = 0, layer = 0, f = 0, b = cut->backward_stages - 1, f_end = 0, b_end = 0, layers = 0;
    for (int32_t i = 0; i < cut->backward_stages; i++) layers += cut->backward[i];
    f_end = f < fused ? cut->forward[f] : layers;
    b_end = cut->backward[b];
    while (layer < layers) {
        while (f_end <= layer) f_end += ++f < fused ? cut->forward[f] : layers;
        while (b_end <= layer) b_end += cut->backward[--b];
        first_layer[pieces] = layer;
        forward_slot[pieces] = f;
        backward_slot[pieces++] = fused + b;
        layer = qn_min32(f_end, b_end);
    }
    first_layer[pieces] = layers;
    return pieces;
}

/* ---- time */

typedef struct pool {
    const qn_round_shape *s;
    int64_t *free_at, *first, *last; /* [workers] */
    int64_t *before, *now, *input;   /* [round_items]: ends of the slot before, of this one, of the last forward stage */
    int32_t g0, worker_before, worker_input;
    int64_t busy;
} pool;

static int64_t arrival(const pool *p, const int64_t *end, int32_t from, int32_t to, int32_t item)
{
    return end[item] + (from == to ? 0 : p->s->hop);
}

static void run_slot(pool *p, int32_t slot, int32_t items)
{
    const qn_round_shape *s = p->s;
    const int32_t w = (int32_t)(((int64_t)p->g0 + slot) % s->workers), b = slot - s->forward_stages;
    const int64_t ahead = b < 0 ? 0 : s->recompute[b], rest = b < 0 ? s->forward[slot] : s->backward[b];
    for (int32_t i = 0; i < items; i++) {
        int64_t needs = slot == 0 ? 0 : arrival(p, p->before, p->worker_before, w, i);
        int64_t start = p->free_at[w];
        if (b >= 0 && s->forward_stages > 0) {
            const int64_t input = arrival(p, p->input, p->worker_input, w, i);
            if (!s->input_late) start = qn_max64(start, input);
            needs = qn_max64(needs, input);
        }
        if (b == 0 && !s->input_late) start = qn_max64(start, needs);
        start = qn_max64(start, needs - ahead); /* as late as does no harm: earlier is not sooner */
        p->now[i] = p->free_at[w] = start + ahead + rest;
        p->busy += ahead + rest;
        if (ahead + rest == 0) continue;
        if (p->first[w] < 0) p->first[w] = start;
        p->last[w] = p->now[i];
    }
    int64_t *swap = p->before;
    p->before = p->now;
    p->now = swap;
    p->worker_before = w;
    if (slot != s->forward_stages - 1) return;
    for (int32_t i = 0; i < items; i++) p->input[i] = p->before[i];
    p->worker_input = w;
}

static void next_round(pool *p)
{
    const qn_round_shape *s = p->s;
    if (!s->free_first) {
        p->g0 = (int32_t)(((int64_t)p->g0 + s->forward_stages + s->backward_stages) % s->workers);
        return;
    }
    p->g0 = 0;
    for (int32_t w = 1; w < s->workers; w++) {
        if (p->free_at[w] < p->free_at[p->g0]) p->g0 = w;
    }
}

static int64_t last_end(const pool *p)
{
    int64_t end = 0;
    for (int32_t w = 0; w < p->s->workers; w++) end = qn_max64(end, p->last[w]);
    return end;
}

static void run_all(pool *p, int32_t *first_worker, int64_t *end, int64_t *busy_then)
{
    const qn_round_shape *s = p->s;
    int32_t round = 0;
    for (int32_t it = 0; it < s->iterations; it++) {
        for (int32_t left = s->items; left > 0; left -= s->round_items, round++) {
            if (round > 0) next_round(p);
            if (first_worker != NULL) first_worker[round] = p->g0;
            for (int32_t i = 0; i < s->forward_stages + s->backward_stages; i++) run_slot(p, i, qn_min32(left, s->round_items));
        }
        if (end != NULL) end[it] = last_end(p);
        if (busy_then != NULL) busy_then[it] = p->busy;
    }
}

qn_status qn_round_simulate(qn_round_time *out, int32_t *first_worker, int64_t *end, int64_t *busy_then, const qn_round_shape *s,
                            qn_err *err)
{
    if (s->workers < 1 || s->items < 1 || s->round_items < 1 || s->iterations < 1 || s->forward_stages < 0 ||
        s->backward_stages < 1)
        return QN_FAIL(err, QN_EINVAL, "rounds of %d of %d micro-batches on %d workers, %d and %d stages: at least 1 is needed",
                       s->round_items, s->items, s->workers, s->forward_stages, s->backward_stages);
    const size_t N = (size_t)s->workers, R = (size_t)qn_min32(s->round_items, s->items);
    int64_t *room = qn_calloc(3 * N + 3 * R, sizeof *room);
    if (room == NULL) return QN_FAIL(err, QN_ENOMEM, "times of %d workers", s->workers);
    pool p = {.s = s, .free_at = room, .first = room + N, .last = room + 2 * N, .before = room + 3 * N};
    p.now = p.before + R;
    p.input = p.now + R;
    for (size_t w = 0; w < N; w++) p.first[w] = -1;
    run_all(&p, first_worker, end, busy_then);
    *out = (qn_round_time){.makespan = last_end(&p), .busy = p.busy};
    for (size_t w = 0; w < N; w++) {
        out->fill += p.first[w] < 0 ? out->makespan : p.first[w];
        out->drain += p.first[w] < 0 ? 0 : out->makespan - p.last[w];
    }
    qn_free(room);
    return QN_OK;
}

qn_status qn_round_cut_time(int64_t *makespan, const qn_round_cut *cut, const qn_round_layers *in, int64_t *scratch, qn_err *err)
{
    int64_t *f = scratch, *r = f + in->layers, *b = r + in->layers;
    int32_t layer = 0;
    for (int32_t s = 0; s < cut->forward_stages; s++) {
        f[s] = 0;
        for (int32_t i = 0; i < cut->forward[s]; i++) f[s] += in->forward[layer++];
    }
    layer = in->layers;
    for (int32_t s = 0; s < cut->backward_stages; s++) {
        r[s] = b[s] = 0;
        for (int32_t i = 0; i < cut->backward[s]; i++) {
            layer--;
            r[s] += s == 0 ? in->forward[layer] : in->recompute[layer];
            b[s] += in->backward[layer];
        }
    }
    const qn_round_shape shape = {.workers = in->workers,
                                  .items = in->items,
                                  .round_items = in->items,
                                  .iterations = 1,
                                  .forward_stages = cut->forward_stages,
                                  .backward_stages = cut->backward_stages,
                                  .forward = f,
                                  .recompute = r,
                                  .backward = b,
                                  .hop = in->hop};
    qn_round_time t = {0};
    const qn_status st = qn_round_simulate(&t, NULL, NULL, NULL, &shape, err);
    *makespan = t.makespan;
    return st;
}
