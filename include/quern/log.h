/* Where the library's messages go. The library itself never prints. */
#ifndef QUERN_LOG_H
#define QUERN_LOG_H

#include "quern/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qn_log_level { QN_LOG_DEBUG, QN_LOG_INFO, QN_LOG_WARN, QN_LOG_ERROR } qn_log_level;
typedef void qn_log_fn(void *ctx, qn_log_level level, const char *message);

/* Process-wide; NULL switches off. Called from any thread, one message at a time. */
void qn_log_to(qn_log_fn *fn, void *ctx, qn_log_level least);

#ifdef __cplusplus
}
#endif
#endif
