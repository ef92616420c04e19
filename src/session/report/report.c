/* report.html: one page about a run, with its styles and pictures inside. */
#include "report.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chart.h"
#include "core/alloc.h"
#include "core/io.h"
#include "page.h"

static const char style[] =
    ":root{color-scheme:light dark;--page:#f6f5f2;--card:#fffefb;--ink:#1d1c1a;--soft:#6b6862;--rule:#e3e0d9;--axis:#b9b4a9;"
    "--train:#2468b4;--mark:#c4551b}\n"
    "@media "
    "(prefers-color-scheme:dark){:root{--page:#151513;--card:#1e1d1b;--ink:#efece4;--soft:#a5a096;--rule:#34322e;--axis:#5b5850;"
    "--train:#6ea8e8;--mark:#f09058}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'Noto "
    "Sans',sans-serif}\n"
    "main{max-width:960px;margin:0 auto;padding:32px 20px 56px}\n"
    "header p{margin:0;color:var(--soft);font-size:14px;letter-spacing:.02em}\n"
    "h1{margin:2px 0 22px;font-size:28px;line-height:1.2;font-weight:650;letter-spacing:-.01em}\n"
    "h2{margin:0 0 4px;font-size:17px;font-weight:650}\n"
    "section{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:18px 20px;margin:0 0 16px}\n"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(148px,1fr));gap:12px;margin:0 0 16px}\n"
    ".tile{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:12px 16px}\n"
    ".tile b{display:block;font-size:24px;line-height:1.25;font-weight:650;font-variant-numeric:tabular-nums}\n"
    ".tile span{color:var(--soft);font-size:13px}\n"
    ".note,.legend{margin:0 0 10px;color:var(--soft);font-size:14px}\n"
    ".legend span{margin-right:18px;white-space:nowrap}\n"
    ".legend b{color:var(--ink);font-weight:600;font-variant-numeric:tabular-nums}\n"
    ".legend i{display:inline-block;width:18px;height:0;border-top:3px solid "
    "var(--train);border-radius:2px;vertical-align:.28em;margin-right:7px}\n"
    ".legend i.faint{opacity:.35}.legend "
    "i.m{width:9px;height:9px;border:0;border-radius:50%;background:var(--mark);vertical-align:0}\n"
    "svg{display:block;width:100%;height:auto}\n"
    ".grid{stroke:var(--rule)}.axis{stroke:var(--axis)}\n"
    ".tick,.name{fill:var(--soft);font-size:13px;font-variant-numeric:tabular-nums}\n"
    ".raw{fill:none;stroke:var(--train);stroke-width:1;opacity:.3;stroke-linejoin:round}\n"
    ".line{fill:none;stroke:var(--train);stroke-width:2.5;stroke-linejoin:round;stroke-linecap:round}\n"
    ".markline{fill:none;stroke:var(--mark);stroke-width:1.5;opacity:.6}\n"
    ".mark{fill:var(--mark);stroke:var(--card);stroke-width:1.5}.dot{fill:var(--train)}\n"
    "table{border-collapse:collapse;width:100%;font-size:15px}\n"
    "th,td{text-align:left;padding:6px 12px 6px 0;border-top:1px solid var(--rule);vertical-align:top;overflow-wrap:anywhere}\n"
    "tr:first-child>th,tr:first-child>td{border-top:0}\n"
    "th{color:var(--soft);font-weight:400;white-space:nowrap;width:1%;padding-right:24px}\n"
    ".numbers{margin:0 0 14px;width:auto}.numbers th{width:auto}.numbers td,.numbers "
    "th{text-align:right;padding-left:18px;padding-right:0;font-variant-numeric:tabular-nums}\n"
    ".numbers th:first-child,.numbers td:first-child{text-align:left;padding-left:0;color:var(--soft)}\n"
    ".numbers tr:first-child+tr>td{border-top:1px solid var(--axis)}\n"
    ".wide{overflow-x:auto;margin:0 -6px}.wide svg{min-width:620px}.wide svg>rect:first-of-type{fill:none}\n"
    ".wide .t{fill:var(--ink);font-size:16px}.wide .s,.wide .a{fill:var(--soft)}.wide .w,.wide .l{fill:var(--ink)}\n"
    ".wide rect[fill='#eef1f5']{fill:var(--rule);stroke:none}\n"
    "pre{margin:8px 0 0;white-space:pre-wrap;overflow-wrap:anywhere;font:15px/1.55 ui-serif,Georgia,'Noto Serif',serif}\n"
    "@media (max-width:600px){main{padding:18px 12px 40px}h1{font-size:22px}section{padding:14px "
    "12px}.tick,.name{font-size:26px}.odd,.name{display:none}"
    ".raw{stroke-width:2}.line{stroke-width:5}.mark{r:8px}th{white-space:normal;width:34%}}\n";

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void tile(qni_page *p, const char *name, const char *value)
{
    qni_page_add(p, "<div class=\"tile\"><b>");
    qni_page_html(p, value);
    qni_page_add(p, "</b><span>");
    qni_page_html(p, name);
    qni_page_add(p, "</span></div>\n");
}

