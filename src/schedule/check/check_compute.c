/* Complete and linear: what can be said about the compute tasks without values and messages. Works on orders and on plans. */
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "schedule/schedule_internal.h"

enum { OPS = QN_OP_R + 1 };

/* Where each (stage, item) has its tasks: at[op][stage * items + item] is an index in the list, or QN_NONE. */
typedef struct table {
    const qni_compute *task;
    int32_t tasks, workers, stages, items;
    qn_grid grid;
    const int32_t *worker_of, *backward_of;
    int32_t *at[OPS];
    bool training;
} table;

static const char *name_of(char buf[QNI_NAME], int32_t op, int32_t stage, int32_t item, int32_t worker)
{
    snprintf(buf, QNI_NAME, "%s %d.%d @%d", qni_op_name(op), stage, item, worker);
    return buf;
}

static const char *task_name(char buf[QNI_NAME], const table *t, int32_t i)
{
    return name_of(buf, t->task[i].op, t->task[i].stage, t->task[i].item, t->task[i].on);
}

static qn_status check_ranges(const table *t, qn_err *err)
{
    char name[QNI_NAME];
    for (int32_t i = 0; i < t->tasks; i++) {
        const qni_compute *c = &t->task[i];
        if (c->stage < 0 || c->stage >= t->stages || c->item < 0 || c->item >= t->items)
            return QN_FAIL(err, QN_ESCHEDULE, "%s: stages go from 0 to %d, micro-batches from 0 to %d", task_name(name, t, i),
                           t->stages - 1, t->items - 1);
        if (qn_is_side(t->grid, c->stage))
            return QN_FAIL(err, QN_ESCHEDULE, "%s: stage %d is a vocabulary shard, whose tasks are VI, VS, VT and VJ",
                           task_name(name, t, i), c->stage);
        if (!qn_has_item(t->grid, c->stage, c->item))
            return QN_FAIL(err, QN_ESCHEDULE, "%s: stage %d is of replica %d, which runs micro-batches %d to %d",
                           task_name(name, t, i), c->stage, qn_replica(t->grid, c->stage), qn_first_item(t->grid, c->stage),
                           qn_first_item(t->grid, c->stage) + qn_items_each(t->grid) - 1);
        const int32_t there =
            c->op == QN_OP_F ? t->worker_of[c->stage] : qn_backward_worker(t->worker_of, t->backward_of, c->stage);
        if (c->worker != there)
            return QN_FAIL(
                err, QN_ESCHEDULE, "%s is on worker %d, but stage %d%s is placed on worker %d: move the task or the stage",
                task_name(name, t, i), c->on, c->stage, c->op == QN_OP_F || t->backward_of == NULL ? "" : "'s backward",
                (there + c->on - c->worker + t->workers) % t->workers);
    }
    return QN_OK;
}

static int32_t chain_stages(const table *t)
{
    return t->grid.columns * qn_depth(t->grid);
}

/* Fewer tasks than forwards needed: finds one that is missing without a table of all. */
static qn_status first_missing(const table *t, qn_err *err)
{
    qn_status st;
    int32_t *count = qn_calloc((size_t)t->stages, sizeof *count);
    bool *seen = qn_calloc((size_t)t->items, sizeof *seen);
    if (count == NULL || seen == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "check of %d tasks", t->tasks);
        goto out;
    }
    const int32_t each = qn_items_each(t->grid);
    int32_t s = 0;
    for (int32_t i = 0; i < t->tasks; i++) count[t->task[i].stage] += t->task[i].op == QN_OP_F;
    while (s < t->stages - 1 && (count[s] >= each || qn_is_side(t->grid, s))) s++;
    for (int32_t i = 0; i < t->tasks; i++) {
        if (t->task[i].op == QN_OP_F && t->task[i].stage == s) seen[t->task[i].item] = true;
    }
    int32_t m = qn_first_item(t->grid, s);
    while (m < qn_first_item(t->grid, s) + each - 1 && seen[m]) m++;
    st = QN_FAIL(err, QN_ESCHEDULE,
                 "incomplete: F %d.%d is missing (%d tasks in all, %d stages x %d micro-batches need at least %lld)", s, m,
                 t->tasks, chain_stages(t), each, (long long)chain_stages(t) * each);
out:
    qn_free(count);
    qn_free(seen);
    return st;
}

static qn_status fill(table *t, qn_err *err)
{
    const size_t cells = (size_t)t->stages * (size_t)t->items;
    for (int32_t op = 0; op < OPS; op++) {
        t->at[op] = qn_malloc(cells, sizeof(int32_t));
        if (t->at[op] == NULL) return QN_FAIL(err, QN_ENOMEM, "check of %d tasks", t->tasks);
        memset(t->at[op], 0xff, cells * sizeof(int32_t));
    }
    for (int32_t i = 0; i < t->tasks; i++) {
        const qni_compute *c = &t->task[i];
        int32_t *at = &t->at[c->op][(size_t)c->stage * (size_t)t->items + (size_t)c->item];
        char name[QNI_NAME];
        if (*at != QN_NONE)
            return QN_FAIL(err, QN_ESCHEDULE, "%s occurs twice: each task stands once in a step", task_name(name, t, i));
        *at = i;
        if (c->op != QN_OP_F) t->training = true;
    }
    return QN_OK;
}

