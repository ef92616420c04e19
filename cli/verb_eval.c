/* quern eval */
#include <stdio.h>

#include "cli.h"
#include "quern/session.h"

static int run(const cli_verb *verb, int argc, char **argv)
{
    qn_err err = {.code = QN_OK};
    qn_config *config = NULL;
    qn_eval_options opt;
    qn_eval_done done;
    const bool json = cli_take_json(&argc, argv);
    if (qn_config_parse(&config, verb->table, &opt, sizeof(opt), argc, argv, &err) != QN_OK) return cli_fail(&err);
    int code = EXIT_DONE;
    if (qn_eval_text(&done, &opt, &err) != QN_OK) {
        code = cli_fail(&err);
    } else if (json) {
        cli_json j = cli_json_begin();
        cli_json_number(&j, "loss", done.loss);
        cli_json_number(&j, "perplexity", done.perplexity);
        cli_json_number(&j, "bits_per_byte", done.bits_per_byte);
        cli_json_integer(&j, "tokens", done.tokens);
        cli_json_integer(&j, "bytes", done.bytes);
        cli_json_end(&j);
    } else {
        printf("loss           %.6f\nperplexity     %.4f\nbits per byte  %.4f\ntokens         %lld\nbytes          %lld\n",
               done.loss, done.perplexity, done.bits_per_byte, (long long)done.tokens, (long long)done.bytes);
    }
    qn_config_close(config);
    return code;
}

const cli_verb cli_eval = {
    .name = "eval",
    .summary = "loss, perplexity and bits per byte of a model on a text",
    .examples = "  quern eval --model runs/book --data other.txt\n  quern eval --model DIR --data other.txt --json\n",
    .table = &qn_eval_table,
    .run = run,
};
