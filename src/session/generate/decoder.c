/* Continuous batching over a runner; see decoder.h. */
#include "decoder.h"

#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
#include "core/compiler.h"

enum { LONGEST_MATCH = 3, SHORTEST_MATCH = 2 };

struct qni_decoder {
    qni_decoder_desc d;
    int64_t *in_slot; /* [slots]: the sequence there, or -1 */
    int64_t next, left;
    qn_feed *feed; /* [cap] */
    int32_t feeds, cap;
    int64_t items, used; /* of the pass being laid out: the item, and its rows */
    int32_t *drafts;     /* [slots, 1 + speculate]: the token to feed, then its draft */
    int64_t *drafted;    /* [slots] */
    int32_t *last;       /* [slots]: the feed whose logits are the sequence's, or -1 */
    int32_t *order;      /* [vocab] for the sampling */
    qni_decoder_stats stats;
};

qn_status qni_decoder_open(qni_decoder **out, const qni_decoder_desc *desc, qn_err *err)
{
    *out = NULL;
    qni_decoder *d = qn_calloc(1, sizeof(*d));
    if (d == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for a decoder");
    const size_t slots = (size_t)desc->slots;
    QN_ASSERT(desc->T >= desc->slots * (1 + (int64_t)desc->speculate));
    d->d = *desc;
    d->left = desc->sequences;
    d->cap = (int32_t)(desc->slots + qn_runner_rows(desc->runner) / desc->T * (desc->slots + 1));
    d->in_slot = qn_calloc(slots, sizeof(*d->in_slot));
    d->feed = qn_calloc((size_t)d->cap, sizeof(*d->feed));
    d->drafts = qn_calloc(slots * (size_t)(1 + desc->speculate), sizeof(*d->drafts));
    d->drafted = qn_calloc(slots, sizeof(*d->drafted));
    d->last = qn_calloc(slots, sizeof(*d->last));
    d->order = qn_calloc((size_t)desc->vocab, sizeof(*d->order));
    if (d->in_slot == NULL || d->feed == NULL || d->drafts == NULL || d->drafted == NULL || d->last == NULL || d->order == NULL) {
        qni_decoder_close(d);
        return QN_FAIL(err, QN_ENOMEM, "no memory to decode %d sequences together", desc->slots);
    }
    for (size_t i = 0; i < slots; i++) d->in_slot[i] = -1;
    *out = d;
    return QN_OK;
}

void qni_decoder_close(qni_decoder *d)
{
    if (d == NULL) return;
    qn_free(d->in_slot);
    qn_free(d->feed);
    qn_free(d->drafts);
    qn_free(d->drafted);
    qn_free(d->last);
    qn_free(d->order);
    qn_free(d);
}

const qni_decoder_stats *qni_decoder_stats_of(const qni_decoder *d)
{
    return &d->stats;
}

/* --- drafts */
int64_t qni_draft(int32_t *draft, int64_t most, const int32_t *ids, int64_t count)
{
    for (int64_t m = LONGEST_MATCH; m >= SHORTEST_MATCH; m--) {
        const int32_t *end = ids + count - m;
        for (int64_t at = count - m - 1; at >= 0; at--) {
            if (memcmp(ids + at, end, (size_t)m * sizeof(*ids)) != 0) continue;
            const int64_t n = qn_min64(most, count - at - m);
            memcpy(draft, ids + at + m, (size_t)n * sizeof(*ids));
            return n;
        }
    }
    return 0;
}

/* --- laying out a pass */

/* The same rule as the runner's: a feed that does not fit into the rest of an item begins the next one. */
static int64_t room(const qni_decoder *d)
{
    const int64_t items = qn_runner_rows(d->d.runner) / d->d.T;
    if (d->used < d->d.T) return d->d.T - d->used;
    return d->items + 1 < items ? d->d.T : 0;
}

static void add_feed(qni_decoder *d, int32_t slot, const int32_t *tokens, int64_t count, int32_t logits)
{
    if (d->used + count > d->d.T) {
        d->items++;
        d->used = 0;
    }
    QN_ASSERT(d->feeds < d->cap);
    d->used += count;
    if (logits > 0) d->last[slot] = d->feeds;
    d->feed[d->feeds++] = (qn_feed){.slot = slot, .logits = logits, .tokens = tokens, .count = count};
    d->stats.rows += count;
}

/* Makes room in the sequence's cache for what it has to say; then its next token is the only one to feed, or it starts anew. */
static void slide(qni_decoder *d, int32_t slot, qni_sequence *s)
{
    const int64_t held = qn_runner_held(d->d.runner, slot);
    if (held + s->count - s->fed <= d->d.cache_len) return;
    qn_runner_truncate(d->d.runner, slot, 0);
    s->fed = s->count - qn_max64(1, d->d.cache_len / 2);
}

/* A token and a draft after it. */
static void feed_token(qni_decoder *d, int32_t slot, qni_sequence *s)
{
    int32_t *draft = d->drafts + slot * (1 + (int64_t)d->d.speculate);
    const int64_t free_rows = d->d.cache_len - qn_runner_held(d->d.runner, slot) - 1, wanted = s->most - s->count - 1;
    draft[0] = s->ids[s->count - 1];
    const int64_t most = qn_min64(d->d.speculate, qn_min64(free_rows, wanted));
    d->drafted[slot] = most > 0 ? qni_draft(draft + 1, most, s->ids, s->count) : 0;
    d->stats.drafted += d->drafted[slot];
    add_feed(d, slot, draft, 1 + d->drafted[slot], (int32_t)(1 + d->drafted[slot]));
    s->fed = s->count;
}

/* As much of a prompt as fits. Logits are wanted of its last token. Returns its rows. */
static int64_t feed_prompt(qni_decoder *d, int32_t slot, qni_sequence *s)
{
    int64_t rows = 0;
    while (s->fed < s->count && room(d) > 0) {
        const int64_t n = qn_min64(s->count - s->fed, room(d));
        add_feed(d, slot, s->ids + s->fed, n, s->fed + n == s->count);
        s->fed += n;
        rows += n;
    }
    return rows;
}

/* First the sequences that go on by a token, which share an item; then prompts. Returns the prompts' rows. */
static int64_t lay_out(qni_decoder *d)
{
    int64_t rows = 0;
    d->feeds = 0;
    d->items = d->used = 0;
    for (int32_t i = 0; i < d->d.slots; i++) {
        d->last[i] = -1;
        d->drafted[i] = 0;
        while (d->in_slot[i] < 0 && d->next < d->d.sequences) {
            d->in_slot[i] = d->next++;
            qn_runner_truncate(d->d.runner, i, 0);
        }
        if (d->in_slot[i] < 0) continue;
        qni_sequence *s = &d->d.sequence[d->in_slot[i]];
        slide(d, i, s);
        if (s->count - s->fed == 1 && s->fed > 0) feed_token(d, i, s);
    }
    for (int32_t i = 0; i < d->d.slots; i++)
        if (d->in_slot[i] >= 0) rows += feed_prompt(d, i, &d->d.sequence[d->in_slot[i]]);
    return rows;
}

/* --- what follows from a pass */
static void end_sequence(qni_decoder *d, int32_t slot, qni_sequence *s, bool ended)
{
    s->done = true;
    s->ended = ended;
    d->in_slot[slot] = -1;
    d->left--;
}

/* Draws the next token, and goes on along the draft as long as it says the same. */
static void take_tokens(qni_decoder *d, int32_t slot, qni_sequence *s)
{
    const qn_feed *g = &d->feed[d->last[slot]];
    const int32_t *draft = d->drafts + slot * (1 + (int64_t)d->d.speculate) + 1;
    const int64_t V = qn_runner_vocab(d->d.runner), drafted = d->drafted[slot];
    int64_t kept = 0;
    for (;;) {
        const int32_t id = qn_sample(g->row + kept * V, d->d.vocab, &d->d.how, s->count, d->order);
        if (id == d->d.stop[0] || id == d->d.stop[1]) {
            end_sequence(d, slot, s, true);
            break;
        }
        s->ids[s->count++] = id;
        if (s->count == s->most) {
            end_sequence(d, slot, s, false);
            break;
        }
        if (kept == drafted || draft[kept] != id) break;
        kept++; /* the runner has seen this token already, at its place */
        s->fed = s->count;
    }
    d->stats.accepted += kept;
    if (drafted > kept) qn_runner_truncate(d->d.runner, slot, qn_runner_held(d->d.runner, slot) - (drafted - kept));
}

qn_status qni_decoder_step(qni_decoder *d, int64_t *left, qn_err *err)
{
    const int64_t began = qn_now_ns();
    const int64_t rows = lay_out(d);
    qn_status st = QN_OK;
    if (d->feeds > 0) st = qn_runner_feed_all(d->d.runner, d->feed, d->feeds, err);
    if (st != QN_OK) return st;
    for (int32_t i = 0; i < d->d.slots; i++)
        if (d->last[i] >= 0) take_tokens(d, i, &d->d.sequence[d->in_slot[i]]);
    d->stats.steps++;
    d->stats.prompt_rows += rows;
    *(rows > 0 ? &d->stats.prefill_ns : &d->stats.decode_ns) += qn_now_ns() - began;
    *left = d->left;
    return QN_OK;
}
