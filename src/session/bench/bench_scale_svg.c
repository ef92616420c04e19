/* The picture of quern bench scale: a panel for each thing that grows, three curves in each, every curve as a multiple of its own
 * first point, so that time, memory and start-up share one axis. Both axes are logarithmic; a grey line is growth in step with x.
 * Points without training are hollow. */
#include "bench_scale.h"

#include <math.h>
#include <stdio.h>

#include "core/alloc.h"
#include "core/io.h"
#include "session/report/page.h"

enum { WIDTH = 300, HEIGHT = 240, LEFT = 52, TOP = 34, GAP = 40, CURVES = 3 };

static const char *const titles[QNI_SCALE_AXES] = {"workers (tasks that sleep)", "tokens of a sample", "parameters"};
static const char *const names[CURVES] = {"time of a step", "memory", "start-up"};
static const char *const colors[CURVES] = {"#1b6ca8", "#c2571a", "#4a8c3f"};

static double value_of(const qni_scale_point *p, int curve)
{
    return curve == 0 ? p->step_s : curve == 1 ? p->memory_bytes : p->start_s;
}

typedef struct panel {
    double left, low, high, x0, x1; /* logarithms, base 10 */
} panel;

static double x_at(const panel *f, double x)
{
    return f->left + (f->x1 > f->x0 ? (log10(x) - f->x0) / (f->x1 - f->x0) : 0.5) * WIDTH;
}

static double y_at(const panel *f, double y)
{
    return TOP + HEIGHT - (log10(y) - f->low) / (f->high - f->low) * HEIGHT;
}

static double first_of(const qni_scale_point *point, int32_t points, int axis, int curve)
{
    for (int32_t i = 0; i < points; i++)
        if ((int)point[i].axis == axis && value_of(&point[i], curve) > 0) return value_of(&point[i], curve);
    return 1;
}

static panel frame_of(const qni_scale_point *point, int32_t points, int axis)
{
    panel f = {.left = LEFT + axis * (WIDTH + LEFT + GAP), .low = 0, .high = 0.5, .x0 = INFINITY, .x1 = -INFINITY};
    for (int32_t i = 0; i < points; i++) {
        if ((int)point[i].axis != axis) continue;
        f.x0 = fmin(f.x0, log10(point[i].x));
        f.x1 = fmax(f.x1, log10(point[i].x));
        for (int c = 0; c < CURVES; c++) {
            const double y = value_of(&point[i], c) / first_of(point, points, axis, c);
            if (y > 0) f.low = fmin(f.low, log10(y));
            if (y > 0) f.high = fmax(f.high, log10(y));
        }
    }
    f.low = floor(f.low);
    f.high = ceil(f.high);
    return f;
}

static void draw_axes(qni_page *p, const panel *f, int axis, const qni_scale_point *point, int32_t points)
{
    qni_page_add(p, "<text x='%.1f' y='20' font-weight='bold'>%s</text>\n", f->left, titles[axis]);
    for (double e = f->low; e <= f->high; e++) {
        const double y = y_at(f, pow(10, e));
        qni_page_add(p, "<line x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f' stroke='#ddd'/>", f->left, f->left + WIDTH, y, y);
        qni_page_add(p, "<text x='%.1f' y='%.1f' text-anchor='end'>%gx</text>\n", f->left - 6, y + 4, pow(10, e));
    }
    for (int32_t i = 0; i < points; i++) {
        if ((int)point[i].axis != axis) continue;
        const double x = point[i].x;
        char label[32];
        snprintf(label, sizeof(label),
                 x >= 1e9   ? "%.3gB"
                 : x >= 1e6 ? "%.3gM"
                            : "%.4g",
                 x / (x >= 1e9   ? 1e9
                      : x >= 1e6 ? 1e6
                                 : 1));
        qni_page_add(p, "<text x='%.1f' y='%d' text-anchor='middle'>%s</text>\n", x_at(f, x), TOP + HEIGHT + 16, label);
    }
    const double rise = fmin(f->high, f->x1 - f->x0);
    if (f->x1 > f->x0)
        qni_page_add(p, "<line x1='%.1f' y1='%.1f' x2='%.1f' y2='%.1f' stroke='#bbb' stroke-dasharray='4 3'/>\n", f->left,
                     y_at(f, 1), x_at(f, pow(10, f->x0 + rise)), y_at(f, pow(10, rise)));
}

static void draw_curves(qni_page *p, const panel *f, int axis, const qni_scale_point *point, int32_t points)
{
    for (int c = 0; c < CURVES; c++) {
        const double first = first_of(point, points, axis, c);
        qni_page_add(p, "<polyline fill='none' stroke='%s' stroke-width='1.6' points='", colors[c]);
        for (int32_t i = 0; i < points; i++)
            if ((int)point[i].axis == axis && value_of(&point[i], c) > 0)
                qni_page_add(p, "%.1f,%.1f ", x_at(f, point[i].x), y_at(f, value_of(&point[i], c) / first));
        qni_page_add(p, "'/>\n");
        for (int32_t i = 0; i < points; i++)
            if ((int)point[i].axis == axis && value_of(&point[i], c) > 0)
                qni_page_add(
                    p, "<circle cx='%.1f' cy='%.1f' r='3' fill='%s' stroke='%s'><title>%s: %.4g %s at %g</title></circle>\n",
                    x_at(f, point[i].x), y_at(f, value_of(&point[i], c) / first), point[i].forward_only ? "white" : colors[c],
                    colors[c], names[c], value_of(&point[i], c), c == 1 ? "bytes" : "s", point[i].x);
    }
}

qn_status qni_scale_svg(const char *path, const qni_scale_point *point, int32_t points, qn_err *err)
{
    qni_page p = {0};
    char *text = NULL;
    const int width = QNI_SCALE_AXES * (WIDTH + LEFT + GAP), height = TOP + HEIGHT + 50;
    qni_page_add(&p,
                 "<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' viewBox='0 0 %d %d' font-family='sans-serif' "
                 "font-size='11' role='img' aria-label='growth with workers, context and parameters'>\n"
                 "<rect width='%d' height='%d' fill='white'/>\n",
                 width, height, width, height, width, height);
    for (int axis = 0; axis < QNI_SCALE_AXES; axis++) {
        const panel f = frame_of(point, points, axis);
        if (!isfinite(f.x0)) continue;
        draw_axes(&p, &f, axis, point, points);
        draw_curves(&p, &f, axis, point, points);
    }
    for (int c = 0; c < CURVES; c++)
        qni_page_add(&p, "<text x='%d' y='%d' fill='%s'>%s</text>\n", LEFT + c * 110, height - 10, colors[c], names[c]);
    qni_page_add(&p, "</svg>\n");
    const size_t bytes = p.used;
    qn_status st = qni_page_done(&text, &p, err);
    if (st == QN_OK) st = qn_file_write(path, text, bytes, err);
    qn_free(text);
    return st;
}
