/* Any bytes as a file of costs (profile, lines, CSV, trace): refused, or costs that spread over its own stages. */
#include <stdint.h>

#include "core/alloc.h"
#include "core/compiler.h"
#include "support/fuzz_dir.h"
#include "session/schedules/schedule_costs.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    qn_err err;
    qni_costs c;
    fuzz_dir_make();
    char path[128];
    fuzz_file("costs", data, size);
    snprintf(path, sizeof(path), "%s/costs", fuzz_dir);
    if (qni_costs_parse(&c, NULL, path, -1, &err) != QN_OK) return 0;
    int64_t(*cost)[QN_OPS], *bytes[QNI_SIZES];
    const int32_t stages = c.stages > 0 ? c.stages : 1;
    QN_ASSERT(qni_costs_spread(&cost, bytes, &c, stages, stages, &err) == QN_OK);
    for (int32_t s = 0; s < stages; s++)
        for (int op = QN_OP_F; op <= QN_OP_R; op++) QN_ASSERT(cost[s][op] >= 0);
    qn_free(cost);
    for (int k = 0; k < QNI_SIZES; k++) qn_free(bytes[k]);
    qni_costs_fini(&c);
    return 0;
}
