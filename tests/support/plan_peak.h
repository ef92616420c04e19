/* The most bytes of some classes of values alive at once on a worker, by a trace: from the start of the task that writes a value
 * to the end of the one that drops it. */
#ifndef QN_TESTS_PLAN_PEAK_H
#define QN_TESTS_PLAN_PEAK_H

#include <stdint.h>
#include <stdlib.h>

#include "schedule/trace.h"

typedef struct peak_event {
    int64_t at, bytes; /* bytes < 0: freed, before what begins at the same time */
} peak_event;

static int peak_order(const void *a, const void *b)
{
    const peak_event *x = a, *y = b;
    if (x->at != y->at) return x->at < y->at ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* classes: a set of 1 << class. own: only values of a stage of this worker (a message's copy at its writer is another's). */
static int64_t plan_peak(const qn_trace *t, int32_t worker, uint64_t classes, bool own)
{
    const qn_plan *p = t->plan;
    peak_event *event = calloc((size_t)p->refs + 1, sizeof(*event));
    int32_t n = 0;
    for (int32_t i = 0; i < p->tasks; i++) {
        if (p->task[i].worker != worker) continue;
        for (int end = 0; end < 2; end++) {
            const qn_span span = end ? p->task[i].free : p->task[i].out;
            for (int32_t k = 0; k < span.count; k++) {
                const qn_value *v = &p->value[p->ref[span.first + k]];
                if (!(classes >> v->cls & 1) || v->worker != worker || v->offset == QN_NONE) continue;
                if (own && (v->stage == QN_NONE || p->worker_of[v->stage] != worker)) continue;
                event[n++] = (peak_event){end ? t->time[i].end : t->time[i].start, end ? -v->bytes : v->bytes};
            }
        }
    }
    qsort(event, (size_t)n, sizeof(*event), peak_order);
    int64_t alive = 0, most = 0;
    for (int32_t i = 0; i < n; i++) {
        alive += event[i].bytes;
        if (alive > most) most = alive;
    }
    free(event);
    return most;
}

#endif
