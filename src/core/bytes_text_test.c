/* Numbers of bytes as people write them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "core/bytes_text.h"
#include "core/compiler.h"

static void what_is_meant(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t bytes;
    } good[] = {{"0", 0},
                {"4096", 4096},
                {"7B", 7},
                {"64k", 64 << 10},
                {"64K", 64 << 10},
                {"64m", 64 << 20},
                {"64M", 64 << 20},
                {"64MB", 64 << 20},
                {"64MiB", 64 << 20},
                {"64mib", 64 << 20},
                {"1.5G", (int64_t)3 << 29},
                {"0.25K", 256},
                {"1.0000001K", 1024},
                {"0.1K", 102},
                {"2T", (int64_t)2 << 40},
                {"9223372036854775807", INT64_MAX},
                {"8388607.999999T", INT64_MAX - (1 << 20)}};
    for (size_t i = 0; i < QN_COUNT(good); i++) {
        int64_t bytes = -1;
        bool fits;
        const char *end = qn_bytes_read(&bytes, &fits, good[i].text);
        if (end == NULL || *end != '\0' || !fits ||
            (i + 1 < QN_COUNT(good) ? bytes != good[i].bytes : bytes < good[i].bytes - (1 << 24)))
            fail_msg("%s: %lld", good[i].text, (long long)bytes);
    }
}

static void what_is_not(void **state)
{
    (void)state;
    static const char *const bad[] = {"",    "M",    "-1",  "+1",   " 1",   "x",   ".5G", "1.G",
                                      "1.5", "0x10", "1e3", "64 M", "64Mi", "64X", "1M/s"};
    static const char *const large[] = {"9223372036854775808", "8388608T", "99999999999999999999K"};
    int64_t bytes;
    bool fits;
    for (size_t i = 0; i < QN_COUNT(bad); i++) {
        const char *end = qn_bytes_read(&bytes, &fits, bad[i]);
        if (end != NULL && *end == '\0') fail_msg("'%s' was taken for a number of bytes", bad[i]);
    }
    for (size_t i = 0; i < QN_COUNT(large); i++) {
        assert_non_null(qn_bytes_read(&bytes, &fits, large[i]));
        assert_false(fits);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_is_meant), cmocka_unit_test(what_is_not)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
