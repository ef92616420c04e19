/* A token shard. Its checksum is put right first, so that what lies behind it is reached. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "data/dataset/shards_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HEADER = 32, CRC_AT = 28 };

static void mend(uint8_t *file, size_t size)
{
    uint32_t crc = 0xffffffffu;
    for (size_t i = HEADER; i < size; i++) {
        crc ^= file[i];
        for (int k = 0; k < 8; k++) crc = crc & 1 ? 0xedb88320u ^ crc >> 1 : crc >> 1;
    }
    crc ^= 0xffffffffu;
    for (int i = 0; i < 4; i++) file[CRC_AT + i] = (uint8_t)(crc >> 8 * i);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *file = malloc(size + 1);
    qn_tokens *t;
    qn_source *s;
    int32_t in[8], to[8];
    if (file == NULL) return 0;
    memcpy(file, data, size);
    if (size >= HEADER) mend(file, size);
    if (qni_tokens_open_memory(&t, file, size, "fuzz", NULL) == QN_OK) {
        for (int64_t T = 1; T <= 8; T++) {
            const qn_split_range part = qn_tokens_train_part(t), rest = qn_tokens_valid_part(t);
            if (qn_source_windows(&s, t, part, T, 3, size, NULL) == QN_OK) {
                for (int64_t step = 0; step < 20; step++) s->ops->read(s, step * step, step % 3, in, to);
                s->ops->close(s);
            }
            for (int64_t w = 0; w < qn_eval_windows(rest, T); w++)
                if (qn_eval_read(t, rest, T, w, in, to) < 1) abort();
        }
        qn_tokens_close(t);
    }
    free(file);
    return 0;
}
