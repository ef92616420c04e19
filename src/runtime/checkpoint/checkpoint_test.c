/* Checkpoints: what is written comes back bit for bit and looks as transformers' own files do; damaged files are refused with a
 * message that names the tensor; a write that fails at any moment leaves the old checkpoint whole. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/io.h"
#include "data/safetensors/safetensors.h"
#include "checkpoint.h"

typedef struct state {
    qn_model *model;
    float **value, **m, **v;
} state;

static char root[256]; /* of this run's files */

static void ok(qn_status st, const qn_err *err)
{
    if (st != QN_OK) print_error("%s: %s\n", qn_status_name(st), err->text);
    assert_int_equal(st, QN_OK);
}

static state open_state(const qn_model_config *c, uint64_t seed)
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
            (*list[i])[p] = calloc((size_t)count, sizeof(float));
            for (int64_t e = 0; seed != 0 && e < count; e++)
                (*list[i])[p][e] = (float)(seed * 1000 + (uint64_t)i * 100 + (uint64_t)p) + (float)e / 4096;
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

static qn_state_view view_of(const state *s, int moments)
{
    return (qn_state_view){.model = s->model, .value = s->value, .m = moments ? s->m : NULL, .v = moments ? s->v : NULL};
}

static void assert_equal_states(const state *a, const state *b, int moments)
{
    float **x[3] = {a->value, a->m, a->v}, **y[3] = {b->value, b->m, b->v};
    for (int i = 0; i < (moments ? 3 : 1); i++)
        for (int32_t p = 0; p < qn_model_params(a->model); p++)
            assert_memory_equal(x[i][p], y[i][p], (size_t)qn_model_param(a->model, p)->count * sizeof(float));
}

static const char *dir_of(char buf[512], const char *name)
{
    snprintf(buf, 512, "%s/%s", root, name);
    return buf;
}

static const char tokenizer[] =
    "{\"added_tokens\": [{\"id\": 1, \"content\": \"<s>\"}], \"model\": {\"vocab\": {\"a\": 0, \"end\": 2}}}";
static const qn_checkpoint_desc full = {
    .tokenizer_json = tokenizer, .tokenizer_bytes = sizeof(tokenizer) - 1, .bos = 1, .eos = 2, .state_json = "{\"step\": 7}"};

static const qn_model_config configs[] = {
    {.arch = QN_ARCH_GPT2, .layers = 2, .heads = 4, .width = 32, .context = 16, .vocab = 65, .tied = true},
    {.arch = QN_ARCH_LLAMA,
     .layers = 2,
     .heads = 4,
     .kv_heads = 2,
     .width = 32,
     .hidden = 96,
     .context = 16,
     .vocab = 65,
     .tied = true},
    {.arch = QN_ARCH_GPT2,
     .layers = 2,
     .heads = 4,
     .width = 32,
     .context = 16,
     .vocab = 65,
     .dropout = 0.1,
     .hidden = 48,
     .norm_eps = 1e-6},
    {.arch = QN_ARCH_LLAMA,
     .layers = 2,
     .heads = 4,
     .kv_heads = 2,
     .width = 32,
     .hidden = 96,
     .context = 16,
     .vocab = 65,
     .rope_theta = 5e5},
};
enum { CONFIGS = sizeof(configs) / sizeof(configs[0]) };

