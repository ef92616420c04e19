/* Runs on workers with little memory: which settings go with them, and which pieces the model is cut into (RoundPipe,
 * arXiv:2604.27085; Superpipeline, arXiv:2410.08791). */
#include <inttypes.h>
#include <string.h>

#include "core/alloc.h"
#include "core/compiler.h"
#include "session/round_cut.h"
#include "schedule/gen/gen.h"
#include "session/schedules/schedule_costs.h"
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
    } not_with[] = {{o->sequence_parallel != 0, "--sequence-parallel"},
                    {o->vocab_parallel > 0, "--vocab-parallel"},
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
    if (o->data_parallel > 1 && is_round(o))
        return QN_FAIL(err, QN_EINVAL,
                       "--data-parallel %" PRId64 " cuts the workers into replicas, but roundpipe runs any stage on any of them "
                       "already: leave it out, and --grad-groups %" PRId64 " gives the same results",
                       o->data_parallel, o->grad_groups);
    if (o->post_validate && o->optimizer_lag > 0)
        return QN_FAIL(err, QN_EINVAL,
                       "--post-validate with --optimizer-lag %" PRId64
                       ": an optimizer that lags works on a step whose decision is "
                       "known, so that there is nothing to validate; leave one of them out",
                       o->optimizer_lag);
    for (size_t i = 0; i < QN_COUNT(not_with); i++)
        if (not_with[i].on)
            return QN_FAIL(err, QN_EINVAL,
                           "%s does not go with workers that load the model from the host (%s); leave one of them out",
                           not_with[i].flag, is_round(o) ? "roundpipe, --device-memory, --link" : "--device-memory, --link");
    return QN_OK;
}

/* Stages from the partitioner; the pieces are what its two cuts leave whole. */
static qn_status cut_round(qni_train_run *r, qn_pattern *pat, int32_t *room, qn_err *err)
{
    const qn_train_options *o = r->opt;
    qni_costs c = {.stages = 0};
    const bool measured = o->cost != NULL || o->cost_from != NULL;
    const qni_round_wish wish = {.model = r->model,
                                 .samples = (o->batch + pat->items - 1) / pat->items,
                                 .T = o->context,
                                 .memory = r->device.memory,
                                 .costs = measured ? &c : NULL};
    qn_status st = measured ? qni_costs_parse(&c, o->cost, o->cost_from, -1, err) : QN_OK;
    if (st == QN_OK) st = qni_round_cut(pat, r->first_layer, room, &wish, err);
    qni_costs_fini(&c);
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
    if (st == QN_OK) st = qni_train_widen(r, err);
out:
    qn_free(room);
    return st;
}

void qni_train_moved(const qni_train_run *r, qn_train_done *done)
{
    const qn_plan *p = qn_trainer_run_plan(r->trainer);
    done->workers = p->workers;
    for (int32_t w = 0; w < p->workers; w++) {
        done->arena_bytes[w] = p->arena_bytes[w];
        done->arena_high[w] = qn_trainer_high_water(r->trainer, w);
    }
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
