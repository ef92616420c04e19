/* RoundPipe's partitioner: see round_pipe.h. O(L^3) for the greedy cuts, O(stages L^2) for the evening out. */
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "round_pipe.h"

typedef struct cutter {
    const qn_round_layers *in;
    int64_t half;    /* bytes of one stage; INT64_MAX: not limited */
    int64_t *b;      /* [layers]: recompute and backward */
    int64_t *best;   /* [(stages + 1) * (layers + 1)], scratch of even */
    int32_t *took;   /* as best */
    int32_t *stages; /* [4][layers]: cuts to choose from */
    int64_t *cost;   /* [3][layers]: of the stages of a cut */
} cutter;

static int64_t bytes_of(const int64_t *bytes, int32_t layer)
{
    return bytes != NULL ? bytes[layer] : 0;
}

static int64_t longest_layer(const cutter *c)
{
    int64_t most = 0;
    for (int32_t i = 0; i < c->in->layers; i++) most = qn_max64(most, qn_max64(c->in->forward[i], c->b[i]));
    return most;
}

/* How many layers from first on, going by step, make a stage: at least one, no longer than t and no larger than half. */
static int32_t fill(const cutter *c, const int64_t *time, const int64_t *bytes, int32_t first, int32_t step, int32_t end,
                    int64_t t)
{
    int32_t n = 0;
    int64_t sum = 0, size = 0;
    for (int32_t i = first; i != end; i += step, n++) {
        sum += time[i];
        size += bytes_of(bytes, i);
        if (n > 0 && (sum > t || size > c->half)) break;
    }
    return n;
}

static void greedy(qn_round_cut *cut, const cutter *c, int64_t t)
{
    const qn_round_layers *in = c->in;
    const int32_t fused = fill(c, c->b, in->backward_bytes, in->layers - 1, -1, -1, t), below = in->layers - fused;
    cut->forward_stages = cut->backward_stages = 0;
    for (int32_t i = below - 1; i >= 0;) {
        const int32_t n = fill(c, in->forward, in->forward_bytes, i, -1, -1, t);
        cut->forward[cut->forward_stages++] = n;
        i -= n;
    }
    for (int32_t i = 0; i < below;) {
        const int32_t n = fill(c, c->b, in->backward_bytes, i, 1, below, t);
        cut->backward[cut->backward_stages++] = n;
        i += n;
    }
    cut->backward[cut->backward_stages++] = fused;
    for (int32_t k = 0; k < 2; k++) { /* both were made from the other end */
        int32_t *list = k == 0 ? cut->forward : cut->backward, n = k == 0 ? cut->forward_stages : cut->backward_stages;
        for (int32_t i = 0; i < n / 2; i++) {
            const int32_t x = list[i];
            list[i] = list[n - 1 - i];
            list[n - 1 - i] = x;
        }
    }
}

/* (M S + N (N - 1)) t */
static double objective(const qn_round_cut *cut, const qn_round_layers *in, int64_t t)
{
    const double S = cut->forward_stages + cut->backward_stages, N = in->workers;
    return ((double)in->items * S + N * (N - 1)) * (double)t;
}

/* The best greedy cut over all lengths of a stage. work: a second cut. */
static void search(qn_round_cut *cut, qn_round_cut *work, const cutter *c)
{
    const qn_round_layers *in = c->in;
    const int64_t least = longest_layer(c), most = least + least / 10;
    double best = 0;
    int64_t best_t = 0;
    for (int32_t pass = 0; pass < 2; pass++) {
        const int64_t *time = pass == 0 ? in->forward : c->b;
        for (int32_t first = 0; first < in->layers; first++) {
            int64_t t = 0;
            for (int32_t i = first; i < in->layers && t <= most; i++) {
                t += time[i];
                if (t < least || t > most) continue;
                greedy(work, c, t);
                const double value = objective(work, in, t);
                if (best_t != 0 && (value > best || (value >= best && t >= best_t))) continue;
                best = value;
                best_t = t;
                cut->forward_stages = work->forward_stages;
                cut->backward_stages = work->backward_stages;
                memcpy(cut->forward, work->forward, (size_t)work->forward_stages * sizeof(int32_t));
                memcpy(cut->backward, work->backward, (size_t)work->backward_stages * sizeof(int32_t));
            }
        }
    }
    if (best_t == 0) greedy(cut, c, most); /* layers that take no time */
}

