/* Which schedule a run uses and where the model is cut. */
#include "train_run.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/io.h"
#include "core/log.h"
#include "model/cost.h"
#include "schedule/gen/gen.h"
#include "schedule/schedule_text.h"

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

/* The order of one chain: a pipeline of so many workers. */
static qn_status choose_chain(qn_order **out, const qni_train_run *r, int64_t workers, qn_err *err)
{
    const qn_train_options *o = r->opt;
    const qn_generator *g = qn_generator_find(o->schedule);
    if (g == NULL && qn_path_exists(o->schedule) == 1) {
        qn_status st = read_order(out, o->schedule, err);
        if (st != QN_OK) return st;
        if (o->vocab_parallel > 0 && (*out)->vocab != o->vocab_parallel)
            return QN_FAIL(err, QN_EINVAL, "%s says itself whether there are vocabulary shards; leave --vocab-parallel out",
                           o->schedule);
        const bool whole = (*out)->columns > 1; /* a file may place shards itself */
        if ((*out)->workers != (whole ? o->workers : workers) || (*out)->items != o->micro_batches)
            return QN_FAIL(err, QN_EINVAL,
                           "%s is for --workers %d --micro-batches %d, but %" PRId64 " and %" PRId64 " were given", o->schedule,
                           (*out)->workers, (*out)->items, o->workers, o->micro_batches);
        if (whole && (*out)->shards != o->tensor)
            return QN_FAIL(err, QN_EINVAL, "%s has %d shards of a stage, but --tensor is %" PRId64, o->schedule, (*out)->shards,
                           o->tensor);
        return QN_OK;
    }
    const int64_t chunks = o->chunks ? o->chunks : g != NULL ? g->usual_chunks : 1;
    qn_pattern pattern = {.workers = (int32_t)workers, .items = (int32_t)o->micro_batches, .chunks = (int32_t)chunks};
    pattern.vocab = (int32_t)o->vocab_parallel;
    pattern.sides = (int32_t)o->vocab_shards;
    const qn_status st = qni_train_costs(&pattern, r, err);
    if (st != QN_OK) return st;
    return qn_generate(out, o->schedule, &pattern, err);
}

/* Workers that share a stage: the largest number that divides both the shards and the workers. */
static int64_t shard_workers(const qn_train_options *o)
{
    int64_t n = o->tensor;
    while (o->tensor % n != 0 || o->workers % n != 0) n--;
    return n;
}

static qn_status choose_order(qni_train_run *r, qn_err *err)
{
    const qn_train_options *o = r->opt;
    const int64_t together = shard_workers(o);
    qn_status st = choose_chain(&r->order, r, o->workers / together, err);
    if (st != QN_OK || o->tensor == 1 || r->order->columns > 1) return st;
    qn_order *chain = r->order;
    r->order = NULL;
    st = qn_order_widen(&r->order, chain, 1, (int32_t)o->tensor, (int32_t)together, err);
    qn_order_close(chain);
    return st;
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
    qn_model_config c = *qn_model_config_of(r->model);
    qn_status st = QN_OK;
    c.vocab_shards = r->order->sides;
    if (c.vocab_shards > 0) st = qn_model_open(&sharded, &c, err);
    if (st == QN_OK)
        st = qn_model_default_cuts(sharded != NULL ? sharded : r->model, samples, r->opt->context, stages, r->first_layer, err);
    qn_model_close(sharded);
    return st;
}

qn_status qni_train_plan(qni_train_run *r, qn_err *err)
{
    const qn_train_options *o = r->opt;
    qn_status st = choose_order(r, err);
    if (st != QN_OK) return st;
    const int32_t stages = qn_depth(qn_order_grid(r->order)), workers = r->order->workers; /* stages of the chain */
    r->first_layer = qn_calloc((size_t)stages + 1, sizeof(int32_t));
    r->arena_limit = o->memory > 0 ? qn_calloc((size_t)workers, sizeof(int64_t)) : NULL;
    if (r->first_layer == NULL || (o->memory > 0 && r->arena_limit == NULL))
        return QN_FAIL(err, QN_ENOMEM, "tables of %d stages", stages);
    for (int32_t w = 0; w < workers && r->arena_limit != NULL; w++) r->arena_limit[w] = o->memory;
    if (stages > qn_model_layers(r->model))
        qn_log(QN_LOG_WARN, "%d stages for a chain of %d layers: some stages are empty and only pass data on", stages,
               qn_model_layers(r->model));
    if (o->cuts.count > 0) return read_cuts(r, err);
    const int64_t samples = (o->batch + o->micro_batches - 1) / o->micro_batches;
    return default_cuts(r, samples, stages, err);
}
