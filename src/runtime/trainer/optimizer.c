#include "optimizer.h"

#include <math.h>
#include <string.h>

#include "core/checked.h"

int64_t qni_sums_count(const qni_homes *h, int32_t items)
{
    const int64_t verdict = (int64_t)(sizeof(qni_verdict) / sizeof(double));
    return qn_max64((int64_t)h->params + 2 * (int64_t)items, verdict);
}

static int64_t count_of(const qni_homes *h, int32_t param)
{
    return qni_home_param(h, param)->count;
}

void qni_tie(qni_homes *h, int32_t stage, void *other)
{
    const int32_t worker = qni_homes_worker(h, stage), replica = qn_replica(h->grid, stage);
    for (int32_t u = 0; u < h->uses; u++) {
        const int32_t p = qni_use_param(h, u);
        if (h->owner[p] != stage || u == h->first_use[p] || qni_homes_frozen(h, p)) continue;
        if (h->rows_use == h->first_use[p]) {
            qn_row_sums_fold(&h->rows, h->set->k, &h->set->exec[worker], h->sum[replica][u]);
            continue;
        }
        const bool here = qni_homes_worker(h, qni_use_stage(h, replica, u)) == worker;
        void *from = here ? h->sum[replica][u] : other;
        if (from != NULL) h->set->k->fold(&h->set->exec[worker], h->sum[replica][h->first_use[p]], from, count_of(h, p));
    }
}

/* Whole in every shard: shard 0's counts. */
static bool is_copy(const qni_homes *h, int32_t p)
{
    return p % h->shards > 0 && qni_home_param(h, p)->slice.shards == 1;
}

void qni_norm(const qni_homes *h, int32_t worker, int32_t stage, double *sums)
{
    for (int32_t p = 0; p < h->params; p++) {
        const int32_t owner = h->owner[p];
        const bool counts = qni_homes_worker(h, owner) == worker &&
                            (stage == QN_NONE || stage == qn_in_first_replica(h->grid, owner)) && !qni_homes_frozen(h, p) &&
                            !is_copy(h, p);
        sums[p] =
            counts ? h->set->k->sumsq(&h->set->exec[worker], h->sum[qn_replica(h->grid, owner)][h->first_use[p]], count_of(h, p))
                   : 0.0;
    }
}

bool qni_steps(const qni_homes *h, int32_t stage, int32_t param)
{
    const int32_t owner = h->owner[param];
    if (qni_homes_frozen(h, param) || qni_use_stage(h, qn_replica(h->grid, stage), h->first_use[param]) != stage) return false;
    return h->zero1 ? owner == stage : qn_stepping_stage(h->grid, h->set->worker_of, stage, qn_replica(h->grid, owner)) == stage;
}

void qni_norm_rest(const qni_homes *h, int32_t worker, double *sums)
{
    for (int32_t p = 0; p < h->params; p++) {
        if (sums[p] != 0.0 || qni_homes_worker(h, h->owner[p]) == worker || is_copy(h, p)) continue;
        for (int32_t r = 0; r < qn_replicas(h->grid); r++) {
            const int32_t u = h->first_use[p], stage = qni_use_stage(h, r, u);
            if (qni_homes_worker(h, stage) == worker && qni_steps(h, stage, p))
                sums[p] = h->set->k->sumsq(&h->set->exec[worker], h->sum[r][u], count_of(h, p));
        }
    }
}

int32_t qni_head_of_item(const qni_homes *h, int32_t item)
{
    const qn_grid g = h->grid;
    return qn_stage_at(g, item / qn_items_each(g) * g.shards, qn_depth(g) - 1);
}

void qni_fold(qni_verdict *out, const qni_homes *h, const double *const *sums, int32_t items, double clip)
{
    qni_verdict v = {.finding = QNI_GOOD};
    double squares = 0.0, tokens = 0.0;
    for (int32_t i = 0; i < items; i++) {
        const double *at = sums[qni_homes_worker(h, qni_head_of_item(h, i))] + h->params, loss = at[i];
        v.loss += loss;
        tokens += at[items + i];
        if (v.finding != QNI_GOOD || isfinite(loss)) continue;
        v.finding = QNI_BAD_LOSS;
        v.where = i;
    }
    v.tokens = (int64_t)tokens;
    if (v.finding == QNI_GOOD && v.tokens == 0) v.finding = QNI_NO_TARGETS;
    for (int32_t p = 0; p < h->params; p++) {
        const double square = sums[qni_homes_worker(h, h->owner[p])][p];
        squares += square;
        if (v.finding != QNI_GOOD || isfinite(square)) continue;
        v.finding = QNI_BAD_GRADIENT;
        v.where = p;
    }
    if (v.tokens > 0) {
        v.norm = sqrt(squares) / tokens;
        v.grad_scale = (clip > 0.0 && v.norm > clip ? clip / v.norm : 1.0) / tokens;
    }
    if (v.finding == QNI_GOOD && !isfinite(v.norm)) v.finding = QNI_BAD_NORM;
    *out = v;
}