/* One (stage, item): all there, in order. */
static qn_status check_cell(const table *t, int32_t s, int32_t m, qn_err *err)
{
    const size_t cell = (size_t)s * (size_t)t->items + (size_t)m;
    const int32_t F = t->at[QN_OP_F][cell], B = t->at[QN_OP_B][cell], W = t->at[QN_OP_W][cell], BW = t->at[QN_OP_BW][cell],
                  R = t->at[QN_OP_R][cell];
    const int32_t w = t->worker_of[s];
    char a[QNI_NAME], b[QNI_NAME];
    if (F == QN_NONE) return QN_FAIL(err, QN_ESCHEDULE, "incomplete: F %d.%d is missing on worker %d", s, m, w);
    if (!t->training) return QN_OK;
    if (BW != QN_NONE && (B != QN_NONE || W != QN_NONE))
        return QN_FAIL(err, QN_ESCHEDULE, "%s and %s do the same work: write BW alone, or B and W", name_of(a, QN_OP_BW, s, m, w),
                       name_of(b, B != QN_NONE ? QN_OP_B : QN_OP_W, s, m, w));
    if (BW == QN_NONE && B == QN_NONE && W == QN_NONE)
        return QN_FAIL(err, QN_ESCHEDULE, "incomplete: %s has no backward: BW %d.%d, or B and W, is missing on worker %d",
                       name_of(a, QN_OP_F, s, m, w), s, m, w);
    if (BW == QN_NONE && W == QN_NONE)
        return QN_FAIL(err, QN_ESCHEDULE,
                       "incomplete: %s has no W %d.%d, so its weight gradient is lost: add it after the B, or write BW",
                       name_of(a, QN_OP_B, s, m, w), s, m);
    if (BW == QN_NONE && B == QN_NONE)
        return QN_FAIL(err, QN_ESCHEDULE, "incomplete: %s has no B %d.%d", name_of(a, QN_OP_W, s, m, w), s, m);
    const int32_t seq[] = {F, R, BW != QN_NONE ? BW : B, W};
    int32_t last = F;
    for (int32_t k = 1; k < 4; k++) {
        if (seq[k] == QN_NONE) continue;
        if (last == F && t->task[seq[k]].worker != t->task[F].worker) last = seq[k]; /* a list knows no order between workers */
        if (seq[k] < last)
            return QN_FAIL(err, QN_ESCHEDULE, "%s comes before %s: within a stage and micro-batch the order is F, R, B, W",
                           task_name(a, t, seq[k]), task_name(b, t, last));
        last = seq[k];
    }
    return QN_OK;
}

/* Gradients are a left fold in ascending micro-batch index, for the same bits under every schedule. */
static qn_status check_linear(const table *t, qn_err *err)
{
    for (int32_t s = 0; s < t->stages; s++) {
        if (qn_is_side(t->grid, s)) continue;
        int32_t last = QN_NONE;
        const int32_t first = qn_first_item(t->grid, s), end = first + qn_items_each(t->grid);
        for (int32_t m = first; t->training && m < end; m++) {
            const size_t cell = (size_t)s * (size_t)t->items + (size_t)m;
            const int32_t add = t->at[QN_OP_BW][cell] != QN_NONE ? t->at[QN_OP_BW][cell] : t->at[QN_OP_W][cell];
            char a[QNI_NAME], b[QNI_NAME];
            if (last != QN_NONE && t->task[add].on != t->task[last].on) last = QN_NONE; /* a round elsewhere: values see to it */
            if (add < last)
                return QN_FAIL(err, QN_ESCHEDULE,
                               "%s comes before %s: weight gradients of a stage are added in ascending micro-batch order",
                               task_name(a, t, add), task_name(b, t, last));
            last = add;
        }
    }
    return QN_OK;
}

/* The shards of a stage exchange data inside their tasks: what one does, all do. */
static qn_status check_shards(const table *t, int32_t s, int32_t m, qn_err *err)
{
    const int32_t shard = qn_shard(t->grid, s), of = s - shard * qn_column_stages(t->grid);
    const size_t cell = (size_t)s * (size_t)t->items + (size_t)m, first = (size_t)of * (size_t)t->items + (size_t)m;
    for (int32_t op = 0; shard > 0 && op < OPS; op++) {
        if ((t->at[op][cell] == QN_NONE) == (t->at[op][first] == QN_NONE)) continue;
        const bool here = t->at[op][cell] != QN_NONE;
        char a[QNI_NAME], b[QNI_NAME];
        return QN_FAIL(err, QN_ESCHEDULE,
                       "incomplete: %s has no partner %s: the %d shards of a stage run the same tasks, each for its part",
                       name_of(a, op, here ? s : of, m, t->worker_of[here ? s : of]),
                       name_of(b, op, here ? of : s, m, t->worker_of[here ? of : s]), t->grid.shards);
    }
    return QN_OK;
}

qn_status qni_check_compute(const qni_compute *task, int32_t tasks, int32_t workers, qn_grid grid, const int32_t *worker_of,
                            const int32_t *backward_of, qn_err *err)
{
    table t = {.task = task,
               .tasks = tasks,
               .workers = workers,
               .stages = grid.stages,
               .items = grid.items,
               .grid = grid,
               .worker_of = worker_of,
               .backward_of = backward_of};
    qn_status st = QN_OK;
    QN_TRY(st, qni_check_grid(grid, err), out);
    QN_TRY(st, check_ranges(&t, err), out);
    if ((int64_t)chain_stages(&t) * qn_items_each(grid) > tasks) {
        st = first_missing(&t, err);
        goto out;
    }
    QN_TRY(st, fill(&t, err), out);
    for (int32_t s = 0; s < t.stages; s++) {
        const int32_t first = qn_first_item(grid, s), end = first + qn_items_each(grid);
        for (int32_t m = first; m < end && !qn_is_side(grid, s); m++) {
            QN_TRY(st, check_cell(&t, s, m, err), out);
            QN_TRY(st, check_shards(&t, s, m, err), out);
        }
    }
    QN_TRY(st, check_linear(&t, err), out);
out:
    for (int32_t op = 0; op < OPS; op++) qn_free(t.at[op]);
    return st;
}
