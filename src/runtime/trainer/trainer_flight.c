/* Taking steps: flights of the executor's runs.
 *
 *   qn_trainer_flight   first .. first + n - 1
 *     run               up to `most` of them in one run of the executor, without a barrier
 *       FOLD of step k  refuses step k, or contradicts what workers guessed, or the caller wants to stop, and more steps follow:
 *                       ends the run
 *     behind it         what step k is owed is done with every worker at rest; the rest of the steps is another run
 *
 * A run of fewer steps than the plan has passes over the tasks of the others. Where stages go round the devices (RoundPipe's
 * cursor) the plan begins at any of the cursor's places: step number s runs as the plan's step s mod period, and what follows it.
 */
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
#include "trainer_internal.h"

qn_status qni_trainer_flights_open(qn_trainer *t, qn_err *err)
{
    const size_t most = (size_t)t->most;
    t->one = t->plan;
    t->period = qn_cursor_period(t->one);
    t->span = t->most + t->period - 1;
    const size_t span = (size_t)t->span;
    t->verdict = qn_calloc(most, sizeof(*t->verdict));
    t->decided_ns = qn_calloc(most, sizeof(*t->decided_ns));
    if (t->verdict == NULL || t->decided_ns == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for flights of %zu steps", most);
    if (t->span == 1) return t->tiered ? qni_tier_attach(&t->tier, t->plan, err) : QN_OK;
    t->plan = NULL;
    t->place = qn_calloc(span * (size_t)t->one->tasks, sizeof(*t->place));
    t->flight_time = qn_calloc(span * (size_t)t->one->tasks, sizeof(*t->flight_time));
    t->flight_cpu = qn_calloc(span * (size_t)t->one->tasks, sizeof(*t->flight_cpu));
    if (t->place == NULL || t->flight_time == NULL || t->flight_cpu == NULL)
        return QN_FAIL(err, QN_ENOMEM, "no memory for flights of %zu steps of %d tasks", span, t->one->tasks);
    const qn_status st = qn_plan_chain(&t->plan, t->one, t->span, t->place, err);
    return st == QN_OK && t->tiered ? qni_tier_attach(&t->tier, t->plan, err) : st;
}

void qni_trainer_flights_close(qn_trainer *t)
{
    if (t->plan != t->one) qn_plan_close(t->plan);
    qn_plan_close(t->one);
    qn_free(t->place);
    qn_free(t->flight_time);
    qn_free(t->flight_cpu);
    qn_free(t->verdict);
    qn_free(t->decided_ns);
}

/* --- one run */

static qn_status refusal(const qn_trainer *t, int32_t k, qn_err *err)
{
    const qni_verdict *v = &t->verdict[k];
    const long long step = t->step + k + 1; /* counted from 1, as people do */
    char what[160], where[160];
    if (v->finding == QNI_NO_TARGETS)
        return QN_FAIL(err, QN_EINVAL, "step %lld has no targets: nothing can be learned from it", step);
    if (v->finding == QNI_BAD_LOSS)
        snprintf(what, sizeof(what), "the loss of micro-batch %d is %g", (int)v->where, t->loss[k * t->plan->items + v->where]);
    else if (v->finding == QNI_BAD_GRADIENT)
        snprintf(what, sizeof(what), "the gradient of '%s' is not finite", qni_home_param(&t->homes, (int32_t)v->where)->name);
    else
        snprintf(what, sizeof(what), "the norm of the gradient is not finite");
    const int32_t p = qni_homes_not_finite(&t->homes);
    if (p == QN_NONE)
        snprintf(where, sizeof(where), "all parameters are finite, so a lower learning rate or clipping may help");
    else
        snprintf(where, sizeof(where), "parameter '%s' holds a number that is not finite", qni_home_param(&t->homes, p)->name);
    return QN_FAIL(err, QN_ENONFINITE, "step %lld: %s; %s. Nothing was changed by this step", step, what, where);
}

static void prepare(qn_trainer *t, int64_t first, int32_t n, const double *lr)
{
    if (t->dirty) qni_homes_clear_grads(&t->homes);
    if (t->dirty) qni_lag_restart(&t->lag);
    t->dirty = true;
    t->step = first;
    t->steps = n;
    t->phase = (int32_t)(first % t->period);
    t->lr = lr;
    t->ended = QN_NONE;
    memset(t->loss, 0, (size_t)n * (size_t)t->plan->items * sizeof(*t->loss));
    for (int32_t w = 0; w < t->set.workers; w++) t->worker[w].read_step = -1;
    for (int32_t k = 0; t->tiered && k < n; k++) qni_trainer_read(t, &t->worker[0], k);
    qni_shards_reset(&t->shards);
    if (t->tiered) qni_tier_reset_scratch(&t->tier);
    if (t->desc.post_validate != QN_UNDO_NONE) qni_speculation_begin(&t->speculation);
    qn_executor_set_steps(t->ex, t->phase, n);
}

/* Step k's FOLD ended the run. Post-validated: its stages have stepped or not, and are told now; else none has, and owners' sums
 * are all that is sure to be where it belongs. */
static void finish_ended(qn_trainer *t)
{
    const int32_t k = t->ended;
    const bool good = t->verdict[k].finding == QNI_GOOD;
    if (t->desc.post_validate != QN_UNDO_NONE) {
        for (int32_t s = 0; s < t->set.stages; s++)
            (void)qni_speculation_validate(&t->speculation, s, &t->verdict[k], t->step + k, t->lr[k]);
        return;
    }
    for (int32_t s = 0; s < t->set.stages && good; s++)
        qni_optimize(&t->homes, s, &t->verdict[k], &t->desc.hyper, t->step + k, t->lr[k]);
    if (good) qni_homes_refresh(&t->homes);
    qni_homes_clear_grads(&t->homes);
    qni_lag_restart(&t->lag);
}

/* In flights what other workers need of a stage leaves when its step is taken on a guess. What was decided otherwise comes to
 * them here. */
static void bring_up_to_date(qn_trainer *t, int32_t steps)
{
    bool agreed = true;
    for (int32_t k = 0; k < steps; k++) {
        agreed = agreed && qni_speculation_agrees(&t->speculation, &t->verdict[k]);
        qni_speculation_settle(&t->speculation, &t->verdict[k]);
    }
    if ((!agreed || t->ended != QN_NONE) && t->most > 1) qni_homes_refresh(&t->homes);
}

/* The flight's times as those of its steps. */
static void cut_trace(const qn_trainer *t, qn_trace *trace, int32_t steps)
{
    const int32_t tasks = t->one->tasks;
    for (int32_t k = 0; k < steps; k++) {
        const int32_t *place = t->place + (size_t)(t->phase + k) * (size_t)tasks;
        int64_t began = INT64_MAX;
        for (int32_t i = 0; i < tasks; i++)
            if (t->flight_time[place[i]].end >= 0) began = qn_min64(began, t->flight_time[place[i]].start);
        for (int32_t i = 0; i < tasks; i++) {
            const qn_span_time x = t->flight_time[place[i]];
            trace[k].time[i] = x.end < 0 ? (qn_span_time){0, -1} : (qn_span_time){x.start - began, x.end - began};
            if (trace[k].cpu != NULL) trace[k].cpu[i] = t->flight_cpu[place[i]];
        }
    }
}

/* Steps first .. first + n - 1 in one run. *done: how many of them were taken. */
static qn_status run(qn_trainer *t, int64_t first, int32_t n, const double *lr, qn_step_result *result, int32_t *done,
                     qn_trace *trace, qn_err *err)
{
    int64_t began = qn_now_ns();
    qn_trace whole = {.plan = t->plan, .time = t->flight_time};
    if (trace != NULL && trace->cpu != NULL) whole.cpu = t->flight_cpu;
    prepare(t, first, n, lr);
    const qn_status st = qn_executor_step(t->ex, trace == NULL || t->span == 1 ? trace : &whole, err);
    if (st != QN_OK && (st != QN_ECANCELLED || t->ended == QN_NONE)) return st;
    const int32_t steps = t->ended != QN_NONE ? t->ended + 1 : n;
    if (t->ended != QN_NONE) finish_ended(t);
    t->dirty = false;
    if (t->desc.post_validate != QN_UNDO_NONE) bring_up_to_date(t, steps);
    if (trace != NULL && t->span > 1) cut_trace(t, trace, steps);
    t->decided_ns[steps - 1] = qn_now_ns(); /* a step ends with the decision, the last one with the run */
    for (int32_t k = 0; k < steps; k++) {
        const qni_verdict *v = &t->verdict[k];
        if (v->finding != QNI_GOOD) return refusal(t, k, err);
        result[k] = (qn_step_result){
            .loss = v->loss / (double)v->tokens, .grad_norm = v->norm, .tokens = v->tokens, .ns = t->decided_ns[k] - began};
        began = t->decided_ns[k];
        (*done)++;
    }
    return QN_OK;
}

/* --- steps */

qn_status qn_trainer_flight(qn_trainer *t, int64_t first, int32_t n, const double *lr, qn_step_result *result, int32_t *done,
                            qn_trace *trace, qn_err *err)
{
    qn_status st = QN_OK;
    *done = 0;
    atomic_store(&t->cancelled, false);
    atomic_store(&t->stopping, false);
    while (*done < n && st == QN_OK && !atomic_load(&t->stopping)) {
        const int32_t at = *done;
        int32_t steps = qn_min32(n - at, t->most);
        if (t->desc.post_validate != QN_UNDO_NONE && !qni_speculation_ready(&t->speculation)) steps = 1;
        st = run(t, first + at, steps, lr + at, result + at, done, trace != NULL ? trace + at : NULL, err);
        if (st == QN_OK && *done < n && atomic_load(&t->cancelled)) st = QN_FAIL(err, QN_ECANCELLED, "the flight was cancelled");
    }
    return st;
}

qn_status qn_trainer_step(qn_trainer *t, int64_t step, double lr, qn_step_result *result, qn_trace *trace, qn_err *err)
{
    int32_t done;
    return qn_trainer_flight(t, step, 1, &lr, result, &done, trace, err);
}

void qn_trainer_cancel(qn_trainer *t)
{
    atomic_store(&t->cancelled, true);
    qn_executor_cancel(t->ex);
    if (t->eval_open) qn_executor_cancel(t->eval.ex);
}
