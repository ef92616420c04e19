#include "speculate.h"

#include <math.h>
#include <string.h>

#include "core/alloc.h"

/* Bytes of a parameter's value; each moment has as many. */
static size_t param_bytes(const qni_homes *h, int32_t p)
{
    return (size_t)qni_home_param(h, p)->count * h->element;
}

/* Copies what the stage's step changes to its place in kept, or back. */
static void copy_state(const qni_speculation *s, int32_t stage, bool back)
{
    const qni_homes *h = s->homes;
    const int32_t w = qni_homes_worker(h, stage);
    char *at = s->kept[stage];
    for (int32_t p = 0; p < h->params; p++) {
        if (!qni_steps(h, stage, p)) continue;
        void *const part[] = {h->value[w][p], h->m[w][p], h->v[w][p]};
        const size_t bytes = param_bytes(h, p);
        for (size_t i = 0; i < sizeof(part) / sizeof(part[0]); i++, at += bytes) {
            if (back)
                memcpy(part[i], at, bytes);
            else
                memcpy(at, part[i], bytes);
        }
    }
}

static qn_status take_copies(qni_speculation *s, qn_err *err)
{
    const qni_homes *h = s->homes;
    for (int32_t i = 0; i < h->set->stages; i++) {
        for (int32_t p = 0; p < h->params; p++) s->kept_bytes[i] += qni_steps(h, i, p) ? 3 * param_bytes(h, p) : 0;
        if (s->kept_bytes[i] == 0) continue;
        s->kept[i] = qn_alloc_pages(s->kept_bytes[i]);
        if (s->kept[i] == NULL)
            return QN_FAIL(err, QN_ENOMEM,
                           "no memory for the %zu bytes that undoing a step of stage %d needs; undo in place needs none",
                           s->kept_bytes[i], i);
    }
    return QN_OK;
}

qn_status qni_speculation_init(qni_speculation *s, qni_homes *homes, const qn_hyper *hyper, qn_undo undo, qn_err *err)
{
    const size_t S = (size_t)homes->set->stages;
    *s = (qni_speculation){.homes = homes, .hyper = hyper, .undo = undo};
    s->guess = qn_calloc((size_t)homes->set->workers, sizeof(*s->guess));
    s->taken = qn_calloc(S, sizeof(*s->taken));
    s->kept = qn_calloc(S, sizeof(*s->kept));
    s->kept_bytes = qn_calloc(S, sizeof(*s->kept_bytes));
    s->wrong_of = qn_calloc(S, sizeof(*s->wrong_of));
    s->taken_of = qn_calloc(S, sizeof(*s->taken_of));
    if (s->guess == NULL || s->taken == NULL || s->kept == NULL || s->kept_bytes == NULL || s->wrong_of == NULL ||
        s->taken_of == NULL)
        return QN_FAIL(err, QN_ENOMEM, "no memory for the post-validation of %zu stages", S);
    return undo == QN_UNDO_COPY ? take_copies(s, err) : QN_OK;
}

void qni_speculation_fini(qni_speculation *s)
{
    for (int32_t i = 0; s->homes != NULL && s->kept != NULL && i < s->homes->set->stages; i++)
        if (s->kept[i] != NULL) qn_free_pages(s->kept[i], s->kept_bytes[i]);
    qn_free(s->taken_of);
    qn_free(s->wrong_of);
    qn_free(s->kept_bytes);
    qn_free(s->kept);
    qn_free(s->taken);
    qn_free(s->guess);
    *s = (qni_speculation){0};
}

void qni_speculation_guess(qni_speculation *s, int32_t worker, const double *sums, int64_t tokens)
{
    qni_verdict v = {.finding = QNI_GOOD, .tokens = tokens};
    double squares = 0.0;
    for (int32_t p = 0; p < s->homes->params; p++) squares += sums[p];
    v.norm = tokens > 0 ? sqrt(squares) / (double)tokens : NAN;
    v.grad_scale = 1.0 / (double)tokens;
    const bool clips = s->hyper->clip > 0.0;
    if (!isfinite(v.norm) || (clips && (v.norm > s->hyper->clip || s->streak < QNI_PATIENCE))) v.finding = QNI_BAD_NORM;
    s->guess[worker] = v;
}

void qni_speculation_step(qni_speculation *s, int32_t stage, int64_t step, double lr)
{
    const qni_verdict *v = &s->guess[qni_homes_worker(s->homes, stage)];
    s->taken[stage] = v->finding == QNI_GOOD;
    if (!s->taken[stage]) return;
    s->taken_of[stage]++;
    if (s->undo == QN_UNDO_COPY) copy_state(s, stage, false);
    qni_update(s->homes, stage, QNI_UPDATE_KEEP, v, s->hyper, step, lr);
}

bool qni_speculation_validate(qni_speculation *s, int32_t stage, const qni_verdict *v, int64_t step, double lr)
{
    const qni_verdict *guess = &s->guess[qni_homes_worker(s->homes, stage)];
    const bool taken = s->taken[stage];
    s->taken[stage] = false;
    if (taken && v->finding == QNI_GOOD && v->grad_scale == guess->grad_scale) {
        qni_clear_grads(s->homes, stage);
        return true;
    }
    if (taken) {
        s->wrong_of[stage]++;
        if (s->undo == QN_UNDO_COPY)
            copy_state(s, stage, true);
        else
            qni_update(s->homes, stage, QNI_UPDATE_UNDO, guess, s->hyper, step, lr);
    }
    qni_optimize(s->homes, stage, v, s->hyper, step, lr);
    return false;
}

static bool is_clipped(const qni_speculation *s, const qni_verdict *v)
{
    return v->finding != QNI_GOOD || (s->hyper->clip > 0.0 && v->norm > s->hyper->clip);
}

bool qni_speculation_ready(const qni_speculation *s)
{
    return s->hyper->clip <= 0.0 || s->streak == QNI_PATIENCE;
}

bool qni_speculation_agrees(const qni_speculation *s, const qni_verdict *v)
{
    return qni_speculation_ready(s) && !is_clipped(s, v);
}

void qni_speculation_begin(qni_speculation *s)
{
    for (int32_t i = 0; i < s->homes->set->stages; i++) s->taken[i] = false;
}

void qni_speculation_settle(qni_speculation *s, const qni_verdict *v)
{
    s->streak = is_clipped(s, v) ? 0 : s->streak < QNI_PATIENCE ? s->streak + 1 : s->streak;
    for (int32_t i = 0; i < s->homes->set->stages; i++) {
        s->steps += s->taken_of[i];
        s->wrong += s->wrong_of[i];
        s->taken_of[i] = s->wrong_of[i] = 0;
    }
}
