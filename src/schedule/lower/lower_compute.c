/* Lowering, passes bind and recompute: the comp lane of each worker and the values that its tasks read and write.
 *
 *   F   in act(s)                          out act(s + 1), stash(s); with R to come the stash lives during F only
 *   R   in act(s)                          out stash(s)
 *   B   in grad(s), act(s), stash(s)       out grad(s - 1), wstash(s)
 *   W   in act(s), stash(s), wstash(s)     acc pgrad(s)
 *   BW  in grad(s), act(s), stash(s)       out grad(s - 1), acc pgrad(s)
 *
 * Where a part of the stash is made again (QN_RECOMPUTE_PART) the rest lives from F on: R reads it and writes rstash(s), and
 * backward reads both. A late R reads grad(s) too, for the time at which it runs.
 *
 * Stage 0 has no act, the last stage no grad. A value that crosses workers exists twice: at its writer and at its reader. Where a
 * backward runs on another worker than its forward (backward_of), act(s) goes on from the one to the other behind F, and R makes
 * the stash there. */
#include <string.h>

#include "core/alloc.h"
#include "lower_vocab.h"

static bool is_backward(int32_t op)
{
    return op == QN_OP_B || op == QN_OP_BW;
}

/* Are the two one op of one item on shards of one stage (or the same task)? */
static bool joint(const qni_lower *l, const qn_order_task *a, const qn_order_task *b)
{
    const qn_grid g = qn_order_grid(l->order);
    return a->op == b->op && a->item == b->item && qn_chain_stage(g, a->stage) == qn_chain_stage(g, b->stage);
}

/* Does backward i come right after the forward of its stage and item, but for the same tasks of other shards? */
static bool follows_forward(const qni_lower *l, const qn_order_task *list, int32_t i)
{
    const qn_order_task *backward = &list[i];
    qn_order_task forward = *backward;
    forward.op = QN_OP_F;
    while (--i >= 0 && joint(l, &list[i], backward)) {}
    for (; i >= 0 && joint(l, &list[i], &forward); i--)
        if (list[i].stage == backward->stage) return true;
    return false;
}

/* Does R of this stage make a part of its stash again, beside the rest? */
static bool remakes_part(const qni_lower *l, int32_t s)
{
    return l->how->recompute == QN_RECOMPUTE_PART && l->how->rstash_bytes != NULL && l->how->rstash_bytes[s] > 0;
}

/* mark_recompute on one worker. */
static void mark_on_worker(qni_lower *l, int32_t s, int32_t w)
{
    const qn_order *o = l->order;
    const bool moved = qni_back_worker(l, s) != o->worker_of[s]; /* nothing of the forward is there */
    const qn_order_task *list = o->task[w];
    int32_t kept = 0, first_backward = QN_NONE; /* of those that the order has no R for */
    for (int32_t i = 0; i < o->count[w]; i++) {
        if (list[i].stage != s) continue;
        bool *r = &l->has_r[qni_cell(l, s, list[i].item)];
        if (list[i].op == QN_OP_R) *r = true;
        if (!is_backward(list[i].op) || (l->how->recompute == QN_RECOMPUTE_NONE && !moved)) continue;
        if (*r) continue; /* written out */
        if (l->how->recompute == QN_RECOMPUTE_PART && !moved && !remakes_part(l, s)) continue;
        if (first_backward == QN_NONE) first_backward = list[i].item;
        const bool follows = !moved && follows_forward(l, list, i);
        if (follows && l->how->recompute == QN_RECOMPUTE_EXCEPT_LAST)
            kept++;
        else
            *r = true;
    }
    if (l->how->recompute == QN_RECOMPUTE_EXCEPT_LAST && kept == 0 && first_backward != QN_NONE && !moved)
        l->has_r[qni_cell(l, s, first_backward)] = false;
}

