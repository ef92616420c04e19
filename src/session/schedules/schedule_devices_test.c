/* Schedules on devices of little memory, as the tools simulate them: against a brute-force simulation that reads lanes, values
 * and bytes and none of the plan's waits; the worked example of the window; how much is copied; what is refused. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "core/rng.h"
#include "quern/session.h"
#include "schedule_subject.h"

static qn_schedule_options base(const char *name, int64_t workers, int64_t items, int64_t pieces)
{
    return (qn_schedule_options){
        .schedule = name, .workers = workers, .micro_batches = items, .pieces = pieces, .depth = 2, .latency = -1};
}

static json_t *simulated(const qn_schedule_options *opt)
{
    char *text = NULL;
    qn_err err = {0};
    if (qn_schedule_simulate(&text, opt, true, &err) != QN_OK) fail_msg("%s", err.text);
    json_t *all = json_loads(text, 0, NULL);
    assert_non_null(all);
    qn_text_free(text);
    return all;
}

static double at(const json_t *all, const char *key)
{
    const json_t *x = json_object_get(all, key);
    if (json_is_array(x)) x = json_array_get(x, 0);
    if (!json_is_number(x)) fail_msg("no %s", key);
    return json_number_value(x);
}

/* ---- brute force: lanes in order; a task starts when what it reads is written and nobody lives where it writes any more. Who
 * has a byte before whom is the plan's business, and taken from the trace. */

typedef struct brute {
    const qn_plan *p;
    int32_t *makers;  /* [values]: tasks that have still to write it or add to it */
    int32_t *readers; /* [values]: that have still to end */
    int64_t *born;    /* [values]: in the trace */
    bool *gone;       /* [values]: has left its bytes */
    int32_t *next;    /* [workers * QN_LANES]: tasks of the lane that have started */
    bool *running;    /* [tasks] */
    qn_span_time *time;
} brute;

/* The values that share a slot with v: the chunks of one stay of a piece's weights, which come and go together. */
static void slot_of(const qn_plan *p, int32_t v, int32_t *first, int32_t *last)
{
    *first = *last = v;
    if (p->value[v].cls != QN_V_PARAM) return;
    *first -= p->value[v].item;
    while (*last + 1 < p->values && p->value[*last + 1].cls == QN_V_PARAM && p->value[*last + 1].item == p->value[*last].item + 1)
        ++*last;
}

static bool is_free(const brute *b, int32_t v)
{
    const qn_plan *p = b->p;
    int32_t first, last;
    slot_of(p, v, &first, &last);
    const int64_t from = p->value[first].offset, end = p->value[last].offset + p->value[last].bytes;
    if (from == QN_NONE || from == end) return true;
    for (int32_t i = 0; i < p->values; i++) {
        const qn_value *y = &p->value[i];
        int32_t a, z;
        slot_of(p, i, &a, &z);
        const bool before = b->born[a] < b->born[first] && !b->gone[i];
        if (before && y->worker == p->value[v].worker && y->offset != QN_NONE && p->value[a].offset < end &&
            from < p->value[z].offset + p->value[z].bytes)
            return false;
    }
    return true;
}

static bool can_start(const brute *b, const qn_task *t)
{
    const int32_t *ref = b->p->ref;
    for (int32_t i = 0; i < t->in.count; i++)
        if (b->makers[ref[t->in.first + i]] > 0) return false;
    for (int32_t i = 0; i < t->free.count; i++) { /* whoever drops it comes last */
        const int32_t v = ref[t->free.first + i];
        int32_t others = b->readers[v];
        for (int32_t k = 0; k < t->in.count; k++) others -= ref[t->in.first + k] == v;
        if (others > 0) return false;
    }
    for (int32_t i = 0; i < t->out.count; i++)
        if (!is_free(b, ref[t->out.first + i])) return false;
    for (int32_t i = 0; i < t->acc.count; i++)
        if (!is_free(b, ref[t->acc.first + i])) return false;
    return true;
}

static void start(brute *b, int32_t task, int64_t now)
{
    b->time[task] = (qn_span_time){now, now + b->p->task[task].cost};
    b->running[task] = true;
}

static void finish(brute *b, int32_t task)
{
    const qn_task *t = &b->p->task[task];
    for (int32_t i = 0; i < t->out.count; i++) b->makers[b->p->ref[t->out.first + i]]--;
    for (int32_t i = 0; i < t->acc.count; i++) b->makers[b->p->ref[t->acc.first + i]]--;
    for (int32_t i = 0; i < t->in.count; i++) b->readers[b->p->ref[t->in.first + i]]--;
    for (int32_t i = 0; i < t->free.count; i++) b->gone[b->p->ref[t->free.first + i]] = true;
    b->running[task] = false;
}