/* "1.234 ms", three digits that mean something. */
static const char *time_text(char buf[32], double ns)
{
    static const char *const unit[] = {"ns", "µs", "ms", "s"};
    int i = 0;
    while (i < 3 && ns >= 1000) {
        ns /= 1000;
        i++;
    }
    snprintf(buf, 32, "%.*f %s", ns >= 100 || i == 0 ? 0 : ns >= 10 ? 1 : 2, ns, unit[i]);
    return buf;
}

/* What the page says in numbers, worked out once. */
typedef struct figures {
    double last_loss, last_eval, median_ms; /* NaN: none */
    qn_trace_summary *measured, *simulated; /* NULL: none */
} figures;

static qn_status summarize(qn_trace_summary **out, const qn_trace *t, qn_err *err)
{
    if (t == NULL) return QN_OK;
    *out = qn_malloc(1, sizeof(**out));
    if (*out == NULL) return QN_FAIL(err, QN_ENOMEM, "summary of a trace");
    qn_trace_summarize(*out, t);
    return QN_OK;
}

static qn_status work_out(figures *f, const qn_report_data *d, qn_err *err)
{
    qn_status st;
    int64_t n = 0;
    qni_smooth s = qni_smooth_of(d->rows);
    double *ms = qn_malloc((size_t)d->rows + 1, sizeof(*ms));
    *f = (figures){.last_loss = NAN, .last_eval = NAN, .median_ms = NAN};
    if (ms == NULL) return QN_FAIL(err, QN_ENOMEM, "times of %" PRId64 " steps", d->rows);
    for (int64_t i = 0; i < d->rows; i++) {
        f->last_loss = qni_smooth_next(&s, d->row[i].loss);
        if (isfinite(d->row[i].step_ms)) ms[n++] = d->row[i].step_ms;
    }
    qsort(ms, (size_t)n, sizeof(*ms), ascending);
    if (n > 0) f->median_ms = ms[n / 2];
    qn_free(ms);
    for (int64_t i = 0; i < d->evals; i++)
        if (isfinite(d->eval_loss[i])) f->last_eval = d->eval_loss[i];
    QN_TRY(st, summarize(&f->measured, d->measured, err), out);
    QN_TRY(st, summarize(&f->simulated, d->simulated, err), out);
out:
    return st;
}

static void tiles(qni_page *p, const figures *f)
{
    char buf[64], t[32];
    qni_page_add(p, "<div class=\"tiles\">\n");
    if (isfinite(f->last_eval)) {
        snprintf(buf, sizeof(buf), "%.4f", f->last_eval);
        tile(p, "validation loss", buf);
    }
    if (isfinite(f->last_loss)) {
        snprintf(buf, sizeof(buf), "%.4f", f->last_loss);
        tile(p, "training loss", buf);
    }
    if (isfinite(f->median_ms)) tile(p, "median step", time_text(t, f->median_ms * 1e6));
    if (f->measured != NULL) {
        snprintf(buf, sizeof(buf), "%.1f %%", f->measured->bubble * 100);
        tile(p, "bubble, measured", buf);
    }
    if (f->simulated != NULL) {
        snprintf(buf, sizeof(buf), "%.1f %%", f->simulated->bubble * 100);
        tile(p, "bubble, predicted", buf);
    }
    qni_page_add(p, "</div>\n");
}

