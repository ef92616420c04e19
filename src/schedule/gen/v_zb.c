/* V-ZB, Qi et al. 2024, arXiv:2405.15362: the memory of 1F1B and no idle time. The published block was not recovered; this one is
 * OBTAINED BY SEARCH: F of chunk 0 and B of chunk 1 four slots later on each next worker, F of chunk 1 and B of chunk 0 two slots
 * later on each worker before, each turn of the V as soon as the slots of a worker stay apart modulo six. */
#include "core/checked.h"
#include "schedule/gen/gen.h"
#include "schedule/gen/v_block.h"

enum { DOWN = 4, UP = 2, INTERVAL = 6 };

/* The first slot from `from` on whose place in the interval none of the three has. All passes move by 4 modulo 6 from worker to
 * worker, so that what is free on one is free on all. */
static int32_t next_free(int32_t from, const int32_t *taken, int32_t n)
{
    for (;; from++) {
        int32_t k = 0;
        while (k < n && from % INTERVAL != taken[k] % INTERVAL) k++;
        if (k == n) return from;
    }
}

static qni_block block(int32_t i, int32_t P)
{
    int32_t taken[3] = {DOWN * (P - 1)}; /* on the last worker */
    const int32_t f1 = taken[1] = next_free(taken[0] + 1, taken, 1), top = f1 + UP * (P - 1);
    /* B of chunk 1 starts on worker 0, seen from the last one */
    const int32_t b1 = next_free(top + 1 + DOWN * (P - 1), taken, 2) - DOWN * (P - 1);
    taken[2] = b1 + DOWN * (P - 1);
    const int32_t b0 = next_free(taken[2] + 1, taken, 3);
    return (qni_block){.f0 = DOWN * i, .f1 = f1 + UP * (P - 1 - i), .b1 = b1 + DOWN * i, .b0 = b0 + UP * (P - 1 - i)};
}

/* Pattern: workers P, items M (any), two chunks; stage s on worker s or 2P - 1 - s. About 2P stashes of a stage. */
qn_status qn_gen_v_zb(qn_order *order, const qn_pattern *pat, qn_err *err)
{
    return qni_gen_v_block(order, pat, block, err);
}
