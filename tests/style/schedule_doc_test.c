/* docs/schedules.md has a section for each schedule of the list, and docs/schedules/ its picture as the program draws it. Run
 * with
 * --write to draw the pictures again. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/io.h"
#include "quern/schedule.h"
#include "quern/session.h"
#include "schedule/gen/gen.h"

static const char *in_docs(const char *name)
{
    static char path[1024];
    const char *source = getenv("QUERN_TEST_SOURCE");
    snprintf(path, sizeof(path), "%s/docs/%s", source != NULL ? source : ".", name);
    return path;
}

static const char *picture_of(const qn_generator *g)
{
    char name[64];
    snprintf(name, sizeof(name), "schedules/%s.svg", g->name);
    return in_docs(name);
}

/* Four workers (or as many as it may have), eight micro-batches, tasks of one length; exit status 0 when the file is written.
 * Schedules of devices with little memory: with their copies, a stage's weights in 3 ms. */
static qn_status draw(const qn_generator *g, const char *path, qn_err *err)
{
    char *text = NULL;
    const bool devices = g->host_state || g->max_workers == 1;
    const qn_schedule_options opt = {.schedule = g->name,
                                     .sizes = devices ? "act=100,weights=3000" : NULL,
                                     .link = devices ? "1000000/s" : NULL,
                                     .window = devices ? "2" : NULL,
                                     .workers = g->max_workers > 0 ? g->max_workers : 4,
                                     .micro_batches = 8,
                                     .cost = "F=1,B=1,W=1",
                                     .depth = 2,
                                     .svg = path};
    const qn_status st = qn_schedule_simulate(&text, &opt, false, err);
    qn_text_free(text);
    return st;
}

static char *read_all(const char *path)
{
    char *text = NULL;
    size_t bytes = 0;
    qn_err err;
    if (qn_file_read(&text, &bytes, path, (size_t)1 << 24, &err) != QN_OK) fail_msg("%s", err.text);
    return text;
}

/* Pictures beside those of the list: vocabulary shards. */
static const struct {
    const char *name, *schedule;
    int64_t vocab;
} more[] = {{"1f1b-vocab-1", "1f1b", 1}, {"1f1b-vocab-2", "1f1b", 2}, {"v-half-vocab-1", "v-half", 1}};
enum { MORE = sizeof(more) / sizeof(more[0]) };

static const char *more_picture(int i)
{
    char name[64];
    snprintf(name, sizeof(name), "schedules/%s.svg", more[i].name);
    return in_docs(name);
}

static qn_status draw_more(int i, const char *path, qn_err *err)
{
    char *text = NULL;
    const qn_schedule_options opt = {.schedule = more[i].schedule,
                                     .workers = 4,
                                     .micro_batches = 8,
                                     .vocab_parallel = more[i].vocab,
                                     .cost = "F=1,B=1,W=1,S=0.5,T=0.5",
                                     .depth = 2,
                                     .svg = path};
    const qn_status st = qn_schedule_simulate(&text, &opt, false, err);
    qn_text_free(text);
    return st;
}

static void pictures_are_up_to_date(void **state)
{
    (void)state;
    const char *tmp = getenv("QUERN_TEST_TMP");
    char path[1024];
    snprintf(path, sizeof(path), "%s/quern-schedule-%ld.svg", tmp != NULL ? tmp : "/tmp", (long)getpid());
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        qn_err err;
        if (draw(g, path, &err) != QN_OK) fail_msg("%s", err.text);
        char *want = read_all(path), *got = read_all(picture_of(g));
        if (strcmp(want, got) != 0) fail_msg("docs/schedules/%s.svg: schedule_doc_test --write draws it again", g->name);
        qn_free(want);
        qn_free(got);
    }
    for (int i = 0; i < MORE; i++) {
        qn_err err;
        if (draw_more(i, path, &err) != QN_OK) fail_msg("%s", err.text);
        char *want = read_all(path), *got = read_all(more_picture(i));
        if (strcmp(want, got) != 0) fail_msg("docs/schedules/%s.svg: schedule_doc_test --write draws it again", more[i].name);
        qn_free(want);
        qn_free(got);
    }
    unlink(path);
}

static void every_schedule_has_its_section(void **state)
{
    (void)state;
    char *page = read_all(in_docs("schedules.md"));
    int32_t sections = 0;
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++, sections++) {
        char text[128];
        snprintf(text, sizeof(text), "\n## %s\n", g->name);
        if (strstr(page, text) == NULL) fail_msg("docs/schedules.md has no section '%s'", g->name);
        snprintf(text, sizeof(text), "(schedules/%s.svg)", g->name);
        if (strstr(page, text) == NULL) fail_msg("docs/schedules.md does not show %s", text);
    }
    for (int i = 0; i < MORE; i++) {
        char text[128];
        snprintf(text, sizeof(text), "(schedules/%s.svg)", more[i].name);
        if (strstr(page, text) == NULL) fail_msg("docs/schedules.md does not show %s", text);
    }
    for (const char *at = strstr(page, "\n## "); at != NULL; at = strstr(at + 1, "\n## ")) sections--;
    assert_int_equal(sections, 0); /* no section of a schedule that is not there */
    qn_free(page);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--write") == 0) {
        for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
            qn_err err;
            if (draw(g, picture_of(g), &err) == QN_OK) continue;
            fprintf(stderr, "%s\n", err.text);
            return 1;
        }
        for (int i = 0; i < MORE; i++) {
            qn_err err;
            if (draw_more(i, more_picture(i), &err) == QN_OK) continue;
            fprintf(stderr, "%s\n", err.text);
            return 1;
        }
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pictures_are_up_to_date),
        cmocka_unit_test(every_schedule_has_its_section),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
