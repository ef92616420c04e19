/* Time, as an argument: the executor and the simulation transport get a clock, so that a simulated one can replace it. */
#ifndef QN_CORE_CLOCK_H
#define QN_CORE_CLOCK_H

#include <stdint.h>

int64_t qn_now_ns(void);        /* monotonic */
int64_t qn_thread_cpu_ns(void); /* what the calling thread has had of a processor */

#endif