/* The smallest longest stage when n layers become k stages; INT64_MAX where bytes forbid it. */
static int64_t smallest_longest(const cutter *c, const int64_t *time, const int64_t *bytes, int32_t n, int32_t k)
{
    const size_t wide = (size_t)n + 1;
    for (int32_t j = 0; j <= k; j++) {
        for (int32_t i = 0; i <= n; i++) {
            int64_t sum = 0, size = 0, best = j == 0 && i == 0 ? 0 : INT64_MAX;
            for (int32_t m = 1; j > 0 && m <= i; m++) {
                sum += time[i - m];
                size += bytes_of(bytes, i - m);
                if (m > 1 && size > c->half) break;
                const int64_t rest = c->best[(size_t)(j - 1) * wide + (size_t)(i - m)];
                best = qn_min64(best, rest == INT64_MAX ? INT64_MAX : qn_max64(rest, sum));
            }
            c->best[(size_t)j * wide + (size_t)i] = best;
        }
    }
    return c->best[(size_t)k * wide + (size_t)n];
}

/* list [k]: layers of the stages of layers 0 to n - 1 from 0 up, none longer than need be and as equal as can be (squares in
 * units that cannot overflow); of equals the layers go where the later stages are. False: there are none. */
static bool even(int32_t *list, const cutter *c, const int64_t *time, const int64_t *bytes, int32_t n, int32_t k)
{
    const size_t wide = (size_t)n + 1;
    const int64_t longest = k > 0 ? smallest_longest(c, time, bytes, n, k) : INT64_MAX, unit = longest / 65536 + 1;
    if (longest == INT64_MAX) return false;
    for (int32_t j = 0; j <= k; j++) {
        for (int32_t i = 0; i <= n; i++) {
            int64_t sum = 0, size = 0, best = j == 0 && i == 0 ? 0 : INT64_MAX;
            int32_t took = 0;
            for (int32_t m = 1; j > 0 && m <= i; m++) {
                sum += time[i - m];
                size += bytes_of(bytes, i - m);
                if (sum > longest || (m > 1 && size > c->half)) break;
                const int64_t rest = c->best[(size_t)(j - 1) * wide + (size_t)(i - m)];
                if (rest == INT64_MAX || rest + (sum / unit) * (sum / unit) > best) continue;
                best = rest + (sum / unit) * (sum / unit);
                took = m; /* of equals the larger */
            }
            c->best[(size_t)j * wide + (size_t)i] = best;
            c->took[(size_t)j * wide + (size_t)i] = took;
        }
    }
    for (int32_t j = k, i = n; j > 0; j--) {
        list[j - 1] = c->took[(size_t)j * wide + (size_t)i];
        i -= list[j - 1];
    }
    return true;
}

/* Each direction greedy or even, as the simulation says; even where it makes no difference. */
static qn_status choose(qn_round_cut *cut, cutter *c, qn_err *err)
{
    const qn_round_layers *in = c->in;
    const int32_t L = in->layers, below = L - cut->backward[0], Sf = cut->forward_stages, Sb = cut->backward_stages;
    int32_t *even_f = c->stages, *even_b = even_f + L, *old_f = even_b + L, *old_b = old_f + L;
    memcpy(old_f, cut->forward, (size_t)Sf * sizeof *old_f);
    memcpy(old_b, cut->backward, (size_t)Sb * sizeof *old_b);
    const bool has_f = even(even_f, c, in->forward, in->forward_bytes, below, Sf),
               has_b = even(even_b + 1, c, c->b, in->backward_bytes, below, Sb - 1);
    even_b[0] = old_b[0];
    for (int32_t i = 1, j = Sb - 1; has_b && i < j; i++, j--) { /* made from layer 0 up */
        const int32_t x = even_b[i];
        even_b[i] = even_b[j];
        even_b[j] = x;
    }
    int64_t best = INT64_MAX;
    int32_t way = 3;
    for (int32_t k = 0; k < 4; k++) {
        if (((k & 1) == 0 && !has_f) || ((k & 2) == 0 && !has_b)) continue;
        const qn_round_cut x = {
            .forward_stages = Sf, .backward_stages = Sb, .forward = k & 1 ? old_f : even_f, .backward = k & 2 ? old_b : even_b};
        int64_t t = 0;
        const qn_status st = qn_round_cut_time(&t, &x, in, c->cost, err);
        if (st != QN_OK) return st;
        if (t >= best) continue;
        best = t;
        way = k;
    }
    memcpy(cut->forward, way & 1 ? old_f : even_f, (size_t)Sf * sizeof *old_f);
    memcpy(cut->backward, way & 2 ? old_b : even_b, (size_t)Sb * sizeof *old_b);
    return QN_OK;
}