/* --- round trip */
static void comes_back_bit_for_bit(void **unused)
{
    char path[512];
    (void)unused;
    for (int c = 0; c < CONFIGS; c++) {
        for (int sharded = 0; sharded < 2; sharded++) {
            state out = open_state(&configs[c], 3), in = open_state(&configs[c], 0);
            qn_state_view from = view_of(&out, 1), to = view_of(&in, 1);
            qn_checkpoint_desc d = full;
            qn_model_config config;
            qn_err err;
            d.shard_bytes = sharded ? 20000 : 0;
            ok(qn_checkpoint_write(dir_of(path, "round"), &from, &d, &err), &err);
            ok(qn_checkpoint_read_config(&config, path, &err), &err);
            const qn_model_config *want = qn_model_config_of(out.model);
            qn_model *again;
            ok(qn_model_open(&again, &config, &err), &err);
            qn_model_config got = *qn_model_config_of(again);
            if (want->arch == QN_ARCH_GPT2) got.rope_theta = want->rope_theta; /* no key of GPT-2's */
            if (want->arch == QN_ARCH_LLAMA) got.dropout = want->dropout;
            assert_int_equal(got.arch, want->arch);
            assert_int_equal(got.layers, want->layers);
            assert_int_equal(got.heads, want->heads);
            assert_int_equal(got.kv_heads, want->kv_heads);
            assert_int_equal(got.width, want->width);
            assert_int_equal(got.hidden, want->hidden);
            assert_int_equal(got.context, want->context);
            assert_int_equal(got.vocab, want->vocab);
            assert_int_equal(got.tied, want->tied);
            assert_true(got.norm_eps == want->norm_eps && got.rope_theta == want->rope_theta && got.dropout == want->dropout);
            ok(qn_checkpoint_read(path, &to, &err), &err);
            assert_equal_states(&in, &out, 1);
            char *text;
            size_t bytes;
            ok(qn_checkpoint_read_state(&text, &bytes, path, &err), &err);
            assert_string_equal(text, full.state_json);
            assert_int_equal(bytes, strlen(full.state_json));
            qn_free(text);
            qn_model_close(again);
            close_state(&out);
            close_state(&in);
        }
    }
}

static void a_plain_model_has_no_state(void **unused)
{
    char path[512], *text;
    size_t bytes;
    qn_err err;
    (void)unused;
    state s = open_state(&configs[0], 3);
    const qn_state_view plain = view_of(&s, 0), with = view_of(&s, 1);
    const qn_checkpoint_desc d = {.bos = -1, .eos = -1};
    ok(qn_checkpoint_write(dir_of(path, "plain"), &plain, &d, &err), &err);
    ok(qn_checkpoint_read(path, &plain, &err), &err);
    assert_int_equal(qn_checkpoint_read_state(&text, &bytes, path, &err), QN_ENOENT);
    assert_int_equal(qn_checkpoint_read(path, &with, &err), QN_ENOENT);
    assert_non_null(strstr(err.text, "optimizer.safetensors"));
    qn_model_config config;
    assert_int_equal(qn_checkpoint_read_config(&config, dir_of(path, "nowhere"), &err), QN_ENOENT);
    close_state(&s);
}

/* --- a layout that transformers wrote, tests/golden/hf_layout.txt */
static json_t *load_json(const char *dir, const char *name)
{
    char path[700];
    json_error_t where;
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    json_t *j = json_load_file(path, 0, &where);
    if (j == NULL) print_error("%s: %s\n", path, where.text);
    assert_non_null(j);
    return j;
}

static void check_golden_config(const json_t *config, const char *key, const char *value)
{
    json_t *want = json_loads(value, JSON_DECODE_ANY, NULL);
    const json_t *got = json_object_get(config, key);
    assert_non_null(want);
    if (got == NULL || !json_equal(got, want)) print_error("config.json: key %s, wanted %s\n", key, value);
    assert_true(got != NULL && json_equal(got, want));
    json_decref(want);
}

static void check_golden_tensor(const qn_safetensors *f, const char *name, const char *rest)
{
    char dtype[16];
    int at = 0;
    const qn_tensor_view *t = qn_safetensors_find(f, name);
    if (t == NULL) print_error("no tensor %s\n", name);
    assert_non_null(t);
    assert_int_equal(sscanf(rest, "%15s%n", dtype, &at), 1);
    assert_string_equal(dtype, "F32");
    assert_int_equal(t->dtype, QN_F32);
    for (int32_t i = 0; i < t->shape.rank; i++) {
        long long dim;
        int used = 0;
        assert_int_equal(sscanf(rest + at, "%lld%n", &dim, &used), 1);
        assert_int_equal(dim, t->shape.dim[i]);
        at += used;
    }
    assert_true(rest[at] == '\n' || rest[at] == '\0');
}

typedef struct golden {
    json_t *config;
    qn_safetensors *f;
    int tensors, keys;
} golden;

