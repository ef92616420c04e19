/* The search against brute force where all orders can be tried, and against the best published schedule in the rows of the
 * zero-bubble papers' tables at equal memory. */
#include "schedule/schedule_rig.h"

#include "search.h"

typedef struct row {
    int32_t workers, items;
    int64_t cost[3], latency, hold, pending; /* of a worker's whole share: F, B, W */
} row;

/* A row for a schedule with v chunks per worker; the parts of a task that does not divide stay whole ticks, the odd ones with the
 * first chunks. */
typedef struct tables {
    int64_t (*cost)[QN_OPS], *hold, *pending, *limit;
    qn_search_model model;
} tables;

static void open_tables(tables *t, const row *r, int32_t v, int64_t limit)
{
    const int32_t S = r->workers * v;
    t->cost = calloc((size_t)S, sizeof *t->cost);
    t->hold = calloc((size_t)S, sizeof *t->hold);
    t->pending = calloc((size_t)S, sizeof *t->pending);
    t->limit = calloc((size_t)r->workers, sizeof *t->limit);
    for (int32_t s = 0; s < S; s++) {
        const int64_t extra[3] = {s / r->workers < r->cost[0] % v, s / r->workers < r->cost[1] % v,
                                  s / r->workers < r->cost[2] % v};
        t->cost[s][QN_OP_F] = r->cost[0] / v + extra[0];
        t->cost[s][QN_OP_B] = r->cost[1] / v + extra[1];
        t->cost[s][QN_OP_W] = r->cost[2] / v + extra[2];
        t->cost[s][QN_OP_BW] = t->cost[s][QN_OP_B] + t->cost[s][QN_OP_W];
        t->hold[s] = r->hold * 2 / v;
        t->pending[s] = r->pending * 2 / v;
    }
    for (int32_t w = 0; w < r->workers; w++) t->limit[w] = 2 * limit;
    t->model = (qn_search_model){.cost = (const int64_t(*)[QN_OPS])t->cost,
                                 .latency = r->latency,
                                 .hold = t->hold,
                                 .pending = t->pending,
                                 .limit = t->limit};
}

static void close_tables(tables *t)
{
    free(t->cost);
    free(t->hold);
    free(t->pending);
    free(t->limit);
}

static bool judge(int64_t *makespan, const qn_order *o, const tables *t)
{
    qn_err err = {0};
    int64_t peak[QN_MAX_WORKERS];
    if (qn_search_judge(makespan, peak, o, &t->model, &err) != QN_OK) return false;
    for (int32_t w = 0; w < o->workers; w++)
        if (peak[w] > t->limit[w]) return false;
    return true;
}

/* The simulator agrees with the search's own evaluator, and the validator with the order. */
static void check_order(const qn_order *o, int64_t makespan, const tables *t)
{
    const qn_lowering how = rig_plain();
    qn_plan *p = rig_lower(o, &how);
    int64_t *cost = calloc((size_t)p->tasks, sizeof *cost);
    for (int32_t i = 0; i < p->tasks; i++)
        if (p->task[i].op <= QN_OP_BW) cost[i] = t->cost[p->task[i].stage][p->task[i].op];
    assert_int_equal(rig_simulate(p, cost, t->model.latency, INT32_MAX)->makespan, makespan);
    free(cost);
    qn_plan_close(p);
}

