/* Lowering, vocabulary shards: tasks of the side stages, and what the chain's two ends exchange with them (arXiv:2411.05288).
 *
 *   VI k   out vin(k)                                             F first   in vin(all), out act(first)
 *   VS k   in act(side)           out stash(k), vstat(k), vdx(k) with algorithm 2
 *   VT k   in act(side), stash(k), vstat(all)   acc pgrad(k)      out vdx(k) with algorithm 1
 *   VJ k   in grad(side)          acc the look-ups' pgrad(k)      B first   out grad(side)
 *                                                                 B last    in vdx(all), vstat(all) with algorithm 2, out
 * grad(last)
 *
 * act(side) is the last stage's output, grad(side) the gradient of the first one's input: one copy per worker that holds shards,
 * labelled with the first of them. The first stage's act and the last one's grad are what their tasks fold in shard order: nobody
 * else writes them. All exchanges are messages: broadcast C0 (act), all-gather C1 (vstat), reduction C2 (vdx). In a forward-only
 * plan VT of the last shard reads the statistics alone, for the loss. */
#include "lower_vocab.h"

#include "core/alloc.h"
#include "core/checked.h"

struct qni_vocab {
    int32_t chain, n;                   /* stages of the chain, shards */
    int32_t first, last;                /* workers of the chain's ends */
    int32_t *host;                      /* [workers]: its first shard, QN_NONE */
    int32_t *act, *grad;                /* [workers * items] copies; at the writer's too */
    int32_t *vin, *vin_in;              /* [n * items] at the shard, at the first stage */
    int32_t *vdx, *vdx_in;              /* [n * items] at the shard, at the last stage */
    int32_t *vstat;                     /* [n * workers * items] */
    int32_t *x, *dy;                    /* [items] what the ends fold */
    int32_t *pgrad;                     /* [n] of the look-ups */
    int32_t *act_channel;               /* [workers] from the last stage */
    int32_t *grad_channel;              /* [workers] from the first stage */
    int32_t *vin_channel, *vdx_channel; /* [n] */
    int32_t *vstat_channel;             /* [n * workers] */
};

static uint64_t tag_of(int32_t cls, int32_t stage, int32_t item)
{
    return (uint64_t)(uint32_t)cls << 48 | (uint64_t)(uint32_t)stage << 32 | (uint32_t)item;
}

static int32_t worker_of(const qni_lower *l, int32_t shard)
{
    return l->order->worker_of[l->vocab->chain + shard];
}

static size_t at_worker(const qni_lower *l, int32_t w, int32_t m)
{
    return (size_t)w * (size_t)l->items + (size_t)m;
}

static size_t at_shard(const qni_lower *l, int32_t k, int32_t m)
{
    return (size_t)k * (size_t)l->items + (size_t)m;
}

static size_t stat_at(const qni_lower *l, int32_t k, int32_t w, int32_t m)
{
    return at_worker(l, k * l->workers + w, m);
}

/* Who needs the statistics: holders of shards, and with algorithm 2 the last stage; forward only the last shard. */
static bool wants_stats(const qni_lower *l, int32_t w)
{
    if (!l->training) return w == worker_of(l, l->vocab->n - 1);
    return l->vocab->host[w] != QN_NONE || (l->order->vocab == 2 && w == l->vocab->last);
}

typedef struct vocab_bytes {
    int64_t x, stats, dx, part;
} vocab_bytes;

static vocab_bytes bytes_of(const qni_lower *l)
{
    const qn_lowering *h = l->how;
    return (vocab_bytes){.x = h->vocab_x_bytes > 0 ? h->vocab_x_bytes : 1,
                         .stats = h->vocab_stats_bytes > 0 ? h->vocab_stats_bytes : 1,
                         .dx = h->vocab_dx_bytes > 0 ? h->vocab_dx_bytes : 1,
                         .part = h->vocab_part_bytes > 0 ? h->vocab_part_bytes : 1};
}

bool qni_lower_forward_task(const qn_order *o, const qn_order_task *t)
{
    return t->op == QN_OP_F || t->op == QN_OP_VI || t->op == QN_OP_VS || (t->op == QN_OP_VT && t->stage == o->stages - 1);
}

/* ---- values */

