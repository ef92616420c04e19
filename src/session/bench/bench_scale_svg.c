/* The curves of quern bench scale as one picture: a row for each quantity, a column for each thing that grows. Both axes of a
 * panel are logarithmic and in units of their own. Solid: measured; dashed, in the same colour: what would be possible. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_scale.h"
#include "core/alloc.h"
#include "core/io.h"
#include "session/report/page.h"

enum { WIDTH = 260, HEIGHT = 170, LEFT = 66, TOP = 44, GAP_X = 84, GAP_Y = 62, ROWS = 3, FOOT = 58 };
enum { TIME, MEMORY, START };

static const char *const titles[QNI_SCALE_AXES] = {"workers (tasks that sleep)", "context, tokens of a sample", "parameters"};
static const char *const colors[QNI_WORKS] = {"#1b6ca8", "#1b6ca8", "#c2571a", "#3b8132"};
static const char *const works[QNI_WORKS] = {NULL, "training", "training adapters of rank 8", "forward passes"};

typedef struct panel {
    int row;
    qni_scale_axis axis;
    double left, top;
    double x0, x1, y0, y1; /* logarithms, base 10 */
} panel;

static const char *row_title(int row, qni_scale_axis axis)
{
    if (row == TIME) return axis == QNI_SCALE_WORKERS ? "time of a step" : "time of a step, per 1000 tokens";
    return row == MEMORY ? "memory" : "start-up";
}

static double value_of(const qni_scale_point *p, int row)
{
    const double per = p->tokens > 0 ? 1000 / p->tokens : 1;
    return row == TIME ? p->step_s * per : row == MEMORY ? p->memory_bytes : p->start_s;
}

static double ceiling_of(const qni_scale_point *p, int row)
{
    const double per = p->tokens > 0 ? 1000 / p->tokens : 1;
    return row == TIME ? p->ideal_s * per : row == MEMORY ? p->floor_bytes : 0;
}

static double x_at(const panel *f, double x)
{
    return f->left + (f->x1 > f->x0 ? (log10(x) - f->x0) / (f->x1 - f->x0) : 0.5) * WIDTH;
}

static double y_at(const panel *f, double y)
{
    return f->top + HEIGHT - (log10(y) - f->y0) / (f->y1 - f->y0) * HEIGHT;
}

static panel panel_of(const qni_scale_point *point, int32_t points, int row, qni_scale_axis axis)
{
    panel f = {.row = row,
               .axis = axis,
               .left = LEFT + axis * (WIDTH + GAP_X),
               .top = TOP + row * (HEIGHT + GAP_Y),
               .x0 = INFINITY,
               .x1 = -INFINITY,
               .y0 = INFINITY,
               .y1 = -INFINITY};
    for (int32_t i = 0; i < points; i++) {
        if (point[i].axis != axis) continue;
        f.x0 = fmin(f.x0, log10(point[i].x));
        f.x1 = fmax(f.x1, log10(point[i].x));
        const double y[2] = {value_of(&point[i], row), ceiling_of(&point[i], row)};
        for (int k = 0; k < 2; k++) {
            if (!(y[k] > 0)) continue;
            f.y0 = fmin(f.y0, log10(y[k]));
            f.y1 = fmax(f.y1, log10(y[k]));
        }
    }
    const double room = fmax(0.08 * (f.y1 - f.y0), 0.1);
    f.y0 -= room;
    f.y1 += room;
    return f;
}

/* 0.25 s as "250 ms", 3e9 bytes as "3 GB", 124e6 as "124 M". */
static void label_of(char out[32], double x, const char *kind)
{
    static const struct {
        const char *kind, *unit;
        double least, scale;
    } list[] = {{"s", "s", 0.9999, 1},      {"s", "ms", 0.9999e-3, 1e-3}, {"s", "us", 0, 1e-6},
                {"B", "GB", 0.9999e9, 1e9}, {"B", "MB", 0.9999e6, 1e6},   {"B", "KB", 0, 1e3},
                {"n", "B", 0.9999e9, 1e9},  {"n", "M", 0.9999e6, 1e6},    {"n", "", 0, 1}};
    for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
        if (strcmp(kind, list[i].kind) != 0 || x < list[i].least) continue;
        snprintf(out, 32, "%.4g%s%s", x / list[i].scale, list[i].unit[0] != '\0' ? " " : "", list[i].unit);
        return;
    }
    out[0] = '\0';
}

static void draw_y(qni_page *p, const panel *f)
{
    static const double steps[] = {1, 2, 5};
    const int every = f->y1 - f->y0 > 2.2 ? 1 : 3; /* decades alone, or their parts too */
    for (double decade = floor(f->y0); decade <= f->y1; decade++)
        for (int k = 0; k < every; k++) {
            const double y = steps[k] * pow(10, decade);
            char label[32];
            if (log10(y) < f->y0 || log10(y) > f->y1) continue;
            label_of(label, y, f->row == MEMORY ? "B" : "s");
            qni_page_add(p, "<line x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f' stroke='#e2e2e2'/>", f->left, f->left + WIDTH,
                         y_at(f, y), y_at(f, y));
            qni_page_add(p, "<text x='%.1f' y='%.1f' text-anchor='end'>%s</text>\n", f->left - 6, y_at(f, y) + 4, label);
        }
}

