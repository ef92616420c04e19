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
    void *at;
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
    /* the meeting in progress: n elements in pieces of `piece` */
    bool open;
    qn_dtype type;
    int64_t n, piece, folded;
    uint64_t turn; /* meetings of this task so far */
};

int64_t qni_part_bytes(int64_t bytes, int32_t shards)
{
    return qn_max64(qn_min64(bytes, SLOT_BYTES), WIDEST) * shards; /* a worker may hold all shards but one */
}

qn_status qni_shards_init(qni_shards *s, const qn_plan *plan, qn_stage_set *set, qn_err *err)
{
    const size_t W = (size_t)plan->workers;
    *s = (qni_shards){.plan = plan, .set = set};
    s->channel = qn_calloc(W * W, sizeof(*s->channel));
    s->joint = qn_calloc(W, sizeof(*s->joint));
    s->sums = qn_calloc(W, sizeof(*s->sums));
    s->sent = qn_calloc(W, sizeof(*s->sent));
    bool room = s->channel != NULL && s->joint != NULL && s->sums != NULL && s->sent != NULL;
    for (size_t w = 0; room && w < W; w++) room = (s->joint[w] = qn_calloc(1, sizeof(*s->joint[w]))) != NULL;
    if (!room) return QN_FAIL(err, QN_ENOMEM, "no memory for the shards of %d workers", plan->workers);
    for (size_t i = 0; i < W * W; i++) s->channel[i] = QN_NONE;
    for (int32_t c = 0; c < plan->channels; c++)
        if (plan->channel[c].cls == QN_V_PART) s->channel[(size_t)plan->channel[c].from * W + (size_t)plan->channel[c].to] = c;
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

static int64_t elements_of(const qni_joint *j, int64_t piece)
{
    return qn_min64(j->piece, j->n - piece * j->piece);
}

/* Pieces of this worker's shards to one peer, as many as there are slots for. */
static bool send_pieces(qni_shards *s, qni_joint *j, qn_executor *ex, peer *p, int64_t pieces)
{
    const size_t e = qn_dtype_bytes(j->type);
    const int64_t before = p->sent;
    void *slot;
    while (p->sent < pieces && qn_executor_put_begin(ex, p->out, &slot) == QN_RING_OK) {
        const size_t bytes = (size_t)elements_of(j, p->sent) * e, at = (size_t)(p->sent * j->piece) * e;
        for (int32_t i = 0; i < j->count; i++) memcpy((char *)slot + (size_t)i * bytes, (char *)j->member[i].at + at, bytes);
        qn_executor_put_publish(ex, p->out, tag_of(s, j, p->sent), (size_t)j->count * bytes);
        s->sent[s->plan->task[j->task].worker] += (int64_t)((size_t)j->count * bytes);
        p->sent++;
    }
    return p->sent > before;
}

/* The next piece of one peer: *there tells whether it has come. */
static qn_status receive_piece(const qni_shards *s, const qni_joint *j, qn_executor *ex, peer *p, bool *there, qn_err *err)
{
    const void *slot;
    uint64_t tag;
    size_t bytes;
    *there = p->slot != NULL;
    if (*there || qn_executor_get(ex, p->in, &slot, &tag, &bytes) != QN_RING_OK) return QN_OK;
    const size_t want = (size_t)(elements_of(j, j->folded) * p->shards) * qn_dtype_bytes(j->type);
    char text[96];
    if (tag != tag_of(s, j, j->folded) || bytes != want)
        return QN_FAIL(err, QN_EINTERNAL,
                       "%s: channel %d brought a part of %zu bytes with tag %#" PRIx64 ", expected %zu bytes with tag %#" PRIx64,
                       qn_task_text(text, sizeof(text), s->plan, j->task), p->in, bytes, tag, want, tag_of(s, j, j->folded));
    p->slot = slot;
    *there = true;
    return QN_OK;
}

/* All contributions to the next piece are here: their sum goes to all of this worker's shards. */
static void fold_piece(const qni_shards *s, qni_joint *j, qn_executor *ex)
{
    const size_t e = qn_dtype_bytes(j->type), at = (size_t)(j->folded * j->piece) * e;
    const int64_t n = elements_of(j, j->folded);
    const void *part[QN_MAX_SHARDS];
    void *out[QN_MAX_SHARDS];
    for (int32_t k = 0; k < j->shards; k++) {
        const where *w = &j->where[k];
        part[k] =
            w->peer == QN_NONE ? (char *)j->member[w->index].at + at : j->peer[w->peer].slot + (size_t)w->index * (size_t)n * e;
    }
    for (int32_t i = 0; i < j->count; i++) out[i] = (char *)j->member[i].at + at;
    qn_shard_sum(&s->set->exec[s->plan->task[j->task].worker], out, j->count, part, j->shards, j->type, n);
    for (int32_t p = 0; p < j->peers; p++) {
        qn_executor_release(ex, j->peer[p].in);
        j->peer[p].slot = NULL;
    }
    j->folded++;
}

/* Every shard of this worker waits: moves what can be moved. QN_EAGAIN: more has to come. */
static qn_status meet(qni_shards *s, qni_joint *j, qn_executor *ex, qn_err *err)
{
    const int64_t pieces = (j->n + j->piece - 1) / j->piece;
    for (bool moved = true; moved && j->folded < pieces;) {
        moved = false;
        bool all = true;
        for (int32_t i = 0; i < j->peers; i++) {
            peer *p = &j->peer[i];
            bool there;
            moved |= send_pieces(s, j, ex, p, pieces);
            const qn_status st = receive_piece(s, j, ex, p, &there, err);
            if (st != QN_OK) return st;
            all = all && there && p->sent > j->folded; /* the sum overwrites what is sent */
        }
        if (!all) continue;
        fold_piece(s, j, ex);
        moved = true;
    }
    if (j->folded < pieces) return QN_EAGAIN;
    for (int32_t i = 0; i < j->count; i++) {
        j->member[i].offered = false;
        j->member[i].ready = true;
    }
    s->sums[s->plan->task[j->task].worker]++;
    j->open = false;
    j->turn++;
    return QN_OK;
}

static void begin_meeting(const qni_shards *s, qni_joint *j)
{
    j->folded = 0;
    j->piece = j->n;
    for (int32_t i = 0; i < j->peers; i++) {
        const int64_t slot = s->plan->channel[j->peer[i].out].slot_bytes;
        j->piece = qn_max64(1, slot / ((int64_t)qn_dtype_bytes(j->type) * j->shards));
        j->peer[i].sent = 0;
        j->peer[i].slot = NULL;
    }
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

static void begin_joint(qni_shards *s, qni_joint *j, qn_executor *ex, int32_t task, qni_pass_of *make, void *ctx)
{
    const int32_t first = qn_joint_first(s->plan, task);
    j->task = task;
    j->count = task - first + 1;
    j->turn = 0;
    j->open = false;
    for (int32_t i = 0; i < j->count; i++) {
        member *m = &j->member[i];
        m->joint = j;
        m->busy = true;
        m->offered = m->ready = false;
        const qn_exchange x = {offer, m};
        qn_stage_set_exchange(s->set->stage[s->plan->task[first + i].stage], &x);
        m->pass = make(ctx, ex, first + i, &m->mb);
    }
    find_shards(s, j, first);
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
