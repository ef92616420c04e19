/* The list of transports: a new one is one line here. */
#include <string.h>

#include "core/compiler.h"
#include "world.h"

static const qn_transport *const TRANSPORT[] = {&qni_transport_self, &qni_transport_thread, &qni_transport_sim};
static const char *const NAME[] = {"self", "thread", "sim", NULL}; /* in the same order */

const qn_transport *qn_transport_find(const char *name)
{
    for (size_t i = 0; i < QN_COUNT(TRANSPORT); i++)
        if (strcmp(TRANSPORT[i]->name, name) == 0) return TRANSPORT[i];
    return NULL;
}

const char *const *qn_transport_names(void)
{
    return NAME;
}
