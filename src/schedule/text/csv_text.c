/* PyTorch's compute-only CSV: one row per worker, one cell per time step, <stage><F|I|W|B><item>; I is the input gradient (B
 * here), B both (BW here). An empty cell is an idle step; it means nothing when read, and is written where a worker would wait if
 * every task took one step. The CSV has no word for overlap pairs and none for columns: stages of all columns are written by
 * their numbers in the plan, and are read back as one chain. */
#include "schedule_text.h"

#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "text_scan.h"

static const struct {
    char letter;
    int32_t op;
} letters[] = {{'F', QN_OP_F}, {'I', QN_OP_B}, {'W', QN_OP_W}, {'B', QN_OP_BW}};

/* ---- reading */

typedef struct cell {
    int32_t op, stage, item;
} cell;

static bool parse_cell(cell *c, qni_word w)
{
    size_t digits = 0;
    int64_t stage, item;
    while (digits < w.length && w.at[digits] >= '0' && w.at[digits] <= '9') digits++;
    if (digits == 0 || digits + 1 >= w.length) return false;
    c->op = QN_NONE;
    for (size_t i = 0; i < sizeof letters / sizeof letters[0]; i++) {
        if (letters[i].letter == w.at[digits]) c->op = letters[i].op;
    }
    if (c->op == QN_NONE || !qni_word_int(&stage, (qni_word){w.at, digits}, 0, QNI_MAX_STAGES - 1)) return false;
    if (w.at[digits + 1] == '-' ||
        !qni_word_int(&item, (qni_word){w.at + digits + 1, w.length - digits - 1}, 0, QNI_MAX_TASKS - 1))
        return false;
    c->stage = (int32_t)stage;
    c->item = (int32_t)item;
    return true;
}

/* The next cell of the line without blanks around it; false at the line's end. */
static bool next_cell(qni_scan *s, qni_word *w)
{
    if (s->at == NULL) return false;
    const char *comma = s->at < s->stop ? memchr(s->at, ',', (size_t)(s->stop - s->at)) : NULL;
    const char *end = comma != NULL ? comma : s->stop;
    *w = (qni_word){s->at, (size_t)(end - s->at)};
    s->at = comma != NULL ? comma + 1 : NULL;
    while (w->length > 0 && (w->at[0] == ' ' || w->at[0] == '\t')) *w = (qni_word){w->at + 1, w->length - 1};
    while (w->length > 0 && strchr(" \t\r", w->at[w->length - 1]) != NULL) w->length--;
    return true;
}

typedef struct csv_reader {
    qn_order *order; /* second pass */
    int32_t *row_of; /* [QNI_MAX_STAGES] */
    int32_t rows, stages, items;
    int64_t tasks;
} csv_reader;

static qn_status read_row(csv_reader *r, qni_scan *s, qn_err *err)
{
    qni_word w;
    cell c;
    char show[40];
    s->at = s->start;
    while (next_cell(s, &w)) {
        if (w.length == 0) continue;
        if (!parse_cell(&c, w))
            return QNI_SCAN_FAIL(err, s, w, "cell '%s': a compute task such as 0F3, 1B2, 2I0 or 2W0, or nothing, is wanted",
                                 qni_word_show(show, w));
        if (r->order != NULL) {
            qn_order_push(r->order, r->rows, (qn_op)c.op, c.stage, c.item);
            continue;
        }
        if (++r->tasks > QNI_MAX_TASKS) return QNI_SCAN_FAIL(err, s, w, "more than %d tasks", QNI_MAX_TASKS);
        if (r->row_of[c.stage] != QN_NONE && r->row_of[c.stage] != r->rows)
            return QNI_SCAN_FAIL(err, s, w, "cell '%s': stage %d is on row %d already; a stage lives on one worker",
                                 qni_word_show(show, w), c.stage, r->row_of[c.stage]);
        r->row_of[c.stage] = r->rows;
        r->stages = qn_max32(r->stages, c.stage + 1);
        r->items = qn_max32(r->items, c.item + 1);
    }
    r->rows++;
    return QN_OK;
}

static qn_status read_rows(csv_reader *r, const char *text, size_t bytes, qn_err *err)
{
    qni_scan s = qni_scan_of(text, bytes);
    qn_status st = QN_OK;
    r->rows = 0;
    while (qni_scan_line(&s)) {
        if (r->rows == QN_MAX_WORKERS) return QNI_SCAN_FAIL(err, &s, ((qni_word){s.at, 0}), "more than %d rows", QN_MAX_WORKERS);
        st = read_row(r, &s, err);
        if (st != QN_OK) break;
    }
    return st;
}

