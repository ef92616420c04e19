/* docs/config.md is what the option tables say. Run with --write to bring it up to date. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quern/bench.h"
#include "quern/schedule.h"
#include "quern/session.h"

static void write_page(FILE *to)
{
    const qn_table *const tables[] = {&qn_train_table,    &qn_generate_table, &qn_eval_table, &qn_convert_table,
                                      &qn_tokenize_table, &qn_schedule_table, &qn_bench_table};
    fprintf(
        to,
        "# Settings\n\nEvery setting is a flag, an environment variable (`--micro-batches`: `QUERN_MICRO_BATCHES`) and, for "
        "`train`, a key of\n"
        "the run's `config.json`. This page is made from the tables in `src/session/options.c` by `config_doc_test --write`.\n");
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
        fprintf(to, "\n## quern %s\n\n", tables[i]->name);
        qn_config_markdown(tables[i], to);
    }
}

static const char *page_path(void)
{
    static char path[1024];
    const char *source = getenv("QUERN_TEST_SOURCE");
    snprintf(path, sizeof(path), "%s/docs/config.md", source != NULL ? source : ".");
    return path;
}

static void page_is_up_to_date(void **state)
{
    (void)state;
    char *want = NULL;
    size_t bytes = 0;
    FILE *memory = open_memstream(&want, &bytes);
    assert_non_null(memory);
    write_page(memory);
    fclose(memory);
    FILE *file = fopen(page_path(), "r");
    assert_non_null(file);
    char *got = calloc(1, bytes + 2);
    assert_non_null(got);
    const size_t n = fread(got, 1, bytes + 1, file);
    fclose(file);
    assert_int_equal(n, bytes);
    assert_memory_equal(got, want, bytes);
    free(got);
    free(want);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--write") == 0) {
        FILE *file = fopen(page_path(), "w");
        if (file == NULL) return 1;
        write_page(file);
        return fclose(file) != 0;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(page_is_up_to_date)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
