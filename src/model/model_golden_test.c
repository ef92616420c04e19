/* Tiny models against Hugging Face's: names, shapes, logits, loss and gradients as tests/golden/model_golden.py stored them;
 * and adapters against peft's (peft_golden.py). */
#include "model/lora.h"

#include "model_rig.h"

enum { LINE = 4096 };

/* The stored LLaMA takes its norms, angles and softmax in f32, whatever the model's type; logits are f32 here. */
static const double LIMIT = 2e-6;

typedef struct golden {
    FILE *f;
    char line[LINE];
} golden;

static bool next_line(golden *g)
{
    return fgets(g->line, LINE, g->f) != NULL;
}

/* The number after "key=". */
static int32_t field(const golden *g, const char *key)
{
    char want[32];
    snprintf(want, sizeof(want), " %s=", key);
    const char *at = strstr(g->line, want);
    if (at == NULL) fail_msg("no %s in: %s", key, g->line);
    return (int32_t)strtol(at + strlen(want), NULL, 10);
}

/* " lora=3 alpha=6 targets=q_proj,v_proj" at the line's end: adapters. */
static qn_lora adapters(golden *g, qn_arch arch)
{
    qn_lora l = {0};
    const char *name[QN_LORA_MODULES];
    int32_t n = 0;
    qn_err err;
    char *save = NULL, *at = strstr(g->line, " targets=");
    if (at == NULL) return l;
    l.rank = field(g, "lora");
    l.alpha = field(g, "alpha");
    for (char *word = strtok_r(at + strlen(" targets="), ",\n", &save); word != NULL; word = strtok_r(NULL, ",\n", &save))
        name[n++] = word;
    rig_ok(qn_lora_targets(&l.targets, arch, name, n, &err), &err);
    return l;
}

/* The numbers after the first word; returns how many. */
static int32_t numbers(golden *g, const char *word, double *out, int32_t most)
{
    int32_t n = 0;
    if (strncmp(g->line, word, strlen(word)) != 0) fail_msg("wanted %s, found: %s", word, g->line);
    for (char *at = g->line + strlen(word), *end; n < most; at = end) {
        const double x = strtod(at, &end);
        if (end == at) break;
        out[n++] = x;
    }
    return n;
}

static bool near(double got, double want, double limit)
{
    return fabs(got - want) <= limit * fmax(1.0, fabs(want));
}

static void check_logits(rig *r, golden *g, const int32_t *tokens, int32_t T, double limit)
{
    const int32_t V = qn_model_config_of(r->m)->vocab;
    float *logits = rig_bytes((size_t)V * sizeof(float));
    double *want = rig_bytes((size_t)V * sizeof(double));
    char *cache = rig_bytes(qn_stage_need_of(r->stage[0])->cache_bytes);
    for (int32_t t = 0; t < T; t++) {
        const qn_mb mb = {.B = 1, .T = 1, .tokens = tokens + t};
        qn_stage_infer(r->stage[0], &mb, t, NULL, NULL, cache, logits);
        assert_int_equal(numbers(g, "logits", want, V), V);
        for (int32_t v = 0; v < V; v++) {
            if (!near(logits[v], want[v], limit)) fail_msg("logit %d of row %d: %.9g, stored %.9g", v, t, logits[v], want[v]);
        }
        assert_true(next_line(g));
    }
    free(logits);
    free(want);
    free(cache);
}

/* Each stored parameter is in the table with its shape in the file, and its gradient has the stored norm. */
static void check_params(rig *r, golden *g, double limit)
{
    int32_t seen = 0;
    for (; strncmp(g->line, "param ", 6) == 0; seen++) {
        char name[96];
        double n[3] = {0}, sum = 0;
        assert_int_equal(sscanf(g->line, "param %95s", name), 1);
        char *rest = g->line + 6 + strlen(name);
        int32_t i = 0, rank = -1;
        for (char *end; rank < 2; rest = end) {
            const double x = strtod(rest, &end);
            if (end == rest) break;
            n[++rank] = x;
        }
        while (i < qn_model_params(r->m) && strcmp(qn_model_param(r->m, i)->name, name) != 0) i++;
        if (i == qn_model_params(r->m)) fail_msg("no parameter %s", name);
        const qn_param *p = qn_model_param(r->m, i);
        assert_int_equal(p->rank, rank);
        assert_int_equal(p->dim[p->file_transposed ? 1 : 0], (int64_t)n[0]);
        if (rank == 2) assert_int_equal(p->dim[p->file_transposed ? 0 : 1], (int64_t)n[1]);
        for (int64_t e = 0; e < p->count; e++) {
            double total = 0;
            for (int32_t u = 0; u < qn_model_uses(r->m); u++) {
                if (qn_model_use(r->m, u)->param == i) total += rig_get(r->k->param, r->grad[u], e);
            }
            sum += total * total;
        }
        if (!near(sqrt(sum), n[rank], limit)) fail_msg("gradient of %s: norm %.9g, stored %.9g", name, sqrt(sum), n[rank]);
        assert_true(next_line(g));
    }
    for (int32_t i = 0; i < qn_model_params(r->m); i++) seen -= !qn_model_param(r->m, i)->frozen;
    assert_int_equal(seen, 0); /* all that are trained */
}