/* Writes the model of a block's first line. */
static void begin_block(golden *g, const char *line)
{
    char arch[16], tied[16], path[512];
    qn_model_config c = {0};
    qn_err err;
    assert_int_equal(sscanf(line, "model %15s %d %d %d %d %d %d %d %15s", arch, &c.layers, &c.heads, &c.kv_heads, &c.width,
                            &c.hidden, &c.context, &c.vocab, tied),
                     9);
    c.arch = strcmp(arch, "gpt2") == 0 ? QN_ARCH_GPT2 : QN_ARCH_LLAMA;
    c.tied = strcmp(tied, "tied") == 0;
    state s = open_state(&c, 1);
    const qn_state_view view = view_of(&s, 0);
    ok(qn_checkpoint_write(dir_of(path, "golden"), &view, &full, &err), &err);
    close_state(&s);
    g->config = load_json(path, "config.json");
    ok(qn_safetensors_open(&g->f, path, &err), &err);
    g->tensors = g->keys = 0;
}

static void end_block(golden *g)
{
    if (g->f == NULL) return;
    assert_int_equal(g->tensors, qn_safetensors_count(g->f));
    assert_int_equal(g->keys, json_object_size(g->config));
    qn_safetensors_close(g->f);
    json_decref(g->config);
    *g = (golden){0};
}

static void layout_is_that_of_transformers(void **unused)
{
    char path[512], line[512], name[128];
    (void)unused;
    const char *source = getenv("QUERN_TEST_SOURCE");
    snprintf(path, sizeof(path), "%s/tests/golden/hf_layout.txt", source != NULL ? source : ".");
    FILE *f = fopen(path, "r");
    if (f == NULL) {
        print_message("skipped: no %s (QUERN_TEST_SOURCE names the source folder)\n", path);
        skip();
    }
    golden g = {0};
    int blocks = 0;
    while (fgets(line, sizeof(line), f) != NULL) {
        int at = 0;
        if (strncmp(line, "model ", 6) == 0) {
            end_block(&g);
            begin_block(&g, line);
            blocks++;
        } else if (sscanf(line, "config %127s %n", name, &at) == 1) {
            check_golden_config(g.config, name, line + at);
            g.keys++;
        } else {
            assert_int_equal(sscanf(line, "tensor %127s %n", name, &at), 1);
            check_golden_tensor(g.f, name, line + at);
            g.tensors++;
        }
    }
    end_block(&g);
    fclose(f);
    assert_int_equal(blocks, 4);
}

static void companions_name_the_special_tokens(void **unused)
{
    char path[512];
    qn_err err;
    (void)unused;
    state s = open_state(&configs[0], 1);
    const qn_state_view view = view_of(&s, 0);
    qn_checkpoint_desc d = full;
    ok(qn_checkpoint_write(dir_of(path, "companions"), &view, &d, &err), &err);
    json_t *j = load_json(path, "tokenizer_config.json");
    assert_string_equal(json_string_value(json_object_get(j, "bos_token")), "<s>");
    assert_string_equal(json_string_value(json_object_get(j, "eos_token")), "end");
    json_decref(j);
    j = load_json(path, "generation_config.json");
    assert_int_equal(json_integer_value(json_object_get(j, "eos_token_id")), 2);
    json_decref(j);
    j = load_json(path, "tokenizer.json");
    json_decref(j);
    d.tokenizer_json = "{";
    d.tokenizer_bytes = 1;
    assert_int_equal(qn_checkpoint_write(path, &view, &d, &err), QN_EFORMAT);
    close_state(&s);
}