static void facts(qni_page *p, const qn_report_data *d)
{
    if (d->facts == 0) return;
    qni_page_add(p, "<section><table>\n");
    for (int32_t i = 0; i < d->facts; i++) {
        qni_page_add(p, "<tr><th scope=\"row\">");
        qni_page_html(p, d->fact[i].name);
        qni_page_add(p, "</th><td>");
        qni_page_html(p, d->fact[i].value);
        qni_page_add(p, "</td></tr>\n");
    }
    qni_page_add(p, "</table></section>\n");
}

typedef double pick_fn(const qn_metrics_row *row);
static double loss_of(const qn_metrics_row *row)
{
    return row->loss;
}
static double time_of(const qn_metrics_row *row)
{
    return row->step_ms;
}

/* A chart over the steps; pick says which number of a row. */
static qn_status step_chart(qni_page *p, const qn_report_data *d, qni_chart *c, pick_fn *pick, qn_err *err)
{
    qn_status st;
    int64_t *x = qn_malloc((size_t)d->rows + 1, sizeof(*x));
    double *y = qn_malloc((size_t)d->rows + 1, sizeof(*y));
    if (x == NULL || y == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "a chart of %" PRId64 " steps", d->rows);
        goto out;
    }
    for (int64_t i = 0; i < d->rows; i++) {
        x[i] = d->row[i].step;
        y[i] = pick(&d->row[i]);
    }
    c->x = x;
    c->y = y;
    c->count = d->rows;
    st = qni_chart_svg(p, c, err);
out:
    qn_free(x);
    qn_free(y);
    return st;
}

static qn_status curves(qni_page *p, const qn_report_data *d, const figures *f, qn_err *err)
{
    qn_status st = QN_OK;
    char t[32];
    if (isfinite(f->last_loss) || isfinite(f->last_eval)) {
        qni_chart loss = {.name = "loss by step", .unit = "", .mark_x = d->eval_step, .mark_y = d->eval_loss, .marks = d->evals};
        qni_page_add(p,
                     "<section><h2>Loss</h2>\n<p class=\"legend\"><span><i></i>training, smoothed <b>%.4f</b></span><span><i "
                     "class=\"faint\"></i>each "
                     "step</span>",
                     f->last_loss);
        if (isfinite(f->last_eval)) qni_page_add(p, "<span><i class=\"m\"></i>validation <b>%.4f</b></span>", f->last_eval);
        qni_page_add(p, "</p>\n");
        QN_TRY(st, step_chart(p, d, &loss, loss_of, err), out);
        qni_page_add(p, "</section>\n");
    }
    if (isfinite(f->median_ms)) {
        qni_chart time = {.name = "time of each step", .unit = " ms", .from_zero = true, .robust = true};
        qni_page_add(p,
                     "<section><h2>Step time</h2>\n<p class=\"legend\"><span><i></i>milliseconds, smoothed</span><span>median "
                     "<b>%s</b></span></p>\n",
                     time_text(t, f->median_ms * 1e6));
        QN_TRY(st, step_chart(p, d, &time, time_of, err), out);
        qni_page_add(p, "</section>\n");
    }
out:
    return st;
}

/* One column of the pipeline's numbers. worker -1: the whole. */
static void idle_cell(qni_page *p, const qn_trace_summary *s, int32_t worker)
{
    if (s == NULL) return;
    const double share = s->makespan > 0 ? (double)s->idle_makespan[worker] / (double)s->makespan : 0;
    qni_page_add(p, "<td>%.1f %%</td>", share * 100);
}

