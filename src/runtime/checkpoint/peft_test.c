/* Adapters on disk: what is written has peft's own names, shapes and keys (tests/golden/peft_layout.txt, from peft itself), comes
 * back bit for bit with its moments, and merges; what is damaged or another kind is refused by name. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/compiler.h"
#include "core/io.h"
#include "data/safetensors/safetensors.h"
#include "peft.h"

typedef struct state {
    qn_model *model;
    float **value, **m, **v;
} state;

static char root[256];

static void ok(qn_status st, const qn_err *err)
{
    if (st != QN_OK) fail_msg("%s: %s", qn_status_name(st), err->text);
}

static void says(qn_status st, const qn_err *err, qn_status want, const char *text)
{
    assert_int_equal(st, want);
    if (strstr(err->text, text) == NULL) fail_msg("'%s' does not say '%s'", err->text, text);
}

static const char *in_root(const char *name)
{
    static char path[4][512];
    static int turn;
    char *buf = path[turn++ % 4];
    snprintf(buf, 512, "%s/%s", root, name);
    return buf;
}

static state open_state(const qn_model_config *c, int seed)
{
    state s = {0};
    qn_err err;
    ok(qn_model_open(&s.model, c, &err), &err);
    const int32_t n = qn_model_params(s.model);
    float ***list[3] = {&s.value, &s.m, &s.v};
    for (int i = 0; i < 3; i++) {
        *list[i] = calloc((size_t)n, sizeof(float *));
        for (int32_t p = 0; p < n; p++) {
            const int64_t count = qn_model_param(s.model, p)->count;
            if (i > 0 && qn_model_param(s.model, p)->frozen) continue;
            (*list[i])[p] = calloc((size_t)count, sizeof(float));
            for (int64_t e = 0; seed != 0 && e < count; e++)
                (*list[i])[p][e] = (float)sin(seed * 1000 + i * 100 + p + (double)e / 64);
        }
    }
    return s;
}

static void close_state(state *s)
{
    float **list[3] = {s->value, s->m, s->v};
    for (int i = 0; i < 3; i++) {
        for (int32_t p = 0; p < qn_model_params(s->model); p++) free(list[i][p]);
        free(list[i]);
    }
    qn_model_close(s->model);
}

static qn_state_view view_of(const state *s, bool moments)
{
    return (qn_state_view){.model = s->model, .value = s->value, .m = moments ? s->m : NULL, .v = moments ? s->v : NULL};
}

static qn_model_config config_of(qn_arch arch, const char *targets)
{
    qn_err err;
    qn_model_config c = {.arch = arch, .layers = 2, .heads = 4, .kv_heads = 4, .width = 16, .context = 8, .vocab = 13};
    c.hidden = arch == QN_ARCH_GPT2 ? 64 : 24;
    c.tied = arch == QN_ARCH_GPT2;
    if (targets == NULL) return c;
    c.lora = (qn_lora){.rank = 3, .alpha = 6};
    ok(qn_lora_targets(&c.lora.targets, arch, &targets, 1, &err), &err);
    return c;
}

static void write_adapter(const char *dir, const state *s)
{
    qn_err err;
    const qn_checkpoint_desc desc = {.bos = -1, .eos = -1, .base_model = "/base", .state_json = "{}\n"};
    const qn_state_view view = view_of(s, true);
    ok(qn_checkpoint_write(dir, &view, &desc, &err), &err);
}

static void comes_back_bit_for_bit(void **unused)
{
    (void)unused;
    for (int arch = 0; arch < 2; arch++) {
        const qn_model_config c = config_of((qn_arch)arch, "all-linear");
        state a = open_state(&c, 3), b = open_state(&c, 0);
        qn_err err;
        qn_lora l;
        char base[64];
        write_adapter(in_root("adapter"), &a);
        assert_true(qn_adapter_is(in_root("adapter")));
        assert_int_equal(qn_path_exists(in_root("adapter/config.json")), 0); /* no plain model */
        const qn_state_view view = view_of(&b, true);
        ok(qn_adapter_read_config(&l, in_root("adapter"), c.arch, &err), &err);
        assert_true(l.rank == c.lora.rank && l.alpha == c.lora.alpha && l.targets == c.lora.targets);
        ok(qn_adapter_base(base, sizeof(base), in_root("adapter"), &err), &err);
        assert_string_equal(base, "/base");
        ok(qn_adapter_read(in_root("adapter"), &view, &err), &err);
        for (int32_t p = 0; p < qn_model_params(a.model); p++) {
            const qn_param *param = qn_model_param(a.model, p);
            if (!param->adapter) continue;
            assert_memory_equal(a.value[p], b.value[p], (size_t)param->count * sizeof(float));
            assert_memory_equal(a.m[p], b.m[p], (size_t)param->count * sizeof(float));
            assert_memory_equal(a.v[p], b.v[p], (size_t)param->count * sizeof(float));
        }
        close_state(&a);
        close_state(&b);
    }
}

