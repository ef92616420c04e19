/* Plans as text, one thing per line; channels, values and tasks are counted from 0 in the order in which they stand.
 *
 *   quern-plan 1
 *   workers 2
 *   stages 2
 *   items 4
 *   columns 4                                          copies of the chain, and how many of them make a replica;
 *   shards 2                                           left out: 1
 *   steps 3                                            optimizer steps in one run; left out: 1
 *   cursor 1 8                                         after each round of 8 micro-batches (0: after each step) everything goes
 *                                                      on by 1 worker; left out: stays
 *   place 1 1                                          stage, worker (in round 0 of step 0)
 *   backward 1 0                                       stage, worker of its R, B, W and BW where that is another one
 *   arena 0 4096                                       worker, bytes of its slots
 *   limit 0 100000                                     worker, bytes it has; left out: no limit
 *   channel 0 act 0>1 edge=1 depth=2 slot=64           and slice=0 of=2 where its messages carry a part of the value
 *   value 3 act 1.0 @1 bytes=64 at=128                 at left out: has a home outside the arena; carried: alive at the step's
 * end F 1.0 @1 cost=1 in=3 out=4 acc=5 free=3 wait=recv:0,send:2 SEND act 1.0 @0>1 ch=0 tag=4294967296 in=2 free=2  lane=comp
 * where it is not on its own lane
 *
 * LOAD param 5#3 @0 in=7 out=9                         a chunk of stage 5 comes up; value 7 is marked host
 *
 * Tasks stand in lane order. wait names tasks of the same worker by lane and place in it, tasks of others as lane@WORKER:place.
 */
#include "schedule_text.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "text_scan.h"

/* ---- writing */

static void add_span(qni_text *t, const qn_plan *p, const char *key, qn_span s)
{
    for (int32_t i = 0; i < s.count; i++) qni_text_add(t, "%s%s%d", i == 0 ? key : "", i == 0 ? "" : ",", p->ref[s.first + i]);
}

static int32_t usual_lane(int32_t op)
{
    switch (op) {
    case QN_OP_SEND:
        return QN_LANE_SEND;
    case QN_OP_RECV:
        return QN_LANE_RECV;
    case QN_OP_LOAD:
        return QN_LANE_UP;
    case QN_OP_OFFLOAD:
        return QN_LANE_DOWN;
    case QN_OP_PCOPY:
    case QN_OP_GCOPY:
        return QN_LANE_HOST;
    default:
        return QN_LANE_COMP;
    }
}

static void add_task(qni_text *t, const qn_plan *p, int32_t i)
{
    const qn_task *x = &p->task[i];
    char name[QNI_NAME];
    qni_text_add(t, "%s", qn_task_text(name, sizeof name, p, i));
    if (x->lane != usual_lane(x->op)) qni_text_add(t, " lane=%s", qni_lane_name(x->lane));
    if (x->channel != QN_NONE) qni_text_add(t, " ch=%d tag=%llu", x->channel, (unsigned long long)x->tag);
    if (x->cost != 0) qni_text_add(t, " cost=%lld", (long long)x->cost);
    add_span(t, p, " in=", x->in);
    add_span(t, p, " out=", x->out);
    add_span(t, p, " acc=", x->acc);
    add_span(t, p, " free=", x->free);
    for (int32_t k = 0; k < x->wait.count; k++) {
        const int32_t other = p->ref[x->wait.first + k];
        qni_text_add(t, "%s%s", k == 0 ? " wait=" : ",", qni_lane_name(p->task[other].lane));
        if (p->task[other].worker != x->worker) qni_text_add(t, "@%d", p->task[other].worker);
        qni_text_add(t, ":%d", qni_lane_index(p, other));
    }
    qni_text_add(t, "\n");
}

static void add_value(qni_text *t, const qn_plan *p, int32_t i)
{
    const qn_value *v = &p->value[i];
    char name[QNI_NAME];
    qni_text_add(t, "value %d %s bytes=%lld", i, qni_value_text(name, sizeof name, p, i), (long long)v->bytes);
    if (v->offset != QN_NONE) qni_text_add(t, " at=%lld", (long long)v->offset);
    qni_text_add(t, "%s%s\n", v->carried ? " carried" : "", v->host ? " host" : "");
}

