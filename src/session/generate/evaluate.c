/* qn_eval_text: the loss of a model on a text, in windows that do not overlap. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/io.h"
#include "data/text/text.h"
#include "session/device_model.h"
#include "model/cost.h"
#include "quern/session.h"
#include "runtime/forward/runner.h"

/* The text as a token shard in a file of its own, removed once it is mapped. BOS first where the tokenizer has one. */
static qn_status shard_of(qn_tokens **out, const qn_tokenizer *t, const char *text, size_t bytes, qn_err *err)
{
    const char *folder = getenv("TMPDIR");
    char path[QNI_PATH];
    int32_t *ids = NULL, *all = NULL;
    int64_t count = 0;
    qn_status st;
    const int32_t bos = qn_tokenizer_bos(t);
    snprintf(path, sizeof(path), "%s/quern-eval-%ld.bin", folder != NULL ? folder : "/tmp", (long)getpid());
    QN_TRY(st, qn_tokenizer_encode(&ids, &count, t, text, bytes, err), out);
    all = qn_malloc((size_t)count + 1, sizeof(*all));
    if (all == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "%" PRId64 " tokens", count);
        goto out;
    }
    const int64_t lead = bos >= 0;
    if (lead) all[0] = bos;
    if (count > 0) memcpy(all + lead, ids, (size_t)count * sizeof(*ids));
    if (count + lead < 2) {
        st = QN_FAIL(err, QN_ERANGE, "the text is too short: %" PRId64 " tokens, at least 2 were wanted", count + lead);
        goto out;
    }
    QN_TRY(st, qn_tokens_write(path, all, count + lead, qn_tokenizer_vocab(t), err), out);
    st = qn_tokens_open(out, path, err);
    unlink(path);
out:
    qn_free(ids);
    qn_free(all);
    return st;
}

static qn_status run(qn_eval_done *done, const qn_eval_options *o, const qni_device_model *on, const qn_tokens *tokens,
                     qn_err *err)
{
    const qni_loaded *m = &on->model;
    const qn_model_config *c = qn_model_config_of(m->model);
    qn_status st;
    qn_runner *runner = NULL;
    const int64_t T = o->context > 0 ? o->context : c->context;
    if (T > c->context)
        return QN_FAIL(err, QN_ERANGE, "--context %" PRId64 " is longer than the model's %d positions", T, c->context);
    int32_t *cuts = qn_calloc((size_t)o->workers + 1, sizeof(*cuts));
    if (cuts == NULL) return QN_FAIL(err, QN_ENOMEM, "cuts");
    QN_TRY(st, qn_model_default_cuts(m->model, o->batch, T, (int32_t)o->workers, cuts, err), out);
    const qn_runner_desc desc = {.model = m->model,
                                 .value = (void *const *)m->value,
                                 .first_layer = cuts,
                                 .workers = (int32_t)o->workers,
                                 .threads = (int32_t)o->threads,
                                 .mode = o->dtype == 0 ? QN_MODE_F32 : QN_MODE_BF16,
                                 .B = o->batch,
                                 .T = T,
                                 .tiers = on->devices ? &on->tiers : NULL,
                                 .pin = qni_pin(true, o->workers, o->threads)};
    QN_TRY(st, qn_runner_open(&runner, &desc, err), out);
    const qn_split_range whole = {.first = 0, .count = qn_tokens_count(tokens)};
    QN_TRY(st, qn_runner_evaluate(runner, tokens, whole, 0, &done->loss, &done->tokens, err), out);
out:
    qn_runner_close(runner);
    qn_free(cuts);
    return st;
}

qn_status qn_eval_text(qn_eval_done *done, const qn_eval_options *opt, qn_err *err)
{
    qni_device_model on = {.devices = false};
    qn_tokens *tokens = NULL;
    char *text = NULL;
    size_t bytes = 0;
    qn_status st;
    memset(done, 0, sizeof(*done));
    const bool model_named = opt->model != NULL || opt->lora != NULL;
    if (!model_named || opt->data == NULL)
        return QN_FAIL(err, QN_EINVAL, "%s is missing",
                       !model_named ? "--model (a model directory or a run)" : "--data (a text file)");
    QN_TRY(st, qn_text_read(&text, &bytes, &opt->data, 1, err), out);
    const qni_device_wish wish = {
        .memory = opt->device_memory, .link = opt->link, .window = opt->window, .from_file = opt->from_file != 0};
    QN_TRY(st, qni_device_model_open(&on, opt->model, opt->lora, &wish, err), out);
    if (on.model.tokenizer == NULL) {
        st = QN_FAIL(err, QN_ENOENT, "%s has no tokenizer.json", on.model.dir);
        goto out;
    }
    QN_TRY(st, shard_of(&tokens, on.model.tokenizer, text, bytes, err), out);
    QN_TRY(st, run(done, opt, &on, tokens, err), out);
    done->bytes = (int64_t)bytes;
    done->perplexity = exp(done->loss);
    done->bits_per_byte = done->loss * (double)done->tokens / log(2) / (double)bytes;
out:
    qn_tokens_close(tokens);
    qn_free(text);
    qni_device_model_fini(&on);
    return st;
}
