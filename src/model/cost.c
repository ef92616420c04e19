/* Costs of layers, and contiguous cuts by dynamic programming: first the smallest possible maximum, then the evenest cut that
 * keeps it. */
#include "model/cost.h"

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "model/layer.h"

qn_layer_flops qn_layer_cost(const qn_model *m, int32_t layer, int64_t B, int64_t T)
{
    qn_layer_flops sum = {0, 0, 0};
    QN_ASSERT(layer >= 0 && layer < m->layers);
    const qn_layer *l = &m->layer[layer];
    const bool walked = layer >= qni_lowest_trained(m);
    for (int32_t o = 0; o < l->ops; o++) {
        if (l->op[o].kind->flops == NULL) continue;
        const qn_op_flops f = l->op[o].kind->flops(&l->op[o], B, T);
        const int64_t parts = l->op[o].sliced ? m->config.shards : 1; /* a slice of the rows */
        sum.forward += f.forward / parts;
        if (walked) sum.input += f.input / parts;
        if (qni_op_learns(m, &l->op[o])) sum.weight += f.weight / parts;
    }
    return sum;
}

/* best[s * (n + 1) + i]: for the first i layers on s + 1 stages, none empty. from: where the last of these stages begins. */
typedef struct cut_table {
    int32_t n, stages;
    int64_t *before; /* [n + 1] cost of the first i layers */
    int64_t *most;   /* smallest possible maximum */
    double *squares; /* smallest sum of squares under the limit on the maximum; negative: impossible */
    int32_t *from;
} cut_table;

static size_t cell(const cut_table *t, int32_t s, int32_t i)
{
    return (size_t)s * (size_t)(t->n + 1) + (size_t)i;
}

static int64_t smallest_maximum(cut_table *t)
{
    for (int32_t s = 0; s < t->stages; s++) {
        for (int32_t i = s + 1; i <= t->n; i++) {
            int64_t best = s == 0 ? t->before[i] : INT64_MAX;
            for (int32_t j = s; s > 0 && j < i; j++)
                best = qn_min64(best, qn_max64(t->most[cell(t, s - 1, j)], t->before[i] - t->before[j]));
            t->most[cell(t, s, i)] = best;
        }
    }
    return t->most[cell(t, t->stages - 1, t->n)];
}

static void evenest(cut_table *t, int64_t limit)
{
    for (int32_t s = 0; s < t->stages; s++) {
        for (int32_t i = s + 1; i <= t->n; i++) {
            double best = -1;
            int32_t from = 0;
            for (int32_t j = s == 0 ? 0 : i - 1; j >= s && (s > 0 || j == 0);
                 j--) { /* from the right: ties leave more to the earlier stages */
                const int64_t part = t->before[i] - t->before[j];
                const double rest = s == 0 ? 0 : t->squares[cell(t, s - 1, j)];
                if (part > limit || rest < 0) continue;
                const double sum = rest + (double)part * (double)part;
                if (best < 0 || sum < best) {
                    best = sum;
                    from = j;
                }
            }
            t->squares[cell(t, s, i)] = best;
            t->from[cell(t, s, i)] = from;
        }
    }
}

qn_status qn_cuts_of_costs(const int64_t *cost, int32_t layers, int32_t stages, int32_t *cut, qn_err *err)
{
    qn_status st = QN_OK;
    if (layers < 0 || stages < 1)
        return QN_FAIL(err, QN_EINVAL, "a chain of %d layers cannot be cut into %d stages; at least 1 stage is needed", layers,
                       stages);
    cut_table t = {.n = layers, .stages = qn_min32(layers, stages)};
    const size_t cells = (size_t)t.stages * ((size_t)layers + 1);
    for (int32_t s = 0; s <= stages; s++) cut[s] = s == 0 ? 0 : layers;
    if (layers == 0) return QN_OK;
    t.before = qn_calloc((size_t)layers + 1, sizeof(*t.before));
    t.most = qn_calloc(cells, sizeof(*t.most));
    t.squares = qn_calloc(cells, sizeof(*t.squares));
    t.from = qn_calloc(cells, sizeof(*t.from));
    if (t.before == NULL || t.most == NULL || t.squares == NULL || t.from == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "no memory to cut %d layers into %d stages", layers, stages);
        goto out;
    }
    for (int32_t i = 0; i < layers; i++) t.before[i + 1] = t.before[i] + cost[i];
    evenest(&t, smallest_maximum(&t));
    for (int32_t s = t.stages - 1, end = layers; s > 0; s--) {
        end = t.from[cell(&t, s, end)];
        cut[s] = end;
    }
    for (int32_t s = layers; s < stages; s++) cut[s] = layers - 1;
out:
    qn_free(t.before);
    qn_free(t.most);
    qn_free(t.squares);
    qn_free(t.from);
    return st;
}

qn_status qn_model_default_cuts(const qn_model *m, int64_t B, int64_t T, int32_t stages, int32_t *cut, qn_err *err)
{
    const int32_t layers = m->config.layers + 2; /* side layers are placed, not cut */
    int64_t *cost = qn_calloc((size_t)layers, sizeof(*cost));
    if (cost == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for the costs of %d layers", layers);
    for (int32_t i = 0; i < layers; i++) {
        const qn_layer_flops f = qn_layer_cost(m, i, B, T);
        cost[i] = f.forward + f.input + f.weight;
    }
    const qn_status st = qn_cuts_of_costs(cost, layers, stages, cut, err);
    qn_free(cost);
    return st;
}
