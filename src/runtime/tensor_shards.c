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
    bool busy, offered, ready; /* offered: waits with its numbers; ready: the meeting is over, the pass may go on */
    int32_t shard;
    double loss, *loss_of; /* of its rows, and where the loss of all goes, where shards have slices */
    char *whole, *mine;    /* of the meeting: see qn_meeting; mine is this shard's slice, wherever it is */
} member;

typedef struct cursor { /* goes through the pieces of some shards' slices, shard by shard */
    int32_t shard;      /* the number of shards: at the end */
    int64_t piece;
} cursor;

typedef struct peer {    /* another worker with shards of the stage */
    int32_t out, in;     /* channels */
    cursor put, got;     /* what is sent to it, what comes from it */
    uint64_t puts, gots; /* pieces of the meeting so far */
    const char *slot;    /* of the piece that is used next, NULL: not there yet */
} peer;

typedef struct where { /* of a shard: on that peer, or (QN_NONE) on this worker; number `index` among the shards there */
    int32_t peer, index;
} where;

typedef enum phase_kind { SCATTER, GATHER, OVER } phase_kind;

struct qni_joint {
    int32_t task, count, peers, shards;
    member member[QN_MAX_SHARDS];
    peer peer[QN_MAX_SHARDS];
    where where[QN_MAX_SHARDS];
    /* the meeting in progress */
    bool open, of_link; /* of_link: before the passes, nobody has asked for it */
    qn_meeting what;    /* of any member: sizes are the same for all */
    phase_kind phase;
    cursor fold;    /* scatter: the piece of this worker's slices that is folded next */
    int64_t piece;  /* the most bytes of a shard's slice in a message */
    uint64_t turn;  /* phases of this task so far */
    int32_t arrays; /* of a JOIN: how many have been offered */
    bool losses;    /* are still to be summed */
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
        s->trains = s->trains || x->op == QN_OP_B || x->op == QN_OP_BW;
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

/* --- a meeting: what it moves */

/* The hook of a stage: see qn_exchange. */
static bool offer(void *ctx, const qn_meeting *what)
{
    member *m = ctx;
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
static int64_t slice_of(const qni_joint *j, int32_t k, int64_t *first)
{
    if (j->of_link) return qn_channel_carries(&(qn_channel){.slice = k, .slices = j->shards}, j->what.rows, first);
    const int64_t row = qn_meeting_row(&j->what), rows = qn_shard_slice(j->shards, k, j->what.rows, first);
    *first *= row;
    return rows * row;
}

/* The bytes of a piece of it. */
static size_t piece_of(const qni_joint *j, cursor c, int64_t *at)
{
    int64_t first;
    const int64_t bytes = slice_of(j, c.shard, &first);
    *at = c.piece * j->piece;
    return (size_t)qn_min64(j->piece, bytes - *at);
}

/* From a shard of that place (a peer, or QN_NONE) on: the first of them with something in its slice. */
static cursor from_shard(const qni_joint *j, int32_t place, int32_t shard)
{
    int64_t first;
    while (shard < j->shards && (j->where[shard].peer != place || slice_of(j, shard, &first) == 0)) shard++;
    return (cursor){shard, 0};
}

static cursor next_piece(const qni_joint *j, int32_t place, cursor c)
{
    int64_t first;
    c.piece++;
    return c.piece * j->piece < slice_of(j, c.shard, &first) ? c : from_shard(j, place, c.shard + 1);
}

static bool at_end(const qni_joint *j, cursor c)
{
    return c.shard >= j->shards;
}

static int32_t shards_at(const qni_joint *j, int32_t place)
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
    peer *p = &j->peer[index];
    const uint64_t before = p->puts;
    void *slot;
    while (!at_end(j, p->put) && qn_executor_put_begin(ex, p->out, &slot) == QN_RING_OK) {
        int64_t at, first;
        const size_t bytes = piece_of(j, p->put, &at);
        size_t used = 0;
        (void)slice_of(j, p->put.shard, &first);
        for (int32_t i = 0; i < j->count; i++) {
            const member *m = &j->member[i];
            if (j->phase == GATHER && m->shard != p->put.shard) continue;
            memcpy((char *)slot + used, j->phase == GATHER ? m->mine + at : m->whole + first + at, bytes);
            used += bytes;
        }
        qn_executor_put_publish(ex, p->out, tag_of(s, j, p->puts++), used);
        s->sent[s->plan->task[j->task].worker] += (int64_t)used;
        p->put = next_piece(j, j->phase == GATHER ? QN_NONE : index, p->put);
    }
    return p->puts > before;
}

/* The next piece of one peer: *there tells whether it has come. */
static qn_status receive_piece(const qni_shards *s, qni_joint *j, qn_executor *ex, int32_t index, cursor c, bool *there,
                               qn_err *err)
{
    peer *p = &j->peer[index];
    const void *slot;
    uint64_t tag;
    size_t bytes;
    int64_t at;
    *there = p->slot != NULL;
    if (*there || qn_executor_get(ex, p->in, &slot, &tag, &bytes) != QN_RING_OK) return QN_OK;
    const size_t want = piece_of(j, c, &at) * (j->phase == GATHER ? 1 : (size_t)shards_at(j, index));
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
    (void)slice_of(j, j->fold.shard, &first);
    for (int32_t k = 0; k < j->shards; k++) {
        const where *w = &j->where[k];
        part[k] = w->peer == QN_NONE ? j->member[w->index].whole + first + at : j->peer[w->peer].slot + (size_t)w->index * bytes;
    }
    for (int32_t i = 0; i < j->count; i++) {
        const member *m = &j->member[i];
        if (m->shard == j->fold.shard)
            out[outs++] = m->mine + at;
        else if (j->what.kind == QN_MEET_SUM)
            out[outs++] = m->whole + first + at;
    }
    qn_shard_sum(&s->set->exec[s->plan->task[j->task].worker], out, outs, part, j->shards, j->what.type,
                 (int64_t)(bytes / qn_dtype_bytes(j->what.type)));
    for (int32_t p = 0; p < j->peers; p++) release(j, ex, p);
    j->fold = next_piece(j, QN_NONE, j->fold);
}

/* A piece of a slice goes to all shards here. */
static void spread(qni_joint *j, cursor c, const char *from)
{
    int64_t at, first;
    const size_t bytes = piece_of(j, c, &at);
    (void)slice_of(j, c.shard, &first);
    for (int32_t i = 0; i < j->count; i++) {
        char *to = j->member[i].whole + first + at;
        if (to != from) memcpy(to, from, bytes);
    }
}

/* --- a meeting: its phases */

/* Scatter or gather: where everybody begins. Pieces are as large as a slot takes from a worker with all shards but one. */
static void begin_phase(const qni_shards *s, qni_joint *j, phase_kind phase)
{
    j->phase = phase;
    j->piece = INT64_MAX / 2;
    j->turn++;
    for (int32_t i = 0; i < j->peers; i++) {
        j->piece = qn_max64(WIDEST, s->plan->channel[j->peer[i].out].slot_bytes / j->shards / WIDEST * WIDEST);
        j->peer[i].puts = j->peer[i].gots = 0;
        j->peer[i].slot = NULL;
    }
    j->fold = phase == SCATTER ? from_shard(j, QN_NONE, 0) : (cursor){j->shards, 0};
    for (int32_t i = 0; i < j->peers; i++) {
        j->peer[i].put = from_shard(j, phase == SCATTER ? i : QN_NONE, 0);
        j->peer[i].got = from_shard(j, phase == SCATTER ? QN_NONE : i, 0);
    }
    if (phase != GATHER || j->what.kind == QN_MEET_SUM) return; /* a sum has gone to all shards here */
    for (cursor c = from_shard(j, QN_NONE, 0); !at_end(j, c); c = next_piece(j, QN_NONE, c))
        spread(j, c, j->member[j->where[c.shard].index].mine + c.piece * j->piece);
}

static void begin_meeting(const qni_shards *s, qni_joint *j)
{
    begin_phase(s, j, j->what.kind == QN_MEET_GATHER ? GATHER : SCATTER);
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
        peer *p = &j->peer[i];
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
        over = over && at_end(j, j->peer[i].put) && (j->phase == SCATTER || at_end(j, j->peer[i].got));
    return over;
}

/* Every shard of this worker waits: moves what can be moved. QN_EAGAIN: more has to come. */
static qn_status meet(qni_shards *s, qni_joint *j, qn_executor *ex, qn_err *err)
{
    while (j->phase != OVER) {
        bool moved = false;
        for (int32_t i = 0; i < j->peers; i++) moved |= send_pieces(s, j, ex, i);
        const qn_status st = j->phase == SCATTER ? go_on_folding(s, j, ex, &moved, err) : go_on_gathering(s, j, ex, &moved, err);
        if (st != QN_OK) return st;
        if (!phase_is_over(j)) {
            if (!moved) return QN_EAGAIN;
            continue;
        }
        if (j->phase == SCATTER && j->what.kind == QN_MEET_SUM)
            begin_phase(s, j, GATHER);
        else
            j->phase = OVER;
    }
    for (int32_t i = 0; i < j->count; i++) {
        j->member[i].offered = false;
        j->member[i].ready = !j->of_link;
    }
    s->sums[s->plan->task[j->task].worker] += !j->of_link;
    j->open = j->of_link = false;
    return QN_OK;
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
    for (int32_t k = 0; k < p->shards; k++) j->where[k].peer = p->shards; /* not known yet */
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
        j->where[k] = (where){i, shards_at(j, i)};
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
        j->what = (qn_meeting){.kind = QN_MEET_GATHER, .rows = (int64_t)qn_executor_actual(ex, v)}; /* bytes: see slice_of */
        j->member[i].whole = qn_executor_value(ex, v);
    }
    if (j->what.rows == 0) return;
    j->open = j->of_link = true;
    for (int32_t i = 0; i < j->count; i++) {
        member *m = &j->member[i];
        int64_t at;
        (void)slice_of(j, m->shard, &at);
        m->mine = m->whole + at;
        m->offered = true;
    }
    begin_meeting(s, j);
}

