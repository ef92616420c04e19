/* Tokenizers: text to token ids and back. Kinds: characters, bytes, byte-level BPE (GPT-2, Llama 3, Qwen), BPE with byte fallback
 * (Llama 2), llama2.c's file. All are read from and written to Hugging Face's tokenizer.json. */
#ifndef QN_DATA_TOKENIZER_H
#define QN_DATA_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quern/status.h"

typedef struct qn_tokenizer qn_tokenizer; /* immutable after open; may be shared between threads */

/* path: a tokenizer.json, a directory holding one, a directory holding encoder.json + vocab.bpe, or a llama2.c tokenizer file
 * (recognised by content). Errors: QN_ENOENT, QN_EFORMAT (where, what was found and wanted), QN_ERANGE, QN_ENOMEM. */
qn_status qn_tokenizer_open(qn_tokenizer **out, const char *path, qn_err *err) QN_MUST_USE;
/* From memory: the text of a tokenizer.json. Errors: QN_EFORMAT, QN_EUNSUPPORTED (a component that is not understood, by name),
 * QN_ENOMEM. */
qn_status qn_tokenizer_open_json(qn_tokenizer **out, const char *text, size_t bytes, qn_err *err) QN_MUST_USE;
/* llama2.c's file needs the vocabulary size of its model. Errors: QN_EFORMAT, QN_ENOMEM. */
qn_status qn_tokenizer_open_llama2c(qn_tokenizer **out, const void *data, size_t bytes, int32_t vocab, qn_err *err) QN_MUST_USE;
/* One token per byte (256) and one per distinct code point of a valid UTF-8 text, in code point order. Errors: QN_EFORMAT with
 * the offset of the first byte that is not UTF-8. */
qn_status qn_tokenizer_open_bytes(qn_tokenizer **out, qn_err *err) QN_MUST_USE;
qn_status qn_tokenizer_open_chars(qn_tokenizer **out, const char *text, size_t bytes, qn_err *err) QN_MUST_USE;
/* Learns a byte-level BPE of vocab entries (>= 256 + specials) from text: GPT-2's splitting pattern, most frequent pair first,
 * ties to the smaller (left, right) ids. progress may be NULL. Errors: QN_ERANGE (vocabulary too small, or more than the text can
 * fill), QN_ENOMEM. */
typedef void qn_progress_fn(void *ctx, int64_t done, int64_t total);
qn_status qn_tokenizer_train(qn_tokenizer **out, const char *const *text, const size_t *bytes, int32_t texts, int32_t vocab,
                             qn_progress_fn *progress, void *ctx, qn_err *err) QN_MUST_USE;
void qn_tokenizer_close(qn_tokenizer *t);

/* The tokenizer.json that gives the same tokenizer back (the text itself when it was read from one); *out freed with qn_free.
 * Errors: QN_EFORMAT (a token of a llama2.c file that JSON cannot hold), QN_ENOMEM. */
qn_status qn_tokenizer_json(char **out, size_t *bytes, const qn_tokenizer *t, qn_err *err) QN_MUST_USE;

int32_t qn_tokenizer_vocab(const qn_tokenizer *t);
int32_t qn_tokenizer_bos(const qn_tokenizer *t); /* -1: none */
int32_t qn_tokenizer_eos(const qn_tokenizer *t);
const char *qn_tokenizer_kind(const qn_tokenizer *t); /* "byte-level BPE" */

/* Ids of text, *out freed with qn_free. No BOS is added.
 * Errors: QN_EFORMAT (not UTF-8, with the offset; bytes take any; or a character that the tokenizer cannot express, by name),
 * QN_ERANGE (a splitting pattern that needs too many steps on this text), QN_ENOMEM. */
qn_status qn_tokenizer_encode(int32_t **out, int64_t *count, const qn_tokenizer *t, const char *text, size_t bytes,
                              qn_err *err) QN_MUST_USE;
/* Bytes of ids, NUL-terminated; *out freed with qn_free. Skips BOS and EOS; llama2.c and Llama 2 drop the one leading blank right
 * after BOS, and only there: so tokens can be decoded one at a time, and a whole text is given with its BOS in front. Errors:
 * QN_ERANGE (an id outside the vocabulary), QN_ENOMEM. */
qn_status qn_tokenizer_decode(char **out, size_t *bytes, const qn_tokenizer *t, const int32_t *ids, int64_t count,
                              qn_err *err) QN_MUST_USE;

/* The same one id at a time, for a text that is shown as it grows, without allocating: the bytes of id, which follows the ids
 * that were given with the same *state (0 at the beginning), into out (room for qn_tokenizer_longest; no NUL). -1: an id outside
 * the vocabulary. */
int64_t qn_tokenizer_next(char *out, const qn_tokenizer *t, int32_t id, int *state);
size_t qn_tokenizer_longest(const qn_tokenizer *t); /* bytes of the longest token */

#endif
