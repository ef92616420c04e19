/* Token shards: a text turned into token ids once, kept in a file that is mapped into memory; and the source that cuts samples
 * from it.
 *
 * Shard file: "QNTOKENS", u32 version 1, u32 bytes per token (2 or 4), u64 count, u32 vocabulary, u32 CRC of the tokens, then the
 * tokens, little endian. The last tenth of the tokens is held out for validation. */
#ifndef QN_DATA_SHARDS_H
#define QN_DATA_SHARDS_H

#include <stdint.h>

#include "data/source.h"
#include "quern/status.h"

typedef struct qn_tokens qn_tokens; /* a mapped shard; immutable */

/* Errors: QN_ERANGE (a token outside the vocabulary), QN_EIO, QN_ENOMEM. */
qn_status qn_tokens_write(const char *path, const int32_t *ids, int64_t count, int32_t vocab, qn_err *err) QN_MUST_USE;
/* Checks header, size and that every token is below the vocabulary. Errors: QN_ENOENT, QN_EFORMAT, QN_EIO. */
qn_status qn_tokens_open(qn_tokens **out, const char *path, qn_err *err) QN_MUST_USE;
void qn_tokens_close(qn_tokens *t);
int64_t qn_tokens_count(const qn_tokens *t);
int32_t qn_tokens_vocab(const qn_tokens *t);
/* Token i; bounds asserted. */
int32_t qn_tokens_at(const qn_tokens *t, int64_t i);

typedef struct qn_split_range {
    int64_t first, count; /* tokens */
} qn_split_range;
/* whole: training gets the first nine tenths, validation the rest. */
qn_split_range qn_tokens_train_part(const qn_tokens *t);
qn_split_range qn_tokens_valid_part(const qn_tokens *t);

/* Training source: sample (step, i) is the window at number step * batch + i of a seeded sequence: each epoch visits every window
 * start of the part on a grid with a random phase, in a seeded permutation computed on the fly (no table). Errors: QN_ERANGE when
 * the part has fewer than T + 1 tokens. */
qn_status qn_source_windows(qn_source **out, const qn_tokens *t, qn_split_range part, int64_t T, int64_t batch, uint64_t seed,
                            qn_err *err) QN_MUST_USE;

/* Validation: windows that do not overlap cover the whole part: window w predicts tokens first + 1 + w T ..; the last one is
 * shorter. */
int64_t qn_eval_windows(qn_split_range part, int64_t T);
/* Inputs and targets of window w, both [T]; positions past the end get target -1 and input 0. Returns the number of targets. */
int64_t qn_eval_read(const qn_tokens *t, qn_split_range part, int64_t T, int64_t w, int32_t *inputs, int32_t *targets);

#endif
