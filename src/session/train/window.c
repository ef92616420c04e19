/* Generation past the context; see window.h. */
#include "window.h"

#include "core/checked.h"
#include "core/compiler.h"

qn_status qni_window_feed(qni_window *w, const int32_t *ids, int64_t count, const float **logits, qn_err *err)
{
    QN_ASSERT(count > w->fed);
    if (w->held + count - w->fed > w->cache_len) {
        qn_runner_rewind(w->runner);
        w->held = 0;
        w->fed = count - qn_max64(1, w->cache_len / 2);
    }
    while (w->fed < count) {
        const int64_t n = qn_min64(count - w->fed, w->most);
        const qn_status st = qn_runner_feed(w->runner, ids + w->fed, n, logits, err);
        if (st != QN_OK) return st;
        w->fed += n;
        w->held += n;
    }
    return QN_OK;
}