/* From the placements of all generators with up to two chunks; the best found. */
static int64_t search(const row *r, int64_t limit, int64_t builds, int64_t rounds, int64_t *published, const char **who)
{
    static const char *const name[] = {"gpipe", "1f1b",   "zb-h1", "zb-h2",       "zb-1p",          "zb-2p",
                                       "zb-v",  "v-half", "v-min", "interleaved", "interleaved-zb", "dualpipev"};
    int64_t best = INT64_MAX;
    *published = INT64_MAX;
    *who = "none";
    for (int32_t v = 1; v <= 2; v++) {
        tables t;
        qn_order *start = NULL;
        int64_t start_at = INT64_MAX;
        open_tables(&t, r, v, limit);
        for (size_t i = 0; i < QN_COUNT(name); i++) {
            const qn_generator *g = qn_generator_find(name[i]);
            if (g->usual_chunks != v || r->items < g->min_items * r->workers) continue;
            qn_err err = {0};
            qn_order *o = NULL, *made = NULL;
            int64_t at;
            const qn_pattern pat = {.workers = r->workers,
                                    .items = r->items,
                                    .chunks = v,
                                    .cost = {[QN_OP_F] = r->cost[0] / v,
                                             [QN_OP_B] = r->cost[1] / v,
                                             [QN_OP_W] = r->cost[2] / v,
                                             [QN_OP_SEND] = r->latency},
                                    .stash_size = r->hold,
                                    .pending_size = r->pending};
            if (qn_generate(&o, name[i], &pat, &err) != QN_OK) fail_msg("%s", err.text);
            if (judge(&at, o, &t) && at < *published) {
                *published = at;
                *who = name[i];
            }
            const bool fits = judge(&at, o, &t);
            if (!fits) at = INT64_MAX;
            if (builds > 0 && (i == 0 || strcmp(name[i], "zb-v") == 0 || strcmp(name[i], "interleaved") == 0)) {
                int64_t made_at = INT64_MAX;
                if (qn_search_build(&made, &made_at, o, &t.model, 1, builds, NULL, &err) != QN_OK) fail_msg("%s", err.text);
                if (made != NULL && made_at < at) {
                    int64_t again;
                    assert_true(judge(&again, made, &t));
                    assert_int_equal(again, made_at);
                    qn_order *swap = o;
                    o = made;
                    made = swap;
                    at = made_at;
                }
            }
            if (at < start_at) {
                qn_order *swap = start;
                start = o;
                o = swap;
                start_at = at;
            }
            qn_order_close(o);
            qn_order_close(made);
        }
        if (start != NULL) {
            qn_err err = {0};
            qn_order *better = NULL;
            int64_t at, again;
            if (qn_search_improve(&better, &at, start, &t.model, 1, rounds, NULL, &err) != QN_OK) fail_msg("%s", err.text);
            assert_true(judge(&again, better, &t));
            assert_int_equal(again, at);
            assert_true(at <= start_at);
            check_order(better, at, &t);
            if (at < best) best = at;
            qn_order_close(better);
        }
        qn_order_close(start);
        close_tables(&t);
    }
    return best;
}

/* ---- brute force: all orders of two workers with one stage each, items ascending */

static int32_t all_lists(qn_order_task (*out)[9], int32_t most, int32_t items, int32_t stage)
{
    int32_t n = 0, total = 3 * items, word = 1;
    for (int32_t i = 0; i < total; i++) word *= 3;
    for (int32_t x = 0; x < word; x++) {
        int32_t count[3] = {0}, y = x, i = 0;
        for (; i < total; i++, y /= 3) {
            const int32_t k = y % 3;
            if (count[k] == items || (k > 0 && count[k] >= count[k - 1])) break;
            static const int32_t op[] = {QN_OP_F, QN_OP_B, QN_OP_W};
            out[n][i] = (qn_order_task){.op = op[k], .stage = stage, .item = count[k]++};
        }
        if (i == total && ++n == most) break;
    }
    return n;
}

static int64_t brute_force(const row *r, const tables *t)
{
    static qn_order_task list[2][64][9];
    int64_t best = INT64_MAX;
    int32_t n[2];
    for (int32_t w = 0; w < 2; w++) n[w] = all_lists(list[w], 63, r->items, w);
    assert_int_equal(n[0], r->items == 2 ? 5 : 42);
    qn_order *o = rig_generate("gpipe", 2, r->items, 1, 0);
    for (int32_t a = 0; a < n[0]; a++) {
        for (int32_t b = 0; b < n[1]; b++) {
            int64_t at;
            for (int32_t w = 0; w < 2; w++) {
                o->count[w] = 0;
                for (int32_t i = 0; i < 3 * r->items; i++) {
                    const qn_order_task x = list[w][w == 0 ? a : b][i];
                    qn_order_push(o, w, (qn_op)x.op, x.stage, x.item);
                }
            }
            if (judge(&at, o, t) && at < best) best = at;
        }
    }
    qn_order_close(o);
    return best;
}

