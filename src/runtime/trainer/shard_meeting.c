#include "shard_meeting.h"

#include <inttypes.h>
#include <string.h>

#include "core/checked.h"
#include "core/compiler.h"

/* --- a meeting: what it moves */

/* The hook of a stage: see qn_exchange. */
bool qni_meeting_offer(void *ctx, const qn_meeting *what)
{
    qni_member *m = ctx;
    qni_joint *j = m->joint;
    if (m->ready) {
        m->ready = false;
        return true;
    }
    QN_ASSERT(!j->open || (j->what.kind == what->kind && j->what.rows == what->rows && j->what.type == what->type));
    m->offered = true;
    m->whole = what->whole;
    j->open = true;
    j->what = *what;
    int64_t first;
    (void)qn_shard_slice(j->shards, m->shard, what->rows, &first);
    m->mine = what->mine != NULL ? what->mine : m->whole + first * qn_meeting_row(what);
    return false;
}

/* The bytes of shard k's slice, and where they lie in the whole. */
int64_t qni_meeting_slice(const qni_joint *j, int32_t k, int64_t *first)
{
    if (j->of_link) return qn_channel_carries(&(qn_channel){.slice = k, .slices = j->shards}, j->what.rows, first);
    const int64_t row = qn_meeting_row(&j->what), rows = qn_shard_slice(j->shards, k, j->what.rows, first);
    *first *= row;
    return rows * row;
}

/* The bytes of a piece of it. */
static size_t piece_of(const qni_joint *j, qni_cursor c, int64_t *at)
{
    int64_t first;
    const int64_t bytes = qni_meeting_slice(j, c.shard, &first);
    *at = c.piece * j->piece;
    return (size_t)qn_min64(j->piece, bytes - *at);
}

/* From a shard of that place (a peer, or QN_NONE) on: the first of them with something in its slice. */
static qni_cursor from_shard(const qni_joint *j, int32_t place, int32_t shard)
{
    int64_t first;
    while (shard < j->shards && (j->where[shard].peer != place || qni_meeting_slice(j, shard, &first) == 0)) shard++;
    return (qni_cursor){shard, 0};
}

static qni_cursor next_piece(const qni_joint *j, int32_t place, qni_cursor c)
{
    int64_t first;
    c.piece++;
    return c.piece * j->piece < qni_meeting_slice(j, c.shard, &first) ? c : from_shard(j, place, c.shard + 1);
}

static bool at_end(const qni_joint *j, qni_cursor c)
{
    return c.shard >= j->shards;
}

int32_t qni_meeting_shards(const qni_joint *j, int32_t place)
{
    int32_t n = 0;
    for (int32_t k = 0; k < j->shards; k++) n += j->where[k].peer == place;
    return n;
}

/* Names a message; for telling that both sides are at the same place. */
static uint64_t tag_of(const qni_shards *s, const qni_joint *j, uint64_t message)
{
    const qn_task *t = &s->plan->task[j->task];
    const uint64_t stage = (uint64_t)qn_chain_stage(qn_plan_grid(s->plan), t->stage);
    return (uint64_t)t->op << 60 ^ stage << 44 ^ (uint64_t)(uint32_t)t->item << 28 ^ j->turn << 20 ^ message;
}

/* --- a meeting: messages. Scatter: the receiver's slices, each with the sender's raw contributions. Gather: the sender's. */

/* To one peer, as many pieces as there are slots for. */
static bool send_pieces(qni_shards *s, qni_joint *j, qn_executor *ex, int32_t index)
{
    qni_peer *p = &j->peer[index];
    const uint64_t before = p->puts;
    void *slot;
    while (!at_end(j, p->put) && qn_executor_put_begin(ex, p->out, &slot) == QN_RING_OK) {
        int64_t at, first;
        const size_t bytes = piece_of(j, p->put, &at);
        size_t used = 0;
        (void)qni_meeting_slice(j, p->put.shard, &first);
        for (int32_t i = 0; i < j->count; i++) {
            const qni_member *m = &j->member[i];
            if (j->phase == QNI_GATHER && m->shard != p->put.shard) continue;
            memcpy((char *)slot + used, j->phase == QNI_GATHER ? m->mine + at : m->whole + first + at, bytes);
            used += bytes;
        }
        qn_executor_put_publish(ex, p->out, tag_of(s, j, p->puts++), used);
        s->sent[s->plan->task[j->task].worker] += (int64_t)used;
        p->put = next_piece(j, j->phase == QNI_GATHER ? QN_NONE : index, p->put);
    }
    return p->puts > before;
}

