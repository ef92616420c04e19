/* The runner: a stage set whose workers share the caller's values, and one forward plan over it: inference with a cache for each
 * of some sequences, or evaluation in windows.
 *
 * An item of the plan holds rows of any sequences: all that are decoded together go into one, so that each worker reads its
 * weights once for all of them; a long prompt fills several, which follow one another through the workers as a pipeline. */
#include "runner.h"

#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "forward.h"
#include "runtime/stage_set.h"

struct qn_runner {
    qn_stage_set set;
    qni_forward forward;
    bool open;
    int64_t cache_len; /* 0: evaluation */
    int64_t *past;     /* [slots] */
};

static qn_status check(const qn_runner_desc *d, qn_err *err)
{
    const int32_t context = qn_model_config_of(d->model)->context;
    if (d->B < 1 || d->T < 1 || d->cache_len < 0)
        return QN_FAIL(
            err, QN_EINVAL,
            "passes of %lld samples of %lld tokens with %lld cached positions; at least one sample and token are needed",
            (long long)d->B, (long long)d->T, (long long)d->cache_len);
    if ((d->cache_len == 0 && d->T > context) || d->cache_len > context)
        return QN_FAIL(err, QN_EINVAL, "%lld tokens a pass and %lld cached positions do not fit into the model's context of %d",
                       (long long)d->T, (long long)d->cache_len, context);
    if (d->cache_len == 0 && d->weights != QN_WEIGHTS_OWN)
        return QN_FAIL(err, QN_EINVAL, "evaluation reads the weights as training does; compact weights are for generation");
    if (d->cache_len > 0 && (d->slots < 0 || d->slots > QN_RUNNER_SLOTS || d->logits < 0 || d->logits > INT32_MAX))
        return QN_FAIL(err, QN_EINVAL, "%d sequences together with %lld rows of logits; 1 to %d sequences are possible", d->slots,
                       (long long)d->logits, QN_RUNNER_SLOTS);
    return QN_OK;
}

/* Devices: the pieces are the layers of the chain, and the set only says what they need. */
static qn_status open_devices(qn_runner *r, const qn_runner_desc *d, qn_stage_set_desc set, qni_forward_desc forward, qn_err *err)
{
    const int32_t pieces = qn_model_layers(d->model);
    const qn_runner_tiers *t = d->tiers;
    int32_t *first = qn_calloc((size_t)pieces + 1, sizeof(*first)), *host = qn_calloc((size_t)pieces, sizeof(*host));
    int64_t *limit = qn_calloc((size_t)qn_max32(d->workers, 1), sizeof(*limit));
    qn_status st =
        first != NULL && host != NULL && limit != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "no memory for %d pieces", pieces);
    for (int32_t i = 0; st == QN_OK && i <= pieces; i++) first[i] = i;
    for (int32_t w = 0; st == QN_OK && w < d->workers; w++) limit[w] = t->memory;
    set.first_layer = first;
    set.worker_of = host;
    set.workers = set.threads = 1;
    set.stages = pieces;
    set.unpacked = true;
    const qni_forward_tiers tiers = {.devices = d->workers,
                                     .window = t->window,
                                     .replace = t->replace > 0 ? t->replace : 1,
                                     .keep = true,
                                     .limit = t->memory > 0 ? limit : NULL,
                                     .link_bytes_per_s = t->link_bytes_per_s,
                                     .value = d->value,
                                     .read = t->read,
                                     .read_ctx = t->read_ctx};
    forward.tiers = &tiers;
    if (st == QN_OK) st = qni_stage_set_init(&r->set, &set, err);
    r->open = st == QN_OK;
    if (st == QN_OK) st = qni_forward_init(&r->forward, &forward, err);
    qn_free(first);
    qn_free(host);
    qn_free(limit);
    return st;
}