/* Ends what ends now; starts what can; the next moment at which something ends, -1 when all is done. */
static int64_t step(brute *b, int64_t now)
{
    const qn_plan *p = b->p;
    bool moved = true;
    while (moved) {
        moved = false;
        for (int32_t i = 0; i < p->tasks; i++) {
            if (!b->running[i] || b->time[i].end > now) continue;
            finish(b, i);
            moved = true;
        }
        for (int32_t l = 0; l < p->workers * QN_LANES; l++) {
            const int32_t *lane = p->lane[l / QN_LANES][l % QN_LANES];
            const int32_t head = lane[0] + b->next[l];
            if (b->next[l] == lane[1] || (b->next[l] > 0 && b->running[head - 1]) || !can_start(b, &p->task[head])) continue;
            start(b, head, now);
            b->next[l]++;
            moved = true;
        }
    }
    int64_t soonest = -1;
    for (int32_t i = 0; i < p->tasks; i++)
        if (b->running[i] && (soonest < 0 || b->time[i].end < soonest)) soonest = b->time[i].end;
    return soonest;
}

static void compare(const qn_trace *t, const char *what)
{
    const qn_plan *p = t->plan;
    const size_t V = (size_t)p->values, T = (size_t)p->tasks;
    brute b = {.p = p,
               .makers = calloc(V, sizeof(int32_t)),
               .readers = calloc(V, sizeof(int32_t)),
               .born = malloc(V * sizeof(int64_t)),
               .gone = calloc(V, 1),
               .next = calloc((size_t)p->workers * QN_LANES, sizeof(int32_t)),
               .running = calloc(T, 1),
               .time = calloc(T, sizeof(qn_span_time))};
    for (int32_t v = 0; v < p->values; v++) b.born[v] = INT64_MAX;
    for (int32_t i = 0; i < p->tasks; i++) {
        const qn_span in = p->task[i].in, made[] = {p->task[i].out, p->task[i].acc};
        for (int32_t k = 0; k < in.count; k++) b.readers[p->ref[in.first + k]]++;
        for (int32_t k = 0; k < made[0].count + made[1].count; k++) {
            const int32_t v = p->ref[k < made[0].count ? made[0].first + k : made[1].first + k - made[0].count];
            b.makers[v]++;
            b.born[v] = qn_min64(b.born[v], t->time[i].start);
        }
    }
    for (int64_t now = 0; now >= 0;) now = step(&b, now);
    for (int32_t i = 0; i < p->tasks; i++) {
        char name[64];
        if (b.time[i].start != t->time[i].start || b.time[i].end != t->time[i].end)
            fail_msg("%s: %s from %lld to %lld, by brute force from %lld to %lld", what, qn_task_text(name, sizeof name, p, i),
                     (long long)t->time[i].start, (long long)t->time[i].end, (long long)b.time[i].start,
                     (long long)b.time[i].end);
    }
    free(b.makers);
    free(b.readers);
    free(b.born);
    free(b.gone);
    free(b.next);
    free(b.running);
    free(b.time);
}

static void run_brute(const qn_schedule_options *opt, const char *what)
{
    qni_subject s = {.fine = 0};
    qni_costs costs = {.scale = 1};
    qn_err err = {0};
    qn_status st = qni_costs_take(&costs, opt, &err);
    if (st == QN_OK) st = qni_subject_open(&s, opt->schedule, opt->chunks, opt, &costs, 0, &err);
    if (st == QN_OK) st = qni_subject_simulate(&s, opt, &costs, &err);
    if (st != QN_OK) fail_msg("%s: %s", what, err.text);
    compare(&s.trace, what);
    json_t *all = simulated(opt);
    assert_true(at(all, "makespan") == (double)s.sum->makespan / costs.scale);
    json_decref(all);
    qni_subject_close(&s);
    qni_costs_fini(&costs);
}

static uint64_t test_seed(void)
{
    const char *env = getenv("QUERN_TEST_SEED");
    const uint64_t seed = env != NULL ? strtoull(env, NULL, 10) : 8791;
    print_message("seed %llu (QUERN_TEST_SEED)\n", (unsigned long long)seed);
    return seed;
}

