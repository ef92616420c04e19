/* Errors, help and JSON lines of the program. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "quern/session.h"

int cli_fail(const qn_err *err)
{
    fflush(stdout);
    fprintf(stderr, "quern: %s\n", err->text);
    switch (err->code) {
    case QN_EINTR:
        return EXIT_INTERRUPTED;
    case QN_EINVAL:
    case QN_ERANGE:
    case QN_EEXIST:
    case QN_ESCHEDULE:
    case QN_EUNSUPPORTED:
        return EXIT_USAGE;
    default:
        return EXIT_FAILED;
    }
}

bool cli_help(const cli_verb *verb, int argc, char **argv)
{
    bool asked = false;
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        asked |= strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0;
    if (!asked) return false;
    printf("quern %s: %s\n\nexamples:\n%s", verb->name, verb->summary, verb->examples);
    if (verb->table != NULL) {
        printf("\nflags (each may also be set by an environment variable, --micro-batches by QUERN_MICRO_BATCHES):\n");
        qn_config_help(verb->table, stdout);
    }
    return true;
}

bool cli_take_json(int *argc, char **argv)
{
    bool found = false;
    int kept = 0;
    for (int i = 0; i < *argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            found = true;
        else
            argv[kept++] = argv[i];
    }
    *argc = kept;
    return found;
}

int cli_print(char *text)
{
    fputs(text, stdout);
    qn_text_free(text);
    return fflush(stdout) == 0 ? EXIT_DONE : EXIT_FAILED;
}

cli_json cli_json_begin(void)
{
    putchar('{');
    return (cli_json){.first = true};
}

static void name_of(cli_json *j, const char *name)
{
    printf("%s\"%s\": ", j->first ? "" : ", ", name);
    j->first = false;
}

void cli_json_number(cli_json *j, const char *name, double value)
{
    name_of(j, name);
    if (isfinite(value))
        printf("%.17g", value);
    else
        printf("null");
}

void cli_json_integer(cli_json *j, const char *name, long long value)
{
    name_of(j, name);
    printf("%lld", value);
}

void cli_json_integers(cli_json *j, const char *name, const int64_t *value, int32_t count)
{
    name_of(j, name);
    putchar('[');
    for (int32_t i = 0; i < count; i++) printf("%s%lld", i > 0 ? ", " : "", (long long)value[i]);
    putchar(']');
}

void cli_json_true(cli_json *j, const char *name)
{
    name_of(j, name);
    printf("true");
}

void cli_json_text(cli_json *j, const char *name, const char *value)
{
    name_of(j, name);
    putchar('"');
    for (const unsigned char *p = (const unsigned char *)value; *p != '\0'; p++) {
        if (*p == '"' || *p == '\\')
            printf("\\%c", *p);
        else if (*p < 0x20)
            printf("\\u%04x", *p);
        else
            putchar(*p);
    }
    putchar('"');
}

void cli_json_end(cli_json *j)
{
    (void)j;
    printf("}\n");
    fflush(stdout);
}