qn_status qni_csv_read(qn_order **out, const char *text, size_t bytes, qn_err *err)
{
    csv_reader r = {.order = NULL};
    qn_status st = QN_OK;
    r.row_of = qn_malloc(QNI_MAX_STAGES, sizeof *r.row_of);
    if (r.row_of == NULL) return QN_FAIL(err, QN_ENOMEM, "reading a CSV schedule");
    for (int32_t s = 0; s < QNI_MAX_STAGES; s++) r.row_of[s] = QN_NONE;
    QN_TRY(st, read_rows(&r, text, bytes, err), out);
    if (r.tasks == 0) {
        st = QN_FAIL(err, QN_EFORMAT, "the CSV holds no task");
        goto out;
    }
    QN_TRY(st, qn_order_open(&r.order, r.rows, r.stages, r.items, err), out);
    for (int32_t s = 0; s < r.stages; s++) r.order->worker_of[s] = qn_max32(r.row_of[s], 0);
    QN_TRY(st, read_rows(&r, text, bytes, err), out);
    QN_TRY(st, qn_order_done(r.order, err), out);
    *out = r.order;
    r.order = NULL;
out:
    qn_order_close(r.order);
    qn_free(r.row_of);
    return st;
}

/* ---- writing */

typedef struct csv_writer {
    const qn_order *o;
    int64_t *forward, *backward; /* [stages * items]: the step in which it is done; -1 not yet */
    int64_t *step;               /* [workers]: the last step used */
    int32_t *next;               /* [workers] */
} csv_writer;

/* The first step in which the task may run; -1 while what it needs is not placed. */
static int64_t first_step(const csv_writer *c, const qn_order_task *t)
{
    const qn_order *o = c->o;
    const size_t M = (size_t)o->items, cell_at = (size_t)t->stage * M + (size_t)t->item;
    const qn_grid g = qn_order_grid(o);
    if (t->op == QN_OP_F)
        return qn_first_in_column(g, t->stage) ? 0 : c->forward[cell_at - M] < 0 ? -1 : c->forward[cell_at - M] + 1;
    if (t->op == QN_OP_W) return 0; /* after its B, on the same worker */
    return qn_last_in_column(g, t->stage) ? 0 : c->backward[cell_at + M] < 0 ? -1 : c->backward[cell_at + M] + 1;
}

/* Writes what one worker can do now into its row; true when it did something. */
static bool write_some(qni_text *row, csv_writer *c, int32_t w, bool force)
{
    bool any = false;
    for (; c->next[w] < c->o->count[w]; c->next[w]++, any = true) {
        const qn_order_task *t = &c->o->task[w][c->next[w]];
        if (t->op == QN_OP_R) continue; /* the CSV has no word for it */
        const int64_t from = first_step(c, t);
        if (from < 0 && !force) break;
        const int64_t step = qn_max64(from, c->step[w] + 1);
        for (int64_t idle = qn_max64(c->step[w], 0); idle < step; idle++) qni_text_add(row, ",");
        char letter = '?';
        for (size_t i = 0; i < sizeof letters / sizeof letters[0]; i++)
            letter = letters[i].op == t->op ? letters[i].letter : letter;
        qni_text_add(row, "%d%c%d", t->stage, letter, t->item);
        int64_t *done = t->op == QN_OP_F ? c->forward : c->backward;
        if (t->op != QN_OP_W) done[(size_t)t->stage * (size_t)c->o->items + (size_t)t->item] = step;
        c->step[w] = step;
    }
    return any;
}

qn_status qn_order_write_csv(char **out, const qn_order *o, qn_err *err)
{
    csv_writer c = {.o = o};
    const size_t cells = (size_t)o->stages * (size_t)o->items;
    qni_text all = {0}, *row = qn_calloc((size_t)o->workers, sizeof *row);
    qn_status st = QN_OK;
    c.forward = qn_malloc(cells, sizeof *c.forward);
    c.backward = qn_malloc(cells, sizeof *c.backward);
    c.step = qn_malloc((size_t)o->workers, sizeof *c.step);
    c.next = qn_calloc((size_t)o->workers, sizeof *c.next);
    if (row == NULL || c.forward == NULL || c.backward == NULL || c.step == NULL || c.next == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "CSV of a schedule");
        goto out;
    }
    memset(c.forward, 0xff, cells * sizeof *c.forward);
    memset(c.backward, 0xff, cells * sizeof *c.backward);
    memset(c.step, 0xff, (size_t)o->workers * sizeof *c.step);
    for (bool moved = true; moved;) {
        moved = false;
        for (int32_t w = 0; w < o->workers; w++) moved = write_some(&row[w], &c, w, false) || moved;
    }
    for (int32_t w = 0; w < o->workers; w++) { /* an order that cannot run is still written whole */
        write_some(&row[w], &c, w, true);
        qni_text_add(&all, "%s\n", row[w].at != NULL ? row[w].at : ","); /* a blank row would be no row */
        all.failed = all.failed || row[w].failed;
    }
    st = qni_text_done(out, &all, err);
out:
    for (int32_t w = 0; row != NULL && w < o->workers; w++) qn_free(row[w].at);
    qn_free(row);
    qn_free(c.forward);
    qn_free(c.backward);
    qn_free(c.step);
    qn_free(c.next);
    return st;
}
