#include "forward_tier.h"

#include "core/checked.h"
#include "forward.h"
#include "runtime/trainer/tensor_shards.h"

/* Piece by piece, all items of one before the next. (piece, item) ascends on every device. With shards a piece is on as many
 * neighbouring devices, one shard each. */
static qn_status piece_order(qn_order **out, int32_t devices, int32_t pieces, int32_t shards, int32_t items, qn_err *err)
{
    qn_order *o = NULL;
    const int32_t chain = devices / shards; /* devices of one shard */
    qn_status st = qn_order_open(&o, devices, pieces * shards, items, err);
    if (st != QN_OK) return st;
    o->columns = o->shards = shards;
    for (int32_t p = 0; p < pieces; p++)
        for (int32_t k = 0; k < shards; k++) {
            const int32_t stage = k * pieces + p, device = p % chain * shards + k;
            o->worker_of[stage] = device;
            for (int32_t m = 0; m < items; m++) qn_order_push(o, device, QN_OP_F, stage, m);
        }
    st = qn_order_done(o, err);
    if (st != QN_OK) {
        qn_order_close(o);
        return st;
    }
    *out = o;
    return QN_OK;
}

static qn_status check(const qni_forward_tiers *d, int32_t pieces, qn_err *err)
{
    if (d->devices < 1 || d->devices > pieces)
        return QN_FAIL(err, QN_EINVAL, "%d devices for %d pieces of the model; 1 to %d are possible", d->devices, pieces, pieces);
    if (d->window < 0 || d->window > pieces)
        return QN_FAIL(err, QN_EINVAL, "a window of %d pieces; the model has %d, so 1 to %d are possible", d->window, pieces,
                       pieces);
    if (d->replace < 1 || (d->window > 0 && d->replace > d->window))
        return QN_FAIL(err, QN_EINVAL, "%d pieces replaced at a time in a window of %d; 1 to %d are possible", d->replace,
                       d->window, qn_max32(d->window, 1));
    return QN_OK;
}

qn_status qni_forward_tier_init(qni_forward *f, const qni_forward_tiers *d, int32_t threads, bool pin, qn_err *err)
{
    const int32_t pieces = f->set->stages / f->set->columns, shards = f->set->shards;
    qn_order *order = NULL;
    qn_status st = check(d, pieces * shards, err);
    if (st == QN_OK) st = piece_order(&order, d->devices, pieces, shards, f->items, err);
    if (st != QN_OK) return st;
    qni_tier_desc desc = {.model = f->set->model,
                          .part_model = f->set->part,
                          .k = f->set->k,
                          .order = order,
                          .first_layer = f->set->first_layer,
                          .limits = f->set->limits,
                          .threads = threads,
                          .chunks = f->items,
                          .direct = true,
                          .from_file = d->value == NULL,
                          .pin = pin};
    if (!f->infer) {
        desc.limits.B = 1; /* an item is a window of text */
        desc.limits.T = f->T;
    }
    const qni_tier_window window = {.window = d->window, .replace = d->replace, .keep = d->keep};
    const qn_lowering how = {.forward_only = true,
                             .step_tasks = true,
                             .arena_limit = d->limit,
                             .tied_owner = QN_NONE,
                             .tied_replica = QN_NONE,
                             .part_bytes = qni_part_bytes(qni_stage_set_act_most(f->set, f->T), shards)};
    f->tiered = true;
    st = qni_tier_init(&f->tier, &desc, err);
    f->tier.value = d->value;
    f->tier.read = d->read;
    f->tier.read_ctx = d->read_ctx;
    if (st == QN_OK) st = qni_tier_lower(&f->plan, &f->tier, order, how, &window, err);
    if (st == QN_OK) st = qni_tier_attach(&f->tier, f->plan, err);
    qn_order_close(order);
    return st;
}

qn_status qni_forward_tier_copy(void *ctx, qn_executor *ex, int32_t task, size_t at, size_t bytes, qn_err *err)
{
    qni_forward *f = ctx;
    return qni_tier_copy(&f->tier, ex, task, at, bytes, err);
}

void *qni_forward_tier_home(void *ctx, int32_t value, size_t *bytes)
{
    const qni_forward *f = ctx;
    return qni_tier_home(&f->tier, value, bytes);
}

/* Weights in an arena that the last run left there, and that are still right. */
static bool stayed(const qni_forward *f, int32_t value)
{
    const qn_value *v = &f->plan->value[value];
    return !f->repack && v->carried && v->offset != QN_NONE;
}

size_t qni_forward_tier_actual(const qni_forward *f, int32_t value)
{
    return stayed(f, value) ? 0 : (size_t)f->plan->value[value].bytes;
}
