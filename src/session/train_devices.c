/* Runs on workers with little memory: which settings go with them, and which pieces the model is cut into (RoundPipe,
 * arXiv:2604.27085; Superpipeline, arXiv:2410.08791). */
#include <math.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "model/cost.h"
#include "schedule/gen/gen.h"
#include "schedule/round_pipe.h"
#include "schedule_costs.h"
#include "train_run.h"

static bool is_round(const qn_train_options *o)
{
    return strcmp(o->schedule, "roundpipe") == 0;
}

static bool is_super(const qn_train_options *o)
{
    return strcmp(o->schedule, "superpipe") == 0;
}

qn_status qni_train_devices(qni_train_run *r, qn_err *err)
{
    const qn_train_options *o = r->opt;
    const struct {
        bool on;
        const char *flag;
    } not_with[] = {{o->post_validate != 0, "--post-validate"},
                    {o->data_parallel > 1, "--data-parallel"},
                    {o->tensor > 1, "--tensor"},
                    {o->vocab_parallel > 0, "--vocab-parallel"},
                    {o->grad_groups > 1, "--grad-groups"},
                    {o->zero1 != 0, "--zero1"},
                    {o->memory > 0, "--memory"}};
    qn_status st = qni_device_read(&r->device, o->device_memory, o->link, o->window, err);
    if (st != QN_OK) return st;
    r->tiered = r->device.any || o->optimizer_lag > 0 || is_round(o);
    if (!r->tiered) return QN_OK;
    if (r->device.memory == 0 && r->device.link_bytes_per_s == 0 && !is_round(o) && !is_super(o))
        return QN_FAIL(err, QN_EINVAL,
                       "%s means something where the model stays on the host: add --device-memory or --link, or --schedule "
                       "roundpipe or superpipe",
                       o->window != NULL ? "--window" : "--optimizer-lag");
    for (size_t i = 0; i < QN_COUNT(not_with); i++)
        if (not_with[i].on)
            return QN_FAIL(err, QN_EINVAL,
                           "%s does not go with workers that load the model from the host (%s); leave one of them out",
                           not_with[i].flag, is_round(o) ? "roundpipe, --device-memory, --link" : "--device-memory, --link");
    if (strncmp(o->recompute, "selective", 9) == 0)
        return QN_FAIL(err, QN_EINVAL, "--recompute %s does not go with workers that load the model from the host; full does",
                       o->recompute);
    return QN_OK;
}

/* --- costs and sizes of layers */
typedef struct layers {
    int32_t count;
    int64_t *forward, *backward, *forward_bytes, *backward_bytes; /* [count] of one micro-batch */
} layers;

/* Weights count twice: as they are and packed for products. */
static void measure(layers *l, const qni_train_run *r, int64_t samples)
{
    int64_t most = 0;
    for (int32_t i = 0; i < l->count; i++) {
        const qn_layer_flops f = qn_layer_cost(r->model, i, samples, r->opt->context);
        l->forward[i] = qn_max64(f.forward, 1);
        l->backward[i] = qn_max64(f.input + f.weight, 1);
        most = qn_max64(most, l->backward[i]);
    }
    for (; most > 1000000; most /= 2)
        for (int32_t i = 0; i < l->count; i++) {
            l->forward[i] = qn_max64(l->forward[i] / 2, 1);
            l->backward[i] = qn_max64(l->backward[i] / 2, 1);
        }
    for (int32_t u = 0; u < qn_model_uses(r->model); u++) {
        const qn_use *use = qn_model_use(r->model, u);
        const int64_t bytes = qn_model_param(r->model, use->param)->count * (int64_t)sizeof(float);
        l->forward_bytes[use->layer] += 2 * bytes;
        l->backward_bytes[use->layer] += (qn_model_param(r->model, use->param)->frozen ? 2 : 3) * bytes;
    }
}

