/* See schedule_rounds.h. */
#include "schedule_rounds.h"

#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/round/round_pipe.h"

/* ---- --cut */

/* "7x4,2" up to a '|' or the end. Returns where it ends, NULL: no such list of at most so many layers. */
static const char *read_list(int32_t *list, int32_t *stages, int32_t *layers, const char *s, int32_t most)
{
    *stages = *layers = 0;
    while (*s != '|' && *s != '\0') {
        char *end;
        const long n = strtol(s, &end, 10);
        long times = 1;
        if (end == s || n < 1 || n > most) return NULL;
        if (*end == 'x') {
            s = end + 1;
            times = strtol(s, &end, 10);
            if (end == s || times < 1) return NULL;
        }
        for (; times > 0; times--) {
            if (*layers + n > most) return NULL;
            list[(*stages)++] = (int32_t)n;
            *layers += (int32_t)n;
        }
        if (*end != ',' && *end != '|' && *end != '\0') return NULL;
        s = *end == ',' ? end + 1 : end;
    }
    return s;
}

static qn_status read_cut(qn_round_cut *cut, const char *text, int32_t layers, qn_err *err)
{
    int32_t forward = 0, backward = 0;
    const char *s = read_list(cut->forward, &cut->forward_stages, &forward, text, layers);
    if (s != NULL && *s == '|') s = read_list(cut->backward, &cut->backward_stages, &backward, s + 1, layers);
    if (s == NULL || *s != '\0' || backward != layers || forward + cut->backward[0] != layers)
        return QN_FAIL(
            err, QN_EINVAL,
            "--cut %.80s is no cut of %d layers: forward stages, '|', backward stages, the first of which is the fused "
            "one, were wanted, whose layers add up to %d backward, and with the fused ones to %d forward, as in %d|1%s",
            text, layers, layers, layers, layers > 1 ? layers - 1 : 0, layers > 1 ? ",1x.." : "");
    return QN_OK;
}

/* ---- costs */

static void add_layer(qni_costs *to, int32_t piece, const qni_costs *from, int32_t layer, bool first)
{
    for (int op = 0; op < QN_OPS; op++) {
        int64_t *at = &to->stage[piece][op];
        *at = first ? from->stage[layer][op] : *at + qn_max64(from->stage[layer][op], 0);
    }
    for (int k = 0; k < QNI_SIZES; k++)
        if (to->size[k] != NULL && (first || k != QNI_SIZE_ACT)) to->size[k][piece] += from->size[k][layer];
}

/* Neighbouring layers of a piece add up; its input is that of the first. */
static qn_status merge(qni_rounds *r, const qni_costs *from, qn_err *err)
{
    qni_costs *c = &r->costs;
    *c = *from;
    c->stage = qn_calloc((size_t)r->pieces, sizeof *c->stage);
    c->stages = r->pieces;
    bool room = c->stage != NULL;
    for (int k = 0; k < QNI_SIZES; k++) {
        c->size[k] = from->size[k] != NULL ? qn_calloc((size_t)r->pieces, sizeof(int64_t)) : NULL;
        room = room && (from->size[k] == NULL || c->size[k] != NULL);
    }
    if (!room) return QN_FAIL(err, QN_ENOMEM, "costs of %d stages", r->pieces);
    for (int32_t p = 0; p < r->pieces; p++)
        for (int32_t i = r->first_layer[p]; i < r->first_layer[p + 1]; i++) add_layer(c, p, from, i, i == r->first_layer[p]);
    return QN_OK;
}

