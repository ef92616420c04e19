/* Which schedule a run uses and where the model is cut. */
#include "train_run.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/io.h"
#include "core/log.h"
#include "model/cost.h"
#include "schedule/gen/gen.h"
#include "schedule/text/schedule_text.h"

/* A schedule from a file: an order, PyTorch's CSV, or a plan, whose compute tasks are taken. */
static qn_status read_order(qn_order **out, const char *path, qn_err *err)
{
    char *text = NULL;
    size_t bytes;
    qn_plan *plan = NULL;
    qn_status st;
    QN_TRY(st, qn_file_read(&text, &bytes, path, (size_t)256 << 20, err), out);
    if (qn_schedule_form_of(text, bytes) == QN_FORM_PLAN) {
        QN_TRY(st, qn_plan_read(&plan, text, bytes, err), out);
        QN_TRY(st, qn_plan_validate(plan, err), out);
        QN_TRY(st, qn_plan_order(out, plan, err), out);
    } else {
        QN_TRY(st, qn_order_read(out, text, bytes, err), out);
    }
out:
    qn_plan_close(plan);
    qn_free(text);
    return st;
}

/* A file is for all of the run's workers and micro-batches where it has columns of its own, else for those of one chain. */
static qn_status order_of_file(qni_train_run *r, const qn_pattern *chain, qn_err *err)
{
    const qn_train_options *o = r->opt;
    const qn_status st = read_order(&r->order, o->schedule, err);
    if (st == QN_OK && o->vocab_parallel > 0 && r->order->vocab != o->vocab_parallel)
        return QN_FAIL(err, QN_EINVAL, "%s says itself whether there are vocabulary shards; leave --vocab-parallel out",
                       o->schedule);
    if (st != QN_OK) return st;
    const bool whole = r->order->columns > 1;
    const int64_t workers = whole ? o->workers : chain->workers, items = whole ? o->micro_batches : chain->items;
    if (r->order->workers != workers || r->order->items != items)
        return QN_FAIL(err, QN_EINVAL, "%s is for --workers %d --micro-batches %d, but %" PRId64 " and %" PRId64 " were given%s",
                       o->schedule, r->order->workers, r->order->items, workers, items,
                       workers == o->workers && items == o->micro_batches ? "" : " for each copy of the pipeline");
    if (whole && r->order->shards != o->tensor)
        return QN_FAIL(err, QN_EINVAL, "%s has %d shards of a stage, but --tensor is %" PRId64, o->schedule, r->order->shards,
                       o->tensor);
    return whole ? QN_OK : qni_train_widen(r, err);
}

static qn_status choose_order(qni_train_run *r, qn_err *err)
{
    const qn_train_options *o = r->opt;
    const qn_generator *g = qn_generator_find(o->schedule);
    qn_pattern pattern = {.chunks = (int32_t)(o->chunks ? o->chunks : g != NULL ? g->usual_chunks : 1)};
    pattern.vocab = (int32_t)o->vocab_parallel;
    pattern.sides = (int32_t)o->vocab_shards;
    pattern.limit = r->stashes;
    pattern.group = (int32_t)o->group;
    if (o->group > 0 && (g == NULL || (g->generate != qn_gen_interleaved && g->generate != qn_gen_roundpipe)))
        return QN_FAIL(err, QN_EINVAL, "--group %" PRId64 " is for interleaved and roundpipe; %s has no groups of micro-batches",
                       o->group, o->schedule);
    qn_status st = qni_train_share(&pattern, o, err);
    if (st != QN_OK) return st;
    if (g == NULL && qn_path_exists(o->schedule) == 1) return order_of_file(r, &pattern, err);
    st = qni_train_costs(&pattern, r, err);
    if (st == QN_OK && qni_train_has_pieces(r)) return qni_train_pieces(r, &pattern, false, err);
    if (r->tiered && g != NULL && o->chunks == 0 && o->cuts.count > 0 && (g->host_state || g->max_workers == 1))
        pattern.pieces = o->cuts.count + 1;
    if (st == QN_OK) st = qn_generate(&r->order, o->schedule, &pattern, err);
    return st == QN_OK ? qni_train_widen(r, err) : st;
}