static qn_status open_resident(qn_runner *r, const qn_runner_desc *d, const qn_stage_set_desc *set,
                               const qni_forward_desc *forward, qn_err *err)
{
    void *const **value = qn_calloc((size_t)qn_max32(d->workers, 1), sizeof(*value));
    if (value == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for a runner of %d workers", d->workers);
    for (int32_t w = 0; w < d->workers; w++) value[w] = d->value;
    qn_status st = qni_stage_set_init(&r->set, set, err);
    if (st == QN_OK) qni_stage_set_bind(&r->set, value, NULL, NULL, QN_NONE);
    r->open = st == QN_OK;
    if (st == QN_OK) st = qni_forward_init(&r->forward, forward, err);
    qn_free(value);
    return st;
}

qn_status qn_runner_open(qn_runner **out, const qn_runner_desc *d, qn_err *err)
{
    qn_status st = check(d, err);
    *out = NULL;
    if (st != QN_OK) return st;
    qn_runner *r = qn_calloc(1, sizeof(*r));
    const int32_t slots = qn_max32(d->slots, 1);
    const int64_t logits = d->logits > 0 ? d->logits : slots;
    const bool infer = d->cache_len > 0;
    if (r != NULL) r->past = qn_calloc((size_t)slots, sizeof(*r->past));
    if (r == NULL || r->past == NULL) {
        qn_free(r);
        return QN_FAIL(err, QN_ENOMEM, "no memory for a runner of %d workers", d->workers);
    }
    r->cache_len = d->cache_len;
    /* Evaluation keeps a stash as training does; inference does not, and packs the forward copies alone. */
    const qn_stage_set_desc set = {.model = d->model,
                                   .first_layer = d->first_layer,
                                   .workers = d->workers,
                                   .stages = d->workers,
                                   .threads = d->threads,
                                   .mode = d->mode,
                                   .weights = d->weights,
                                   .pin = d->pin,
                                   .limits = {.B = infer ? d->T : 1,
                                              .T = infer ? 1 : d->T,
                                              .train = !infer,
                                              .cache_len = d->cache_len,
                                              .kv = d->kv,
                                              .logits = infer ? logits : 0}};
    const qni_forward_desc forward = {.set = &r->set,
                                      .transport = qn_transport_find("thread"),
                                      .driver = QN_DRIVE_THREADS,
                                      .items = infer ? d->workers : QNI_EVAL_ITEMS,
                                      .threads = d->threads,
                                      .T = d->T,
                                      .infer = infer,
                                      .pin = d->pin,
                                      .slots = slots,
                                      .segments = (int32_t)qn_min64(d->T, slots + d->workers),
                                      .logits = logits};
    st = d->tiers != NULL ? open_devices(r, d, set, forward, err) : open_resident(r, d, &set, &forward, err);
    if (st == QN_OK)
        *out = r;
    else
        qn_runner_close(r);
    return st;
}

void qn_runner_close(qn_runner *r)
{
    if (r == NULL) return;
    if (r->open) qni_forward_fini(&r->forward);
    qni_stage_set_fini(&r->set);
    qn_free(r->past);
    qn_free(r);
}

/* Nothing is changed before all feeds were found to fit. */
static qn_status check_feed(const qn_runner *r, const qn_feed *g, qn_err *err)
{
    const qni_forward *f = &r->forward;
    const int32_t V = qn_model_config_of(r->set.model)->vocab;
    if (g->slot < 0 || g->slot >= f->slots)
        return QN_FAIL(err, QN_ERANGE, "sequence %d of %d that can go on together", g->slot, f->slots);
    if (g->count < 1 || g->count > f->T)
        return QN_FAIL(err, QN_ERANGE, "%lld tokens in one pass; 1 to %lld are possible", (long long)g->count, (long long)f->T);
    if (g->logits < 0 || g->logits > g->count)
        return QN_FAIL(err, QN_ERANGE, "logits of %d of %lld tokens", g->logits, (long long)g->count);
    for (int64_t i = 0; i < g->count; i++)
        if (g->tokens[i] < 0 || g->tokens[i] >= V)
            return QN_FAIL(err, QN_ERANGE, "token %d is outside the model's vocabulary of %d", g->tokens[i], V);
    return QN_OK;
}

/* Lays the feeds out over the items, in order. past counts on; a failure leaves it to the caller to set it back. */
static qn_status lay_out(qn_runner *r, qn_feed *feed, int32_t n, qn_err *err)
{
    qni_forward *f = &r->forward;
    int32_t item = 0;
    int64_t logits = 0;
    for (int32_t i = 0; i < f->items; i++) {
        f->length[i] = 0;
        f->segments[i] = 0;
    }
    f->logits_at[0] = 0;
    for (int32_t i = 0; i < n; i++) {
        qn_feed *g = &feed[i];
        const qn_status st = check_feed(r, g, err);
        if (st != QN_OK) return st;
        if (g->count > r->cache_len - r->past[g->slot])
            return QN_FAIL(err, QN_ERANGE, "%lld more tokens do not fit: %lld of %lld positions of the cache are taken",
                           (long long)g->count, (long long)r->past[g->slot], (long long)r->cache_len);
        if (f->length[item] + g->count > f->T || f->segments[item] == f->most_segments) {
            if (++item == f->items)
                return QN_FAIL(err, QN_ERANGE, "%d pieces of text do not fit into one pass of %d items of %lld rows", n, f->items,
                               (long long)f->T);
            f->logits_at[item] = logits;
        }
        if (g->logits > f->most_logits - logits)
            return QN_FAIL(err, QN_ERANGE, "more than %lld rows of logits in one pass", (long long)f->most_logits);
        f->segment[(int64_t)item * f->most_segments + f->segments[item]++] =
            (qn_segment){.slot = g->slot, .logits = g->logits, .past = r->past[g->slot], .count = g->count};
        memcpy(f->tokens + item * f->T + f->length[item], g->tokens, (size_t)g->count * sizeof(*g->tokens));
        g->row = f->logits + logits * qn_model_config_of(r->set.model)->vocab;
        f->length[item] += g->count;
        logits += g->logits;
        r->past[g->slot] += g->count;
    }
    return QN_OK;
}

qn_status qn_runner_feed_all(qn_runner *r, qn_feed *feed, int32_t n, qn_err *err)
{
    if (r->cache_len == 0) return QN_FAIL(err, QN_ESTATE, "this runner was opened without a cache, for evaluation");
    int64_t before[QN_RUNNER_SLOTS];
    memcpy(before, r->past, (size_t)r->forward.slots * sizeof(*before));
    qn_status st = lay_out(r, feed, n, err);
    if (st == QN_OK) st = qni_forward_run(&r->forward, err);
    if (st != QN_OK) memcpy(r->past, before, (size_t)r->forward.slots * sizeof(*before));
    return st;
}

qn_status qn_runner_feed(qn_runner *r, const int32_t *tokens, int64_t count, const float **logits, qn_err *err)
{
    qn_feed feed = {.logits = 1, .tokens = tokens, .count = count};
    const qn_status st = qn_runner_feed_all(r, &feed, 1, err);
    if (st == QN_OK) *logits = feed.row;
    return st;
}

int64_t qn_runner_rows(const qn_runner *r)
{
    return r->forward.T * r->forward.items;
}

int32_t qn_runner_vocab(const qn_runner *r)
{
    return qn_model_config_of(r->set.model)->vocab;
}

int64_t qn_runner_held(const qn_runner *r, int32_t slot)
{
    return r->past[slot];
}

void qn_runner_truncate(qn_runner *r, int32_t slot, int64_t held)
{
    QN_ASSERT(slot >= 0 && slot < r->forward.slots && held >= 0 && held <= r->past[slot]);
    r->past[slot] = held;
}

void qn_runner_rewind(qn_runner *r)
{
    memset(r->past, 0, (size_t)r->forward.slots * sizeof(*r->past));
}

qn_runner_devices qn_runner_devices_of(const qn_runner *r)
{
    const qni_forward *f = &r->forward;
    qn_runner_devices d = {0};
    if (!f->tiered) return d;
    d.pieces = f->tier.stages;
    for (int32_t c = 0; c < f->tier.chunk_first[d.pieces]; c++) d.pass += f->tier.chunk_bytes[c];
    for (int32_t s = 0; s < d.pieces; s++) d.weights += f->tier.value_bytes[s];
    for (int32_t w = 0; w < f->plan->workers; w++) {
        d.arenas += f->plan->arena_bytes[w];
        d.high_water = qn_max64(d.high_water, qn_executor_high_water(f->ex, w));
        d.loaded += qn_executor_moved(f->ex, w, QN_LANE_UP, QN_V_PARAM);
    }
    return d;
}

qn_status qn_runner_evaluate(qn_runner *r, const qn_tokens *tokens, qn_split_range part, int64_t max_windows, double *loss,
                             int64_t *targets, qn_err *err)
{
    if (r->cache_len != 0)
        return QN_FAIL(err, QN_ESTATE, "this runner was opened with a cache, for generation; evaluation needs one without");
    return qni_forward_evaluate(&r->forward, tokens, part, max_windows, loss, targets, err);
}
