/* quern generate: the text alone on stdout, as it comes. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "quern/session.h"

static int show(void *ctx, const char *text, size_t bytes)
{
    (void)ctx;
    return fwrite(text, 1, bytes, stdout) != bytes || fflush(stdout) != 0;
}

static int run(const cli_verb *verb, int argc, char **argv)
{
    qn_err err = {.code = QN_OK};
    qn_config *config = NULL;
    qn_generate_options opt;
    qn_generate_done done;
    if (qn_config_parse(&config, verb->table, &opt, sizeof(opt), argc, argv, &err) != QN_OK) return cli_fail(&err);
    int code = EXIT_DONE;
    if (qn_generate_text(&done, &opt, show, NULL, &err) != QN_OK) {
        code = cli_fail(&err);
    } else {
        putchar('\n');
        if (isatty(STDERR_FILENO) && done.decode_s > 0)
            fprintf(stderr, "quern: %lld tokens, %.0f tokens/s\n", (long long)done.tokens, (double)done.tokens / done.decode_s);
    }
    qn_config_close(config);
    return code;
}

const cli_verb cli_generate = {
    .name = "generate",
    .summary = "continue a text with a trained model",
    .examples = "  quern generate --model runs/book --prompt 'Once upon a time' --max-tokens 100\n"
                "  quern generate --model DIR --temperature 0 --workers 2\n",
    .table = &qn_generate_table,
    .run = run,
};
