/* Safetensors: a round trip over all types, sharding, and one refused file for each rule of the format. */
#include "data/data_test.h"

#include <math.h>
#include <sys/stat.h>

#include "core/alloc.h"
#include "data/safetensors/safetensors_internal.h"

/* Element e of tensor i, as bytes that depend on both. */
static qn_status fill(void *ctx, int32_t i, int64_t first, int64_t count, void *to, qn_err *err)
{
    const qn_tensor_desc *d = ctx;
    const size_t size = qn_dtype_bytes(d[i].dtype);
    unsigned char *p = to;
    (void)err;
    for (size_t b = 0; b < (size_t)count * size; b++) p[b] = (unsigned char)(((size_t)first * size + b) * 31 + (size_t)i);
    return QN_OK;
}

static const qn_tensor_desc six[] = {
    {"b.weight", QN_F32, {2, {3, 5}}},    {"a", QN_BF16, {1, {7}}},
    {"empty", QN_F16, {2, {0, 4}}},       {"scalar", QN_F64, {0, {0}}},
    {"ids", QN_I32, {3, {2, 3, 200000}}}, {"\xc3\xa4 \"q\"", QN_U8, {1, {3}}},
};

static void check_six(const qn_safetensors *f)
{
    assert_int_equal(qn_safetensors_count(f), 6);
    for (int32_t i = 1; i < 6; i++) assert_true(strcmp(qn_safetensors_at(f, i - 1)->name, qn_safetensors_at(f, i)->name) < 0);
    for (int32_t i = 0; i < 6; i++) {
        const qn_tensor_view *v = qn_safetensors_find(f, six[i].name);
        assert_non_null(v);
        assert_int_equal(v->dtype, six[i].dtype);
        assert_int_equal(v->shape.rank, six[i].shape.rank);
        assert_memory_equal(v->shape.dim, six[i].shape.dim, sizeof(int64_t) * (size_t)six[i].shape.rank);
        const unsigned char *p = v->data;
        for (size_t b = 0; b < v->bytes; b++)
            if (p[b] != (unsigned char)(b * 31 + (size_t)i)) fail_msg("tensor %d differs at byte %zu", (int)i, b);
    }
    assert_null(qn_safetensors_find(f, "c"));
}

