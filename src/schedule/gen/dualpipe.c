/* DualPipe (DeepSeek-V3 report, arXiv:2412.19437; github.com/deepseek-ai/DualPipe): two copies of the model, placed in opposite
 * directions, each for half of the micro-batches. A worker has stage w of the one and stage P - 1 - w of the other. From both
 * ends to the middle the workers do what DualPipeV's do on half as many: the copies' stages near this end and far from it are its
 * two pieces. The copies' gradients are added at the step's end, so results are those of two groups of gradients. */
#include "schedule/gen/gen.h"
#include "schedule/gen/gen_parts.h"

/* Pattern: workers P and items M both even, M >= 2P (qn_generator_can), two chunks. At most P + 1 stashes of a stage. */
qn_status qn_gen_dualpipe(qn_order *order, const qn_pattern *pat, qn_err *err)
{
    const int32_t P = pat->workers, half = pat->items / 2;
    order->columns = 2;
    for (int32_t w = 0; w < P; w++) {
        order->worker_of[w] = w;
        order->worker_of[P + w] = P - 1 - w;
    }
    for (int32_t w = 0; w < P; w++) {
        const bool front = w < P / 2; /* near the end at which the first copy's items enter */
        const int32_t one = w, other = P + (P - 1 - w);
        const int32_t stage[2] = {front ? one : other, front ? other : one}, first[2] = {front ? 0 : half, front ? half : 0};
        qni_gen_dual_row(order, w, front ? w : P - 1 - w, P / 2, half, stage, first);
    }
    return qn_order_done(order, err);
}
