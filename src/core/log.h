/* Logging: the library never prints. Messages go to the sink that the embedder set, or nowhere. */
#ifndef QN_CORE_LOG_H
#define QN_CORE_LOG_H

#include "quern/log.h"

void qn_log(qn_log_level level, const char *fmt, ...) QN_PRINTF(2, 3);

#endif
