/* quern bench [memory | link | kernels | train | generate | pipeline | disk | scale] */
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

static const struct {
    const char *name;
    qn_bench_fn *run;
} list[] = {{"memory", qn_bench_memory}, {"link", qn_bench_link},         {"kernels", qn_bench_kernels},
            {"train", qn_bench_train},   {"generate", qn_bench_generate}, {"pipeline", qn_bench_pipeline},
            {"disk", qn_bench_disk},     {"scale", qn_bench_scale}};

/* Without a name all of them run. */
static int run(const cli_verb *verb, int argc, char **argv)
{
    qn_err err = {.code = QN_OK};
    qn_config *config = NULL;
    qn_bench_options opt;
    qn_bench_fn *bench = argc == 0 || argv[0][0] == '-' ? qn_bench_all : NULL;
    const int skip = bench == NULL;
    for (size_t i = 0; bench == NULL && i < sizeof(list) / sizeof(list[0]); i++)
        if (strcmp(argv[0], list[i].name) == 0) bench = list[i].run;
    if (bench == NULL) {
        fprintf(stderr, "quern: bench memory, link, kernels, train, generate, pipeline, disk or scale? (none: all but scale)\n");
        return EXIT_USAGE;
    }
    if (qn_config_parse(&config, verb->table, &opt, sizeof(opt), argc - skip, argv + skip, &err) != QN_OK) return cli_fail(&err);
    const qn_status st = opt.compare != NULL ? qn_bench_compare(bench, &opt, show, NULL, &err) : bench(&opt, show, NULL, &err);
    const int code = st == QN_OK ? EXIT_DONE : cli_fail(&err);
    qn_config_close(config);
    return code;
}

const cli_verb cli_bench = {
    .name = "bench",
    .summary = "measure training, kernels, pipelines and generation against this machine's ceilings",
    .examples =
        "  quern bench --json > today.json\n  quern bench --compare today.json\n  quern bench train --dtype bf16\n  quern bench "
        "generate --dtype bf16 --weights q8\n  quern bench disk --folder /tmp\n  quern bench scale --points scale.json --limit "
        "60 --svg scale.svg\n",
    .table = &qn_bench_table,
    .run = run,
};
