/* Text that grows: what reports, info and schedule tools are written with. A failed append sticks and is reported once, by done.
 */
#ifndef QN_SESSION_PAGE_H
#define QN_SESSION_PAGE_H

#include <stdbool.h>
#include <stddef.h>

#include "quern/status.h"

typedef struct qni_page {
    char *text; /* NUL-terminated once something was added */
    size_t used, cap;
    bool failed;
} qni_page;

void qni_page_add(qni_page *p, const char *fmt, ...) QN_PRINTF(2, 3);
void qni_page_bytes(qni_page *p, const char *text, size_t bytes);
/* For HTML: &, <, >, quotes escaped; control characters other than \n and \t, and bytes that are no UTF-8, become U+FFFD. */
void qni_page_html(qni_page *p, const char *text);
/* For JSON and JavaScript traces: the number with 17 significant digits, null when it is not finite. */
void qni_page_number(qni_page *p, double x);
/* 1234567 as 1,234,567. */
void qni_page_count(qni_page *p, long long n);

/* Hands the text over (freed with qn_free); p is empty afterwards. Errors: QN_ENOMEM. */
qn_status qni_page_done(char **out, qni_page *p, qn_err *err) QN_MUST_USE;
void qni_page_fini(qni_page *p);

#endif
