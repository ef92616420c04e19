/* Traces as a self-contained SVG: one row per worker, time to the right.
 *
 *   title                                  bubble 27.3 %
 *   worker 0 |F0|F1|F2|...   |B0|...
 *   worker 1    |F0|F1|...|B0|...
 *            0        10        20   ticks
 *   legend
 *
 * Where copies take time a worker has two thin rows more, for its lanes up and down.
 *
 * Colour says what is done (forward, backward, input gradient, weight gradient, recompute); chunks of a worker are shades of it,
 * later chunks lighter. Micro-batch numbers stand where there is room. */
#include "schedule/trace.h"

#include <stdio.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/schedule_internal.h"

enum {
    WIDTH = 1200,
    LEFT = 92,
    RIGHT = 24,
    ROW = 30,
    GAP = 6,
    TITLE = 44,
    AXIS = 34,
    LEGEND = 34,
    PANEL_GAP = 14,
    COPY = 7,
    COPY_LEGEND = 20
};

typedef struct hue {
    int32_t r, g, b;
    const char *text;
} hue;

static const hue hues[] = {
    [QN_OP_F] = {59, 115, 190, "forward"},
    [QN_OP_B] = {46, 150, 120, "input gradient"},
    [QN_OP_W] = {219, 158, 53, "weight gradient"},
    [QN_OP_BW] = {43, 145, 96, "backward"},
    [QN_OP_R] = {150, 120, 190, "recompute"},
    [QN_OP_VI] = {120, 160, 175, "look-up"},
    [QN_OP_VS] = {196, 78, 82, "vocabulary S"},
    [QN_OP_VT] = {160, 84, 140, "vocabulary T"},
    [QN_OP_VJ] = {110, 140, 120, "look-up gradient"},
};

/* Copies, by what they carry. */
enum { WEIGHTS, GRADIENTS, PASSED, COPIES };
static const hue copies[COPIES] = {
    {120, 104, 170, "weights up"}, {200, 120, 80, "gradients down"}, {120, 150, 150, "from stage to stage"}};

typedef struct panel {
    qni_text *out;
    const qn_trace *t;
    double width;       /* of the picture */
    int64_t axis;       /* ticks that fill the width: of the longest trace in the picture */
    int64_t makespan;   /* of this one */
    int32_t chunks;     /* most stages on one worker */
    int32_t *chunk_of;  /* [stages] */
    double y, row, gap; /* top of the first row */
    bool used[QN_OP_VJ + 1];
    bool copies;
} panel;

static double at_x(const panel *p, int64_t tick)
{
    return LEFT + (double)tick / (double)p->axis * (p->width - LEFT - RIGHT);
}

static void colour_of(char buf[8], const panel *p, int32_t op, int32_t stage)
{
    const double light = p->chunks > 1 ? 0.5 * p->chunk_of[stage] / (p->chunks - 1) : 0;
    const hue h = hues[op];
    snprintf(buf, 8, "#%02x%02x%02x", (unsigned)(h.r + light * (255 - h.r)) & 255u, (unsigned)(h.g + light * (255 - h.g)) & 255u,
             (unsigned)(h.b + light * (255 - h.b)) & 255u);
}

static const char *unit_of(const qn_trace *t)
{
    return t->ticks_per_ms <= 0 ? "ticks" : t->unit != NULL ? t->unit : "ms";
}

/* "12" ticks, or "0.35" milliseconds. */
static const char *time_text(char buf[32], const panel *p, int64_t tick)
{
    if (p->t->ticks_per_ms > 0)
        snprintf(buf, 32, "%.6g", (double)tick / (double)p->t->ticks_per_ms);
    else
        snprintf(buf, 32, "%lld", (long long)tick);
    return buf;
}

