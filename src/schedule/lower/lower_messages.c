/* Lowering, pass messages: where SENDs and RECVs stand in their lanes, and who drops which value.
 *
 * Keys: a comp task at position q of its lane has q << 32 | MIDDLE; its SENDs follow with the same q, so one comparison also
 * serves the one-lane form. The send lane follows the order in which values are made. The receive lane follows the order in which
 * the worker needs the values; per channel it keeps the order of the sends. Where that order could block, lowering asks again
 * with the messages' order of arrival. */
#include <stdlib.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "lower.h"

static const int64_t MIDDLE = (int64_t)1 << 31;

int32_t qni_lower_comp(qni_lower *l, int32_t op, int32_t stage, int32_t item, int32_t worker)
{
    const int32_t t = qni_add_task(&l->b, op, stage, item, worker, QN_LANE_COMP);
    const int64_t usual = op == QN_OP_BW ? 2 : qni_is_work(op) ? 1 : 0;
    if (l->b.failed) return 0;
    l->b.key[t] = (int64_t)l->pos[worker]++ << 32 | MIDDLE;
    l->b.task[t].cost = l->order->cost[op] >= 0 ? l->order->cost[op] : usual;
    return t;
}

int32_t qni_lower_channel(qni_lower *l, int32_t from, int32_t to, int32_t cls, int32_t edge)
{
    const qn_order *o = l->order;
    /* Inputs of stages without a worker of their own wait on the host: there is room for a round of them. */
    const int32_t usual = o->turn > 0 && !l->how->step_tasks ? qn_max32(2, o->round > 0 ? o->round : o->items) : 2;
    const int32_t depth = l->how->depth > 0 ? l->how->depth : usual;
    return qni_add_channel(&l->b,
                           (qn_channel){.from = from, .to = to, .cls = cls, .edge = edge, .depth = depth, .slot_bytes = 1});
}

void qni_lower_message(qni_lower *l, int32_t channel, int32_t producer, int32_t from, int32_t to, uint64_t tag)
{
    qni_builder *b = &l->b;
    if (!b->failed && !qni_grow(&l->message, &l->message_cap, l->messages + 1, sizeof *l->message)) b->failed = true;
    if (b->failed) return;
    const qn_channel c = b->channel[channel];
    const qn_value v = b->value[to];
    const int32_t send = qni_add_task(b, QN_OP_SEND, v.stage, v.item, c.from, l->how->one_lane ? QN_LANE_COMP : QN_LANE_SEND);
    const int32_t recv = qni_add_task(b, QN_OP_RECV, v.stage, v.item, c.to, l->how->one_lane ? QN_LANE_COMP : QN_LANE_RECV);
    qni_add_link(b, send, QNI_IN, from);
    qni_add_link(b, recv, QNI_OUT, to);
    if (b->failed) return;
    b->task[send].channel = b->task[recv].channel = channel;
    b->task[send].tag = b->task[recv].tag = tag;
    const int64_t after =
        producer != QN_NONE ? b->key[producer] : (int64_t)(l->pos[c.from] > 0 ? l->pos[c.from] - 1 : 0) << 32 | MIDDLE;
    b->key[send] = after + 1;
    l->message[l->messages++] = (qni_message){channel, send, recv, from, to, 0};
}

/* A message in the order of its channel's sends: sorted by channel, then key of its SEND. */
typedef struct queued {
    int32_t channel, message;
    int64_t key;
} queued;

static int by_channel(const void *pa, const void *pb)
{
    const queued *a = pa, *b = pb;
    if (a->channel != b->channel) return a->channel < b->channel ? -1 : 1;
    if (a->key != b->key) return a->key < b->key ? -1 : 1;
    return (a->message > b->message) - (a->message < b->message);
}

/* First comp task that reads each value, by key; INT64_MAX where none does. */
static void first_readers(int64_t *need, const qni_builder *b)
{
    for (int32_t v = 0; v < b->values; v++) need[v] = INT64_MAX;
    for (int32_t i = 0; i < b->links; i++) {
        const qni_link *k = &b->link[i];
        const qn_task *t = &b->task[k->task];
        if (k->kind == QNI_IN && t->op != QN_OP_SEND) need[k->id] = qn_min64(need[k->id], b->key[k->task]);
    }
}