/* The items whose activations are made again, for one stage: all, or all but those whose backward follows right after their
 * forward (or, where there is none, the one whose backward comes first). An R written in the order counts as asked for. */
static void mark_recompute(qni_lower *l, int32_t s)
{
    const qn_order *o = l->order;
    const qn_grid g = qn_order_grid(o);
    if (qn_shard(g, s) > 0) { /* as on the first shard */
        const int32_t of = s - qn_shard(g, s) * qn_column_stages(g);
        for (int32_t m = 0; m < l->items; m++) l->has_r[qni_cell(l, s, m)] = l->has_r[qni_cell(l, of, m)];
        return;
    }
    const bool rounds = qn_rounds(o->items, o->round) > 1; /* they may be on any worker */
    for (int32_t w = 0; w < o->workers; w++)
        if (rounds || w == qni_back_worker(l, s)) mark_on_worker(l, s, w);
}

static int64_t size_of(const int64_t *given, const int64_t *said, int32_t s)
{
    return given != NULL ? given[s] : said != NULL ? said[s] : 1;
}

static qn_status check_sizes(const qni_lower *l, qn_err *err)
{
    const qn_order *o = l->order;
    for (int32_t s = 0; s < l->stages; s++) {
        const int64_t again = remakes_part(l, s) ? l->how->rstash_bytes[s] : 0;
        if (again > 0 && qni_back_worker(l, s) != o->worker_of[s])
            return QN_FAIL(err, QN_EINVAL,
                           "stage %d goes back on another worker than it goes forward on: a part made again early needs what the "
                           "forward kept; make it again late (inside backward), or all of it",
                           s);
        const int64_t size[] = {again, size_of(l->how->act_bytes, o->act_bytes, s),
                                size_of(l->how->stash_bytes, o->stash_bytes, s),
                                size_of(l->how->wstash_bytes, o->wstash_bytes, s)};
        for (int32_t k = 0; k < 4; k++) {
            if (size[k] < 0 || size[k] > INT64_MAX / 4096)
                return QN_FAIL(err, QN_ERANGE, "stage %d: a value of %lld bytes is out of range", s, (long long)size[k]);
        }
    }
    return QN_OK;
}

/* One (stage, item): its values. */
static void add_values(qni_lower *l, int32_t s, int32_t m)
{
    const qn_order *o = l->order;
    qni_builder *b = &l->b;
    const size_t c = qni_cell(l, s, m);
    const int32_t w = qni_at_round(l, o->worker_of[s], m), back = qni_at_round(l, qni_back_worker(l, s), m);
    if (!qn_first_in_column(qn_order_grid(o), s)) {
        const int64_t bytes = size_of(l->how->act_bytes, o->act_bytes, s);
        const int32_t before = qni_at_round(l, o->worker_of[s - 1], m),
                      back_before = qni_at_round(l, qni_back_worker(l, s - 1), m);
        l->act_in[c] = qni_add_value(b, QN_V_ACT, s, m, w, bytes);
        l->act_out[c] = before == w ? l->act_in[c] : qni_add_value(b, QN_V_ACT, s, m, before, bytes);
        l->act_back[c] = l->act_in[c];
        if (l->training) { /* of the output of stage s - 1, as large as the input of s */
            const size_t g = qni_cell(l, s - 1, m);
            l->grad_in[g] = qni_add_value(b, QN_V_GRAD, s - 1, m, back_before, bytes);
            l->grad_out[g] = back_before == back ? l->grad_in[g] : qni_add_value(b, QN_V_GRAD, s - 1, m, back, bytes);
            if (back != w) l->act_back[c] = qni_add_value(b, QN_V_ACT, s, m, back, bytes);
        }
    }
    l->stash[c] = qni_add_value(b, QN_V_STASH, s, m, l->training ? back : w, size_of(l->how->stash_bytes, o->stash_bytes, s));
}

