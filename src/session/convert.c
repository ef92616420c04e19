/* qn_convert, qn_tokenize_train, and the small things every embedder needs. */
#include <string.h>

#include "core/alloc.h"
#include "core/io.h"
#include "data/llama2c.h"
#include "data/text/text.h"
#include "load.h"
#include "quern/session.h"
#include "runtime/checkpoint/checkpoint.h"

const char *qn_version(void)
{
    return QN_VERSION;
}

void qn_text_free(char *text)
{
    qn_free(text);
}

static qn_status check_out(const char *out, int force, qn_err *err)
{
    if (out == NULL) return QN_FAIL(err, QN_EINVAL, "--out is missing");
    if (qn_path_exists(out) != 0 && !force) return QN_FAIL(err, QN_EEXIST, "--out %s exists; use --force to replace it", out);
    return QN_OK;
}

static qn_status read_values(qn_model **model, float ***value, void **block, size_t *bytes, const qn_llama2c *file, qn_err *err)
{
    const qn_llama2c_header *h = qn_llama2c_header_of(file);
    const qn_model_config config = {.arch = QN_ARCH_LLAMA,
                                    .layers = h->layers,
                                    .heads = h->heads,
                                    .kv_heads = h->kv_heads,
                                    .width = h->width,
                                    .hidden = h->hidden,
                                    .context = h->context,
                                    .vocab = h->vocab,
                                    .tied = h->tied};
    qn_status st;
    QN_TRY(st, qn_model_open(model, &config, err), out);
    QN_TRY(st, qni_values_open(value, block, bytes, *model, err), out);
    for (int32_t i = 0; i < qn_model_params(*model); i++) {
        const qn_param *p = qn_model_param(*model, i);
        QN_TRY(st, qn_llama2c_read((*value)[i], file, p->name, p->count, err), out);
    }
out:
    return st;
}

static qn_weights store_of(const qn_convert_options *opt)
{
    return (qn_weights)(QN_WEIGHTS_F32 + opt->store);
}

/* A model that is read anyway (a GGUF file, a directory, a run), maybe with an adapter merged into its matrices, as a plain one.
 */
static qn_status convert_model(const qn_convert_options *opt, qn_err *err)
{
    qni_loaded l = {.model = NULL};
    char *json = NULL;
    qn_checkpoint_desc desc = {.bos = -1, .eos = -1, .store = store_of(opt)};
    qn_status st;
    QN_TRY(st, qni_load(&l, opt->model, opt->lora, err), out);
    if (l.tokenizer != NULL) {
        QN_TRY(st, qn_tokenizer_json(&json, &desc.tokenizer_bytes, l.tokenizer, err), out);
        desc.tokenizer_json = json;
        desc.bos = qn_tokenizer_bos(l.tokenizer);
        desc.eos = qn_tokenizer_eos(l.tokenizer);
    }
    const qn_state_view view = {.model = l.model, .value = l.value};
    st = qn_checkpoint_write(opt->out, &view, &desc, err);
out:
    qn_free(json);
    qni_load_fini(&l);
    return st;
}

qn_status qn_convert(const qn_convert_options *opt, qn_err *err)
{
    qn_llama2c *file = NULL;
    qn_tokenizer *tokenizer = NULL;
    qn_model *model = NULL;
    float **value = NULL;
    void *block = NULL;
    char *json = NULL, *raw = NULL;
    size_t block_bytes = 0, json_bytes = 0, raw_bytes = 0;
    qn_status st;
    QN_TRY(st, check_out(opt->out, opt->force, err), out);
    if (opt->lora != NULL || opt->model != NULL) return convert_model(opt, err);
    if (opt->weights == NULL || opt->tokenizer == NULL) {
        st = QN_FAIL(err, QN_EINVAL, "%s is missing", opt->weights == NULL ? "--weights" : "--tokenizer");
        goto out;
    }
    QN_TRY(st, qn_llama2c_open(&file, opt->weights, err), out);
    QN_TRY(st, qn_file_read(&raw, &raw_bytes, opt->tokenizer, (size_t)256 << 20, err), out);
    QN_TRY(st, qn_tokenizer_open_llama2c(&tokenizer, raw, raw_bytes, qn_llama2c_header_of(file)->vocab, err), out);
    QN_TRY(st, qn_tokenizer_json(&json, &json_bytes, tokenizer, err), out);
    QN_TRY(st, read_values(&model, &value, &block, &block_bytes, file, err), out);
    const qn_state_view view = {.model = model, .value = value};
    const qn_checkpoint_desc desc = {.tokenizer_json = json,
                                     .tokenizer_bytes = json_bytes,
                                     .bos = qn_tokenizer_bos(tokenizer),
                                     .eos = qn_tokenizer_eos(tokenizer),
                                     .store = store_of(opt)};
    QN_TRY(st, qn_checkpoint_write(opt->out, &view, &desc, err), out);
out:
    qni_values_close(value, block, block_bytes);
    qn_model_close(model);
    qn_tokenizer_close(tokenizer);
    qn_llama2c_close(file);
    qn_free(json);
    qn_free(raw);
    return st;
}

qn_status qn_tokenize_train(const qn_tokenize_options *opt, void (*progress)(void *ctx, int64_t done, int64_t total), void *ctx,
                            qn_err *err)
{
    qn_tokenizer *t = NULL;
    char *text = NULL, *json = NULL;
    size_t bytes = 0, json_bytes = 0;
    qn_status st;
    if (opt->data.count == 0) return QN_FAIL(err, QN_EINVAL, "--data is missing: name one or more text files");
    QN_TRY(st, check_out(opt->out, opt->force, err), out);
    QN_TRY(st, qn_text_read(&text, &bytes, opt->data.item, opt->data.count, err), out);
    const char *const one = text;
    QN_TRY(st, qn_tokenizer_train(&t, &one, &bytes, 1, (int32_t)opt->vocab, progress, ctx, err), out);
    QN_TRY(st, qn_tokenizer_json(&json, &json_bytes, t, err), out);
    QN_TRY(st, qn_file_write(opt->out, json, json_bytes, err), out);
out:
    qn_tokenizer_close(t);
    qn_free(text);
    qn_free(json);
    return st;
}
