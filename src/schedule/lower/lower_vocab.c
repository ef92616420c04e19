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
 * plan VT of the last shard reads the statistics alone, for the loss.
 *
 * With t tensor shards each of a replica's t columns has its side stages, and what they exchange with the ends stays within the
 * column: its ends make sums over the columns while their joint tasks run. The statistics alone go to all columns. */
#include "lower_vocab.h"

#include "core/alloc.h"
#include "core/checked.h"

struct qni_vocab {
    qn_grid g;
    int32_t n;             /* shards of each column */
    size_t cells;          /* items of all columns: an item runs on all columns of its replica */
    int32_t *first, *last; /* [columns] workers of the chain's ends */
    int32_t *host;         /* [columns * workers]: its first shard there, QN_NONE */
    /* By item and column: */
    int32_t *act, *grad;   /* [workers * cells] copies; at the writer's too */
    int32_t *vin, *vin_in; /* [n * cells] at the shard, at the first stage */
    int32_t *vdx, *vdx_in; /* [n * cells] at the shard, at the last stage */
    int32_t *vstat;        /* [n * workers * cells] of each column's shards, at all who want them */
    int32_t *x, *dy;       /* [cells] what the ends fold */
    /* By column: */
    int32_t *pgrad;                     /* [columns * n] of the look-ups */
    int32_t *act_channel;               /* [columns * workers] from the last stage */
    int32_t *grad_channel;              /* [columns * workers] from the first stage */
    int32_t *vin_channel, *vdx_channel; /* [columns * n] */
    int32_t *vstat_channel;             /* [columns * n * workers] */
};

static uint64_t tag_of(int32_t cls, int32_t stage, int32_t item)
{
    return (uint64_t)(uint32_t)cls << 48 | (uint64_t)(uint32_t)stage << 32 | (uint32_t)item;
}

/* The columns that run an item: first_column .. first_column + shards - 1. */
static int32_t first_column(const qni_lower *l, int32_t item)
{
    return item / qn_items_each(l->vocab->g) * l->vocab->g.shards;
}

static size_t cell_at(const qni_lower *l, int32_t column, int32_t item)
{
    const qn_grid g = l->vocab->g;
    return (size_t)item * (size_t)g.shards + (size_t)(column % g.shards);
}

static int32_t stage_of(const qni_lower *l, int32_t column, int32_t shard)
{
    return qn_stage_at(l->vocab->g, column, qn_depth(l->vocab->g) + shard);
}

static int32_t worker_of(const qni_lower *l, int32_t column, int32_t shard)
{
    return l->order->worker_of[stage_of(l, column, shard)];
}

/* For worker w, or the k-th shard, of a column. */
static size_t at(const qni_lower *l, int32_t k, int32_t column, int32_t m)
{
    return (size_t)k * l->vocab->cells + cell_at(l, column, m);
}

static size_t stat_at(const qni_lower *l, int32_t column, int32_t k, int32_t w, int32_t m)
{
    return at(l, k * l->workers + w, column, m);
}

/* A column's entry for a worker; for a shard. */
static size_t of_worker(const qni_lower *l, int32_t column, int32_t w)
{
    return (size_t)column * (size_t)l->workers + (size_t)w;
}

static size_t of_shard(const qni_lower *l, int32_t column, int32_t k)
{
    return (size_t)column * (size_t)l->vocab->n + (size_t)k;
}

static int32_t stat_channel(const qni_lower *l, int32_t column, int32_t k, int32_t to)
{
    return l->vocab->vstat_channel[of_shard(l, column, k) * (size_t)l->workers + (size_t)to];
}

/* The side stage whose name the copies of a worker have. */
static int32_t label_of(const qni_lower *l, int32_t column, int32_t w)
{
    return stage_of(l, column, qn_max32(l->vocab->host[of_worker(l, column, w)], 0));
}

