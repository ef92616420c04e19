/* The builder and qn_plan_finish.
 *
 *   added in any order            plan
 *   tasks (worker, lane, key)  ->  task[] grouped by worker, then lane, in lane order
 *   links (task, kind, id)     ->  ref[], one run of ids per task and kind
 *
 * finish derives what a lane must wait for on the other lanes of its worker. Lanes complete in order, so the last task of each
 * other lane is enough, and none is written down that an earlier task of the same lane has waited for already: at most one wait
 * per other lane. The writers of host copies, and tasks named outright, may be on other workers. */
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/schedule_internal.h"

void qni_builder_fini(qni_builder *b)
{
    qn_free(b->task);
    qn_free(b->key);
    qn_free(b->value);
    qn_free(b->channel);
    qn_free(b->link);
    *b = (qni_builder){0};
}

static bool room(qni_builder *b, void *p, int32_t *cap, int32_t used, size_t size)
{
    if (!b->failed && (used == INT32_MAX || !qni_grow(p, cap, used + 1, size))) b->failed = true;
    return !b->failed;
}

int32_t qni_add_task(qni_builder *b, int32_t op, int32_t stage, int32_t item, int32_t worker, int32_t lane)
{
    if (!room(b, &b->task, &b->task_cap, b->tasks, sizeof *b->task) || !room(b, &b->key, &b->key_cap, b->tasks, sizeof *b->key))
        return 0;
    b->task[b->tasks] = (qn_task){.op = op, .stage = stage, .item = item, .worker = worker, .lane = lane, .channel = QN_NONE};
    b->key[b->tasks] = 0;
    return b->tasks++;
}

int32_t qni_add_value(qni_builder *b, int32_t cls, int32_t stage, int32_t item, int32_t worker, int64_t bytes)
{
    if (!room(b, &b->value, &b->value_cap, b->values, sizeof *b->value)) return 0;
    b->value[b->values] =
        (qn_value){.cls = cls, .stage = stage, .item = item, .worker = worker, .bytes = bytes, .offset = QN_NONE};
    return b->values++;
}

int32_t qni_add_channel(qni_builder *b, qn_channel c)
{
    if (!room(b, &b->channel, &b->channel_cap, b->channels, sizeof *b->channel)) return 0;
    b->channel[b->channels] = c;
    return b->channels++;
}

void qni_add_link(qni_builder *b, int32_t task, qni_link_kind kind, int32_t id)
{
    if (!room(b, &b->link, &b->link_cap, b->links, sizeof *b->link)) return;
    b->link[b->links++] = (qni_link){.task = task, .kind = (int32_t)kind, .id = id};
}

typedef struct place {
    int32_t group, id; /* group: worker * QN_LANES + lane */
    int64_t key;
} place;

