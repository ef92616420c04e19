/* A trace for a terminal: one line per worker, one column per equal share of the time. A column shows what the worker did for
 * most of it: the forward's micro-batch as a digit, the backward's as a letter, W, R, S and T for those of a vocabulary shard
 * (look-ups among them), or a dot for idle. Where copies take time each worker has a line for each of its copy lanes: ^ weights
 * up, v their gradients down, + and - inputs and their gradients up and down. */
#include "schedule/trace.h"

#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/schedule_internal.h"

static char mark_of(const qn_plan *p, const qn_task *t)
{
    if (qni_is_copy(t->op)) {
        const int32_t cls = p->value[p->ref[t->in.first]].cls;
        const bool weights = cls == QN_V_PARAM || cls == QN_V_PGRAD;
        return t->op == QN_OP_LOAD ? (weights ? '^' : '+') : weights ? 'v' : '-';
    }
    switch (t->op) {
    case QN_OP_F:
        return (char)('0' + t->item % 10);
    case QN_OP_B:
    case QN_OP_BW:
        return (char)('a' + t->item % 26);
    case QN_OP_W:
        return 'W';
    case QN_OP_VS:
    case QN_OP_VI:
        return 'S';
    case QN_OP_VT:
    case QN_OP_VJ:
        return 'T';
    default:
        return 'R';
    }
}

/* Fills row[columns]: per column the task of the lane that covers most of it. */
static void draw_lane(char *row, int64_t *best, const qn_trace *t, const int32_t lane[2], int32_t columns, int64_t makespan)
{
    const qn_plan *p = t->plan;
    memset(row, '.', (size_t)columns);
    memset(best, 0, (size_t)columns * sizeof *best);
    for (int32_t i = lane[0]; i < lane[0] + lane[1]; i++) {
        const qn_span_time x = t->time[i];
        if ((!qni_is_work(p->task[i].op) && !qni_is_copy(p->task[i].op)) || x.end <= x.start) continue;
        /* In units of 1 / columns of a tick, so that nothing is rounded. */
        const int32_t from = (int32_t)((double)x.start / (double)makespan * columns),
                      to = (int32_t)((double)x.end / (double)makespan * columns);
        for (int32_t c = qn_max32(from, 0); c <= to && c < columns; c++) {
            const double left = (double)makespan * c / columns, right = (double)makespan * (c + 1) / columns;
            const double a = (double)x.start > left ? (double)x.start : left, b = (double)x.end < right ? (double)x.end : right;
            const int64_t share = b > a ? (int64_t)((b - a) / (right - left) * 1000) : 0;
            if (share <= best[c]) continue;
            best[c] = share;
            row[c] = mark_of(p, &p->task[i]);
        }
    }
}

qn_status qn_trace_ascii(char **out, const qn_trace *t, int32_t columns, qn_err *err)
{
    enum { LABEL = 6, MOST = 4096 };
    if (columns < LABEL + 10 || columns > MOST)
        return QN_FAIL(err, QN_ERANGE, "%d columns: %d to %d are possible", columns, LABEL + 10, MOST);
    qn_trace_summary *sum = qn_malloc(1, sizeof *sum);
    bool copies;
    int32_t width = columns - LABEL;
    char *row = qn_malloc((size_t)width + 1, 1);
    int64_t *best = qn_malloc((size_t)width, sizeof *best);
    qni_text text = {0};
    qn_status st = QN_OK;
    if (sum == NULL || row == NULL || best == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "picture of a trace");
        goto out;
    }
    qn_trace_summarize(sum, t);
    copies = qni_shows_copies(t);
    if (sum->makespan < width)
        width = (int32_t)qn_max64(sum->makespan, 1) * (width / (int32_t)qn_max64(sum->makespan, 1)); /* whole columns per tick */
    for (int32_t w = 0; w < t->plan->workers; w++) {
        static const int32_t lane[] = {QN_LANE_COMP, QN_LANE_UP, QN_LANE_DOWN};
        for (int k = 0; k < (copies ? 3 : 1); k++) {
            draw_lane(row, best, t, t->plan->lane[w][lane[k]], width, qn_max64(sum->makespan, 1));
            row[width] = '\0';
            if (k == 0)
                qni_text_add(&text, "%4d  %s\n", w, row);
            else
                qni_text_add(&text, "%4s  %s\n", k == 1 ? "up" : "down", row);
        }
    }
    if (copies) qni_text_add(&text, "      ^ weights, v their gradients, + and - what goes from stage to stage\n");
    st = qni_text_done(out, &text, err);
out:
    qn_free(sum);
    qn_free(row);
    qn_free(best);
    return st;
}