/* The next piece of one peer: *there tells whether it has come. */
static qn_status receive_piece(const qni_shards *s, qni_joint *j, qn_executor *ex, int32_t index, qni_cursor c, bool *there,
                               qn_err *err)
{
    qni_peer *p = &j->peer[index];
    const void *slot;
    uint64_t tag;
    size_t bytes;
    int64_t at;
    *there = p->slot != NULL;
    if (*there || qn_executor_get(ex, p->in, &slot, &tag, &bytes) != QN_RING_OK) return QN_OK;
    const size_t want = piece_of(j, c, &at) * (j->phase == QNI_GATHER ? 1 : (size_t)qni_meeting_shards(j, index));
    char text[96];
    if (tag != tag_of(s, j, p->gots) || bytes != want)
        return QN_FAIL(err, QN_EINTERNAL,
                       "%s: channel %d brought a part of %zu bytes with tag %#" PRIx64 ", expected %zu bytes with tag %#" PRIx64,
                       qn_task_text(text, sizeof(text), s->plan, j->task), p->in, bytes, tag, want, tag_of(s, j, p->gots));
    p->slot = slot;
    p->gots++;
    *there = true;
    return QN_OK;
}

static void release(qni_joint *j, qn_executor *ex, int32_t index)
{
    qn_executor_release(ex, j->peer[index].in);
    j->peer[index].slot = NULL;
}

/* All contributions to a piece of a slice of this worker's are here: their sum goes to the slice's owner, or, where the whole is
 * made after it, to all shards here. */
static void fold_piece(const qni_shards *s, qni_joint *j, qn_executor *ex)
{
    const void *part[QN_MAX_SHARDS];
    void *out[QN_MAX_SHARDS];
    int64_t at, first;
    const size_t bytes = piece_of(j, j->fold, &at);
    int32_t outs = 0;
    (void)qni_meeting_slice(j, j->fold.shard, &first);
    for (int32_t k = 0; k < j->shards; k++) {
        const qni_where *w = &j->where[k];
        part[k] = w->peer == QN_NONE ? j->member[w->index].whole + first + at : j->peer[w->peer].slot + (size_t)w->index * bytes;
    }
    for (int32_t i = 0; i < j->count; i++) {
        const qni_member *m = &j->member[i];
        if (m->shard == j->fold.shard)
            out[outs++] = m->mine + at;
        else if (j->what.kind == QN_MEET_SUM)
            out[outs++] = m->whole + first + at;
    }
    qn_shard_sum(&s->exec[s->plan->task[j->task].worker], out, outs, part, j->shards, j->what.type,
                 (int64_t)(bytes / qn_dtype_bytes(j->what.type)));
    for (int32_t p = 0; p < j->peers; p++) release(j, ex, p);
    j->fold = next_piece(j, QN_NONE, j->fold);
}

/* A piece of a slice goes to all shards here. */
static void spread(qni_joint *j, qni_cursor c, const char *from)
{
    int64_t at, first;
    const size_t bytes = piece_of(j, c, &at);
    (void)qni_meeting_slice(j, c.shard, &first);
    for (int32_t i = 0; i < j->count; i++) {
        char *to = j->member[i].whole + first + at;
        if (to != from) memcpy(to, from, bytes);
    }
}

/* --- a meeting: its phases */

