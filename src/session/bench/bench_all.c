/* quern bench without a name: everything in one run, ceilings first. A benchmark that cannot run on this machine (no room for its
 * files or its memory) ends the run with its error; what came before is printed already. */
#include "bench_common.h"

qn_status qn_bench_all(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err)
{
    enum { F32, BF16 };
    static const struct {
        qn_bench_fn *run;
        int32_t dtype, weights, steps; /* steps: at most */
    } list[] = {{qn_bench_memory, F32, 0, 1000},    {qn_bench_link, F32, 0, 1000},      {qn_bench_kernels, BF16, 0, 1000},
                {qn_bench_kernels, F32, 0, 1000},   {qn_bench_train, BF16, 0, 1000},    {qn_bench_train, F32, 0, 1000},
                {qn_bench_generate, BF16, 1, 1000}, {qn_bench_generate, BF16, 2, 1000}, {qn_bench_disk, F32, 0, 3},
                {qn_bench_pipeline, BF16, 0, 1000}};
    qn_status st = QN_OK;
    for (size_t i = 0; st == QN_OK && i < sizeof(list) / sizeof(list[0]); i++) {
        qn_bench_options o = *given;
        o.dtype = list[i].dtype;
        o.weights = list[i].weights;
        if (o.steps > list[i].steps) o.steps = list[i].steps;
        st = list[i].run(&o, line, ctx, err);
    }
    return st;
}