static qn_status take_tables(qni_lower *l, qn_err *err)
{
    struct qni_vocab *v = qn_calloc(1, sizeof *v);
    l->vocab = v;
    if (v == NULL) return QN_FAIL(err, QN_ENOMEM, "plan of %d vocabulary shards", l->order->sides);
    v->n = l->order->sides;
    v->chain = l->stages - v->n;
    v->first = l->order->worker_of[0];
    v->last = l->order->worker_of[v->chain - 1];
    const size_t n = (size_t)v->n, W = (size_t)l->workers, M = (size_t)l->items;
    int32_t **const table[] = {&v->host,  &v->act,         &v->grad,        &v->vin,          &v->vin_in,       &v->vdx,
                               &v->x,     &v->dy,          &v->pgrad,       &v->act_channel,  &v->grad_channel, &v->vdx_in,
                               &v->vstat, &v->vin_channel, &v->vdx_channel, &v->vstat_channel};
    const size_t count[] = {W, W * M, W * M, n * M, n * M, n * M, M, M, n, W, W, n * M, n * W * M, n, n, n * W};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        *table[i] = qn_malloc(count[i], sizeof(int32_t));
        if (*table[i] == NULL) return QN_FAIL(err, QN_ENOMEM, "plan of %d vocabulary shards", v->n);
        for (size_t k = 0; k < count[i]; k++) (*table[i])[k] = QN_NONE;
    }
    for (int32_t k = v->n; k-- > 0;) v->host[worker_of(l, k)] = k;
    return QN_OK;
}

void qni_vocab_fini(struct qni_vocab *v)
{
    if (v == NULL) return;
    int32_t *const table[] = {v->host,  v->act,         v->grad,        v->vin,          v->vin_in,       v->vdx,
                              v->x,     v->dy,          v->pgrad,       v->act_channel,  v->grad_channel, v->vdx_in,
                              v->vstat, v->vin_channel, v->vdx_channel, v->vstat_channel};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) qn_free(table[i]);
    qn_free(v);
}

static void add_channels(qni_lower *l)
{
    struct qni_vocab *v = l->vocab;
    for (int32_t w = 0; w < l->workers; w++) {
        if (v->host[w] == QN_NONE) continue;
        if (w != v->last) v->act_channel[w] = qni_lower_channel(l, v->last, w, QN_V_ACT, v->chain + v->host[w]);
        if (w != v->first && l->training)
            v->grad_channel[w] = qni_lower_channel(l, v->first, w, QN_V_GRAD, v->chain + v->host[w]);
    }
    for (int32_t k = 0; k < v->n; k++) {
        const int32_t w = worker_of(l, k);
        if (w != v->first) v->vin_channel[k] = qni_lower_channel(l, w, v->first, QN_V_VIN, v->chain + k);
        if (w != v->last && l->training) v->vdx_channel[k] = qni_lower_channel(l, w, v->last, QN_V_VDX, v->chain + k);
        for (int32_t to = 0; to < l->workers; to++) {
            if (to != w && wants_stats(l, to))
                v->vstat_channel[k * l->workers + to] = qni_lower_channel(l, w, to, QN_V_VSTAT, v->chain + k);
        }
    }
}

/* A value at its writer and, where another worker reads it, there. */
static void add_pair(qni_lower *l, int32_t *out, int32_t *in, int32_t cls, int32_t stage, int32_t m, int32_t from, int32_t to,
                     int64_t bytes)
{
    *out = qni_add_value(&l->b, cls, stage, m, from, bytes);
    *in = from == to ? *out : qni_add_value(&l->b, cls, stage, m, to, bytes);
}

