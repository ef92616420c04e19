/* quern generate: one text alone on stdout, as it comes; several, whole and in order, with a line between them. --json: an object
 * a text, and one for all of them. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "quern/session.h"

static const char between[] = "----\n";

typedef struct view {
    bool json, first;
} view;

static int show(void *ctx, const char *text, size_t bytes)
{
    (void)ctx;
    return fwrite(text, 1, bytes, stdout) != bytes || fflush(stdout) != 0;
}

static int show_whole(void *ctx, const qn_generated *g)
{
    view *v = ctx;
    if (v->json) {
        cli_json j = cli_json_begin();
        cli_json_integer(&j, "text", g->index);
        cli_json_text(&j, "prompt", g->prompt);
        cli_json_text(&j, "says", g->text);
        cli_json_integer(&j, "prompt_tokens", g->prompt_tokens);
        cli_json_integer(&j, "tokens", g->tokens);
        cli_json_text(&j, "ended", g->ended ? "by the model" : "by --max-tokens");
        cli_json_end(&j);
        return fflush(stdout) != 0;
    }
    if (!v->first) fputs(between, stdout);
    v->first = false;
    return fwrite(g->text, 1, g->bytes, stdout) != g->bytes || putchar('\n') == EOF || fflush(stdout) != 0;
}

static double rate(double n, double seconds)
{
    return seconds > 0 ? n / seconds : 0;
}

static void show_sums(const qn_generate_done *d)
{
    cli_json j = cli_json_begin();
    cli_json_integer(&j, "texts", d->texts);
    cli_json_integer(&j, "prompt_tokens", d->prompt_tokens);
    cli_json_integer(&j, "tokens", d->tokens);
    cli_json_integer(&j, "passes", d->passes);
    cli_json_number(&j, "prefill_s", d->prefill_s);
    cli_json_number(&j, "decode_s", d->decode_s);
    cli_json_number(&j, "tokens_per_s", rate((double)d->tokens, d->prefill_s + d->decode_s));
    cli_json_integer(&j, "drafted", d->drafted);
    cli_json_integer(&j, "accepted", d->accepted);
    cli_json_number(&j, "acceptance", d->drafted > 0 ? (double)d->accepted / (double)d->drafted : 0);
    if (d->device_bytes > 0) {
        cli_json_integer(&j, "device_bytes", d->device_bytes);
        cli_json_integer(&j, "high_water", d->high_water);
        cli_json_integer(&j, "weight_bytes", d->weight_bytes);
        cli_json_integer(&j, "pass_bytes", d->pass_bytes);
        cli_json_integer(&j, "loaded", d->loaded);
    }
    cli_json_end(&j);
}

static int run(const cli_verb *verb, int argc, char **argv)
{
    qn_err err = {.code = QN_OK};
    qn_config *config = NULL;
    qn_generate_options opt;
    qn_generate_done done;
    view v = {.json = cli_take_json(&argc, argv), .first = true};
    if (qn_config_parse(&config, verb->table, &opt, sizeof(opt), argc, argv, &err) != QN_OK) return cli_fail(&err);
    const bool whole = v.json || !qn_generate_is_single(&opt);
    const qn_status st =
        whole ? qn_generate_texts(&done, &opt, show_whole, &v, &err) : qn_generate_text(&done, &opt, show, NULL, &err);
    const int code = st == QN_OK ? EXIT_DONE : cli_fail(&err);
    if (st == QN_OK) {
        if (v.json) show_sums(&done);
        if (!whole) putchar('\n');
        if (!v.json && isatty(STDERR_FILENO) && done.decode_s > 0)
            fprintf(stderr, "quern: %lld tokens, %.0f tokens/s\n", (long long)done.tokens,
                    rate((double)done.tokens, done.prefill_s + done.decode_s));
    }
    qn_config_close(config);
    return code;
}

const cli_verb cli_generate = {
    .name = "generate",
    .summary = "continue texts with a trained model",
    .examples = "  quern generate --model runs/book --prompt 'Once upon a time' --max-tokens 100\n"
                "  quern generate --model DIR --temperature 0 --workers 2\n"
                "  quern generate --model DIR --prompts FILE --batch 16 --json\n"
                "  quern generate --model DIR --prompt 'Once' --temperature 0 --speculate 8\n"
                "  quern generate --model DIR --device-memory 64M --link 2G/s --window 2,1 --from-file\n",
    .table = &qn_generate_table,
    .run = run,
};
