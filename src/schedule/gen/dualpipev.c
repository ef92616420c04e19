/* DualPipeV, the cut-in-half form of DualPipe (DeepSeek-V3 report, arXiv:2412.19437; github.com/deepseek-ai/DualPipe): a V of two
 * stages per worker whose forwards and backwards meet in pairs. The two halves of a pair are tasks of their own here: each waits
 * for its own input and its output leaves at once, which halves the idle time of pairs that start and end together. */
#include "schedule/gen/gen.h"
#include "schedule/gen/gen_parts.h"

/* One worker's tasks; each op takes the next item of its stage. */
typedef struct row {
    qn_order *o;
    int32_t worker, r, stage[2];
    int32_t f[2], b[2], w[2];
    int32_t waiting[2], turn; /* input gradients without their W, by chunk; whose W is oldest */
} row;

static void forward(row *x, int32_t chunk)
{
    qn_order_push(x->o, x->worker, QN_OP_F, x->stage[chunk], x->f[chunk]++);
}

/* Whole backward; chunks have no W left over when this runs. */
static void backward(row *x, int32_t chunk)
{
    qn_order_push(x->o, x->worker, QN_OP_BW, x->stage[chunk], x->b[chunk]++);
    x->w[chunk]++;
}

static void input_gradient(row *x, int32_t chunk)
{
    if (x->waiting[0] + x->waiting[1] == 0) x->turn = chunk;
    qn_order_push(x->o, x->worker, QN_OP_B, x->stage[chunk], x->b[chunk]++);
    x->waiting[chunk]++;
}

/* The oldest W. Input gradients of the two chunks take turns wherever more than one waits, and so do their W. */
static void weight_gradient(row *x)
{
    if (x->waiting[x->turn] == 0) x->turn = 1 - x->turn;
    qn_order_push(x->o, x->worker, QN_OP_W, x->stage[x->turn], x->w[x->turn]++);
    x->waiting[x->turn]--;
    x->turn = 1 - x->turn;
}

/* The two halves of a pair; serial: they are none, whatever the middle worker does first. */
static void forward_backward(row *x, int32_t chunk, bool serial)
{
    forward(x, chunk);
    backward(x, 1 - chunk);
    if (!serial) qn_order_pair(x->o, x->worker);
}

static void fill(row *x, int32_t P, int32_t M)
{
    const int32_t r = x->r, behind = P - r - 1, half = (r + 1) / 2;
    for (int32_t k = 0; k < 2 * behind; k++) forward(x, 0);
    for (int32_t k = 0; k < r + 1; k++) {
        forward(x, 0);
        forward(x, 1);
    }
    for (int32_t k = 0; k < behind; k++) {
        input_gradient(x, 1);
        weight_gradient(x);
        forward(x, 1);
    }
    for (int32_t k = 0; k < M - 2 * P + r + 1; k++) {
        forward_backward(x, 0, k == 0 && behind == 0);
        forward_backward(x, 1, false);
    }
    for (int32_t k = 0; k < behind; k++) {
        backward(x, 1);
        forward_backward(x, 1, false);
    }
    for (int32_t k = 0; k < r + 1; k++) { /* the second half splits: from B of chunk 1 on where r is odd, else of chunk 0 */
        if (k > half || (k == half && r % 2 != 0))
            input_gradient(x, 1);
        else
            backward(x, 1);
        if (k >= half)
            input_gradient(x, 0);
        else
            backward(x, 0);
    }
    for (int32_t k = 0; k < behind; k++) {
        weight_gradient(x);
        input_gradient(x, 0);
    }
    for (int32_t k = 0; k < r + 1; k++) weight_gradient(x);
}

void qni_gen_dual_row(qn_order *o, int32_t worker, int32_t r, int32_t ranks, int32_t items, const int32_t stage[2],
                      const int32_t first_item[2])
{
    row x = {.o = o, .worker = worker, .r = r};
    for (int32_t c = 0; c < 2; c++) {
        x.stage[c] = stage[c];
        x.f[c] = x.b[c] = x.w[c] = first_item[c];
    }
    fill(&x, ranks, items);
}

/* Pattern: workers P, items M >= 2P (the list's min_items), two chunks; stage s on worker s or 2P - 1 - s. At most 2P + 1 stashes
 * of a stage. */
qn_status qn_gen_dualpipev(qn_order *order, const qn_pattern *pat, qn_err *err)
{
    qni_gen_place_v(order);
    for (int32_t r = 0; r < pat->workers; r++) {
        const int32_t stage[2] = {r, order->stages - 1 - r}, first[2] = {0, 0};
        qni_gen_dual_row(order, r, r, pat->workers, pat->items, stage, first);
    }
    return qn_order_done(order, err);
}
