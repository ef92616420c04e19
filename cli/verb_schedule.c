/* quern schedule list | show | check | simulate | compare | search */
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli.h"
#include "quern/schedule.h"
#include "quern/session.h"

static int columns(void)
{
    struct winsize size;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 40 ? size.ws_col : 120;
}

static const char *const actions[] = {"list", "show", "check", "simulate", "compare", "search"};
enum { LIST, SHOW, CHECK, SIMULATE, COMPARE, SEARCH, ACTIONS };

static void show_progress(void *ctx, double done, double time)
{
    (void)ctx;
    fprintf(stderr, "\r%3.0f %%  %-14.8g", 100 * done, time);
    fflush(stderr);
}

static qn_status search(char **out, const qn_schedule_options *opt, bool json, qn_err *err)
{
    const bool seen = isatty(STDERR_FILENO) == 1;
    const qn_schedule_watch watch = {.fn = show_progress};
    const qn_status st = qn_schedule_search(out, opt, json, seen ? &watch : NULL, err);
    if (seen) fprintf(stderr, "\r%-30s\r", "");
    return st;
}

static qn_status act(char **out, int action, const qn_schedule_options *opt, bool json, qn_err *err)
{
    switch (action) {
    case LIST:
        return qn_schedule_list(out, json, err);
    case SHOW:
        return qn_schedule_show(out, opt, columns(), err);
    case CHECK:
        return qn_schedule_check(out, opt, json, err);
    case SIMULATE:
        return qn_schedule_simulate(out, opt, json, err);
    case COMPARE:
        return qn_schedule_compare(out, opt, json, err);
    default:
        return search(out, opt, json, err);
    }
}

/* Words that stand alone: schedules to show, check, simulate or compare. */
static bool take_names(qn_schedule_options *opt, int action, const qn_list *words, bool given)
{
    const bool one = action == SHOW || action == CHECK || action == SIMULATE;
    if (action == CHECK && words->count == 0 && !given) {
        fprintf(stderr, "quern: check wants one schedule: quern schedule check FILE\n");
        return false;
    }
    if (words->count == 0) return true;
    if (action == COMPARE && opt->names.count == 0) {
        opt->names = *words;
        return true;
    }
    if (one && words->count == 1 && !given) {
        opt->schedule = words->item[0];
        return true;
    }
    fprintf(stderr, "quern: schedule %s: '%s' stands alone; %s\n", actions[action], words->item[words->count - 1],
            one ? "one schedule was wanted" : "only show, check, simulate and compare take names");
    return false;
}

static int run(const cli_verb *verb, int argc, char **argv)
{
    int action = 0;
    while (argc > 0 && action < ACTIONS && strcmp(argv[0], actions[action]) != 0) action++;
    if (argc < 1 || action == ACTIONS) {
        const char *near = argc < 1 ? NULL : qn_nearest(argv[0], actions, ACTIONS);
        fprintf(stderr, "quern: schedule list, show, check, simulate, compare or search?%s%s\n", near ? " Did you mean " : "",
                near ? near : "");
        return EXIT_USAGE;
    }
    argc--;
    argv++;
    qn_err err = {.code = QN_OK};
    qn_config *config = NULL;
    qn_schedule_options opt;
    char *text = NULL;
    const bool json = cli_take_json(&argc, argv);
    if (qn_config_parse(&config, verb->table, &opt, sizeof(opt), argc, argv, &err) != QN_OK) return cli_fail(&err);
    const qn_list paths = qn_config_positional(config);
    if (!take_names(&opt, action, &paths, qn_config_given(config, "schedule"))) {
        qn_config_close(config);
        return EXIT_USAGE;
    }
    const int code = act(&text, action, &opt, json, &err) == QN_OK ? cli_print(text) : cli_fail(&err);
    qn_config_close(config);
    return code;
}

const cli_verb cli_schedule = {
    .name = "schedule",
    .summary = "list, show, check, simulate, compare and search pipeline schedules",
    .examples =
        "  quern schedule list\n"
        "  quern schedule show interleaved --workers 4 --micro-batches 8\n"
        "  quern schedule check mine.txt\n"
        "  quern schedule simulate 1f1b --workers 8 --micro-batches 24 --cost F=1,B=2 --svg 1f1b.svg\n"
        "  quern schedule simulate mine.txt --cost-from runs/first --memory 2G --critical\n"
        "  quern schedule simulate roundpipe --workers 2 --cost F=2,B=4 --sizes weights=28M,act=3M --link 2G/s --window 2\n"
        "  quern schedule simulate zb-h2 --cost F=1,B=1,W=1 --steps 8 --post-validate\n"
        "  quern schedule compare --workers 4 --micro-batches 16 --memory 3 --html page.html\n"
        "  quern schedule search --workers 4 --micro-batches 16 --cost F=3,B=4,W=2 --memory 3 --out mine.txt\n",
    .table = &qn_schedule_table,
    .run = run,
};