/* --- against peft's own */
static void check_tensor(const qn_safetensors *f, const char *line)
{
    char name[160];
    long long rows, columns;
    assert_int_equal(sscanf(line, "tensor %159s %lld %lld", name, &rows, &columns), 3);
    const qn_tensor_view *t = qn_safetensors_find(f, name);
    if (t == NULL) fail_msg("no tensor is called %s", name);
    assert_int_equal(t->shape.rank, 2);
    assert_int_equal(t->shape.dim[0], rows);
    assert_int_equal(t->shape.dim[1], columns);
}

/* The value after "config KEY " and that of the file say the same; targets in any order. */
static void check_key(const json_t *root_object, const char *line, qn_lora *l, qn_arch arch)
{
    char key[64];
    int at = 0;
    qn_err err;
    assert_int_equal(sscanf(line, "config %63s %n", key, &at), 1);
    json_t *want = json_loads(line + at, JSON_DECODE_ANY, NULL);
    assert_non_null(want);
    if (strcmp(key, "r") == 0) l->rank = (int32_t)json_integer_value(want);
    if (strcmp(key, "lora_alpha") == 0) l->alpha = json_number_value(want);
    if (strcmp(key, "target_modules") == 0) {
        const char *name[QN_LORA_MODULES];
        for (size_t i = 0; i < json_array_size(want); i++) name[i] = json_string_value(json_array_get(want, i));
        ok(qn_lora_targets(&l->targets, arch, name, (int32_t)json_array_size(want), &err), &err);
        assert_true(root_object == NULL || json_array_size(json_object_get(root_object, key)) == json_array_size(want));
    } else if (root_object != NULL && !json_equal(json_object_get(root_object, key), want)) {
        fail_msg("adapter_config.json differs: %s", line);
    }
    json_decref(want);
}

static void check_block(char (*line)[256], int32_t lines)
{
    const qn_arch arch = strncmp(line[0], "model gpt2", 10) == 0 ? QN_ARCH_GPT2 : QN_ARCH_LLAMA;
    qn_model_config c = config_of(arch, NULL);
    qn_safetensors *f;
    qn_err err;
    int32_t tensors = 0;
    for (int32_t i = 1; i < lines; i++)
        if (strncmp(line[i], "config", 6) == 0) check_key(NULL, line[i], &c.lora, arch);
    state s = open_state(&c, 7);
    write_adapter(in_root("golden"), &s);
    json_t *object = json_load_file(in_root("golden/adapter_config.json"), 0, NULL);
    assert_non_null(object);
    ok(qn_safetensors_open(&f, in_root("golden/adapter_model.safetensors"), &err), &err);
    for (int32_t i = 1; i < lines; i++) {
        if (strncmp(line[i], "config", 6) == 0)
            check_key(object, line[i], &c.lora, arch);
        else
            check_tensor(f, line[i]), tensors++;
    }
    assert_int_equal(tensors, qn_safetensors_count(f));
    qn_safetensors_close(f);
    json_decref(object);
    close_state(&s);
}

static void looks_as_peft_writes_it(void **unused)
{
    enum { LINES = 64 };
    static char line[LINES][256];
    const char *source = getenv("QUERN_TEST_SOURCE");
    char path[1024];
    int32_t n = 0, blocks = 0;
    (void)unused;
    if (source == NULL) {
        print_message("skipped: QUERN_TEST_SOURCE does not name the source folder\n");
        skip();
    }
    snprintf(path, sizeof(path), "%s/tests/golden/peft_layout.txt", source);
    FILE *f = fopen(path, "r");
    if (f == NULL) fail_msg("%s is missing", path);
    while (n < LINES && fgets(line[n], sizeof(line[n]), f) != NULL) {
        if (n > 0 && strncmp(line[n], "model", 5) == 0) {
            check_block(line, n);
            blocks++;
            memcpy(line[0], line[n], sizeof(line[0]));
            n = 0;
        }
        n++;
    }
    check_block(line, n);
    assert_int_equal(blocks + 1, 4);
    fclose(f);
}