static bool has_shard(const qni_lower *l, int32_t column, int32_t w)
{
    return l->vocab->host[of_worker(l, column, w)] != QN_NONE;
}

/* Who needs the statistics of all the replica's columns: holders of shards, and with algorithm 2 the last stages; forward only
 * the last shards. */
static bool wants_stats(const qni_lower *l, int32_t column, int32_t w)
{
    const int32_t first = column - column % l->vocab->g.shards;
    bool wants = false;
    for (int32_t c = first; c < first + l->vocab->g.shards; c++) {
        if (!l->training)
            wants = wants || w == worker_of(l, c, l->vocab->n - 1);
        else
            wants = wants || has_shard(l, c, w) || (l->order->vocab == 2 && w == l->vocab->last[c]);
    }
    return wants;
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
    const qn_grid g = qn_order_grid(o);
    return t->op == QN_OP_F || t->op == QN_OP_VI || t->op == QN_OP_VS ||
           (t->op == QN_OP_VT && qn_chain_stage(g, t->stage) == qn_column_stages(g) - 1);
}

/* ---- values */

static qn_status take_tables(qni_lower *l, qn_err *err)
{
    struct qni_vocab *v = qn_calloc(1, sizeof *v);
    l->vocab = v;
    if (v == NULL) return QN_FAIL(err, QN_ENOMEM, "plan of %d vocabulary shards", l->order->sides);
    v->g = qn_order_grid(l->order);
    v->n = l->order->sides;
    v->cells = (size_t)l->items * (size_t)v->g.shards;
    const size_t n = (size_t)v->n, W = (size_t)l->workers, M = v->cells, C = (size_t)v->g.columns;
    int32_t **const table[] = {&v->first,       &v->last,        &v->host,         &v->act,         &v->grad,
                               &v->vin,         &v->vin_in,      &v->vdx,          &v->vdx_in,      &v->x,
                               &v->dy,          &v->pgrad,       &v->vstat,        &v->act_channel, &v->grad_channel,
                               &v->vin_channel, &v->vdx_channel, &v->vstat_channel};
    const size_t count[] = {C, C, C * W, W * M,     W * M, n * M, n * M, n * M, n * M,
                            M, M, C * n, n * W * M, C * W, C * W, C * n, C * n, C * n * W};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        *table[i] = qn_malloc(count[i], sizeof(int32_t));
        if (*table[i] == NULL) return QN_FAIL(err, QN_ENOMEM, "plan of %d vocabulary shards", v->n);
        for (size_t k = 0; k < count[i]; k++) (*table[i])[k] = QN_NONE;
    }
    for (int32_t c = 0; c < v->g.columns; c++) {
        v->first[c] = l->order->worker_of[qn_stage_at(v->g, c, 0)];
        v->last[c] = l->order->worker_of[qn_stage_at(v->g, c, qn_depth(v->g) - 1)];
        for (int32_t k = v->n; k-- > 0;) v->host[of_worker(l, c, worker_of(l, c, k))] = k;
    }
    return QN_OK;
}

void qni_vocab_fini(struct qni_vocab *v)
{
    if (v == NULL) return;
    int32_t *const table[] = {v->first,  v->last,        v->host,         v->act,         v->grad,        v->vin,
                              v->vin_in, v->vdx,         v->vdx_in,       v->x,           v->dy,          v->pgrad,
                              v->vstat,  v->act_channel, v->grad_channel, v->vin_channel, v->vdx_channel, v->vstat_channel};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) qn_free(table[i]);
    qn_free(v);
}

