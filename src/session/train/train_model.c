/* The model of a run: its sizes, what of it is trained (all, all but --freeze, or adapters on a base), and where its values come
 * from. A run with adapters keeps the path of its base in adapter_config.json and reads it again when it is resumed. */
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "core/compiler.h"
#include "runtime/checkpoint/peft.h"
#include "train_run.h"

/* The model's sizes: from the flags, or from --init. */
static qn_status choose_config(qni_train_run *r, const char *init_dir, qn_err *err)
{
    const qn_train_options *o = r->opt;
    qn_model_config *c = &r->config;
    const int32_t vocab = qn_tokenizer_vocab(r->tokenizer);
    if (init_dir != NULL) {
        qn_status st = qn_checkpoint_read_config(c, init_dir, err);
        if (st != QN_OK) return st;
        if (vocab > c->vocab)
            return QN_FAIL(err, QN_EINVAL, "the tokenizer has %d tokens, but the model of --init only %d", vocab, c->vocab);
        if (o->context > c->context)
            return QN_FAIL(err, QN_EINVAL, "--context %" PRId64 " is longer than the %d positions of the model of --init",
                           o->context, c->context);
    } else {
        *c = (qn_model_config){.arch = (qn_arch)o->arch,
                               .layers = (int32_t)o->layers,
                               .heads = (int32_t)o->heads,
                               .kv_heads = (int32_t)(o->kv_heads ? o->kv_heads : o->heads),
                               .width = (int32_t)o->width,
                               .hidden = (int32_t)o->hidden,
                               .context = (int32_t)o->context,
                               .vocab = vocab,
                               .tied = o->tied || (!o->untied && o->arch == QN_ARCH_GPT2)};
    }
    return QN_OK;
}

/* What the options say besides the base: dropout, adapters, frozen parameters. */
static qn_status open_model(qni_train_run *r, qn_err *err)
{
    const qn_train_options *o = r->opt;
    qn_status st;
    r->config.dropout = o->dropout;
    if (o->lora_rank > 0) {
        qn_lora *l = &r->config.lora;
        *l = (qn_lora){.rank = (int32_t)o->lora_rank, .alpha = o->lora_alpha > 0 ? o->lora_alpha : (double)o->lora_rank};
        QN_TRY(st, qn_lora_targets(&l->targets, r->config.arch, o->lora_targets.item, o->lora_targets.count, err), out);
    }
    QN_TRY(st, qn_model_open(&r->model, &r->config, err), out);
    if (o->freeze.count > 0) st = qn_model_freeze(r->model, o->freeze.item, o->freeze.count, err);
out:
    return st;
}

static qn_status keep_base(qni_train_run *r, const char *dir, qn_err *err)
{
    char path[PATH_MAX];
    if (realpath(dir, path) == NULL || strlen(path) >= sizeof(r->base))
        return QN_FAIL(err, QN_ENOENT, "the base model's directory %s is gone, or its path is too long", dir);
    memcpy(r->base, path, strlen(path) + 1);
    return QN_OK;
}

qn_status qni_train_model(qni_train_run *r, const char *init_dir, qn_err *err)
{
    qn_status st;
    if (r->opt->lora_rank > 0 && init_dir == NULL)
        return QN_FAIL(err, QN_EINVAL, "--lora-rank trains adapters on a model that is there: name it with --init");
    QN_TRY(st, choose_config(r, init_dir, err), out);
    if (r->opt->lora_rank > 0) QN_TRY(st, keep_base(r, init_dir, err), out);
    st = open_model(r, err);
out:
    return st;
}

qn_status qni_train_model_resumed(qni_train_run *r, const char *checkpoint, qn_err *err)
{
    qn_status st;
    if (r->opt->lora_rank > 0) {
        QN_TRY(st, qn_adapter_base(r->base, sizeof(r->base), checkpoint, err), out);
        if (!qn_checkpoint_is(r->base)) {
            st = QN_FAIL(err, QN_ENOENT, "the base model of this run was in %s, which is gone; put it back there",
                         r->base[0] != '\0' ? r->base : "an unnamed place");
            goto out;
        }
    }
    QN_TRY(st, qn_checkpoint_read_config(&r->config, r->opt->lora_rank > 0 ? r->base : checkpoint, err), out);
    st = open_model(r, err);
out:
    return st;
}

qn_status qni_train_load(qni_train_run *r, const char *start, qn_err *err)
{
    const bool resumed = r->opt->resume != 0, adapters = r->opt->lora_rank > 0;
    const qn_state_view values = {.model = r->model, .value = r->value};
    const qn_state_view all = {.model = r->model, .value = r->value, .m = r->m, .v = r->v};
    qni_train_views_take(r); /* what a file may leave as it is */
    qn_status st = qn_checkpoint_read(adapters ? r->base : start, resumed && !adapters ? &all : &values, err);
    if (st == QN_OK && resumed && adapters) st = qn_adapter_read(start, &all, err);
    if (st == QN_OK) qni_train_views_give(r);
    return st;
}
