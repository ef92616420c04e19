/* Cuts text into pieces by a regular expression (PCRE2, UTF and Unicode properties on) and knows GPT-2's byte alphabet. */
#ifndef QN_DATA_TOKENIZER_SPLITTER_H
#define QN_DATA_TOKENIZER_SPLITTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quern/status.h"

/* The pattern of GPT-2 (Radford et al. 2019), as the ByteLevel pre-tokenizer applies it. */
extern const char qni_gpt2_pattern[];

typedef struct qni_split qni_split; /* immutable; shared between threads */

/* keep_gaps: text between matches becomes pieces of its own, else it is dropped.
 * Errors: QN_EFORMAT (what is wrong with the pattern, where), QN_ENOMEM. */
qn_status qni_split_open(qni_split **out, const char *pattern, size_t bytes, bool keep_gaps, qn_err *err) QN_MUST_USE;
void qni_split_close(qni_split *s);

typedef qn_status qni_piece_fn(void *ctx, const char *piece, size_t bytes, qn_err *err);
/* Calls fn for each non-empty piece in order. text: valid UTF-8. Errors: those of fn; QN_ERANGE (the pattern needs too many steps
 * on this text), QN_ENOMEM. */
qn_status qni_split_run(const qni_split *s, const char *text, size_t bytes, qni_piece_fn *fn, void *ctx, qn_err *err) QN_MUST_USE;

/* GPT-2's byte alphabet: every byte has a printable character. Printable Latin-1 stands for itself, the other bytes in order
 * for U+0100 ... */
uint32_t qni_byte_to_char(uint8_t byte);
int32_t qni_char_to_byte(uint32_t code); /* -1: not of the alphabet */
/* The n-th byte in the order of these characters: '!' .. '~', 0xa1 .. 0xac, 0xae .. 0xff, then the rest. */
uint8_t qni_alphabet_byte(int32_t n);

#endif
