/* The whole parameters of a run, for checkpoints and samples: the trainer's homes, or copies where tensor shards hold parts. */
#include "core/alloc.h"
#include "train_run.h"

static bool is_whole(const qni_train_run *r)
{
    return qn_trainer_shards(r->trainer) == 1;
}

/* Values of all parameters, then m and v of those that are trained. */
static void lay_copies(qni_train_run *r)
{
    float *at = r->copies;
    for (int32_t i = 0; i < qn_model_params(r->model); i++) {
        const int64_t n = qn_model_param(r->model, i)->count;
        const bool trained = qn_trainer_home(r->trainer, i).m != NULL;
        r->value[i] = at;
        r->m[i] = trained ? at + n : NULL;
        r->v[i] = trained ? at + 2 * n : NULL;
        at += trained ? 3 * n : n;
    }
}

qn_status qni_train_views_open(qni_train_run *r, qn_err *err)
{
    const int32_t n = qn_model_params(r->model);
    r->value = qn_calloc((size_t)n * 3, sizeof(float *));
    if (r->value == NULL) return QN_FAIL(err, QN_ENOMEM, "table of %d parameters", n);
    r->m = r->value + n;
    r->v = r->m + n;
    if (!is_whole(r)) {
        const size_t count = (size_t)(qn_model_param_count(r->model) + 2 * qn_model_trained_count(r->model));
        r->copies = qn_calloc(count, sizeof(float));
        if (r->copies == NULL)
            return QN_FAIL(err, QN_ENOMEM, "no memory for the %zu bytes of the whole state", count * sizeof(float));
        lay_copies(r);
        return QN_OK;
    }
    for (int32_t i = 0; i < n; i++) {
        const qn_param_home home = qn_trainer_home(r->trainer, i);
        r->value[i] = home.value;
        r->m[i] = home.m;
        r->v[i] = home.v;
    }
    return QN_OK;
}

void qni_train_views_close(qni_train_run *r)
{
    qn_free(r->value);
    qn_free(r->copies);
}

void qni_train_views_take(qni_train_run *r)
{
    for (int32_t i = 0; !is_whole(r) && i < qn_model_params(r->model); i++)
        qn_trainer_get(r->trainer, i, r->value[i], r->m[i], r->v[i]);
}

void qni_train_views_give(qni_train_run *r)
{
    for (int32_t i = 0; !is_whole(r) && i < qn_model_params(r->model); i++)
        qn_trainer_put(r->trainer, i, r->value[i], r->m[i], r->v[i]);
    qn_trainer_refresh(r->trainer);
}