static void brute_force_agrees(void **state)
{
    (void)state;
    static const int64_t cost[][3] = {{1, 1, 1}, {3, 4, 2}, {2, 3, 4}, {5, 1, 7}, {1, 6, 2}, {2, 2, 0}};
    for (size_t k = 0; k < QN_COUNT(cost); k++) {
        for (int32_t M = 2; M <= 3; M++) {
            for (int64_t limit = 1; limit <= 3; limit++) {
                for (int64_t latency = 0; latency <= 2; latency++) {
                    const row r = {2, M, {cost[k][0], cost[k][1], cost[k][2]}, latency, 1, 1};
                    tables t;
                    qn_err err = {0};
                    qn_order *like = rig_generate("gpipe", 2, M, 1, 0), *made = NULL, *better = NULL;
                    int64_t at = 0;
                    open_tables(&t, &r, 1, limit);
                    const int64_t want = brute_force(&r, &t);
                    assert_int_equal(qn_search_build(&made, &at, like, &t.model, 1, 100, NULL, &err), QN_OK);
                    assert_non_null(made);
                    assert_int_equal(qn_search_improve(&better, &at, made, &t.model, 1, 2000, NULL, &err), QN_OK);
                    if (at != want)
                        fail_msg("F,B,W %ld %ld %ld M=%d limit %ld latency %ld: %ld found, %ld possible", (long)cost[k][0],
                                 (long)cost[k][1], (long)cost[k][2], M, (long)limit, (long)latency, (long)at, (long)want);
                    close_tables(&t);
                    qn_order_close(like);
                    qn_order_close(made);
                    qn_order_close(better);
                }
            }
        }
    }
}

static void compare(const char *what, const row *r, int64_t limit, int64_t builds, int64_t rounds, int *better)
{
    int64_t published;
    const char *who;
    const int64_t found = search(r, limit, builds, rounds, &published, &who);
    print_message("%-22s P=%d M=%d: %ld found, %ld published (%s): %.2f %% shorter\n", what, r->workers, r->items, (long)found,
                  (long)published, who, 100.0 * (double)(published - found) / (double)published);
    assert_true(found <= published);
    *better += found < published;
}

/* The four rows of arXiv:2401.10241 at the memory of 1F1B and twice that (profiled times in microseconds, memory by the paper's
 * formulas). */
static void zero_bubble_rows(void **state)
{
    (void)state;
    static const row rows[] = {{8, 24, {18522, 18086, 9337}, 601, 34 * 2304 + 5 * 24 * 1024, 32 * 2304},
                               {8, 24, {29718, 29444, 19927}, 527, 34 * 4096 + 5 * 32 * 1024, 32 * 4096},
                               {16, 48, {11347, 11248, 8132}, 377, 34 * 5120 + 5 * 40 * 1024, 32 * 5120},
                               {32, 96, {10419, 10207, 7715}, 408, 34 * 6144 + 5 * 48 * 1024, 32 * 6144}};
    int better = 0;
    for (size_t i = 0; i < QN_COUNT(rows); i++)
        for (int32_t p = 1; p <= 2; p++)
            compare(p == 1 ? "limit p" : "limit 2p", &rows[i], rows[i].hold * rows[i].workers * p, i < 2 ? 60 : 4,
                    i < 2 ? 4000 : 1500, &better);
    assert_true(better > 0);
}

/* The rows of arXiv:2405.15362: equal and unequal times, at the memory of V-Min, V-Half and ZB-V. */
static void controllable_memory_rows(void **state)
{
    (void)state;
    int better = 0;
    for (int k = 0; k < 2; k++) {
        for (int32_t P = 4; P <= 8; P += 4) {
            const row r = {P, 2 * P, {k ? 6 : 2, k ? 8 : 2, k ? 4 : 2}, 0, 2, 2};
            const int64_t limit[] = {2 * ((P + 4) / 3), 2 * ((P + 2) / 2), 2 * P}; /* a half-stage stash is 1 */
            static const char *const name[] = {"V-Min's memory", "V-Half's memory", "ZB-V's memory"};
            for (int32_t i = 0; i < 3; i++) compare(name[i], &r, limit[i], 60, 4000, &better);
        }
    }
    /* DualPipeV's two sizes; a stash less than its 2 P + 1 is enough */
    for (int32_t P = 4; P <= 8; P += 4) {
        const row r = {P, P == 4 ? 10 : 20, {2, 2, 2}, 0, 2, 2};
        compare("DualPipeV's memory", &r, 2 * P + 1, 20, 1000, &better);
    }
    assert_true(better > 0);
}

