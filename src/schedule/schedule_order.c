/* Orders, names, plan memory and growable text: what every other file of the folder stands on. */
#include "ir.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "schedule_internal.h"

static const char *const op_name[] = {
#define OP_NAME(op, text) text,
    QN_OP_LIST(OP_NAME)
#undef OP_NAME
};

static const char *const class_name[] = {
#define CLASS_NAME(v, text) text,
    QN_VALUE_LIST(CLASS_NAME)
#undef CLASS_NAME
};

const char *qni_op_name(int32_t op)
{
    return op >= 0 && op < QN_OPS ? op_name[op] : "?";
}

const char *qni_class_name(int32_t cls)
{
    return cls >= 0 && cls < QN_VALUE_CLASSES ? class_name[cls] : "?";
}

const char *qni_lane_name(int32_t lane)
{
    static const char *const name[] = {"comp", "send", "recv", "up", "down", "host"};
    return lane >= 0 && lane < QN_LANES ? name[lane] : "?";
}

/* ---- orders */

qn_status qn_order_open(qn_order **out, int32_t workers, int32_t stages, int32_t items, qn_err *err)
{
    if (workers < 1 || workers > QN_MAX_WORKERS)
        return QN_FAIL(err, QN_ERANGE, "%d workers: 1 to %d are possible", workers, QN_MAX_WORKERS);
    if (stages < 1 || stages > 65536) return QN_FAIL(err, QN_ERANGE, "%d stages: 1 to 65536 are possible", stages);
    if (items < 1) return QN_FAIL(err, QN_ERANGE, "%d micro-batches: at least 1 is needed", items);
    qn_order *o = qn_calloc(1, sizeof *o);
    if (o == NULL) return QN_FAIL(err, QN_ENOMEM, "order of %d workers", workers);
    *o = (qn_order){.workers = workers, .stages = stages, .items = items, .columns = 1, .shards = 1};
    o->worker_of = qn_calloc((size_t)stages, sizeof *o->worker_of);
    o->count = qn_calloc((size_t)workers, sizeof *o->count);
    o->cap = qn_calloc((size_t)workers, sizeof *o->cap);
    o->task = qn_calloc((size_t)workers, sizeof *o->task);
    if (o->worker_of == NULL || o->count == NULL || o->cap == NULL || o->task == NULL) {
        qn_order_close(o);
        return QN_FAIL(err, QN_ENOMEM, "order of %d workers", workers);
    }
    for (int32_t s = 0; s < stages; s++) o->worker_of[s] = s % workers;
    for (int32_t op = 0; op < QN_OPS; op++) o->cost[op] = -1;
    *out = o;
    return QN_OK;
}

void qn_order_close(qn_order *o)
{
    if (o == NULL) return;
    for (int32_t w = 0; o->task != NULL && w < o->workers; w++) qn_free(o->task[w]);
    qn_free(o->worker_of);
    qn_free(o->backward_of);
    qn_free(o->count);
    qn_free(o->cap);
    qn_free(o->task);
    qn_free(o->arena_limit);
    qn_free(o->act_bytes);
    qn_free(o->stash_bytes);
    qn_free(o->wstash_bytes);
    qn_free(o);
}

qn_status qn_order_split_backward(qn_order *o, qn_err *err)
{
    if (o->backward_of == NULL) o->backward_of = qn_malloc((size_t)o->stages, sizeof *o->backward_of);
    if (o->backward_of == NULL) return QN_FAIL(err, QN_ENOMEM, "order of %d stages", o->stages);
    memcpy(o->backward_of, o->worker_of, (size_t)o->stages * sizeof *o->backward_of);
    return QN_OK;
}

void qn_order_push(qn_order *o, int32_t worker, qn_op op, int32_t stage, int32_t item)
{
    QN_ASSERT(worker >= 0 && worker < o->workers);
    if (o->failed || o->count[worker] == INT32_MAX ||
        !qni_grow(&o->task[worker], &o->cap[worker], o->count[worker] + 1, sizeof **o->task)) {
        o->failed = true;
        return;
    }
    o->task[worker][o->count[worker]++] = (qn_order_task){.op = op, .stage = stage, .item = item};
}

void qn_order_pair(qn_order *o, int32_t worker)
{
    if (!o->failed && o->count[worker] > 1) o->task[worker][o->count[worker] - 2].pair = 1;
}

qn_status qn_order_done(qn_order *o, qn_err *err)
{
    return o->failed ? QN_FAIL(err, QN_ENOMEM, "order of %d workers and %d micro-batches", o->workers, o->items) : QN_OK;
}