qn_status qn_plan_write(char **out, const qn_plan *p, qn_err *err)
{
    qni_text t = {0};
    qni_text_add(&t, "quern-plan 1\nworkers %d\nstages %d\nitems %d\n", p->workers, p->stages, p->items);
    if (p->columns > 1) qni_text_add(&t, "columns %d\n", p->columns);
    if (p->sides > 0) qni_text_add(&t, "vocabulary %d %d\n", p->sides, p->vocab);
    if (p->shards > 1) qni_text_add(&t, "shards %d\n", p->shards);
    if (p->steps > 1) qni_text_add(&t, "steps %d\n", p->steps);
    if (p->turn > 0) qni_text_add(&t, "cursor %d %d\n", p->turn, p->round);
    for (int32_t s = 0; s < p->stages; s++) qni_text_add(&t, "place %d %d\n", s, p->worker_of[s]);
    for (int32_t s = 0; p->backward_of != NULL && s < p->stages; s++) {
        if (p->backward_of[s] != p->worker_of[s]) qni_text_add(&t, "backward %d %d\n", s, p->backward_of[s]);
    }
    for (int32_t w = 0; w < p->workers; w++) qni_text_add(&t, "arena %d %lld\n", w, (long long)p->arena_bytes[w]);
    for (int32_t w = 0; w < p->workers; w++) {
        if (p->arena_limit[w] != INT64_MAX) qni_text_add(&t, "limit %d %lld\n", w, (long long)p->arena_limit[w]);
    }
    for (int32_t i = 0; i < p->channels; i++) {
        const qn_channel *c = &p->channel[i];
        qni_text_add(&t, "channel %d %s %d>%d edge=%d depth=%d slot=%lld", i, qni_class_name(c->cls), c->from, c->to, c->edge,
                     c->depth, (long long)c->slot_bytes);
        if (c->slices > 1) qni_text_add(&t, " slice=%d of=%d", c->slice, c->slices);
        qni_text_add(&t, "\n");
    }
    for (int32_t i = 0; i < p->values; i++) add_value(&t, p, i);
    for (int32_t i = 0; i < p->tasks; i++) add_task(&t, p, i);
    return qni_text_done(out, &t, err);
}

/* ---- reading */

typedef struct wait_note { /* wait=lane@worker:index of a task of the builder */
    int32_t task, worker, lane, index;
} wait_note;

typedef struct plan_reader {
    qni_scan scan;
    qni_builder b;
    qni_sizes n;
    int32_t columns, shards, sides, vocab, steps, turn, round;
    int32_t *worker_of, *backward_of; /* backward_of: QN_NONE where no line says */
    bool split;
    int64_t *arena, *limit;
    wait_note *wait;
    int32_t waits, wait_cap;
} plan_reader;

static qn_status wanted(plan_reader *r, qni_word w, const char *what, qn_err *err)
{
    char show[40];
    return QNI_SCAN_FAIL(err, &r->scan, w, "'%s' found, %s wanted", qni_word_show(show, w), what);
}

/* The word behind key= of a key=value word. */
static bool value_of(qni_word *out, qni_word w, const char *key)
{
    const size_t n = strlen(key);
    if (w.length <= n + 1 || memcmp(w.at, key, n) != 0 || w.at[n] != '=') return false;
    *out = (qni_word){w.at + n + 1, w.length - n - 1};
    return true;
}

static bool read_worker(int32_t *worker, qni_word w, const plan_reader *r)
{
    int64_t n;
    if (!qni_word_int(&n, w, 0, r->n.workers - 1)) return false;
    *worker = (int32_t)n;
    return true;
}

/* "0>1" */
static bool read_ends(int32_t *from, int32_t *to, qni_word w, const plan_reader *r)
{
    const char *arrow = w.length > 0 ? memchr(w.at, '>', w.length) : NULL;
    if (arrow == NULL) return false;
    const size_t head = (size_t)(arrow - w.at);
    return read_worker(from, (qni_word){w.at, head}, r) && read_worker(to, (qni_word){arrow + 1, w.length - head - 1}, r);
}

