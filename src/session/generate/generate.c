/* qn_generate_text and qn_generate_texts: prompts in, text out, on any number of workers. The decoder does the work; here its
 * sequences are made from prompts and turned back into text. */
#include <inttypes.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/io.h"
#include "decoder.h"
#include "session/device_model.h"
#include "model/cost.h"
#include "quern/session.h"

enum { PREFILL = 128 }; /* prompt tokens of a pass, for each worker */

typedef struct generation {
    const qn_generate_options *opt;
    qni_device_model on;
    qn_runner *runner;
    qni_decoder *decoder;
    char *file; /* the text of the file of prompts, its lines cut at their ends */
    const char **prompt;
    qni_sequence *sequence;
    int64_t count; /* prompts */
} generation;

bool qn_generate_is_single(const qn_generate_options *opt)
{
    return opt->prompt.count <= 1 && opt->prompts == NULL;
}

/* --- prompts */
static int64_t cut_lines(const char **line, char *text)
{
    int64_t n = 0;
    for (char *at = text; at != NULL && *at != '\0'; n++) {
        char *end = strchr(at, '\n');
        if (line != NULL) line[n] = at;
        if (line != NULL && end != NULL) *end = '\0';
        if (line != NULL && end != NULL && end > at && end[-1] == '\r') end[-1] = '\0';
        at = end != NULL ? end + 1 : NULL;
    }
    return n;
}

static qn_status take_prompts(generation *g, qn_err *err)
{
    const qn_generate_options *o = g->opt;
    int64_t lines = 0;
    size_t bytes = 0;
    if (o->prompts != NULL) {
        const qn_status st = qn_file_read(&g->file, &bytes, o->prompts, (size_t)1 << 30, err);
        if (st != QN_OK) return st;
        if (memchr(g->file, '\0', bytes) != NULL)
            return QN_FAIL(err, QN_EFORMAT, "%s holds a byte 0; one prompt a line was wanted", o->prompts);
        lines = cut_lines(NULL, g->file);
        if (lines == 0) return QN_FAIL(err, QN_EFORMAT, "%s is empty; one prompt a line was wanted", o->prompts);
    }
    g->count = qn_max64(1, o->prompt.count + lines);
    g->prompt = qn_calloc((size_t)g->count, sizeof(*g->prompt));
    g->sequence = qn_calloc((size_t)g->count, sizeof(*g->sequence));
    if (g->prompt == NULL || g->sequence == NULL) return QN_FAIL(err, QN_ENOMEM, "%" PRId64 " prompts", g->count);
    g->prompt[0] = "";
    for (int32_t i = 0; i < o->prompt.count; i++) g->prompt[i] = o->prompt.item[i];
    if (lines > 0) cut_lines(g->prompt + o->prompt.count, g->file);
    return QN_OK;
}

/* The first ids: BOS where the tokenizer has one, then the prompt. A model without BOS starts from a line break. */
static qn_status begin_ids(qni_sequence *s, const generation *g, const char *prompt, qn_err *err)
{
    const qn_tokenizer *t = g->on.model.tokenizer;
    int32_t *ids = NULL;
    int64_t count = 0;
    const int32_t context = qn_model_config_of(g->on.model.model)->context;
    const int32_t start = qn_tokenizer_bos(t) >= 0 ? qn_tokenizer_bos(t) : qn_tokenizer_eos(t);
    if (start < 0 && prompt[0] == '\0') prompt = "\n";
    qn_status st = qn_tokenizer_encode(&ids, &count, t, prompt, strlen(prompt), err);
    if (st != QN_OK) return st;
    s->given = s->count = count + (start >= 0);
    s->most = s->given + g->opt->max_tokens;
    if (s->given > context) {
        st = QN_FAIL(err, QN_ERANGE, "the prompt has %" PRId64 " tokens; the model's context is %d", s->given, context);
        goto out;
    }
    s->ids = qn_malloc((size_t)s->most, sizeof(*s->ids));
    if (s->ids == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "%" PRId64 " tokens", s->most);
        goto out;
    }
    if (start >= 0) s->ids[0] = start;
    if (count > 0) memcpy(s->ids + (start >= 0), ids, (size_t)count * sizeof(*ids));
out:
    qn_free(ids);
    return st;
}

