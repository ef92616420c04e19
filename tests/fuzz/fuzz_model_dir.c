/* A model directory: config.json, NUL, tokenizer.json, NUL, model.safetensors. It opens whole, or is refused. */
#include <stdint.h>

#include "session/load.h"
#include "support/fuzz_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    qn_err err = {.code = QN_OK};
    qni_loaded l;
    size_t bytes;
    fuzz_dir_make();
    const uint8_t *part = fuzz_part(&data, &size, &bytes);
    fuzz_file("config.json", part, bytes);
    part = fuzz_part(&data, &size, &bytes);
    fuzz_file("tokenizer.json", part, bytes);
    fuzz_file("model.safetensors", data, size);
    if (qni_load(&l, fuzz_dir, NULL, &err) != QN_OK) {
        QN_ASSERT(err.text[0] != '\0');
        return 0;
    }
    QN_ASSERT(l.tokenizer != NULL && qn_model_params(l.model) > 0);
    qni_load_fini(&l);
    return 0;
}