static void add_channels(qni_lower *l, int32_t c)
{
    struct qni_vocab *v = l->vocab;
    for (int32_t w = 0; w < l->workers; w++) {
        if (!has_shard(l, c, w)) continue;
        const size_t its = of_worker(l, c, w);
        const int32_t label = label_of(l, c, w);
        if (w != v->last[c]) v->act_channel[its] = qni_lower_channel(l, v->last[c], w, QN_V_ACT, label);
        if (w != v->first[c] && l->training) v->grad_channel[its] = qni_lower_channel(l, v->first[c], w, QN_V_GRAD, label);
    }
    for (int32_t k = 0; k < v->n; k++) {
        const int32_t w = worker_of(l, c, k), stage = stage_of(l, c, k);
        const size_t its = of_shard(l, c, k);
        if (w != v->first[c]) v->vin_channel[its] = qni_lower_channel(l, w, v->first[c], QN_V_VIN, stage);
        if (w != v->last[c] && l->training) v->vdx_channel[its] = qni_lower_channel(l, w, v->last[c], QN_V_VDX, stage);
        for (int32_t to = 0; to < l->workers; to++) {
            if (to != w && wants_stats(l, c, to))
                v->vstat_channel[its * (size_t)l->workers + (size_t)to] = qni_lower_channel(l, w, to, QN_V_VSTAT, stage);
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

/* An item's values in one of its columns. */
static void add_cell(qni_lower *l, int32_t c, int32_t m)
{
    struct qni_vocab *v = l->vocab;
    qni_builder *b = &l->b;
    const vocab_bytes size = bytes_of(l);
    const size_t cell = cell_at(l, c, m);
    const int32_t first = v->first[c], last = v->last[c];
    v->x[cell] = qni_add_value(b, QN_V_ACT, qn_stage_at(v->g, c, 0), m, first, size.part);
    if (l->training) v->dy[cell] = qni_add_value(b, QN_V_GRAD, qn_stage_at(v->g, c, qn_depth(v->g) - 1), m, last, size.part);
    for (int32_t w = 0; w < l->workers; w++) {
        const int32_t label = label_of(l, c, w);
        if (w == last || has_shard(l, c, w)) v->act[at(l, w, c, m)] = qni_add_value(b, QN_V_ACT, label, m, w, size.x);
        if (l->training && (w == first || has_shard(l, c, w)))
            v->grad[at(l, w, c, m)] = qni_add_value(b, QN_V_GRAD, label, m, w, size.part);
    }
    for (int32_t k = 0; k < v->n; k++) {
        const int32_t w = worker_of(l, c, k), stage = stage_of(l, c, k);
        const size_t own = at(l, k, c, m);
        add_pair(l, &v->vin[own], &v->vin_in[own], QN_V_VIN, stage, m, w, first, size.part);
        if (l->training) add_pair(l, &v->vdx[own], &v->vdx_in[own], QN_V_VDX, stage, m, w, last, size.dx);
        for (int32_t to = 0; to < l->workers; to++) {
            if (to == w || wants_stats(l, c, to))
                v->vstat[stat_at(l, c, k, to, m)] = qni_add_value(b, QN_V_VSTAT, stage, m, to, size.stats);
        }
    }
}

qn_status qni_vocab_values(qni_lower *l, qn_err *err)
{
    if (l->order->sides == 0) return QN_OK;
    const qn_status st = take_tables(l, err);
    if (st != QN_OK) return st;
    struct qni_vocab *v = l->vocab;
    for (int32_t c = 0; c < v->g.columns; c++) {
        for (int32_t k = 0; k < v->n && l->training; k++) {
            int32_t *p = &v->pgrad[of_shard(l, c, k)];
            *p = qni_add_value(&l->b, QN_V_PGRAD, stage_of(l, c, k), QN_NONE, worker_of(l, c, k), 0);
            if (!l->how->step_tasks && !l->b.failed) l->b.value[*p].carried = true;
        }
        add_channels(l, c);
    }
    for (int32_t m = 0; m < l->items; m++)
        for (int32_t k = 0; k < v->g.shards; k++) add_cell(l, first_column(l, m) + k, m);
    return QN_OK;
}

/* ---- the chain's ends */

/* A value goes from its writer's worker to all others that hold a copy. channel: of the column. */
static void broadcast(qni_lower *l, int32_t producer, const int32_t *copy, const int32_t *channel, int32_t cls, int32_t from,
                      int32_t c, int32_t m)
{
    qni_add_link(&l->b, producer, QNI_OUT, copy[at(l, from, c, m)]);
    for (int32_t w = 0; w < l->workers; w++) {
        const int32_t to = channel[of_worker(l, c, w)];
        if (to != QN_NONE)
            qni_lower_message(l, to, producer, copy[at(l, from, c, m)], copy[at(l, w, c, m)], tag_of(cls, label_of(l, c, w), m));
    }
}

/* Task t on worker w reads the statistics of all shards of all columns of the item. */
static void read_stats(qni_lower *l, int32_t t, int32_t w, int32_t m)
{
    struct qni_vocab *v = l->vocab;
    for (int32_t c = first_column(l, m); c < first_column(l, m) + v->g.shards; c++)
        for (int32_t k = 0; k < v->n; k++) qni_add_link(&l->b, t, QNI_IN, v->vstat[stat_at(l, c, k, w, m)]);
}

void qni_vocab_forward(qni_lower *l, int32_t t, int32_t s, int32_t m)
{
    struct qni_vocab *v = l->vocab;
    if (v == NULL) return;
    const int32_t c = qn_column(v->g, s);
    if (qn_first_in_column(v->g, s)) {
        for (int32_t k = 0; k < v->n; k++) qni_add_link(&l->b, t, QNI_IN, v->vin_in[at(l, k, c, m)]);
        qni_add_link(&l->b, t, QNI_OUT, v->x[cell_at(l, c, m)]);
    }
    if (qn_last_in_column(v->g, s)) broadcast(l, t, v->act, v->act_channel, QN_V_ACT, v->last[c], c, m);
}

void qni_vocab_recompute(qni_lower *l, int32_t t, int32_t s, int32_t m)
{
    struct qni_vocab *v = l->vocab;
    if (v != NULL && qn_first_in_column(v->g, s)) qni_add_link(&l->b, t, QNI_IN, v->x[cell_at(l, qn_column(v->g, s), m)]);
}

void qni_vocab_backward(qni_lower *l, int32_t t, int32_t op, int32_t s, int32_t m)
{
    struct qni_vocab *v = l->vocab;
    if (v == NULL) return;
    const int32_t c = qn_column(v->g, s);
    if (qn_first_in_column(v->g, s) && l->how->recompute == QN_RECOMPUTE_PART)
        qni_add_link(&l->b, t, QNI_IN, v->x[cell_at(l, c, m)]);
    if (op == QN_OP_W) return;
    if (qn_last_in_column(v->g, s)) {
        for (int32_t k = 0; k < v->n; k++) qni_add_link(&l->b, t, QNI_IN, v->vdx_in[at(l, k, c, m)]);
        if (l->order->vocab == 2) read_stats(l, t, v->last[c], m);
        qni_add_link(&l->b, t, QNI_OUT, v->dy[cell_at(l, c, m)]);
    }
    if (qn_first_in_column(v->g, s)) broadcast(l, t, v->grad, v->grad_channel, QN_V_GRAD, v->first[c], c, m);
}

void qni_vocab_pgrads(qni_lower *l, int32_t t, int32_t w, int32_t side)
{
    struct qni_vocab *v = l->vocab;
    for (int32_t c = 0; v != NULL && c < v->g.columns; c++) {
        for (int32_t k = 0; k < v->n; k++)
            if (side != QN_NONE ? stage_of(l, c, k) == side : worker_of(l, c, k) == w)
                qni_add_link(&l->b, t, QNI_IN, v->pgrad[of_shard(l, c, k)]);
    }
}

/* ---- tasks of the side stages: the k-th of column c */

static void send_dx(qni_lower *l, int32_t t, int32_t c, int32_t k, int32_t m)
{
    struct qni_vocab *v = l->vocab;
    const size_t own = at(l, k, c, m);
    const int32_t channel = v->vdx_channel[of_shard(l, c, k)];
    qni_add_link(&l->b, t, QNI_OUT, v->vdx[own]);
    if (channel != QN_NONE) qni_lower_message(l, channel, t, v->vdx[own], v->vdx_in[own], tag_of(QN_V_VDX, stage_of(l, c, k), m));
}

static void add_scores(qni_lower *l, int32_t t, int32_t c, int32_t k, int32_t m)
{
    struct qni_vocab *v = l->vocab;
    const int32_t w = worker_of(l, c, k), stage = stage_of(l, c, k), own = v->vstat[stat_at(l, c, k, w, m)];
    qni_add_link(&l->b, t, QNI_IN, v->act[at(l, w, c, m)]);
    if (l->how->step_tasks) qni_add_link(&l->b, t, QNI_IN, l->param[stage]);
    qni_add_link(&l->b, t, QNI_OUT, l->stash[qni_cell(l, stage, m)]);
    qni_add_link(&l->b, t, QNI_OUT, own);
    for (int32_t to = 0; to < l->workers; to++) {
        const int32_t channel = stat_channel(l, c, k, to);
        if (channel != QN_NONE)
            qni_lower_message(l, channel, t, own, v->vstat[stat_at(l, c, k, to, m)], tag_of(QN_V_VSTAT, stage, m));
    }
    if (l->training && l->order->vocab == 2) send_dx(l, t, c, k, m);
}

static void add_gradients(qni_lower *l, int32_t t, int32_t c, int32_t k, int32_t m)
{
    struct qni_vocab *v = l->vocab;
    const int32_t w = worker_of(l, c, k), stage = stage_of(l, c, k);
    read_stats(l, t, w, m);
    if (!l->training) return;
    qni_add_link(&l->b, t, QNI_IN, v->act[at(l, w, c, m)]);
    qni_add_link(&l->b, t, QNI_IN, l->stash[qni_cell(l, stage, m)]);
    if (l->how->step_tasks) qni_add_link(&l->b, t, QNI_IN, l->param[stage]);
    qni_add_link(&l->b, t, QNI_ACC, l->pgrad[stage]);
    l->last_add[stage] = t;
    if (l->order->vocab == 1) send_dx(l, t, c, k, m);
}

void qni_vocab_task(qni_lower *l, const qn_order_task *o, int32_t w)
{
    struct qni_vocab *v = l->vocab;
    const int32_t k = qn_chain_stage(v->g, o->stage) - qn_depth(v->g), m = o->item, c = qn_column(v->g, o->stage);
    if (o->op == QN_OP_VS && l->how->step_tasks && !l->packed[o->stage]) {
        l->packed[o->stage] = true;
        qni_add_link(&l->b, qni_lower_comp(l, QN_OP_PACK, o->stage, QN_NONE, w), QNI_OUT, l->param[o->stage]);
    }
    const int32_t t = qni_lower_comp(l, o->op, o->stage, m, w), vin = v->vin_channel[of_shard(l, c, k)];
    const size_t own = at(l, k, c, m);
    switch (o->op) {
    case QN_OP_VI:
        qni_add_link(&l->b, t, QNI_OUT, v->vin[own]);
        if (vin != QN_NONE) qni_lower_message(l, vin, t, v->vin[own], v->vin_in[own], tag_of(QN_V_VIN, o->stage, m));
        break;
    case QN_OP_VS:
        add_scores(l, t, c, k, m);
        break;
    case QN_OP_VT:
        add_gradients(l, t, c, k, m);
        break;
    default:
        qni_add_link(&l->b, t, QNI_IN, v->grad[at(l, w, c, m)]);
        qni_add_link(&l->b, t, QNI_ACC, v->pgrad[of_shard(l, c, k)]);
        l->last_add[o->stage] = t;
    }
}
