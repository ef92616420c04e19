/* quern convert, quern tokenize, quern info: small verbs around files. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "quern/session.h"

static int run_convert(const cli_verb *verb, int argc, char **argv)
{
    qn_err err = {.code = QN_OK};
    qn_config *config = NULL;
    qn_convert_options opt;
    if (qn_config_parse(&config, verb->table, &opt, sizeof(opt), argc, argv, &err) != QN_OK) return cli_fail(&err);
    const qn_list named = qn_config_positional(config);
    if (named.count > 1 || (named.count == 1 && opt.model != NULL)) {
        fprintf(stderr, "quern: convert takes one model; '%s' is another\n", named.item[named.count - 1]);
        qn_config_close(config);
        return EXIT_USAGE;
    }
    if (named.count == 1) opt.model = named.item[0];
    const int code = qn_convert(&opt, &err) == QN_OK ? EXIT_DONE : cli_fail(&err);
    if (code == EXIT_DONE) fprintf(stderr, "quern: model written to %s\n", opt.out);
    qn_config_close(config);
    return code;
}

const cli_verb cli_convert = {
    .name = "convert",
    .summary = "turn another tool's model into a directory that Quern and others read",
    .examples = "  quern convert model.gguf --out DIR\n"
                "  quern convert runs/book --store q8 --out small     # matrices in 8 bits\n"
                "  quern convert --from llama2c --weights stories260K.bin --tokenizer tok512.bin --out stories\n"
                "  quern convert --lora runs/tuned --out merged      # an adapter merged into its base\n",
    .table = &qn_convert_table,
    .run = run_convert,
};

static void progress(void *ctx, int64_t done, int64_t total)
{
    (void)ctx;
    fprintf(stderr, "\r\033[Kmerges %lld/%lld%s", (long long)done, (long long)total, done == total ? "\n" : "");
}

static int run_tokenize(const cli_verb *verb, int argc, char **argv)
{
    if (argc < 1 || strcmp(argv[0], "train") != 0) {
        fprintf(stderr,
                "quern: tokenize knows one thing to do: quern tokenize train --data FILE... --vocab N --out tokenizer.json\n");
        return EXIT_USAGE;
    }
    qn_err err = {.code = QN_OK};
    qn_config *config = NULL;
    qn_tokenize_options opt;
    if (qn_config_parse(&config, verb->table, &opt, sizeof(opt), argc - 1, argv + 1, &err) != QN_OK) return cli_fail(&err);
    const int code =
        qn_tokenize_train(&opt, isatty(STDERR_FILENO) ? progress : NULL, NULL, &err) == QN_OK ? EXIT_DONE : cli_fail(&err);
    if (code == EXIT_DONE) fprintf(stderr, "quern: tokenizer written to %s\n", opt.out);
    qn_config_close(config);
    return code;
}

const cli_verb cli_tokenize = {
    .name = "tokenize",
    .summary = "learn a byte-level BPE tokenizer from text",
    .examples = "  quern tokenize train --data book.txt --vocab 1024 --out tokenizer.json\n",
    .table = &qn_tokenize_table,
    .run = run_tokenize,
};

static int run_info(const cli_verb *verb, int argc, char **argv)
{
    (void)verb;
    qn_err err = {.code = QN_OK};
    const bool json = cli_take_json(&argc, argv);
    if (argc != 1 || argv[0][0] == '-') {
        fprintf(stderr, "quern: info wants one path: quern info DIR|FILE\n");
        return EXIT_USAGE;
    }
    char *text = NULL;
    return qn_info(&text, argv[0], json, &err) == QN_OK ? cli_print(text) : cli_fail(&err);
}

const cli_verb cli_info = {
    .name = "info",
    .summary = "what a model, checkpoint, run, tokenizer or schedule holds",
    .examples = "  quern info runs/book\n  quern info model.safetensors\n  quern info schedule.txt --json\n",
    .run = run_info,
};
