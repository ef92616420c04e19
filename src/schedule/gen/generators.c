/* The list of published schedules: one file and one line each. */
#include "schedule/gen/gen.h"

#include <stdio.h>
#include <string.h>

#include "core/checked.h"
#include "schedule/gen/vocab_parts.h"

static const qn_generator list[] = {
    {"gpipe", "Huang et al. 2018, arXiv:1811.06965", "(P-1)/(M+P-1)", "M", qn_gen_gpipe, 1, 0, 1, 0, 0, false},
    {"1f1b", "Narayanan et al. 2021, arXiv:2006.09503", "(P-1)/(M+P-1)", "min(P-r, M)", qn_gen_1f1b, 1, 1, 1, 0, 0, false},
    {"interleaved", "Narayanan et al. 2021, arXiv:2104.04473", "(P-1)/(v*M+P-1)", "min(2(P-1-r)+(v-1)P+1, v*M) chunks",
     qn_gen_interleaved, 1, 0, 2, 0, 0, false},
    {"zb-h1", "Qi et al. 2024, arXiv:2401.10241", "(P-1)(F+B-W)", "P", qn_gen_zb_h1, 1, 1, 1, 0, 0, false},
    {"zb-h2", "Qi et al. 2024, arXiv:2401.10241", "(P-1)(F+B-2W)", "2P-1", qn_gen_zb_h2, 1, 1, 1, 0, 0, false},
    {"zb-1p", "Qi et al. 2024, arXiv:2401.10241", "(P-1)(F+B-W)", "P", qn_gen_zb_1p, 1, 1, 1, 0, 0, false},
    {"zb-2p", "Qi et al. 2024, arXiv:2401.10241", "about 0", "2P", qn_gen_zb_2p, 1, 1, 1, 0, 0, false},
    {"zb-v", "Qi et al. 2024, arXiv:2405.15362", "0 if F=B=W", "2P chunks", qn_gen_zb_v, 2, 2, 2, 0, 0, false},
    {"v-half", "Qi et al. 2024, arXiv:2405.15362", "half of 1f1b's", "about P+2 chunks", qn_gen_v_half, 2, 2, 2, 0, 0, false},
    {"v-min", "Qi et al. 2024, arXiv:2405.15362", "2/3 of 1f1b's", "about 2P/3+2 chunks", qn_gen_v_min, 2, 2, 2, 0, 0, false},
    {"v-zb", "Qi et al. 2024, arXiv:2405.15362", "0 if F=B=W", "2P chunks", qn_gen_v_zb, 2, 2, 2, 0, 0, false},
    {"v-adaptive", "Qi et al. 2024, arXiv:2405.15362", "least within the limit", "the limit", qn_gen_v_adaptive, 2, 2, 2, 0, 0,
     false},
    {"dualpipe", "DeepSeek-AI 2024, arXiv:2412.19437", "P/2-1 if F=B=W", "P+1 stages of two copies", qn_gen_dualpipe, 2, 2, 2, 2,
     0, false},
    {"dualpipev", "DeepSeek-AI 2024, arXiv:2412.19437", "P-1 if F=B=W", "2P+1 chunks", qn_gen_dualpipev, 2, 2, 2, 2, 0, false},
    {"looped-bfs", "Lamy-Poirier 2022, arXiv:2211.05953", "(P-1)/(v*M+P-1)", "v*M chunks", qn_gen_looped_bfs, 2, 0, 2, 0, 0,
     false},
    {"interleaved-zb", "Qi et al. 2024, arXiv:2401.10241", "below interleaved", "(v-1)m+P chunks, m=M/max(1,M/P)",
     qn_gen_interleaved_zb, 2, 0, 2, 0, 0, false},
    {"roundpipe", "RoundPipe 2026, arXiv:2604.27085", "P(P-1)/(M*S+P(P-1))", "one stage at a time", qn_gen_roundpipe, 1, 0, 2, 0,
     0, true},
    {"superpipe", "Superpipeline 2024, arXiv:2410.08791", "0", "k of n pieces' weights", qn_gen_superpipe, 1, 0, 4, 0, 1, false},
    {0},
};

const qn_generator *qn_generator_list(void)
{
    return list;
}

const qn_generator *qn_generator_find(const char *name)
{
    for (const qn_generator *g = list; g->name != NULL; g++) {
        if (strcmp(g->name, name) == 0) return g;
    }
    return NULL;
}

int32_t qn_generator_replicas(const qn_generator *g)
{
    return g->generate == qn_gen_dualpipe ? 2 : 1;
}

bool qn_generator_can(const qn_generator *g, int32_t workers, int32_t items)
{
    const bool even = workers % 2 == 0 && items % 2 == 0;
    return items >= (int64_t)g->min_items * workers && (g->max_workers == 0 || workers <= g->max_workers) &&
           (even || qn_generator_replicas(g) == 1);
}

/* Edit distance of two short names. */
static int32_t distance(const char *a, const char *b)
{
    enum { MOST = 32 };
    int32_t row[MOST + 1];
    const int32_t n = (int32_t)strnlen(a, MOST), m = (int32_t)strnlen(b, MOST);
    for (int32_t j = 0; j <= m; j++) row[j] = j;
    for (int32_t i = 1; i <= n; i++) {
        int32_t diagonal = row[0];
        row[0] = i;
        for (int32_t j = 1; j <= m; j++) {
            const int32_t old = row[j], change = diagonal + (a[i - 1] != b[j - 1]);
            row[j] = qn_min32(change, qn_min32(row[j], row[j - 1]) + 1);
            diagonal = old;
        }
    }
    return row[m];
}

