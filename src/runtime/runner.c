/* The runner: a stage set whose workers share the caller's values, and one forward plan over it: inference with caches of one
 * sample, or evaluation in windows. */
#include "runner.h"

#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "forward.h"
#include "stage_set.h"

struct qn_runner {
    qn_stage_set set;
    qni_forward forward;
    bool open;
    int64_t cache_len; /* 0: evaluation */
};

static qn_status check(const qn_runner_desc *d, qn_err *err)
{
    const int32_t context = qn_model_config_of(d->model)->context;
    if (d->B < 1 || d->T < 1 || d->cache_len < 0)
        return QN_FAIL(
            err, QN_EINVAL,
            "passes of %lld samples of %lld tokens with %lld cached positions; at least one sample and token are needed",
            (long long)d->B, (long long)d->T, (long long)d->cache_len);
    if (d->T > context || d->cache_len > context)
        return QN_FAIL(err, QN_EINVAL, "%lld tokens a pass and %lld cached positions do not fit into the model's context of %d",
                       (long long)d->T, (long long)d->cache_len, context);
    return QN_OK;
}

qn_status qn_runner_open(qn_runner **out, const qn_runner_desc *d, qn_err *err)
{
    qn_status st = check(d, err);
    *out = NULL;
    if (st != QN_OK) return st;
    qn_runner *r = qn_calloc(1, sizeof(*r));
    void *const **value = qn_calloc((size_t)qn_max32(d->workers, 1), sizeof(*value));
    if (r == NULL || value == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "no memory for a runner of %d workers", d->workers);
        goto out;
    }
    for (int32_t w = 0; w < d->workers; w++) value[w] = d->value;
    r->cache_len = d->cache_len;
    /* Evaluation keeps a stash as training does; inference does not, and packs the forward copies alone. */
    const qn_stage_set_desc set = {.model = d->model,
                                   .first_layer = d->first_layer,
                                   .workers = d->workers,
                                   .stages = d->workers,
                                   .threads = d->threads,
                                   .mode = d->mode,
                                   .pin = d->pin,
                                   .limits = {.B = 1, .T = d->T, .train = d->cache_len == 0, .cache_len = d->cache_len}};
    QN_TRY(st, qni_stage_set_init(&r->set, &set, err), out);
    qni_stage_set_bind(&r->set, value, NULL);
    const qni_forward_desc forward = {.set = &r->set,
                                      .transport = qn_transport_find("thread"),
                                      .driver = QN_DRIVE_THREADS,
                                      .items = d->cache_len > 0 ? 1 : QNI_EVAL_ITEMS,
                                      .threads = d->threads,
                                      .T = d->T,
                                      .infer = d->cache_len > 0,
                                      .pin = d->pin};
    r->open = true;
    QN_TRY(st, qni_forward_init(&r->forward, &forward, err), out);
    *out = r;
    r = NULL;
out:
    qn_free(value);
    qn_runner_close(r);
    return st;
}

void qn_runner_close(qn_runner *r)
{
    if (r == NULL) return;
    if (r->open) qni_forward_fini(&r->forward);
    qni_stage_set_fini(&r->set);
    qn_free(r);
}

qn_status qn_runner_feed(qn_runner *r, const int32_t *tokens, int64_t count, const float **logits, qn_err *err)
{
    qni_forward *f = &r->forward;
    const int32_t V = qn_model_config_of(r->set.model)->vocab;
    if (r->cache_len == 0) return QN_FAIL(err, QN_ESTATE, "this runner was opened without a cache, for evaluation");
    if (count < 1 || count > f->T)
        return QN_FAIL(err, QN_ERANGE, "%lld tokens in one pass; 1 to %lld are possible", (long long)count, (long long)f->T);
    if (count > r->cache_len - f->past)
        return QN_FAIL(err, QN_ERANGE, "%lld more tokens do not fit: %lld of %lld positions of the cache are taken",
                       (long long)count, (long long)f->past, (long long)r->cache_len);
    for (int64_t i = 0; i < count; i++) {
        if (tokens[i] < 0 || tokens[i] >= V)
            return QN_FAIL(err, QN_ERANGE, "token %d is outside the model's vocabulary of %d", tokens[i], V);
        f->tokens[i] = tokens[i];
    }
    f->length[0] = count;
    const qn_status st = qni_forward_run(f, err);
    if (st != QN_OK) return st;
    f->past += count;
    *logits = f->logits;
    return QN_OK;
}

void qn_runner_rewind(qn_runner *r)
{
    r->forward.past = 0;
}

qn_status qn_runner_evaluate(qn_runner *r, const qn_tokens *tokens, qn_split_range part, int64_t max_windows, double *loss,
                             int64_t *targets, qn_err *err)
{
    if (r->cache_len != 0)
        return QN_FAIL(err, QN_ESTATE, "this runner was opened with a cache, for generation; evaluation needs one without");
    return qni_forward_evaluate(&r->forward, tokens, part, max_windows, loss, targets, err);
}