static void draw_task(panel *p, int32_t task, double y)
{
    const qn_task *t = &p->t->plan->task[task];
    const qn_span_time x = p->t->time[task];
    const double left = at_x(p, x.start), width = at_x(p, x.end) - left;
    const double line = width > 3 ? 0.8 : 0; /* a hair of background between neighbours */
    char colour[8], name[QNI_NAME], from[32], to[32];
    colour_of(colour, p, t->op, t->stage);
    p->used[t->op] = true;
    qni_text_add(p->out,
                 "<rect x='%.2f' y='%.1f' width='%.2f' height='%.1f' rx='%.1f' fill='%s'><title>%s: %s to %s%s</title></rect>\n",
                 left, y, width - line > 0.3 ? width - line : 0.3, p->row, width > 8 ? 2.0 : 0.0, colour,
                 qn_task_text(name, sizeof name, p->t->plan, task), time_text(from, p, x.start), time_text(to, p, x.end),
                 p->t->ticks_per_ms > 0 && p->t->unit == NULL ? " ms" : "");
    const int32_t items = p->t->plan->items, digits = items <= 10 ? 1 : items <= 100 ? 2 : 3; /* all numbers or none */
    const double font = qn_min64(11, (int64_t)(width / (digits * 0.7)));
    if (items > 1000 || font < 7 || p->row < 12) return;
    const bool dark = p->chunks > 1 && p->chunk_of[t->stage] * 2 > p->chunks - 1 && p->chunk_of[t->stage] > 0;
    qni_text_add(p->out, "<text class='n' x='%.2f' y='%.1f' font-size='%.0f' fill='%s'>%d</text>\n", left + (width - line) / 2,
                 y + p->row / 2 + font * 0.35, font, dark ? "#1d2733" : "#ffffff", t->item);
}

/* The copies of a lane as a thin row. */
static void draw_copies(panel *p, const int32_t lane[2], double y)
{
    const qn_plan *plan = p->t->plan;
    qni_text_add(p->out, "<rect x='%d' y='%.1f' width='%.1f' height='%d' fill='#eef1f5'/>\n", LEFT, y,
                 at_x(p, p->makespan) - LEFT, COPY);
    for (int32_t i = lane[0]; i < lane[0] + lane[1]; i++) {
        const qn_task *t = &plan->task[i];
        const qn_span_time x = p->t->time[i];
        const double left = at_x(p, x.start), width = at_x(p, x.end) - left;
        char name[QNI_NAME], from[32], to[32];
        if (!qni_is_copy(t->op) || x.end <= x.start) continue;
        const int32_t cls = plan->value[plan->ref[t->in.first]].cls;
        const hue h = copies[cls == QN_V_PARAM ? WEIGHTS : cls == QN_V_PGRAD ? GRADIENTS : PASSED];
        qni_text_add(
            p->out,
            "<rect x='%.2f' y='%.1f' width='%.2f' height='%d' fill='#%02x%02x%02x'><title>%s: %s to %s%s</title></rect>\n", left,
            y, width > 1.2 ? width - 0.6 : width, COPY, (unsigned)h.r & 255u, (unsigned)h.g & 255u, (unsigned)h.b & 255u,
            qn_task_text(name, sizeof name, plan, i), time_text(from, p, x.start), time_text(to, p, x.end),
            p->t->ticks_per_ms > 0 && p->t->unit == NULL ? " ms" : "");
    }
}

static void draw_rows(panel *p)
{
    const qn_plan *plan = p->t->plan;
    for (int32_t w = 0; w < plan->workers; w++) {
        const double y = p->y + w * (p->row + p->gap), under = y + p->row + 2;
        if (p->row >= 9)
            qni_text_add(p->out, "<text class='w' x='%d' y='%.1f'>worker %d</text>\n", LEFT - 10, y + p->row / 2 + 4, w);
        qni_text_add(p->out, "<rect x='%d' y='%.1f' width='%.1f' height='%.1f' rx='2' fill='#eef1f5'/>\n", LEFT, y,
                     at_x(p, p->makespan) - LEFT, p->row);
        const int32_t first = plan->lane[w][QN_LANE_COMP][0], count = plan->lane[w][QN_LANE_COMP][1];
        for (int32_t i = first; i < first + count; i++) {
            if (qni_is_work(plan->task[i].op) && p->t->time[i].end > p->t->time[i].start) draw_task(p, i, y);
        }
        if (p->copies) draw_copies(p, plan->lane[w][QN_LANE_UP], under);
        if (p->copies) draw_copies(p, plan->lane[w][QN_LANE_DOWN], under + COPY + 1);
    }
}

/* Round steps: 1, 2 or 5 times a power of ten, about ten of them. */
static int64_t tick_step(int64_t makespan)
{
    int64_t step = 1;
    while (makespan / step > 12) {
        if (makespan / (step * 2) <= 12) return step * 2;
        if (makespan / (step * 5) <= 12) return step * 5;
        step *= 10;
    }
    return step;
}

