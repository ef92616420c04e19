/* quern bench train | kernels | pipeline | generate */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "quern/bench.h"

static void show(void *ctx, const char *line)
{
    (void)ctx;
    puts(line);
    fflush(stdout);
}

static int run(const cli_verb *verb, int argc, char **argv)
{
    static const char *const names[] = {"train", "kernels", "pipeline", "generate"};
    qn_status (*const bench[])(const qn_bench_options *, qn_line_fn *, void *, qn_err *) = {qn_bench_train, qn_bench_kernels,
                                                                                            qn_bench_pipeline, qn_bench_generate};
    for (int i = 0; i < 4 && argc > 0; i++) {
        if (strcmp(argv[0], names[i]) != 0) continue;
        qn_err err = {.code = QN_OK};
        qn_config *config = NULL;
        qn_bench_options opt;
        if (qn_config_parse(&config, verb->table, &opt, sizeof(opt), argc - 1, argv + 1, &err) != QN_OK) return cli_fail(&err);
        const int code = bench[i](&opt, show, NULL, &err) == QN_OK ? EXIT_DONE : cli_fail(&err);
        qn_config_close(config);
        return code;
    }
    fprintf(stderr, "quern: bench train, kernels, pipeline or generate?\n");
    return EXIT_USAGE;
}

const cli_verb cli_bench = {
    .name = "bench",
    .summary = "measure training, kernels, pipelines and generation against this machine's ceilings",
    .examples = "  quern bench train --dtype bf16\n  quern bench kernels --json\n  quern bench pipeline\n  quern bench generate "
                "--dtype bf16 --weights q8\n",
    .table = &qn_bench_table,
    .run = run,
};