qn_status qni_train_reorder(qni_train_run *r, qn_err *err)
{
    qn_order_close(r->order);
    r->order = NULL;
    return choose_order(r, err);
}

qn_status qni_train_tighten(qni_train_run *r, qn_err *err)
{
    qn_pattern pattern = {.chunks = 1, .group = (int32_t)r->opt->group};
    qn_status st = qni_train_share(&pattern, r->opt, err);
    if (st == QN_OK) st = qni_train_costs(&pattern, r, err);
    return st == QN_OK ? qni_train_pieces(r, &pattern, true, err) : st;
}

/* --cuts as numbers, ascending within the chain. */
static qn_status read_cuts(qni_train_run *r, qn_err *err)
{
    const qn_list *cuts = &r->opt->cuts;
    const int32_t layers = qn_model_layers(r->model), stages = qn_depth(qn_order_grid(r->order));
    if (cuts->count != stages - 1)
        return QN_FAIL(err, QN_EINVAL, "--cuts names %d places, but %d stages need %d", cuts->count, stages, stages - 1);
    r->first_layer[0] = 0;
    r->first_layer[stages] = layers;
    for (int32_t i = 0; i < cuts->count; i++) {
        char *end;
        errno = 0;
        const long cut = strtol(cuts->item[i], &end, 10);
        if (errno != 0 || *end != '\0' || end == cuts->item[i] || cut < r->first_layer[i] || cut > layers)
            return QN_FAIL(err, QN_EINVAL,
                           "--cuts has '%s'; ascending numbers from 0 (the embedding) to %d (behind the head) were wanted",
                           cuts->item[i], layers);
        r->first_layer[i + 1] = (int32_t)cut;
    }
    return QN_OK;
}

/* By cost; where the vocabulary is cut into shards the chain's ends cost nothing of it. */
static qn_status default_cuts(qni_train_run *r, int64_t samples, int32_t stages, qn_err *err)
{
    qn_model *sharded = NULL;
    qn_status st = QN_OK;
    if (r->order->sides > 0) st = qn_model_open_vocab(&sharded, r->model, r->order->sides, err);
    if (st == QN_OK)
        st = qn_model_default_cuts(sharded != NULL ? sharded : r->model, samples, r->opt->context, stages, r->first_layer, err);
    qn_model_close(sharded);
    return st;
}

qn_status qni_train_plan(qni_train_run *r, qn_err *err)
{
    const qn_train_options *o = r->opt;
    qn_status st = qni_recompute_read(&r->recompute, o->recompute, o->recompute_at, r->model, err);
    if (st == QN_OK) st = qni_train_devices(r, err);
    if (st == QN_OK) st = choose_order(r, err);
    if (st != QN_OK) return st;
    const int32_t stages = qn_depth(qn_order_grid(r->order)), workers = r->order->workers;
    const int64_t limit = r->tiered ? r->device.memory : o->memory;
    const bool cut = r->first_layer != NULL;
    if (!cut) r->first_layer = qn_calloc((size_t)stages + 1, sizeof(int32_t));
    r->arena_limit = limit > 0 ? qn_calloc((size_t)workers, sizeof(int64_t)) : NULL;
    if (r->first_layer == NULL || (limit > 0 && r->arena_limit == NULL))
        return QN_FAIL(err, QN_ENOMEM, "tables of %d stages", stages);
    for (int32_t w = 0; w < workers && r->arena_limit != NULL; w++) r->arena_limit[w] = limit;
    if (cut) return QN_OK;
    if (stages > qn_model_layers(r->model))
        qn_log(QN_LOG_WARN, "%d stages for a chain of %d layers: some stages are empty and only pass data on", stages,
               qn_model_layers(r->model));
    if (o->cuts.count > 0) return read_cuts(r, err);
    const int64_t samples = (o->batch + o->micro_batches - 1) / o->micro_batches;
    return default_cuts(r, samples, stages, err);
}
