#include "tensor_shards.h"

#include <inttypes.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "shard_meeting.h"

static const int64_t SLOT_BYTES = 256 << 10; /* a slot's payload stays in the second-level cache */

int64_t qni_part_bytes(int64_t bytes, int32_t shards)
{
    return qn_max64(qn_min64(bytes, SLOT_BYTES), QNI_WIDEST) * shards; /* a worker may hold all shards but one */
}

qn_status qni_shards_init(qni_shards *s, const qn_plan *plan, qn_stage_set *set, qn_err *err)
{
    const size_t W = (size_t)plan->workers;
    *s = (qni_shards){.plan = plan, .set = set, .exec = set->exec};
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
        if (x->slot_bytes < (int64_t)QNI_WIDEST * plan->shards)
            return QN_FAIL(err, QN_EINVAL, "slots of %" PRId64 " bytes for parts of %d shards: at least %d bytes are needed",
                           x->slot_bytes, plan->shards, (int)QNI_WIDEST * plan->shards);
    }
    for (int32_t t = 0; t < plan->tasks; t++) {
        const qn_task *x = &plan->task[t];
        if (x->op == QN_OP_RECV && plan->channel[x->channel].slices > 1) s->gather[plan->ref[x->out.first]] = true;
    }
    const qn_grid g = qn_plan_grid(plan);
    for (int32_t i = 0; i < plan->stages; i++) {
        if (qn_is_side(g, i)) continue;
        const int32_t first = i - qn_shard(g, i) * qn_column_stages(g), a = plan->worker_of[first], b = plan->worker_of[i];
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

/* --- a joint set */

/* Who holds which shard. */
static void find_shards(const qni_shards *s, qni_joint *j, int32_t first)
{
    const bool forward = s->plan->task[first].op == QN_OP_F;
    const qn_plan *p = s->plan;
    const qn_grid g = qn_plan_grid(p);
    const qn_task *t = &p->task[j->task];
    const int32_t column = qn_replica(g, t->stage) * p->shards;
    int32_t worker[QN_MAX_SHARDS];
    j->peers = 0;
    j->shards = p->shards;
    for (int32_t k = 0; k < p->shards; k++) j->where[k].peer = p->shards; /* not known yet */
    for (int32_t k = 0; k < p->shards; k++) {
        const int32_t stage = qn_stage_at(g, column + k, qn_chain_stage(g, t->stage));
        const int32_t w = forward ? p->worker_of[stage] : qn_backward_worker(p->worker_of, p->backward_of, stage);
        if (w == t->worker) {
            int32_t i = 0;
            while (i < j->count && p->task[first + i].stage != stage) i++;
            QN_ASSERT(i < j->count); /* the validator has seen that they stand together */
            j->where[k] = (qni_where){QN_NONE, i};
            continue;
        }
        int32_t i = 0;
        while (i < j->peers && worker[i] != w) i++;
        if (i == j->peers) {
            const size_t W = (size_t)p->workers;
            worker[j->peers++] = w;
            j->peer[i] = (qni_peer){.out = s->channel[(size_t)t->worker * W + (size_t)w],
                                    .in = s->channel[(size_t)w * W + (size_t)t->worker]};
        }
        j->where[k] = (qni_where){i, qni_meeting_shards(j, i)};
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
        j->what =
            (qn_meeting){.kind = QN_MEET_GATHER, .rows = (int64_t)qn_executor_actual(ex, v)}; /* bytes: see qni_meeting_slice */
        j->member[i].whole = qn_executor_value(ex, v);
    }
    if (j->what.rows == 0) return;
    j->open = j->of_link = true;
    for (int32_t i = 0; i < j->count; i++) {
        qni_member *m = &j->member[i];
        int64_t at;
        (void)qni_meeting_slice(j, m->shard, &at);
        m->mine = m->whole + at;
        m->offered = true;
    }
    qni_meeting_begin(s, j);
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
        qni_member *m = &j->member[i];
        m->joint = j;
        m->shard = qn_shard(qn_plan_grid(s->plan), s->plan->task[first + i].stage);
        m->busy = m->offered = m->ready = false;
    }
    find_shards(s, j, first);
    return first;
}

static void begin_joint(qni_shards *s, qni_joint *j, qn_executor *ex, int32_t task, qni_pass_of *make, void *ctx)
{
    const int32_t first = begin_set(s, j, task);
    for (int32_t i = 0; i < j->count; i++) {
        qni_member *m = &j->member[i];
        m->busy = true;
        const qn_exchange x = {qni_meeting_offer, m};
        m->pass = make(ctx, ex, first + i, &m->mb);
        qn_stage_set_exchange(m->pass.stage, &x);
    }
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
            qni_member *m = &j->member[i];
            while (m->busy && !m->offered) m->busy = qn_pass_step(&m->pass);
            busy |= m->busy;
        }
        if (!busy && !j->open) break;
        if (!was_open) qni_meeting_begin(s, j);
        const qn_status st = qni_meeting_run(s, j, ex, err);
        if (st != QN_OK) return st;
    }
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
        (void)qni_meeting_offer(&j->member[i], &what);
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
            qni_meeting_begin(s, j);
        }
        const qn_status st = qni_meeting_run(s, j, ex, err);
        if (st != QN_OK) return st;
    }
    j->task = QN_NONE;
    return QN_OK;
}
