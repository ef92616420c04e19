/* Configuration tables: every type from every source, suggestions, ranges, round trips, failing allocations; and the log sink. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "compiler.h"
#include "log.h"
#include "quern/config.h"

typedef struct options {
    int resume;
    int64_t batch, memory;
    double lr;
    const char *out;
    int32_t schedule;
    qn_list cuts, data;
} options;

#define AT(field) offsetof(options, field)
static const qn_key keys[] = {
    {.name = "resume", .type = QN_KEY_BOOL, .offset = AT(resume), .help = "go on where the run stopped"},
    {.name = "micro-batches",
     .type = QN_KEY_INT,
     .offset = AT(batch),
     .fallback = "4",
     .min = 1,
     .max = 64,
     .help = "parts of a batch"},
    {.name = "memory", .type = QN_KEY_INT, .offset = AT(memory), .fallback = "1G", .unit = "bytes", .help = "limit of a worker"},
    {.name = "lr", .type = QN_KEY_REAL, .offset = AT(lr), .fallback = "1e-3", .min = 0, .max = 1, .help = "RATE learning rate"},
    {.name = "out", .type = QN_KEY_TEXT, .offset = AT(out), .help = "DIR the run's directory"},
    {.name = "schedule",
     .type = QN_KEY_CHOICE,
     .offset = AT(schedule),
     .fallback = "1f1b",
     .choices = "gpipe|1f1b|interleaved",
     .help = "order of tasks"},
    {.name = "cuts", .type = QN_KEY_LIST, .offset = AT(cuts), .help = "layers before which to cut"},
    {.name = "data", .type = QN_KEY_FILES, .offset = AT(data), .help = "FILE... text to learn from"},
};
static const qn_table table = {.name = "train", .keys = keys, .count = QN_COUNT(keys)};

static qn_status parse(qn_config **c, options *o, qn_err *err, const char *line)
{
    static char copy[512];
    char *argv[32];
    int argc = 0;
    assert_true(strlen(line) < sizeof(copy));
    strcpy(copy, line);
    for (char *word = strtok(copy, " "); word != NULL; word = strtok(NULL, " ")) argv[argc++] = word;
    return qn_config_parse(c, &table, o, sizeof(*o), argc, argv, err);
}

static void defaults_come_from_the_table(void **state)
{
    qn_config *c;
    options o;
    (void)state;
    assert_int_equal(parse(&c, &o, NULL, ""), QN_OK);
    assert_true(o.resume == 0 && o.batch == 4 && o.memory == (int64_t)1 << 30 && o.lr == 1e-3 && o.out == NULL &&
                o.schedule == 1);
    assert_true(o.cuts.count == 0 && o.data.count == 0);
    assert_false(qn_config_given(c, "lr"));
    qn_config_close(c);
    qn_config_close(NULL);
}

static void flags_of_every_type(void **state)
{
    qn_config *c;
    options o;
    (void)state;
    assert_int_equal(parse(&c, &o, NULL,
                           "here --data a,b.txt c.txt --micro-batches 64 --memory=64K --lr .5 --out runs/1 --schedule gpipe "
                           "--cuts 2,4 --resume --data d.txt --cuts 6 -- --there"),
                     QN_OK);
    assert_true(o.resume == 1 && o.batch == 64 && o.memory == 65536 && o.lr == 0.5 && o.schedule == 0);
    assert_string_equal(o.out, "runs/1");
    assert_int_equal(o.cuts.count, 3);
    assert_string_equal(o.cuts.item[2], "6");
    assert_int_equal(o.data.count, 3);
    assert_string_equal(o.data.item[0], "a,b.txt");
    assert_string_equal(o.data.item[2], "d.txt");
    const qn_list rest = qn_config_positional(c);
    assert_int_equal(rest.count, 2);
    assert_string_equal(rest.item[1], "--there");
    assert_true(qn_config_given(c, "micro_batches") && qn_config_given(c, "data"));
    qn_config_close(c);
    assert_int_equal(parse(&c, &o, NULL, "--resume --no-resume --lr -0 --micro-batches=1 --memory -2M --out=--x"), QN_OK);
    assert_true(o.resume == 0 && o.memory == -(2 << 20) && strcmp(o.out, "--x") == 0);
    qn_config_close(c);
}

static void wrong_flags_say_what_is_right(void **state)
{
    static const struct {
        const char *line;
        qn_status want;
        const char *says;
    } cases[] = {
        {"--micro-batchs 3", QN_EINVAL, "did you mean --micro-batches?"},
        {"--schedul 3", QN_EINVAL, "did you mean --schedule?"},
        {"--micro 3", QN_EINVAL, "did you mean --micro-batches?"},
        {"--zzzzzz", QN_EINVAL, "--help"},
        {"--no-lr", QN_EINVAL, "no --no-lr"},
        {"--no-resume=1", QN_EINVAL, "takes no value"},
        {"-lr 3", QN_EINVAL, "two dashes"},
        {"--lr", QN_EINVAL, "--lr needs a value"},
        {"--lr --resume", QN_EINVAL, "--lr needs a value"},
        {"--data --resume", QN_EINVAL, "--data needs a value"},
        {"--data=", QN_EINVAL, "--data needs at least one value"},
        {"--cuts 1,,2", QN_EINVAL, "empty"},
        {"--cuts 1,", QN_EINVAL, "empty"},
        {"--lr fast", QN_EINVAL, "--lr is 'fast'; a number is needed"},
        {"--lr nan", QN_EINVAL, "a number is needed"},
        {"--lr 0x1", QN_EINVAL, "a number is needed"},
        {"--lr 1e999", QN_ERANGE, "too large"},
        {"--lr 1.5", QN_ERANGE, "between 0 and 1"},
        {"--micro-batches 0", QN_ERANGE, "between 1 and 64"},
        {"--micro-batches 65", QN_ERANGE, "between 1 and 64"},
        {"--micro-batches 3x", QN_EINVAL, "whole number"},
        {"--micro-batches 3K", QN_EINVAL, "whole number"},
        {"--micro-batches=", QN_EINVAL, "whole number"},
        {"--micro-batches 1.5", QN_EINVAL, "whole number"},
        {"--memory 99999999999999999999", QN_ERANGE, "64 bits"},
        {"--memory 9999999999G", QN_ERANGE, "64 bits"},
        {"--memory 3KX", QN_EINVAL, "64M or 1.5G"},
        {"--schedule zigzag", QN_EINVAL, "one of gpipe|1f1b|interleaved"},
        {"--schedule gpip", QN_EINVAL, "one of"},
        {"--resume=maybe", QN_EINVAL, "true or false"},
        {"--=3", QN_EINVAL, "train has no"},
    };
    (void)state;
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        qn_config *c;
        options o;
        qn_err err;
        const qn_status st = parse(&c, &o, &err, cases[i].line);
        if (st != cases[i].want || strstr(err.text, cases[i].says) == NULL)
            fail_msg("%s: %s, '%s'; wanted '%s'", cases[i].line, qn_status_name(st), err.text, cases[i].says);
        assert_null(c);
    }
}

static void the_environment_is_weaker_than_flags(void **state)
{
    qn_config *c;
    options o;
    qn_err err;
    (void)state;
    setenv("QUERN_MICRO_BATCHES", "8", 1);
    setenv("QUERN_CUTS", "1,2", 1);
    setenv("QUERN_DATA", "a b\nc", 1);
    setenv("QUERN_RESUME", "on", 1);
    setenv("QUERN_OUT", "", 1);
    assert_int_equal(parse(&c, &o, &err, ""), QN_OK);
    assert_true(o.batch == 8 && o.cuts.count == 2 && o.data.count == 2 && o.resume == 1 && o.out == NULL);
    assert_string_equal(o.data.item[0], "a b");
    assert_true(qn_config_given(c, "cuts") && !qn_config_given(c, "out"));
    qn_config_close(c);
    assert_int_equal(parse(&c, &o, &err, "--micro-batches 2 --cuts 9 --no-resume"), QN_OK);
    assert_true(o.batch == 2 && o.cuts.count == 1 && o.resume == 0);
    qn_config_close(c);
    setenv("QUERN_MICRO_BATCHES", "many", 1);
    assert_int_equal(parse(&c, &o, &err, ""), QN_EINVAL);
    assert_non_null(strstr(err.text, "QUERN_MICRO_BATCHES"));
    static const char *const names[] = {"MICRO_BATCHES", "CUTS", "DATA", "RESUME", "OUT"};
    for (size_t i = 0; i < QN_COUNT(names); i++) {
        char name[64];
        snprintf(name, sizeof(name), "QUERN_%s", names[i]);
        unsetenv(name);
    }
}

/* The text of every key, set in a second config, gives the same text again. */
static void text_is_read_back(void **state)
{
    qn_config *a, *b;
    options oa, ob;
    (void)state;
    assert_int_equal(parse(&a, &oa, NULL, "--lr 0.1 --cuts 2,4 --data x,y z --resume --out o --schedule interleaved --memory 5"),
                     QN_OK);
    assert_int_equal(parse(&b, &ob, NULL, "--cuts 7 --data q"), QN_OK);
    for (size_t i = 0; i < table.count; i++) {
        char first[64], second[64];
        const int n = qn_config_text(a, i, first, sizeof(first));
        assert_int_equal(n, strlen(first));
        assert_int_equal(qn_config_text(a, i, NULL, 0), n);
        assert_int_equal(qn_config_set(b, keys[i].name, first, NULL), QN_OK);
        (void)qn_config_text(b, i, second, sizeof(second));
        assert_string_equal(first, second);
    }
    assert_true(ob.lr == 0.1 && ob.cuts.count == 2 && ob.data.count == 2 && ob.schedule == 2 && ob.resume == 1);
    char small[4];
    assert_int_equal(qn_config_text(a, 6, small, sizeof(small)), 3);
    assert_int_equal(qn_config_text(a, 5, small, sizeof(small)), 11);
    assert_string_equal(small, "int");
    qn_err err;
    assert_int_equal(qn_config_set(b, "micro_batches", "9", &err), QN_OK);
    assert_int_equal(ob.batch, 9);
    assert_int_equal(qn_config_set(b, "micro_batch", "9", &err), QN_EINVAL);
    assert_non_null(strstr(err.text, "micro-batches"));
    assert_int_equal(qn_config_set(b, "lr", "2", &err), QN_ERANGE);
    assert_int_equal(qn_config_set(b, "cuts", "", &err), QN_OK);
    assert_int_equal(ob.cuts.count, 0);
    qn_config_close(a);
    qn_config_close(b);
}

