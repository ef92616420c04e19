/* quern bench scale: time of a step, memory and start-up, for three things that grow.
 *
 *   workers      1 to 64
 *   context      128 to 8192 tokens of a sample at one model, the same tokens of a step as far as a sample allows
 *   parameters   1 M to 1.5 B: training; from 354 M also training of adapters and forward passes. What needs more memory than
 * there is is left out, and a line says so
 *
 * bench_scale_points.c says what is measured. The whole takes minutes: --only names points or axes, --limit ends a run early, and
 * --points FILE keeps what was measured, so that the same command goes on where the last one stopped. --quick takes small sizes.
 */
#include "bench_scale.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
#include "core/compiler.h"
#include "core/io.h"

enum { ADAPTER_RANK = 8 };

/* A point that may be measured. */
typedef struct wish {
    char name[32];
    qni_scale_axis axis;
    qni_scale_work work;
    int64_t x; /* workers, context */
    int64_t layers, heads, width;
} wish;

typedef struct scale {
    const qn_bench_options *given;
    qn_line_fn *line;
    void *ctx;
    wish wish[QNI_SCALE_MOST];
    int32_t wishes;
    qni_scale_point point[QNI_SCALE_MOST];
    int32_t points;
} scale;

static const struct {
    int64_t layers, heads, width;
    bool quick, large; /* large: also adapters and forward passes */
} sizes[] = {{4, 4, 128, true, false},    {8, 8, 256, true, false},    {8, 8, 512, true, false},   {12, 12, 768, false, false},
             {24, 16, 1024, false, true}, {36, 20, 1280, false, true}, {48, 25, 1600, false, true}};

static void add_wish(scale *s, wish w, const char *kind, int64_t x)
{
    if (w.width > 0)
        snprintf(w.name, sizeof(w.name), "%s-%" PRId64 "x%" PRId64, kind, w.layers, w.width);
    else
        snprintf(w.name, sizeof(w.name), "%s-%" PRId64, kind, x);
    w.x = x;
    if (s->wishes < QNI_SCALE_MOST) s->wish[s->wishes++] = w;
}

static void list_wishes(scale *s)
{
    const bool quick = s->given->quick;
    for (int64_t w = 1; w <= (quick ? 16 : 64); w *= 2)
        add_wish(s, (wish){.axis = QNI_SCALE_WORKERS, .work = QNI_WORK_SLEEP}, "workers", w);
    for (int64_t t = 128; t <= (quick ? 1024 : 8192); t *= 2)
        add_wish(s, (wish){.axis = QNI_SCALE_CONTEXT, .work = QNI_WORK_TRAIN}, "context", t);
    for (size_t i = 0; i < QN_COUNT(sizes); i++) {
        wish w = {.axis = QNI_SCALE_PARAMETERS,
                  .work = QNI_WORK_TRAIN,
                  .layers = sizes[i].layers,
                  .heads = sizes[i].heads,
                  .width = sizes[i].width};
        if (quick && !sizes[i].quick) continue;
        add_wish(s, w, "train", 0);
        if (!sizes[i].large) continue;
        w.work = QNI_WORK_LORA;
        add_wish(s, w, "lora", 0);
        w.work = QNI_WORK_FORWARD;
        add_wish(s, w, "forward", 0);
    }
}

/* --- which of them */

static bool names(const char *item, const wish *w)
{
    static const char *const axis[QNI_SCALE_AXES] = {"workers", "context", "parameters"};
    return strcmp(item, w->name) == 0 || strcmp(item, axis[w->axis]) == 0;
}

static qn_status check_only(const scale *s, qn_err *err)
{
    const qn_list *only = &s->given->only;
    for (int32_t i = 0; i < only->count; i++) {
        bool found = false;
        const char *known[QNI_SCALE_MOST];
        for (int32_t k = 0; k < s->wishes; k++) {
            found = found || names(only->item[i], &s->wish[k]);
            known[k] = s->wish[k].name;
        }
        const char *near = found ? NULL : qn_nearest(only->item[i], known, (size_t)s->wishes);
        if (!found)
            return QN_FAIL(err, QN_EINVAL,
                           "--only has '%s'%s%s; workers, context, parameters or one of their points, such as workers-8, "
                           "context-512, train-12x768 or lora-48x1600, was wanted",
                           only->item[i], near != NULL ? ", perhaps " : "", near != NULL ? near : "");
    }
    return QN_OK;
}

static bool is_wanted(const scale *s, const wish *w)
{
    bool wanted = s->given->only.count == 0;
    for (int32_t i = 0; i < s->given->only.count; i++) wanted = wanted || names(s->given->only.item[i], w);
    for (int32_t i = 0; i < s->points; i++) wanted = wanted && strcmp(s->point[i].name, w->name) != 0;
    return wanted;
}

/* --- one of them */

