/* What the verbs of the program share. A verb is one file: it parses with its table, calls one function of the library, and shows
 * the result.
 *
 * Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted and saved. */
#ifndef QUERN_CLI_H
#define QUERN_CLI_H

#include <stdbool.h>

#include "quern/config.h"
#include "quern/status.h"

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

typedef struct cli_verb {
    const char *name;
    const char *summary;                                            /* one line for quern --help */
    const char *examples;                                           /* lines, each with its newline */
    const qn_table *table;                                          /* flags; NULL: none */
    int (*run)(const struct cli_verb *verb, int argc, char **argv); /* arguments behind the verb */
} cli_verb;

extern const cli_verb cli_train, cli_generate, cli_eval, cli_convert, cli_tokenize, cli_schedule, cli_bench, cli_info;

/* Prints the error on stderr and gives the exit code that belongs to it. */
int cli_fail(const qn_err *err);
/* True (and prints the help) when --help or -h is among the arguments. */
bool cli_help(const cli_verb *verb, int argc, char **argv);
/* Removes --json from the arguments. */
bool cli_take_json(int *argc, char **argv);
/* Prints text on stdout and frees it (qn_text_free). */
int cli_print(char *text);

/* One JSON object on a line of its own, flushed: {"name": value, ...}. Numbers with 17 significant digits; not finite: null. */
typedef struct cli_json {
    bool first;
} cli_json;
cli_json cli_json_begin(void);
void cli_json_number(cli_json *j, const char *name, double value);
void cli_json_integer(cli_json *j, const char *name, long long value);
void cli_json_integers(cli_json *j, const char *name, const int64_t *value, int32_t count);
void cli_json_true(cli_json *j, const char *name);
void cli_json_text(cli_json *j, const char *name, const char *value);
void cli_json_end(cli_json *j);

#endif
