/* Complete and linear for vocabulary shards: what can be said about the tasks of side stages without values and messages. */
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "schedule/schedule_internal.h"

enum { KINDS = QN_OP_VJ - QN_OP_VI + 1 };

static const char *name_of(char buf[QNI_NAME], int32_t op, int32_t stage, int32_t item, int32_t worker)
{
    snprintf(buf, QNI_NAME, "%s %d.%d @%d", qni_op_name(op), stage, item, worker);
    return buf;
}

qn_status qni_check_algorithm(qn_grid g, int32_t vocab, qn_err *err)
{
    if (g.sides == 0 || vocab == 1 || vocab == 2) return QN_OK;
    return QN_FAIL(err, QN_ESCHEDULE, "vocabulary shards with algorithm %d: 1 or 2 is possible", vocab);
}

/* Where the tasks of each shard are: by column, shard, item (of all replicas) and kind. */
typedef struct shard_table {
    qn_grid g;
    int32_t *at; /* places in the list, QN_NONE */
    const int32_t *worker_of;
    bool training;
} shard_table;

static int32_t *cell_of(const shard_table *t, int32_t stage, int32_t item)
{
    const int64_t shard = (int64_t)qn_column(t->g, stage) * t->g.sides + qn_chain_stage(t->g, stage) - qn_depth(t->g);
    return &t->at[(size_t)(shard * t->g.items + item) * KINDS];
}

/* Per shard and item of its replica: VI, VS, VT, VJ each once, VS before VT; VT and VJ in ascending items. Forward only: VI, VS,
 * and VT of the last shard. */
static qn_status check_shard(const shard_table *t, int32_t stage, qn_err *err)
{
    char a[QNI_NAME], b[QNI_NAME];
    int32_t last[KINDS] = {QN_NONE, QN_NONE, QN_NONE, QN_NONE};
    const int32_t worker = t->worker_of[stage], first = qn_first_item(t->g, stage);
    const bool last_shard = qn_chain_stage(t->g, stage) == qn_column_stages(t->g) - 1;
    for (int32_t m = first; m < first + qn_items_each(t->g); m++) {
        const int32_t *cell = cell_of(t, stage, m);
        for (int32_t k = 0; k < KINDS; k++) {
            const int32_t op = QN_OP_VI + k;
            const bool wanted = t->training || op == QN_OP_VI || op == QN_OP_VS || (op == QN_OP_VT && last_shard);
            if (wanted && cell[k] == QN_NONE)
                return QN_FAIL(err, QN_ESCHEDULE, "incomplete: %s is missing", name_of(a, op, stage, m, worker));
            if (!wanted || (op != QN_OP_VT && op != QN_OP_VJ)) continue;
            if (cell[k] < last[k])
                return QN_FAIL(err, QN_ESCHEDULE,
                               "%s comes before %s: weight gradients of a stage are added in ascending micro-batch order",
                               name_of(a, op, stage, m, worker), name_of(b, op, stage, m - 1, worker));
            last[k] = cell[k];
        }
        const int32_t S = cell[QN_OP_VS - QN_OP_VI], T = cell[QN_OP_VT - QN_OP_VI];
        if (T != QN_NONE && T < S)
            return QN_FAIL(err, QN_ESCHEDULE, "%s comes before %s, whose probabilities it needs",
                           name_of(a, QN_OP_VT, stage, m, worker), name_of(b, QN_OP_VS, stage, m, worker));
    }
    return QN_OK;
}

/* Puts task i of the list in its place. */
static qn_status enter(shard_table *t, const qni_compute *c, int32_t i, qn_err *err)
{
    char name[QNI_NAME];
    name_of(name, c->op, c->stage, c->item, c->worker);
    if (c->stage < 0 || c->stage >= t->g.stages || !qn_is_side(t->g, c->stage) || c->item < 0 || c->item >= t->g.items)
        return QN_FAIL(err, QN_ESCHEDULE,
                       "%s: vocabulary shards are the last %d stages of each %d, micro-batches go from 0 to %d", name, t->g.sides,
                       qn_column_stages(t->g), t->g.items - 1);
    if (!qn_has_item(t->g, c->stage, c->item))
        return QN_FAIL(err, QN_ESCHEDULE, "%s: stage %d is of replica %d, which runs micro-batches %d to %d", name, c->stage,
                       qn_replica(t->g, c->stage), qn_first_item(t->g, c->stage),
                       qn_first_item(t->g, c->stage) + qn_items_each(t->g) - 1);
    if (c->worker != t->worker_of[c->stage])
        return QN_FAIL(err, QN_ESCHEDULE, "%s is on worker %d, but stage %d is placed on worker %d: move the task or the stage",
                       name, c->worker, c->stage, t->worker_of[c->stage]);
    int32_t *cell = cell_of(t, c->stage, c->item) + (c->op - QN_OP_VI);
    if (*cell != QN_NONE) return QN_FAIL(err, QN_ESCHEDULE, "%s occurs twice: each task stands once in a step", name);
    *cell = i;
    return QN_OK;
}

