/* See schedule_devices.h. */
#include "schedule_devices.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"

static const int64_t LONGEST = 1000000000; /* ticks of a task or a message; of a copy a thousand times that */

/* ---- flags */

static double units_per_second(const char *unit)
{
    static const struct {
        const char *unit;
        double per_second;
    } known[] = {{"", 1e3}, {"ms", 1e3}, {"s", 1}, {"us", 1e6}, {"ns", 1e9}};
    for (size_t i = 0; i < QN_COUNT(known); i++)
        if (strcmp(unit, known[i].unit) == 0) return known[i].per_second;
    return 0;
}

static int64_t longest(const qni_costs *c)
{
    int64_t most = c->latency;
    for (int op = 0; op < QN_OPS; op++) most = qn_max64(most, c->tick[op]);
    for (int32_t i = 0; i < c->stages; i++)
        for (int op = 0; op < QN_OPS; op++) most = qn_max64(most, c->stage[i][op]);
    return most;
}

/* Copies take what bytes and link say, which is seldom a whole number of the ticks that the tasks' times need. */
static void refine(qni_costs *c, double per_second)
{
    for (; c->scale * per_second < 1e9 && longest(c) <= LONGEST / 10; c->scale *= 10) {
        c->latency *= 10;
        for (int op = 0; op < QN_OPS; op++) c->tick[op] *= c->tick[op] > 0 ? 10 : 1;
        for (int32_t i = 0; i < c->stages; i++)
            for (int op = 0; op < QN_OPS; op++) c->stage[i][op] *= c->stage[i][op] > 0 ? 10 : 1;
    }
}

qn_status qni_devices_take(qni_costs *c, const qn_schedule_options *opt, qn_err *err)
{
    const qn_status st = qni_device_read(&c->device, opt->device_memory, opt->link, opt->window, err);
    if (st != QN_OK || !c->device.any) return st;
    const double per_second = units_per_second(c->unit);
    if (c->size[QNI_SIZE_WEIGHTS] == NULL)
        return QN_FAIL(err, QN_EINVAL,
                       "--device-memory, --link and --window bring a stage's weights to its worker: how many bytes these are was "
                       "wanted, as in --sizes weights=64M, or in the file or run of --cost-from");
    if (per_second == 0)
        return QN_FAIL(err, QN_EINVAL, "--device-memory, --link and --window with times in '%s': s, ms, us or ns were wanted",
                       c->unit);
    if (c->unit[0] == '\0') snprintf(c->unit, sizeof c->unit, "ms");
    if (c->device.link_bytes_per_s == 0) return QN_OK;
    refine(c, per_second);
    c->copy_ticks = c->scale * per_second;
    return QN_OK;
}

qn_status qni_costs_take(qni_costs *c, const qn_schedule_options *opt, qn_err *err)
{
    qn_status st = qni_costs_parse(c, opt->cost, opt->cost_from, opt->latency, err);
    if (st == QN_OK) st = qni_costs_sizes(c, opt->sizes, err);
    return st == QN_OK ? qni_devices_take(c, opt, err) : st;
}

/* ---- the plan */

typedef struct tables {
    int32_t *first; /* [stages + 1] */
    int64_t *bytes; /* [chunks] */
    int64_t *none;  /* [stages] zeroes */
} tables;

static void close_tables(tables *t)
{
    qn_free(t->first);
    qn_free(t->bytes);
    qn_free(t->none);
}

/* Weights come in as many parts as there are micro-batches, so that none holds an activation up for long. */
static qn_status cut_chunks(tables *t, const qn_order *o, const int64_t *weights, qn_err *err)
{
    enum { MOST = 16 };
    const size_t S = (size_t)o->stages;
    t->first = qn_calloc(S + 1, sizeof *t->first);
    t->bytes = qn_calloc(S * MOST, sizeof *t->bytes);
    t->none = qn_calloc(S, sizeof *t->none);
    if (t->first == NULL || t->bytes == NULL || t->none == NULL)
        return QN_FAIL(err, QN_ENOMEM, "weights of %d stages", o->stages);
    for (int32_t s = 0, n = 0; s < o->stages; s++) {
        const int64_t all = weights != NULL ? weights[s] : 0, chunks = qn_max64(1, qn_min64(qn_min32(o->items, MOST), all));
        for (int64_t c = 0; c < chunks; c++) t->bytes[n++] = all * (c + 1) / chunks - all * c / chunks;
        t->first[s + 1] = n;
    }
    return QN_OK;
}

static const int64_t *said(const int64_t *size, const int64_t *own, const int64_t *none)
{
    return size != NULL || own != NULL ? size : none;
}

