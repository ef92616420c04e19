/* Line charts.
 *
 *   viewBox  880 x 320:   LEFT | plot | RIGHT, TOP | plot | BOTTOM; styled by the page's classes, so that it follows light and
 * dark */
#include "chart.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"

enum { WIDE = 880, HIGH = 320, LEFT = 64, RIGHT = 16, TOP = 14, BOTTOM = 44, BUCKETS = 750 };

typedef struct frame {
    double x0, x1, y0, y1; /* data ranges, x0 < x1, y0 < y1 */
    double x_step, y_step; /* ticks */
} frame;

qni_smooth qni_smooth_of(int64_t count)
{
    const double over = (double)count / 100;
    return (qni_smooth){.share = over > 1 ? 1 / over : 1};
}

double qni_smooth_next(qni_smooth *s, double y)
{
    if (isfinite(y)) {
        s->sum = (1 - s->share) * s->sum + s->share * y;
        s->weight = (1 - s->share) * s->weight + s->share;
    }
    return s->weight > 0 ? s->sum / s->weight : NAN;
}

double qni_round_step(double span, int parts)
{
    if (!(span > 0) || parts < 1) return 1;
    const double raw = span / parts, power = pow(10, floor(log10(raw)));
    const double lead = raw / power;
    return power * (lead <= 1.0000001 ? 1 : lead <= 2.0000001 ? 2 : lead <= 5.0000001 ? 5 : 10);
}

static double map_x(const frame *f, double x)
{
    return LEFT + (x - f->x0) / (f->x1 - f->x0) * (WIDE - LEFT - RIGHT);
}

