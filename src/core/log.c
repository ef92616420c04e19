/* The log sink: the one registry of this module. A message is formatted on the caller's stack and handed over under a lock,
 * so the sink sees one message at a time; it must not log itself. */
#include "log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

enum { MESSAGE_BYTES = 2048, OFF = QN_LOG_ERROR + 1 };

static struct {
    pthread_mutex_t lock;
    qn_log_fn *fn;
    void *ctx;
    _Atomic int least; /* read without the lock, so that a dropped message costs one load */
} sink = {.lock = PTHREAD_MUTEX_INITIALIZER, .least = OFF};

void qn_log_to(qn_log_fn *fn, void *ctx, qn_log_level least)
{
    pthread_mutex_lock(&sink.lock);
    sink.fn = fn;
    sink.ctx = ctx;
    atomic_store_explicit(&sink.least, fn == NULL ? OFF : (int)least, memory_order_relaxed);
    pthread_mutex_unlock(&sink.lock);
}

void qn_log(qn_log_level level, const char *fmt, ...)
{
    if ((int)level < atomic_load_explicit(&sink.least, memory_order_relaxed)) return;
    char message[MESSAGE_BYTES];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof(message), fmt, args);
    va_end(args);
    pthread_mutex_lock(&sink.lock);
    if (sink.fn != NULL) sink.fn(sink.ctx, level, message);
    pthread_mutex_unlock(&sink.lock);
}
