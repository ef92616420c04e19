/* The loop-back transport: all workers on the calling thread, messages arrive at once. Nothing changes while that thread waits,
 * so a wait without a change since is a deadlock. */
#include "transport/world.h"

static qn_status self_wait(qn_world *w, int32_t worker, uint32_t seen, int64_t timeout_ns, qn_err *err)
{
    (void)timeout_ns;
    const qn_status st = qni_world_check_lost(w, err);
    if (st != QN_OK || qn_bell_look(&w->bell[worker]) != seen) return st;
    return QN_FAIL(err, QN_ESTATE, "worker %d waits for a message that nobody can send", worker);
}

const qn_transport qni_transport_self = {
    .name = "self",
    .threads = false,
    .open = qni_world_open,
    .close = qni_world_close,
    .put_begin = qni_world_put_begin,
    .put_publish = qni_world_put_publish,
    .get = qni_world_get,
    .release = qni_world_release,
    .look = qni_world_look,
    .wait = self_wait,
    .ring = qni_world_ring,
    .set_epoch = qni_world_set_epoch,
};