/* ---- RoundPipe's table (arXiv:2604.27085): the schedules that are bound to workers, 8 workers, 16 micro-batches. Costs per
 * layer in units of 10 ns; a backward makes its layers' forwards again, the head's not. No split: W takes no time. */

typedef struct chain {
    const char *name;
    int32_t layers, chunks; /* chunks of interleaved and looped-bfs */
    int64_t forward, backward, head_forward, head_backward, hop;
    int64_t published[4]; /* 1f1b, gpipe, interleaved, looped-bfs; microseconds */
} chain;

static const chain chains[] = {
    {"1.7B", 28, 3, 742900, 1583100, 2206550, 4370700, 160000, {2854722, 2896917, 2560802, 2467271}},
    {"8B", 32, 4, 1850370, 4120659, 3722550, 7450100, 320000, {9028112, 9028112, 7539218, 7385618}},
    {"20B", 24, 3, 2164456, 8178088, 4429250, 8626400, 225000, {10750234, 10750234, 9071254, 8999254}},
    {"32B", 64, 8, 4056106, 9117430, 5492800, 10829400, 400000, {34370094, 34370094, 26375569, 25927569}},
    {"235B", 94, 12, 4301600, 5837600, 4244400, 4329400, 320000, {39716460, 39698330, 29052882, 28575714}},
};

/* The published cuts: layers of each of the stages. */
static int32_t layers_of(const chain *c, int32_t v, int32_t s)
{
    static const int32_t small[] = {3, 3, 4, 4, 4, 4, 4, 2};
    if (v > 1 && c->layers == 28) return s < 18 ? 1 : s < 23 ? 2 : 0;
    if (v > 1 && c->layers == 94) return s > 0 && s < 95;
    if (c->layers == 28) return small[s];
    if (c->layers == 94) return s == 0 || s == 7 ? 11 : 12;
    return c->layers / (8 * v);
}

static void chain_costs(tables *t, const chain *c, int32_t v)
{
    const int32_t S = 8 * v;
    for (int32_t s = 0; s < S; s++) {
        const int64_t n = layers_of(c, v, s), head = s == S - 1;
        t->cost[s][QN_OP_F] = n * c->forward + head * c->head_forward;
        t->cost[s][QN_OP_B] = t->cost[s][QN_OP_BW] = n * (c->forward + c->backward) + head * c->head_backward;
        t->cost[s][QN_OP_W] = 0;
        t->hold[s] = t->pending[s] = 1;
    }
}

static void round_pipe_bound_rows(void **state)
{
    static const char *const name[] = {"1f1b", "gpipe", "interleaved", "looped-bfs"};
    (void)state;
    int better = 0;
    for (size_t i = 0; i < QN_COUNT(chains); i++) {
        for (int k = 0; k < 4; k++) {
            const chain *c = &chains[i];
            const int32_t v = k < 2 ? 1 : c->chunks;
            const row r = {8, 16, {1, 1, 1}, c->hop, 1, 1};
            tables t;
            qn_err err = {0};
            qn_order *o = rig_generate(name[k], 8, 16, v, 0), *made = NULL, *found = NULL;
            int64_t ours, at, made_at = INT64_MAX;
            open_tables(&t, &r, v, 0);
            chain_costs(&t, c, v);
            assert_int_equal(qn_search_judge(&ours, t.limit, o, &t.model, &err), QN_OK); /* the limit: its own memory */
            if (k < 2) assert_true(llabs(ours / 100 - c->published[k]) <= 1);
            assert_int_equal(qn_search_build(&made, &made_at, o, &t.model, 1, v == 1 ? 40 : 8, NULL, &err), QN_OK);
            const qn_order *start = made != NULL && made_at < ours ? made : o;
            assert_int_equal(qn_search_improve(&found, &at, start, &t.model, 1, v == 1 ? 1500 : 400, NULL, &err), QN_OK);
            print_message("%-5s %-12s %8ld published, ours %8ld, found %8ld: %.2f %% shorter\n", c->name, name[k],
                          (long)c->published[k], (long)(ours / 100), (long)(at / 100),
                          100.0 * (double)(c->published[k] - at / 100) / (double)c->published[k]);
            if (at / 100 > c->published[k]) fail_msg("%s %s: %ld found", c->name, name[k], (long)(at / 100));
            better += at / 100 < c->published[k] - 1;
            close_tables(&t);
            qn_order_close(o);
            qn_order_close(made);
            qn_order_close(found);
        }
    }
    assert_true(better > 0);
}