static qn_status unknown(const char *name, qn_err *err)
{
    const qn_generator *near = list;
    for (const qn_generator *g = list; g->name != NULL; g++) {
        if (distance(g->name, name) < distance(near->name, name)) near = g;
    }
    return QN_FAIL(err, QN_EINVAL, "there is no schedule '%s'; did you mean '%s'?", name, near->name);
}

/* Sums over a whole step stay within 64 bits. */
static qn_status check_sizes(const char *name, const qn_pattern *pat, qn_err *err)
{
    static const int64_t most = 10000000000;
    for (int32_t op = 0; op < QN_OPS; op++) {
        if (pat->cost[op] < 0 || pat->cost[op] > most)
            return QN_FAIL(err, QN_EINVAL, "%s with a task of %lld ticks: 0 to %lld are possible", name, (long long)pat->cost[op],
                           (long long)most);
    }
    const int64_t size = pat->stash_size, pending = pat->pending_size,
                  room = INT64_MAX / 4 / ((int64_t)pat->workers * pat->chunks);
    if (size < 0 || pending < 0 || size > room || pending > room)
        return QN_FAIL(err, QN_EINVAL, "%s with sizes of %lld and %lld: 0 to %lld are possible", name, (long long)size,
                       (long long)pending, (long long)room);
    return QN_OK;
}

static const char *many(int64_t n)
{
    return n == 1 ? "" : "s";
}

static qn_status check_numbers(const qn_generator *g, const qn_pattern *pat, qn_err *err)
{
    const int32_t P = pat->workers, M = pat->items;
    if (P < 1 || P > QN_MAX_WORKERS)
        return QN_FAIL(err, QN_EINVAL, "%s with %d workers: 1 to %d are possible", g->name, P, QN_MAX_WORKERS);
    if (g->max_workers > 0 && P > g->max_workers)
        return QN_FAIL(err, QN_EINVAL, "%s with %d workers: %d is possible%s", g->name, P, g->max_workers,
                       g->generate == qn_gen_superpipe ? "; roundpipe goes round several" : "");
    if (M < 1) return QN_FAIL(err, QN_EINVAL, "%s with %d micro-batches: at least 1 is needed", g->name, M);
    if (qn_generator_can(g, P, M)) return QN_OK;
    const int64_t even = P + P % 2, each = g->min_items;
    if (qn_generator_replicas(g) > 1)
        return QN_FAIL(
            err, QN_EINVAL,
            "%s with %d worker%s and %d micro-batch%s: an even number of workers and an even number of micro-batches, at "
            "least %lld for each worker, are possible, for instance %lld and %lld",
            g->name, P, many(P), M, M == 1 ? "" : "es", (long long)each, (long long)even,
            (long long)qn_max64(each * even, M + M % 2));
    char fewer[64] = "";
    if (M / each > 0) snprintf(fewer, sizeof fewer, ", or at most %lld worker%s", (long long)(M / each), many(M / each));
    return QN_FAIL(err, QN_EINVAL,
                   "%s with %d worker%s and %d micro-batch%s: at least %lld micro-batches are needed (%lld for each worker)%s",
                   g->name, P, many(P), M, M == 1 ? "" : "es", (long long)each * P, (long long)each, fewer);
}

qn_status qn_generate(qn_order **out, const char *name, const qn_pattern *pat, qn_err *err)
{
    const qn_generator *g = qn_generator_find(name);
    if (g == NULL) return unknown(name, err);
    qn_status st = check_numbers(g, pat, err);
    if (st != QN_OK) return st;
    if (pat->chunks < g->min_chunks || (g->max_chunks > 0 && pat->chunks > g->max_chunks))
        return QN_FAIL(err, QN_EINVAL, "%s with %d chunks per worker: %s %d %s", name, pat->chunks,
                       g->max_chunks > 0 ? "exactly" : "at least", g->min_chunks,
                       g->max_chunks > 0 ? "is possible" : "is needed");
    const int64_t stages = pat->pieces != 0 ? pat->pieces : (int64_t)pat->workers * pat->chunks;
    if (pat->pieces < 0 || (pat->pieces > 0 && g->generate != qn_gen_roundpipe && g->generate != qn_gen_superpipe))
        return QN_FAIL(err, QN_EINVAL, "%s in %d pieces: roundpipe and superpipe are made of pieces, the others of chunks", name,
                       pat->pieces);
    if (stages > 65536)
        return QN_FAIL(err, QN_EINVAL, "%s with %lld stages: at most 65536 are possible", name, (long long)stages);
    if (stages * pat->items > INT32_MAX / 16)
        return QN_FAIL(err, QN_EINVAL, "%s with %lld stages and %d micro-batches: too many tasks for one step", name,
                       (long long)stages, pat->items);
    if (pat->group != 0 && pat->group < pat->workers)
        return QN_FAIL(err, QN_EINVAL, "%s with groups of %d micro-batches: at least as many as workers (%d) are needed, or 0",
                       name, pat->group, pat->workers);
    st = check_sizes(name, pat, err);
    if (st != QN_OK) return st;
    if (pat->vocab != 0) return qni_generate_vocab(out, name, pat, err);
    qn_order *order = NULL;
    st = qn_order_open(&order, pat->workers, (int32_t)stages, pat->items, err);
    if (st == QN_OK) st = g->generate(order, pat, err);
    if (st != QN_OK) {
        qn_order_close(order);
        return st;
    }
    *out = order;
    return QN_OK;
}
