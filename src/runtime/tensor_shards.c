#include "tensor_shards.h"

#include <inttypes.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "kernels/shard_sum.h"

enum { WIDEST = sizeof(double) };            /* of the types that are summed */
static const int64_t SLOT_BYTES = 256 << 10; /* a slot's payload stays in the second-level cache */

typedef struct member {
    qni_joint *joint;
    qn_pass pass;
    qn_mb mb;
    bool busy, offered, ready; /* offered: waits with its numbers; ready: they are summed, the pass may take them */
    int32_t shard;
    char *at;
} member;

typedef struct peer { /* another worker with shards of the stage */
    int32_t out, in;  /* channels */
    int32_t shards;   /* how many it holds */
    int64_t sent;     /* pieces */
    const char *slot; /* of the piece that is folded next, NULL: not there yet */
} peer;

typedef struct where { /* of a shard: number `index` among those of a peer, or (QN_NONE) of this worker */
    int32_t peer, index;
} where;

struct qni_joint {
    int32_t task, count, peers, shards;
    member member[QN_MAX_SHARDS];
    peer peer[QN_MAX_SHARDS];
    where where[QN_MAX_SHARDS];
    /* the meeting in progress, in pieces: the sum of n elements of a type, or the whole of n bytes (gathers) */
    bool open, gathers;
    qn_dtype type;
    int64_t n, piece, pieces, done; /* piece: bytes of a shard's part, the last one may be shorter */
    uint64_t turn;                  /* meetings of this task so far */
};

int64_t qni_part_bytes(int64_t bytes, int32_t shards)
{
    return qn_max64(qn_min64(bytes, SLOT_BYTES), WIDEST) * shards; /* a worker may hold all shards but one */
}

qn_status qni_shards_init(qni_shards *s, const qn_plan *plan, qn_stage_set *set, qn_err *err)
{
    const size_t W = (size_t)plan->workers;
    *s = (qni_shards){.plan = plan, .set = set};
    if (plan->shards == 1) return QN_OK;
    s->channel = qn_calloc(W * W, sizeof(*s->channel));
    s->joint = qn_calloc(W, sizeof(*s->joint));
    s->sums = qn_calloc(W, sizeof(*s->sums));
    s->sent = qn_calloc(W, sizeof(*s->sent));
    s->gather = qn_calloc((size_t)plan->values + 1, sizeof(*s->gather));
    bool room = s->channel != NULL && s->joint != NULL && s->sums != NULL && s->sent != NULL && s->gather != NULL;
    for (size_t w = 0; room && w < W; w++) room = (s->joint[w] = qn_calloc(1, sizeof(*s->joint[w]))) != NULL;
    if (!room) return QN_FAIL(err, QN_ENOMEM, "no memory for the shards of %d workers", plan->workers);
    for (size_t i = 0; i < W * W; i++) s->channel[i] = QN_NONE;
    for (int32_t c = 0; c < plan->channels; c++) {
        const qn_channel *x = &plan->channel[c];
        if (x->cls != QN_V_PART) continue;
        s->channel[(size_t)x->from * W + (size_t)x->to] = c;
        if (x->slot_bytes < (int64_t)WIDEST * plan->shards)
            return QN_FAIL(err, QN_EINVAL, "slots of %" PRId64 " bytes for parts of %d shards: at least %d bytes are needed",
                           x->slot_bytes, plan->shards, (int)WIDEST * plan->shards);
    }
    for (int32_t t = 0; t < plan->tasks; t++) {
        const qn_task *x = &plan->task[t];
        if (x->op == QN_OP_RECV && plan->channel[x->channel].slices > 1) s->gather[plan->ref[x->out.first]] = true;
    }
    const qn_grid g = qn_plan_grid(plan);
    for (int32_t i = 0; i < plan->stages; i++) {
        const int32_t first = i - qn_shard(g, i) * qn_depth(g), a = plan->worker_of[first], b = plan->worker_of[i];
        if (a != b && s->channel[(size_t)a * W + (size_t)b] == QN_NONE)
            return QN_FAIL(err, QN_EINVAL,
                           "workers %d and %d hold shards of stage %d, but the plan has no channel for their sums", a, b, first);
    }
    qni_shards_reset(s);
    return QN_OK;
}

