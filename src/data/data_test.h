/* What the tests of this module share: places, and a call that must succeed. */
#ifndef QN_DATA_DATA_TEST_H
#define QN_DATA_DATA_TEST_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/compiler.h"
#include "core/io.h"

/* Runs expr (which fills a qn_err named err) and shows the message when it fails. */
#define MUST(expr)                                                                                                               \
    do {                                                                                                                         \
        qn_err err = {.code = QN_OK};                                                                                            \
        if ((expr) != QN_OK) fail_msg("%s: %s", #expr, err.text);                                                                \
    } while (0)

/* expr must fail with this code, and its message must hold this text. */
#define MUST_FAIL(expr, status, part)                                                                                            \
    do {                                                                                                                         \
        qn_err err = {.code = QN_OK};                                                                                            \
        const qn_status got = (expr);                                                                                            \
        if (got != (status) || strstr(err.text, (part)) == NULL)                                                                 \
            fail_msg("%s: %s '%s', expected %s with '%s'", #expr, qn_status_name(got), err.text, qn_status_name(status),         \
                     (part));                                                                                                    \
    } while (0)

QN_UNUSED static const char *tmp_path(char buf[512], const char *name)
{
    const char *dir = getenv("QUERN_TEST_TMP");
    snprintf(buf, 512, "%s/%s-%ld", dir != NULL ? dir : "/tmp", name, (long)getpid());
    return buf;
}

QN_UNUSED static const char *source_path(char buf[512], const char *name)
{
    const char *dir = getenv("QUERN_TEST_SOURCE");
    snprintf(buf, 512, "%s/%s", dir != NULL ? dir : ".", name);
    return buf;
}

/* A file of the test data, or NULL (and a message) when it is not there. */
QN_UNUSED static const char *data_path(char buf[512], const char *name)
{
    const char *dir = getenv("QUERN_TEST_DATA"), *source = getenv("QUERN_TEST_SOURCE");
    if (dir != NULL)
        snprintf(buf, 512, "%s/%s", dir, name);
    else
        snprintf(buf, 512, "%s/../shared/data/%s", source != NULL ? source : ".", name);
    if (qn_path_exists(buf) != 0) return buf;
    print_message("skipped: %s is not there (QUERN_TEST_DATA names the folder of the test data)\n", buf);
    return NULL;
}

#endif
