/* Costs measured from traces of real steps. */
#include "measured.h"

#include <stdlib.h>

#include "core/alloc.h"

static int by_size(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

int64_t qni_trace_makespan(const qn_trace *t)
{
    int64_t last = 0;
    for (int32_t i = 0; i < t->plan->tasks; i++)
        if (t->time[i].end > last) last = t->time[i].end;
    return last;
}

const qn_trace *qni_trace_median(const qn_trace *traces, int32_t n)
{
    const qn_trace *best = NULL;
    for (int32_t i = 0; i < n && best == NULL; i++) {
        const int64_t mine = qni_trace_makespan(&traces[i]);
        int32_t below = 0, equal = 0;
        for (int32_t j = 0; j < n; j++) {
            const int64_t other = qni_trace_makespan(&traces[j]);
            below += other < mine;
            equal += other == mine;
        }
        if (below <= n / 2 && n / 2 < below + equal) best = &traces[i];
    }
    return best;
}

/* Copies of one stage are alike when they move as many bytes of one class. */
static bool alike(const qn_plan *p, const qn_task *a, const qn_task *b)
{
    if (a->op != b->op || a->stage != b->stage || a->worker != b->worker) return false;
    if (a->op != QN_OP_LOAD && a->op != QN_OP_OFFLOAD) return true;
    const qn_value *x = &p->value[p->ref[a->in.first]], *y = &p->value[p->ref[b->in.first]];
    return x->cls == y->cls && x->bytes == y->bytes;
}

qn_status qni_measured_costs(int64_t *cost, const qn_trace *traces, int32_t n, qn_err *err)
{
    const qn_plan *p = traces[0].plan;
    int64_t *sample = qn_calloc((size_t)p->tasks * (size_t)n, sizeof(*sample));
    if (sample == NULL) return QN_FAIL(err, QN_ENOMEM, "costs of %d tasks in %d traces", p->tasks, n);
    for (int32_t i = 0; i < p->tasks; i++) cost[i] = -1;
    for (int32_t i = 0; i < p->tasks; i++) {
        if (cost[i] >= 0) continue;
        size_t count = 0;
        for (int32_t j = i; j < p->tasks; j++) {
            for (int32_t k = 0; k < n && alike(p, &p->task[i], &p->task[j]); k++) {
                const qn_span_time *t = &traces[k].time[j];
                sample[count++] = t->end > t->start ? t->end - t->start : 0;
            }
        }
        qsort(sample, count, sizeof(*sample), by_size);
        const bool message = p->task[i].op == QN_OP_SEND || p->task[i].op == QN_OP_RECV;
        for (int32_t j = i; j < p->tasks; j++)
            if (alike(p, &p->task[i], &p->task[j])) cost[j] = message ? 0 : sample[count / 2];
    }
    qn_free(sample);
    return QN_OK;
}

/* [channels] the tasks of one kind in the order of their lanes, as lists: head of each channel, next [tasks]. */
typedef struct messages {
    int32_t *send, *recv, *next; /* send, recv: [channels] next one to be matched */
} messages;

static void list_messages(int32_t *head, int32_t *next, const qn_plan *p, int32_t op)
{
    for (int32_t c = 0; c < p->channels; c++) head[c] = QN_NONE;
    for (int32_t t = p->tasks; t-- > 0;) {
        if (p->task[t].op != op || p->task[t].channel < 0) continue;
        next[t] = head[p->task[t].channel];
        head[p->task[t].channel] = t;
    }
}

/* The j-th RECV of a channel meets its j-th SEND. Returns how many samples there are; strict: of receivers that waited from
 * before the SEND's end. */
static size_t sample_messages(int64_t *sample, const messages *m, const qn_trace *trace, bool strict)
{
    size_t count = 0;
    for (int32_t c = 0; c < trace->plan->channels; c++) {
        for (int32_t s = m->send[c], r = m->recv[c]; s != QN_NONE && r != QN_NONE; s = m->next[s], r = m->next[r]) {
            const qn_span_time from = trace->time[s], to = trace->time[r];
            if (to.end < to.start || from.end < from.start || to.end < from.end) continue;
            if (strict ? to.start < from.end : to.start < to.end) sample[count++] = to.end - from.end;
        }
    }
    return count;
}

qn_status qni_measured_latency(int64_t *latency, const qn_trace *traces, int32_t n, qn_err *err)
{
    const qn_plan *p = traces[0].plan;
    qn_status st = QN_OK;
    size_t count = 0;
    *latency = 0;
    messages m = {.send = qn_calloc((size_t)p->channels + 1, sizeof(int32_t)),
                  .recv = qn_calloc((size_t)p->channels + 1, sizeof(int32_t)),
                  .next = qn_calloc((size_t)p->tasks + 1, sizeof(int32_t))};
    int64_t *sample = qn_calloc((size_t)p->tasks * (size_t)n + 1, sizeof(*sample));
    if (m.send == NULL || m.recv == NULL || m.next == NULL || sample == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "messages of %d tasks", p->tasks);
        goto out;
    }
    list_messages(m.send, m.next, p, QN_OP_SEND);
    list_messages(m.recv, m.next, p, QN_OP_RECV);
    for (int strict = 1; strict >= 0 && count == 0; strict--)
        for (int32_t i = 0; i < n; i++) count += sample_messages(sample + count, &m, &traces[i], strict != 0);
    if (count > 0) qsort(sample, count, sizeof(*sample), by_size);
    if (count > 0) *latency = sample[count / 2];
out:
    qn_free(m.send);
    qn_free(m.recv);
    qn_free(m.next);
    qn_free(sample);
    return st;
}

qn_status qni_simulate_measured(qn_trace *out, const qn_trace *traces, int32_t n, qn_err *err)
{
    const qn_plan *p = traces[0].plan;
    int64_t *cost = qn_calloc((size_t)p->tasks, sizeof(*cost));
    if (cost == NULL) return QN_FAIL(err, QN_ENOMEM, "costs of %d tasks", p->tasks);
    qn_status st;
    QN_TRY(st, qni_measured_costs(cost, traces, n, err), out);
    const qn_sim_options opt = {.cost = cost};
    QN_TRY(st, qn_simulate(out, p, &opt, err), out);
out:
    qn_free(cost);
    return st;
}