static void the_nth_allocation_failing_is_reported(void **state)
{
    (void)state;
    long n = 1;
    for (;; n++) {
        qn_config *c;
        options o;
        qn_err err;
        qni_fault_arm(QN_FAULT_ALLOC, n);
        const qn_status st = parse(&c, &o, &err, "pos --data a b --cuts 1,2,3 --out x");
        qni_fault_arm(QN_FAULT_ALLOC, 0);
        qn_config_close(c);
        if (st == QN_OK) break;
        assert_int_equal(st, QN_ENOMEM);
        assert_null(c);
    }
    assert_true(n > 10);
}

static void nearest_is_near(void **state)
{
    static const char *const names[] = {"train", "generate", "eval", "top"};
    (void)state;
    assert_string_equal(qn_nearest("trian", names, 4), "train");
    assert_string_equal(qn_nearest("gen", names, 4), "generate");
    assert_string_equal(qn_nearest("evla", names, 4), "eval");
    assert_null(qn_nearest("xyzzy", names, 4));
    assert_null(qn_nearest("", names, 4));
    assert_null(qn_nearest("t", names, 0));
}

static char *captured(void (*print)(const qn_table *, FILE *))
{
    char *text = NULL;
    size_t n = 0;
    FILE *to = open_memstream(&text, &n);
    assert_non_null(to);
    print(&table, to);
    fclose(to);
    return text;
}

