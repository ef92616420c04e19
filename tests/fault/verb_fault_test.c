/* The n-th allocation and the n-th I/O fail in every verb that reads a run: told each time, nothing leaks, nothing else breaks.
 */
#include "support/fault_sweep.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/compiler.h"
#include "core/io.h"
#include "quern/schedule.h"
#include "quern/session.h"

enum { PATH = 512 };

static char root[PATH / 2], corpus[PATH], run[PATH], bpe[PATH];

static void in_root(char out[PATH], const char *name)
{
    snprintf(out, PATH, "%s/%s", root, name);
}

static int take_text(void *ctx, const char *text, size_t bytes)
{
    (void)ctx, (void)text, (void)bytes;
    return 0;
}

/* Options from the table's defaults. */
#define WITH_OPTIONS(type, table)                                                                                                \
    type opt;                                                                                                                    \
    qn_config *config;                                                                                                           \
    qn_status st = qn_config_parse(&config, &(table), &opt, sizeof(opt), 0, NULL, err);                                          \
    if (st != QN_OK) return st

static qn_status use_train(void *ctx, qn_err *err)
{
    WITH_OPTIONS(qn_train_options, qn_train_table);
    qn_train_done done;
    const char *data[] = {corpus};
    (void)ctx;
    opt.data = (qn_list){.count = 1, .item = data};
    opt.layers = opt.heads = opt.batch = opt.micro_batches = opt.steps = 1;
    opt.width = opt.context = 8;
    opt.out = run;
    st = qn_train(&done, &opt, NULL, err);
    qn_config_close(config);
    return st;
}

static qn_status use_generate(void *ctx, qn_err *err)
{
    WITH_OPTIONS(qn_generate_options, qn_generate_table);
    qn_generate_done done;
    (void)ctx;
    opt.model = run;
    static const char *sacks[] = {"sacks"};
    opt.prompt = (qn_list){.count = 1, .item = sacks};
    opt.max_tokens = 12; /* past the context */
    opt.workers = 2;
    st = qn_generate_text(&done, &opt, take_text, NULL, err);
    qn_config_close(config);
    return st;
}

static qn_status use_eval(void *ctx, qn_err *err)
{
    WITH_OPTIONS(qn_eval_options, qn_eval_table);
    qn_eval_done done;
    (void)ctx;
    opt.model = run;
    opt.data = corpus;
    st = qn_eval_text(&done, &opt, err);
    qn_config_close(config);
    return st;
}

static qn_status use_info(void *ctx, qn_err *err)
{
    char *text = NULL;
    (void)ctx;
    const qn_status st = qn_info(&text, run, true, err);
    qn_text_free(text);
    return st;
}

static qn_status use_tokenize(void *ctx, qn_err *err)
{
    WITH_OPTIONS(qn_tokenize_options, qn_tokenize_table);
    const char *data[] = {corpus};
    (void)ctx;
    opt.data = (qn_list){.count = 1, .item = data};
    opt.vocab = 280;
    opt.out = bpe;
    opt.force = 1;
    st = qn_tokenize_train(&opt, NULL, NULL, err);
    qn_config_close(config);
    return st;
}

static qn_status use_simulate(void *ctx, qn_err *err)
{
    WITH_OPTIONS(qn_schedule_options, qn_schedule_table);
    char *text = NULL;
    (void)ctx;
    opt.workers = 2;
    opt.micro_batches = 3;
    st = qn_schedule_simulate(&text, &opt, true, err);
    qn_text_free(text);
    qn_config_close(config);
    return st;
}

static qn_status use_compare(void *ctx, qn_err *err)
{
    WITH_OPTIONS(qn_schedule_options, qn_schedule_table);
    static char page[PATH];
    static const char *names[] = {"1f1b", "zb-v"};
    char *text = NULL;
    (void)ctx;
    in_root(page, "page.html");
    opt.workers = 2;
    opt.micro_batches = 3;
    opt.html = page;
    opt.names = (qn_list){.count = 2, .item = names};
    st = qn_schedule_compare(&text, &opt, false, err);
    qn_text_free(text);
    qn_config_close(config);
    return st;
}

static qn_status use_search(void *ctx, qn_err *err)
{
    WITH_OPTIONS(qn_schedule_options, qn_schedule_table);
    static char file[PATH];
    char *text = NULL;
    (void)ctx;
    in_root(file, "found.txt");
    opt.workers = 2;
    opt.micro_batches = 2;
    opt.chunks = 1;
    opt.rounds = 4;
    opt.memory = "1";
    opt.out = file;
    st = qn_schedule_search(&text, &opt, true, NULL, err);
    qn_text_free(text);
    qn_config_close(config);
    return st;
}

static void every_verb(void **state)
{
    static const struct {
        const char *name;
        fault_work *work;
        long survived; /* failed allocations that are no loss: without memory for its JIT a pattern is interpreted */
    } verb[] = {{"generate", use_generate, 0},  {"eval", use_eval, 0},         {"info", use_info, 0},
                {"tokenize", use_tokenize, 20}, {"simulate", use_simulate, 0}, {"compare", use_compare, 0},
                {"search", use_search, 0}};
    (void)state;
    for (size_t i = 0; i < QN_COUNT(verb); i++) {
        const long memory = fault_sweep(QN_FAULT_ALLOC, verb[i].work, NULL, 1, verb[i].survived);
        const long io = fault_sweep(QN_FAULT_IO, verb[i].work, NULL, 1, 0);
        print_message("%s: %ld failed allocations, %ld failed reads and writes\n", verb[i].name, memory, io);
        assert_true(memory > 0);
    }
}

static int set_up(void **state)
{
    const char *tmp = getenv("QUERN_TEST_TMP");
    qn_err err;
    (void)state;
    snprintf(root, sizeof(root), "%s/verb_fault_%ld", tmp != NULL ? tmp : P_tmpdir, (long)getpid());
    if (qn_make_dirs(root, NULL) != QN_OK) return 1;
    in_root(corpus, "corpus.txt");
    in_root(run, "run");
    in_root(bpe, "tokenizer.json");
    FILE *file = fopen(corpus, "w");
    if (file == NULL) return 1;
    for (int i = 0; i < 20; i++) fprintf(file, "%d sacks of grain make %d sacks of flour\n", i, i - i / 7);
    fclose(file);
    if (use_train(NULL, &err) == QN_OK) return 0;
    print_error("%s\n", err.text);
    return 1;
}

static int tear_down(void **state)
{
    (void)state;
    return qn_remove_tree(root, NULL) != QN_OK;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_verb)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