static void draw_axis(panel *p, double y)
{
    const int64_t step = tick_step(p->axis);
    char text[32];
    for (int64_t k = 0; k <= p->axis; k += step) {
        const double x = at_x(p, k);
        qni_text_add(
            p->out,
            "<line x1='%.1f' y1='%.1f' x2='%.1f' y2='%.1f' stroke='#b8c1cc'/><text class='a' x='%.1f' y='%.1f'>%s</text>\n", x, y,
            x, y + 5, x, y + 18, time_text(text, p, k));
    }
    qni_text_add(p->out, "<text class='w' x='%d' y='%.1f'>%s</text>\n", LEFT - 10, y + 18, unit_of(p->t));
}

static void draw_copy_legend(panel *p, double y)
{
    for (int k = 0; k < COPIES; k++) {
        const double x = LEFT + k * 160;
        const hue h = copies[k];
        qni_text_add(p->out,
                     "<rect x='%.1f' y='%.1f' width='14' height='%d' fill='#%02x%02x%02x'/><text class='l' x='%.1f' "
                     "y='%.1f'>%s</text>\n",
                     x, y + 3, COPY, (unsigned)h.r & 255u, (unsigned)h.g & 255u, (unsigned)h.b & 255u, x + 20, y + 10.5, h.text);
    }
}

static void draw_legend(panel *p, double y)
{
    double x = LEFT;
    for (int32_t op = QN_OP_F; op <= QN_OP_VJ; op++) {
        if (!p->used[op]) continue;
        const int32_t shades = qni_is_vocab(op) ? 1 : qn_min32(p->chunks, 6);
        for (int32_t c = 0; c < shades; c++) {
            const double light = shades > 1 ? 0.5 * c / (shades - 1) : 0;
            const hue h = hues[op];
            qni_text_add(p->out, "<rect x='%.1f' y='%.1f' width='14' height='12' rx='2' fill='#%02x%02x%02x'/>\n", x, y,
                         (unsigned)(h.r + light * (255 - h.r)) & 255u, (unsigned)(h.g + light * (255 - h.g)) & 255u,
                         (unsigned)(h.b + light * (255 - h.b)) & 255u);
            x += 16;
        }
        qni_text_add(p->out, "<text class='l' x='%.1f' y='%.1f'>%s</text>\n", x + 4, y + 10.5, hues[op].text);
        x += 120;
    }
    if (p->copies) draw_copy_legend(p, y + COPY_LEGEND);
    qni_text_add(p->out,
                 "<rect x='%.1f' y='%.1f' width='14' height='12' rx='2' fill='#eef1f5' stroke='#d5dbe3'/><text class='l' "
                 "x='%.1f' y='%.1f'>idle</text>\n",
                 x, y, x + 20, y + 10.5);
    x += 90;
    if (p->chunks > 1)
        qni_text_add(p->out, "<text class='l' x='%.1f' y='%.1f'>lighter: %s of the model</text>\n", x, y + 10.5,
                     qn_replicas(qn_plan_grid(p->t->plan)) > 1 ? "other copy" : "later chunk");
}

/* Titles come from outside: markup is kept as text. */
static void add_escaped(qni_text *out, const char *s)
{
    for (; *s != '\0'; s++) {
        const char *as = *s == '<' ? "&lt;" : *s == '>' ? "&gt;" : *s == '&' ? "&amp;" : *s == '\'' ? "&#39;" : NULL;
        if (as != NULL)
            qni_text_add(out, "%s", as);
        else if ((unsigned char)*s >= ' ')
            qni_text_add(out, "%c", *s);
    }
}

static double row_height(const qn_plan *p)
{
    return p->workers <= 16 ? ROW : p->workers <= 64 ? 14 : 6;
}

/* Between the rows of two workers. */
static double row_gap(const qn_trace *t)
{
    return (row_height(t->plan) >= ROW ? GAP : 2) + (qni_shows_copies(t) ? 2 * COPY + 4 : 0);
}

static double panel_height(const qn_trace *t)
{
    return TITLE + t->plan->workers * (row_height(t->plan) + row_gap(t)) + AXIS + LEGEND + PANEL_GAP +
           (qni_shows_copies(t) ? COPY_LEGEND : 0);
}

/* The last end of a compute task or a copy in any of the traces, at least 1. */
static int64_t longest(const qn_trace *const *traces, int32_t n)
{
    int64_t end = 1;
    for (int32_t i = 0; i < n; i++) {
        for (int32_t k = 0; k < traces[i]->plan->tasks; k++) {
            const qn_span_time x = traces[i]->time[k];
            const int32_t op = traces[i]->plan->task[k].op;
            if ((qni_is_work(op) || qni_is_copy(op)) && x.end > x.start) end = qn_max64(end, x.end);
        }
    }
    return end;
}