/* Of one stage in one round: its gradients, its channels. */
static void add_links(qni_lower *l, int32_t s, int32_t round)
{
    const int32_t m = round * l->order->round;
    const size_t at = qni_round_row(l, s, m);
    const int32_t w = qni_at_round(l, l->order->worker_of[s], m), back = qni_at_round(l, qni_back_worker(l, s), m);
    if (l->training) l->pgrad[at] = qni_add_value(&l->b, QN_V_PGRAD, s, QN_NONE, back, 0);
    if (l->training && !l->how->step_tasks && !l->b.failed) l->b.value[l->pgrad[at]].carried = true;
    if (qn_is_side(qn_order_grid(l->order), s) || qn_first_in_column(qn_order_grid(l->order), s)) return;
    const int32_t before = qni_at_round(l, l->order->worker_of[s - 1], m),
                  back_before = qni_at_round(l, qni_back_worker(l, s - 1), m);
    if (before != w) l->act_channel[at] = qni_lower_channel(l, before, w, QN_V_ACT, s);
    if (l->training && back_before != back) l->grad_channel[at] = qni_lower_channel(l, back, back_before, QN_V_GRAD, s);
    if (l->training && back != w) l->back_channel[at] = qni_lower_channel(l, w, back, QN_V_ACT, s);
}

qn_status qni_lower_values(qni_lower *l, qn_err *err)
{
    const size_t cells = (size_t)l->stages * (size_t)l->items;
    int32_t **const table[] = {&l->act_in, &l->act_out, &l->grad_in,  &l->grad_out,
                               &l->wstash, &l->stash,   &l->act_back, &l->rstash};
    bool room = true;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        room = (*table[i] = qn_calloc(cells, sizeof(int32_t))) != NULL && room;
    l->has_r = qn_calloc(cells, sizeof *l->has_r);
    l->param = qn_calloc((size_t)l->stages, sizeof *l->param);
    const size_t rows = (size_t)qn_rounds(l->items, l->order->round) * (size_t)l->stages;
    l->pgrad = qn_calloc(rows, sizeof *l->pgrad);
    l->act_channel = qn_calloc(rows, sizeof *l->act_channel);
    l->grad_channel = qn_calloc(rows, sizeof *l->grad_channel);
    l->back_channel = qn_calloc(rows, sizeof *l->back_channel);
    l->packed = qn_calloc((size_t)l->stages, sizeof *l->packed);
    const size_t backs = (size_t)l->stages * (size_t)qn_replicas(qn_order_grid(l->order));
    l->last_add = qn_calloc((size_t)l->stages, sizeof *l->last_add);
    l->sum_task = qn_malloc((size_t)l->stages, sizeof *l->sum_task);
    l->sum_back = qn_malloc(backs, sizeof *l->sum_back);
    l->pos = qn_calloc((size_t)l->workers, sizeof *l->pos);
    if (!room || l->has_r == NULL || l->param == NULL || l->pgrad == NULL || l->act_channel == NULL || l->grad_channel == NULL ||
        l->back_channel == NULL || l->packed == NULL || l->last_add == NULL || l->sum_task == NULL || l->sum_back == NULL ||
        l->pos == NULL)
        return QN_FAIL(err, QN_ENOMEM, "plan of %d stages and %d micro-batches", l->stages, l->items);
    memset(l->sum_task, 0xff, (size_t)l->stages * sizeof *l->sum_task); /* QN_NONE everywhere */
    memset(l->sum_back, 0xff, backs * sizeof *l->sum_back);
    for (size_t c = 0; c < cells; c++) l->rstash[c] = QN_NONE;
    const qn_grid g = qn_order_grid(l->order);
    qn_status st = check_sizes(l, err);
    if (st != QN_OK) return st;
    for (int32_t s = 0; s < l->stages; s++) {
        const int32_t w = l->order->worker_of[s];
        if (l->how->step_tasks) l->param[s] = qni_add_value(&l->b, QN_V_PARAM, s, QN_NONE, w, 0);
        for (int32_t r = 0; r < qn_rounds(l->items, l->order->round); r++) add_links(l, s, r);
        if (qn_is_side(g, s)) { /* only its probabilities are as in the chain */
            for (int32_t m = qn_first_item(g, s); m < qn_first_item(g, s) + qn_items_each(g); m++)
                l->stash[qni_cell(l, s, m)] =
                    qni_add_value(&l->b, QN_V_STASH, s, m, w, size_of(l->how->stash_bytes, l->order->stash_bytes, s));
            continue;
        }
        for (int32_t m = qn_first_item(g, s); m < qn_first_item(g, s) + qn_items_each(g); m++) add_values(l, s, m);
        if (l->training) mark_recompute(l, s);
    }
    return QN_OK;
}