/* --- open and close */
static qn_status open_runner(generation *g, int32_t slots, int64_t T, int64_t cache, qn_err *err)
{
    const qn_generate_options *o = g->opt;
    int32_t *cuts = qn_calloc((size_t)o->workers + 1, sizeof(*cuts));
    if (cuts == NULL) return QN_FAIL(err, QN_ENOMEM, "cuts of %" PRId64 " workers", o->workers);
    qn_status st = qn_model_default_cuts(g->on.model.model, 1, 1, (int32_t)o->workers, cuts, err);
    const qn_runner_desc desc = {.model = g->on.model.model,
                                 .value = (void *const *)g->on.model.value,
                                 .first_layer = cuts,
                                 .workers = (int32_t)o->workers,
                                 .threads = (int32_t)o->threads,
                                 .mode = o->dtype == 0 ? QN_MODE_F32 : QN_MODE_BF16,
                                 .weights = (qn_weights)(QN_WEIGHTS_F32 + o->weights),
                                 .B = 1,
                                 .T = T,
                                 .cache_len = cache,
                                 .kv = o->kv == 2 || (o->kv == 0 && o->dtype != 0) ? QN_BF16 : QN_F32,
                                 .slots = slots,
                                 .logits = slots * (1 + o->speculate),
                                 .tiers = g->on.devices ? &g->on.tiers : NULL,
                                 .pin = qni_pin(true, o->workers, o->threads)};
    if (st == QN_OK) st = qn_runner_open(&g->runner, &desc, err);
    qn_free(cuts);
    return st;
}

static qn_status open_decoder(generation *g, qn_err *err)
{
    const qn_generate_options *o = g->opt;
    const qn_tokenizer *t = g->on.model.tokenizer;
    const int32_t slots = (int32_t)qn_min64(o->batch, g->count);
    int64_t cache = 1;
    for (int64_t i = 0; i < g->count; i++) cache = qn_max64(cache, g->sequence[i].most);
    cache = qn_min64(cache, qn_model_config_of(g->on.model.model)->context);
    const int64_t least = slots * (1 + o->speculate);
    int64_t T = qn_max64(qn_min64(PREFILL, cache), least);
    qn_status st = open_runner(g, slots, T, cache, err);
    while (st == QN_EINVAL && g->on.tiers.memory > 0 && T > least) { /* activations of fewer rows may fit */
        T = qn_max64(T / 2, least);
        st = open_runner(g, slots, T, cache, err);
    }
    if (st != QN_OK) return st;
    const qni_decoder_desc desc = {.runner = g->runner,
                                   .slots = slots,
                                   .T = T,
                                   .cache_len = cache,
                                   .vocab = qn_tokenizer_vocab(t),
                                   .stop = {qn_tokenizer_eos(t), qn_tokenizer_bos(t)},
                                   .speculate = (int32_t)o->speculate,
                                   .how = {.temperature = o->temperature,
                                           .top_p = o->top_p,
                                           .min_p = o->min_p,
                                           .top_k = (int32_t)o->top_k,
                                           .seed = (uint64_t)o->seed},
                                   .sequence = g->sequence,
                                   .sequences = g->count};
    return qni_decoder_open(&g->decoder, &desc, err);
}

static qn_status open_generation(generation *g, qn_err *err)
{
    const qn_generate_options *o = g->opt;
    qn_status st;
    if (o->model == NULL && o->lora == NULL)
        return QN_FAIL(err, QN_EINVAL, "--model is missing: name a model directory or a run");
    QN_TRY(st, take_prompts(g, err), out);
    const qni_device_wish wish = {
        .memory = o->device_memory, .link = o->link, .window = o->window, .from_file = o->from_file != 0};
    QN_TRY(st, qni_device_model_open(&g->on, o->model, o->lora, &wish, err), out);
    if (g->on.model.tokenizer == NULL) {
        st = QN_FAIL(err, QN_ENOENT, "%s has no tokenizer.json", g->on.model.dir);
        goto out;
    }
    for (int64_t i = 0; i < g->count; i++) QN_TRY(st, begin_ids(&g->sequence[i], g, g->prompt[i], err), out);
    st = open_decoder(g, err);
out:
    return st;
}

static void close_generation(generation *g)
{
    qni_decoder_close(g->decoder);
    qn_runner_close(g->runner);
    for (int64_t i = 0; g->sequence != NULL && i < g->count; i++) qn_free(g->sequence[i].ids);
    qn_free(g->sequence);
    qn_free(g->prompt);
    qn_free(g->file);
    qni_device_model_fini(&g->on);
}

static void sum_up(qn_generate_done *done, const generation *g)
{
    for (int64_t i = 0; g->sequence != NULL && i < g->count; i++) {
        done->prompt_tokens += g->sequence[i].given;
        done->tokens += g->sequence[i].count - g->sequence[i].given;
        done->texts += g->sequence[i].done;
    }
    if (g->decoder == NULL) return;
    const qni_decoder_stats *s = qni_decoder_stats_of(g->decoder);
    done->passes = s->steps;
    done->prefill_s = (double)s->prefill_ns * 1e-9;
    done->decode_s = (double)s->decode_ns * 1e-9;
    done->drafted = s->drafted;
    done->accepted = s->accepted;
    const qn_runner_devices d = qn_runner_devices_of(g->runner);
    done->device_bytes = d.arenas;
    done->high_water = d.high_water;
    done->weight_bytes = d.weights;
    done->pass_bytes = d.pass;
    done->loaded = d.loaded;
}