static void copies_are_those_of_brute_force(void **state)
{
    (void)state;
    const uint64_t seed = test_seed();
    static const struct {
        const char *name;
        int32_t workers; /* 0: any number, pieces instead of stages per worker */
    } of[] = {{"superpipe", 1}, {"superpipe", 1}, {"roundpipe", 0}, {"1f1b", 3}, {"zb-h1", 2}, {"gpipe", 2}};
    for (uint32_t turn = 0; turn < 600; turn++) {
        qn_rng r = qn_rng_of((qn_rng_key){.seed = seed, .sample = turn});
        char cost[512] = "", sizes[1024] = "", window[32], what[2048];
        const char *name = of[turn / 2 % QN_COUNT(of)].name;
        const int32_t own = of[turn / 2 % QN_COUNT(of)].workers, P = own > 0 ? own : 2 + (int32_t)qn_rng_below(&r, 2),
                      n = P > 1 && own > 0 ? P : P + (int32_t)qn_rng_below(&r, 8), k = 1 + (int32_t)qn_rng_below(&r, (uint32_t)n),
                      g = 1 + (int32_t)qn_rng_below(&r, (uint32_t)k), M = 1 + (int32_t)qn_rng_below(&r, 3);
        for (int32_t i = 0; i < n; i++) {
            const size_t c = strlen(cost), z = strlen(sizes);
            snprintf(cost + c, sizeof cost - c, "%s%d:F=%d,B=%d", i > 0 ? ";" : "", i, 1 + (int)qn_rng_below(&r, 9),
                     1 + (int)qn_rng_below(&r, 20));
            snprintf(sizes + z, sizeof sizes - z, "%s%d:weights=%d,grads=%d,act=%d,stash=%d", i > 0 ? ";" : "", i,
                     1 + (int)qn_rng_below(&r, 20), (int)qn_rng_below(&r, 20), (int)qn_rng_below(&r, 3),
                     (int)qn_rng_below(&r, 5));
        }
        snprintf(window, sizeof window, "%d,%d", k, g);
        qn_schedule_options opt = base(name, P, M, P > 1 && own > 0 ? 0 : n);
        opt.cost = cost;
        opt.sizes = sizes;
        opt.window = window;
        opt.link = "1000/s";
        opt.forward = turn % 2 == 0;
        snprintf(what, sizeof what, "turn %u: %s %s, P=%d M=%d, window %s, --cost '%s' --sizes '%s'", turn, name,
                 opt.forward ? "forward" : "training", P, M, window, cost, sizes);
        run_brute(&opt, what);
    }
}

/* Loads of equal pieces: a load starts when the piece k before it has been computed and the load before it is there. */
static int64_t window_time(const int64_t *c, int64_t u, int32_t n, int32_t k)
{
    int64_t end[16], lane = 0, clock = 0;
    for (int32_t i = 0; i < n; i++) {
        lane = qn_max64(lane, i >= k ? end[i - k] : 0) + u;
        clock = end[i] = qn_max64(clock, lane) + c[i];
    }
    return clock;
}

static void equal_pieces_follow_the_recurrence(void **state)
{
    (void)state;
    static const int64_t all[2][6] = {{1, 1, 1, 1, 1, 1}, {3, 1, 4, 1, 5, 2}};
    for (int32_t which = 0; which < 2; which++) {
        for (int32_t n = 1; n <= 6; n++) {
            for (int32_t k = 1; k <= n; k++) {
                for (int32_t g = 1; g <= k; g++) {
                    for (int32_t u = 1; u <= 4; u++) {
                        char cost[128] = "", sizes[32], window[32];
                        for (int32_t i = 0; i < n; i++)
                            snprintf(cost + strlen(cost), sizeof cost - strlen(cost), "%s%d:F=%d,B=1", i > 0 ? ";" : "", i,
                                     (int)all[which][i]);
                        snprintf(sizes, sizeof sizes, "weights=%d", u);
                        snprintf(window, sizeof window, "%d,%d", k, g);
                        qn_schedule_options opt = base("superpipe", 1, 1, n);
                        opt.cost = cost;
                        opt.sizes = sizes;
                        opt.window = window;
                        opt.link = "1000/s";
                        opt.forward = 1;
                        json_t *x = simulated(&opt);
                        assert_true(at(x, "makespan") == (double)window_time(all[which], u, n, k));
                        assert_true(at(x, "bytes_up") == (double)n * u);
                        assert_true(at(x, "arena_bytes") == (double)k * u || u % 64 != 0);
                        json_decref(x);
                    }
                }
            }
        }
    }
}

