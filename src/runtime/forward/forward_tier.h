/* Forward passes on devices with little memory (Superpipeline, arXiv:2410.08791, its forward reconstructed): pieces dealt to the
 * devices in turn, all items through one piece before the next, so that a pass loads each piece once. Values and packed weights,
 * activations and stashes are in the arenas; KV caches, logits and the kernels' scratch are outside. Internal to src/runtime.
 *
 * Where all of a device's pieces fit into its window they stay: the first run loads and packs them, later ones move nothing. */
#ifndef QN_RUNTIME_FORWARD_TIER_H
#define QN_RUNTIME_FORWARD_TIER_H

#include "runtime/trainer/tier.h"

struct qni_forward;

typedef struct qni_forward_tiers {
    int32_t devices;
    int32_t window, replace; /* k (0: as many as fit) and k' */
    bool keep;               /* with all pieces of a device in its window: from run to run, until repack is set */
    const int64_t *limit;    /* [devices] bytes of arenas, or NULL; read during init alone */
    int64_t link_bytes_per_s;
    void *const *value; /* [params], borrowed; NULL: read */
    qni_tier_read *read;
    void *read_ctx;
    const qn_executor *arenas; /* whose arenas to work in, at rest while this one runs; NULL: own ones */
} qni_forward_tiers;

/* Lowers the plan of f and opens the devices' stages. Errors: QN_EINVAL (a limit that is too small, with the smallest that would
 * do; a window that cannot be), QN_ENOMEM, those of qn_lower. */
qn_status qni_forward_tier_init(struct qni_forward *f, const qni_forward_tiers *d, int32_t threads, bool pin,
                                qn_err *err) QN_MUST_USE;
/* For fns.copy and fns.home, ctx: the qni_forward. */
qn_status qni_forward_tier_copy(void *ctx, qn_executor *ex, int32_t task, size_t at, size_t bytes, qn_err *err) QN_MUST_USE;
void *qni_forward_tier_home(void *ctx, int32_t value, size_t *bytes);
/* Bytes of weights that a LOAD moves in this run: none where they stayed. */
size_t qni_forward_tier_actual(const struct qni_forward *f, int32_t value);

#endif
