/* qn_train: the loop of steps, evaluations and checkpoints, and how a run ends. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/checked.h"
#include "core/clock.h"
#include "core/io.h"
#include "train_run.h"

/* Linear warm-up, then a cosine from lr to min_lr at the last step (nanoGPT's rule). */
static double learning_rate(const qn_train_options *o, int64_t step)
{
    const double least = o->min_lr < 0 ? o->lr / 10 : o->min_lr;
    if (step < o->warmup) return o->lr * (double)(step + 1) / (double)(o->warmup + 1);
    if (step >= o->steps || o->steps == o->warmup) return least;
    const double share = (double)(step - o->warmup) / (double)(o->steps - o->warmup);
    return least + 0.5 * (1 + cos(acos(-1) * share)) * (o->lr - least);
}

static void log_number(char *buf, size_t cap, double x)
{
    if (isfinite(x))
        snprintf(buf, cap, "%.17g", x);
    else
        snprintf(buf, cap, "null");
}

qn_status qni_train_save(qni_train_run *r, int64_t step, qn_err *err)
{
    char path[QNI_PATH], line[QNI_PATH + 64], state[256];
    qn_status st;
    snprintf(state, sizeof(state), "{\"format\": 1, \"step\": %" PRId64 ", \"steps\": %" PRId64 ", \"seed\": %" PRId64 "}\n",
             step, r->opt->steps, r->opt->seed);
    qn_trainer_settle(r->trainer);
    qni_train_views_take(r);
    const qn_state_view view = {.model = r->model, .value = r->value, .m = r->m, .v = r->v};
    const qn_checkpoint_desc desc = {.tokenizer_json = r->tokenizer_json,
                                     .tokenizer_bytes = r->tokenizer_bytes,
                                     .bos = qn_tokenizer_bos(r->tokenizer),
                                     .eos = qn_tokenizer_eos(r->tokenizer),
                                     .base_model = r->base[0] != '\0' ? r->base : NULL,
                                     .state_json = state};
    QN_TRY(st, qni_run_checkpoint_path(path, r->opt->out, step, err), out);
    QN_TRY(st, qn_checkpoint_write(path, &view, &desc, err), out);
    QN_TRY(st, qni_run_prune(r->opt->out, r->opt->keep, err), out);
    snprintf(line, sizeof(line), "{\"event\": \"saved\", \"step\": %" PRId64 "}", step);
    qni_log_line(r->log, line);
out:
    return st;
}

static qn_status evaluate(qni_train_run *r, int64_t step, int64_t windows, double *loss, qn_err *err)
{
    int64_t targets = 0;
    char line[128], number[40];
    *loss = NAN;
    if (r->valid.count < 2) return QN_OK;
    qn_status st;
    QN_TRY(st, qn_trainer_evaluate(r->trainer, r->tokens, r->valid, windows, loss, &targets, err), out);
    log_number(number, sizeof(number), *loss);
    snprintf(line, sizeof(line), "{\"event\": \"eval\", \"step\": %" PRId64 ", \"val_loss\": %s}", step, number);
    qni_log_line(r->log, line);
    QN_TRY(st, qn_metrics_eval(r->metrics, step, *loss, err), out);
out:
    return st;
}

static qn_status record_step(qni_train_run *r, const qn_train_step *s, qn_err *err)
{
    char line[256], loss[40], norm[40];
    log_number(loss, sizeof(loss), s->loss);
    log_number(norm, sizeof(norm), s->grad_norm);
    snprintf(line, sizeof(line),
             "{\"event\": \"step\", \"step\": %" PRId64 ", \"loss\": %s, \"grad_norm\": %s, \"lr\": %.17g, \"step_ms\": %.6g}",
             s->step, loss, norm, s->lr, s->step_ms);
    qni_log_line(r->log, line);
    const qn_metrics_row row = {.step = s->step,
                                .loss = s->loss,
                                .grad_norm = s->grad_norm,
                                .lr = s->lr,
                                .tokens_per_s = s->tokens_per_s,
                                .step_ms = s->step_ms};
    return qn_metrics_step(r->metrics, &row, err);
}