static void add_item(qni_lower *l, int32_t m)
{
    struct qni_vocab *v = l->vocab;
    qni_builder *b = &l->b;
    const vocab_bytes size = bytes_of(l);
    v->x[m] = qni_add_value(b, QN_V_ACT, 0, m, v->first, size.part);
    if (l->training) v->dy[m] = qni_add_value(b, QN_V_GRAD, v->chain - 1, m, v->last, size.part);
    for (int32_t w = 0; w < l->workers; w++) {
        const int32_t label = v->chain + (v->host[w] == QN_NONE ? 0 : v->host[w]);
        if (w == v->last || v->host[w] != QN_NONE) v->act[at_worker(l, w, m)] = qni_add_value(b, QN_V_ACT, label, m, w, size.x);
        if (l->training && (w == v->first || v->host[w] != QN_NONE))
            v->grad[at_worker(l, w, m)] = qni_add_value(b, QN_V_GRAD, label, m, w, size.part);
    }
    for (int32_t k = 0; k < v->n; k++) {
        const int32_t w = worker_of(l, k), stage = v->chain + k;
        const size_t c = at_shard(l, k, m);
        add_pair(l, &v->vin[c], &v->vin_in[c], QN_V_VIN, stage, m, w, v->first, size.part);
        if (l->training) add_pair(l, &v->vdx[c], &v->vdx_in[c], QN_V_VDX, stage, m, w, v->last, size.dx);
        for (int32_t to = 0; to < l->workers; to++) {
            if (to == w || wants_stats(l, to))
                v->vstat[stat_at(l, k, to, m)] = qni_add_value(b, QN_V_VSTAT, stage, m, to, size.stats);
        }
    }
}

qn_status qni_vocab_values(qni_lower *l, qn_err *err)
{
    if (l->order->sides == 0) return QN_OK;
    const qn_status st = take_tables(l, err);
    if (st != QN_OK) return st;
    struct qni_vocab *v = l->vocab;
    for (int32_t k = 0; k < v->n && l->training; k++) {
        v->pgrad[k] = qni_add_value(&l->b, QN_V_PGRAD, v->chain + k, QN_NONE, worker_of(l, k), 0);
        if (!l->how->step_tasks && !l->b.failed) l->b.value[v->pgrad[k]].carried = true;
    }
    add_channels(l);
    for (int32_t m = 0; m < l->items; m++) add_item(l, m);
    return QN_OK;
}

/* ---- the chain's ends */

/* A value goes from its writer's worker to all others that hold a copy. */
static void broadcast(qni_lower *l, int32_t producer, const int32_t *copy, const int32_t *channel, int32_t cls, int32_t from,
                      int32_t m)
{
    const struct qni_vocab *v = l->vocab;
    qni_add_link(&l->b, producer, QNI_OUT, copy[at_worker(l, from, m)]);
    for (int32_t w = 0; w < l->workers; w++) {
        if (channel[w] != QN_NONE)
            qni_lower_message(l, channel[w], producer, copy[at_worker(l, from, m)], copy[at_worker(l, w, m)],
                              tag_of(cls, v->chain + v->host[w], m));
    }
}

void qni_vocab_forward(qni_lower *l, int32_t t, int32_t s, int32_t m)
{
    struct qni_vocab *v = l->vocab;
    if (v == NULL) return;
    if (s == 0) {
        for (int32_t k = 0; k < v->n; k++) qni_add_link(&l->b, t, QNI_IN, v->vin_in[at_shard(l, k, m)]);
        qni_add_link(&l->b, t, QNI_OUT, v->x[m]);
    }
    if (s == v->chain - 1) broadcast(l, t, v->act, v->act_channel, QN_V_ACT, v->last, m);
}

void qni_vocab_recompute(qni_lower *l, int32_t t, int32_t s, int32_t m)
{
    if (l->vocab != NULL && s == 0) qni_add_link(&l->b, t, QNI_IN, l->vocab->x[m]);
}

void qni_vocab_backward(qni_lower *l, int32_t t, int32_t op, int32_t s, int32_t m)
{
    struct qni_vocab *v = l->vocab;
    if (v == NULL || op == QN_OP_W) return;
    if (s == v->chain - 1) {
        for (int32_t k = 0; k < v->n; k++) qni_add_link(&l->b, t, QNI_IN, v->vdx_in[at_shard(l, k, m)]);
        for (int32_t k = 0; k < v->n && l->order->vocab == 2; k++)
            qni_add_link(&l->b, t, QNI_IN, v->vstat[stat_at(l, k, v->last, m)]);
        qni_add_link(&l->b, t, QNI_OUT, v->dy[m]);
    }
    if (s == 0) broadcast(l, t, v->grad, v->grad_channel, QN_V_GRAD, v->first, m);
}

