/* From an order to the trainer's plan: which groups of gradients go with it, what each stage and replica needs in bytes. */
#include "core/alloc.h"
#include "trainer_internal.h"

/* Groups that fit replicas and items; *groups is their number. */
qn_status qni_trainer_groups(int32_t *groups, const qn_trainer_desc *d, qn_err *err)
{
    const qn_order *o = d->order;
    const int32_t R = qn_replicas(qn_order_grid(o)), G = *groups = d->groups > 0 ? d->groups : R;
    if ((R & (R - 1)) != 0)
        return QN_FAIL(err, QN_EINVAL,
                       "%d replicas: gradients are folded in pairs, so 1, 2, 4, 8 or another power of two is needed", R);
    if (d->groups < 0 || (G & (G - 1)) != 0 || G % R != 0 || o->items % G != 0)
        return QN_FAIL(err, QN_EINVAL,
                       "%d groups of gradients for %d replicas and %d micro-batches: a power of two is needed, at least %d, that "
                       "divides the micro-batches",
                       d->groups, R, o->items, R);
    return QN_OK;
}

/* The two stages of the chain that share a weight, when they are two. */
static void find_tie(qn_trainer *t, qn_lowering *how)
{
    const qni_homes *h = &t->homes;
    how->tied_owner = how->tied_replica = t->tied_stage = QN_NONE;
    if (h->tied == QN_NONE) return;
    t->tied_stage = h->owner[h->tied];
    how->tied_owner = h->use_chain[h->first_use[h->tied]];
    how->tied_replica = h->use_chain[h->tied_use];
    how->tied_home = qn_replica(h->grid, t->tied_stage);
    how->tied_bytes = qni_home_param(h, h->tied)->count * (int64_t)h->element;
}

/* What each replica owns of each stage: [2][depth][replicas], gradients, then values. */
static void owned_bytes(int64_t *bytes, const qni_homes *h)
{
    const int32_t n = qn_depth(h->grid) * qn_replicas(h->grid);
    for (int32_t i = 0; i < n; i++) {
        bytes[i] = (int64_t)h->bundle[i].bytes;
        bytes[n + i] = (int64_t)h->bundle[i].values;
    }
}

/* On devices: a window of the pieces, and the host's copies of what lies between them. */
static qn_status lower_tiers(qn_trainer *t, const qn_lowering *how, qn_err *err)
{
    const qn_trainer_tiers *x = t->desc.tiers;
    const qni_tier_window w = {.window = x->window, .replace = x->replace, .lag = x->lag, .groups = t->homes.groups};
    return qni_tier_lower(&t->plan, &t->tier, t->desc.order, *how, &w, err);
}

qn_status qni_trainer_plan(qn_trainer *t, qn_err *err)
{
    const size_t S = (size_t)t->set.stages, owned = (size_t)(qn_depth(t->homes.grid) * qn_replicas(t->homes.grid));
    int64_t *bytes = qn_calloc(4 * S + 2 * owned, sizeof(*bytes));
    if (bytes == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for %zu stages", S);
    for (size_t s = 0; s < S; s++) {
        const qn_stage_need *need = qn_stage_need_of(t->set.stage[s]);
        bytes[s] = (int64_t)need->act_bytes;
        bytes[S + s] = (int64_t)need->stash_bytes;
        bytes[2 * S + s] = (int64_t)need->wstash_bytes;
        bytes[3 * S + s] = (int64_t)need->rstash_bytes;
    }
    owned_bytes(bytes + 4 * S, &t->homes);
    t->sums_count = qni_sums_count(&t->homes, t->desc.order->items);
    qn_lowering how = {.act_bytes = bytes,
                       .stash_bytes = bytes + S,
                       .wstash_bytes = bytes + 2 * S,
                       .arena_limit = t->desc.arena_limit,
                       .recompute = t->desc.recompute,
                       .rstash_bytes = bytes + 3 * S,
                       .recompute_late = t->desc.recompute_late,
                       .step_tasks = true,
                       .sum_bytes = bytes + 4 * S,
                       .value_bytes = bytes + 4 * S + owned,
                       .zero1 = t->desc.zero1,
                       .post_validate = t->desc.post_validate != QN_UNDO_NONE,
                       .ahead = t->most > 1,
                       .stat_bytes = t->sums_count * (int64_t)sizeof(double),
                       .part_bytes = t->desc.part_bytes > 0 ? t->desc.part_bytes : qni_part_bytes(bytes[0], t->set.shards),
                       .whole_links = t->desc.whole_links || t->desc.sequence};
    for (int32_t p = 0; p < t->homes.params; p++) how.joins = how.joins || qni_homes_joined(&t->homes, p);
    t->joins = how.joins;
    find_tie(t, &how);
    qni_vocab_sizes(&how, bytes + S, t->set.stages, &t->set, t->item_samples * t->desc.source->T, t->desc.order->vocab);
    const qn_status st = t->tiered ? lower_tiers(t, &how, err) : qn_lower(&t->plan, t->desc.order, &how, err);
    qn_free(bytes);
    return st;
}