/* The dossier's example, n = 4, c = u = 1; training: 2n - k loads, n gradients down, whatever k'. */
static void what_is_published(void **state)
{
    (void)state;
    qn_schedule_options opt = base("superpipe", 1, 1, 4);
    opt.cost = "F=1,B=1";
    opt.sizes = "weights=1";
    opt.link = "1000/s";
    opt.forward = 1;
    opt.window = "2";
    json_t *x = simulated(&opt);
    assert_true(at(x, "makespan") == 5);
    assert_true(at(x, "blocked_transfer") == 0 && at(x, "fill") == 1);
    json_decref(x);
    opt.window = "1";
    x = simulated(&opt);
    assert_true(at(x, "makespan") == 8);
    json_decref(x);
    opt.forward = 0;
    for (int32_t k = 1; k <= 4; k++) {
        char window[16];
        snprintf(window, sizeof window, "%d", k);
        opt.window = window;
        x = simulated(&opt);
        assert_true(at(x, "bytes_up") == 8 - k && at(x, "bytes_down") == 4);
        json_decref(x);
    }
}

/* A link of half the speed of computing: the gaps are blamed on it, the critical path goes over copies, pictures show them. */
static void a_slow_link_is_blamed(void **state)
{
    (void)state;
    qn_err err = {0};
    qn_schedule_options opt = base("superpipe", 1, 2, 6);
    opt.cost = "F=1,B=1";
    opt.sizes = "weights=4,act=0";
    opt.link = "1000/s";
    opt.window = "3";
    json_t *x = simulated(&opt);
    const json_t *path = json_object_get(x, "critical_path");
    int loads = 0;
    for (size_t i = 0; i < json_array_size(path); i++)
        loads += strncmp(json_string_value(json_object_get(json_array_get(path, i), "task")), "LOAD", 4) == 0;
    assert_true(at(x, "blocked_transfer") > 0 && at(x, "exposed") > at(x, "blocked_transfer") && loads > 3);
    json_decref(x);
    char *text = NULL;
    assert_int_equal(qn_schedule_show(&text, &opt, 100, &err), QN_OK);
    assert_non_null(strstr(text, "\n#   up  ^^^"));
    assert_non_null(strstr(text, "\n# down  ..."));
    qn_text_free(text);
}

static void refused(qn_schedule_options opt, const char *says)
{
    char *text = NULL;
    qn_err err = {0};
    const qn_status st = qn_schedule_simulate(&text, &opt, false, &err);
    assert_null(text);
    if (st != QN_EINVAL || strstr(err.text, says) == NULL) fail_msg("'%s' wanted in: %s", says, err.text);
}

static void bad_numbers_are_refused(void **state)
{
    (void)state;
    qn_schedule_options opt = base("roundpipe", 2, 4, 6);
    opt.link = "0/s";
    refused(opt, "no bandwidth");
    opt.link = "1G/s";
    refused(opt, "--sizes weights");
    opt.sizes = "weights=1000,act=64,stash=128";
    opt.window = "2,3";
    refused(opt, "1 to k");
    opt.window = NULL;
    opt.device_memory = 999;
    refused(opt, "smaller than stage 0");
    opt.device_memory = 1001;
    refused(opt, "the smallest that would do is ");
    char *text = NULL;
    qn_err err = {0};
    assert_int_equal(qn_schedule_simulate(&text, &opt, false, &err), QN_EINVAL);
    const char *number = strstr(err.text, "would do is ") + strlen("would do is ");
    opt.device_memory = strtoll(number, NULL, 10);
    json_t *x = simulated(&opt); /* it does, to the byte */
    assert_true(at(x, "arena_bytes") <= (double)opt.device_memory && at(x, "window") == 1);
    json_decref(x);
    opt.device_memory--;
    refused(opt, "the smallest that would do is ");
    opt.device_memory = 0;
    opt.schedule = "dualpipe";
    opt.pieces = 0;
    opt.sizes = "weights=x";
    refused(opt, "--sizes");
    opt.sizes = "0:weights=1;2:weights=1";
    refused(opt, "stage 1 was wanted");
    opt.sizes = "0-3:weights=1";
    refused(opt, "need times too");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_are_those_of_brute_force),
        cmocka_unit_test(equal_pieces_follow_the_recurrence),
        cmocka_unit_test(what_is_published),
        cmocka_unit_test(a_slow_link_is_blamed),
        cmocka_unit_test(bad_numbers_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