static uint64_t tag_of(int32_t cls, int32_t stage, int32_t item)
{
    return (uint64_t)(uint32_t)cls << 48 | (uint64_t)(uint32_t)stage << 32 | (uint32_t)item;
}

static void add_forward(qni_lower *l, int32_t s, int32_t m)
{
    const int32_t w = qni_at_round(l, l->order->worker_of[s], m), t = qni_lower_comp(l, QN_OP_F, s, m, w);
    const size_t c = qni_cell(l, s, m);
    const qn_grid g = qn_order_grid(l->order);
    if (!qn_first_in_column(g, s)) qni_add_link(&l->b, t, QNI_IN, l->act_in[c]);
    if (l->how->step_tasks) qni_add_link(&l->b, t, QNI_IN, l->param[s]);
    if (!qn_last_in_column(g, s)) {
        const size_t next = qni_cell(l, s + 1, m);
        qni_add_link(&l->b, t, QNI_OUT, l->act_out[next]);
        if (l->act_out[next] != l->act_in[next])
            qni_lower_message(l, l->act_channel[qni_round_row(l, s + 1, m)], t, l->act_out[next], l->act_in[next],
                              tag_of(QN_V_ACT, s + 1, m));
    }
    qni_vocab_forward(l, t, s, m);
    if (l->act_back[c] != l->act_in[c])
        qni_lower_message(l, l->back_channel[qni_round_row(l, s, m)], t, l->act_in[c], l->act_back[c], tag_of(QN_V_ACT, s, m));
    const int64_t bytes = l->b.failed ? 0 : l->b.value[l->stash[c]].bytes;
    const bool again = (l->has_r[c] && !remakes_part(l, s)) || (l->training && qni_back_worker(l, s) != l->order->worker_of[s]);
    qni_add_link(&l->b, t, QNI_OUT, again ? qni_add_value(&l->b, QN_V_STASH, s, m, w, bytes) : l->stash[c]);
}

static void add_recompute(qni_lower *l, int32_t s, int32_t m)
{
    const int32_t w = qni_at_round(l, qni_back_worker(l, s), m), t = qni_lower_comp(l, QN_OP_R, s, m, w);
    const size_t c = qni_cell(l, s, m);
    const bool late = l->how->recompute_late && !qn_last_in_column(qn_order_grid(l->order), s);
    if (late) qni_add_link(&l->b, t, QNI_IN, l->grad_in[c]);
    if (!qn_first_in_column(qn_order_grid(l->order), s)) qni_add_link(&l->b, t, QNI_IN, l->act_back[c]);
    if (l->how->step_tasks) qni_add_link(&l->b, t, QNI_IN, l->param[s]);
    qni_vocab_recompute(l, t, s, m);
    if (remakes_part(l, s)) {
        qni_add_link(&l->b, t, QNI_IN, l->stash[c]);
        l->rstash[c] = qni_add_value(&l->b, QN_V_RSTASH, s, m, w, l->how->rstash_bytes[s]);
    }
    qni_add_link(&l->b, t, QNI_OUT, l->rstash[c] != QN_NONE ? l->rstash[c] : l->stash[c]);
}

