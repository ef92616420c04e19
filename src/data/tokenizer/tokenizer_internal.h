/* The one tokenizer behind all kinds, as the readers fill it and encode and decode use it.
 *
 *   text -> added tokens cut out -> NFC -> blanks marked -> splitters, one after the other -> symbols -> merges -> ids
 *
 * Bytes of tokens: byte-level kinds hold raw bytes, the others UTF-8 with the blank as the kind's mark ("▁", llama2.c: " "). */
#ifndef QN_DATA_TOKENIZER_TOKENIZER_INTERNAL_H
#define QN_DATA_TOKENIZER_TOKENIZER_INTERNAL_H

#include "data/tokenizer/tokenizer.h"
#include "splitter.h"
#include "token_table.h"

typedef enum qni_tok_kind {
    QNI_TOK_CHARS,
    QNI_TOK_BYTES,
    QNI_TOK_BYTE_LEVEL,
    QNI_TOK_BYTE_FALLBACK,
    QNI_TOK_BPE,
    QNI_TOK_LLAMA2C,
    QNI_TOK_KINDS
} qni_tok_kind;

typedef enum qni_prefix { QNI_PREFIX_NEVER, QNI_PREFIX_FIRST, QNI_PREFIX_ALWAYS } qni_prefix;

enum { QNI_MAX_SPLITS = 8 };

struct qn_tokenizer {
    qni_tok_kind kind;
    qni_table table;
    qni_merges merges;
    int32_t bos, eos, unk; /* -1: none */
    int32_t byte_id[256];  /* byte-level: of each byte; byte fallback: of <0xNN>; -1: none */
    bool byte_level;
    bool prefix_space; /* byte-level: a blank goes before a text that has none */
    bool byte_fallback, fuse_unk, ignore_merges, nfc;
    const char *mark;   /* what stands for a blank, or NULL: blanks are left alone */
    qni_prefix prefix;  /* where a mark is put before the text */
    bool prefix_once;   /* not before a text that starts with one */
    bool cut_each_mark; /* asked for: every mark starts a word */
    bool cut_at_mark;   /* words end before a mark that follows something else: no merge crosses such a place */
    bool strip;         /* decoding drops one blank after BOS */
    qni_split *split[QNI_MAX_SPLITS];
    int32_t splits;
    int32_t *added; /* ids of added tokens by first byte, then longest first */
    int32_t added_from[257];
    char *json; /* the text it was read from, or NULL */
    size_t json_bytes;
};

/* An empty tokenizer (all ids -1). NULL: no memory. */
qn_tokenizer *qni_tokenizer_new(qni_tok_kind kind);
/* What follows from the tables: byte ids, added tokens, BOS and EOS by name where they are not set, cut_at_mark. Errors:
 * QN_ENOMEM, QN_EFORMAT. */
qn_status qni_tokenizer_seal(qn_tokenizer *t, qn_err *err) QN_MUST_USE;
/* Sets a token and makes it findable. Errors: as qni_table_set; QN_EFORMAT when another id has these bytes. */
qn_status qni_tokenizer_add(qn_tokenizer *t, int64_t id, const char *bytes, size_t n, uint32_t flags, qn_err *err) QN_MUST_USE;
/* Adds the merge of two tokens given by id, rank counted up. Errors: QN_EFORMAT (duplicate, result not in the vocabulary),
 * QN_ENOMEM. */
qn_status qni_tokenizer_merge(qn_tokenizer *t, int32_t left, int32_t right, int32_t rank, qn_err *err) QN_MUST_USE;
/* Raw bytes of a byte-level token written in the byte alphabet, into out (room for n); -1 when a character is not of it. */
int64_t qni_from_alphabet(char *out, const char *text, size_t n);
/* GPT-2's two files; vocabulary as JSON. */
qn_status qni_tokenizer_open_gpt2(qn_tokenizer **out, const char *vocab, size_t vocab_bytes, const char *merges,
                                  size_t merges_bytes, qn_err *err) QN_MUST_USE;
/* The entries of a llama2.c tokenizer file that holds nothing else; -1 when it is no such file. */
int32_t qni_llama2c_entries(const void *data, size_t bytes);

#endif