/* Scatter or gather: where everybody begins. Pieces are as large as a slot takes from a worker with all shards but one. */
static void begin_phase(const qni_shards *s, qni_joint *j, qni_phase phase)
{
    j->phase = phase;
    j->piece = INT64_MAX / 2;
    j->turn++;
    for (int32_t i = 0; i < j->peers; i++) {
        j->piece = qn_max64(QNI_WIDEST, s->plan->channel[j->peer[i].out].slot_bytes / j->shards / QNI_WIDEST * QNI_WIDEST);
        j->peer[i].puts = j->peer[i].gots = 0;
        j->peer[i].slot = NULL;
    }
    j->fold = phase == QNI_SCATTER ? from_shard(j, QN_NONE, 0) : (qni_cursor){j->shards, 0};
    for (int32_t i = 0; i < j->peers; i++) {
        j->peer[i].put = from_shard(j, phase == QNI_SCATTER ? i : QN_NONE, 0);
        j->peer[i].got = from_shard(j, phase == QNI_SCATTER ? QN_NONE : i, 0);
    }
    if (phase != QNI_GATHER || j->what.kind == QN_MEET_SUM) return; /* a sum has gone to all shards here */
    for (qni_cursor c = from_shard(j, QN_NONE, 0); !at_end(j, c); c = next_piece(j, QN_NONE, c))
        spread(j, c, j->member[j->where[c.shard].index].mine + c.piece * j->piece);
}

void qni_meeting_begin(const qni_shards *s, qni_joint *j)
{
    begin_phase(s, j, j->what.kind == QN_MEET_GATHER ? QNI_GATHER : QNI_SCATTER);
}

/* Folds what has come from all peers. */
static qn_status go_on_folding(const qni_shards *s, qni_joint *j, qn_executor *ex, bool *moved, qn_err *err)
{
    bool all = true;
    if (at_end(j, j->fold)) return QN_OK;
    for (int32_t i = 0; i < j->peers; i++) {
        bool there;
        const qn_status st = receive_piece(s, j, ex, i, j->fold, &there, err);
        if (st != QN_OK) return st;
        all = all && there;
    }
    if (all) fold_piece(s, j, ex);
    *moved |= all;
    return QN_OK;
}

/* Takes what has come, peer by peer. */
static qn_status go_on_gathering(const qni_shards *s, qni_joint *j, qn_executor *ex, bool *moved, qn_err *err)
{
    for (int32_t i = 0; i < j->peers; i++) {
        qni_peer *p = &j->peer[i];
        bool there = !at_end(j, p->got);
        const qn_status st = there ? receive_piece(s, j, ex, i, p->got, &there, err) : QN_OK;
        if (st != QN_OK) return st;
        if (!there) continue;
        spread(j, p->got, p->slot);
        release(j, ex, i);
        p->got = next_piece(j, i, p->got);
        *moved = true;
    }
    return QN_OK;
}

static bool phase_is_over(const qni_joint *j)
{
    bool over = at_end(j, j->fold);
    for (int32_t i = 0; i < j->peers; i++)
        over = over && at_end(j, j->peer[i].put) && (j->phase == QNI_SCATTER || at_end(j, j->peer[i].got));
    return over;
}

/* Every shard of this worker waits: moves what can be moved. QN_EAGAIN: more has to come. */
qn_status qni_meeting_run(qni_shards *s, qni_joint *j, qn_executor *ex, qn_err *err)
{
    while (j->phase != QNI_OVER) {
        bool moved = false;
        for (int32_t i = 0; i < j->peers; i++) moved |= send_pieces(s, j, ex, i);
        const qn_status st =
            j->phase == QNI_SCATTER ? go_on_folding(s, j, ex, &moved, err) : go_on_gathering(s, j, ex, &moved, err);
        if (st != QN_OK) return st;
        if (!phase_is_over(j)) {
            if (!moved) return QN_EAGAIN;
            continue;
        }
        if (j->phase == QNI_SCATTER && j->what.kind == QN_MEET_SUM)
            begin_phase(s, j, QNI_GATHER);
        else
            j->phase = QNI_OVER;
    }
    for (int32_t i = 0; i < j->count; i++) {
        j->member[i].offered = false;
        j->member[i].ready = !j->of_link;
    }
    s->sums[s->plan->task[j->task].worker] += !j->of_link;
    j->open = j->of_link = false;
    return QN_OK;
}
