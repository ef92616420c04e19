/* Orders as text.
 *
 *   quern-order 1
 *   workers 2
 *   stages 2
 *   items 4
 *   columns 4                 copies of the chain: the stages of column c are c * depth onwards   (both left out: 1)
 *   shards 2                  columns that share the layers of one replica
 *   vocabulary 2 1            the last 2 stages are vocabulary shards, algorithm 1 (VI, VS, VT, VJ; else none)
 *   place 1 1                 stage, worker; without it a stage lives where its first task stands
 *   cursor 1 8                after each round of 8 micro-batches (0: after the step) everything goes on by 1 worker
 *   backward 1 0              stage, worker of its R, B, W and BW where that is another one
 *   memory 0 1000000          worker, bytes of its arena                         (may be left out, as all below)
 *   size act 1 4096           act | stash | wstash, stage, bytes
 *   cost BW 2                 ticks of one task
 *   F 0.0 @0                  op, stage.item, worker; in the order in which the worker does them. '&' behind it:
 *                             an overlap pair with the worker's next task */
#include "schedule_text.h"

#include <string.h>

#include "core/alloc.h"
#include "text_scan.h"

static const char *const size_name[] = {"act", "stash", "wstash"};

static void add_sizes(qni_text *t, const qn_order *o)
{
    const int64_t *const size[] = {o->act_bytes, o->stash_bytes, o->wstash_bytes};
    for (int32_t w = 0; o->arena_limit != NULL && w < o->workers; w++) {
        if (o->arena_limit[w] != INT64_MAX) qni_text_add(t, "memory %d %lld\n", w, (long long)o->arena_limit[w]);
    }
    for (int32_t k = 0; k < 3; k++) {
        for (int32_t s = 0; size[k] != NULL && s < o->stages; s++)
            qni_text_add(t, "size %s %d %lld\n", size_name[k], s, (long long)size[k][s]);
    }
    for (int32_t op = 0; op < QN_OPS; op++) {
        if (o->cost[op] >= 0) qni_text_add(t, "cost %s %lld\n", qni_op_name(op), (long long)o->cost[op]);
    }
}

qn_status qn_order_write(char **out, const qn_order *o, qn_err *err)
{
    qni_text t = {0};
    qni_text_add(&t, "quern-order 1\nworkers %d\nstages %d\nitems %d\n", o->workers, o->stages, o->items);
    if (o->columns > 1) qni_text_add(&t, "columns %d\n", o->columns);
    if (o->shards > 1) qni_text_add(&t, "shards %d\n", o->shards);
    if (o->turn > 0) qni_text_add(&t, "cursor %d %d\n", o->turn, o->round);
    if (o->sides > 0) qni_text_add(&t, "vocabulary %d %d\n", o->sides, o->vocab);
    for (int32_t s = 0; s < o->stages; s++) qni_text_add(&t, "place %d %d\n", s, o->worker_of[s]);
    for (int32_t s = 0; o->backward_of != NULL && s < o->stages; s++) {
        if (o->backward_of[s] != o->worker_of[s]) qni_text_add(&t, "backward %d %d\n", s, o->backward_of[s]);
    }
    add_sizes(&t, o);
    for (int32_t w = 0; w < o->workers; w++) {
        for (int32_t i = 0; i < o->count[w]; i++) {
            const qn_order_task *x = &o->task[w][i];
            qni_text_add(&t, "%s %d.%d @%d%s\n", qni_op_name(x->op), x->stage, x->item, w, x->pair ? " &" : "");
        }
    }
    return qni_text_done(out, &t, err);
}

typedef struct order_reader {
    qni_scan scan;
    qn_order *order;
    bool *placed;      /* [stages] */
    int32_t *backward; /* [stages], QN_NONE: where the stage lives */
    bool split;        /* any is given */
    int64_t tasks;
} order_reader;

static qn_status read_place(order_reader *r, qn_err *err)
{
    int64_t n[2];
    const qni_word w = {r->scan.at, 0};
    qn_status st = qni_scan_numbers(&r->scan, n, 2, 0, QNI_MAX_STAGES, "place STAGE WORKER", err);
    if (st != QN_OK) return st;
    if (n[0] >= r->order->stages || n[1] >= r->order->workers)
        return QNI_SCAN_FAIL(err, &r->scan, w, "place %lld %lld: there are %d stages and %d workers, counted from 0",
                             (long long)n[0], (long long)n[1], r->order->stages, r->order->workers);
    r->order->worker_of[n[0]] = (int32_t)n[1];
    r->placed[n[0]] = true;
    return QN_OK;
}

static qn_status read_columns(order_reader *r, qn_err *err)
{
    return qni_scan_grid_number(&r->scan, &r->order->columns, r->order->stages, "columns N, at most as many as stages", err);
}

static qn_status read_shards(order_reader *r, qn_err *err)
{
    return qni_scan_grid_number(&r->scan, &r->order->shards, r->order->stages, "shards N, at most as many as stages", err);
}