/* One trace; y is its top, axis the ticks of the whole width. */
static qn_status draw_panel(qni_text *out, const qn_trace *t, const char *title, double y, int64_t axis, int32_t width,
                            qn_err *err)
{
    const qn_plan *plan = t->plan;
    panel p = {.out = out, .t = t, .width = width, .axis = axis, .row = row_height(plan), .y = y + TITLE};
    qn_trace_summary *sum = qn_malloc(1, sizeof *sum);
    int32_t *seen = qn_calloc((size_t)plan->workers, sizeof *seen);
    qn_status st = QN_OK;
    p.gap = row_gap(t);
    p.copies = qni_shows_copies(t);
    p.chunk_of = qn_calloc((size_t)plan->stages, sizeof *p.chunk_of);
    if (sum == NULL || seen == NULL || p.chunk_of == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "picture of a trace");
        goto out;
    }
    qn_trace_summarize(sum, t);
    p.makespan = p.copies ? longest(&t, 1) : qn_max64(sum->makespan, 1);
    for (int32_t s = 0; s < plan->stages; s++) {
        const int32_t shard0 = s - qn_shard(qn_plan_grid(plan), s) * qn_column_stages(qn_plan_grid(plan));
        const bool joint = shard0 != s && plan->worker_of[shard0] == plan->worker_of[s]; /* one colour for what is one task */
        if (s >= plan->stages - plan->sides) continue; /* vocabulary shards have colours of their own */
        p.chunk_of[s] = joint ? p.chunk_of[shard0] : seen[plan->worker_of[s]]++;
        p.chunks = qn_max32(p.chunks, seen[plan->worker_of[s]]);
    }
    qni_text_add(out, "<text class='t' x='%d' y='%.1f'>", LEFT, y + 26);
    add_escaped(out, title != NULL ? title : "");
    const int32_t chain = plan->stages - plan->sides;
    qni_text_add(out, "</text><text class='s' x='%d' y='%.1f'>%d micro-batch%s, %d stage%s", WIDTH - RIGHT, y + 26, plan->items,
                 plan->items == 1 ? "" : "es", chain, chain == 1 ? "" : "s");
    if (plan->sides > 0) qni_text_add(out, " and %d vocabulary shard%s", plan->sides, plan->sides == 1 ? "" : "s");
    qni_text_add(out, " on %d worker%s, bubble %.1f %%</text>\n", plan->workers, plan->workers == 1 ? "" : "s",
                 100 * sum->bubble);
    draw_rows(&p);
    const double bottom = p.y + plan->workers * (p.row + p.gap);
    draw_axis(&p, bottom);
    draw_legend(&p, bottom + AXIS);
out:
    qn_free(sum);
    qn_free(seen);
    qn_free(p.chunk_of);
    return st;
}

qn_status qn_trace_svg(char **out, const qn_trace *const *traces, const char *const *titles, int32_t n, qn_err *err)
{
    return qn_trace_svg_wide(out, traces, titles, n, WIDTH, err);
}

qn_status qn_trace_svg_wide(char **out, const qn_trace *const *traces, const char *const *titles, int32_t n, int32_t width,
                            qn_err *err)
{
    qni_text text = {0};
    qn_status st = QN_OK;
    double height = 8, y = 4;
    const int64_t axis = longest(traces, n);
    for (int32_t i = 0; i < n; i++) height += panel_height(traces[i]);
    qni_text_add(
        &text,
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %d %.0f' width='%d' height='%.0f' font-family='system-ui, "
        "-apple-system, Segoe UI, "
        "Roboto, DejaVu Sans, "
        "sans-serif'>\n<style>.t{font-size:17px;font-weight:600;fill:#1d2733}.s{font-size:13px;fill:#5b6775;text-anchor:end}"
        ".w{font-size:12px;fill:#3c4754;text-anchor:end}.n{text-anchor:middle}.a{font-size:11px;fill:#5b6775;text-"
        "anchor:middle}"
        ".l{font-size:12px;fill:#3c4754}</style>\n<rect width='100%%' height='100%%' fill='#ffffff'/>\n",
        width, height, width, height);
    for (int32_t i = 0; i < n; i++) {
        QN_TRY(st, draw_panel(&text, traces[i], titles != NULL ? titles[i] : NULL, y, axis, width, err), out);
        y += panel_height(traces[i]);
    }
    qni_text_add(&text, "</svg>\n");
    st = qni_text_done(out, &text, err);
out:
    if (st != QN_OK) qn_free(text.at);
    return st;
}
