/* The thread transport: workers are threads of one process, slots are shared memory, a worker without work sleeps on its bell. */
#include "transport/world.h"

static qn_status thread_wait(qn_world *w, int32_t worker, uint32_t seen, int64_t timeout_ns, qn_err *err)
{
    const qn_status st = qni_world_check_lost(w, err);
    if (st == QN_OK) qn_bell_wait(&w->bell[worker], seen, w->spins, timeout_ns);
    return st;
}

const qn_transport qni_transport_thread = {
    .name = "thread",
    .threads = true,
    .open = qni_world_open,
    .close = qni_world_close,
    .put_begin = qni_world_put_begin,
    .put_publish = qni_world_put_publish,
    .get = qni_world_get,
    .release = qni_world_release,
    .look = qni_world_look,
    .wait = thread_wait,
    .ring = qni_world_ring,
    .set_epoch = qni_world_set_epoch,
};