typedef struct clear_job {
    char *at;
    size_t bytes;
} clear_job;

static void clear_part(void *ctx, int32_t thread, int32_t threads)
{
    const clear_job *job = ctx;
    int64_t begin, end;
    qn_split(&begin, &end, (int64_t)job->bytes, 4096, thread, threads);
    if (end > begin) memset(job->at + begin, 0, (size_t)(end - begin));
}

static void clear(const qn_exec *ex, void *at, size_t bytes)
{
    clear_job job = {.at = at, .bytes = bytes};
    qn_exec_run(ex, clear_part, &job);
}

/* Whether the use's gradient is zero already, since it was folded into its owner's on this worker. */
static bool was_folded(const qni_homes *h, int32_t stage, int32_t u, int32_t p)
{
    return u != h->first_use[p] && qn_replica(h->grid, h->owner[p]) == qn_replica(h->grid, stage) &&
           qni_homes_worker(h, h->owner[p]) == qni_homes_worker(h, stage);
}

/* With the copies that products of this worker read, when there are any. */
static bool step_packed(const qni_homes *h, int32_t stage, void *value, void *g, void *m, void *v, const qn_adamw *a)
{
    if (qn_stage_step(h->set->stage[stage], value, g, m, v, a)) return true;
    for (int32_t s = 0; s < h->set->stages; s++) /* a tied weight's */
        if (qni_homes_worker(h, s) == qni_homes_worker(h, stage) && qn_stage_step(h->set->stage[s], value, g, m, v, a))
            return true;
    return false;
}

void qni_update(qni_homes *h, int32_t stage, qni_update_kind kind, const qni_verdict *v, const qn_hyper *hyper, int64_t step,
                double lr)
{
    const int32_t worker = qni_homes_worker(h, stage), replica = qn_replica(h->grid, stage);
    const qn_exec *ex = &h->set->exec[worker];
    const double t = (double)step + 1.0;
    for (int32_t u = 0; u < h->uses; u++) {
        const int32_t p = qni_use_param(h, u);
        if (u != h->first_use[p] || !qni_steps(h, stage, p)) continue;
        const qn_adamw a = {.lr = lr,
                            .beta1 = hyper->beta1,
                            .beta2 = hyper->beta2,
                            .eps = hyper->eps,
                            .decay = qni_home_param(h, p)->decay ? hyper->decay : 0.0,
                            .correct1 = 1.0 - pow(hyper->beta1, t),
                            .correct2 = 1.0 - pow(hyper->beta2, t),
                            .grad_scale = v->grad_scale,
                            .keep = kind != QNI_UPDATE};
        void *value = h->value[worker][p], *g = h->sum[replica][u], *m1 = h->m[worker][p], *m2 = h->v[worker][p];
        if (kind == QNI_UPDATE_UNDO)
            h->set->k->adamw_undo(ex, value, g, m1, m2, count_of(h, p), &a);
        else if (kind == QNI_UPDATE_KEEP || !step_packed(h, stage, value, g, m1, m2, &a))
            h->set->k->adamw(ex, value, g, m1, m2, count_of(h, p), &a);
    }
}

/* All gradients of the stage but those that its step cleared. */
static void clear_rest(qni_homes *h, int32_t stage, bool stepped)
{
    const int32_t replica = qn_replica(h->grid, stage);
    for (int32_t u = 0; u < h->uses; u++) {
        const int32_t p = qni_use_param(h, u);
        if (qni_use_stage(h, replica, u) != stage || qni_homes_frozen(h, p) || was_folded(h, stage, u, p)) continue;
        if (stepped && u == h->first_use[p] && qni_steps(h, stage, p)) continue;
        clear(&h->set->exec[qni_homes_worker(h, stage)], h->sum[replica][u], (size_t)count_of(h, p) * h->element);
    }
}

void qni_clear_grads(qni_homes *h, int32_t stage)
{
    clear_rest(h, stage, false);
}

void qni_optimize(qni_homes *h, int32_t stage, const qni_verdict *v, const qn_hyper *hyper, int64_t step, double lr)
{
    const bool good = v->finding == QNI_GOOD;
    if (good) qni_update(h, stage, QNI_UPDATE, v, hyper, step, lr);
    clear_rest(h, stage, good);
}

void qni_optimize_all(qni_homes *h, int32_t stage, const qni_verdict *v, const qn_hyper *hyper, int64_t step, double lr)
{
    const int32_t column = qn_column(h->grid, stage), s = qn_chain_stage(h->grid, stage);
    for (int32_t c = column; c < h->grid.columns; c += h->shards) qni_optimize(h, qn_stage_at(h->grid, c, s), v, hyper, step, lr);
}
