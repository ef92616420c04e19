/* --device-memory, --link, --window and --optimizer-lag as numbers. Internal to src/session. */
#ifndef QN_SESSION_DEVICE_OPTION_H
#define QN_SESSION_DEVICE_OPTION_H

#include <stdbool.h>
#include <stdint.h>

#include "quern/status.h"

typedef struct qni_device {
    int64_t memory;           /* bytes of each device's arena, 0: none */
    int64_t link_bytes_per_s; /* each way, 0: as fast as memory */
    int32_t window, replace;  /* k (0: as many as fit) and k' */
    bool any;                 /* one of them was given */
} qni_device;

/* link: "2G/s", "500M", or NULL. window: "k", "k,k'", or NULL. Errors: QN_EINVAL (what is not understood; a link without
 * bandwidth; k' beyond k), QN_ERANGE. */
qn_status qni_device_read(qni_device *out, int64_t memory, const char *link, const char *window, qn_err *err) QN_MUST_USE;

#endif
