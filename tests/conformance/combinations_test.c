/* Which options of quern train go together: every schedule with every pair of options, on a tiny model, for two steps. Either all
 * losses are those of one worker with the same numbers, to the bit, or a sentence refuses before anything is written.
 *
 * The suite runs a scattered part; QUERN_COMBINATIONS=all runs all of them, QUERN_COMBINATIONS=FILE also writes the table
 * docs/combinations.md (./dev combinations). QUERN_COMBINATIONS_OF=NAME looks at one schedule, QUERN_COMBINATIONS_SAY prints what
 * refusals say. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/program.h"
#include "support/sanitized.h"

#include "quern/session.h"
#include "schedule/gen/gen.h"

enum { STEPS = 2, REFERENCES = 512, SCATTER = QN_SANITIZED ? 131 : 41 };

/* What an option decides about the numbers is in its reference; the rest is how the work is spread. */
typedef struct option {
    const char *name, *flags;
    const char *reference; /* flags that one worker needs for the same numbers */
} option;

static const option options[] = {
    {"--tensor 2", "--tensor 2", "--tensor 2"},
    {"sequence-parallel", "--tensor 2 --sequence-parallel", "--tensor 2 --sequence-parallel"},
    {"--data-parallel 2", "--data-parallel 2", ""},
    {"--grad-groups 4", "--grad-groups 4", ""},
    {"--vocab-parallel 1", "--vocab-parallel 1 --vocab-shards 3", "--vocab-parallel 1 --vocab-shards 3"},
    {"--vocab-parallel 2", "--vocab-parallel 2 --vocab-shards 3", "--vocab-parallel 2 --vocab-shards 3"},
    {"--zero1", "--zero1", ""},
    {"--device-memory", "--device-memory 64M", ""},
    {"--window", "--window 2,1 --link 100G/s", ""},
    {"--optimizer-lag 1", "--optimizer-lag 1 --link 100G/s", "--optimizer-lag 1 --link 100G/s"},
    {"--post-validate", "--post-validate --clip 0", "--clip 0"}, /* with clipping nobody guesses so soon */
    {"--flight 2", "--flight 2", ""},
    {"--lora-rank", "--lora-rank 2 --init BASE", "--lora-rank 2 --init BASE"},
    {"--freeze", "--freeze *wte*", "--freeze *wte*"},
    {"--recompute full", "--recompute full", ""},
    {"full, late", "--recompute full --recompute-at late", ""},
    {"selective", "--recompute selective:0", ""},
    {"selective, early", "--recompute selective:norm,activation --recompute-at early", ""},
};
enum { OPTIONS = sizeof(options) / sizeof(options[0]) };

typedef struct outcome_of_run {
    qn_status st;
    double loss[STEPS + 1]; /* and the last, of validation */
    char text[1024];
} outcome_of_run;

static int32_t steps_seen;
static void keep_loss(void *ctx, const qn_train_step *s)
{
    double *loss = ctx;
    if (s->step <= STEPS) loss[s->step - 1] = s->loss;
    steps_seen++;
}

/* One call of qn_train with flags in one line. */
static outcome_of_run train_with(const char *flags)
{
    static char line[2048], *argv[PROGRAM_ARGS];
    outcome_of_run r = {.st = QN_OK};
    static qn_train_done done;
    qn_train_options opt;
    qn_config *config = NULL;
    qn_err err = {0};
    int argc = 0;
    snprintf(line, sizeof line, "%s", flags);
    for (char *w = strtok(line, " "); w != NULL && argc < PROGRAM_ARGS; w = strtok(NULL, " ")) argv[argc++] = w;
    const qn_train_hooks hooks = {.ctx = r.loss, .stepped = keep_loss};
    r.st = qn_config_parse(&config, &qn_train_table, &opt, sizeof opt, argc, argv, &err);
    if (r.st == QN_OK) r.st = qn_train(&done, &opt, &hooks, &err);
    r.loss[STEPS] = done.val_loss;
    snprintf(r.text, sizeof r.text, "%s", r.st == QN_OK ? "" : err.text);
    qn_config_close(config);
    return r;
}

static const char usual[] = "--layers 3 --heads 2 --width 16 --context 8 --batch 8 --micro-batches 8 --warmup 1 --seed 3 "
                            "--eval-every 0 --save-every 0 --no-pin --force";

/* The runs of one worker that others are held against, by their flags. */
static struct {
    char flags[512];
    outcome_of_run outcome;
} reference[REFERENCES];
static int32_t references;

static bool has(const char *flags, const char *what)
{
    return strstr(flags, what) != NULL;
}