qn_status qni_lower_place_messages(qni_lower *l, const int64_t *arrival, qn_err *err)
{
    qni_builder *b = &l->b;
    qn_status st = QN_OK;
    int64_t *need = qn_malloc((size_t)b->values, sizeof *need);
    queued *q = qn_malloc((size_t)l->messages, sizeof *q);
    if (b->failed || need == NULL || q == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "messages of a plan");
        goto out;
    }
    first_readers(need, b);
    for (int32_t i = 0; i < l->messages; i++) q[i] = (queued){l->message[i].channel, i, b->key[l->message[i].send]};
    qsort(q, (size_t)l->messages, sizeof *q, by_channel);
    int64_t soonest = INT64_MAX; /* a message is taken no later than those behind it in its channel */
    for (int32_t i = l->messages; i-- > 0;) {
        const qni_message *m = &l->message[q[i].message];
        if (i + 1 == l->messages || q[i + 1].channel != q[i].channel) soonest = INT64_MAX;
        soonest = qn_min64(soonest, need[m->to]);
        if (arrival != NULL) {
            b->key[m->recv] = arrival[m->recv];
        } else if (soonest == INT64_MAX) {
            b->key[m->recv] = INT64_MAX - l->messages + i; /* nobody reads it in this step */
        } else {
            b->key[m->recv] = soonest - MIDDLE + i; /* before its reader; equal needs in channel order */
        }
    }
out:
    qn_free(need);
    qn_free(q);
    return st;
}

/* Who drops a value: the last comp task that reads it; where none does, the SEND that takes it away; else its writer. An input
 * that goes on to its backward's worker (moved) leaves behind the last task that reads it, so that the SEND drops it. */
static int rank_of(const qni_builder *b, const qni_link *k, bool moved)
{
    if (k->kind == QNI_OUT) return 0;
    return b->task[k->task].op == QN_OP_SEND && !moved ? 1 : 2;
}

qn_status qni_lower_frees(qni_lower *l, qn_err *err)
{
    qni_builder *b = &l->b;
    const bool moved = l->order->backward_of != NULL;
    int32_t *last = qn_malloc((size_t)b->values, sizeof *last); /* [values]: link of its last user */
    if (b->failed || last == NULL) {
        qn_free(last);
        return QN_FAIL(err, QN_ENOMEM, "lifetimes of %d values", b->values);
    }
    for (int32_t v = 0; v < b->values; v++) last[v] = QN_NONE;
    for (int32_t i = 0; i < b->links; i++) {
        int32_t *best = &last[b->link[i].id];
        const int rank = rank_of(b, &b->link[i], moved), old = *best == QN_NONE ? -1 : rank_of(b, &b->link[*best], moved);
        if (rank > old || (rank == old && b->key[b->link[i].task] >= b->key[b->link[*best].task])) *best = i;
    }
    for (int32_t v = 0; v < b->values; v++) {
        if (last[v] == QN_NONE || b->value[v].carried) continue;
        const int32_t task = b->link[last[v]].task;
        qni_add_link(b, task, QNI_FREE, v);
    }
    qn_free(last);
    return b->failed ? QN_FAIL(err, QN_ENOMEM, "lifetimes of %d values", b->values) : QN_OK;
}

void qni_lower_slot_sizes(qni_lower *l)
{
    for (int32_t i = 0; i < l->messages && !l->b.failed; i++) {
        const qni_message *m = &l->message[i];
        int64_t *slot = &l->b.channel[m->channel].slot_bytes;
        const int64_t most = m->most > 0 ? m->most : l->how->slot_bytes;
        int64_t first;
        *slot = qn_max64(*slot, qn_channel_carries(&l->b.channel[m->channel], l->b.value[m->to].bytes, &first));
        if (most > 0) *slot = qn_min64(*slot, most);
    }
}