static void pipeline_numbers(qni_page *p, const qn_report_data *d, const figures *f)
{
    enum { MOST = 16 };
    const qn_trace_summary *m = f->measured, *s = f->simulated;
    char a[32], b[32];
    qni_page_add(p, "<div style=\"overflow-x:auto\"><table class=\"numbers\"><tr><th></th>%s%s</tr>\n<tr><td>makespan</td>",
                 m ? "<th>measured</th>" : "", s ? "<th>simulated</th>" : "");
    if (m != NULL) qni_page_add(p, "<td>%s</td>", time_text(a, (double)m->makespan));
    if (s != NULL) qni_page_add(p, "<td>%s</td>", time_text(b, (double)s->makespan));
    qni_page_add(p, "</tr>\n<tr><td>bubble</td>");
    if (m != NULL) qni_page_add(p, "<td>%.1f %%</td>", m->bubble * 100);
    if (s != NULL) qni_page_add(p, "<td>%.1f %%</td>", s->bubble * 100);
    qni_page_add(p, "</tr>\n");
    const int32_t workers = (m != NULL ? d->measured : d->simulated)->plan->workers;
    for (int32_t w = 0; w < workers && w < MOST; w++) {
        qni_page_add(p, "<tr><td>worker %d idle</td>", w);
        idle_cell(p, m, w);
        idle_cell(p, s, w);
        qni_page_add(p, "</tr>\n");
    }
    qni_page_add(p, "</table></div>\n");
    if (m != NULL && s != NULL && s->makespan > 0)
        qni_page_add(p,
                     "<p class=\"note\">One step, the median of the last ones. The simulation runs the same plan with the "
                     "measured cost of each task; the "
                     "makespans differ by %+.1f %%.</p>\n",
                     ((double)m->makespan / (double)s->makespan - 1) * 100);
}

static qn_status pipeline(qni_page *p, const qn_report_data *d, const figures *f, qn_err *err)
{
    const qn_trace *const from[2] = {d->measured, d->simulated};
    static const char *const names[2] = {"measured", "simulated with the measured costs"};
    qn_trace drawn[2]; /* as they are, but shown in milliseconds */
    const qn_trace *traces[2];
    const char *titles[2];
    char *svg = NULL;
    int32_t n = 0;
    for (int i = 0; i < 2; i++) {
        if (from[i] == NULL) continue;
        drawn[n] = *from[i];
        drawn[n].ticks_per_ms = 1000000;
        traces[n] = &drawn[n];
        titles[n++] = names[i];
    }
    if (n == 0) return QN_OK;
    const qn_status st = qn_trace_svg(&svg, traces, titles, n, err);
    if (st != QN_OK) return st;
    qni_page_add(p, "<section><h2>Pipeline</h2>\n");
    pipeline_numbers(p, d, f);
    const char *body = strstr(svg, "<svg"); /* an XML declaration has no place inside a page */
    qni_page_add(p, "<div class=\"wide\">%s</div></section>\n", body != NULL ? body : svg);
    qn_free(svg);
    return QN_OK;
}

static qn_status write_page(qni_page *p, const qn_report_data *d, const figures *f, qn_err *err)
{
    qn_status st;
    qni_page_add(p, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                    "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>");
    qni_page_html(p, d->title);
    qni_page_add(p, "</title>\n<style>\n%s</style>\n</head>\n<body><main>\n<header><p>Quern training run</p><h1>", style);
    qni_page_html(p, d->title);
    qni_page_add(p, "</h1></header>\n");
    tiles(p, f);
    facts(p, d);
    QN_TRY(st, curves(p, d, f, err), out);
    QN_TRY(st, pipeline(p, d, f, err), out);
    if (d->sample != NULL && d->sample[0] != '\0') {
        qni_page_add(p, "<section><h2>What the model writes</h2>\n<pre>");
        qni_page_html(p, d->sample);
        qni_page_add(p, "</pre></section>\n");
    }
    qni_page_add(p, "</main></body>\n</html>\n");
out:
    return st;
}

qn_status qn_report_write(const char *path, const qn_report_data *d, qn_err *err)
{
    qn_status st;
    qni_page p = {.text = NULL};
    figures f;
    char *text = NULL;
    QN_TRY(st, work_out(&f, d, err), out);
    QN_TRY(st, write_page(&p, d, &f, err), out);
    QN_TRY(st, qni_page_done(&text, &p, err), out);
    st = qn_file_write(path, text, strlen(text), err);
out:
    qni_page_fini(&p);
    qn_free(text);
    qn_free(f.measured);
    qn_free(f.simulated);
    return st;
}