/* The members of a set on this worker, as they are before anything is done. */
static int32_t begin_set(const qni_shards *s, qni_joint *j, int32_t task)
{
    const int32_t first = qn_joint_first(s->plan, task);
    j->task = task;
    j->count = task - first + 1;
    j->turn = 0;
    j->arrays = 0;
    j->open = j->of_link = false;
    for (int32_t i = 0; i < j->count; i++) {
        member *m = &j->member[i];
        m->joint = j;
        m->shard = qn_shard(qn_plan_grid(s->plan), s->plan->task[first + i].stage);
        m->busy = m->offered = m->ready = false;
    }
    find_shards(s, j, first);
    return first;
}

/* Does the head of a column compute a loss in this task? */
static bool has_loss(const qni_shards *s, const qn_task *t)
{
    const bool computes = s->trains ? t->op == QN_OP_B || t->op == QN_OP_BW : t->op == QN_OP_F;
    return computes && s->set->sequence && qn_last_in_column(qn_plan_grid(s->plan), t->stage);
}

static void begin_joint(qni_shards *s, qni_joint *j, qn_executor *ex, int32_t task, qni_pass_of *make, void *ctx)
{
    const int32_t first = begin_set(s, j, task);
    for (int32_t i = 0; i < j->count; i++) {
        member *m = &j->member[i];
        m->busy = true;
        const qn_exchange x = {offer, m};
        qn_stage_set_exchange(s->set->stage[s->plan->task[first + i].stage], &x);
        m->pass = make(ctx, ex, first + i, &m->mb);
        m->loss = 0;
        m->loss_of = m->mb.loss;
        if (s->set->sequence) m->mb.loss = &m->loss;
    }
    j->losses = has_loss(s, &s->plan->task[task]);
    begin_gather(s, j, ex, first);
}