/* One; on devices one for each tensor shard, which cannot share one. */
static int shard_devices(const char *flags)
{
    return has(flags, "--tensor") && has(flags, "--link") ? 2 : 1;
}

static const outcome_of_run *reference_of(const char *flags)
{
    char line[2048];
    for (int32_t i = 0; i < references; i++)
        if (strcmp(reference[i].flags, flags) == 0) return &reference[i].outcome;
    assert_true(references < REFERENCES);
    snprintf(line, sizeof line, "--data %s --out %s %s --steps %d --transport self --workers %d --schedule 1f1b %s",
             in_root("text"), in_root("reference"), usual, STEPS, shard_devices(flags), flags);
    snprintf(reference[references].flags, sizeof reference[0].flags, "%s", flags);
    reference[references].outcome = train_with(line);
    if (reference[references].outcome.st != QN_OK) fail_msg("reference %s: %s", flags, reference[references].outcome.text);
    return &reference[references++].outcome;
}

static void add(char *to, size_t cap, const char *flags)
{
    static const char once[] = " --link 100G/s";
    char *twice = strstr(to, once);
    if (twice != NULL && strstr(flags, once) != NULL) memset(twice, ' ', sizeof once - 1); /* once will do */
    const size_t used = strlen(to);
    const char *base = strstr(flags, "BASE");
    if (base == NULL)
        snprintf(to + used, cap - used, " %s", flags);
    else
        snprintf(to + used, cap - used, " %.*s%s%s", (int)(base - flags), flags, in_root("base"), base + 4);
}

/* Groups of gradients that the flags come to. */
static int32_t groups_of(const qn_generator *g, const char *flags)
{
    if (has(flags, "--grad-groups")) return 4;
    return qn_generator_replicas(g) * (has(flags, "--data-parallel") ? 2 : 1);
}

/* A refusal: the kind of status that the program ends with 2 on, one sentence, nothing written. */
static void assert_refused(const outcome_of_run *r, const char *flags)
{
    const bool usage = r->st == QN_EINVAL || r->st == QN_ERANGE || r->st == QN_ESCHEDULE || r->st == QN_EUNSUPPORTED;
    if (!usage) fail_msg("%s: status %s: %s", flags, qn_status_name(r->st), r->text);
    if (strlen(r->text) < 20 || strchr(r->text, '\n') != NULL) fail_msg("%s: '%s' is no sentence", flags, r->text);
    if (qn_path_exists(in_root("run")) != 0) fail_msg("%s: refused, but a run was written: %s", flags, r->text);
}

/* One schedule with one or two options: 1 they go together, 0 refused. */
static int try_one(const qn_generator *g, int32_t a, int32_t b, int32_t turn)
{
    char more[512] = "", of[512] = "", line[2048];
    const int32_t chosen[] = {a, b};
    for (int i = 0; i < 2 && (i == 0 || b != a); i++) {
        if (chosen[i] < 0) continue;
        add(more, sizeof more, options[chosen[i]].flags);
        if (options[chosen[i]].reference[0] != '\0') add(of, sizeof of, options[chosen[i]].reference);
    }
    const bool dp = has(more, "--data-parallel");
    /* as many as the tiny model has stages for */
    const int32_t workers = g->max_workers == 1 ? (dp || has(more, "--tensor") ? 2 : 1)
                            : g->host_state     ? 2
                                                : 4,
                  groups = groups_of(g, more);
    snprintf(line, sizeof line, "--data %s --out %s %s --steps %d --transport %s --workers %d --schedule %s%s", in_root("text"),
             in_root("run"), usual, STEPS, turn % 2 ? "thread" : "self", workers, g->name, more);
    const outcome_of_run got = train_with(line);
    if (got.st != QN_OK) {
        assert_refused(&got, line);
        if (getenv("QUERN_COMBINATIONS_SAY") != NULL) print_message("%s%s: %s\n", g->name, more, got.text);
        return 0;
    }
    assert_int_equal(qn_remove_tree(in_root("run"), NULL), QN_OK);
    if (groups > 1) snprintf(of + strlen(of), sizeof of - strlen(of), " --grad-groups %d", groups);
    const outcome_of_run *want = reference_of(of);
    for (int i = 0; i <= STEPS; i++)
        if (memcmp(&got.loss[i], &want->loss[i], sizeof(double)) != 0)
            fail_msg("%s: loss %d is %.17g, with one worker (%s) %.17g", line, i, got.loss[i], of, want->loss[i]);
    return 1;
}

static const char *mark(int works, int tried)
{
    return tried == 0 ? "" : works == tried ? "yes" : works == 0 ? "-" : "some";
}