static int by_place(const void *pa, const void *pb)
{
    const place *a = pa, *b = pb;
    if (a->group != b->group) return a->group < b->group ? -1 : 1;
    if (a->key != b->key) return a->key < b->key ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

static qn_span *span_of(qn_task *t, int32_t kind)
{
    qn_span *const span[QNI_LINK_KINDS] = {&t->in, &t->out, &t->acc, &t->free, &t->wait};
    return span[kind];
}

/* Counting sort of the links by task and kind; where[] is the plan's index of each added task. */
static void lay_links(qn_plan *p, const qni_builder *b, const int32_t *where)
{
    for (int32_t i = 0; i < b->links; i++) span_of(&p->task[where[b->link[i].task]], b->link[i].kind)->count++;
    int32_t at = 0;
    for (int32_t t = 0; t < p->tasks; t++) {
        for (int32_t k = 0; k < QNI_LINK_KINDS; k++) {
            qn_span *s = span_of(&p->task[t], k);
            s->first = at;
            at += s->count;
            s->count = 0;
        }
    }
    for (int32_t i = 0; i < b->links; i++) {
        const qni_link *l = &b->link[i];
        qn_span *s = span_of(&p->task[where[l->task]], l->kind);
        p->ref[s->first + s->count++] = l->kind == QNI_WAIT ? where[l->id] : l->id;
    }
}

/* An empty plan with room for everything; NULL when out of memory. */
static qn_plan *plan_room(const qni_builder *b, int32_t workers, int32_t stages, int32_t items)
{
    qn_plan *p = qn_calloc(1, sizeof *p);
    if (p == NULL) return NULL;
    *p = (qn_plan){.workers = workers,
                   .stages = stages,
                   .items = items,
                   .columns = 1,
                   .shards = 1,
                   .steps = 1,
                   .tasks = b->tasks,
                   .values = b->values,
                   .channels = b->channels,
                   .refs = b->links};
    p->worker_of = qn_calloc((size_t)stages, sizeof *p->worker_of);
    p->task = qn_calloc((size_t)b->tasks, sizeof *p->task);
    p->lane = qn_calloc((size_t)workers, sizeof *p->lane);
    p->value = qn_calloc((size_t)b->values, sizeof *p->value);
    p->channel = qn_calloc((size_t)b->channels, sizeof *p->channel);
    p->ref = qn_calloc((size_t)b->links, sizeof *p->ref);
    p->arena_bytes = qn_calloc((size_t)workers, sizeof *p->arena_bytes);
    p->arena_limit = qn_calloc((size_t)workers, sizeof *p->arena_limit);
    if (p->worker_of != NULL && p->task != NULL && p->lane != NULL && p->value != NULL && p->channel != NULL && p->ref != NULL &&
        p->arena_bytes != NULL && p->arena_limit != NULL)
        return p;
    qn_plan_close(p);
    return NULL;
}

qn_status qni_builder_plan(qn_plan **out, const qni_builder *b, int32_t workers, int32_t stages, int32_t items,
                           const int32_t *worker_of, int32_t *at, qn_err *err)
{
    if (b->failed) return QN_FAIL(err, QN_ENOMEM, "plan of %d tasks", b->tasks);
    qn_plan *p = plan_room(b, workers, stages, items);
    place *sorted = qn_calloc((size_t)b->tasks, sizeof *sorted);
    int32_t *where = qn_calloc((size_t)b->tasks, sizeof *where);
    qn_status st = QN_OK;
    if (p == NULL || sorted == NULL || where == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "plan of %d tasks", b->tasks);
        goto out;
    }
    for (int32_t t = 0; t < b->tasks; t++) sorted[t] = (place){b->task[t].worker * QN_LANES + b->task[t].lane, t, b->key[t]};
    qsort(sorted, (size_t)b->tasks, sizeof *sorted, by_place);
    for (int32_t t = 0; t < b->tasks; t++) {
        where[sorted[t].id] = t;
        p->task[t] = b->task[sorted[t].id];
    }
    for (int32_t v = 0; v < b->values; v++) p->value[v] = b->value[v];
    for (int32_t c = 0; c < b->channels; c++) p->channel[c] = b->channel[c];
    for (int32_t s = 0; s < stages; s++) p->worker_of[s] = worker_of[s];
    for (int32_t w = 0; w < workers; w++) p->arena_limit[w] = INT64_MAX;
    lay_links(p, b, where);
    for (int32_t t = 0; at != NULL && t < b->tasks; t++) at[t] = where[t];
    *out = p;
    p = NULL;
out:
    qn_free(where);
    qn_free(sorted);
    qn_plan_close(p);
    return st;
}

/* ---- finish */

static qn_status fill_lanes(qn_plan *p, qn_err *err)
{
    for (int32_t w = 0; w < p->workers; w++) memset(p->lane[w], 0, sizeof p->lane[w]);
    int32_t group = -1;
    for (int32_t t = 0; t < p->tasks; t++) {
        const qn_task *task = &p->task[t];
        char name[QNI_NAME];
        if (task->worker < 0 || task->worker >= p->workers || task->lane < 0 || task->lane >= QN_LANES)
            return QN_FAIL(err, QN_ESCHEDULE, "%s is on worker %d, lane %d; the plan has %d workers and %d lanes each",
                           qn_task_text(name, sizeof name, p, t), task->worker, task->lane, p->workers, QN_LANES);
        const int32_t g = task->worker * QN_LANES + task->lane;
        if (g < group)
            return QN_FAIL(err, QN_ESCHEDULE, "%s stands out of place: tasks are grouped by worker, then lane",
                           qn_task_text(name, sizeof name, p, t));
        if (g != group) p->lane[task->worker][task->lane][0] = t;
        p->lane[task->worker][task->lane][1]++;
        group = g;
    }
    int32_t next = 0; /* empty lanes start where the next one does */
    for (int32_t w = 0; w < p->workers; w++) {
        for (int32_t l = 0; l < QN_LANES; l++) {
            p->lane[w][l][0] = next;
            next += p->lane[w][l][1];
        }
    }
    return QN_OK;
}

