#include "device_model.h"

#include <string.h>

static qn_status load(qni_device_model *out, const char *path, const char *lora, bool from_file, qn_err *err)
{
    if (!from_file) return qni_load(&out->model, path, lora, err);
    if (lora != NULL)
        return QN_FAIL(err, QN_EINVAL,
                       "--from-file with --lora: an adapter is merged in memory; leave --from-file out, or merge it into a model "
                       "first (quern convert --lora)");
    const qn_status st = qni_load_bare(&out->model, path, err);
    return st != QN_OK ? st : qn_checkpoint_source_open(&out->source, out->model.dir, out->model.model, err);
}

qn_status qni_device_model_open(qni_device_model *out, const char *path, const char *lora, const qni_device_wish *wish,
                                qn_err *err)
{
    qni_device device;
    memset(out, 0, sizeof(*out));
    qn_status st = qni_device_read(&device, wish->memory, wish->link, wish->window, err);
    if (st == QN_OK) st = load(out, path, lora, wish->from_file, err);
    if (st != QN_OK) {
        qni_device_model_fini(out);
        return st;
    }
    out->devices = device.any || wish->from_file;
    out->tiers = (qn_runner_tiers){
        .memory = device.memory, .window = device.window, .replace = device.replace, .link_bytes_per_s = device.link_bytes_per_s};
    if (out->source == NULL) return QN_OK;
    out->tiers.read = qn_checkpoint_source_read;
    out->tiers.read_ctx = out->source;
    return QN_OK;
}

void qni_device_model_fini(qni_device_model *m)
{
    qn_checkpoint_source_close(m->source);
    qni_load_fini(&m->model);
    memset(m, 0, sizeof(*m));
}
