/* Devices of little memory in the schedule tools: weights on the host, a window of them in each worker's arena, copies that take
 * bytes / link. What quern train does with the same flags (qn_tiers in schedule/ir.h), without a model: sizes come from --sizes
 * or a profile. Times are then milliseconds, unless the costs name another unit. */
#ifndef QN_SESSION_SCHEDULE_DEVICES_H
#define QN_SESSION_SCHEDULE_DEVICES_H

#include "quern/schedule.h"
#include "schedule/trace.h"
#include "schedule_costs.h"

/* What all tools read of their flags: costs, sizes, devices. fini: qni_costs_fini. Errors: those of qni_costs_parse,
 * qni_costs_sizes and qni_devices_take. */
qn_status qni_costs_take(qni_costs *c, const qn_schedule_options *opt, qn_err *err) QN_MUST_USE;

/* --device-memory, --link and --window into c, whose sizes are known. Ticks get as fine as a nanosecond where a link is given and
 * the longest task allows. Errors: QN_EINVAL (a link without bandwidth, numbers that are no window; bytes of weights nowhere
 * said). */
qn_status qni_devices_take(qni_costs *c, const qn_schedule_options *opt, qn_err *err) QN_MUST_USE;

/* The plan of an order on devices, with the window that was asked for, or the largest (of at most all stages) that fits.
 *   how     in   sizes of activations and stashes; what is not said takes no room
 *   size    in   [QNI_SIZES][stages of the order]; weights NULL: none; gradients NULL: as large as the weights
 *   how->tiers   may say the lag
 *   window  out  k
 * Errors: QN_EINVAL when the memory is too small (says the smallest that would do), those of qn_lower. */
qn_status qni_devices_lower(qn_plan **out, int32_t *window, const qn_order *o, const qn_lowering *how, const qni_device *device,
                            int64_t *const size[QNI_SIZES], qn_err *err) QN_MUST_USE;

/* Gives the plan's copies their times; where no devices were asked for, what goes from stage to stage takes a message's. Errors:
 * QN_ERANGE (longer than can be counted). */
qn_status qni_devices_time(qn_plan *p, const qni_costs *c, qn_err *err) QN_MUST_USE;

typedef struct qni_copies {                           /* of one worker */
    int64_t bytes_up, bytes_down, busy_up, busy_down; /* ticks that its lanes copy */
} qni_copies;
/* out: [workers]. Returns when the last copy ends. */
int64_t qni_devices_count(qni_copies *out, const qn_trace *t);

#endif
