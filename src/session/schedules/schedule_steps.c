/* See schedule_steps.h. */
#include "schedule_steps.h"

#include <inttypes.h>

#include "core/checked.h"
#include "core/compiler.h"

qn_status qni_steps_check(const qn_schedule_options *opt, qn_err *err)
{
    const bool several = qni_steps_of(opt) > 1;
    if (!several && (opt->optimizer_lag > 0 || opt->post_validate != 0))
        return QN_FAIL(err, QN_EINVAL, "--optimizer-lag and --post-validate are about what lies between steps: --steps 8, say");
    if (several && opt->forward != 0)
        return QN_FAIL(err, QN_EINVAL, "--steps %" PRId64 " with --forward: forward passes alone make no optimizer steps",
                       opt->steps);
    if (opt->optimizer_lag > 0 && opt->post_validate != 0)
        return QN_FAIL(err, QN_EINVAL, "--optimizer-lag 1 with --post-validate: the lag leaves nothing to validate; choose one");
    return QN_OK;
}

void qni_steps_lower(qn_lowering *how, const qn_schedule_options *opt, bool devices)
{
    if (qni_steps_of(opt) == 1) return;
    how->step_tasks = opt->optimizer_lag == 0 || devices;
    how->post_validate = how->ahead = opt->post_validate != 0;
}

qn_status qni_steps_chain(qn_plan **plan, int32_t steps, qn_err *err)
{
    qn_plan *many = NULL;
    if (steps == 1) return QN_OK;
    const qn_status st = qn_plan_chain(&many, *plan, steps, NULL, err);
    if (st != QN_OK) return st;
    qn_plan_close(*plan);
    *plan = many;
    return QN_OK;
}

/* ---- first, steady, last */

/* After how many steps every worker has the same part of the plan again. */
static int32_t period_of(const qn_plan *p)
{
    return qn_cursor_period(p);
}

static void add(qn_step_share *sum, const qn_step_share *x)
{
    sum->share += x->share;
    sum->busy += x->busy;
    for (int k = 0; k < QN_IDLE_PARTS; k++) sum->part[k] += x->part[k];
}

qni_steps qni_steps_summary(const qn_step_share *step, const qn_plan *p)
{
    const int32_t between = p->steps - 2, period = period_of(p);
    qni_steps s = {.first = step[0], .last = step[p->steps - 1], .period = period};
    if (between < 1) return s;
    s.steady_steps = between < period ? between : qn_max32((between + 1) / 2 / period, 1) * period;
    s.first_steady = p->steps - 1 - s.steady_steps;
    for (int32_t i = s.first_steady; i < p->steps - 1; i++) add(&s.steady, &step[i]);
    return s;
}

/* ---- texts */

static const char *const part_name[QN_IDLE_PARTS] = {
    [QN_IDLE_FILL] = "fill",         [QN_IDLE_DRAIN] = "drain",           [QN_IDLE_SWITCH] = "switch",
    [QN_IDLE_INTERNAL] = "internal", [QN_IDLE_MEMORY] = "blocked_memory", [QN_IDLE_TRANSFER] = "blocked_transfer"};

static double idle_of(const qn_step_share *s)
{
    return s->share > 0 ? (double)(s->share - s->busy) / (double)s->share : 0;
}

static void people_row(qni_page *p, const char *name, const qn_step_share *s, double unit)
{
    qni_page_add(p, "%-7s %10.8g %7.3f %% ", name, (double)s->share / unit, 100 * idle_of(s));
    for (int k = 0; k < QN_IDLE_PARTS; k++) qni_page_add(p, " %10.6g", (double)s->part[k] / unit);
    qni_page_add(p, "\n");
}

void qni_steps_people(qni_page *p, const qn_step_share *step, const qn_plan *plan, double scale)
{
    const qni_steps s = qni_steps_summary(step, plan);
    const double each = scale * plan->workers;
    qni_page_add(p, "\n%d steps; of a worker, on the average:                                        blocked on\n", plan->steps);
    qni_page_add(p, "step          time      idle        fill      drain     switch   internal     memory   transfer\n");
    people_row(p, "first", &s.first, each);
    if (s.steady_steps > 0) people_row(p, "steady", &s.steady, each * s.steady_steps);
    people_row(p, "last", &s.last, each);
    if (s.steady_steps > 0)
        qni_page_add(p, "steady: steps %d to %d of %d\n", s.first_steady + 1, s.first_steady + s.steady_steps, plan->steps);
}

static void json_share(qni_page *p, const char *name, const qn_step_share *s, double unit)
{
    qni_page_add(p, ", \"%s\": {\"time\": ", name);
    qni_page_number(p, (double)s->share / unit);
    qni_page_add(p, ", \"bubble\": ");
    qni_page_number(p, idle_of(s));
    for (int k = 0; k < QN_IDLE_PARTS; k++) {
        qni_page_add(p, ", \"%s\": ", part_name[k]);
        qni_page_number(p, (double)s->part[k] / unit);
    }
    qni_page_add(p, "}");
}

void qni_steps_json(qni_page *p, const qn_step_share *step, const qn_plan *plan, double scale)
{
    const qni_steps s = qni_steps_summary(step, plan);
    const double each = scale * plan->workers;
    qni_page_add(p, ", \"steps\": %d, \"steady_steps\": %d, \"first_steady\": %d, \"step_time\": [", plan->steps, s.steady_steps,
                 s.first_steady);
    for (int32_t i = 0; i < plan->steps; i++) {
        if (i > 0) qni_page_add(p, ", ");
        qni_page_number(p, (double)step[i].share / each);
    }
    qni_page_add(p, "]");
    json_share(p, "first", &s.first, each);
    if (s.steady_steps > 0) json_share(p, "steady", &s.steady, each * s.steady_steps);
    json_share(p, "last", &s.last, each);
}