void qni_shards_fini(qni_shards *s)
{
    for (int32_t w = 0; s->joint != NULL && w < s->plan->workers; w++) qn_free(s->joint[w]);
    qn_free(s->joint);
    qn_free(s->channel);
    qn_free(s->sums);
    qn_free(s->sent);
    qn_free(s->gather);
    *s = (qni_shards){0};
}

void qni_shards_reset(qni_shards *s)
{
    for (int32_t w = 0; s->joint != NULL && w < s->plan->workers; w++) s->joint[w]->task = QN_NONE;
    if (s->plan != NULL && s->plan->shards > 1) qni_stage_set_reset_scratch(s->set);
}

/* --- a meeting */

/* The hook of a stage: see qn_exchange. */
static bool offer(void *ctx, void *x, qn_dtype type, int64_t n)
{
    member *m = ctx;
    qni_joint *j = m->joint;
    if (m->ready) {
        m->ready = false;
        return true;
    }
    QN_ASSERT(!j->open || (j->n == n && j->type == type)); /* shards do the same */
    m->offered = true;
    m->at = x;
    j->open = true;
    j->n = n;
    j->type = type;
    return false;
}

/* Names a piece; for telling that both sides are at the same place. */
static uint64_t tag_of(const qni_shards *s, const qni_joint *j, int64_t piece)
{
    const qn_task *t = &s->plan->task[j->task];
    const uint64_t stage = (uint64_t)qn_chain_stage(qn_plan_grid(s->plan), t->stage);
    return (uint64_t)t->op << 60 ^ stage << 44 ^ (uint64_t)(uint32_t)t->item << 28 ^ j->turn << 20 ^ (uint64_t)piece;
}

/* The bytes of shard k in a piece, and where they lie in its numbers. */
static size_t part_of(const qni_joint *j, int32_t k, int64_t piece, size_t *at)
{
    int64_t first = 0, count = j->n * (int64_t)(j->gathers ? 1 : qn_dtype_bytes(j->type));
    if (j->gathers) count = qn_channel_carries(&(qn_channel){.slice = k, .slices = j->shards}, j->n, &first);
    *at = (size_t)(first + piece * j->piece);
    return (size_t)qn_max64(0, qn_min64(j->piece, count - piece * j->piece));
}

/* Pieces of this worker's shards to one peer, as many as there are slots for. */
static bool send_pieces(qni_shards *s, qni_joint *j, qn_executor *ex, peer *p)
{
    const int64_t before = p->sent;
    void *slot;
    for (; p->sent < j->pieces && qn_executor_put_begin(ex, p->out, &slot) == QN_RING_OK; p->sent++) {
        size_t used = 0, at;
        for (int32_t i = 0; i < j->count; i++) {
            const size_t bytes = part_of(j, j->member[i].shard, p->sent, &at);
            if (bytes > 0) memcpy((char *)slot + used, j->member[i].at + at, bytes);
            used += bytes;
        }
        qn_executor_put_publish(ex, p->out, tag_of(s, j, p->sent), used);
        s->sent[s->plan->task[j->task].worker] += (int64_t)used;
    }
    return p->sent > before;
}

/* The next piece of one peer: *there tells whether it has come. */
static qn_status receive_piece(const qni_shards *s, qni_joint *j, qn_executor *ex, int32_t peer_index, bool *there, qn_err *err)
{
    peer *p = &j->peer[peer_index];
    const void *slot;
    uint64_t tag;
    size_t bytes, want = 0, at;
    *there = p->slot != NULL;
    if (*there || qn_executor_get(ex, p->in, &slot, &tag, &bytes) != QN_RING_OK) return QN_OK;
    for (int32_t k = 0; k < j->shards; k++)
        if (j->where[k].peer == peer_index) want += part_of(j, k, j->done, &at);
    char text[96];
    if (tag != tag_of(s, j, j->done) || bytes != want)
        return QN_FAIL(err, QN_EINTERNAL,
                       "%s: channel %d brought a part of %zu bytes with tag %#" PRIx64 ", expected %zu bytes with tag %#" PRIx64,
                       qn_task_text(text, sizeof(text), s->plan, j->task), p->in, bytes, tag, want, tag_of(s, j, j->done));
    p->slot = slot;
    *there = true;
    return QN_OK;
}