static void write_table(const char *path, const signed char *alone, const int (*works)[OPTIONS], const int (*tried)[OPTIONS],
                        int32_t schedules)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(
        f, "# Which options of quern train go together\n\n"
           "Written by `./dev combinations`, which trains a tiny model with every schedule and every pair of options. Where they "
           "go\ntogether the losses are those of one worker with the same `--tensor`, `--vocab-shards`, `--grad-groups` and "
           "`--optimizer-lag`, to the\nbit; else a sentence says what to change, before anything is written.\n\n"
           "`--window` and `--optimizer-lag` are tried with `--link`.\n\n"
           "## Schedules\n\n| |");
    for (int32_t o = 0; o < OPTIONS; o++) fprintf(f, " %s |", options[o].name);
    fprintf(f, "\n|---|");
    for (int32_t o = 0; o < OPTIONS; o++) fprintf(f, "---|");
    for (int32_t s = 0; s < schedules; s++) {
        fprintf(f, "\n| %s |", qn_generator_list()[s].name);
        for (int32_t o = 0; o < OPTIONS; o++) fprintf(f, " %s |", mark(alone[s * OPTIONS + o], 1));
    }
    fprintf(f,
            "\n\n## Pairs of options\n\nyes: with every schedule that goes with each of them; some: with some of these.\n\n| |");
    for (int32_t o = 0; o < OPTIONS; o++) fprintf(f, " %s |", options[o].name);
    fprintf(f, "\n|---|");
    for (int32_t o = 0; o < OPTIONS; o++) fprintf(f, "---|");
    for (int32_t a = 0; a < OPTIONS; a++) {
        fprintf(f, "\n| %s |", options[a].name);
        for (int32_t b = 0; b < OPTIONS; b++)
            fprintf(f, " %s |", a == b ? "" : mark(works[a < b ? a : b][a < b ? b : a], tried[a < b ? a : b][a < b ? b : a]));
    }
    fprintf(f, "\n");
    fclose(f);
}

/* Two flags that say the same thing twice. */
static bool clash(int32_t a, int32_t b)
{
    const char *const flag[] = {"--recompute ", "--vocab-parallel ", "--tensor "};
    for (size_t i = 0; i < QN_COUNT(flag); i++)
        if (has(options[a].flags, flag[i]) && has(options[b].flags, flag[i])) return true;
    return false;
}

/* In the suite: one of so many, scattered over all. */
static bool left_out(uint32_t turn)
{
    return getenv("QUERN_COMBINATIONS") == NULL && (turn * 2654435761u >> 8) % SCATTER != 0;
}

static void every_schedule_with_every_pair(void **state)
{
    (void)state;
    static int works[OPTIONS][OPTIONS], tried[OPTIONS][OPTIONS];
    static signed char alone[64 * OPTIONS];
    const char *file = getenv("QUERN_COMBINATIONS"), *of = getenv("QUERN_COMBINATIONS_OF");
    int32_t schedules = 0, together = 0, runs = 0;
    uint32_t turn = 0;
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++, schedules++) {
        signed char *one = &alone[schedules * OPTIONS];
        if (of != NULL && strcmp(of, g->name) != 0) continue;
        for (int32_t a = 0; a < OPTIONS; a++, turn++) {
            if (left_out(turn)) continue;
            one[a] = (signed char)try_one(g, a, a, (int32_t)turn);
            together += one[a];
            runs++;
        }
        for (int32_t a = 0; a < OPTIONS; a++) {
            for (int32_t b = a + 1; b < OPTIONS; b++, turn++) {
                if (clash(a, b) || left_out(turn)) continue;
                const int ok = try_one(g, a, b, (int32_t)turn);
                works[a][b] += ok;
                tried[a][b] += ok || (one[a] && one[b]);
                together += ok;
                runs++;
            }
        }
    }
    print_message("%d of %d combinations go together, the others say why not\n", together, runs);
    if (file == NULL || strcmp(file, "all") == 0) return;
    write_table(file, alone, (const int(*)[OPTIONS])works, (const int(*)[OPTIONS])tried, schedules);
}

static int set_up(void **state)
{
    (void)state;
    char line[2048];
    if (make_root("combinations")) return 1;
    write_corpus(in_root("text"), 600);
    snprintf(line, sizeof line, "--data %s --out %s %s --steps 1 --transport self", in_root("text"), in_root("base"), usual);
    return train_with(line).st != QN_OK;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_schedule_with_every_pair)};
    return cmocka_run_group_tests_name("combinations", tests, set_up, remove_root);
}