/* ---- plans */

void qn_plan_close(qn_plan *p)
{
    if (p == NULL) return;
    qn_free(p->worker_of);
    qn_free(p->backward_of);
    qn_free(p->task);
    qn_free(p->lane);
    qn_free(p->value);
    qn_free(p->channel);
    qn_free(p->ref);
    qn_free(p->arena_bytes);
    qn_free(p->arena_limit);
    qn_free(p);
}

/* " 2.0", " 2" or nothing. */
static const char *place_text(char buf[32], int32_t stage, int32_t item)
{
    buf[0] = '\0';
    if (stage != QN_NONE && item != QN_NONE)
        snprintf(buf, 32, " %d.%d", stage, item);
    else if (stage != QN_NONE)
        snprintf(buf, 32, " %d", stage);
    return buf;
}

static const char *task_name(char *buf, size_t cap, const qn_plan *p, int32_t task)
{
    const qn_task *t = &p->task[task];
    char place[32];
    place_text(place, t->stage, t->item);
    if (t->op == QN_OP_LOAD || t->op == QN_OP_OFFLOAD) {
        const qn_span moved = t->op == QN_OP_LOAD ? t->out : t->in;
        const int32_t v = moved.count == 1 ? p->ref[moved.first] : QN_NONE;
        if (v >= 0 && v < p->values) { /* "LOAD param 5#3 @0" */
            qni_value_text(buf, cap, p, v);
            char value[QNI_NAME];
            snprintf(value, sizeof value, "%s", buf);
            snprintf(buf, cap, "%s %s", qni_op_name(t->op), value);
            return buf;
        }
    }
    if (t->channel >= 0 && t->channel < p->channels) {
        const qn_channel *c = &p->channel[t->channel];
        snprintf(buf, cap, "%s %s%s @%d>%d", qni_op_name(t->op), qni_class_name(c->cls), place, c->from, c->to);
    } else {
        snprintf(buf, cap, "%s%s @%d", qni_op_name(t->op), place, t->worker);
    }
    return buf;
}

const char *qn_task_text(char *buf, size_t cap, const qn_plan *p, int32_t task)
{
    task_name(buf, cap, p, task);
    const size_t used = strlen(buf);
    if (p->task[task].step > 0) snprintf(buf + used, cap - used, " step=%d", p->task[task].step);
    return buf;
}

const char *qni_value_text(char *buf, size_t cap, const qn_plan *p, int32_t value)
{
    const qn_value *v = &p->value[value];
    char place[32];
    place_text(place, v->stage, v->item);
    char *dot = v->cls == QN_V_PARAM ? strchr(place, '.') : NULL;
    if (dot != NULL) *dot = '#'; /* a chunk of parameters is no micro-batch */
    snprintf(buf, cap, "%s%s @%d", qni_class_name(v->cls), place, v->worker);
    return buf;
}

/* ---- growable things */

bool qni_grow(void *p, int32_t *cap, int32_t want, size_t size)
{
    if (want <= *cap) return true;
    const int32_t half = *cap > INT32_MAX / 2 ? INT32_MAX : *cap * 2;
    const int32_t next = qn_max32(qn_max32(half, 16), want);
    void *old, *grown;
    memcpy(&old, p, sizeof old); /* p is the address of some T *: copied, not cast, to keep the types apart */
    grown = qn_realloc(old, (size_t)next, size);
    if (grown == NULL) return false;
    memcpy(p, &grown, sizeof grown);
    *cap = next;
    return true;
}

void qni_text_add(qni_text *t, const char *fmt, ...)
{
    if (t->failed) return;
    for (;;) {
        va_list args;
        va_start(args, fmt);
        const size_t room = t->cap - t->used;
        const int n = vsnprintf(t->at == NULL ? NULL : t->at + t->used, room, fmt, args);
        va_end(args);
        if (n < 0) break;
        if ((size_t)n < room) {
            t->used += (size_t)n;
            return;
        }
        const size_t next = (t->cap + (size_t)n + 1) * 2;
        char *grown = qn_realloc(t->at, next, 1);
        if (grown == NULL) break;
        t->at = grown;
        t->cap = next;
    }
    t->failed = true;
}

qn_status qni_text_done(char **out, qni_text *t, qn_err *err)
{
    if (!t->failed) qni_text_add(t, "%s", "");
    if (t->failed) {
        qn_free(t->at);
        *t = (qni_text){0};
        return QN_FAIL(err, QN_ENOMEM, "text of a schedule");
    }
    *out = t->at;
    *t = (qni_text){0};
    return QN_OK;
}
