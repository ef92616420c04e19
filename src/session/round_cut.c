/* RoundPipe's cut of a model; see round_cut.h. */
#include "round_cut.h"

#include <math.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "model/cost.h"
#include "schedule/round/round_pipe.h"

typedef struct layers {
    int32_t count;
    int64_t *forward, *backward, *forward_bytes, *backward_bytes; /* [count] of one micro-batch */
} layers;

/* Weights count twice: as they are and packed for products. */
static void count_layers(layers *l, const qni_round_wish *w)
{
    int64_t most = 0;
    for (int32_t i = 0; i < l->count; i++) {
        const qn_layer_flops f = qn_layer_cost(w->model, i, w->samples, w->T);
        l->forward[i] = qn_max64(f.forward, 1);
        l->backward[i] = qn_max64(f.input + f.weight, 1);
        most = qn_max64(most, l->backward[i]);
    }
    for (; most > 1000000; most /= 2)
        for (int32_t i = 0; i < l->count; i++) {
            l->forward[i] = qn_max64(l->forward[i] / 2, 1);
            l->backward[i] = qn_max64(l->backward[i] / 2, 1);
        }
    for (int32_t u = 0; u < qn_model_uses(w->model); u++) {
        const qn_use *use = qn_model_use(w->model, u);
        const int64_t bytes = qn_model_param(w->model, use->param)->count * (int64_t)sizeof(float);
        l->forward_bytes[use->layer] += 2 * bytes;
        l->backward_bytes[use->layer] += (qn_model_param(w->model, use->param)->frozen ? 2 : 3) * bytes;
    }
}

static void take_measured(layers *l, const qni_costs *c)
{
    double sum[2] = {0, 0}, time[2] = {(double)qn_max64(c->tick[QN_OP_F], 1), (double)qn_max64(c->tick[QN_OP_BW], 1)}, most = 1;
    for (int32_t i = 0; i < l->count; i++) {
        sum[0] += (double)l->forward[i];
        sum[1] += (double)l->backward[i];
    }
    for (int32_t i = 0; i < c->stages; i++) most = fmax(most, (double)qn_max64(c->stage[i][QN_OP_F], c->stage[i][QN_OP_BW]));
    most = fmax(most, fmax(time[0], time[1]));
    for (int32_t i = 0; i < l->count; i++) {
        const bool own = c->stages == l->count;
        const double f = own ? (double)c->stage[i][QN_OP_F] : time[0] * (double)l->forward[i] / sum[0];
        const double b = own ? (double)c->stage[i][QN_OP_BW] : time[1] * (double)l->backward[i] / sum[1];
        l->forward[i] = qn_max64((int64_t)(1e6 * f / most), 1);
        l->backward[i] = qn_max64((int64_t)(1e6 * b / most), 1);
    }
}

qn_status qni_round_cut(qn_pattern *pat, int32_t *first_layer, int32_t *room, const qni_round_wish *w, qn_err *err)
{
    const int32_t L = qn_model_layers(w->model);
    layers l = {.count = L, .forward = qn_calloc(4 * (size_t)L, sizeof(int64_t))};
    int32_t *cut_room = qn_calloc(2 * (size_t)L, sizeof(*cut_room));
    qn_round_cut cut = {.forward = cut_room, .backward = cut_room + L};
    qn_status st = QN_OK;
    if (l.forward == NULL || cut_room == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "costs of %d layers", L);
        goto out;
    }
    l.backward = l.forward + L;
    l.forward_bytes = l.forward + 2 * L;
    l.backward_bytes = l.forward + 3 * L;
    count_layers(&l, w);
    if (w->costs != NULL) take_measured(&l, w->costs);
    const bool limited = w->memory > 0;
    const qn_round_layers in = {.layers = L,
                                .workers = pat->workers,
                                .items = pat->items,
                                .forward = l.forward,
                                .recompute = l.forward,
                                .backward = l.backward,
                                .forward_bytes = limited ? l.forward_bytes : NULL,
                                .backward_bytes = limited ? l.backward_bytes : NULL,
                                .limit = w->memory};
    QN_TRY(st, qn_round_partition(&cut, NULL, &in, err), out);
    QN_TRY(st, qn_round_improve(&cut, &in, err), out);
    pat->pieces = qn_round_pieces(first_layer, room, room + L, &cut);
    pat->forward_slot = room;
    pat->backward_slot = room + L;
out:
    qn_free(l.forward);
    qn_free(cut_room);
    return st;
}
