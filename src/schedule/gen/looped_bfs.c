/* Looped breadth first, Lamy-Poirier 2022, arXiv:2211.05953, as PyTorch ships it (ScheduleLoopedBFS): all micro-batches through a
 * worker's first stage, then all through its second, and back. PyTorch runs the backwards in descending micro-batch order; here
 * they ascend, so that gradients are added as in every other schedule; time and memory are the same. */
#include "schedule/gen/gen.h"

/* Pattern: workers P, items M (any), chunks v >= 2; stage c * P + r is on worker r. All M * v stashes at once. */
qn_status qn_gen_looped_bfs(qn_order *order, const qn_pattern *pat, qn_err *err)
{
    return qn_gen_gpipe(order, pat, err);
}
