/* UTF-8: all code points, all two-byte strings, borders of the longer forms. Reading: joining and refusing. */
#include "data/data_test.h"

#include "core/alloc.h"
#include "data/text/text.h"

static void every_code_point_goes_round(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 0x110000; code++) {
        char c[4];
        size_t at = 0;
        if (code >= 0xd800 && code < 0xe000) continue;
        const int32_t n = qn_utf8_put(c, code);
        assert_int_equal(qn_utf8_check(c, (size_t)n), -1);
        assert_int_equal(qn_utf8_next(c, (size_t)n, &at), code);
        assert_int_equal(at, n);
        if (n > 1) assert_int_equal(qn_utf8_check(c, (size_t)n - 1), 0); /* cut short */
    }
}

static void malformed_bytes_are_found(void **state)
{
    static const char *const bad[] = {"\x80",         "\xc0\x80",         "\xc1\xbf",         "\xe0\x9f\xbf",     "\xed\xa0\x80",
                                      "\xed\xbf\xbf", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xfe",
                                      "\xff",         "\xe2\x28\xa1"};
    (void)state;
    for (size_t i = 0; i < QN_COUNT(bad); i++) {
        char text[40] = "twenty bytes of text";
        assert_int_equal(qn_utf8_check(bad[i], strlen(bad[i])), 0);
        memcpy(text + 20, bad[i], strlen(bad[i]));
        assert_int_equal(qn_utf8_check(text, 20 + strlen(bad[i])), 20);
    }
    for (int a = 0; a < 256; a++)
        for (int b = 0; b < 256; b++) {
            const char two[2] = {(char)a, (char)b};
            const int64_t want = a < 0x80 && b < 0x80                               ? -1
                                 : a >= 0xc2 && a <= 0xdf && b >= 0x80 && b <= 0xbf ? -1
                                 : a < 0x80                                         ? 1
                                                                                    : 0;
            assert_int_equal(qn_utf8_check(two, 2), want);
        }
}

static void files_are_joined_by_a_newline(void **state)
{
    char a[512], b[512], c[512];
    char *out;
    size_t n;
    (void)state;
    const char *path[] = {tmp_path(a, "a.txt"), tmp_path(b, "b.txt"), tmp_path(c, "c.txt")};
    MUST(qn_file_write(path[0], "one", 3, &err));
    MUST(qn_file_write(path[1], "two\n", 4, &err));
    MUST(qn_file_write(path[2], "drei \xc3\xa4", 7, &err));
    MUST(qn_text_read(&out, &n, path, 3, &err));
    assert_string_equal(out, "one\ntwo\ndrei \xc3\xa4");
    assert_int_equal(n, 15);
    qn_free(out);
    MUST(qn_file_write(path[1], "tw\xff", 3, &err));
    MUST_FAIL(qn_text_read(&out, &n, path, 3, &err), QN_EFORMAT, "offset 2");
    MUST(qn_file_write(path[1], "", 0, &err));
    MUST_FAIL(qn_text_read(&out, &n, path + 1, 1, &err), QN_ERANGE, "no text");
    assert_int_equal(unlink(path[1]), 0);
    MUST_FAIL(qn_text_read(&out, &n, path, 3, &err), QN_ENOENT, "b.txt");
    unlink(path[0]);
    unlink(path[2]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_point_goes_round),
        cmocka_unit_test(malformed_bytes_are_found),
        cmocka_unit_test(files_are_joined_by_a_newline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
