/* Schedule files and cost texts. */
#include "schedule_file.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/io.h"

enum { DECIMALS = 6 };
static const int64_t MOST_TICKS = 1000000000; /* times the most tasks of a step still fits into 64 bits */

const char *qni_schedule_form_name(qn_schedule_form form)
{
    return form == QN_FORM_ORDER ? "order" : form == QN_FORM_CSV ? "CSV order" : form == QN_FORM_PLAN ? "plan" : "unknown";
}

/* The message with the file's name before it. */
static qn_status in_file(qn_err *err, const char *path, qn_status st)
{
    if (err == NULL || st == QN_OK || st == QN_ENOENT) return st;
    char why[QN_ERR_TEXT];
    snprintf(why, sizeof(why), "%s", err->text);
    return QN_FAIL(err, st, "%s: %.900s", path, why);
}

qn_status qni_schedule_read(qni_schedule *out, const char *path, qn_err *err)
{
    char *text = NULL;
    size_t bytes = 0;
    *out = (qni_schedule){.form = QN_FORM_UNKNOWN};
    qn_status st = qn_file_read(&text, &bytes, path, (size_t)256 << 20, err);
    if (st != QN_OK) return st;
    out->form = qn_schedule_form_of(text, bytes);
    if (out->form == QN_FORM_UNKNOWN)
        st =
            QN_FAIL(err, QN_EFORMAT, "no schedule; a first line 'quern-order 1' or 'quern-plan 1', or PyTorch's CSV, was wanted");
    else
        st =
            out->form == QN_FORM_PLAN ? qn_plan_read(&out->plan, text, bytes, err) : qn_order_read(&out->order, text, bytes, err);
    qn_free(text);
    return in_file(err, path, st);
}

void qni_schedule_fini(qni_schedule *s)
{
    qn_order_close(s->order);
    qn_plan_close(s->plan);
    *s = (qni_schedule){.form = QN_FORM_UNKNOWN};
}

/* A number without sign or exponent, in units of 10^-DECIMALS; *decimals: those really written. */
static const char *read_number(int64_t *micro, int *decimals, const char *s)
{
    int64_t whole = 0, part = 0;
    int places = 0, digits = 0;
    for (; *s >= '0' && *s <= '9'; s++, digits++) {
        whole = whole * 10 + (*s - '0');
        if (whole > MOST_TICKS) return NULL;
    }
    if (*s == '.') {
        for (s++; *s >= '0' && *s <= '9'; s++, digits++) {
            if (places == DECIMALS && *s != '0') return NULL;
            if (places < DECIMALS) {
                part = part * 10 + (*s - '0');
                places++;
            }
        }
    }
    if (digits == 0) return NULL;
    while (places > 0 && part % 10 == 0) {
        part /= 10;
        places--;
    }
    *decimals = places;
    for (int i = places; i < DECIMALS; i++) part *= 10;
    *micro = whole * 1000000 + part;
    return s;
}

static const struct {
    const char *name;
    qn_op op;
} named[] = {{"F", QN_OP_F}, {"B", QN_OP_B}, {"W", QN_OP_W}, {"R", QN_OP_R}};
enum { NAMED = sizeof(named) / sizeof(named[0]) };

/* Times in millionths, by op; -1: not written. */
static qn_status read_costs(int64_t micro[QN_OPS], int *decimals, const char *text, qn_err *err)
{
    const char *s = text;
    for (;;) {
        const size_t len = strcspn(s, "=,");
        int which = 0, places = 0;
        while (which < NAMED && (strlen(named[which].name) != len || strncmp(s, named[which].name, len) != 0)) which++;
        if (which == NAMED || s[len] != '=')
            return QN_FAIL(err, QN_EINVAL, "--cost %s: '%.40s' found; NAME=TIME with F, B, W or R was wanted, as in F=1,B=2",
                           text, s);
        int64_t *to = &micro[named[which].op];
        if (*to >= 0) return QN_FAIL(err, QN_EINVAL, "--cost %s: %s is given twice", text, named[which].name);
        const char *rest = read_number(to, &places, s + len + 1);
        if (rest == NULL || (*rest != ',' && *rest != '\0'))
            return QN_FAIL(err, QN_EINVAL, "--cost %s: the time of %s is a plain number with at most %d decimals, up to 1e9",
                           text, named[which].name, DECIMALS);
        if (places > *decimals) *decimals = places;
        if (*rest == '\0') break;
        s = rest + 1;
    }
    if (micro[QN_OP_F] < 0 || micro[QN_OP_B] < 0)
        return QN_FAIL(err, QN_EINVAL, "--cost %s: both F and B are needed, as in F=1,B=2", text);
    return QN_OK;
}

static int latency_decimals(double latency)
{
    double power = 1;
    for (int d = 0; d < DECIMALS; d++, power *= 10)
        if (fabs(latency * power - nearbyint(latency * power)) <= 1e-9 * fmax(1, latency * power)) return d;
    return DECIMALS;
}

/* Whether half of that many millionths is a whole number of ticks when a unit has 10^decimals of them. */
static bool half_is_whole(int64_t micro, int decimals)
{
    int64_t tick = 1;
    for (int i = decimals; i < DECIMALS; i++) tick *= 10;
    return micro / tick % 2 == 0;
}

qn_status qni_costs_parse(qni_costs *out, const char *text, double latency, qn_err *err)
{
    int64_t micro[QN_OPS];
    int decimals = 0;
    for (int op = 0; op < QN_OPS; op++) out->tick[op] = micro[op] = -1;
    if (text != NULL) {
        const qn_status st = read_costs(micro, &decimals, text, err);
        if (st != QN_OK) return st;
    }
    const bool split = micro[QN_OP_W] >= 0;
    const int lat = latency_decimals(latency);
    if (lat > decimals) decimals = lat;
    while (text != NULL && !split && decimals < DECIMALS && !half_is_whole(micro[QN_OP_B], decimals)) decimals++;
    int64_t divide = 1;
    for (int i = decimals; i < DECIMALS; i++) divide *= 10;
    out->scale = 1e6 / (double)divide;
    for (int op = 0; op < QN_OPS; op++) {
        if (micro[op] >= 0) out->tick[op] = micro[op] / divide;
        if (out->tick[op] > MOST_TICKS)
            return QN_FAIL(err, QN_ERANGE,
                           "--cost %s: with these decimals the largest time is %lld ticks; at most %lld are possible", text,
                           (long long)out->tick[op], (long long)MOST_TICKS);
    }
    if (latency < 0 || latency * out->scale > (double)MOST_TICKS)
        return QN_FAIL(err, QN_ERANGE, "--latency %g is %g ticks; 0 to %lld are possible", latency, latency * out->scale,
                       (long long)MOST_TICKS);
    out->latency = (int64_t)nearbyint(latency * out->scale);
    if (text == NULL) return QN_OK;
    out->tick[QN_OP_BW] = out->tick[QN_OP_B] + (split ? out->tick[QN_OP_W] : 0);
    if (!split) {
        out->tick[QN_OP_W] = out->tick[QN_OP_BW] / 2;
        out->tick[QN_OP_B] = out->tick[QN_OP_BW] - out->tick[QN_OP_W];
    }
    if (out->tick[QN_OP_R] < 0) out->tick[QN_OP_R] = out->tick[QN_OP_F];
    return QN_OK;
}