/* Per value the last task of each lane of its worker that writes or adds to it, and that touches it at all: indices in the lanes.
 * writer: of a host copy, the task that writes it, on whatever worker. */
typedef struct use_marks {
    int32_t write[QN_LANES], touch[QN_LANES], writer;
} use_marks;

static qn_status mark_host(use_marks *mark, const qn_plan *p, int32_t t, int32_t v, bool write, qn_err *err)
{
    char a[QNI_NAME], b[QNI_NAME], c[QNI_NAME];
    if (!write) return QN_OK;
    if (mark[v].writer != QN_NONE)
        return QN_FAIL(err, QN_ESCHEDULE, "%s is written twice: by %s and by %s", qni_value_text(c, sizeof c, p, v),
                       qn_task_text(a, sizeof a, p, mark[v].writer), qn_task_text(b, sizeof b, p, t));
    mark[v].writer = t;
    return QN_OK;
}

static qn_status mark_uses(use_marks *mark, const qn_plan *p, qn_err *err)
{
    memset(mark, 0xff, (size_t)p->values * sizeof *mark); /* QN_NONE everywhere */
    for (int32_t t = 0; t < p->tasks; t++) {
        const qn_task *task = &p->task[t];
        const int32_t index = qni_lane_index(p, qn_joint_last(p, t)); /* joint work happens when its last member runs */
        const qn_span span[] = {task->in, task->out, task->acc, task->free};
        for (int32_t k = 0; k < 4; k++) {
            for (int32_t i = 0; i < span[k].count; i++) {
                const int32_t v = p->ref[span[k].first + i];
                char name[QNI_NAME];
                if (v >= 0 && v < p->values && p->value[v].host) {
                    const qn_status st = mark_host(mark, p, t, v, k == 1 || k == 2, err);
                    if (st != QN_OK) return st;
                    continue;
                }
                if (v < 0 || v >= p->values || p->value[v].worker != task->worker)
                    return QN_FAIL(err, QN_ESCHEDULE, "%s names value %d, which is not on worker %d",
                                   qn_task_text(name, sizeof name, p, t), v, task->worker);
                if (k == 1 || k == 2) mark[v].write[task->lane] = index;
                if (k != 3) mark[v].touch[task->lane] = index;
            }
        }
    }
    return QN_OK;
}

/* What one lane has waited for so far, by lane of all workers (qni_lane_of); stamps tell which lane's turn it was. */
typedef struct seen_table {
    int32_t *index, *stamp, turn;
} seen_table;

static int32_t *seen_at(const seen_table *s, int32_t lane)
{
    if (s->stamp[lane] != s->turn) {
        s->stamp[lane] = s->turn;
        s->index[lane] = QN_NONE;
    }
    return &s->index[lane];
}

static void raise_to(int32_t need[QN_LANES], const int32_t from[QN_LANES])
{
    for (int32_t l = 0; l < QN_LANES; l++) need[l] = qn_max32(need[l], from[l]);
}

/* Task t needs task other: noted per lane of its own worker, written down at once where other is elsewhere. */
static void need_task(int32_t need[QN_LANES], int32_t *far, int32_t *fars, const seen_table *seen, const qn_plan *p, int32_t t,
                      int32_t other)
{
    const int32_t index = qni_lane_index(p, other);
    if (p->task[other].worker == p->task[t].worker) {
        need[p->task[other].lane] = qn_max32(need[p->task[other].lane], index);
        return;
    }
    int32_t *s = seen_at(seen, qni_lane_of(p, other));
    if (index <= *s) return;
    *s = index;
    far[(*fars)++] = other;
}