/* The sentence for a memory of which a window of k stages takes more. */
static qn_status too_small(const qni_device *d, const qn_order *o, const int64_t *weights, int64_t wants, int32_t k, qn_err *err)
{
    int32_t largest = 0;
    for (int32_t s = 1; s < o->stages; s++)
        if (weights[s] > weights[largest]) largest = s;
    if (d->memory < weights[largest])
        return QN_FAIL(err, QN_EINVAL,
                       "--device-memory %" PRId64 " is smaller than stage %d, whose weights alone are %" PRId64
                       " bytes; the smallest that would do is %" PRId64 " (more and smaller stages need less)",
                       d->memory, largest, weights[largest], wants);
    return QN_FAIL(err, QN_EINVAL,
                   "--device-memory %" PRId64 " is too small for a window of %d stage%s; the smallest that would do is %" PRId64,
                   d->memory, k, k == 1 ? "" : "s", wants);
}

qn_status qni_devices_lower(qn_plan **out, int32_t *window, const qn_order *o, const qn_lowering *given, const qni_device *d,
                            int64_t *const size[QNI_SIZES], qn_err *err)
{
    tables t = {.first = NULL};
    qn_lowering how = *given;
    qn_tiers tiers = {.lag = 0};
    qn_plan *p = NULL;
    qn_status st;
    const int64_t *weights = size[QNI_SIZE_WEIGHTS], *grads = size[QNI_SIZE_GRADS];
    QN_TRY(st, cut_chunks(&t, o, weights, err), out);
    if (weights == NULL) weights = t.none;
    if (given->tiers != NULL) tiers.lag = given->tiers->lag;
    tiers.chunk_first = t.first;
    tiers.chunk_bytes = t.bytes;
    tiers.pgrad_bytes = grads != NULL ? grads : weights;
    how.tiers = &tiers;
    how.act_bytes = said(size[QNI_SIZE_ACT], o->act_bytes, t.none);
    how.stash_bytes = said(size[QNI_SIZE_STASH], o->stash_bytes, t.none);
    how.wstash_bytes = said(size[QNI_SIZE_WSTASH], o->wstash_bytes, t.none);
    for (int32_t k = d->window > 0 ? d->window : o->stages;; k = k > 8 ? k * 3 / 4 : k - 1) {
        int64_t most = 0;
        tiers.window = k;
        tiers.replace = qn_min32(qn_max32(d->replace, 1), k);
        QN_TRY(st, qn_lower(&p, o, &how, err), out);
        for (int32_t w = 0; w < p->workers; w++) most = qn_max64(most, p->arena_bytes[w]);
        *window = k;
        if (d->memory == 0 || most <= d->memory) break;
        qn_plan_close(p);
        p = NULL;
        if (k > 1 && d->window == 0) continue;
        st = too_small(d, o, weights, most, k, err);
        goto out;
    }
    for (int32_t w = 0; d->memory > 0 && w < p->workers; w++) p->arena_limit[w] = d->memory;
    *out = p;
    p = NULL;
out:
    qn_plan_close(p);
    close_tables(&t);
    return st;
}

/* ---- times */

static bool is_copy(const qn_task *t)
{
    return t->op == QN_OP_LOAD || t->op == QN_OP_OFFLOAD;
}

qn_status qni_devices_time(qn_plan *p, const qni_costs *c, qn_err *err)
{
    for (int32_t i = 0; i < p->tasks; i++) {
        qn_task *t = &p->task[i];
        if (!is_copy(t)) continue;
        const int32_t cls = p->value[p->ref[t->in.first]].cls;
        const bool hop = !c->device.any && t->op == QN_OP_LOAD && (cls == QN_V_ACT || cls == QN_V_GRAD);
        t->cost = hop ? c->latency : 0;
        if (c->copy_ticks <= 0) continue;
        const int64_t bytes = p->value[p->ref[t->in.first]].bytes;
        const double ticks = ceil((double)bytes * c->copy_ticks / (double)c->device.link_bytes_per_s);
        if (ticks > 1e3 * (double)LONGEST)
            return QN_FAIL(err, QN_ERANGE, "--link: %" PRId64 " bytes at %" PRId64 " a second take longer than can be counted",
                           bytes, c->device.link_bytes_per_s);
        t->cost = (int64_t)ticks;
    }
    return QN_OK;
}

int64_t qni_devices_count(qni_copies *out, const qn_trace *trace)
{
    const qn_plan *p = trace->plan;
    int64_t end = 0;
    memset(out, 0, (size_t)p->workers * sizeof *out);
    for (int32_t i = 0; i < p->tasks; i++) {
        const qn_task *t = &p->task[i];
        if (!is_copy(t)) continue;
        const int64_t bytes = p->value[p->ref[t->in.first]].bytes, busy = trace->time[i].end - trace->time[i].start;
        *(t->op == QN_OP_LOAD ? &out[t->worker].bytes_up : &out[t->worker].bytes_down) += bytes;
        *(t->op == QN_OP_LOAD ? &out[t->worker].busy_up : &out[t->worker].busy_down) += busy;
        if (bytes > 0) end = qn_max64(end, trace->time[i].end);
    }
    return end;
}