/* Measured times: of each layer where there are as many rows; else the whole's, spread over layers by their operations. */
static qn_status measured(layers *l, const qni_train_run *r, qn_err *err)
{
    qni_costs c;
    if (r->opt->cost == NULL && r->opt->cost_from == NULL) return QN_OK;
    const qn_status st = qni_costs_parse(&c, r->opt->cost, r->opt->cost_from, -1, err);
    if (st != QN_OK) return st;
    double sum[2] = {0, 0}, time[2] = {(double)qn_max64(c.tick[QN_OP_F], 1), (double)qn_max64(c.tick[QN_OP_BW], 1)}, most = 1;
    for (int32_t i = 0; i < l->count; i++) {
        sum[0] += (double)l->forward[i];
        sum[1] += (double)l->backward[i];
    }
    for (int32_t i = 0; i < c.stages; i++) most = fmax(most, (double)qn_max64(c.stage[i][QN_OP_F], c.stage[i][QN_OP_BW]));
    most = fmax(most, fmax(time[0], time[1]));
    for (int32_t i = 0; i < l->count; i++) {
        const bool own = c.stages == l->count;
        const double f = own ? (double)c.stage[i][QN_OP_F] : time[0] * (double)l->forward[i] / sum[0];
        const double b = own ? (double)c.stage[i][QN_OP_BW] : time[1] * (double)l->backward[i] / sum[1];
        l->forward[i] = qn_max64((int64_t)(1e6 * f / most), 1);
        l->backward[i] = qn_max64((int64_t)(1e6 * b / most), 1);
    }
    qni_costs_fini(&c);
    return QN_OK;
}

/* Stages from the partitioner; the pieces are what its two cuts leave whole. */
static qn_status cut_round(qni_train_run *r, qn_pattern *pat, int32_t *room, qn_err *err)
{
    const int32_t L = qn_model_layers(r->model);
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
    measure(&l, r, (r->opt->batch + pat->items - 1) / pat->items);
    QN_TRY(st, measured(&l, r, err), out);
    const bool limited = r->device.memory > 0;
    const qn_round_layers in = {.layers = L,
                                .workers = pat->workers,
                                .items = pat->items,
                                .forward = l.forward,
                                .recompute = l.forward,
                                .backward = l.backward,
                                .forward_bytes = limited ? l.forward_bytes : NULL,
                                .backward_bytes = limited ? l.backward_bytes : NULL,
                                .limit = r->device.memory};
    QN_TRY(st, qn_round_partition(&cut, NULL, &in, err), out);
    pat->pieces = qn_round_pieces(r->first_layer, room, room + L, &cut);
    pat->forward_slot = room;
    pat->backward_slot = room + L;
out:
    qn_free(l.forward);
    qn_free(cut_room);
    return st;
}

/* A stage per layer each way, which is as small as stages get. */
static void cut_layers(qni_train_run *r, qn_pattern *pat, int32_t *room)
{
    const int32_t L = qn_model_layers(r->model);
    pat->pieces = L;
    for (int32_t i = 0; i <= L; i++) r->first_layer[i] = i;
    for (int32_t i = 0; i < L; i++) {
        room[i] = i;
        room[L + i] = 2 * L - 2 - i;
    }
    if (!is_round(r->opt)) return;
    pat->forward_slot = room;
    pat->backward_slot = room + L;
}

bool qni_train_has_pieces(const qni_train_run *r)
{
    return r->tiered && r->opt->chunks == 0 && r->opt->cuts.count == 0 && (is_round(r->opt) || is_super(r->opt));
}

qn_status qni_train_pieces(qni_train_run *r, qn_pattern *pat, bool tight, qn_err *err)
{
    const int32_t L = qn_model_layers(r->model);
    qn_status st = QN_OK;
    qn_free(r->first_layer);
    qn_order_close(r->order);
    r->order = NULL;
    int32_t *room = qn_calloc(2 * (size_t)L, sizeof(*room));
    r->first_layer = qn_calloc((size_t)L + 1, sizeof(*r->first_layer));
    if (room == NULL || r->first_layer == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "pieces of %d layers", L);
        goto out;
    }
    if (is_round(r->opt) && !tight)
        QN_TRY(st, cut_round(r, pat, room, err), out);
    else
        cut_layers(r, pat, room);
    if (is_super(r->opt)) {
        pat->window = r->device.window;
        pat->window_group = r->device.window > 0 ? r->device.replace : 0;
    }
    st = qn_generate(&r->order, r->opt->schedule, pat, err);
out:
    qn_free(room);
    return st;
}

void qni_train_moved(const qni_train_run *r, qn_train_done *done)
{
    if (!r->tiered) return;
    done->devices = r->order->workers;
    for (int32_t w = 0; w < done->devices; w++) {
        done->high_water[w] = qn_trainer_high_water(r->trainer, w);
        for (int32_t cls = 0; cls <= QN_V_RSTASH; cls++) {
            done->loaded += qn_trainer_moved(r->trainer, w, QN_LANE_UP, cls);
            done->unloaded += qn_trainer_moved(r->trainer, w, QN_LANE_DOWN, cls);
        }
    }
}
