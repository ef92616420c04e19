/* Memory: judged from the offsets in the plan alone, independently of how they were assigned.
 *
 * Values are visited in an order in which they may be written (the graph's). Each takes its bytes over from whoever held them
 * last; that value's dropper must be complete before the new writer starts. Checking the last holder is enough: earlier ones
 * ended before it began. */
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/schedule_internal.h"

typedef struct held { /* bytes [from, to) were last held by value */
    int64_t from, to;
    int32_t value;
} held;

typedef struct holders { /* of one worker's arena, sorted, without overlap */
    held *at;
    int32_t count, cap;
} holders;

typedef struct memory_check {
    const qn_plan *p;
    const int32_t (*clock)[QN_LANES];
    int32_t *writer, *dropper; /* [values] */
    holders *worker;           /* [workers] */
} memory_check;

qn_status qni_clocks(int32_t (**out)[QN_LANES], const qni_graph *g, qn_err *err)
{
    const qn_plan *p = g->plan;
    int32_t(*clock)[QN_LANES] = qn_malloc((size_t)p->tasks, sizeof *clock);
    if (clock == NULL) return QN_FAIL(err, QN_ENOMEM, "check of %d tasks", p->tasks);
    memset(clock, 0xff, (size_t)p->tasks * sizeof *clock);
    for (int32_t i = 0; i < g->ordered; i++) {
        for (int32_t t = g->order[i]; t != QN_NONE; t = g->also[t]) {
            const int32_t lane = p->task[t].lane, index = qni_lane_index(p, t);
            const qn_span wait = p->task[t].wait;
            for (int32_t j = index > 0 ? -1 : 0; j < wait.count; j++) {
                const int32_t from = j < 0 ? t - 1 : p->ref[wait.first + j];
                if (p->task[from].worker != p->task[t].worker) continue;
                for (int32_t l = 0; l < QN_LANES; l++) clock[t][l] = qn_max32(clock[t][l], clock[from][l]);
                const int32_t lane_from = p->task[from].lane;
                clock[t][lane_from] = qn_max32(clock[t][lane_from], qni_lane_index(p, from));
            }
            clock[t][lane] = qn_max32(clock[t][lane], index - 1);
        }
    }
    *out = clock;
    return QN_OK;
}

