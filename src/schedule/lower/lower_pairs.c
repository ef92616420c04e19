/* Lowering, pass pairs: overlap pairs as one opaque action, where asked for. Its two halves, a forward and a backward that follow
 * each other, wait for the messages of both, and what they send leaves when both are done. In the plan these are waits like any
 * other: of the first half for the second's RECV, of the first half's SENDs for the second half. */
#include <string.h>

#include "core/alloc.h"
#include "lower.h"

/* The builder's ids that pairs ask for; QN_NONE where there is none. */
typedef struct finder {
    int32_t *task[2];     /* F, BW: [stages * items] */
    int32_t *send, *recv; /* [values]: who sends it, who receives it */
} finder;

static bool open_finder(finder *f, const qni_lower *l)
{
    const qni_builder *b = &l->b;
    const size_t cells = (size_t)l->stages * (size_t)l->items, values = (size_t)b->values;
    int32_t **const table[] = {&f->task[0], &f->task[1], &f->send, &f->recv};
    bool room = true;
    for (int i = 0; i < 4; i++) {
        const size_t n = i < 2 ? cells : values;
        *table[i] = qn_malloc(n, sizeof(int32_t));
        room = room && *table[i] != NULL;
        if (*table[i] != NULL) memset(*table[i], 0xff, n * sizeof(int32_t));
    }
    for (int32_t t = 0; room && t < b->tasks; t++) {
        const qn_task *x = &b->task[t];
        if (x->op == QN_OP_F || x->op == QN_OP_BW) f->task[x->op == QN_OP_BW][qni_cell(l, x->stage, x->item)] = t;
    }
    for (int32_t i = 0; room && i < l->messages; i++) {
        f->send[l->message[i].from] = l->message[i].send;
        f->recv[l->message[i].to] = l->message[i].recv;
    }
    return room;
}

static void add_pair(qni_lower *l, const finder *f, const qn_order_task *forward, const qn_order_task *backward)
{
    const qn_grid g = qn_order_grid(l->order);
    const int32_t first = f->task[0][qni_cell(l, forward->stage, forward->item)];
    const int32_t second = f->task[1][qni_cell(l, backward->stage, backward->item)];
    if (forward->op != QN_OP_F || backward->op != QN_OP_BW || first == QN_NONE || second == QN_NONE) return;
    if (!qn_last_in_column(g, backward->stage)) {
        const int32_t recv = f->recv[l->grad_in[qni_cell(l, backward->stage, backward->item)]];
        if (recv != QN_NONE) qni_add_link(&l->b, first, QNI_WAIT, recv);
    }
    if (!qn_last_in_column(g, forward->stage)) {
        const int32_t send = f->send[l->act_out[qni_cell(l, forward->stage + 1, forward->item)]];
        if (send != QN_NONE) qni_add_link(&l->b, send, QNI_WAIT, second);
    }
}

void qni_lower_pairs(qni_lower *l)
{
    const qn_order *o = l->order;
    finder f = {.send = NULL};
    if (!l->how->opaque_pairs || !l->training || l->b.failed) return;
    if (open_finder(&f, l)) {
        for (int32_t w = 0; w < o->workers; w++)
            for (int32_t i = 0; i + 1 < o->count[w]; i++)
                if (o->task[w][i].pair) add_pair(l, &f, &o->task[w][i], &o->task[w][i + 1]);
    } else {
        l->b.failed = true;
    }
    qn_free(f.task[0]);
    qn_free(f.task[1]);
    qn_free(f.send);
    qn_free(f.recv);
}