/* --- failures while writing */
static void every_failing_write_leaves_a_whole_checkpoint(void **unused)
{
    static const qn_fault kinds[] = {QN_FAULT_IO, QN_FAULT_ALLOC};
    char path[512], tmp[600];
    qn_err err;
    (void)unused;
    state old = open_state(&configs[0], 3), new = open_state(&configs[0], 4), in = open_state(&configs[0], 0);
    const qn_state_view from_old = view_of(&old, 1), from_new = view_of(&new, 1), to = view_of(&in, 1);
    dir_of(path, "faults");
    snprintf(tmp, sizeof(tmp), "%s.tmp", path);
    for (size_t k = 0; k < 2; k++) {
        qn_status st = QN_EIO;
        int n = 0, kept = 0, is_old = 0;
        while (st != QN_OK) {
            qn_checkpoint_desc d = full;
            if (!is_old) ok(qn_checkpoint_write(path, &from_old, &d, &err), &err);
            d.state_json = "{\"step\": 8}";
            qni_fault_arm(kinds[k], ++n);
            st = qn_checkpoint_write(path, &from_new, &d, &err);
            qni_fault_arm(kinds[k], 0);
            if (st != QN_OK) assert_int_equal(st, kinds[k] == QN_FAULT_IO ? QN_EIO : QN_ENOMEM);
            ok(qn_checkpoint_read(path, &to, &err), &err);
            char *text;
            size_t bytes;
            ok(qn_checkpoint_read_state(&text, &bytes, path, &err), &err);
            is_old = strcmp(text, full.state_json) == 0;
            assert_equal_states(&in, is_old ? &old : &new, 1);
            if (st == QN_OK) assert_false(is_old);
            kept += is_old;
            qn_free(text);
            assert_int_equal(qn_path_exists(tmp), 0);
        }
        assert_true(n > 10);
        assert_true(kept >= n - 3); /* the last events come after the exchange of names */
    }
    close_state(&old);
    close_state(&new);
    close_state(&in);
}

/* --- damaged tensors. A file is made of a header text and as many bytes as asked for. */
static void put_tensors(const char *dir, const char *header, size_t bytes)
{
    char path[700];
    qn_err err;
    const uint64_t n = strlen(header);
    char *file = calloc(8 + n + bytes, 1);
    memcpy(file, &n, 8);
    memcpy(file + 8, header, n);
    snprintf(path, sizeof(path), "%s/model.safetensors", dir);
    ok(qn_file_write(path, file, 8 + n + bytes, &err), &err);
    free(file);
}

/* The header of a whole file of that model, where the entry of the tensor named is replaced, or left out (NULL). */
static char *header_with(const state *s, const char *name, const char *entry, const char *extra, size_t *bytes)
{
    char *text = calloc(1, 65536);
    size_t used = (size_t)sprintf(text, "{%s", extra), at = 0;
    for (int32_t p = 0; p < qn_model_params(s->model); p++) {
        const qn_param *q = qn_model_param(s->model, p);
        const size_t end = at + (size_t)q->count * 4;
        if (strcmp(q->name, name) == 0 && entry == NULL) continue;
        used += (size_t)sprintf(text + used, "%s\"%s\":", text[used - 1] == '{' ? "" : ",", q->name);
        if (strcmp(q->name, name) == 0)
            used += (size_t)sprintf(text + used, entry, at, end);
        else if (q->rank == 1)
            used += (size_t)sprintf(text + used, "{\"dtype\":\"F32\",\"shape\":[%d],\"data_offsets\":[%zu,%zu]}", (int)q->dim[0],
                                    at, end);
        else
            used += (size_t)sprintf(text + used, "{\"dtype\":\"F32\",\"shape\":[%d,%d],\"data_offsets\":[%zu,%zu]}",
                                    (int)q->dim[q->file_transposed], (int)q->dim[!q->file_transposed], at, end);
        at = end;
    }
    strcpy(text + used, "}");
    *bytes = at;
    return text;
}