/* The losses of all slices, like any sum. */
static void offer_losses(qni_joint *j)
{
    for (int32_t i = 0; i < j->count; i++) {
        member *m = &j->member[i];
        const qn_meeting what = {.kind = QN_MEET_SUM, .whole = &m->loss, .type = QN_F64, .rows = 1, .width = 1};
        (void)offer(m, &what);
    }
    j->losses = false;
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
        if (!busy && !j->open && j->losses) offer_losses(j);
        if (!busy && !j->open) break;
        if (!was_open) begin_meeting(s, j);
        const qn_status st = meet(s, j, ex, err);
        if (st != QN_OK) return st;
    }
    for (int32_t i = 0; has_loss(s, &s->plan->task[task]) && i < j->count; i++) *j->member[i].loss_of += j->member[i].loss;
    j->task = QN_NONE;
    return QN_OK;
}

/* The next array of every member; false: there is none. */
static bool offer_arrays(const qni_shards *s, qni_joint *j, qni_join_array *array, void *ctx)
{
    for (int32_t i = 0; i < j->count; i++) {
        int64_t n = 0;
        void *at = array(ctx, j->task - j->count + 1 + i, j->arrays, &n);
        if (at == NULL) return false;
        const qn_meeting what = {.kind = QN_MEET_SUM, .whole = at, .type = s->set->k->param, .rows = n, .width = 1};
        (void)offer(&j->member[i], &what);
    }
    j->arrays++;
    return true;
}

qn_status qni_shards_join(qni_shards *s, qn_executor *ex, int32_t task, qni_join_array *array, void *ctx, qn_err *err)
{
    if (qn_joint_last(s->plan, task) != task) return QN_OK; /* runs with the last */
    qni_joint *j = s->joint[s->plan->task[task].worker];
    if (j->task != task) (void)begin_set(s, j, task);
    for (;;) {
        if (!j->open) {
            for (int32_t i = 0; i < j->count; i++) j->member[i].ready = false;
            if (!offer_arrays(s, j, array, ctx)) break;
            begin_meeting(s, j);
        }
        const qn_status st = meet(s, j, ex, err);
        if (st != QN_OK) return st;
    }
    j->task = QN_NONE;
    return QN_OK;
}