/* All contributions to the next piece are here: their sum, or all of them, go to all of this worker's shards. */
static void finish_piece(const qni_shards *s, qni_joint *j, qn_executor *ex)
{
    size_t used[QN_MAX_SHARDS] = {0}, at = 0, bytes = 0; /* of each peer's slot */
    const void *part[QN_MAX_SHARDS];
    void *out[QN_MAX_SHARDS];
    for (int32_t k = 0; k < j->shards; k++) {
        const where *w = &j->where[k];
        bytes = part_of(j, k, j->done, &at);
        part[k] = w->peer == QN_NONE ? j->member[w->index].at + at : j->peer[w->peer].slot + used[w->peer];
        if (w->peer != QN_NONE) used[w->peer] += bytes;
        for (int32_t i = 0; j->gathers && bytes > 0 && i < j->count; i++)
            if (w->peer != QN_NONE || w->index != i) memcpy(j->member[i].at + at, part[k], bytes);
    }
    for (int32_t i = 0; i < j->count; i++) out[i] = j->member[i].at + at;
    if (!j->gathers)
        qn_shard_sum(&s->set->exec[s->plan->task[j->task].worker], out, j->count, part, j->shards, j->type,
                     (int64_t)(bytes / qn_dtype_bytes(j->type)));
    for (int32_t p = 0; p < j->peers; p++) {
        qn_executor_release(ex, j->peer[p].in);
        j->peer[p].slot = NULL;
    }
    j->done++;
}

/* Every shard of this worker waits: moves what can be moved. QN_EAGAIN: more has to come. */
static qn_status meet(qni_shards *s, qni_joint *j, qn_executor *ex, qn_err *err)
{
    for (bool moved = true; moved && j->done < j->pieces;) {
        moved = false;
        bool all = true;
        for (int32_t i = 0; i < j->peers; i++) {
            bool there;
            moved |= send_pieces(s, j, ex, &j->peer[i]);
            const qn_status st = receive_piece(s, j, ex, i, &there, err);
            if (st != QN_OK) return st;
            all = all && there && j->peer[i].sent > j->done; /* the sum overwrites what is sent */
        }
        if (!all) continue;
        finish_piece(s, j, ex);
        moved = true;
    }
    if (j->done < j->pieces) return QN_EAGAIN;
    for (int32_t i = 0; i < j->count; i++) {
        j->member[i].offered = false;
        j->member[i].ready = !j->gathers; /* no pass has asked for what was gathered */
    }
    s->sums[s->plan->task[j->task].worker] += !j->gathers;
    j->open = j->gathers = false;
    j->turn++;
    return QN_OK;
}

/* Pieces as large as a slot takes them from a worker that holds all shards but one. */
static void begin_meeting(const qni_shards *s, qni_joint *j)
{
    size_t at;
    j->piece = INT64_MAX / 2;
    for (int32_t i = 0; i < j->peers; i++) {
        j->piece = qn_max64(WIDEST, s->plan->channel[j->peer[i].out].slot_bytes / j->shards / WIDEST * WIDEST);
        j->peer[i].sent = 0;
        j->peer[i].slot = NULL;
    }
    j->done = 0;
    j->pieces = j->peers == 0;
    for (int32_t k = 0; j->peers > 0 && k < j->shards; k++)
        while (part_of(j, k, j->pieces, &at) > 0) j->pieces++;
}

/* --- a joint set */

