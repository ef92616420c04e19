/* Options: a digit (from 0) chooses the verb, arguments follow, a line each; after a NUL, the config.json of a run to resume.
 * Settings that were taken must come back the same through their text. */
#include <stdint.h>

#include "core/alloc.h"
#include "quern/bench.h"
#include "quern/schedule.h"
#include "quern/session.h"
#include "session/run_dir.h"
#include "session/schedules/schedule_costs.h"
#include "support/fuzz_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ARGS = 128 };

typedef union options {
    qn_train_options train;
    qn_generate_options generate;
    qn_eval_options eval;
    qn_convert_options convert;
    qn_tokenize_options tokenize;
    qn_schedule_options schedule;
    qn_bench_options bench;
} options;

static const struct verb {
    const qn_table *table;
    size_t bytes;
} verb[] = {
    {&qn_train_table, sizeof(qn_train_options)},       {&qn_generate_table, sizeof(qn_generate_options)},
    {&qn_eval_table, sizeof(qn_eval_options)},         {&qn_convert_table, sizeof(qn_convert_options)},
    {&qn_tokenize_table, sizeof(qn_tokenize_options)}, {&qn_schedule_table, sizeof(qn_schedule_options)},
    {&qn_bench_table, sizeof(qn_bench_options)},
};

/* The same settings through their text. */
static void comes_back(const qn_table *table, const options *opt)
{
    const char *keys[ARGS] = {NULL};
    char *json;
    qn_err err;
    if (qni_settings_json(&json, table, opt, &err) != QN_OK) return; /* not UTF-8 */
    QN_ASSERT(table->count < ARGS);
    for (size_t i = 0; i < table->count; i++) keys[i] = table->keys[i].name;
    QN_ASSERT(qni_settings_fit(json, strlen(json), table, opt, keys, &err) == QN_OK);
    qn_free(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *argv[ARGS], *text;
    int argc = 0;
    size_t bytes;
    options opt;
    qni_costs costs;
    qn_config *config;
    qn_err err;
    fuzz_dir_make();
    if (size == 0) return 0;
    const struct verb *v = &verb[(data[0] + 1u) % QN_COUNT(verb)];
    data++;
    size--;
    const uint8_t *part = fuzz_part(&data, &size, &bytes);
    text = strndup((const char *)part, bytes);
    QN_ASSERT(text != NULL);
    for (char *line = strtok(text, "\n"); line != NULL && argc < ARGS; line = strtok(NULL, "\n")) argv[argc++] = line;
    if (qn_config_parse(&config, v->table, &opt, v->bytes, argc, argv, &err) == QN_OK) {
        comes_back(v->table, &opt);
        if (v->table == &qn_schedule_table &&
            qni_costs_parse(&costs, opt.schedule.cost, NULL, opt.schedule.latency, &err) == QN_OK) {
            QN_ASSERT(costs.scale >= 1);
            qni_costs_fini(&costs);
        }
        if (size > 0 && v->table == &qn_train_table) {
            fuzz_file("config.json", data, size);
            (void)!qn_train_adopt(config, fuzz_dir, &err);
        }
        qn_config_close(config);
    }
    free(text);
    return 0;
}
