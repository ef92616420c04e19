/* Generation past the context: when the cache is full, it starts anew with the last half of what was said. */
#ifndef QN_SESSION_WINDOW_H
#define QN_SESSION_WINDOW_H

#include "runtime/forward/runner.h"

typedef struct qni_window {
    qn_runner *runner; /* borrowed; its cache is empty at the start */
    int64_t cache_len; /* of the runner */
    int64_t most;      /* tokens of one pass, the runner's T */
    int64_t fed, held; /* ids fed so far; of those, in the cache now */
} qni_window;

/* The logits after ids[0 .. count - 1], of which the first w->fed were fed before; count > w->fed. As qn_runner_feed. */
qn_status qni_window_feed(qni_window *w, const int32_t *ids, int64_t count, const float **logits, qn_err *err) QN_MUST_USE;

#endif