/* What task t must see complete: as an index per lane of its worker, and as tasks of other workers in far. */
static qn_status wait_of(int32_t need[QN_LANES], int32_t *far, int32_t *fars, const seen_table *seen, const qn_plan *p,
                         const use_marks *mark, int32_t t, qn_err *err)
{
    const qn_task *task = &p->task[t];
    for (int32_t i = 0; i < task->in.count; i++) {
        const int32_t v = p->ref[task->in.first + i];
        raise_to(need, mark[v].write);
        if (mark[v].writer != QN_NONE && mark[v].writer != t) need_task(need, far, fars, seen, p, t, mark[v].writer);
    }
    for (int32_t i = 0; i < task->free.count; i++) raise_to(need, mark[p->ref[task->free.first + i]].touch);
    for (int32_t i = 0; i < task->wait.count; i++) {
        const int32_t other = p->ref[task->wait.first + i];
        char name[QNI_NAME];
        if (other < 0 || other >= p->tasks)
            return QN_FAIL(err, QN_ESCHEDULE, "%s waits for task %d; there are %d", qn_task_text(name, sizeof name, p, t), other,
                           p->tasks);
        if (qni_lane_of(p, other) == qni_lane_of(p, t) && other >= t)
            return QN_FAIL(err, QN_ESCHEDULE, "%s waits for a later task of its own lane", qn_task_text(name, sizeof name, p, t));
        need_task(need, far, fars, seen, p, t, other);
    }
    return QN_OK;
}

qn_status qni_plan_finish(qn_plan *p, const int32_t (*extra)[QN_LANES], qn_err *err)
{
    qn_status st = QN_OK;
    use_marks *mark = qn_malloc((size_t)p->values, sizeof *mark);
    int32_t *ref = qn_malloc(2 * (size_t)p->refs + (size_t)p->tasks * (QN_LANES - 1), sizeof *ref);
    int32_t *far = qn_malloc((size_t)p->refs, sizeof *far); /* one task's waits for other workers */
    int32_t used = 0;
    const size_t lanes = (size_t)p->workers * QN_LANES;
    seen_table seen = {.index = qn_calloc(lanes, sizeof *seen.index), .stamp = qn_calloc(lanes, sizeof *seen.stamp)};
    if (mark == NULL || ref == NULL || far == NULL || seen.index == NULL || seen.stamp == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "waits of %d tasks", p->tasks);
        goto out;
    }
    QN_TRY(st, fill_lanes(p, err), out);
    QN_TRY(st, mark_uses(mark, p, err), out);
    for (int32_t t = 0; t < p->tasks; t++) {
        qn_task *task = &p->task[t];
        int32_t need[QN_LANES];
        memset(need, 0xff, sizeof need); /* QN_NONE */
        if (qni_lane_index(p, t) == 0) seen.turn++;
        int32_t fars = 0;
        QN_TRY(st, wait_of(need, far, &fars, &seen, p, mark, t, err), out);
        if (extra != NULL) raise_to(need, extra[t]);
        for (int32_t k = 0; k < QNI_WAIT; k++) {
            qn_span *s = span_of(task, k);
            memcpy(ref + used, p->ref + s->first, (size_t)s->count * sizeof *ref);
            s->first = used;
            used += s->count;
        }
        const int32_t first = used;
        for (int32_t i = 0; i < fars; i++) ref[used++] = far[i];
        for (int32_t l = 0; l < QN_LANES; l++) {
            int32_t *s = seen_at(&seen, task->worker * QN_LANES + l);
            if (l == task->lane || need[l] <= *s) continue;
            *s = need[l];
            ref[used++] = p->lane[task->worker][l][0] + need[l];
        }
        task->wait = (qn_span){first, used - first};
    }
    qn_free(p->ref);
    p->ref = ref;
    p->refs = used;
    ref = NULL;
out:
    qn_free(seen.index);
    qn_free(seen.stamp);
    qn_free(far);
    qn_free(ref);
    qn_free(mark);
    return st;
}

qn_status qn_plan_finish(qn_plan *p, qn_err *err)
{
    return qni_plan_finish(p, NULL, err);
}
