/* Where each home lies. Private to homes*.c. */
#ifndef QN_RUNTIME_HOMES_LAYOUT_H
#define QN_RUNTIME_HOMES_LAYOUT_H

#include "core/compiler.h"
#include "homes.h"

static inline size_t qni_line_up(size_t bytes)
{
    return (bytes + QN_CACHE_LINE - 1) / QN_CACHE_LINE * QN_CACHE_LINE;
}

/* Owners, bundles, tables and blocks of homes whose numbers are set. Errors as qni_homes_init. */
qn_status qni_homes_lay(qni_homes *h, qn_err *err) QN_MUST_USE;

#endif
