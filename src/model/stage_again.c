/* Selective recomputation (Chen et al. 2016, arXiv:1604.06174; by groups of operations: Korthikanti et al. 2022,
 * arXiv:2205.05198): what F need not keep because backward makes it again.
 *
 * A layer of which all is made again keeps its input alone; of which a group is made again, what that group reads. The values
 * that backward reads are remade by the operations that wrote them, and by those whose results these read, down to what is kept.
 *
 *                 made again              remade values that W reads    other remade values
 *   late          before a layer's        in wstash (B and W apart),    scratch, one layer at a time
 *                 backward, inside B      else scratch
 *   early         R task                  rstash                        rstash
 *
 * What is only on the way to such a value is scratch in both. The random keys are those of F, and so are the bits. */
#include "stage.h"

#include "core/arena.h"
#include "core/checked.h"
#include "core/checked.h"
#include "core/compiler.h"

/* Whether operation o would be made again when somebody wants its result. */
static bool in_group(const qn_op *op, unsigned again)
{
    return again & QN_AGAIN_ALL ? op->kind->forward != NULL : (op->kind->group & again) != 0;
}

/* Values that only operations of the group write (rotation and adapters change one that another operation wrote). */
static void remakable(bool *can, const qn_layer *l, unsigned again)
{
    bool written[QN_LAYER_VALUES] = {false};
    for (int32_t v = 0; v < l->values; v++) can[v] = true;
    for (int32_t o = 0; o < l->ops; o++) {
        for (int32_t i = 0; i < l->op[o].outs; i++) {
            const int32_t v = l->op[o].out[i].value;
            if (l->op[o].kind->forward == NULL) continue;
            written[v] = true;
            can[v] = can[v] && in_group(&l->op[o], again);
        }
    }
    for (int32_t v = 0; v < l->values; v++) can[v] = can[v] && written[v] && v != 0 && v != l->output;
}

void qni_mark_again(stage_layer *sl, bool *kept, unsigned again)
{
    const qn_layer *l = sl->layer;
    bool can[QN_LAYER_VALUES], wanted[QN_LAYER_VALUES] = {false};
    if (again == 0) return;
    remakable(can, l, again);
    for (int32_t v = 0; v < l->values; v++) {
        wanted[v] = kept[v] && can[v];
        sl->value[v].remade = wanted[v];
        kept[v] = kept[v] && !can[v];
    }
    for (int32_t o = l->ops - 1; o >= 0; o--) {
        const qn_op *op = &l->op[o];
        bool redo = false;
        for (int32_t i = 0; i < op->outs; i++) redo = redo || wanted[op->out[i].value];
        redo = redo && op->kind->forward != NULL;
        sl->op[o].redo = redo;
        if (redo) sl->again_ops = qn_max32(sl->again_ops, o + 1);
        sl->redone = sl->redone || redo;
        for (int32_t i = 0; redo && i < op->ins; i++) {
            const int32_t v = op->in[i].value;
            if (v == 0) continue;
            if (can[v])
                wanted[v] = true;
            else
                kept[v] = true;
        }
    }
}

/* Values on the way: alive among the operations that are made again. */
static size_t lay_transients(const qn_stage *s, stage_layer *sl, size_t base)
{
    const qn_layer *l = sl->layer;
    qni_life v[QN_LAYER_VALUES];
    for (int32_t i = 0; i < l->values; i++) v[i] = qni_no_life(qni_value_bytes(s, &l->value[i], l->value[i].elem));
    for (int32_t o = 0; o < l->ops; o++) {
        if (!sl->op[o].redo) continue;
        for (int32_t i = 0; i < l->op[o].ins; i++) qni_life_touch(&v[l->op[o].in[i].value], o);
        for (int32_t i = 0; i < l->op[o].outs; i++) qni_life_touch(&v[l->op[o].out[i].value], o);
    }
    for (int32_t i = 0; i < l->values; i++) {
        const place_kind at = sl->value[i].train.at;
        if (i == 0 || sl->value[i].remade || at != QN_AT_SCRATCH) v[i] = qni_no_life(0); /* has a place */
    }
    const size_t bytes = qni_place_lives(v, l->values);
    for (int32_t i = 0; i < l->values; i++)
        if (v[i].begin <= v[i].end) sl->value[i].back = sl->value[i].wback = (qn_place){QN_AT_SCRATCH, base + v[i].offset};
    return bytes;
}

static void push(qn_place *p, place_kind at, qn_arena *a, size_t bytes)
{
    *p = (qn_place){at, a->used};
    qn_arena_push(a, 1, bytes, 1);
    qn_arena_push(a, 1, 0, QN_CACHE_LINE);
}

static bool weight_reads(const stage_layer *sl, int32_t value)
{
    const qn_layer *l = sl->layer;
    for (int32_t o = 0; o < l->ops; o++) {
        const qn_op *op = &l->op[o];
        if (!sl->op[o].learns) continue;
        for (int32_t i = 0; i < op->ins; i++)
            if ((op->kind->weight_reads_in >> i & 1) && op->in[i].value == value) return true;
        for (int32_t i = 0; i < op->outs; i++)
            if ((op->kind->weight_reads_out >> i & 1) && op->out[i].value == value) return true;
    }
    return false;
}

size_t qni_place_again(const qn_stage *s, stage_layer *sl, qn_arena *wstash, qn_arena *rstash, size_t base, size_t *transients)
{
    const qn_layer *l = sl->layer;
    qn_arena scratch = QN_ARENA_PROBE;
    for (int32_t v = 0; v < l->values; v++) {
        stage_value *value = &sl->value[v];
        value->back = value->wback = value->train.at == QN_AT_SCRATCH ? (qn_place){QN_AT_NONE, 0} : value->train;
        if (!value->remade) continue;
        const size_t bytes = qni_value_bytes(s, &l->value[v], l->value[v].elem);
        if (s->limits.again_early) {
            push(&value->back, QN_AT_RSTASH, rstash, bytes);
            value->wback = value->back;
            continue;
        }
        push(&value->back, QN_AT_SCRATCH, &scratch, bytes);
        value->back.offset += base;
        value->wback = value->back;
        if (weight_reads(sl, v)) push(&value->wback, QN_AT_WSTASH, wstash, bytes);
    }
    *transients = sl->redone ? lay_transients(s, sl, base + scratch.used) : 0;
    return scratch.used;
}