static qn_status read_channel(plan_reader *r, qn_err *err)
{
    qn_channel c = {.depth = 2, .slot_bytes = 1};
    int64_t n = 0;
    qni_word w, v;
    qni_scan_word(&r->scan, &w);
    if (!qni_word_int(&n, w, r->b.channels, r->b.channels)) return wanted(r, w, "the next channel's number", err);
    qni_scan_word(&r->scan, &w);
    c.cls = qni_word_find(w, qni_class_name, QN_VALUE_CLASSES);
    if (c.cls == QN_NONE) return wanted(r, w, "a class of values (act, grad, stat, tparam, tgrad, part)", err);
    qni_scan_word(&r->scan, &w);
    if (!read_ends(&c.from, &c.to, w, r)) return wanted(r, w, "FROM>TO with workers of the plan", err);
    while (qni_scan_word(&r->scan, &w)) {
        if (value_of(&v, w, "edge") && qni_word_int(&n, v, QN_NONE, INT32_MAX))
            c.edge = (int32_t)n;
        else if (value_of(&v, w, "depth") && qni_word_int(&n, v, 0, 1 << 20))
            c.depth = (int32_t)n;
        else if (value_of(&v, w, "slice") && qni_word_int(&n, v, 0, 1 << 16))
            c.slice = (int32_t)n;
        else if (value_of(&v, w, "of") && qni_word_int(&n, v, 1, 1 << 16))
            c.slices = (int32_t)n;
        else if (!value_of(&v, w, "slot") || !qni_word_int(&c.slot_bytes, v, 1, INT64_MAX / 4096))
            return wanted(r, w, "edge=N, depth=N (0 to 1048576), slot=BYTES (at least 1) or slice=K of=N", err);
    }
    if (c.slice > 0 && c.slice >= c.slices) return wanted(r, w, "a slice below the number that of= names", err);
    if (r->b.channels >= QNI_MAX_VALUES) return wanted(r, w, "fewer channels", err);
    qni_add_channel(&r->b, c);
    return r->b.failed ? QN_FAIL(err, QN_ENOMEM, "reading a plan") : QN_OK;
}

/* An optional STAGE or STAGE.ITEM word; *w is left at the word after it. */
static void skip_place(qni_scan *s, int32_t *stage, int32_t *item, qni_word *w)
{
    *stage = *item = QN_NONE;
    qni_scan_word(s, w);
    if (qni_word_place(stage, item, *w)) qni_scan_word(s, w);
}

static qn_status read_value(plan_reader *r, qn_err *err)
{
    int32_t cls, stage, item, worker;
    int64_t n, bytes = 0, at = QN_NONE;
    bool carried = false, host = false;
    qni_word w, v;
    qni_scan_word(&r->scan, &w);
    if (!qni_word_int(&n, w, r->b.values, r->b.values)) return wanted(r, w, "the next value's number", err);
    qni_scan_word(&r->scan, &w);
    cls = qni_word_find(w, qni_class_name, QN_VALUE_CLASSES);
    if (cls == QN_NONE) return wanted(r, w, "a class of values (act, grad, stash, ...)", err);
    skip_place(&r->scan, &stage, &item, &w);
    if (w.length < 2 || w.at[0] != '@' || !read_worker(&worker, (qni_word){w.at + 1, w.length - 1}, r))
        return wanted(r, w, "@WORKER of the plan", err);
    while (qni_scan_word(&r->scan, &w)) {
        if (qni_word_is(w, "carried"))
            carried = true;
        else if (qni_word_is(w, "host"))
            host = true;
        else if (!(value_of(&v, w, "bytes") && qni_word_int(&bytes, v, 0, INT64_MAX / 4096)) &&
                 !(value_of(&v, w, "at") && qni_word_int(&at, v, 0, INT64_MAX / 4096)))
            return wanted(r, w, "bytes=N, at=N, carried or host", err);
    }
    if (r->b.values >= QNI_MAX_VALUES) return wanted(r, w, "fewer values", err);
    const int32_t id = qni_add_value(&r->b, cls, stage, item, worker, bytes);
    if (r->b.failed) return QN_FAIL(err, QN_ENOMEM, "reading a plan");
    r->b.value[id].offset = at;
    r->b.value[id].carried = carried;
    r->b.value[id].host = host;
    return QN_OK;
}