static double map_y(const frame *f, double y)
{
    return HIGH - BOTTOM - (y - f->y0) / (f->y1 - f->y0) * (HIGH - TOP - BOTTOM);
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The range of y that the axis shows; false when nothing is finite. */
static bool range_y(double *low, double *high, const qni_chart *c, double *sorted)
{
    int64_t n = 0;
    for (int64_t i = 0; i < c->count; i++)
        if (isfinite(c->y[i])) sorted[n++] = c->y[i];
    for (int64_t i = 0; i < c->marks; i++)
        if (isfinite(c->mark_y[i])) sorted[n++] = c->mark_y[i];
    if (n == 0) return false;
    qsort(sorted, (size_t)n, sizeof(*sorted), ascending);
    *low = c->from_zero && sorted[0] > 0 ? 0 : sorted[0];
    *high = sorted[n - 1];
    const double most = sorted[n - 1 - (n / 20 + (n >= 8))] * 1.15;
    if (c->robust && *high > most && most > *low) *high = most;
    return true;
}

static bool frame_of(frame *f, const qni_chart *c, qn_status *st, qn_err *err)
{
    double low = 0, high = 1;
    double *sorted = qn_malloc((size_t)(c->count + c->marks) + 1, sizeof(*sorted));
    if (sorted == NULL) {
        *st = QN_FAIL(err, QN_ENOMEM, "a chart of %" PRId64 " points", c->count);
        return false;
    }
    const bool any = range_y(&low, &high, c, sorted);
    qn_free(sorted);
    if (!any) return false;
    if (!(high > low)) {
        high = low + (low != 0 ? fabs(low) * 0.1 : 1);
        low -= high - low;
    }
    f->y_step = qni_round_step(high - low, 5);
    f->y0 = floor(low / f->y_step + 1e-9) * f->y_step;
    f->y1 = ceil(high / f->y_step - 1e-9) * f->y_step;
    f->x0 = 0;
    f->x1 = 1;
    if (c->count > 0) f->x1 = (double)c->x[c->count - 1];
    if (c->marks > 0) f->x1 = fmax(f->x1, (double)c->mark_x[c->marks - 1]);
    if (c->count > 0 && (double)c->x[0] > f->x1 * 0.1) f->x0 = (double)c->x[0] - 1;
    if (!(f->x1 > f->x0)) f->x1 = f->x0 + 1;
    f->x_step = fmax(1, qni_round_step(f->x1 - f->x0, 8));
    return true;
}

/* A tick's label with as many decimals as the step needs; thousands as 2k where that is exact. */
static void label(qni_page *p, double at, double step)
{
    if (step >= 1000 && fmod(at, 1000) == 0 && at != 0) {
        if (step >= 1000000)
            qni_page_add(p, "%.0fM", at / 1000000);
        else
            qni_page_add(p, "%.0fk", at / 1000);
        return;
    }
    int decimals = step >= 1 ? 0 : (int)ceil(-log10(step) - 1e-9);
    qni_page_add(p, "%.*f", decimals < 12 ? decimals : 12, fabs(at) < step * 1e-6 ? 0.0 : at);
}

static void axes(qni_page *p, const frame *f)
{
    const int lines = (int)floor((f->y1 - f->y0) / f->y_step + 0.5);
    for (int i = 0; i <= lines; i++) {
        const double at = f->y0 + i * f->y_step, y = map_y(f, at);
        qni_page_add(p, "<line class=\"%s\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", i == 0 ? "axis" : "grid", LEFT,
                     WIDE - RIGHT, y, y);
        qni_page_add(p, "<text class=\"tick\" x=\"%d\" y=\"%.1f\" dy=\".35em\" text-anchor=\"end\">", LEFT - 8, y);
        label(p, at, f->y_step);
        qni_page_add(p, "</text>\n");
    }
    int n = 0;
    for (double at = ceil(f->x0 / f->x_step) * f->x_step; at <= f->x1 * (1 + 1e-9); at += f->x_step, n++) {
        const double x = map_x(f, at);
        qni_page_add(p, "<line class=\"axis\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>", x, x, HIGH - BOTTOM,
                     HIGH - BOTTOM + 4);
        qni_page_add(p, "<text class=\"tick%s\" x=\"%.1f\" y=\"%d\" dy=\"1.1em\" text-anchor=\"%s\">", n % 2 ? " odd" : "", x,
                     HIGH - BOTTOM + 5, x > WIDE - RIGHT - 40 ? "end" : "middle");
        label(p, at, f->x_step);
        qni_page_add(p, "</text>\n");
    }
}

typedef struct pen {
    qni_page *p;
    const frame *f;
    bool down;
} pen;

static void draw_to(pen *q, double x, double y)
{
    qni_page_add(q->p, "%c%.1f %.1f", q->down ? 'L' : 'M', map_x(q->f, x), map_y(q->f, y));
    q->down = true;
}

/* The curve: all points when there are few, else the lowest and the highest of each bucket in the order they came. */
static void raw_curve(qni_page *p, const qni_chart *c, const frame *f)
{
    pen q = {.p = p, .f = f};
    const int64_t size = c->count <= 2 * BUCKETS ? 1 : (c->count + BUCKETS - 1) / BUCKETS;
    qni_page_add(p, "<path class=\"raw\" d=\"");
    for (int64_t from = 0; from < c->count; from += size) {
        int64_t low = -1, high = -1;
        for (int64_t i = from; i < from + size && i < c->count; i++) {
            if (!isfinite(c->y[i])) continue;
            if (low < 0 || c->y[i] < c->y[low]) low = i;
            if (high < 0 || c->y[i] > c->y[high]) high = i;
        }
        if (low < 0) {
            q.down = false;
            continue;
        }
        const int64_t first = low < high ? low : high, second = low < high ? high : low;
        draw_to(&q, (double)c->x[first], c->y[first]);
        if (second != first) draw_to(&q, (double)c->x[second], c->y[second]);
    }
    qni_page_add(p, "\"/>\n");
}

static void smooth_curve(qni_page *p, const qni_chart *c, const frame *f)
{
    pen q = {.p = p, .f = f};
    qni_smooth s = qni_smooth_of(c->count);
    const int64_t size = (c->count + BUCKETS - 1) / BUCKETS;
    qni_page_add(p, "<path class=\"line\" d=\"");
    for (int64_t i = 0; i < c->count; i++) {
        const double y = qni_smooth_next(&s, c->robust ? fmin(c->y[i], f->y1) : c->y[i]);
        if (!isfinite(c->y[i]))
            q.down = false;
        else if (i % size == 0 || i == c->count - 1)
            draw_to(&q, (double)c->x[i], y);
    }
    qni_page_add(p, "\"/>\n");
}

static void marks(qni_page *p, const qni_chart *c, const frame *f)
{
    pen q = {.p = p, .f = f};
    const int64_t size = c->marks <= BUCKETS ? 1 : (c->marks + BUCKETS - 1) / BUCKETS;
    if (c->marks > 1) {
        qni_page_add(p, "<path class=\"markline\" d=\"");
        for (int64_t i = 0; i < c->marks; i++) {
            if (i % size != 0 && i != c->marks - 1) continue;
            if (isfinite(c->mark_y[i]))
                draw_to(&q, (double)c->mark_x[i], c->mark_y[i]);
            else
                q.down = false;
        }
        qni_page_add(p, "\"/>\n");
    }
    if (c->marks > 200) return;
    for (int64_t i = 0; i < c->marks; i++) {
        if (!isfinite(c->mark_y[i])) continue;
        qni_page_add(p,
                     "<circle class=\"mark\" cx=\"%.1f\" cy=\"%.1f\" r=\"4\"><title>step %" PRId64 ": %.4f%s</title></circle>\n",
                     map_x(f, (double)c->mark_x[i]), map_y(f, c->mark_y[i]), c->mark_x[i], c->mark_y[i], c->unit);
    }
}

qn_status qni_chart_svg(qni_page *p, const qni_chart *c, qn_err *err)
{
    frame f;
    qn_status st = QN_OK;
    if (!frame_of(&f, c, &st, err)) return st;
    qni_page_add(p, "<svg class=\"chart\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", WIDE, HIGH);
    qni_page_html(p, c->name);
    qni_page_add(p, "\">\n<clipPath id=\"clip-");
    for (const char *s = c->name; *s != '\0'; s++) qni_page_bytes(p, *s == ' ' ? "-" : s, 1);
    qni_page_add(p, "\"><rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/></clipPath>\n", LEFT, TOP - 4, WIDE - LEFT,
                 HIGH - TOP - BOTTOM + 6);
    axes(p, &f);
    qni_page_add(p, "<text class=\"name\" x=\"%d\" y=\"%d\" text-anchor=\"end\">step</text>\n", WIDE - RIGHT, HIGH - 4);
    qni_page_add(p, "<g clip-path=\"url(#clip-");
    for (const char *s = c->name; *s != '\0'; s++) qni_page_bytes(p, *s == ' ' ? "-" : s, 1);
    qni_page_add(p, ")\">\n");
    if (c->count > 0) {
        raw_curve(p, c, &f);
        smooth_curve(p, c, &f);
    }
    if (c->count == 1 && isfinite(c->y[0]))
        qni_page_add(p, "<circle class=\"dot\" cx=\"%.1f\" cy=\"%.1f\" r=\"4\"/>", map_x(&f, (double)c->x[0]),
                     map_y(&f, c->y[0]));
    marks(p, c, &f);
    qni_page_add(p, "</g></svg>\n");
    return p->failed ? QN_FAIL(err, QN_ENOMEM, "text of a chart") : QN_OK;
}