/* The same seed gives the same order; another one may not. */
static void seeds_decide(void **state)
{
    (void)state;
    const row r = {4, 8, {3, 4, 2}, 1, 1, 1};
    tables t;
    qn_err err = {0};
    open_tables(&t, &r, 1, 4);
    qn_order *start = rig_generate("1f1b", 4, 8, 1, 0), *a = NULL, *b = NULL;
    int64_t at[2];
    char *text[2];
    assert_int_equal(qn_search_improve(&a, &at[0], start, &t.model, 7, 3000, NULL, &err), QN_OK);
    assert_int_equal(qn_search_improve(&b, &at[1], start, &t.model, 7, 3000, NULL, &err), QN_OK);
    assert_int_equal(qn_order_write(&text[0], a, &err), QN_OK);
    assert_int_equal(qn_order_write(&text[1], b, &err), QN_OK);
    assert_string_equal(text[0], text[1]);
    assert_int_equal(at[0], at[1]);
    for (int i = 0; i < 2; i++) qn_free(text[i]);
    qn_order_close(start);
    qn_order_close(a);
    qn_order_close(b);
    close_tables(&t);
}

/* What cannot be searched, and limits that leave no room. */
static void refusals(void **state)
{
    (void)state;
    const row r = {2, 4, {1, 1, 1}, 0, 1, 1};
    tables t;
    qn_err err = {0};
    int64_t at;
    open_tables(&t, &r, 1, 0);
    qn_order *start = rig_generate("1f1b", 2, 4, 1, 0), *out = NULL;
    assert_int_equal(qn_search_build(&out, &at, start, &t.model, 1, 10, NULL, &err), QN_OK);
    assert_null(out);
    assert_int_equal(qn_search_improve(&out, &at, start, &t.model, 1, 10, NULL, &err), QN_ESCHEDULE);
    start->task[0][0].op = QN_OP_R;
    assert_int_equal(qn_search_improve(&out, &at, start, &t.model, 1, 10, NULL, &err), QN_EUNSUPPORTED);
    start->task[0][0].op = QN_OP_F;
    start->count[0]--;
    assert_int_equal(qn_search_improve(&out, &at, start, &t.model, 1, 10, NULL, &err), QN_ESCHEDULE);
    qn_order_close(start);
    close_tables(&t);
}

/* ---- any plan: copies of the chain, vocabulary shards, backwards elsewhere, recomputation */

static qn_plan *timed_plan(const qn_order *o, const qn_lowering *how, int64_t salt)
{
    qn_plan *p = rig_lower(o, how);
    for (int32_t t = 0; t < p->tasks; t++) {
        const qn_task *x = &p->task[t];
        p->task[t].cost = x->lane != QN_LANE_COMP ? 0 : 1 + (x->op * 3 + (x->stage % (o->stages / o->columns)) * salt) % 5;
    }
    return p;
}

/* Improves the plan of an order within what it holds itself, or less; what comes out is valid, within the limit and as long as
 * said. Returns how much shorter it got. */