static void help_and_markdown_list_every_key(void **state)
{
    (void)state;
    char *help = captured(qn_config_help), *markdown = captured(qn_config_markdown);
    for (size_t i = 0; i < table.count; i++) {
        char flag[64];
        snprintf(flag, sizeof(flag), "--%s", keys[i].name);
        assert_non_null(strstr(help, flag));
        assert_non_null(strstr(markdown, flag));
    }
    assert_non_null(strstr(help, "--lr RATE"));
    assert_non_null(strstr(help, "learning rate (default 1e-3; 0 to 1)"));
    assert_non_null(strstr(help, "--data FILE... "));
    assert_non_null(strstr(help, "(default 4; 1 to 64)"));
    assert_non_null(strstr(markdown, "QUERN_MICRO_BATCHES"));
    assert_non_null(strstr(markdown, "gpipe\\|1f1b"));
    printf("%s%s", help, markdown);
    free(help);
    free(markdown);
}

static char last_message[64];
static void remember(void *ctx, qn_log_level level, const char *message)
{
    (*(int *)ctx)++;
    snprintf(last_message, sizeof(last_message), "%d %s", level, message);
}

static void log_messages_reach_the_sink(void **state)
{
    int count = 0;
    (void)state;
    qn_log(QN_LOG_ERROR, "nobody listens");
    qn_log_to(remember, &count, QN_LOG_INFO);
    qn_log(QN_LOG_DEBUG, "too quiet");
    qn_log(QN_LOG_WARN, "%d of %s", 3, "four");
    assert_int_equal(count, 1);
    assert_string_equal(last_message, "2 3 of four");
    qn_log_to(NULL, NULL, QN_LOG_DEBUG);
    qn_log(QN_LOG_ERROR, "nobody listens");
    assert_int_equal(count, 1);
}

static void every_status_has_a_name(void **state)
{
    qn_err err;
    (void)state;
    for (int s = 0; s < QN_STATUS_COUNT; s++) {
        assert_true(strncmp(qn_status_name((qn_status)s), "QN_", 3) == 0);
        assert_true(strlen(qn_status_text((qn_status)s)) > 0);
    }
    assert_string_equal(qn_status_name((qn_status)-1), "unknown status");
    assert_int_equal(qn_status_loss((qn_status)999), QN_LOST_PROCESS);
    assert_int_equal(QN_FAIL(NULL, QN_EIO, "no buffer"), QN_EIO);
    assert_int_equal(QN_FAIL(&err, QN_EPEER, "peer %d", 3), QN_EPEER);
    assert_string_equal(err.text, "peer 3");
    assert_true(err.code == QN_EPEER && err.line > 0 && qn_status_loss(err.code) == QN_LOST_PEER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_come_from_the_table),
        cmocka_unit_test(flags_of_every_type),
        cmocka_unit_test(wrong_flags_say_what_is_right),
        cmocka_unit_test(the_environment_is_weaker_than_flags),
        cmocka_unit_test(text_is_read_back),
        cmocka_unit_test(the_nth_allocation_failing_is_reported),
        cmocka_unit_test(nearest_is_near),
        cmocka_unit_test(help_and_markdown_list_every_key),
        cmocka_unit_test(log_messages_reach_the_sink),
        cmocka_unit_test(every_status_has_a_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