/* "3,4,5": adds a link for each. */
static bool read_list(plan_reader *r, int32_t task, qni_link_kind kind, qni_word v)
{
    while (v.length > 0) {
        const char *comma = memchr(v.at, ',', v.length);
        const size_t head = comma != NULL ? (size_t)(comma - v.at) : v.length;
        int64_t id;
        if (!qni_word_int(&id, (qni_word){v.at, head}, 0, r->b.values - 1)) return false;
        if (r->b.value[id].worker != r->b.task[task].worker && !r->b.value[id].host) return false;
        qni_add_link(&r->b, task, kind, (int32_t)id);
        if (comma == NULL) return !r->b.failed;
        v = (qni_word){comma + 1, v.length - head - 1};
    }
    return false; /* ends in a comma */
}

/* "recv:0,down@2:2" */
static bool read_waits(plan_reader *r, int32_t task, qni_word v)
{
    while (v.length > 0) {
        const char *comma = memchr(v.at, ',', v.length);
        const size_t head = comma != NULL ? (size_t)(comma - v.at) : v.length;
        const char *colon = memchr(v.at, ':', head);
        int64_t index;
        if (colon == NULL) return false;
        const char *at = memchr(v.at, '@', (size_t)(colon - v.at));
        const size_t name = (size_t)(colon - v.at), word = at != NULL ? (size_t)(at - v.at) : name;
        const int32_t lane = qni_word_find((qni_word){v.at, word}, qni_lane_name, QN_LANES);
        int32_t worker = r->b.task[task].worker;
        if (at != NULL && !read_worker(&worker, (qni_word){at + 1, name - word - 1}, r)) return false;
        if (lane == QN_NONE || !qni_word_int(&index, (qni_word){colon + 1, head - name - 1}, 0, QNI_MAX_TASKS)) return false;
        if (!qni_grow(&r->wait, &r->wait_cap, r->waits + 1, sizeof *r->wait)) {
            r->b.failed = true;
            return false;
        }
        r->wait[r->waits++] = (wait_note){task, worker, lane, (int32_t)index};
        if (comma == NULL) return true;
        v = (qni_word){comma + 1, v.length - head - 1};
    }
    return false;
}

static bool read_tag(uint64_t *out, qni_word w)
{
    uint64_t n = 0;
    for (size_t i = 0; i < w.length; i++) {
        if (w.at[i] < '0' || w.at[i] > '9') return false;
        if (__builtin_mul_overflow(n, (uint64_t)10, &n) || __builtin_add_overflow(n, (uint64_t)(w.at[i] - '0'), &n)) return false;
    }
    *out = n;
    return w.length > 0;
}

static qn_status read_keys(plan_reader *r, int32_t id, qn_err *err)
{
    static const char *const list[] = {"in", "out", "acc", "free"};
    qni_word w, v;
    while (qni_scan_word(&r->scan, &w)) {
        qn_task *t = &r->b.task[id];
        int64_t n;
        int32_t k = 0;
        bool good = false;
        while (k < 4 && !value_of(&v, w, list[k])) k++;
        if (k < 4) {
            good = read_list(r, id, (qni_link_kind)k, v);
        } else if (value_of(&v, w, "wait")) {
            good = read_waits(r, id, v);
        } else if (value_of(&v, w, "lane")) {
            t->lane = qni_word_find(v, qni_lane_name, QN_LANES);
            good = t->lane != QN_NONE;
        } else if (value_of(&v, w, "ch")) {
            good = qni_word_int(&n, v, 0, r->b.channels - 1);
            t->channel = good ? (int32_t)n : QN_NONE;
        } else if (value_of(&v, w, "step")) {
            good = qni_word_int(&n, v, 0, r->steps - 1);
            t->step = good ? (int32_t)n : 0;
        } else if (value_of(&v, w, "tag")) {
            good = read_tag(&t->tag, v);
        } else if (value_of(&v, w, "cost")) {
            good = qni_word_int(&t->cost, v, 0, INT32_MAX);
        }
        if (r->b.failed) return QN_FAIL(err, QN_ENOMEM, "reading a plan");
        if (!good)
            return wanted(r, w,
                          "lane=, step=, ch=, tag=, cost=, in=, out=, acc=, free= or wait= with things that stand above, on the "
                          "task's worker",
                          err);
    }
    return QN_OK;
}