/* Who holds which shard. */
static void find_shards(const qni_shards *s, qni_joint *j, int32_t first)
{
    const qn_plan *p = s->plan;
    const qn_grid g = qn_plan_grid(p);
    const qn_task *t = &p->task[j->task];
    const int32_t column = qn_replica(g, t->stage) * p->shards;
    int32_t worker[QN_MAX_SHARDS];
    j->peers = 0;
    j->shards = p->shards;
    for (int32_t k = 0; k < p->shards; k++) {
        const int32_t stage = qn_stage_at(g, column + k, qn_chain_stage(g, t->stage)), w = p->worker_of[stage];
        if (w == t->worker) {
            int32_t i = 0;
            while (i < j->count && p->task[first + i].stage != stage) i++;
            QN_ASSERT(i < j->count); /* the validator has seen that they stand together */
            j->where[k] = (where){QN_NONE, i};
            continue;
        }
        int32_t i = 0;
        while (i < j->peers && worker[i] != w) i++;
        if (i == j->peers) {
            const size_t W = (size_t)p->workers;
            worker[j->peers++] = w;
            j->peer[i] =
                (peer){.out = s->channel[(size_t)t->worker * W + (size_t)w], .in = s->channel[(size_t)w * W + (size_t)t->worker]};
        }
        j->where[k] = (where){i, j->peer[i].shards++};
    }
}

/* What the members read in slices becomes whole before their passes begin. A recomputation finds what F has made whole. */
static void begin_gather(const qni_shards *s, qni_joint *j, qn_executor *ex, int32_t first)
{
    const qn_plan *p = s->plan;
    const int32_t op = p->task[first].op, cls = op == QN_OP_F ? QN_V_ACT : QN_V_GRAD;
    if (op == QN_OP_R) return;
    for (int32_t i = 0; i < j->count; i++) {
        const int32_t v = qni_span_find(p, p->task[first + i].in, cls);
        if (v == QN_NONE || !s->gather[v]) return;
        j->n = (int64_t)qn_executor_actual(ex, v);
        j->member[i].at = qn_executor_value(ex, v);
    }
    if (j->n == 0) return;
    for (int32_t i = 0; i < j->count; i++) j->member[i].offered = true;
    j->open = j->gathers = true;
    begin_meeting(s, j);
}

static void begin_joint(qni_shards *s, qni_joint *j, qn_executor *ex, int32_t task, qni_pass_of *make, void *ctx)
{
    const int32_t first = qn_joint_first(s->plan, task);
    j->task = task;
    j->count = task - first + 1;
    j->turn = 0;
    j->open = j->gathers = false;
    for (int32_t i = 0; i < j->count; i++) {
        member *m = &j->member[i];
        m->joint = j;
        m->shard = qn_shard(qn_plan_grid(s->plan), s->plan->task[first + i].stage);
        m->busy = true;
        m->offered = m->ready = false;
        const qn_exchange x = {offer, m};
        qn_stage_set_exchange(s->set->stage[s->plan->task[first + i].stage], &x);
        m->pass = make(ctx, ex, first + i, &m->mb);
    }
    find_shards(s, j, first);
    begin_gather(s, j, ex, first);
}

qn_status qni_shards_run(qni_shards *s, qn_executor *ex, int32_t task, qni_pass_of *make, void *ctx, qn_err *err)
{
    if (qn_joint_last(s->plan, task) != task) return QN_OK; /* runs with the last */
    qni_joint *j = s->joint[s->plan->task[task].worker];
    if (j->task != task) begin_joint(s, j, ex, task, make, ctx);
    for (;;) {
        bool busy = false;
        const bool was_open = j->open;
        for (int32_t i = 0; i < j->count; i++) {
            member *m = &j->member[i];
            while (m->busy && !m->offered) m->busy = qn_pass_step(&m->pass);
            busy |= m->busy;
        }
        if (!busy) break;
        if (!was_open) begin_meeting(s, j);
        const qn_status st = meet(s, j, ex, err);
        if (st != QN_OK) return st;
    }
    j->task = QN_NONE;
    return QN_OK;
}
