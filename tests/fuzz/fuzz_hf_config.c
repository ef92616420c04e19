/* A model's config.json: what is understood must open as a model or be refused, and come back the same from what is written. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "core/alloc.h"
#include "core/compiler.h"
#include "runtime/checkpoint/hf_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    qn_model_config c, again;
    qn_model *m;
    qn_err err;
    char *text;
    if (qni_hf_config_parse(&c, (const char *)data, size, "fuzz", &err) != QN_OK) {
        QN_ASSERT(err.text[0] != '\0');
        return 0;
    }
    if (c.layers > 1000) return 0; /* a table of parameters that is merely large */
    if (qn_model_open(&m, &c, &err) != QN_OK) return 0;
    QN_ASSERT(qn_model_param_count(m) > 0);
    const qn_model_config *full = qn_model_config_of(m);
    QN_ASSERT(qni_hf_config_text(&text, full, -1, 1, &err) == QN_OK);
    QN_ASSERT(qni_hf_config_parse(&again, text, strlen(text), "written", &err) == QN_OK);
    QN_ASSERT(again.arch == full->arch && again.layers == full->layers && again.heads == full->heads);
    QN_ASSERT(again.kv_heads == full->kv_heads && again.width == full->width && again.context == full->context);
    QN_ASSERT(again.vocab == full->vocab && again.tied == full->tied && again.norm_eps == full->norm_eps);
    QN_ASSERT(again.hidden == full->hidden || again.hidden == 0);
    qn_free(text);
    qn_model_close(m);
    return 0;
}
