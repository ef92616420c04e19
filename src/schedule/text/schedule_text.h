/* Schedules as text: the order and plan forms, one task per line, and PyTorch's compute-only CSV. Reading is strict and bounded.
 */
#ifndef QN_SCHEDULE_TEXT_H
#define QN_SCHEDULE_TEXT_H

#include "schedule/ir.h"

/* Each writes text that the reader gives back unchanged; *out is freed with qn_free. Errors: QN_ENOMEM. */
qn_status qn_order_write(char **out, const qn_order *o, qn_err *err) QN_MUST_USE;
qn_status qn_order_write_csv(char **out, const qn_order *o, qn_err *err) QN_MUST_USE;
qn_status qn_plan_write(char **out, const qn_plan *p, qn_err *err) QN_MUST_USE;

/* Order text or CSV (recognised by its first line). Errors: QN_EFORMAT with line and column, QN_ERANGE, QN_ENOMEM. */
qn_status qn_order_read(qn_order **out, const char *text, size_t bytes, qn_err *err) QN_MUST_USE;
/* The plan is finished but not validated. */
qn_status qn_plan_read(qn_plan **out, const char *text, size_t bytes, qn_err *err) QN_MUST_USE;

typedef enum qn_schedule_form { QN_FORM_ORDER, QN_FORM_CSV, QN_FORM_PLAN, QN_FORM_UNKNOWN } qn_schedule_form;
qn_schedule_form qn_schedule_form_of(const char *text, size_t bytes);

#endif
