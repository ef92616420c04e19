/* 1F1B with vocabulary shards, Yeung et al. 2024, arXiv:2411.05288: the published issue order. Between F and BW of the last stage
 * lie as many intervals as there are barriers (two with algorithm 1, one with algorithm 2), and each interval has one V pass, so
 * that worker r holds at most P - r + barriers micro-batches. Needs b >= f and messages that take less than f; for other costs
 * tasks are put on lists one by one (vocab_list.c). */
#include "schedule/gen/vocab_parts.h"

#include "core/checked.h"

void qni_vocab_pass(qn_order *o, int32_t r, int32_t j)
{
    const int32_t chain = o->stages - o->sides;
    for (int32_t k = 0; k < o->sides; k++)
        if (o->worker_of[chain + k] == r && j > 0) qn_order_push(o, r, QN_OP_VT, chain + k, j - 1);
    for (int32_t k = 0; k < o->sides; k++)
        if (o->worker_of[chain + k] == r && j < o->items) qn_order_push(o, r, QN_OP_VS, chain + k, j);
}

/* From the last worker upwards: its slots shift by -f or +b - f so that V passes of all workers meet in time. */
void qni_vocab_slots(bool *flag, int32_t *warm, int32_t P, int64_t f, int64_t b)
{
    int64_t offset = 0;
    int32_t r = P - 1;
    flag[r--] = true;
    while (r >= 0) {
        if (offset - f >= -b) {
            offset -= f;
            flag[r--] = true;
            continue;
        }
        flag[r--] = false;
        if (r < 0) break;
        offset += b - f;
        flag[r--] = true;
    }
    warm[P - 1] = 0;
    for (r = P - 2; r >= 0; r--) warm[r] = warm[r + 1] + (!flag[r + 1] && flag[r] ? 0 : 1);
}

typedef struct hand {
    qn_order *o;
    int32_t r, f, b, v; /* worker; forwards, backwards, V passes so far */
} hand;

static void forward(hand *h)
{
    if (h->f < h->o->items) qn_order_push(h->o, h->r, QN_OP_F, h->r, h->f++);
}
static void backward(hand *h)
{
    if (h->b < h->o->items) qn_order_push(h->o, h->r, QN_OP_BW, h->r, h->b++);
}
static void pass(hand *h)
{
    if (h->v <= h->o->items) qni_vocab_pass(h->o, h->r, h->v++);
}

void qni_vocab_1f1b(qn_order *o, const qn_pattern *pat)
{
    bool flag[QN_MAX_WORKERS];
    int32_t warm[QN_MAX_WORKERS];
    const int32_t P = pat->workers, M = pat->items;
    qni_vocab_slots(flag, warm, P, qn_max64(pat->cost[QN_OP_F], 1), qn_max64(pat->cost[QN_OP_BW], 1));
    for (int32_t r = 0; r < P; r++) {
        hand h = {.o = o, .r = r};
        const int32_t first = qn_min32(P - r, M);
        while (h.f < first) forward(&h);
        for (int32_t i = 0; i < (pat->vocab == 1 ? 2 : 1); i++) {
            pass(&h);
            forward(&h);
        }
        for (int32_t i = 0; i < warm[r]; i++) pass(&h);
        while (h.f < M) {
            backward(&h);
            if (flag[r]) pass(&h);
            forward(&h);
            if (!flag[r]) pass(&h);
        }
        while (h.b < M) {
            backward(&h);
            pass(&h);
        }
        while (h.v <= M) pass(&h);
    }
}
