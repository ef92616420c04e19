/* Points of quern bench scale as lines, and in a file of JSON lines that a later run goes on with. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bench_scale.h"
#include "core/alloc.h"
#include "core/io.h"
#include "session/report/page.h"

enum { MOST_BYTES = 1 << 20 };
static const char *const axes[QNI_SCALE_AXES] = {"workers", "context", "parameters"};
static const char *const works[QNI_WORKS] = {"sleep", "train", "lora", "forward"};

void qni_scale_line(qni_line *l, const qni_scale_point *p)
{
    qni_line_text(l, "scale", p->name);
    qni_line_text(l, "axis", axes[p->axis]);
    qni_line_text(l, "work", works[p->work]);
    qni_line_number(l, axes[p->axis], p->x);
    qni_line_number(l, "step_ms", p->step_s * 1e3);
    qni_line_number(l, "least_ms", p->least_s * 1e3);
    qni_line_number(l, "most_ms", p->most_s * 1e3);
    qni_line_number(l, "spread", p->spread);
    if (p->ideal_s > 0) qni_line_number(l, "ideal_ms", p->ideal_s * 1e3);
    if (p->ideal_s > 0) qni_line_number(l, "share", p->ideal_s / p->step_s);
    if (p->tokens > 0) qni_line_number(l, "tokens", p->tokens);
    if (p->tokens > 0) qni_line_number(l, "tokens_per_s", p->tokens / p->step_s);
    qni_line_number(l, "start_ms", p->start_s * 1e3);
    qni_line_number(l, "memory_bytes", p->memory_bytes);
    if (p->floor_bytes > 0) qni_line_number(l, "floor_bytes", p->floor_bytes);
}

static double number(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static int index_of(const char *const *list, int n, const json_t *text)
{
    for (int i = 0; i < n && json_is_string(text); i++)
        if (strcmp(list[i], json_string_value(text)) == 0) return i;
    return -1;
}

static bool read_point(qni_scale_point *p, const json_t *o)
{
    const char *name = json_string_value(json_object_get(o, "scale"));
    const int axis = index_of(axes, QNI_SCALE_AXES, json_object_get(o, "axis"));
    const int work = index_of(works, QNI_WORKS, json_object_get(o, "work"));
    if (name == NULL || strlen(name) >= sizeof(p->name) || axis < 0 || work < 0) return false;
    *p = (qni_scale_point){.axis = (qni_scale_axis)axis,
                           .work = (qni_scale_work)work,
                           .x = number(o, axes[axis]),
                           .tokens = number(o, "tokens"),
                           .step_s = number(o, "step_ms") * 1e-3,
                           .least_s = number(o, "least_ms") * 1e-3,
                           .most_s = number(o, "most_ms") * 1e-3,
                           .spread = number(o, "spread"),
                           .ideal_s = number(o, "ideal_ms") * 1e-3,
                           .start_s = number(o, "start_ms") * 1e-3,
                           .memory_bytes = number(o, "memory_bytes"),
                           .floor_bytes = number(o, "floor_bytes")};
    snprintf(p->name, sizeof(p->name), "%s", name);
    return p->x > 0 && p->step_s > 0;
}

qn_status qni_scale_read(qni_scale_point *point, int32_t *points, const char *path, qn_err *err)
{
    char *text = NULL;
    size_t bytes = 0;
    int number_of_line = 0;
    *points = 0;
    if (qn_path_exists(path) == 0) return QN_OK;
    qn_status st = qn_file_read(&text, &bytes, path, MOST_BYTES, err);
    for (char *at = text, *end; st == QN_OK && at != NULL && *at != '\0'; at = end) {
        end = strchr(at, '\n');
        const size_t n = end != NULL ? (size_t)(end - at) : strlen(at);
        end = end != NULL ? end + 1 : at + n;
        number_of_line++;
        if (n == 0) continue;
        json_t *o = json_loadb(at, n, JSON_REJECT_DUPLICATES, NULL);
        if (*points == QNI_SCALE_MOST || !read_point(&point[*points], o))
            st = QN_FAIL(err, QN_EFORMAT, "%s: line %d is no point that quern bench scale has written (at most %d)", path,
                         number_of_line, QNI_SCALE_MOST);
        else
            ++*points;
        json_decref(o);
    }
    qn_free(text);
    return st;
}

static void keep(void *ctx, const char *line)
{
    qni_page_add(ctx, "%s\n", line);
}

qn_status qni_scale_write(const char *path, const qni_scale_point *point, int32_t points, qn_err *err)
{
    qni_page page = {0};
    char *text = NULL;
    for (int32_t i = 0; i < points; i++) {
        qni_line l = qni_line_begin(1);
        qni_scale_line(&l, &point[i]);
        qni_line_end(&l, keep, &page);
    }
    const size_t bytes = page.used;
    qn_status st = qni_page_done(&text, &page, err);
    if (st == QN_OK) st = qn_file_write(path, text, bytes, err);
    qn_free(text);
    return st;
}