/* "@1" or, for messages, "@0>1": the end at which the task stands. */
static qn_status read_at(plan_reader *r, int32_t op, int32_t cls, int32_t *worker, qn_channel *ends, qni_word w, qn_err *err)
{
    const qni_word rest = {w.at + 1, w.length - 1};
    if (w.length < 2 || w.at[0] != '@') return wanted(r, w, "@WORKER", err);
    if (cls == QN_NONE) return read_worker(worker, rest, r) ? QN_OK : wanted(r, w, "@WORKER of the plan", err);
    *ends = (qn_channel){.cls = cls};
    if (!read_ends(&ends->from, &ends->to, rest, r)) return wanted(r, w, "@FROM>TO with workers of the plan", err);
    *worker = op == QN_OP_SEND ? ends->from : ends->to;
    return QN_OK;
}

static qn_status read_task(plan_reader *r, int32_t op, qni_word line, qn_err *err)
{
    const bool message = op == QN_OP_SEND || op == QN_OP_RECV;
    int32_t cls = QN_NONE, stage, item, worker = 0;
    qn_channel ends = {0};
    qni_word w;
    qn_status st = QN_OK;
    if (message) {
        qni_scan_word(&r->scan, &w);
        cls = qni_word_find(w, qni_class_name, QN_VALUE_CLASSES);
        if (cls == QN_NONE) return wanted(r, w, "a class of values (act, grad, stat, tparam, tgrad, part)", err);
    }
    if (op == QN_OP_LOAD || op == QN_OP_OFFLOAD) { /* the class of its value; in= and out= say which */
        qni_scan_word(&r->scan, &w);
        if (qni_word_find(w, qni_class_name, QN_VALUE_CLASSES) == QN_NONE)
            return wanted(r, w, "a class of values (act, grad, param, pgrad)", err);
    }
    skip_place(&r->scan, &stage, &item, &w);
    QN_TRY(st, read_at(r, op, cls, &worker, &ends, w, err), out);
    if (r->b.tasks >= QNI_MAX_TASKS) return wanted(r, line, "at most 4000000 tasks", err);
    const int32_t id = qni_add_task(&r->b, op, stage, item, worker, usual_lane(op));
    if (r->b.failed) return QN_FAIL(err, QN_ENOMEM, "reading a plan");
    QN_TRY(st, read_keys(r, id, err), out);
    const int32_t channel = r->b.task[id].channel;
    if (message && channel == QN_NONE) return wanted(r, line, "a message with ch=CHANNEL", err);
    if (!message && channel != QN_NONE) return wanted(r, line, "ch= only in SEND and RECV", err);
    if (message &&
        (r->b.channel[channel].cls != cls || r->b.channel[channel].from != ends.from || r->b.channel[channel].to != ends.to))
        return wanted(r, line, "the class and ends of its channel", err);
out:
    return st;
}

static qn_status read_numbers_of_worker(plan_reader *r, int64_t *at, const char *what, qn_err *err)
{
    int64_t n[2];
    const qni_word w = {r->scan.at, 0};
    const qn_status st = qni_scan_numbers(&r->scan, n, 2, 0, INT64_MAX, what, err);
    if (st != QN_OK) return st;
    if (n[0] >= r->n.workers) return wanted(r, w, "a worker of the plan", err);
    at[n[0]] = n[1];
    return QN_OK;
}

static qn_status read_place(plan_reader *r, qn_err *err)
{
    int64_t n[2];
    const qni_word w = {r->scan.at, 0};
    const qn_status st = qni_scan_numbers(&r->scan, n, 2, 0, QNI_MAX_STAGES, "place STAGE WORKER", err);
    if (st != QN_OK) return st;
    if (n[0] >= r->n.stages || n[1] >= r->n.workers) return wanted(r, w, "a stage and a worker of the plan", err);
    r->worker_of[n[0]] = (int32_t)n[1];
    return QN_OK;
}

