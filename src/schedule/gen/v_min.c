/* V-Min, Qi et al. 2024, arXiv:2405.15362, section 3.3: a third of 1F1B's memory. Best where F, B and W take the same time: each
 * repetition adds idle time where they do not. */
#include "schedule/gen/gen.h"
#include "schedule/gen/v_block.h"

static qni_block block(int32_t i, int32_t P)
{
    const int32_t c = P % 3 == 0 ? 2 : 0;
    return (qni_block){.f0 = i, .f1 = 2 * P - i - 1, .b1 = 2 * P + c + i, .b0 = 4 * P + c - i - 1};
}

/* Pattern: workers P, items M (any), two chunks; stage s on worker s or 2P - 1 - s. About 2P / 3 + 2 stashes of a stage. */
qn_status qn_gen_v_min(qn_order *order, const qn_pattern *pat, qn_err *err)
{
    return qni_gen_v_block(order, pat, block, err);
}