static qn_bench_options options_of(const scale *s, const wish *w)
{
    qn_bench_options o = *s->given;
    if (w->axis == QNI_SCALE_CONTEXT) {
        const int64_t tokens = o.quick ? 1024 : 2048;
        if (o.quick) {
            o.layers = 2;
            o.width = 128;
            o.heads = 4;
        }
        o.context = w->x;
        o.batch = qn_max64(1, tokens / w->x);
    } else {
        o.layers = w->layers;
        o.heads = w->heads;
        o.width = w->width;
        o.context = o.context > 0 ? o.context : 256;
        o.batch = o.batch > 0 ? o.batch : 1;
        o.vocab = o.vocab > 0 ? o.vocab : o.width < 768 ? 4096 : 50257;
    }
    o = qni_bench_defaults(&o, false);
    o.dtype = 1;
    return o;
}

/* Memory that a process can have without taking other processes' pages; 0: the system does not say. */
static double free_bytes(void)
{
    char *text = NULL;
    size_t n = 0;
    long long kb = 0;
    const qn_status st = qn_file_read(&text, &n, "/proc/meminfo", 1 << 20, NULL);
    const char *at = st == QN_OK ? strstr(text, "MemAvailable:") : NULL;
    if (at != NULL && sscanf(at, "MemAvailable: %lld", &kb) != 1) kb = 0;
    qn_free(text);
    return (double)kb * 1024;
}

/* Values, gradients, moments, packed copies; or values and packed copies; and a rough room for what passes keep. Whether it fits;
 * else a line says what is missing. */
static bool fits(const scale *s, const wish *w, const qn_bench_options *o)
{
    const double C = (double)o->width, V = (double)o->vocab, count = 12 * (double)o->layers * C * C + V * C;
    const double tokens = (double)(o->batch * o->context);
    const double each = w->work == QNI_WORK_TRAIN ? 20 : w->work == QNI_WORK_LORA ? 8 : 6;
    const double needs = each * count + 4 * V * C + 32 * (double)o->layers * C * tokens + 3e8, has = free_bytes();
    if (has == 0 || needs < has) return true;
    qni_line l = qni_line_begin(o->json);
    qni_line_text(&l, "scale_left_out", w->name);
    qni_line_number(&l, "parameters", count);
    qni_line_number(&l, "needs_bytes", needs);
    qni_line_number(&l, "free_bytes", has);
    qni_line_end(&l, s->line, s->ctx);
    return false;
}

static qn_status measure(scale *s, const wish *w, qn_err *err)
{
    const int32_t steps = (int32_t)qn_min64(s->given->steps, 64);
    const qn_bench_options o = options_of(s, w);
    qni_scale_point p = {.axis = w->axis};
    qn_status st = QN_OK;
    if (w->work == QNI_WORK_SLEEP) {
        st = qni_scale_workers(&p, (int32_t)w->x, steps, err);
    } else if (!fits(s, w, &o)) {
        return QN_OK;
    } else if (w->work == QNI_WORK_FORWARD) {
        st = qni_scale_forward(&p, &o, err);
    } else {
        st = qni_scale_train(&p, &o, w->work == QNI_WORK_LORA ? ADAPTER_RANK : 0, err);
    }
    if (st != QN_OK || s->points == QNI_SCALE_MOST) return st;
    snprintf(p.name, sizeof(p.name), "%s", w->name);
    qni_line l = qni_line_begin(s->given->json);
    qni_scale_line(&l, &p);
    qni_line_end(&l, s->line, s->ctx);
    s->point[s->points++] = p;
    return s->given->points != NULL ? qni_scale_write(s->given->points, s->point, s->points, err) : QN_OK;
}

static qn_status measure_all(scale *s, qn_err *err)
{
    const int64_t began = qn_now_ns(), limit = s->given->limit * 1000000000;
    int32_t left = 0;
    qni_scale_point first = {.axis = QNI_SCALE_WORKERS};
    qn_status st = qni_scale_workers(&first, 2, 1, err); /* what a process needs once is nobody's */
    for (int32_t i = 0; st == QN_OK && i < s->wishes; i++) {
        if (!is_wanted(s, &s->wish[i])) continue;
        if (limit > 0 && qn_now_ns() - began >= limit)
            left++;
        else
            st = measure(s, &s->wish[i], err);
    }
    if (st != QN_OK || left == 0) return st;
    qni_line l = qni_line_begin(s->given->json);
    qni_line_text(&l, "scale_stopped", "at the limit; the same command with --points goes on");
    qni_line_number(&l, "left", left);
    qni_line_end(&l, s->line, s->ctx);
    return QN_OK;
}

qn_status qn_bench_scale(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err)
{
    scale *s = qn_calloc(1, sizeof(*s));
    if (s == NULL) return QN_FAIL(err, QN_ENOMEM, "points of scale");
    s->given = given;
    s->line = line;
    s->ctx = ctx;
    list_wishes(s);
    qn_status st = check_only(s, err);
    if (st == QN_OK && given->points != NULL) st = qni_scale_read(s->point, &s->points, given->points, err);
    if (st == QN_OK) st = measure_all(s, err);
    if (st == QN_OK && given->svg != NULL) st = qni_scale_svg(given->svg, s->point, s->points, err);
    qn_free(s);
    return st;
}