static void tensors_come_back(void **state)
{
    static const size_t limit[] = {0, 1, 64, 100000, 1u << 30};
    char dir[512], path[600];
    (void)state;
    tmp_path(dir, "safetensors");
    for (size_t i = 0; i < QN_COUNT(limit); i++) {
        qn_safetensors *f;
        assert_int_equal(mkdir(dir, 0777), 0);
        MUST(qn_safetensors_write(dir, "model", six, 6, limit[i], fill, (void *)(uintptr_t)six, &err));
        MUST(qn_safetensors_open(&f, dir, &err));
        check_six(f);
        qn_safetensors_close(f);
        snprintf(path, sizeof(path), "%s/model.safetensors", dir);
        assert_int_equal(qn_path_exists(path) == 1, limit[i] == 0 || limit[i] == 1u << 30);
        if (qn_path_exists(path)) {
            char *text;
            size_t bytes;
            MUST(qn_safetensors_open(&f, path, &err));
            check_six(f);
            qn_safetensors_close(f);
            MUST(qn_file_read(&text, &bytes, path, SIZE_MAX / 2, &err));
            assert_int_equal((unsigned char)text[0] % 8, 0);
            static const char head[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                                       "\"b.weight\":{\"dtype\":\"F32\",\"shape\":[3,5],\"data_offsets\":[0,60]}";
            assert_memory_equal(text + 8, head, sizeof(head) - 1);
            qn_free(text);
        }
        MUST(qn_remove_tree(dir, &err));
    }
}

static void floats_are_converted(void **state)
{
    const uint16_t half[] = {0x3c00, 0xc000, 0x0001, 0x8000, 0x7bff, 0x7c00, 0x03ff, 0x0400};
    const float want[] = {1.0f, -2.0f, 0x1p-24f, -0.0f, 65504.0f, INFINITY, 1023 * 0x1p-24f, 0x1p-14f};
    const uint16_t brain[] = {0x3f80, 0xc000, 0x0001};
    const double wide[] = {0.1, -1e300};
    float out[8];
    (void)state;
    qn_tensor_view v = {.name = "h", .dtype = QN_F16, .data = half, .bytes = sizeof(half)};
    MUST(qn_tensor_read_f32(out, &v, 0, 8, &err));
    assert_memory_equal(out, want, sizeof(want));
    MUST(qn_tensor_read_f32(out, &v, 4, 2, &err));
    assert_memory_equal(out, want + 4, 8);
    MUST(qn_tensor_read_f32(out, &v, 8, 0, &err));
    MUST_FAIL(qn_tensor_read_f32(out, &v, 7, 2, &err), QN_ERANGE, "8 elements");
    MUST_FAIL(qn_tensor_read_f32(out, &v, -1, 2, &err), QN_ERANGE, "8 elements");
    v = (qn_tensor_view){.name = "b", .dtype = QN_BF16, .data = brain, .bytes = sizeof(brain)};
    MUST(qn_tensor_read_f32(out, &v, 0, 3, &err));
    assert_true(out[0] == 1.0f && out[1] == -2.0f && out[2] == 0x1p-133f);
    v = (qn_tensor_view){.name = "d", .dtype = QN_F64, .data = wide, .bytes = sizeof(wide)};
    MUST(qn_tensor_read_f32(out, &v, 0, 2, &err));
    assert_true(out[0] == 0.1f && out[1] == -INFINITY);
    v = (qn_tensor_view){.name = "i", .dtype = QN_I32, .type = "I32", .data = wide, .bytes = 16};
    MUST_FAIL(qn_tensor_read_f32(out, &v, 0, 2, &err), QN_EUNSUPPORTED, "I32");
}

/* A file with this header and so many zero bytes of data. */
static qn_status open_text(const char *header, size_t data, qn_err *err)
{
    unsigned char file[2048] = {0};
    qn_safetensors *f = NULL;
    const size_t n = strlen(header);
    assert_true(8 + n + data <= sizeof(file));
    file[0] = (unsigned char)n;
    file[1] = (unsigned char)(n >> 8);
    memcpy(file + 8, header, n);
    const qn_status st = qni_safetensors_open_memory(&f, file, 8 + n + data, "f", err);
    qn_safetensors_close(f);
    return st;
}

#define F32(name, shape, begin, end) "\"" name "\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

static void bad_headers_are_refused(void **state)
{
    (void)state;
    MUST(open_text("{}", 0, &err));
    MUST(open_text("{" F32("a", "[2]", "0", "8") "}  ", 8, &err));
    MUST(open_text("{" F32("a", "[2]", "4", "12") "," F32("b", "[]", "0", "4") "," F32("c", "[0]", "4", "4") "}", 12, &err));
    MUST(open_text("{\"a\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8, &err)); /* refused when it is used */
    MUST_FAIL(open_text("[]", 0, &err), QN_EFORMAT, "'{'");
    MUST_FAIL(open_text("{", 0, &err), QN_EFORMAT, "JSON");
    MUST_FAIL(open_text("{" F32("a", "[2]", "0", "8") "}", 12, &err), QN_EFORMAT, "cover 8");
    MUST_FAIL(open_text("{" F32("a", "[2]", "0", "8") "}", 4, &err), QN_EFORMAT, "[0, 8]");
    MUST_FAIL(open_text("{" F32("a", "[2]", "0", "4") "}", 4, &err), QN_EFORMAT, "wants 8");
    MUST_FAIL(open_text("{" F32("a", "[2]", "8", "0") "}", 8, &err), QN_EFORMAT, "[8, 0]");
    MUST_FAIL(open_text("{" F32("a", "[2]", "-8", "0") "}", 8, &err), QN_EFORMAT, "[-8, 0]");
    MUST_FAIL(open_text("{" F32("a", "[1]", "0", "4") "," F32("b", "[1]", "2", "6") "}", 6, &err), QN_EFORMAT, "before");
    MUST_FAIL(open_text("{" F32("a", "[1]", "0", "4") "," F32("b", "[1]", "8", "12") "}", 12, &err), QN_EFORMAT, "not at");
    MUST_FAIL(open_text("{" F32("a", "[1]", "4", "8") "}", 8, &err), QN_EFORMAT, "not at");
    MUST_FAIL(open_text("{" F32("a", "[1]", "0", "4") "," F32("a", "[1]", "4", "8") "}", 8, &err), QN_EFORMAT, "JSON");
    MUST_FAIL(open_text("{" F32("a", "[4611686018427387904,4]", "0", "8") "}", 8, &err), QN_EFORMAT, "addressed");
    MUST_FAIL(open_text("{" F32("a", "[-1]", "0", "8") "}", 8, &err), QN_EFORMAT, "shape");
    MUST_FAIL(open_text("{" F32("a", "[1,1,1,1,1,1,1]", "0", "4") "}", 4, &err), QN_EFORMAT, "shape");
    MUST_FAIL(open_text("{" F32("a", "[1.5]", "0", "4") "}", 4, &err), QN_EFORMAT, "shape");
    MUST_FAIL(open_text("{\"a\":{\"dtype\":\"F99\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8, &err), QN_EFORMAT, "F99");
    MUST_FAIL(open_text("{\"a\":7}", 0, &err), QN_EFORMAT, "a");
    MUST_FAIL(open_text("{" F32("a", "[1]", "0", "99999999999999999999") "}", 4, &err), QN_EFORMAT, "JSON");
    qn_safetensors *f;
    const unsigned char huge[16] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, '{'};
    for (size_t n = 0; n <= sizeof(huge); n++)
        MUST_FAIL(qni_safetensors_open_memory(&f, huge, n, "f", &err), QN_EFORMAT, "cannot be");
}

static void bad_indexes_are_refused(void **state)
{
    static const struct {
        const char *index, *message;
    } bad[] = {
        {"{}", "weight_map"},
        {"{\"weight_map\":[]}", "weight_map"},
        {"{\"weight_map\":{}}", "no file"},
        {"{\"weight_map\":{\"a\":\"../x\"}}", "plain file name"},
        {"{\"weight_map\":{\"a\":7}}", "plain file name"},
        {"{\"weight_map\":{\"a\":\"gone\"}}", "gone"},
        {"{\"weight_map\":{\"zz\":\"other.safetensors\"}}", "zz"},
        {"{\"weight_map\":", "expected"},
    };
    char dir[512], path[600];
    qn_safetensors *f;
    (void)state;
    tmp_path(dir, "index");
    assert_int_equal(mkdir(dir, 0777), 0);
    MUST_FAIL(qn_safetensors_open(&f, dir, &err), QN_ENOENT, "holds neither");
    MUST(qn_safetensors_write(dir, "other", six, 6, 0, fill, (void *)(uintptr_t)six, &err));
    MUST(qn_safetensors_write(dir, "twin", six, 1, 0, fill, (void *)(uintptr_t)six, &err));
    snprintf(path, sizeof(path), "%s/model.safetensors.index.json", dir);
    for (size_t i = 0; i < QN_COUNT(bad); i++) {
        qn_err why = {.code = QN_OK};
        MUST(qn_file_write(path, bad[i].index, strlen(bad[i].index), &err));
        assert_int_not_equal(qn_safetensors_open(&f, dir, &why), QN_OK);
        if (strstr(why.text, bad[i].message) == NULL) fail_msg("'%s' does not say '%s'", why.text, bad[i].message);
    }
    const char *two = "{\"weight_map\":{\"a\":\"other.safetensors\",\"b.weight\":\"twin.safetensors\"}}";
    MUST(qn_file_write(path, two, strlen(two), &err));
    MUST_FAIL(qn_safetensors_open(&f, dir, &err), QN_EFORMAT, "b.weight is in two files");
    const qn_tensor_desc same[] = {six[0], six[0]};
    MUST_FAIL(qn_safetensors_write(dir, "dup", same, 2, 0, fill, (void *)(uintptr_t)same, &err), QN_EINVAL, "one name");
    MUST(qn_remove_tree(dir, &err));
}

static qn_status count_up(void *ctx, int32_t i, int64_t first, int64_t count, void *to, qn_err *err)
{
    const qn_tensor_desc *d = ctx;
    (void)err;
    for (int64_t k = 0; k < count; k++) {
        const float f = (float)(first + k);
        const int32_t n = (int32_t)(first + k);
        memcpy((char *)to + 4 * k, d[i].dtype == QN_F32 ? (const void *)&f : (const void *)&n, 4);
    }
    return QN_OK;
}

/* For tests/golden/check_written.py, in the order in which the safetensors library writes. */
static void a_file_for_the_other_library(void **state)
{
    static const qn_tensor_desc d[] = {
        {"b", QN_F32, {2, {2, 3}}}, {"c", QN_F32, {0, {0}}}, {"w.\xc3\xa4", QN_F32, {1, {1000}}}, {"a", QN_I32, {1, {4}}}};
    const char *dir = getenv("QUERN_TEST_WRITE");
    (void)state;
    if (dir == NULL) skip();
    MUST(qn_safetensors_write(dir, "written", d, 4, 0, count_up, (void *)(uintptr_t)d, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_come_back),
        cmocka_unit_test(floats_are_converted),
        cmocka_unit_test(bad_headers_are_refused),
        cmocka_unit_test(bad_indexes_are_refused),
        cmocka_unit_test(a_file_for_the_other_library),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