/* A step whose loss or gradient is not finite: say where, and what is safe. */
static qn_status explain_nonfinite(const qni_train_run *r, qn_err *err)
{
    char path[QNI_PATH], why[QN_ERR_TEXT];
    if (err == NULL) return QN_ENONFINITE;
    snprintf(why, sizeof(why), "%s", err->text);
    const bool saved = qni_run_newest_checkpoint(path, NULL, r->opt->out, NULL) == QN_OK;
    return QN_FAIL(err, QN_ENONFINITE, "%.400s; last good checkpoint: %.400s; try a lower --lr or a longer --warmup", why,
                   saved ? path : "none yet (use --save-every)");
}

int32_t qni_train_flight(const qni_train_run *r)
{
    enum { USUAL = 8 };
    if (r->opt->flight > 0) return (int32_t)r->opt->flight;
    return r->opt->post_validate || r->tiered ? USUAL : 1;
}

/* What belongs to a step behind it: records, an evaluation, a checkpoint. */
static qn_status after_step(qni_train_run *r, int64_t step, const qn_step_result *result, qn_train_step *s, double *tokens_per_s,
                            qn_err *err)
{
    const qn_train_options *o = r->opt;
    const double seconds = (double)result->ns * 1e-9;
    const double rate = seconds > 0 ? (double)result->tokens / seconds : 0;
    qn_status st;
    *tokens_per_s = *tokens_per_s == 0 ? rate : 0.9 * *tokens_per_s + 0.1 * rate; /* for people; the log holds each step's own */
    *s = (qn_train_step){.step = step + 1,
                         .steps = o->steps,
                         .loss = result->loss,
                         .grad_norm = result->grad_norm,
                         .lr = learning_rate(o, step),
                         .tokens_per_s = rate,
                         .step_ms = (double)result->ns * 1e-6,
                         .val_loss = NAN,
                         .seconds_left = (double)(o->steps - step - 1) * (double)result->tokens / *tokens_per_s};
    QN_TRY(st, record_step(r, s, err), out);
    if (o->eval_every > 0 && (step + 1) % o->eval_every == 0 && step + 1 < o->steps) {
        QN_TRY(st, evaluate(r, step + 1, o->eval_windows, &s->val_loss, err), out);
        s->evaluated = 1;
    }
    if (o->save_every > 0 && (step + 1) % o->save_every == 0 && step + 1 < o->steps)
        QN_TRY(st, qni_train_save(r, step + 1, err), out);
out:
    return st;
}

bool qni_train_stops(void *ctx)
{
    qni_train_run *r = ctx;
    const qn_train_hooks *h = r->hooks;
    if (!r->stopping && h->stop != NULL) r->stopping = h->stop(h->ctx) != 0;
    return r->stopping;
}

/* How many steps from this one on may follow each other: up to the next evaluation or checkpoint, which look at the state. A
 * length that was not asked for is what somebody waits for who looks on; the first flight is a single step, which tells how long
 * that takes. */
static int32_t flight_length(const qni_train_run *r, int64_t step)
{
    static const int64_t PATIENCE_NS = 2000000000;
    const qn_train_options *o = r->opt;
    int64_t n = qn_min64(qni_train_flight(r), o->steps - step);
    if (o->flight == 0) n = qn_min64(n, r->step_ns > 0 ? qn_max64(PATIENCE_NS / r->step_ns, 1) : 1);
    if (o->eval_every > 0) n = qn_min64(n, o->eval_every - step % o->eval_every);
    if (o->save_every > 0) n = qn_min64(n, o->save_every - step % o->save_every);
    return (int32_t)n;
}

/* A flight of steps and what belongs to each. */
static qn_status take_flight(qni_train_run *r, int64_t step, qn_train_done *done, double *shown_rate, double *seconds,
                             qn_err *err)
{
    const qn_train_hooks *h = r->hooks;
    const int32_t n = flight_length(r, step);
    const int slot = r->next_trace + n <= QNI_TRACES ? r->next_trace : 0;
    qn_step_result result[QNI_TRACES];
    double lr[QNI_TRACES];
    int32_t taken;
    for (int32_t i = 0; i < n; i++) lr[i] = learning_rate(r->opt, step + i);
    const qn_status flown = qn_trainer_flight(r->trainer, step, n, lr, result, &taken, &r->trace[slot], err);
    r->next_trace = slot + taken;
    for (int32_t i = 0; i < taken; i++) {
        qn_train_step s;
        r->traced_ns[slot + i] = result[i].ns;
        r->step_ns = result[i].ns;
        *seconds += (double)result[i].ns * 1e-9;
        const qn_status st = after_step(r, step + i, &result[i], &s, shown_rate, flown == QN_OK ? err : NULL);
        if (st != QN_OK) return flown == QN_OK ? st : flown;
        done->steps = step + i + 1;
        if (h->stepped != NULL) h->stepped(h->ctx, &s);
    }
    return flown == QN_ENONFINITE ? explain_nonfinite(r, err) : flown;
}