static void merges_into_the_plain_model(void **unused)
{
    (void)unused;
    for (int arch = 0; arch < 2; arch++) {
        const qn_model_config c = config_of((qn_arch)arch, "down"), plain = config_of((qn_arch)arch, NULL);
        state a = open_state(&c, 3), b = open_state(&plain, 5), was = open_state(&plain, 5);
        qn_err err;
        int32_t merged = 0;
        write_adapter(in_root("merge"), &a);
        const qn_state_view view = view_of(&b, false);
        ok(qn_adapter_merge(in_root("merge"), &view, &err), &err);
        for (int32_t p = 0, q = 0; p < qn_model_params(b.model); p++, q++) {
            while (qn_model_param(a.model, q)->adapter) q++;
            const qn_param *param = qn_model_param(b.model, p);
            assert_string_equal(param->name, qn_model_param(a.model, q)->name);
            const bool target = qn_model_param(a.model, q + 1 < qn_model_params(a.model) ? q + 1 : q)->adapter;
            const bool same = memcmp(b.value[p], was.value[p], (size_t)param->count * sizeof(float)) == 0;
            merged += !same;
            if (same || !target) continue;
            const float *A = a.value[q + 1], *B = a.value[q + 2];
            for (int64_t e = 0; e < param->count; e++) {
                const int64_t o = e / param->dim[1], i = e % param->dim[1];
                double sum = 0;
                for (int64_t k = 0; k < 3; k++) sum += (double)B[o * 3 + k] * A[k * param->dim[1] + i];
                assert_true(b.value[p][e] == (float)(was.value[p][e] + 2 * sum));
            }
        }
        assert_int_equal(merged, 2); /* one matrix of each block */
        close_state(&a);
        close_state(&b);
        close_state(&was);
    }
}

static void write_text(const char *path, const char *text)
{
    qn_err err;
    ok(qn_file_write(path, text, strlen(text), &err), &err);
}

static void damage_is_named(void **unused)
{
    static const struct {
        const char *text, *says;
        qn_status code;
    } bad[] = {
        {"[]", "no object", QN_EFORMAT},
        {"{", "wanted: a JSON object", QN_EFORMAT},
        {"{\"peft_type\": \"IA3\"}", "peft_type is IA3", QN_EUNSUPPORTED},
        {"{\"peft_type\": \"LORA\", \"use_dora\": true}", "use_dora", QN_EUNSUPPORTED},
        {"{\"peft_type\": \"LORA\", \"bias\": \"all\"}", "'bias'", QN_EUNSUPPORTED},
        {"{\"peft_type\": \"LORA\", \"modules_to_save\": [\"lm_head\"]}", "modules_to_save", QN_EUNSUPPORTED},
        {"{\"peft_type\": \"LORA\", \"r\": 0, \"lora_alpha\": 1}", "r is missing", QN_EFORMAT},
        {"{\"peft_type\": \"LORA\", \"r\": 2}", "lora_alpha", QN_EFORMAT},
        {"{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 1}", "target_modules", QN_EFORMAT},
        {"{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 1, \"target_modules\": [7]}", "target_modules[0]", QN_EFORMAT},
        {"{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 1, \"target_modules\": [\"wqkv\"]}", "'wqkv'", QN_EINVAL},
    };
    (void)unused;
    const qn_model_config c = config_of(QN_ARCH_LLAMA, "q"), other = config_of(QN_ARCH_LLAMA, "o"),
                          plain = config_of(QN_ARCH_LLAMA, NULL);
    state a = open_state(&c, 3), b = open_state(&other, 1), p = open_state(&plain, 1);
    const qn_state_view wrong = view_of(&b, false), base = view_of(&p, false);
    qn_err err;
    qn_lora l;
    write_adapter(in_root("damage"), &a);
    says(qn_adapter_read(in_root("damage"), &wrong, &err), &err, QN_EFORMAT, "o_proj.lora_A.weight");
    says(qn_adapter_read_config(&l, in_root("nowhere"), QN_ARCH_LLAMA, &err), &err, QN_ENOENT, "adapter_config.json");
    const qn_model_config gpt2 = config_of(QN_ARCH_GPT2, NULL);
    state g = open_state(&gpt2, 1);
    const qn_state_view strange = view_of(&g, false);
    says(qn_adapter_merge(in_root("damage"), &strange, &err), &err, QN_EINVAL, "q_proj");
    for (size_t i = 0; i < QN_COUNT(bad); i++) {
        write_text(in_root("damage/adapter_config.json"), bad[i].text);
        says(qn_adapter_merge(in_root("damage"), &base, &err), &err, bad[i].code, bad[i].says);
    }
    close_state(&a);
    close_state(&b);
    close_state(&p);
    close_state(&g);
}

static int set_up(void **unused)
{
    (void)unused;
    snprintf(root, sizeof(root), "%s/quern-peft-XXXXXX", getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp");
    return mkdtemp(root) == NULL;
}

static int tear_down(void **unused)
{
    (void)unused;
    return qn_remove_tree(root, NULL) != QN_OK;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comes_back_bit_for_bit),
        cmocka_unit_test(looks_as_peft_writes_it),
        cmocka_unit_test(merges_into_the_plain_model),
        cmocka_unit_test(damage_is_named),
    };
    return cmocka_run_group_tests_name("peft", tests, set_up, tear_down);
}