static qn_status read_backward(order_reader *r, qn_err *err)
{
    int64_t n[2];
    const qni_word w = {r->scan.at, 0};
    qn_status st = qni_scan_numbers(&r->scan, n, 2, 0, QNI_MAX_STAGES, "backward STAGE WORKER", err);
    if (st != QN_OK) return st;
    if (n[0] >= r->order->stages || n[1] >= r->order->workers)
        return QNI_SCAN_FAIL(err, &r->scan, w, "backward %lld %lld: there are %d stages and %d workers, counted from 0",
                             (long long)n[0], (long long)n[1], r->order->stages, r->order->workers);
    r->backward[n[0]] = (int32_t)n[1];
    r->split = true;
    return QN_OK;
}

/* The table of backward workers, when a line asked for one. */
static qn_status take_backward(order_reader *r, qn_err *err)
{
    if (!r->split) return QN_OK;
    qn_status st = qn_order_split_backward(r->order, err);
    for (int32_t s = 0; st == QN_OK && s < r->order->stages; s++) {
        if (r->backward[s] != QN_NONE) r->order->backward_of[s] = r->backward[s];
    }
    return st;
}

static qn_status read_memory(order_reader *r, qn_err *err)
{
    int64_t n[2];
    qn_order *o = r->order;
    const qni_word w = {r->scan.at, 0};
    qn_status st = qni_scan_numbers(&r->scan, n, 2, 0, INT64_MAX, "memory WORKER BYTES", err);
    if (st != QN_OK) return st;
    if (n[0] >= o->workers)
        return QNI_SCAN_FAIL(err, &r->scan, w, "worker %lld: there are %d, counted from 0", (long long)n[0], o->workers);
    if (o->arena_limit == NULL) {
        o->arena_limit = qn_malloc((size_t)o->workers, sizeof *o->arena_limit);
        if (o->arena_limit == NULL) return QN_FAIL(err, QN_ENOMEM, "order of %d workers", o->workers);
        for (int32_t i = 0; i < o->workers; i++) o->arena_limit[i] = INT64_MAX;
    }
    o->arena_limit[n[0]] = n[1];
    return QN_OK;
}

static qn_status read_size(order_reader *r, qn_err *err)
{
    qn_order *o = r->order;
    int64_t **const size[] = {&o->act_bytes, &o->stash_bytes, &o->wstash_bytes};
    int64_t n[2];
    int32_t k = 0;
    qni_word w;
    char show[40];
    qni_scan_word(&r->scan, &w);
    while (k < 3 && !qni_word_is(w, size_name[k])) k++;
    if (k == 3) return QNI_SCAN_FAIL(err, &r->scan, w, "'%s' found, act, stash or wstash wanted", qni_word_show(show, w));
    qn_status st = qni_scan_numbers(&r->scan, n, 2, 0, INT64_MAX / 4096, "size CLASS STAGE BYTES", err);
    if (st != QN_OK) return st;
    if (n[0] >= o->stages)
        return QNI_SCAN_FAIL(err, &r->scan, w, "stage %lld: there are %d, counted from 0", (long long)n[0], o->stages);
    if (*size[k] == NULL) {
        *size[k] = qn_malloc((size_t)o->stages, sizeof **size[k]);
        if (*size[k] == NULL) return QN_FAIL(err, QN_ENOMEM, "order of %d stages", o->stages);
        for (int32_t s = 0; s < o->stages; s++) (*size[k])[s] = 1;
    }
    (*size[k])[n[0]] = n[1];
    return QN_OK;
}

static qn_status read_cost(order_reader *r, qn_err *err)
{
    qni_word w;
    char show[40];
    qni_scan_word(&r->scan, &w);
    const int32_t op = qni_word_find(w, qni_op_name, QN_OPS);
    if (op == QN_NONE)
        return QNI_SCAN_FAIL(err, &r->scan, w, "'%s' is no kind of task; F, B, W, BW, R and others are", qni_word_show(show, w));
    return qni_scan_numbers(&r->scan, &r->order->cost[op], 1, 0, INT32_MAX, "cost OP TICKS", err);
}

static qn_status read_task(order_reader *r, int32_t op, qn_err *err)
{
    qni_word w;
    char show[40];
    int32_t stage, item;
    int64_t worker;
    qn_order *o = r->order;
    qni_scan_word(&r->scan, &w);
    if (!qni_word_place(&stage, &item, w) || item == QN_NONE)
        return QNI_SCAN_FAIL(err, &r->scan, w, "'%s' found, STAGE.ITEM wanted, such as 2.0", qni_word_show(show, w));
    if (stage >= o->stages || item >= o->items)
        return QNI_SCAN_FAIL(err, &r->scan, w, "%d.%d: there are %d stages and %d micro-batches, counted from 0", stage, item,
                             o->stages, o->items);
    qni_scan_word(&r->scan, &w);
    if (w.length < 2 || w.at[0] != '@' || !qni_word_int(&worker, (qni_word){w.at + 1, w.length - 1}, 0, o->workers - 1))
        return QNI_SCAN_FAIL(err, &r->scan, w, "'%s' found, @WORKER wanted with a worker from 0 to %d", qni_word_show(show, w),
                             o->workers - 1);
    if (++r->tasks > QNI_MAX_TASKS) return QNI_SCAN_FAIL(err, &r->scan, w, "more than %d tasks", QNI_MAX_TASKS);
    if (!r->placed[stage]) o->worker_of[stage] = (int32_t)worker;
    r->placed[stage] = true;
    qn_order_push(o, (int32_t)worker, (qn_op)op, stage, item);
    const char *at = r->scan.at;
    const bool pair = qni_scan_word(&r->scan, &w) && qni_word_is(w, "&");
    if (pair && !o->failed) o->task[worker][o->count[worker] - 1].pair = 1;
    if (!pair) r->scan.at = at;
    return qni_scan_line_end(&r->scan, err);
}

