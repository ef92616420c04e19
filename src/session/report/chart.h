/* Line charts as inline SVG for report.html: axes with round ticks, one measured curve (drawn faint) with its smoothed line, and
 * marked points. Size does not grow with the run: a curve is thinned to about 1500 points that keep every bump. */
#ifndef QN_SESSION_CHART_H
#define QN_SESSION_CHART_H

#include <stdbool.h>
#include <stdint.h>

#include "page.h"

typedef struct qni_chart {
    const char *name; /* for readers of the page's text: "loss by step" */
    const char *unit; /* of y, in the tooltips; may be "" */
    const int64_t *x; /* [count], ascending */
    const double *y;  /* [count]; not finite: a gap */
    int64_t count;
    const int64_t *mark_x; /* [marks] */
    const double *mark_y;
    int64_t marks;
    bool from_zero; /* the y axis begins at 0 */
    bool robust;    /* the y axis ends a little above all but the largest twentieth of the points */
} qni_chart;

/* An exponential moving average that knows how many values it has seen; gaps are skipped. */
typedef struct qni_smooth {
    double share, sum, weight;
} qni_smooth;
qni_smooth qni_smooth_of(int64_t count); /* over about a hundredth of count values */
double qni_smooth_next(qni_smooth *s, double y);

/* Nothing is drawn when no point is finite. Errors: QN_ENOMEM. */
qn_status qni_chart_svg(qni_page *p, const qni_chart *c, qn_err *err) QN_MUST_USE;

/* A round step (1, 2 or 5 times a power of ten) that cuts span into at most parts. */
double qni_round_step(double span, int parts);

#endif
