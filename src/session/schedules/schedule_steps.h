/* Several optimizer steps of a schedule as one plan, as quern train --flight runs them, and where the time of the first, the
 * steady and the last step goes. Internal to src/session/schedules. */
#ifndef QN_SESSION_SCHEDULE_STEPS_H
#define QN_SESSION_SCHEDULE_STEPS_H

#include "quern/schedule.h"
#include "schedule/trace.h"
#include "session/report/page.h"

/* What --steps, --optimizer-lag and --post-validate ask for goes together. Errors: QN_EINVAL. */
qn_status qni_steps_check(const qn_schedule_options *opt, qn_err *err) QN_MUST_USE;
static inline int32_t qni_steps_of(const qn_schedule_options *opt)
{
    return opt != NULL && opt->steps > 1 ? (int32_t)opt->steps : 1;
}

/* What lies between steps, into how: the step tasks. A lagging optimizer on workers that hold their stages is nobody's concern:
 * there are none then. */
void qni_steps_lower(qn_lowering *how, const qn_schedule_options *opt, bool devices);
/* The plan becomes that of so many steps. Errors: those of qn_plan_chain; on an error it stays. */
qn_status qni_steps_chain(qn_plan **plan, int32_t steps, qn_err *err) QN_MUST_USE;

/* Shares of the first step, of the steady ones and of the last. Steady: the later half of those between, or as many as it takes
 * until a cursor is where it was; first_steady counts from 0; steady steps: 0 where there are fewer than three. */
typedef struct qni_steps {
    qn_step_share first, steady, last;
    int32_t first_steady, steady_steps, period;
} qni_steps;
qni_steps qni_steps_summary(const qn_step_share *step, const qn_plan *p);

void qni_steps_people(qni_page *p, const qn_step_share *step, const qn_plan *plan, double scale);
/* ", \"steps\": .., \"first\": {..}, \"steady\": {..}, \"last\": {..}" */
void qni_steps_json(qni_page *p, const qn_step_share *step, const qn_plan *plan, double scale);

#endif