static void add_backward(qni_lower *l, int32_t op, int32_t s, int32_t m)
{
    const int32_t w = qni_at_round(l, qni_back_worker(l, s), m), t = qni_lower_comp(l, op, s, m, w);
    const size_t c = qni_cell(l, s, m);
    const bool first = qn_first_in_column(qn_order_grid(l->order), s), last = qn_last_in_column(qn_order_grid(l->order), s);
    qni_builder *b = &l->b;
    if (op != QN_OP_W && !last) qni_add_link(b, t, QNI_IN, l->grad_in[c]);
    if (!first) qni_add_link(b, t, QNI_IN, l->act_back[c]);
    qni_add_link(b, t, QNI_IN, l->stash[c]);
    if (l->rstash[c] != QN_NONE) qni_add_link(b, t, QNI_IN, l->rstash[c]);
    if (op == QN_OP_W) qni_add_link(b, t, QNI_IN, l->wstash[c]);
    if (l->how->step_tasks) qni_add_link(b, t, QNI_IN, l->param[s]);
    if (op != QN_OP_W && !first) {
        const size_t before = qni_cell(l, s - 1, m);
        qni_add_link(b, t, QNI_OUT, l->grad_out[before]);
        if (l->grad_out[before] != l->grad_in[before])
            qni_lower_message(l, l->grad_channel[qni_round_row(l, s, m)], t, l->grad_out[before], l->grad_in[before],
                              tag_of(QN_V_GRAD, s - 1, m));
    }
    if (op == QN_OP_B) {
        l->wstash[c] = qni_add_value(b, QN_V_WSTASH, s, m, w, size_of(l->how->wstash_bytes, l->order->wstash_bytes, s));
        qni_add_link(b, t, QNI_OUT, l->wstash[c]);
    }
    qni_vocab_backward(l, t, op, s, m);
    if (op == QN_OP_B) return;
    qni_add_link(b, t, QNI_ACC, l->pgrad[qni_round_row(l, s, m)]);
    l->last_add[s] = t;
}

/* What comes before a task: the packed weights before their first use, a recomputation before its backward. */
static void add_preparation(qni_lower *l, const qn_order_task *t, int32_t w)
{
    const size_t c = qni_cell(l, t->stage, t->item);
    if (t->op == QN_OP_F && l->how->step_tasks && !l->packed[t->stage]) {
        l->packed[t->stage] = true;
        const int32_t pack = qni_lower_comp(l, QN_OP_PACK, t->stage, QN_NONE, w);
        qni_add_link(&l->b, pack, QNI_OUT, l->param[t->stage]);
    }
    if (l->training && is_backward(t->op) && l->has_r[c]) add_recompute(l, t->stage, t->item);
}

void qni_lower_compute(qni_lower *l, int32_t w)
{
    const qn_order *o = l->order;
    const qn_order_task *list = o->task[w];
    for (int32_t i = 0, end = 0; i < o->count[w]; i = end) {
        while (end < o->count[w] && (end == i || (o->shards > 1 && joint(l, &list[i], &list[end])))) end++;
        for (int32_t k = i; k < end; k++) add_preparation(l, &list[k], w); /* joint tasks stay together */
        for (int32_t k = i; k < end; k++) {
            const qn_order_task *t = &list[k];
            if (qni_is_vocab(t->op)) {
                if (!l->how->forward_only || qni_lower_forward_task(o, t)) qni_vocab_task(l, t, w);
            } else if (t->op == QN_OP_F) {
                add_forward(l, t->stage, t->item);
            } else if (t->op == QN_OP_R && l->training) {
                add_recompute(l, t->stage, t->item);
                l->has_r[qni_cell(l, t->stage, t->item)] = false; /* written out: none to insert */
            } else if (l->training) {
                add_backward(l, t->op, t->stage, t->item);
            }
        }
    }
}
