/* What is never kept from F to B, because making it again where it is read costs less than memory: the outputs of norms and
 * activations, and a residual join whose branch is narrower than the join (bf16). Nobody chooses this; what the user chooses to
 * have made again (stage_again.c) is dealt with first, and a layer of which all is made again has nothing left to do here.
 *
 *   forward    x ---- join ---- norm ---- product          join's branch, norm's statistics and what F reads of them stay
 *   backward                 <- norm <- join <- product    the first operation that reads a dropped value has it remade just
 * before
 *
 * A value is remade once in each pass that reads it (B and W together, B apart, W apart), by the operation that wrote it and from
 * values that are kept or remade likewise; it lies in scratch until the last operation that reads it, among the gradients. So
 * nothing is handed from B to W. Statistics are kept, and written once more with the same bits. */
#include "stage.h"

#include "core/checked.h"

static bool writes(const qn_op *op, int32_t value)
{
    for (int32_t i = 0; i < op->outs; i++)
        if (op->kind->forward != NULL && op->out[i].value == value) return true;
    return false;
}

static bool takes(const qn_op *op, int32_t value)
{
    for (int32_t i = 0; i < op->ins; i++)
        if (op->in[i].value == value) return true;
    return false;
}

/* Nobody else changes it, and nothing that the user wants made again is made from it. */
static bool is_free(const stage_layer *sl, int32_t maker, int32_t value)
{
    const qn_layer *l = sl->layer;
    for (int32_t o = 0; o < l->ops; o++) {
        if (o != maker && writes(&l->op[o], value)) return false;
        if (sl->op[o].redo && takes(&l->op[o], value)) return false;
    }
    return !sl->value[value].remade;
}

/* Bytes that would have to be kept for making it again; more than can be when an input is to be had nowhere. */
static size_t price(const qn_stage *s, const stage_layer *sl, const qn_op *op, const bool *kept)
{
    size_t bytes = 0;
    for (int32_t i = 0; i < op->ins; i++) {
        const int32_t v = op->in[i].value;
        if (v == 0 || kept[v] || sl->value[v].cheap) continue;
        if (sl->value[v].remade) return SIZE_MAX;
        bytes += qni_value_bytes(s, &sl->layer->value[v], sl->layer->value[v].elem);
    }
    return bytes;
}

static void mark(const qn_stage *s, stage_layer *sl, bool *kept)
{
    const qn_layer *l = sl->layer;
    for (int32_t o = 0; o < l->ops; o++) {
        const qn_op *op = &l->op[o];
        if (!op->kind->cheap) continue;
        const int32_t v = op->out[0].value;
        const size_t bytes = qni_value_bytes(s, &l->value[v], l->value[v].elem);
        if (!kept[v] || v == l->output || !is_free(sl, o, v) || price(s, sl, op, kept) >= bytes) continue;
        for (int32_t i = 0; i < op->ins; i++)
            if (op->in[i].value != 0 && !sl->value[op->in[i].value].cheap) kept[op->in[i].value] = true;
        kept[v] = false;
        sl->value[v].cheap = true;
        sl->op[o].cheap = true;
    }
}

/* Twice: what the first round would keep for making another value again may itself be cheap (a norm before a gather). */
void qni_mark_cheap(const qn_stage *s, stage_layer *sl, bool *kept)
{
    mark(s, sl, kept);
    mark(s, sl, kept);
}

/* Whether the operation's backward reads the value, in B and W together, B, or W. */
static bool reads(const stage_layer *sl, int32_t o, int32_t value, int32_t way)
{
    const qn_op *op = &sl->layer->op[o];
    const bool input = way != QNI_WAY_W, weight = way != QNI_WAY_B && sl->op[o].learns;
    const unsigned in = (input ? op->kind->input_reads_in : 0) | (weight ? op->kind->weight_reads_in : 0);
    const unsigned out = (input ? op->kind->input_reads_out : 0) | (weight ? op->kind->weight_reads_out : 0);
    for (int32_t i = 0; i < op->ins; i++)
        if ((in >> i & 1) && op->in[i].value == value) return true;
    for (int32_t i = 0; i < op->outs; i++)
        if ((out >> i & 1) && op->out[i].value == value) return true;
    return false;
}

void qni_time_cheap(stage_layer *sl, qni_life *life)
{
    const qn_layer *l = sl->layer;
    for (int32_t o = l->ops - 1; o >= 0; o--) {
        for (int32_t way = 0; way < QNI_WAYS; way++) {
            int32_t first = -1;
            for (int32_t r = l->ops - 1; sl->op[o].cheap && r >= 0; r--) {
                const int32_t value = l->op[o].out[0].value;
                const bool for_remake = sl->op[r].cheap && r != o && takes(&l->op[r], value);
                const int32_t at = qn_max32(reads(sl, r, value, way) ? r : -1, for_remake ? sl->op[r].remake[way] : -1);
                if (at < 0) continue;
                qni_life_touch(&life[value], at);
                if (reads(sl, r, value, way)) qni_life_touch(&life[value], r);
                first = qn_max32(first, at);
            }
            sl->op[o].remake[way] = first;
        }
    }
}