void qni_vocab_pgrads(qni_lower *l, int32_t t, int32_t w, int32_t side)
{
    struct qni_vocab *v = l->vocab;
    for (int32_t k = 0; v != NULL && k < v->n; k++) {
        if (side != QN_NONE ? v->chain + k == side : worker_of(l, k) == w) qni_add_link(&l->b, t, QNI_IN, v->pgrad[k]);
    }
}

/* ---- tasks of the side stages */

static void send_dx(qni_lower *l, int32_t t, int32_t k, int32_t m)
{
    struct qni_vocab *v = l->vocab;
    const size_t c = at_shard(l, k, m);
    qni_add_link(&l->b, t, QNI_OUT, v->vdx[c]);
    if (v->vdx_channel[k] != QN_NONE)
        qni_lower_message(l, v->vdx_channel[k], t, v->vdx[c], v->vdx_in[c], tag_of(QN_V_VDX, v->chain + k, m));
}

static void add_scores(qni_lower *l, int32_t t, int32_t k, int32_t m)
{
    struct qni_vocab *v = l->vocab;
    const int32_t w = worker_of(l, k), own = v->vstat[stat_at(l, k, w, m)];
    qni_add_link(&l->b, t, QNI_IN, v->act[at_worker(l, w, m)]);
    if (l->how->step_tasks) qni_add_link(&l->b, t, QNI_IN, l->param[v->chain + k]);
    qni_add_link(&l->b, t, QNI_OUT, l->stash[qni_cell(l, v->chain + k, m)]);
    qni_add_link(&l->b, t, QNI_OUT, own);
    for (int32_t to = 0; to < l->workers; to++) {
        const int32_t channel = v->vstat_channel[k * l->workers + to];
        if (channel != QN_NONE)
            qni_lower_message(l, channel, t, own, v->vstat[stat_at(l, k, to, m)], tag_of(QN_V_VSTAT, v->chain + k, m));
    }
    if (l->training && l->order->vocab == 2) send_dx(l, t, k, m);
}

static void add_gradients(qni_lower *l, int32_t t, int32_t k, int32_t m)
{
    struct qni_vocab *v = l->vocab;
    const int32_t w = worker_of(l, k);
    for (int32_t j = 0; j < v->n; j++) qni_add_link(&l->b, t, QNI_IN, v->vstat[stat_at(l, j, w, m)]);
    if (!l->training) return;
    qni_add_link(&l->b, t, QNI_IN, v->act[at_worker(l, w, m)]);
    qni_add_link(&l->b, t, QNI_IN, l->stash[qni_cell(l, v->chain + k, m)]);
    if (l->how->step_tasks) qni_add_link(&l->b, t, QNI_IN, l->param[v->chain + k]);
    qni_add_link(&l->b, t, QNI_ACC, l->pgrad[v->chain + k]);
    if (l->order->vocab == 1) send_dx(l, t, k, m);
}

void qni_vocab_task(qni_lower *l, const qn_order_task *o, int32_t w)
{
    struct qni_vocab *v = l->vocab;
    const int32_t k = o->stage - v->chain, m = o->item;
    if (o->op == QN_OP_VS && l->how->step_tasks && !l->packed[o->stage]) {
        l->packed[o->stage] = true;
        qni_add_link(&l->b, qni_lower_comp(l, QN_OP_PACK, o->stage, QN_NONE, w), QNI_OUT, l->param[o->stage]);
    }
    const int32_t t = qni_lower_comp(l, o->op, o->stage, m, w);
    switch (o->op) {
    case QN_OP_VI:
        qni_add_link(&l->b, t, QNI_OUT, v->vin[at_shard(l, k, m)]);
        if (v->vin_channel[k] != QN_NONE)
            qni_lower_message(l, v->vin_channel[k], t, v->vin[at_shard(l, k, m)], v->vin_in[at_shard(l, k, m)],
                              tag_of(QN_V_VIN, o->stage, m));
        break;
    case QN_OP_VS:
        add_scores(l, t, k, m);
        break;
    case QN_OP_VT:
        add_gradients(l, t, k, m);
        break;
    default:
        qni_add_link(&l->b, t, QNI_IN, v->grad[at_worker(l, w, m)]);
        qni_add_link(&l->b, t, QNI_ACC, v->pgrad[k]);
    }
}