static void check_model(golden *g, qn_mode mode, double limit)
{
    qn_model_config c = {.arch = strncmp(g->line, "gpt2", 4) == 0 ? QN_ARCH_GPT2 : QN_ARCH_LLAMA,
                         .layers = field(g, "layers"),
                         .heads = field(g, "heads"),
                         .kv_heads = field(g, "kv_heads"),
                         .width = field(g, "width"),
                         .hidden = field(g, "hidden"),
                         .context = field(g, "context"),
                         .vocab = field(g, "vocab"),
                         .tied = field(g, "tied") != 0};
    c.lora = adapters(g, c.arch);
    double list[64], loss = 0;
    int32_t tokens[64], targets[64];
    assert_true(next_line(g));
    const int32_t T = numbers(g, "tokens", list, 64);
    for (int32_t t = 0; t < T; t++) tokens[t] = (int32_t)list[t];
    assert_true(next_line(g));
    assert_int_equal(numbers(g, "targets", list, 64), T);
    for (int32_t t = 0; t < T; t++) targets[t] = (int32_t)list[t];
    assert_true(next_line(g));
    assert_int_equal(numbers(g, "loss", &loss, 1), 1);
    assert_true(next_line(g));

    rig r;
    rig_open(&r, &c, mode, 1);
    const int32_t cut[2] = {0, qn_model_layers(r.m)};
    const qn_stage_limits limits = {.B = 1, .T = T, .train = true, .cache_len = c.context};
    rig_cut(&r, 1, cut, &limits);
    check_logits(&r, g, tokens, T, limit);
    qn_mb mb = {.B = 1, .T = T, .tokens = tokens, .targets = targets};
    const double got = rig_step(&r, &mb, 0);
    if (!near(got, loss, limit)) fail_msg("loss %.12g, stored %.12g", got, loss);
    check_params(&r, g, limit);
    assert_int_equal(strncmp(g->line, "end", 3), 0);
    rig_close(&r);
}

static void check_file(const char *name, int32_t want, qn_mode mode, double limit)
{
    const qn_kernels *k;
    qn_err err;
    const char *root = getenv("QUERN_TEST_SOURCE");
    if (qn_kernels_get(&k, mode, &err) != QN_OK) {
        print_message("skipped: %s\n", err.text);
        return;
    }
    if (root == NULL) {
        print_message("skipped: QUERN_TEST_SOURCE does not name the source folder\n");
        return;
    }
    char path[1024];
    golden g;
    snprintf(path, sizeof(path), "%s/tests/golden/%s", root, name);
    g.f = fopen(path, "r");
    if (g.f == NULL) fail_msg("%s is missing", path);
    int32_t models = 0;
    for (; next_line(&g); models++) check_model(&g, mode, limit);
    assert_int_equal(models, want);
    fclose(g.f);
}

static void check_mode(qn_mode mode, double limit)
{
    check_file("model_golden.txt", 4, mode, limit);
    check_file("peft_golden.txt", 4, mode, limit);
}

static void double_equals_hugging_face(void **state)
{
    (void)state;
    check_mode(QN_MODE_REF_F64, LIMIT);
}

static void float_equals_hugging_face(void **state)
{
    (void)state;
    check_mode(QN_MODE_REF_F32, 1e-5);
    check_mode(QN_MODE_F32, 1e-5);
}

static void bf16_is_close_to_hugging_face(void **state)
{
    (void)state;
    check_mode(QN_MODE_BF16, 4e-2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(double_equals_hugging_face),
        cmocka_unit_test(float_equals_hugging_face),
        cmocka_unit_test(bf16_is_close_to_hugging_face),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