/* --- one text, as it grows */
typedef struct shower {
    const qn_tokenizer *tokenizer;
    qn_text_fn *text;
    void *ctx;
    char *buffer; /* a character that is not whole yet, and the next token */
    size_t held;
    int64_t shown; /* ids */
    int state;
} shower;

/* The whole pieces of characters at the beginning of text: bytes up to an unfinished UTF-8 sequence at its end. */
static size_t whole_characters(const char *text, size_t bytes)
{
    size_t back = 0;
    while (back < 3 && back < bytes && ((unsigned char)text[bytes - 1 - back] & 0xC0) == 0x80) back++;
    if (back == bytes) return bytes;
    const unsigned char lead = (unsigned char)text[bytes - 1 - back];
    const size_t need = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    return need > back + 1 ? bytes - 1 - back : bytes;
}

/* Gives out what the ids say beyond what was shown; last: with what is left of a character. */
static qn_status show(shower *w, const qni_sequence *s, bool last, bool *stop, qn_err *err)
{
    for (; w->shown < s->count && !*stop; w->shown++) {
        const int64_t n = qn_tokenizer_next(w->buffer + w->held, w->tokenizer, s->ids[w->shown], &w->state);
        if (n < 0) return QN_FAIL(err, QN_ERANGE, "token %d is not in the tokenizer's vocabulary", s->ids[w->shown]);
        w->held += (size_t)n;
        const size_t whole = whole_characters(w->buffer, w->held);
        if (whole == 0) continue;
        *stop = w->text(w->ctx, w->buffer, whole) != 0;
        w->held -= whole;
        memmove(w->buffer, w->buffer + whole, w->held);
    }
    if (last && !*stop && w->held > 0) *stop = w->text(w->ctx, w->buffer, w->held) != 0;
    return QN_OK;
}

qn_status qn_generate_text(qn_generate_done *done, const qn_generate_options *opt, qn_text_fn *text, void *ctx, qn_err *err)
{
    generation g = {.opt = opt};
    shower w = {.text = text, .ctx = ctx};
    int64_t left = 1;
    bool stop = false;
    qn_status st;
    memset(done, 0, sizeof(*done));
    if (!qn_generate_is_single(opt))
        return QN_FAIL(err, QN_EINVAL, "%d prompts and %s file of them; one text is shown as it grows", opt->prompt.count,
                       opt->prompts != NULL ? "a" : "no");
    QN_TRY(st, open_generation(&g, err), out);
    w.tokenizer = g.on.model.tokenizer;
    w.buffer = qn_malloc(qn_tokenizer_longest(w.tokenizer) + 4, 1);
    if (w.buffer == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "no memory for a token's text");
        goto out;
    }
    QN_TRY(st, show(&w, &g.sequence[0], false, &stop, err), out);
    while (left > 0 && !stop && opt->max_tokens > 0) {
        QN_TRY(st, qni_decoder_step(g.decoder, &left, err), out);
        QN_TRY(st, show(&w, &g.sequence[0], false, &stop, err), out);
    }
    QN_TRY(st, show(&w, &g.sequence[0], true, &stop, err), out);
out:
    sum_up(done, &g);
    qn_free(w.buffer);
    close_generation(&g);
    return st;
}

/* --- many texts */
static qn_status give_out(generation *g, int64_t i, qn_generated_fn *text, void *ctx, bool *stop, qn_err *err)
{
    const qni_sequence *s = &g->sequence[i];
    qn_generated out = {
        .index = i, .prompt = g->prompt[i], .prompt_tokens = s->given, .tokens = s->count - s->given, .ended = s->ended};
    char *all = NULL;
    const qn_status st = qn_tokenizer_decode(&all, &out.bytes, g->on.model.tokenizer, s->ids, s->count, err);
    if (st != QN_OK) return st;
    out.text = all;
    *stop = text(ctx, &out) != 0;
    qn_free(all);
    return QN_OK;
}

qn_status qn_generate_texts(qn_generate_done *done, const qn_generate_options *opt, qn_generated_fn *text, void *ctx, qn_err *err)
{
    generation g = {.opt = opt};
    int64_t left = 0, given = 0;
    bool stop = false;
    qn_status st;
    memset(done, 0, sizeof(*done));
    QN_TRY(st, open_generation(&g, err), out);
    left = opt->max_tokens > 0 ? g.count : 0;
    for (int64_t i = 0; left == 0 && i < g.count; i++) g.sequence[i].done = true;
    while (!stop && given < g.count) {
        if (left > 0) QN_TRY(st, qni_decoder_step(g.decoder, &left, err), out);
        for (; !stop && given < g.count && g.sequence[given].done; given++)
            QN_TRY(st, give_out(&g, given, text, ctx, &stop, err), out);
    }
out:
    sum_up(done, &g);
    close_generation(&g);
    return st;
}
