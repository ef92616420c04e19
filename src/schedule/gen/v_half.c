/* V-Half, Qi et al. 2024, arXiv:2405.15362, section 3.3: half of 1F1B's memory and about half of its idle time. */
#include "schedule/gen/gen.h"
#include "schedule/gen/v_block.h"

qni_block qni_v_half_block(int32_t i, int32_t P)
{
    const int32_t c = P % 2 == 0 ? 3 : 0;
    return (qni_block){.f0 = 2 * i, .f1 = 3 * P - i - 2, .b1 = 3 * P + c + 2 * i - 1, .b0 = 6 * P + c - i - 2};
}

/* Pattern: workers P, items M (any), two chunks; stage s on worker s or 2P - 1 - s. About P + 2 stashes of a stage. */
qn_status qn_gen_v_half(qn_order *order, const qn_pattern *pat, qn_err *err)
{
    return qni_gen_v_block(order, pat, qni_v_half_block, err);
}