static qn_status read_vocabulary(order_reader *r, qn_err *err)
{
    return qni_scan_vocabulary(&r->scan, &r->order->sides, &r->order->vocab, r->order->stages, err);
}

static qn_status read_cursor(order_reader *r, qn_err *err)
{
    return qni_scan_cursor(&r->scan, &r->order->turn, &r->order->round, r->order->workers, err);
}

static qn_status read_line(order_reader *r, qn_err *err)
{
    static const struct {
        const char *key;
        qn_status (*read)(order_reader *r, qn_err *err);
    } line[] = {{"place", read_place},  {"backward", read_backward}, {"memory", read_memory}, {"size", read_size},
                {"cost", read_cost},    {"columns", read_columns},   {"shards", read_shards}, {"vocabulary", read_vocabulary},
                {"cursor", read_cursor}};
    qni_word w;
    char show[40];
    qni_scan_word(&r->scan, &w);
    for (size_t i = 0; i < sizeof line / sizeof line[0]; i++) {
        if (qni_word_is(w, line[i].key)) return line[i].read(r, err);
    }
    const int32_t op = qni_word_find(w, qni_op_name, QN_OP_VJ + 1);
    if (op == QN_NONE)
        return QNI_SCAN_FAIL(err, &r->scan, w,
                             "'%s' found; a task (F, B, W, BW, R) or columns, shards, vocabulary, cursor, place, backward, "
                             "memory, size, cost wanted",
                             qni_word_show(show, w));
    return read_task(r, op, err);
}

static qn_status read_order_text(qn_order **out, const char *text, size_t bytes, qn_err *err)
{
    order_reader r = {.scan = qni_scan_of(text, bytes)};
    qni_sizes n;
    qn_status st = QN_OK;
    QN_TRY(st, qni_scan_head(&r.scan, "quern-order", &n, err), out);
    QN_TRY(st, qn_order_open(&r.order, n.workers, n.stages, n.items, err), out);
    r.placed = qn_calloc((size_t)n.stages, sizeof *r.placed);
    r.backward = qn_malloc((size_t)n.stages, sizeof *r.backward);
    if (r.placed == NULL || r.backward == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "order of %d stages", n.stages);
        goto out;
    }
    memset(r.backward, 0xff, (size_t)n.stages * sizeof *r.backward);
    while (qni_scan_line(&r.scan)) QN_TRY(st, read_line(&r, err), out);
    QN_TRY(st, qni_check_grid(qn_order_grid(r.order), err), out);
    QN_TRY(st, qni_check_algorithm(qn_order_grid(r.order), r.order->vocab, err), out);
    QN_TRY(st, take_backward(&r, err), out);
    QN_TRY(st, qn_order_done(r.order, err), out);
    *out = r.order;
    r.order = NULL;
out:
    qn_free(r.placed);
    qn_free(r.backward);
    qn_order_close(r.order);
    return st;
}

/* ---- which form */

qn_schedule_form qn_schedule_form_of(const char *text, size_t bytes)
{
    qni_scan s = qni_scan_of(text, bytes);
    qni_word w;
    if (!qni_scan_line(&s) || !qni_scan_word(&s, &w)) return QN_FORM_UNKNOWN;
    if (qni_word_is(w, "quern-order")) return QN_FORM_ORDER;
    if (qni_word_is(w, "quern-plan")) return QN_FORM_PLAN;
    const char first = w.at[0];
    return first == ',' || first == '"' || first == '(' || (first >= '0' && first <= '9') ? QN_FORM_CSV : QN_FORM_UNKNOWN;
}

qn_status qn_order_read(qn_order **out, const char *text, size_t bytes, qn_err *err)
{
    switch (qn_schedule_form_of(text, bytes)) {
    case QN_FORM_CSV:
        return qni_csv_read(out, text, bytes, err);
    case QN_FORM_PLAN:
        return QN_FAIL(err, QN_EFORMAT,
                       "this is a plan ('quern-plan'); an order ('quern-order 1') or PyTorch's CSV is wanted here");
    default:
        return read_order_text(out, text, bytes, err);
    }
}
