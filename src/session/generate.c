/* qn_generate_text: prompt in, text out as it comes, on any number of workers. */
#include <inttypes.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "load.h"
#include "model/cost.h"
#include "quern/session.h"
#include "window.h"

enum { PREFILL = 128 }; /* the most prompt tokens of one pass */

typedef struct generation {
    const qn_generate_options *opt;
    qni_loaded model;
    qn_runner *runner;
    qni_window window;
    int32_t *ids; /* BOS or the prompt, then what was drawn */
    int64_t count, most;
    float *logits;
    int32_t *order;
    size_t shown_bytes; /* of the text given out so far */
} generation;

/* The first ids: BOS where the tokenizer has one, then the prompt. A model without BOS starts from a line break. */
static qn_status begin_ids(generation *g, qn_err *err)
{
    const qn_generate_options *o = g->opt;
    const qn_tokenizer *t = g->model.tokenizer;
    const char *prompt = o->prompt != NULL ? o->prompt : "";
    int32_t *ids = NULL;
    int64_t count = 0;
    qn_status st;
    const int32_t start = qn_tokenizer_bos(t) >= 0 ? qn_tokenizer_bos(t) : qn_tokenizer_eos(t);
    if (start < 0 && prompt[0] == '\0') prompt = "\n";
    QN_TRY(st, qn_tokenizer_encode(&ids, &count, t, prompt, strlen(prompt), err), out);
    g->most = count + 1 + o->max_tokens;
    g->ids = qn_malloc((size_t)g->most, sizeof(*g->ids));
    if (g->ids == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "%" PRId64 " tokens", g->most);
        goto out;
    }
    if (start >= 0) g->ids[g->count++] = start;
    if (count > 0) memcpy(g->ids + g->count, ids, (size_t)count * sizeof(*ids));
    g->count += count;
out:
    qn_free(ids);
    return st;
}

static qn_status open_generation(generation *g, qn_err *err)
{
    const qn_generate_options *o = g->opt;
    int32_t *cuts = NULL;
    qn_status st;
    if (o->model == NULL) return QN_FAIL(err, QN_EINVAL, "--model is missing: name a model directory or a run");
    QN_TRY(st, qni_load(&g->model, o->model, err), out);
    if (g->model.tokenizer == NULL) {
        st = QN_FAIL(err, QN_ENOENT, "%s has no tokenizer.json", g->model.dir);
        goto out;
    }
    QN_TRY(st, begin_ids(g, err), out);
    const qn_model_config *c = qn_model_config_of(g->model.model);
    if (g->count > c->context) {
        st = QN_FAIL(err, QN_ERANGE, "the prompt has %" PRId64 " tokens; the model's context is %d", g->count, c->context);
        goto out;
    }
    cuts = qn_calloc((size_t)o->workers + 1, sizeof(*cuts));
    g->logits = qn_calloc((size_t)c->vocab, sizeof(*g->logits));
    g->order = qn_calloc((size_t)c->vocab, sizeof(*g->order));
    if (cuts == NULL || g->logits == NULL || g->order == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "buffers for a vocabulary of %d", c->vocab);
        goto out;
    }
    QN_TRY(st, qn_model_default_cuts(g->model.model, 1, 1, (int32_t)o->workers, cuts, err), out);
    const int64_t cache = g->most < c->context ? g->most : c->context;
    const qn_runner_desc desc = {.model = g->model.model,
                                 .value = (void *const *)g->model.value,
                                 .first_layer = cuts,
                                 .workers = (int32_t)o->workers,
                                 .threads = (int32_t)o->threads,
                                 .mode = o->dtype == 0 ? QN_MODE_F32 : QN_MODE_BF16,
                                 .B = 1,
                                 .T = PREFILL < cache ? PREFILL : cache,
                                 .cache_len = cache,
                                 .pin = qni_pin(true, o->workers, o->threads)};
    QN_TRY(st, qn_runner_open(&g->runner, &desc, err), out);
    g->window = (qni_window){.runner = g->runner, .cache_len = cache, .most = desc.T};