static qn_status read_backward(plan_reader *r, qn_err *err)
{
    int64_t n[2];
    const qni_word w = {r->scan.at, 0};
    const qn_status st = qni_scan_numbers(&r->scan, n, 2, 0, QNI_MAX_STAGES, "backward STAGE WORKER", err);
    if (st != QN_OK) return st;
    if (n[0] >= r->n.stages || n[1] >= r->n.workers) return wanted(r, w, "a stage and a worker of the plan", err);
    r->backward_of[n[0]] = (int32_t)n[1];
    r->split = true;
    return QN_OK;
}

static qn_status read_line(plan_reader *r, qn_err *err)
{
    qni_word w;
    qni_scan_word(&r->scan, &w);
    if (qni_word_is(w, "place")) return read_place(r, err);
    if (qni_word_is(w, "vocabulary")) return qni_scan_vocabulary(&r->scan, &r->sides, &r->vocab, r->n.stages, err);
    if (qni_word_is(w, "columns")) return qni_scan_grid_number(&r->scan, &r->columns, r->n.stages, "columns N", err);
    if (qni_word_is(w, "shards")) return qni_scan_grid_number(&r->scan, &r->shards, r->n.stages, "shards N", err);
    if (qni_word_is(w, "steps")) return qni_scan_grid_number(&r->scan, &r->steps, QN_MAX_STEPS, "steps N", err);
    if (qni_word_is(w, "cursor")) return qni_scan_cursor(&r->scan, &r->turn, &r->round, r->n.workers, err);
    if (qni_word_is(w, "backward")) return read_backward(r, err);
    if (qni_word_is(w, "arena")) return read_numbers_of_worker(r, r->arena, "arena WORKER BYTES", err);
    if (qni_word_is(w, "limit")) return read_numbers_of_worker(r, r->limit, "limit WORKER BYTES", err);
    if (qni_word_is(w, "channel")) return read_channel(r, err);
    if (qni_word_is(w, "value")) return read_value(r, err);
    const int32_t op = qni_word_find(w, qni_op_name, QN_OPS);
    return op != QN_NONE
               ? read_task(r, op, w, err)
               : wanted(r, w,
                        "a task or columns, shards, vocabulary, steps, cursor, place, backward, arena, limit, channel, value",
                        err);
}

/* Waits for tasks of other workers become links: where a lane's task stands is known only once the plan is laid out. */
static qn_status link_foreign_waits(plan_reader *r, const int32_t *place, qn_err *err)
{
    qn_plan *p = NULL;
    qn_status st = QN_OK;
    int32_t *made = NULL; /* [tasks]: the builder's number of a plan's task */
    int32_t foreign = 0;
    for (int32_t i = 0; i < r->waits; i++) foreign += r->wait[i].worker != r->b.task[r->wait[i].task].worker;
    if (foreign == 0) return QN_OK;
    made = qn_malloc((size_t)r->b.tasks, sizeof *made);
    if (made == NULL) return QN_FAIL(err, QN_ENOMEM, "plan of %d tasks", r->b.tasks);
    QN_TRY(st, qni_builder_plan(&p, &r->b, r->n.workers, r->n.stages, r->n.items, r->worker_of, NULL, err), out);
    QN_TRY(st, qn_plan_finish(p, err), out);
    for (int32_t t = 0; t < r->b.tasks; t++) made[place[t]] = t;
    for (int32_t i = 0; i < r->waits; i++) {
        const wait_note *n = &r->wait[i];
        if (n->worker == r->b.task[n->task].worker) continue;
        if (n->index >= p->lane[n->worker][n->lane][1]) {
            st = QN_FAIL(err, QN_EFORMAT, "a task of worker %d waits for %s@%d:%d, which is not there", r->b.task[n->task].worker,
                         qni_lane_name(n->lane), n->worker, n->index);
            goto out;
        }
        qni_add_link(&r->b, n->task, QNI_WAIT, made[p->lane[n->worker][n->lane][0] + n->index]);
    }
    if (r->b.failed) st = QN_FAIL(err, QN_ENOMEM, "reading a plan");
out:
    qn_plan_close(p);
    qn_free(made);
    return st;
}