static qn_status check_shards(const qni_compute *task, int32_t tasks, qn_grid g, bool training, const int32_t *worker_of,
                              qn_err *err)
{
    qn_status st = QN_OK;
    const size_t cells = (size_t)g.columns * (size_t)g.sides * (size_t)g.items * KINDS;
    shard_table t = {.g = g, .at = qn_malloc(cells, sizeof *t.at), .worker_of = worker_of, .training = training};
    if (t.at == NULL) return QN_FAIL(err, QN_ENOMEM, "check of %d tasks", tasks);
    memset(t.at, 0xff, cells * sizeof *t.at);
    for (int32_t i = 0; i < tasks && st == QN_OK; i++) st = enter(&t, &task[i], i, err);
    for (int32_t s = 0; s < g.stages && st == QN_OK; s++)
        if (qn_is_side(g, s)) st = check_shard(&t, s, err);
    qn_free(t.at);
    return st;
}

qn_status qni_check_tasks(qni_compute *task, int32_t tasks, int32_t workers, qn_grid grid, const int32_t *worker_of,
                          const int32_t *backward_of, qn_err *err)
{
    qni_compute *shard = qn_malloc((size_t)tasks, sizeof *shard);
    int32_t chain = 0, n = 0;
    bool training = false;
    if (shard == NULL) return QN_FAIL(err, QN_ENOMEM, "check of %d tasks", tasks);
    for (int32_t i = 0; i < tasks; i++) {
        const bool vocab = qni_is_vocab(task[i].op);
        training = training || (!vocab && task[i].op != QN_OP_F);
        if (vocab)
            shard[n++] = task[i];
        else
            task[chain++] = task[i];
    }
    qn_status st = qni_check_compute(task, chain, workers, grid, worker_of, backward_of, err);
    if (st == QN_OK) st = check_shards(shard, n, grid, training, worker_of, err);
    qn_free(shard);
    return st;
}

/* What VS, VT, VJ and the chain's ends must read. */
qn_status qni_check_vocab_reads(const qn_plan *p, int32_t t, qn_err *err)
{
    const qn_task *x = &p->task[t];
    const qn_grid g = qn_plan_grid(p);
    const bool backward = x->op == QN_OP_B || x->op == QN_OP_BW;
    int32_t act = 0, grad = 0, stash = 0, stats = 0, parts = 0;
    char name[QNI_NAME];
    if (p->sides == 0) return QN_OK;
    for (int32_t i = 0; i < x->in.count; i++) {
        const qn_value *v = &p->value[p->ref[x->in.first + i]];
        const bool side = v->item == x->item && v->stage >= 0 && qn_is_side(g, v->stage);
        act += side && v->cls == QN_V_ACT;
        grad += side && v->cls == QN_V_GRAD;
        stash += side && v->cls == QN_V_STASH && v->stage == x->stage;
        stats += side && v->cls == QN_V_VSTAT;
        parts += side && (v->cls == QN_V_VIN || v->cls == QN_V_VDX);
    }
    const bool gradients = x->op == QN_OP_VT && x->acc.count > 0, loss = x->op == QN_OP_VT && x->acc.count == 0;
    const bool ends = (x->op == QN_OP_F && qn_first_in_column(g, x->stage)) || (backward && qn_last_in_column(g, x->stage));
    const char *lacks = NULL;
    if ((x->op == QN_OP_VS || gradients) && act != 1) lacks = "act, the last stage's output,";
    if (x->op == QN_OP_VJ && grad != 1) lacks = "grad, that of the first stage's input,";
    if (gradients && stash != 1) lacks = "stash";
    if ((gradients || loss || (backward && qn_last_in_column(g, x->stage) && p->vocab == 2)) && stats != p->sides * p->shards)
        lacks = "vstat of every shard";
    if (ends && parts != p->sides) lacks = backward ? "vdx of every shard" : "vin of every shard";
    if (lacks == NULL) return QN_OK;
    return QN_FAIL(err, QN_ESCHEDULE, "%s does not read the %s of its micro-batch", qn_task_text(name, sizeof name, p, t), lacks);
}
