/* The decoder: sequences of unlike lengths generated together, the next one taking the place of one that ends.
 *
 *   waiting -> in a slot: its prompt is fed in pieces, then a token (and a draft) at a time -> done
 *
 * What a sequence says depends on itself, the seed and the sampling alone: not on the others, the batch, the pieces, workers,
 * threads, or the length of drafts. When a sequence's cache is full it starts anew with the last half of what was said.
 *
 * Drafts (prompt look-up: Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding; verification: Leviathan et al. 2022,
 * arXiv:2211.17192, for a draft without probabilities): the last tokens are looked for earlier in the text, what followed there
 * is fed along, and as much of it is kept as the sampling, which is a function of logits and position, draws itself. */
#ifndef QN_SESSION_DECODER_H
#define QN_SESSION_DECODER_H

#include "runtime/forward/runner.h"

typedef struct qni_sequence {
    int32_t *ids;     /* [most]: given ones, then what was drawn; owned by the caller */
    int64_t count;    /* of ids so far */
    int64_t given;    /* of those, from the caller */
    int64_t most;     /* ends when count reaches it */
    int64_t fed;      /* ids that the runner has seen */
    bool done, ended; /* ended: by a token that ends texts, which is not kept */
} qni_sequence;

typedef struct qni_decoder_desc {
    qn_runner *runner;    /* borrowed, its caches empty */
    int32_t slots;        /* of the runner */
    int64_t T, cache_len; /* of the runner; T >= slots * (1 + speculate) */
    int32_t vocab;        /* tokens that may be drawn */
    int32_t stop[2];      /* tokens that end a text; -1: none */
    int32_t speculate;    /* the most tokens of a draft, 0: none */
    qn_sampling how;
    qni_sequence *sequence; /* [sequences], borrowed; each with 1 <= given <= cache_len, given == count <= most */
    int64_t sequences;
} qni_decoder_desc;

typedef struct qni_decoder_stats {
    int64_t steps, prompt_rows, rows; /* passes; rows of prompts and of all */
    int64_t drafted, accepted;        /* tokens of drafts, and of those kept */
    int64_t prefill_ns, decode_ns;    /* passes with rows of prompts, and the others, with the sampling after them */
} qni_decoder_stats;

typedef struct qni_decoder qni_decoder;

/* Errors: QN_ENOMEM. */
qn_status qni_decoder_open(qni_decoder **out, const qni_decoder_desc *d, qn_err *err) QN_MUST_USE;
void qni_decoder_close(qni_decoder *d); /* accepts NULL */
/* One pass and what follows from it. *left: sequences that are not done. Allocates nothing. Errors: those of the runner. */
qn_status qni_decoder_step(qni_decoder *d, int64_t *left, qn_err *err) QN_MUST_USE;
const qni_decoder_stats *qni_decoder_stats_of(const qni_decoder *d);

/* Up to most tokens that followed the latest earlier place with the same last 3, or else 2 tokens as ids[0 .. count - 1]. Gives
 * their number. */
int64_t qni_draft(int32_t *draft, int64_t most, const int32_t *ids, int64_t count);

#endif