/* Index of the first holder whose bytes end behind at. */
static int32_t first_behind(const holders *h, int64_t at)
{
    int32_t low = 0, high = h->count;
    while (low < high) {
        const int32_t mid = low + (high - low) / 2;
        if (h->at[mid].to <= at)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* Replaces count holders at index by n new ones. */
static bool splice(holders *h, int32_t index, int32_t count, const held *with, int32_t n)
{
    if (!qni_grow(&h->at, &h->cap, h->count - count + n, sizeof *h->at)) return false;
    memmove(h->at + index + n, h->at + index + count, (size_t)(h->count - index - count) * sizeof *h->at);
    memcpy(h->at + index, with, (size_t)n * sizeof *h->at);
    h->count += n - count;
    return true;
}

/* Value v is written now: takes its bytes over. */
static qn_status take_bytes(memory_check *m, int32_t v, qn_err *err)
{
    const qn_plan *p = m->p;
    const qn_value *x = &p->value[v];
    holders *h = &m->worker[x->worker];
    const int64_t from = x->offset, to = x->offset + x->bytes;
    const int32_t first = first_behind(h, from);
    held with[3];
    int32_t n = 0, last = first;
    for (; last < h->count && h->at[last].from < to; last++) {
        const int32_t u = h->at[last].value, drop = m->dropper[u], write = m->writer[v];
        const bool over = drop != QN_NONE && qni_lane_index(p, qn_joint_last(p, drop)) <= m->clock[write][p->task[drop].lane];
        char a[QNI_NAME], b[QNI_NAME], c[QNI_NAME], d[QNI_NAME];
        if (over) continue;
        return QN_FAIL(
            err, QN_ESCHEDULE,
            "%s and %s share bytes %lld to %lld of worker %d, but %s writes the second without waiting for %s to free the first",
            qni_value_text(a, sizeof a, p, u), qni_value_text(b, sizeof b, p, v), (long long)qn_max64(from, p->value[u].offset),
            (long long)qn_min64(to, p->value[u].offset + p->value[u].bytes), x->worker, qn_task_text(c, sizeof c, p, write),
            drop == QN_NONE ? "any task" : qn_task_text(d, sizeof d, p, drop));
    }
    if (last > first && h->at[first].from < from) with[n++] = (held){h->at[first].from, from, h->at[first].value};
    with[n++] = (held){from, to, v};
    if (last > first && h->at[last - 1].to > to) with[n++] = (held){to, h->at[last - 1].to, h->at[last - 1].value};
    return splice(h, first, last - first, with, n) ? QN_OK : QN_FAIL(err, QN_ENOMEM, "check of %d values", p->values);
}

static qn_status check_overlaps(memory_check *m, const qni_graph *g, qn_err *err)
{
    const qn_plan *p = m->p;
    for (int32_t i = 0; i < g->ordered; i++) {
        for (int32_t t = g->order[i]; t != QN_NONE; t = g->also[t]) {
            const qn_span out = p->task[t].out, acc = p->task[t].acc;
            for (int32_t j = 0; j < out.count + acc.count; j++) {
                const int32_t v = p->ref[j < out.count ? out.first + j : acc.first + j - out.count];
                if (p->value[v].offset == QN_NONE || p->value[v].bytes == 0 || m->writer[v] != t) continue;
                const qn_status st = take_bytes(m, v, err);
                if (st != QN_OK) return st;
            }
        }
    }
    return QN_OK;
}

/* The task after t in the graph's order, *node being the place of its node; QN_NONE at the end. */
static int32_t next_in_order(const qni_graph *g, int32_t *node, int32_t t)
{
    if (g->also[t] != QN_NONE) return g->also[t];
    return ++*node < g->ordered ? g->order[*node] : QN_NONE;
}

/* The message for too little memory: where most bytes are alive at once, and what they are. */
static qn_status too_much(const memory_check *m, const qni_graph *g, int32_t w, const int64_t *need, qn_err *err)
{
    enum { MOST = 8 };
    const qn_plan *p = m->p;
    int64_t live = 0, most = -1;
    int32_t at = QN_NONE;
    char name[QNI_NAME];
    bool *alive = qn_calloc((size_t)p->values, sizeof *alive);
    qni_text text = {0};
    for (int pass = 0; pass < 2 && alive != NULL; pass++) {
        int32_t node = 0;
        for (int32_t t = g->ordered > 0 ? g->order[0] : QN_NONE; t != QN_NONE; t = next_in_order(g, &node, t)) {
            const qn_task *x = &p->task[t];
            if (x->worker != w) continue;
            for (int32_t j = 0; j < x->out.count; j++) {
                const int32_t v = p->ref[x->out.first + j];
                if (p->value[v].offset == QN_NONE) continue;
                live += p->value[v].bytes;
                alive[v] = pass == 1;
            }
            if (live > most) {
                most = live;
                at = t;
            }
            if (pass == 1 && t == at) break;
            for (int32_t j = 0; j < x->free.count; j++) {
                const int32_t v = p->ref[x->free.first + j];
                if (p->value[v].offset == QN_NONE) continue;
                live -= p->value[v].bytes;
                alive[v] = false;
            }
        }
        live = 0;
    }
    int32_t told = 0, count = 0;
    for (int32_t v = 0; alive != NULL && v < p->values; v++) {
        if (!alive[v] || p->value[v].bytes == 0) continue;
        count++;
        if (told == MOST) continue;
        qni_text_add(&text, "%s%s of ", told > 0 ? ", " : "", qni_class_name(p->value[v].cls));
        qni_text_add(&text, "%s", qn_task_text(name, sizeof name, p, m->writer[v]));
        told++;
    }
    int64_t all = 0;
    for (int32_t k = 0; k < p->workers; k++) all = qn_max64(all, need[k]);
    const qn_status st = QN_FAIL(
        err, QN_ESCHEDULE,
        "worker %d needs %lld bytes and has %lld: at the peak, in %s, %d values of %lld bytes are alive (%s%s); the smallest "
        "limit for all workers is %lld",
        w, (long long)need[w], (long long)p->arena_limit[w], at == QN_NONE ? "no task" : qn_task_text(name, sizeof name, p, at),
        count, (long long)most, text.at != NULL ? text.at : "", count > told ? ", ..." : "", (long long)all);
    qn_free(text.at);
    qn_free(alive);
    return st;
}

static qn_status check_limits(const memory_check *m, const qni_graph *g, qn_err *err)
{
    const qn_plan *p = m->p;
    int64_t *need = qn_calloc((size_t)p->workers, sizeof *need);
    qn_status st = QN_OK;
    if (need == NULL) return QN_FAIL(err, QN_ENOMEM, "check of %d workers", p->workers);
    for (int32_t v = 0; v < p->values; v++) {
        const qn_value *x = &p->value[v];
        if (x->offset != QN_NONE) need[x->worker] = qn_max64(need[x->worker], x->offset + x->bytes);
    }
    for (int32_t w = 0; w < p->workers && st == QN_OK; w++) {
        if (need[w] > p->arena_limit[w])
            st = too_much(m, g, w, need, err);
        else if (need[w] > p->arena_bytes[w])
            st = QN_FAIL(err, QN_ESCHEDULE, "worker %d has values up to byte %lld, beyond its arena of %lld bytes", w,
                         (long long)need[w], (long long)p->arena_bytes[w]);
        else if (need[w] < p->arena_bytes[w])
            st =
                QN_FAIL(err, QN_ESCHEDULE,
                        "worker %d has an arena of %lld bytes, but its values end at byte %lld: an arena is as large as what its "
                        "run uses",
                        w, (long long)p->arena_bytes[w], (long long)need[w]);
    }
    qn_free(need);
    return st;
}

qn_status qni_check_memory(const qn_plan *p, const qni_graph *g, const int32_t (*clock)[QN_LANES], qn_err *err)
{
    memory_check m = {.p = p, .clock = clock};
    qn_status st = QN_OK;
    m.writer = qn_malloc((size_t)p->values, sizeof *m.writer);
    m.dropper = qn_malloc((size_t)p->values, sizeof *m.dropper);
    m.worker = qn_calloc((size_t)p->workers, sizeof *m.worker);
    if (m.writer == NULL || m.dropper == NULL || m.worker == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "check of %d values", p->values);
        goto out;
    }
    for (int32_t v = 0; v < p->values; v++) m.writer[v] = m.dropper[v] = QN_NONE;
    for (int32_t t = 0; t < p->tasks; t++) {
        const qn_task *x = &p->task[t];
        for (int32_t i = 0; i < x->out.count; i++) m.writer[p->ref[x->out.first + i]] = t;
        for (int32_t i = 0; i < x->free.count; i++) m.dropper[p->ref[x->free.first + i]] = t;
        for (int32_t i = 0; i < x->acc.count; i++) { /* what is only added to begins with its first addition */
            int32_t *writer = &m.writer[p->ref[x->acc.first + i]];
            if (*writer == QN_NONE) *writer = t;
        }
    }
    QN_TRY(st, check_overlaps(&m, g, err), out);
    QN_TRY(st, check_limits(&m, g, err), out);
out:
    for (int32_t w = 0; m.worker != NULL && w < p->workers; w++) qn_free(m.worker[w].at);
    qn_free(m.writer);
    qn_free(m.dropper);
    qn_free(m.worker);
    return st;
}