static int64_t improve_plan(const char *name, const qn_order *o, const qn_lowering *how, int64_t latency, int64_t salt)
{
    qn_err err = {0};
    qn_order *found = NULL;
    qn_plan *p = timed_plan(o, how, salt);
    int64_t limit[8] = {0}, makespan;
    const qn_trace_summary *sum = rig_simulate(p, NULL, latency, INT32_MAX);
    const int64_t start = sum->makespan;
    for (int32_t w = 0; w < o->workers; w++) limit[w] = sum->peak[w] + salt % 2;
    const qn_search_plan search = {.latency = latency, .limit = limit};
    if (qn_search_improve_plan(&found, &makespan, p, &search, 7, 400, NULL, &err) != QN_OK) fail_msg("%s: %s", name, err.text);
    const qn_lowering written = {.recompute_late = how->recompute_late, .tied_owner = QN_NONE, .tied_replica = QN_NONE};
    qn_plan *q = timed_plan(found, &written, salt);
    assert_true(qn_token_game(q, 0));
    sum = rig_simulate(q, NULL, latency, INT32_MAX);
    if (makespan > start || sum->makespan > makespan)
        fail_msg("%s, latency %ld: from %ld to %ld, and %ld when lowered", name, (long)latency, (long)start, (long)makespan,
                 (long)sum->makespan);
    for (int32_t w = 0; w < o->workers; w++) assert_true(sum->peak[w] <= limit[w]);
    qn_order *again = NULL; /* the same for a seed */
    assert_int_equal(qn_search_improve_plan(&again, &makespan, p, &search, 7, 400, NULL, &err), QN_OK);
    for (int32_t w = 0; w < o->workers; w++)
        assert_memory_equal(again->task[w], found->task[w], (size_t)o->count[w] * sizeof *o->task[w]);
    qn_plan_close(p);
    qn_plan_close(q);
    qn_order_close(found);
    qn_order_close(again);
    return start - makespan;
}

static void any_plan(void **state)
{
    (void)state;
    int32_t shorter = 0, cases = 0;
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        for (int32_t k = 0; k < 8; k++) {
            const int32_t P = g->max_workers > 0 ? 1 : 2 + 2 * (k % 2), M = 8;
            const qn_lowering how = {.recompute = g->host_state ? QN_RECOMPUTE_NONE : (qn_recompute)(k % 3),
                                     .recompute_late = k == 4,
                                     .tied_owner = QN_NONE,
                                     .tied_replica = QN_NONE};
            qn_order *o = rig_generate(g->name, P, M, g->usual_chunks, 0);
            shorter += improve_plan(g->name, o, &how, k % 4, k) > 0;
            cases++;
            qn_order_close(o);
        }
    }
    for (int32_t k = 0; k < 8; k++) {
        qn_order *o = NULL;
        qn_err err = {0};
        const bool half = k >= 4;
        const qn_pattern pat = {.workers = 3, .items = 7, .chunks = half ? 2 : 1, .vocab = 1 + k % 2, .sides = k % 4 < 2 ? 0 : 2};
        if (qn_generate(&o, half ? "v-half" : "1f1b", &pat, &err) != QN_OK) fail_msg("%s", err.text);
        const qn_lowering how = rig_plain();
        shorter += improve_plan(half ? "v-half with a vocabulary" : "1f1b with a vocabulary", o, &how, k % 3, k) > 0;
        cases++;
        qn_order_close(o);
    }
    print_message("%d of %d shorter\n", shorter, cases);
    assert_true(shorter > cases / 4);
    qn_order *base = rig_generate("1f1b", 2, 4, 1, 0), *wide = NULL, *found = NULL;
    assert_int_equal(qn_order_widen(&wide, base, 1, 2, 2, NULL), QN_OK);
    const qn_lowering how = rig_plain();
    qn_plan *p = rig_lower(wide, &how);
    int64_t makespan;
    assert_int_equal(qn_search_improve_plan(&found, &makespan, p, &(qn_search_plan){0}, 1, 10, NULL, NULL), QN_EUNSUPPORTED);
    qn_plan_close(p);
    qn_order_close(base);
    qn_order_close(wide);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_plan),
        cmocka_unit_test(brute_force_agrees),
        cmocka_unit_test(zero_bubble_rows),
        cmocka_unit_test(controllable_memory_rows),
        cmocka_unit_test(round_pipe_bound_rows),
        cmocka_unit_test(seeds_decide),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