static void refuses_damaged_tensors(void **unused)
{
    /* of GPT-2's tensor "transformer.h.0.attn.c_proj.weight" [32, 32]; %zu: where it lies; then what the message must say */
    static const struct {
        const char *entry, *extra;
        int missing_bytes;
        const char *says[3];
    } cases[] = {
        {"{\"dtype\":\"F32\",\"shape\":[32,32],\"data_offsets\":[%zu,%zu]}", "", 0, {NULL}},
        {"{\"dtype\":\"F32\",\"shape\":[16,64],\"data_offsets\":[%zu,%zu]}", "", 0, {"c_proj.weight", "[16, 64]", "[32, 32]"}},
        {"{\"dtype\":\"F32\",\"shape\":[1024],\"data_offsets\":[%zu,%zu]}", "", 0, {"c_proj.weight", "[1024]", "[32, 32]"}},
        {"{\"dtype\":\"I32\",\"shape\":[32,32],\"data_offsets\":[%zu,%zu]}", "", 0, {"c_proj.weight", "i32", "f32, f16 or bf16"}},
        {NULL, "", 0, {"c_proj.weight", "missing", "[32, 32]"}},
        {"{\"dtype\":\"F32\",\"shape\":[32,32],\"data_offsets\":[%zu,%zu]}", "", 4, {NULL, "", ""}},
        {"{\"dtype\":\"F32\",\"shape\":[32,32],\"data_offsets\":[0,4096], \"was\":[%zu,%zu]}", "", 0, {"", "", ""}},
        {"{\"dtype\":\"F32\",\"shape\":[32,33],\"data_offsets\":[%zu,%zu]}", "", 0, {"c_proj.weight", "", ""}},
        {"{\"dtype\":\"F32\",\"shape\":[32,32],\"data_offsets\":[%zu,%zu]}",
         "\"stray\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}",
         0,
         {"stray", "", ""}},
        {"{\"dtype\":\"F32\",\"shape\":[32,32],\"data_offsets\":[%zu,%zu]}",
         "\"h.0.attn.bias\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}",
         0,
         {NULL}},
    };
    char path[512];
    qn_err err;
    (void)unused;
    state s = open_state(&configs[0], 1);
    const qn_state_view view = view_of(&s, 0);
    ok(qn_make_dirs(dir_of(path, "damaged"), &err), &err);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        size_t bytes;
        char *header = header_with(&s, "transformer.h.0.attn.c_proj.weight", cases[i].entry, cases[i].extra, &bytes);
        put_tensors(path, header, bytes - (size_t)cases[i].missing_bytes);
        free(header);
        err.text[0] = '\0';
        const qn_status st = qn_checkpoint_read(path, &view, &err);
        if (cases[i].says[0] == NULL && cases[i].missing_bytes == 0) {
            ok(st, &err);
            continue;
        }
        assert_int_equal(st, QN_EFORMAT);
        for (int k = 0; k < 3; k++) {
            const char *part = cases[i].says[k];
            if (part != NULL && strstr(err.text, part) == NULL)
                print_error("case %zu: '%s' does not say '%s'\n", i, err.text, part);
            assert_true(part == NULL || strstr(err.text, part) != NULL);
        }
    }
    close_state(&s);
}

/* The hub's GPT-2 files have no "transformer." before the names. */
static void accepts_names_without_the_prefix(void **unused)
{
    char path[512];
    qn_err err;
    (void)unused;
    state s = open_state(&configs[0], 1);
    const qn_state_view view = view_of(&s, 0);
    size_t bytes;
    char *header = header_with(&s, "", NULL, "", &bytes), *p = header;
    while ((p = strstr(p, "\"transformer.")) != NULL)
        memmove(p + 1, p + strlen("\"transformer."), strlen(p + strlen("\"transformer.")) + 1);
    ok(qn_make_dirs(dir_of(path, "hub"), &err), &err);
    put_tensors(path, header, bytes);
    ok(qn_checkpoint_read(path, &view, &err), &err);
    for (int32_t i = 0; i < qn_model_params(s.model); i++) assert_true(s.value[i][qn_model_param(s.model, i)->count - 1] == 0.0f);
    free(header);
    close_state(&s);
}