out:
    qn_free(cuts);
    return st;
}

/* The whole pieces of characters at the end of text: bytes up to an unfinished UTF-8 sequence. */
static size_t whole_characters(const char *text, size_t bytes)
{
    size_t back = 0;
    while (back < 3 && back < bytes && ((unsigned char)text[bytes - 1 - back] & 0xC0) == 0x80) back++;
    if (back == bytes) return bytes;
    const unsigned char lead = (unsigned char)text[bytes - 1 - back];
    const size_t need = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    return need > back + 1 ? bytes - 1 - back : bytes;
}

/* Gives out what the ids say beyond what was shown. The whole text is decoded, since a token's text depends on its neighbours. */
static qn_status show(generation *g, bool last, qn_text_fn *text, void *ctx, bool *stop, qn_err *err)
{
    char *all = NULL;
    size_t bytes = 0;
    qn_status st = qn_tokenizer_decode(&all, &bytes, g->model.tokenizer, g->ids, g->count, err);
    if (st != QN_OK) return st;
    if (!last) bytes = whole_characters(all, bytes);
    if (bytes > g->shown_bytes) {
        *stop = text(ctx, all + g->shown_bytes, bytes - g->shown_bytes) != 0;
        g->shown_bytes = bytes;
    }
    qn_free(all);
    return QN_OK;
}

static qn_status decode(generation *g, qn_generate_done *done, qn_text_fn *text, void *ctx, qn_err *err)
{
    const qn_generate_options *o = g->opt;
    const qn_model_config *c = qn_model_config_of(g->model.model);
    const qn_sampling how = {.temperature = o->temperature,
                             .top_p = o->top_p,
                             .min_p = o->min_p,
                             .top_k = (int32_t)o->top_k,
                             .seed = (uint64_t)o->seed};
    const int32_t eos = qn_tokenizer_eos(g->model.tokenizer), bos = qn_tokenizer_bos(g->model.tokenizer);
    const float *logits = NULL;
    bool stop = false;
    qn_status st;
    const int64_t began = qn_now_ns();
    QN_TRY(st, qni_window_feed(&g->window, g->ids, g->count, &logits, err), out);
    done->prefill_s = (double)(qn_now_ns() - began) * 1e-9;
    QN_TRY(st, show(g, false, text, ctx, &stop, err), out);
    const int64_t from = qn_now_ns();
    while (!stop && done->tokens < o->max_tokens) {
        memcpy(g->logits, logits, (size_t)c->vocab * sizeof(*g->logits));
        const int32_t next = qn_sample(g->logits, qn_tokenizer_vocab(g->model.tokenizer), &how, g->count, g->order);
        if (next == eos || next == bos) break;
        g->ids[g->count++] = next;
        done->tokens++;
        QN_TRY(st, show(g, false, text, ctx, &stop, err), out);
        if (done->tokens < o->max_tokens) QN_TRY(st, qni_window_feed(&g->window, g->ids, g->count, &logits, err), out);
    }
    QN_TRY(st, show(g, true, text, ctx, &stop, err), out);
    done->decode_s = (double)(qn_now_ns() - from) * 1e-9;
out:
    return st;
}

qn_status qn_generate_text(qn_generate_done *done, const qn_generate_options *opt, qn_text_fn *text, void *ctx, qn_err *err)
{
    generation g = {.opt = opt};
    qn_status st;
    memset(done, 0, sizeof(*done));
    QN_TRY(st, open_generation(&g, err), out);
    done->prompt_tokens = g.count;
    QN_TRY(st, decode(&g, done, text, ctx, err), out);
out:
    qn_runner_close(g.runner);
    qn_free(g.ids);
    qn_free(g.logits);
    qn_free(g.order);
    qni_load_fini(&g.model);
    return st;
}