/* The plan, finished, with the waits that the text names. */
static qn_status build(qn_plan **out, plan_reader *r, qn_err *err)
{
    qn_plan *p = NULL;
    int32_t *place = qn_malloc((size_t)r->b.tasks, sizeof *place);
    int32_t(*extra)[QN_LANES] = qn_malloc((size_t)r->b.tasks, sizeof *extra);
    qn_status st = QN_OK;
    if (place == NULL || extra == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "plan of %d tasks", r->b.tasks);
        goto out;
    }
    QN_TRY(st, qni_builder_plan(&p, &r->b, r->n.workers, r->n.stages, r->n.items, r->worker_of, place, err), out);
    QN_TRY(st, link_foreign_waits(r, place, err), out);
    qn_plan_close(p);
    p = NULL;
    QN_TRY(st, qni_builder_plan(&p, &r->b, r->n.workers, r->n.stages, r->n.items, r->worker_of, place, err), out);
    for (int32_t s = 0; r->split && s < p->stages; s++)
        if (r->backward_of[s] == QN_NONE) r->backward_of[s] = p->worker_of[s];
    if (r->split) {
        p->backward_of = r->backward_of;
        r->backward_of = NULL;
    }
    p->columns = r->columns;
    p->sides = r->sides;
    p->turn = r->turn;
    p->round = r->round;
    p->vocab = r->vocab;
    p->shards = r->shards;
    p->steps = r->steps;
    QN_TRY(st, qni_check_grid(qn_plan_grid(p), err), out);
    QN_TRY(st, qni_check_algorithm(qn_plan_grid(p), p->vocab, err), out);
    QN_TRY(st, qn_plan_finish(p, err), out);
    memcpy(p->arena_bytes, r->arena, (size_t)p->workers * sizeof *p->arena_bytes);
    memcpy(p->arena_limit, r->limit, (size_t)p->workers * sizeof *p->arena_limit);
    memset(extra, 0xff, (size_t)p->tasks * sizeof *extra);
    for (int32_t i = 0; i < r->waits; i++) {
        const int32_t t = place[r->wait[i].task], w = r->wait[i].worker, lane = r->wait[i].lane;
        char name[QNI_NAME];
        if ((w == p->task[t].worker && lane == p->task[t].lane) || r->wait[i].index >= p->lane[w][lane][1]) {
            st = QN_FAIL(err, QN_EFORMAT, "%s waits for %s:%d of worker %d, which is not on another lane",
                         qn_task_text(name, sizeof name, p, t), qni_lane_name(lane), r->wait[i].index, w);
            goto out;
        }
        if (w == p->task[t].worker) extra[t][lane] = qn_max32(extra[t][lane], r->wait[i].index);
    }
    QN_TRY(st, qni_plan_finish(p, (const int32_t(*)[QN_LANES])extra, err), out);
    *out = p;
    p = NULL;
out:
    qn_plan_close(p);
    qn_free(place);
    qn_free(extra);
    return st;
}

qn_status qn_plan_read(qn_plan **out, const char *text, size_t bytes, qn_err *err)
{
    plan_reader r = {.scan = qni_scan_of(text, bytes), .columns = 1, .shards = 1, .steps = 1};
    qn_status st = QN_OK;
    QN_TRY(st, qni_scan_head(&r.scan, "quern-plan", &r.n, err), out);
    r.worker_of = qn_malloc((size_t)r.n.stages, sizeof *r.worker_of);
    r.backward_of = qn_malloc((size_t)r.n.stages, sizeof *r.backward_of);
    r.arena = qn_calloc((size_t)r.n.workers, sizeof *r.arena);
    r.limit = qn_malloc((size_t)r.n.workers, sizeof *r.limit);
    if (r.worker_of == NULL || r.backward_of == NULL || r.arena == NULL || r.limit == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "reading a plan");
        goto out;
    }
    for (int32_t s = 0; s < r.n.stages; s++) {
        r.worker_of[s] = s % r.n.workers;
        r.backward_of[s] = QN_NONE;
    }
    for (int32_t w = 0; w < r.n.workers; w++) r.limit[w] = INT64_MAX;
    while (qni_scan_line(&r.scan)) QN_TRY(st, read_line(&r, err), out);
    QN_TRY(st, build(out, &r, err), out);
out:
    qn_free(r.worker_of);
    qn_free(r.backward_of);
    qn_free(r.arena);
    qn_free(r.limit);
    qn_free(r.wait);
    qni_builder_fini(&r.b);
    return st;
}