/* --- config.json as others write it */
static void reads_and_refuses_configs(void **unused)
{
    static const struct {
        const char *text;
        qn_status want;
        const char *says;
    } cases[] = {
        {"{\"architectures\":[\"GPT2LMHeadModel\"],\"n_ctx\":99,\"n_embd\":12}", QN_OK, NULL},
        {"{\"model_type\":\"llama\",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":7.0}}", QN_OK, NULL},
        {"{\"model_type\":\"llama\",\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":7.0}}", QN_EUNSUPPORTED,
         "llama3"},
        {"{\"model_type\":\"llama\",\"rope_scaling\":{\"type\":\"linear\"}}", QN_EUNSUPPORTED, "rope_scaling"},
        {"{\"model_type\":\"llama\",\"hidden_act\":\"gelu\"}", QN_EUNSUPPORTED, "hidden_act"},
        {"{\"model_type\":\"llama\",\"attention_bias\":true}", QN_EUNSUPPORTED, "attention_bias"},
        {"{\"model_type\":\"llama\",\"head_dim\":7}", QN_EUNSUPPORTED, "head_dim"},
        {"{\"model_type\":\"gpt2\",\"activation_function\":\"relu\"}", QN_EUNSUPPORTED, "relu"},
        {"{\"model_type\":\"gpt2\",\"scale_attn_by_inverse_layer_idx\":true}", QN_EUNSUPPORTED,
         "scale_attn_by_inverse_layer_idx"},
        {"{\"model_type\":\"gpt2\",\"n_layer\":\"12\"}", QN_EFORMAT, "key 'n_layer' is a string; wanted: a whole number"},
        {"{\"model_type\":\"gpt2\",\"n_layer\":-1}", QN_EFORMAT, "key 'n_layer' is -1"},
        {"{\"model_type\":\"gpt2\",\"n_layer\":99999999999}", QN_EFORMAT, "n_layer"},
        {"{\"model_type\":\"gpt2\",\"layer_norm_epsilon\":true}", QN_EFORMAT, "layer_norm_epsilon"},
        {"{\"model_type\":\"gpt2\",\"tie_word_embeddings\":1}", QN_EFORMAT, "tie_word_embeddings"},
        {"{\"architectures\":[\"BertModel\"]}", QN_EUNSUPPORTED, "BertModel"},
        {"{}", QN_EFORMAT, "architectures"},
        {"[]", QN_EFORMAT, "a list"},
        {"{\"model_type\":\"gpt2\"", QN_EFORMAT, "line 1"},
        {"", QN_EFORMAT, "config.json"},
    };
    char path[512], file[600];
    qn_err err;
    (void)unused;
    ok(qn_make_dirs(dir_of(path, "configs"), &err), &err);
    snprintf(file, sizeof(file), "%s/config.json", path);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        qn_model_config c;
        ok(qn_file_write(file, cases[i].text, strlen(cases[i].text), &err), &err);
        const qn_status st = qn_checkpoint_read_config(&c, path, &err);
        if (st != cases[i].want) print_error("case %zu: %s\n", i, st == QN_OK ? "accepted" : err.text);
        assert_int_equal(st, cases[i].want);
        if (st != QN_OK && strstr(err.text, cases[i].says) == NULL) print_error("case %zu: '%s'\n", i, err.text);
        assert_true(st == QN_OK || strstr(err.text, cases[i].says) != NULL);
        if (i == 0) assert_true(c.context == 99 && c.width == 12 && c.layers == 12 && c.tied);
        if (i == 1) assert_true(c.rope_theta == 7.0 && c.norm_eps == 1e-6 && !c.tied);
    }
}

static int make_root(void **unused)
{
    (void)unused;
    const char *tmp = getenv("QUERN_TEST_TMP");
    snprintf(root, sizeof(root), "%.200s/checkpoint_test.%ld", tmp != NULL ? tmp : ".", (long)getpid());
    return qn_make_dirs(root, NULL) == QN_OK ? 0 : -1;
}

static int remove_root(void **unused)
{
    (void)unused;
    return qn_remove_tree(root, NULL) == QN_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comes_back_bit_for_bit),
        cmocka_unit_test(a_plain_model_has_no_state),
        cmocka_unit_test(layout_is_that_of_transformers),
        cmocka_unit_test(companions_name_the_special_tokens),
        cmocka_unit_test(every_failing_write_leaves_a_whole_checkpoint),
        cmocka_unit_test(refuses_damaged_tensors),
        cmocka_unit_test(accepts_names_without_the_prefix),
        cmocka_unit_test(reads_and_refuses_configs),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