static void draw_x(qni_page *p, const panel *f)
{
    const double base = f->axis == QNI_SCALE_PARAMETERS ? 10 : 2, unit = log10(base);
    for (double e = ceil(f->x0 / unit - 1e-9); e * unit <= f->x1 + 1e-9; e++) {
        const double x = pow(base, e);
        char label[32];
        label_of(label, x, "n");
        qni_page_add(p, "<line x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f' stroke='#e2e2e2'/>", x_at(f, x), x_at(f, x), f->top,
                     f->top + HEIGHT);
        qni_page_add(p, "<text x='%.1f' y='%.1f' text-anchor='middle'>%s</text>\n", x_at(f, x), f->top + HEIGHT + 15, label);
    }
    qni_page_add(p, "<text x='%.1f' y='%.1f' text-anchor='middle' fill='#555'>%s</text>\n", f->left + WIDTH / 2.0,
                 f->top + HEIGHT + 31, titles[f->axis]);
    qni_page_add(p, "<text x='%.1f' y='%.1f' font-weight='bold'>%s</text>\n", f->left, f->top - 8, row_title(f->row, f->axis));
    qni_page_add(p, "<rect x='%.1f' y='%.1f' width='%d' height='%d' fill='none' stroke='#888'/>\n", f->left, f->top, WIDTH,
                 HEIGHT);
}

static void draw_line(qni_page *p, const panel *f, const qni_scale_point *point, int32_t points, qni_scale_work work,
                      bool ceiling)
{
    qni_page_add(p, "<polyline fill='none' stroke='%s' stroke-width='1.8'%s points='", colors[work],
                 ceiling ? " stroke-dasharray='5 4' opacity='0.75'" : "");
    for (int32_t i = 0; i < points; i++) {
        const double y = ceiling ? ceiling_of(&point[i], f->row) : value_of(&point[i], f->row);
        if (point[i].axis == f->axis && point[i].work == work && y > 0)
            qni_page_add(p, "%.1f,%.1f ", x_at(f, point[i].x), y_at(f, y));
    }
    qni_page_add(p, "'/>\n");
}

static void draw_points(qni_page *p, const panel *f, const qni_scale_point *point, int32_t points)
{
    for (int32_t i = 0; i < points; i++) {
        const double y = value_of(&point[i], f->row);
        char label[32];
        if (point[i].axis != f->axis || !(y > 0)) continue;
        label_of(label, y, f->row == MEMORY ? "B" : "s");
        qni_page_add(p, "<circle cx='%.1f' cy='%.1f' r='3' fill='%s'><title>%s: %s</title></circle>\n", x_at(f, point[i].x),
                     y_at(f, y), colors[point[i].work], point[i].name, label);
    }
}

static void draw_legend(qni_page *p, double top)
{
    double x = LEFT;
    for (int w = 0; w < QNI_WORKS; w++) {
        if (works[w] == NULL) continue;
        qni_page_add(p, "<line x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f' stroke='%s' stroke-width='1.8'/>", x, x + 22, top - 4,
                     top - 4, colors[w]);
        qni_page_add(p, "<text x='%.1f' y='%.1f'>%s</text>\n", x + 28, top, works[w]);
        x += 50 + 6.5 * (double)strlen(works[w]);
    }
    top += 18;
    qni_page_add(p, "<line x1='%d' x2='%d' y1='%.1f' y2='%.1f' stroke='#444' stroke-width='1.8' stroke-dasharray='5 4'/>", LEFT,
                 LEFT + 22, top - 4, top - 4);
    qni_page_add(
        p,
        "<text x='%d' y='%.1f'>ceilings: the simulated step; all operations at the rate of the matrix products alone; 16 "
        "bytes for each trained parameter, 2 for a frozen one</text>\n",
        LEFT + 28, top);
}

static int in_order(const void *x, const void *y)
{
    const qni_scale_point *a = x, *b = y;
    return (a->x > b->x) - (a->x < b->x);
}

qn_status qni_scale_svg(const char *path, const qni_scale_point *point, int32_t points, qn_err *err)
{
    qni_page p = {0};
    char *text = NULL;
    qni_scale_point sorted[QNI_SCALE_MOST];
    const int width = LEFT + QNI_SCALE_AXES * (WIDTH + GAP_X) - GAP_X + 24, height = TOP + ROWS * (HEIGHT + GAP_Y) + FOOT - 24;
    const int32_t n = points < QNI_SCALE_MOST ? points : QNI_SCALE_MOST;
    for (int32_t i = 0; i < n; i++) sorted[i] = point[i];
    if (n > 0) qsort(sorted, (size_t)n, sizeof(*sorted), in_order);
    qni_page_add(&p,
                 "<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' viewBox='0 0 %d %d' font-family='sans-serif' "
                 "font-size='11' role='img' aria-label='time of a step, memory and start-up by workers, context and "
                 "parameters'>\n<rect width='%d' height='%d' fill='white'/>\n",
                 width, height, width, height, width, height);
    for (int row = 0; row < ROWS; row++)
        for (int axis = 0; axis < QNI_SCALE_AXES; axis++) {
            const panel f = panel_of(sorted, n, row, (qni_scale_axis)axis);
            if (!isfinite(f.x0) || !isfinite(f.y0)) continue;
            draw_y(&p, &f);
            draw_x(&p, &f);
            for (int work = 0; work < QNI_WORKS; work++) {
                draw_line(&p, &f, sorted, n, (qni_scale_work)work, true);
                draw_line(&p, &f, sorted, n, (qni_scale_work)work, false);
            }
            draw_points(&p, &f, sorted, n);
        }
    draw_legend(&p, height - 28);
    qni_page_add(&p, "</svg>\n");
    const size_t bytes = p.used;
    qn_status st = qni_page_done(&text, &p, err);
    if (st == QN_OK) st = qn_file_write(path, text, bytes, err);
    qn_free(text);
    return st;
}
