/* Complete and linear for vocabulary shards: what can be said about the tasks of side stages without values and messages. */
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "schedule_internal.h"

enum { KINDS = QN_OP_VJ - QN_OP_VI + 1 };

static const char *name_of(char buf[QNI_NAME], int32_t op, int32_t stage, int32_t item, int32_t worker)
{
    snprintf(buf, QNI_NAME, "%s %d.%d @%d", qni_op_name(op), stage, item, worker);
    return buf;
}

qn_status qni_check_sides(int32_t stages, int32_t columns, int32_t sides, int32_t vocab, qn_err *err)
{
    if (sides < 0 || sides >= stages)
        return QN_FAIL(err, QN_ESCHEDULE, "%d vocabulary shards of %d stages: at least one stage of the chain must be left",
                       sides, stages);
    if (sides > 0 && vocab != 1 && vocab != 2)
        return QN_FAIL(err, QN_ESCHEDULE, "vocabulary shards with algorithm %d: 1 or 2 is possible", vocab);
    if (sides > 0 && columns > 1)
        return QN_FAIL(err, QN_EUNSUPPORTED,
                       "vocabulary shards together with %d columns: vocabulary parallelism works on a single copy of the chain",
                       columns);
    return QN_OK;
}

/* Per shard and item: VI, VS, VT, VJ each once, VS before VT; VT and VJ in ascending items. Forward only: VI, VS, and VT of the
 * last shard. */
static qn_status check_shard(const int32_t *at, int32_t stage, bool last_shard, int32_t items, int32_t worker, bool training,
                             qn_err *err)
{
    char a[QNI_NAME], b[QNI_NAME];
    int32_t last[KINDS] = {QN_NONE, QN_NONE, QN_NONE, QN_NONE};
    for (int32_t m = 0; m < items; m++) {
        const int32_t *cell = at + (size_t)m * KINDS;
        for (int32_t k = 0; k < KINDS; k++) {
            const int32_t op = QN_OP_VI + k;
            const bool wanted = training || op == QN_OP_VI || op == QN_OP_VS || (op == QN_OP_VT && last_shard);
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

static qn_status check_shards(const qni_compute *task, int32_t tasks, int32_t chain, int32_t sides, int32_t items, bool training,
                              const int32_t *worker_of, qn_err *err)
{
    qn_status st = QN_OK;
    char name[QNI_NAME];
    const size_t cells = (size_t)sides * (size_t)items * KINDS;
    int32_t *at = qn_malloc(cells, sizeof *at);
    if (at == NULL) return QN_FAIL(err, QN_ENOMEM, "check of %d tasks", tasks);
    memset(at, 0xff, cells * sizeof *at);
    for (int32_t i = 0; i < tasks && st == QN_OK; i++) {
        const qni_compute *c = &task[i];
        name_of(name, c->op, c->stage, c->item, c->worker);
        if (c->stage < chain || c->stage >= chain + sides || c->item < 0 || c->item >= items) {
            st = QN_FAIL(err, QN_ESCHEDULE, "%s: vocabulary shards are stages %d to %d, micro-batches go from 0 to %d", name,
                         chain, chain + sides - 1, items - 1);
            break;
        }
        int32_t *cell = &at[((size_t)(c->stage - chain) * (size_t)items + (size_t)c->item) * KINDS + (size_t)(c->op - QN_OP_VI)];
        if (c->worker != worker_of[c->stage])
            st = QN_FAIL(err, QN_ESCHEDULE, "%s is on worker %d, but stage %d is placed on worker %d: move the task or the stage",
                         name, c->worker, c->stage, worker_of[c->stage]);
        else if (*cell != QN_NONE)
            st = QN_FAIL(err, QN_ESCHEDULE, "%s occurs twice: each task stands once in a step", name);
        *cell = i;
    }
    for (int32_t k = 0; k < sides && st == QN_OK; k++)
        st = check_shard(at + (size_t)k * (size_t)items * KINDS, chain + k, k == sides - 1, items, worker_of[chain + k], training,
                         err);
    qn_free(at);
    return st;
}

qn_status qni_check_tasks(qni_compute *task, int32_t tasks, int32_t workers, qn_grid grid, int32_t sides,
                          const int32_t *worker_of, const int32_t *backward_of, qn_err *err)
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
    if (st == QN_OK) st = check_shards(shard, n, grid.stages, sides, grid.items, training, worker_of, err);
    qn_free(shard);
    return st;
}

/* What VS, VT, VJ and the chain's ends must read. */
qn_status qni_check_vocab_reads(const qn_plan *p, int32_t t, qn_err *err)
{
    const qn_task *x = &p->task[t];
    const int32_t chain = p->stages - p->sides;
    const bool backward = x->op == QN_OP_B || x->op == QN_OP_BW;
    int32_t act = 0, grad = 0, stash = 0, stats = 0, parts = 0;
    char name[QNI_NAME];
    if (p->sides == 0) return QN_OK;
    for (int32_t i = 0; i < x->in.count; i++) {
        const qn_value *v = &p->value[p->ref[x->in.first + i]];
        const bool side = v->stage >= chain && v->item == x->item;
        act += side && v->cls == QN_V_ACT;
        grad += side && v->cls == QN_V_GRAD;
        stash += side && v->cls == QN_V_STASH && v->stage == x->stage;
        stats += side && v->cls == QN_V_VSTAT;
        parts += side && (v->cls == QN_V_VIN || v->cls == QN_V_VDX);
    }
    const bool gradients = x->op == QN_OP_VT && x->acc.count > 0, loss = x->op == QN_OP_VT && x->acc.count == 0;
    const bool ends = (x->op == QN_OP_F && x->stage == 0) || (backward && x->stage == chain - 1);
    const char *lacks = NULL;
    if ((x->op == QN_OP_VS || gradients) && act != 1) lacks = "act, the last stage's output,";
    if (x->op == QN_OP_VJ && grad != 1) lacks = "grad, that of the first stage's input,";
    if (gradients && stash != 1) lacks = "stash";
    if ((gradients || loss || (backward && x->stage == chain - 1 && p->vocab == 2)) && stats != p->sides)
        lacks = "vstat of every shard";
    if (ends && parts != p->sides) lacks = backward ? "vdx of every shard" : "vin of every shard";
    if (lacks == NULL) return QN_OK;
    return QN_FAIL(err, QN_ESCHEDULE, "%s does not read the %s of its micro-batch", qn_task_text(name, sizeof name, p, t), lacks);
}