static qn_status partition(qn_round_cut *cut, const qn_schedule_options *opt, const qni_costs *c, qn_err *err)
{
    const size_t L = (size_t)c->stages;
    const bool limited = c->device.memory > 0 && c->size[QNI_SIZE_WEIGHTS] != NULL;
    const int64_t *weights = c->size[QNI_SIZE_WEIGHTS], *grads = c->size[QNI_SIZE_GRADS];
    int64_t *x = qn_calloc(5 * L, sizeof *x);
    if (x == NULL) return QN_FAIL(err, QN_ENOMEM, "costs of %d layers", c->stages);
    for (size_t i = 0; i < L; i++) {
        x[i] = qn_max64(c->stage[i][QN_OP_F], 1);
        x[L + i] = qn_max64(c->stage[i][QN_OP_R], 1);
        x[2 * L + i] = qn_max64(c->stage[i][QN_OP_BW], 1);
        x[3 * L + i] = limited ? weights[i] : 0;
        x[4 * L + i] = limited ? weights[i] + (grads != NULL ? grads[i] : weights[i]) : 0;
    }
    const qn_round_layers in = {.layers = c->stages,
                                .workers = (int32_t)opt->workers,
                                .items = (int32_t)opt->micro_batches,
                                .forward = x,
                                .recompute = x + L,
                                .backward = x + 2 * L,
                                .forward_bytes = limited ? x + 3 * L : NULL,
                                .backward_bytes = limited ? x + 4 * L : NULL,
                                .limit = limited ? c->device.memory : 0,
                                .hop = c->latency};
    qn_status st = qn_round_partition(cut, NULL, &in, err);
    const bool endless = opt->steps > 1 && opt->optimizer_lag > 0; /* no step stands alone */
    if (st == QN_OK && !endless && opt->group == 0) st = qn_round_improve(cut, &in, err);
    qn_free(x);
    return st;
}

qn_status qni_rounds_cut(qni_rounds *out, const qn_schedule_options *opt, const qni_costs *costs, qn_err *err)
{
    const size_t L = (size_t)costs->stages;
    *out = (qni_rounds){.room = qn_calloc(5 * L + 3, sizeof(int32_t))};
    if (out->room == NULL) return QN_FAIL(err, QN_ENOMEM, "cuts of %d layers", costs->stages);
    qn_round_cut cut = {.forward = out->room, .backward = out->room + L};
    qn_status st = opt->cut != NULL ? read_cut(&cut, opt->cut, costs->stages, err) : partition(&cut, opt, costs, err);
    if (st != QN_OK) return st;
    out->first_layer = out->room + 2 * L;
    int32_t *slot = out->first_layer + L + 1;
    out->pieces = qn_round_pieces(out->first_layer, slot, slot + L, &cut);
    out->slot[0] = slot;
    out->slot[1] = slot + L;
    return merge(out, costs, err);
}

void qni_rounds_fini(qni_rounds *r)
{
    qn_free(r->room);
    qni_costs_fini(&r->costs);
    *r = (qni_rounds){.pieces = 0};
}

/* ---- the published simulator's rule */

qn_status qni_rounds_head_ahead(qn_plan *p, qn_err *err)
{
    int32_t more = 0;
    for (int32_t t = 0; t < p->tasks; t++) {
        if (p->value != NULL && p->task[t].op == QN_OP_LOAD)
            return QN_FAIL(err, QN_EINVAL, "--head-ahead is the published simulator's, which has no devices: leave them out");
        more += p->task[t].wait.count;
    }
    if (p->backward_of == NULL) return QN_FAIL(err, QN_EINVAL, "--head-ahead is for roundpipe, whose head is a stage of its own");
    int32_t *ref = qn_malloc((size_t)p->refs + (size_t)more, sizeof *ref), used = p->refs;
    if (ref == NULL) return QN_FAIL(err, QN_ENOMEM, "waits of %d tasks", p->tasks);
    memcpy(ref, p->ref, (size_t)p->refs * sizeof *ref);
    for (int32_t t = 0; t + 1 < p->tasks; t++) {
        qn_task *f = &p->task[t];
        if (f->op != QN_OP_F || f->stage != p->stages - 1 || f[1].op != QN_OP_BW || f[1].item != f->item) continue;
        const qn_span both[] = {f->wait, f[1].wait};
        f->wait.count = 0;
        f[1].wait = (qn_span){used, both[0].count + both[1].count};
        for (int i = 0; i < 2; i++)
            for (int32_t k = 0; k < both[i].count; k++) ref[used++] = p->ref[both[i].first + k];
    }
    qn_free(p->ref);
    p->ref = ref;
    p->refs = used;
    return QN_OK;
}