static qn_status check(const qn_round_layers *in, qn_err *err)
{
    if (in->layers < 1 || in->layers > 1024 || in->workers < 1 || in->items < 1)
        return QN_FAIL(
            err, QN_EINVAL,
            "cuts of %d layers for %d workers and %d micro-batches: 1 to 1024 layers and at least 1 of the others are possible",
            in->layers, in->workers, in->items);
    for (int32_t i = 0; i < in->layers; i++) {
        static const int64_t most = (int64_t)1 << 40;
        const int64_t x[] = {in->forward[i], in->recompute[i], in->backward[i], bytes_of(in->forward_bytes, i) >> 20,
                             bytes_of(in->backward_bytes, i) >> 20};
        for (int32_t k = 0; k < 5; k++) {
            if (x[k] < 0 || x[k] > most) return QN_FAIL(err, QN_EINVAL, "layer %d has times or bytes out of range", i);
        }
    }
    return QN_OK;
}

static qn_status open_cutter(cutter *c, const qn_round_layers *in, qn_err *err)
{
    const size_t L = (size_t)in->layers;
    *c = (cutter){.in = in, .half = INT64_MAX};
    c->b = qn_malloc(L, sizeof *c->b);
    c->best = qn_malloc((L + 1) * (L + 1), sizeof *c->best);
    c->took = qn_malloc((L + 1) * (L + 1), sizeof *c->took);
    c->stages = qn_malloc(4 * L, sizeof *c->stages);
    c->cost = qn_malloc(3 * L, sizeof *c->cost);
    if (c->b == NULL || c->best == NULL || c->took == NULL || c->stages == NULL || c->cost == NULL)
        return QN_FAIL(err, QN_ENOMEM, "cuts of %d layers", in->layers);
    for (int32_t i = 0; i < in->layers; i++)
        c->b[i] = (i == in->layers - 1 ? in->forward[i] : in->recompute[i]) + in->backward[i];
    if (in->limit <= 0) return QN_OK;
    c->half = in->limit / 2;
    for (int32_t i = 0; i < in->layers; i++)
        c->half = qn_max64(c->half, qn_max64(bytes_of(in->forward_bytes, i), bytes_of(in->backward_bytes, i)));
    return QN_OK;
}

qn_status qn_round_partition(qn_round_cut *cut, int64_t *limit, const qn_round_layers *in, qn_err *err)
{
    cutter c = {0};
    qn_round_cut work = {0};
    qn_status st = check(in, err);
    if (st != QN_OK) return st;
    QN_TRY(st, open_cutter(&c, in, err), out);
    work.forward = c.stages;
    work.backward = c.stages + in->layers;
    search(cut, &work, &c);
    if (!in->greedy_only) QN_TRY(st, choose(cut, &c, err), out);
    if (limit != NULL) *limit = in->limit > 0 ? qn_max64(in->limit, 2 * c.half) : in->limit;
out:
    qn_free(c.cost);
    qn_free(c.stages);
    qn_free(c.took);
    qn_free(c.best);
    qn_free(c.b);
    return st;
}
