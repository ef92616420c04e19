/* The program: quern VERB [flags]. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "quern/log.h"
#include "quern/session.h"

static const cli_verb *const verbs[] = {&cli_train,    &cli_generate, &cli_eval,  &cli_convert,
                                        &cli_tokenize, &cli_schedule, &cli_bench, &cli_info};
enum { VERBS = sizeof(verbs) / sizeof(verbs[0]) };

static void usage(FILE *to)
{
    fprintf(
        to,
        "quern %s: neural networks as pipelines\n\nusage: quern VERB [flags]     quern VERB --help for flags and examples\n\n",
        qn_version());
    for (int i = 0; i < VERBS; i++) fprintf(to, "  %-10s %s\n", verbs[i]->name, verbs[i]->summary);
}

static void show_message(void *ctx, qn_log_level level, const char *message)
{
    (void)ctx;
    fprintf(stderr, "quern: %s%s\n", level >= QN_LOG_WARN ? "note: " : "", message);
}

int main(int argc, char **argv)
{
    qn_log_to(show_message, NULL, QN_LOG_WARN);
    if (argc < 2) {
        usage(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("quern %s\n", qn_version());
        return EXIT_DONE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        usage(stdout);
        return EXIT_DONE;
    }
    const char *names[VERBS];
    for (int i = 0; i < VERBS; i++) {
        names[i] = verbs[i]->name;
        if (strcmp(argv[1], names[i]) == 0)
            return cli_help(verbs[i], argc - 2, argv + 2) ? EXIT_DONE : verbs[i]->run(verbs[i], argc - 2, argv + 2);
    }
    const char *near = qn_nearest(argv[1], names, VERBS);
    fprintf(stderr, "quern: '%s' is no verb%s%s%s\n", argv[1], near ? "; did you mean '" : "", near ? near : "",
            near ? "'?" : "; quern --help lists them");
    return EXIT_USAGE;
}
