/* Runs the built program (or another built one) and keeps what it said. For tests/e2e.
 *
 * Paths: QUERN_TEST_BUILD has the programs, QUERN_TEST_TMP takes what tests write, QUERN_TEST_DATA (or ../shared/data beside the
 * sources) has data that the project does not hold. */
#ifndef QN_TESTS_PROGRAM_H
#define QN_TESTS_PROGRAM_H

#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/alloc.h"
#include "core/compiler.h"
#include "core/io.h"

enum { PROGRAM_PATH = 600, PROGRAM_ARGS = 64, PROGRAM_TEXT = 1 << 20 };

/* What a run left. Overwritten by the next one. */
typedef struct outcome {
    int code; /* exit code; 1000 + number when a signal ended it */
    char out[PROGRAM_TEXT], err[PROGRAM_TEXT];
} outcome;

static outcome last;
static char test_root[PROGRAM_PATH - 200];

QN_UNUSED static int make_root(const char *name)
{
    const char *tmp = getenv("QUERN_TEST_TMP");
    snprintf(test_root, sizeof(test_root), "%s/%s_%ld", tmp != NULL ? tmp : P_tmpdir, name, (long)getpid());
    return qn_make_dirs(test_root, NULL) != QN_OK;
}

QN_UNUSED static int remove_root(void **state)
{
    (void)state;
    return qn_remove_tree(test_root, NULL) != QN_OK;
}

/* A path below the root; good until the eighth call from now. */
QN_UNUSED static char *in_root(const char *name)
{
    static char buf[8][PROGRAM_PATH];
    static int turn;
    turn = (turn + 1) % 8;
    snprintf(buf[turn], PROGRAM_PATH, "%s/%s", test_root, name);
    return buf[turn];
}

/* A path in the folder with data, or NULL (with a message) when it is not there. */
QN_UNUSED static const char *data_file(const char *name)
{
    static char buf[4][PROGRAM_PATH];
    static int turn;
    turn = (turn + 1) % 4;
    const char *data = getenv("QUERN_TEST_DATA"), *source = getenv("QUERN_TEST_SOURCE");
    if (data != NULL)
        snprintf(buf[turn], PROGRAM_PATH, "%s/%s", data, name);
    else
        snprintf(buf[turn], PROGRAM_PATH, "%s/../shared/data/%s", source != NULL ? source : ".", name);
    if (qn_path_exists(buf[turn])) return buf[turn];
    print_message("skipped: there is no %s; QUERN_TEST_DATA names the folder with data for tests\n", buf[turn]);
    return NULL;
}

QN_UNUSED static char *file_text(const char *path)
{
    char *text;
    size_t bytes;
    qn_err err;
    if (qn_file_read(&text, &bytes, path, 64 << 20, &err) != QN_OK) fail_msg("%s", err.text);
    return text;
}

QN_UNUSED static void write_text(const char *path, const char *text)
{
    assert_int_equal(qn_file_write(path, text, strlen(text), NULL), QN_OK);
}

static void read_back(char to[PROGRAM_TEXT], const char *path)
{
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    const size_t n = fread(to, 1, PROGRAM_TEXT - 1, f);
    to[n] = '\0';
    fclose(f);
}

/* In the child: what files may grow to. Writes beyond it fail as on a full disk. */
static long file_limit;

static pid_t start_program(const char *program, char *const *argv, int out)
{
    const char *build = getenv("QUERN_TEST_BUILD");
    char path[PROGRAM_PATH];
    snprintf(path, sizeof(path), "%s/%s", build != NULL ? build : ".", program);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child > 0) return child;
    const int err = open(in_root("stderr"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    if (file_limit > 0) {
        const struct rlimit most = {.rlim_cur = (rlim_t)file_limit, .rlim_max = (rlim_t)file_limit};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &most);
    }
    execv(path, argv);
    _exit(127);
}

static int wait_for(pid_t child)
{
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void run_args(const char *program, char *const *argv)
{
    const int out = open(in_root("stdout"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(out >= 0);
    const pid_t child = start_program(program, argv, out);
    close(out);
    last.code = wait_for(child);
    read_back(last.out, in_root("stdout"));
    read_back(last.err, in_root("stderr"));
    if (last.code == 127) fail_msg("%s could not be started; QUERN_TEST_BUILD must name the build folder", program);
}

/* run("train", "--steps", "3"): fills `last`. */
QN_UNUSED static void run_list(const char *verb, ...)
{
    char *argv[PROGRAM_ARGS] = {(char *)(uintptr_t) "quern", (char *)(uintptr_t)verb};
    int n = 2;
    va_list args;
    va_start(args, verb);
    while (n < PROGRAM_ARGS - 1 && (argv[n] = va_arg(args, char *)) != NULL) n++;
    va_end(args);
    assert_null(argv[n]);
    run_args("quern", argv);
}
#define run(...) run_list(__VA_ARGS__, (char *)NULL)

/* As a space-separated line, for arguments without blanks: run_line("train --steps 3 --out %s", path). */
QN_UNUSED static void run_line(const char *fmt, ...) QN_PRINTF(1, 2);
static int split_line(char *argv[PROGRAM_ARGS], char *line)
{
    int n = 0;
    argv[n++] = (char *)(uintptr_t) "quern";
    for (char *word = strtok(line, " "); word != NULL && n < PROGRAM_ARGS - 1; word = strtok(NULL, " ")) argv[n++] = word;
    argv[n] = NULL;
    return n;
}
QN_UNUSED static void run_line(const char *fmt, ...)
{
    char line[4096], *argv[PROGRAM_ARGS];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    split_line(argv, line);
    run_args("quern", argv);
}

QN_UNUSED static void must_be(int code)
{
    if (last.code != code) fail_msg("exit code %d, not %d; stderr: %.600s", last.code, code, last.err);
}

/* The run failed with this code, and one sentence that has all these words. */
QN_UNUSED static void must_say(int code, const char *first, const char *second)
{
    must_be(code);
    if (strstr(last.err, first) == NULL || (second != NULL && strstr(last.err, second) == NULL))
        fail_msg("'%s' and '%s' were wanted in: %s", first, second != NULL ? second : "", last.err);
}

/* Line i of last.out as a JSON object, or NULL behind the last one. The caller drops it. */
QN_UNUSED static json_t *json_line(int64_t i)
{
    const char *at = last.out;
    json_error_t where;
    for (; i > 0 && at != NULL; i--) {
        at = strchr(at, '\n');
        if (at != NULL) at++;
    }
    if (at == NULL || *at == '\0') return NULL;
    json_t *object = json_loadb(at, strcspn(at, "\n"), JSON_REJECT_DUPLICATES, &where);
    if (!json_is_object(object)) fail_msg("no JSON object (%s): %.200s", where.text, at);
    return object;
}

QN_UNUSED static double json_at(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value)) fail_msg("no number under '%s'", key);
    return json_number_value(value);
}

/* A text of n words in a few patterns, always the same. */
QN_UNUSED static void write_corpus(const char *path, int words)
{
    static const char *const word[] = {"the",  "mill",  "turns", "and",   "grinds", "slowly",
                                       "fine", "flour", "while", "water", "runs",   "below"};
    char *text = malloc((size_t)words * 8 + 1), *at = text;
    uint32_t x = 12345;
    assert_non_null(text);
    for (int i = 0; i < words; i++) {
        x = x * 1664525u + 1013904223u;
        at += sprintf(at, "%s%s", word[(i % 4 * 3 + (int)(x >> 30)) % 12], i % 9 == 8 ? ".\n" : " ");
    }
    write_text(path, text);
    free(text);
}

#endif
