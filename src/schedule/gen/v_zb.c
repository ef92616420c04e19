/* V-ZB, Qi et al. 2024, arXiv:2405.15362: the memory of 1F1B and no idle time. The published block was not recovered; this one is
 * OBTAINED BY SEARCH: the shortest that the adaptive search finds within 2P stashes. */
#include "core/checked.h"
#include "schedule/gen/gen.h"
#include "schedule/gen/v_rows.h"

/* Pattern: workers P, items M (any), two chunks; stage s on worker s or 2P - 1 - s. At most 2P stashes of a stage.
 * Built for at least 2P items; what is too many is dropped. */
qn_status qn_gen_v_zb(qn_order *order, const qn_pattern *pat, qn_err *err)
{
    return qni_gen_v_search(order, qn_max32(pat->items, 2 * pat->workers), NULL, 2 * pat->workers, err);
}