static qn_status loop(qni_train_run *r, qn_train_done *done, qn_err *err)
{
    const qn_train_options *o = r->opt;
    double shown_rate = 0, seconds = 0;
    qn_status st = QN_OK;
    while (done->steps < o->steps && !done->interrupted) {
        QN_TRY(st, take_flight(r, done->steps, done, &shown_rate, &seconds, err), out);
        if (qni_train_stops(r)) done->interrupted = done->steps < o->steps;
    }
    const double tokens = (double)((done->steps - r->first_step) * o->batch * o->context);
    done->tokens_per_s = seconds > 0 ? tokens / seconds : 0;
out:
    return st;
}

static void announce(const qni_train_run *r)
{
    if (r->hooks->began == NULL) return;
    const qn_memory mem = qn_trainer_memory(r->trainer);
    const double mb = 1.0 / (1 << 20);
    char line[512], trained[64] = "";
    if (qn_model_trained_count(r->model) < qn_model_param_count(r->model))
        snprintf(trained, sizeof(trained), " (%" PRId64 " trained)", qn_model_trained_count(r->model));
    snprintf(line, sizeof(line),
             "%s, %" PRId64 " parameters%s, %" PRId64 " tokens of text; %" PRId64 " worker%s x %" PRId64 " thread%s, %s, %" PRId64
             " micro-batches; %.0f MB of state, %.0f MB of activations",
             r->config.arch == QN_ARCH_GPT2 ? "gpt2" : "llama", qn_model_param_count(r->model), trained,
             qn_tokens_count(r->tokens), r->opt->workers, r->opt->workers == 1 ? "" : "s", r->opt->threads,
             r->opt->threads == 1 ? "" : "s", r->opt->schedule, r->opt->micro_batches,
             (double)(mem.params + mem.grads + mem.moments + mem.packed) * mb, (double)(mem.arenas + mem.scratch) * mb);
    r->hooks->began(r->hooks->ctx, line);
}

static qn_status finish(qni_train_run *r, qn_train_done *done, qn_err *err)
{
    qn_status st;
    done->val_loss = NAN;
    qni_train_moved(r, done);
    const qn_speculated guessed = qn_trainer_speculated(r->trainer);
    done->early = guessed.steps;
    done->taken_back = guessed.wrong;
    QN_TRY(st, qni_train_save(r, done->steps, err), out);
    if (!done->interrupted) QN_TRY(st, evaluate(r, done->steps, 0, &done->val_loss, err), out);
    QN_TRY(st, qn_metrics_flush(r->metrics, err), out);
    QN_TRY(st, qni_run_checkpoint_path(done->model, r->opt->out, done->steps, err), out);
    if (!done->interrupted) QN_TRY(st, qni_train_sample(r, done, err), out);
    QN_TRY(st, qni_train_report(r, done, err), out);
    qni_log_line(r->log, done->interrupted ? "{\"event\": \"interrupted\"}" : "{\"event\": \"done\"}");
out:
    return st;
}

qn_status qn_train(qn_train_done *done, const qn_train_options *opt, const qn_train_hooks *hooks, qn_err *err)
{
    static const qn_train_hooks nobody;
    qn_status st;
    qni_train_run r = {.opt = opt, .hooks = hooks != NULL ? hooks : &nobody};
    memset(done, 0, sizeof(*done));
    snprintf(done->run, sizeof(done->run), "%s", opt->out != NULL ? opt->out : "");
    QN_TRY(st, qni_train_open(&r, err), out);
    done->steps = r.first_step;
    qni_log_line(r.log, r.first_step > 0 ? "{\"event\": \"resumed\"}" : "{\"event\": \"began\"}");
    announce(&r);
    QN_TRY(st, loop(&r, done, err), out);
    QN_TRY(st, finish(&r, done, err), out);
    if (done->interrupted)
        st = QN_FAIL(err, QN_EINTR, "interrupted after step %" PRId64 " of %" PRId64 " and saved; go on with --resume",
                     done->steps, opt->steps);
out:
    if (st != QN_OK && st != QN_EINTR && r.log != NULL) qni_log_line(r.log, "{\"event\": \"failed\"}");
    qni_train_run_fini(&r);
    return st;
}
