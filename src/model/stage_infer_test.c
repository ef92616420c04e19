/* Token by token, with a cache, equals all at once: prompt lengths, cuts, several samples, both families, in double and in float.
 */
#include "model_rig.h"

enum { B = 2, T = 7, LAYERS = 4 };

static const qn_model_config configs[] = {
    {.arch = QN_ARCH_GPT2, .layers = 2, .heads = 2, .width = 16, .context = 8, .vocab = 13, .tied = true, .dropout = 0.2},
    {.arch = QN_ARCH_LLAMA, .layers = 2, .heads = 4, .kv_heads = 2, .width = 32, .context = 8, .vocab = 13},
};

/* Rows past .. past + n - 1 of each sample through all stages; logits [B, V] of the last. */
static void infer(rig *r, char **cache, const int32_t *tokens, int64_t past, int64_t n, float *logits)
{
    int32_t now[B * T];
    for (int64_t b = 0; b < B; b++) memcpy(now + b * n, tokens + b * T + past, (size_t)n * sizeof(*now));
    const qn_mb mb = {.B = B, .T = n, .tokens = now};
    for (int32_t s = 0; s < r->stages; s++) {
        rig_poison(r->scratch.base, r->scratch.cap);
        qn_stage_infer(r->stage[s], &mb, past, rig_has_y(r, s) ? r->x[s + 1] : NULL, rig_has_x(r, s) ? r->x[s] : NULL, cache[s],
                       logits);
    }
}

/* Logits after a prompt of `prompt` tokens, then one token at a time: [T, B, V], from row prompt - 1 on. */
static void generate(rig *r, const int32_t *cut, int32_t stages, const int32_t *tokens, int64_t prompt, bool train, float *logits)
{
    const qn_stage_limits limits = {.B = B, .T = T, .train = train, .cache_len = 8};
    const int64_t V = qn_model_config_of(r->m)->vocab;
    char *cache[RIG_STAGES];
    rig_cut(r, stages, cut, &limits);
    for (int32_t s = 0; s < stages; s++) cache[s] = rig_bytes(B * qn_stage_need_of(r->stage[s])->cache_bytes);
    infer(r, cache, tokens, 0, prompt, logits + (prompt - 1) * B * V);
    for (int64_t t = prompt; t < T; t++) infer(r, cache, tokens, t, 1, logits + t * B * V);
    for (int32_t s = 0; s < stages; s++) free(cache[s]);
    rig_uncut(r);
}

static double apart(const float *a, const float *b, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, fabs((double)a[i] - b[i]) / fmax(1.0, fabs((double)b[i])));
    return most;
}

/* Every prompt length, then single tokens, over every cut, against one pass over the whole prefix. Logits are f32 in every mode,
 * which bounds what this can show in double; the test below compares the stream itself. */
static void check(qn_mode mode, const qn_model_config *c, double limit)
{
    static const int32_t cuts[][3] = {{0, 0, LAYERS}, {0, 1, LAYERS}, {0, 2, LAYERS}, {0, 3, LAYERS}, {0, 4, LAYERS}};
    rig r;
    int32_t tokens[B * T];
    const int64_t V = c->vocab, n = (int64_t)T * B * V;
    rig_open(&r, c, mode, 1);
    rig_tokens(tokens, B * T, c->vocab, 31);
    float *want = rig_bytes((size_t)n * sizeof(float)), *got = rig_bytes((size_t)n * sizeof(float));
    for (int64_t prompt = T; prompt >= 1; prompt--) { /* each prompt length gives the last row of a pass over all at once */
        float *row = rig_bytes((size_t)n * sizeof(float));
        generate(&r, cuts[0], 2, tokens, prompt, false, row);
        memcpy(want + (prompt - 1) * B * V, row + (prompt - 1) * B * V, (size_t)(B * V) * sizeof(float));
        free(row);
    }
    for (size_t i = 0; i < QN_COUNT(cuts); i++) {
        for (int64_t prompt = 1; prompt < T; prompt += 2) {
            memset(got, 0, (size_t)n * sizeof(float));
            generate(&r, cuts[i], 2, tokens, prompt, i == 2, got);
            const int64_t skip = (prompt - 1) * B * V;
            assert_true(apart(got + skip, want + skip, n - skip) <= limit);
        }
    }
    free(want);
    free(got);
    rig_close(&r);
}

static void token_by_token_equals_all_at_once(void **state)
{
    (void)state;
    static const struct {
        qn_mode mode;
        double limit;
    } modes[] = {{QN_MODE_REF_F64, 1e-7}, {QN_MODE_REF_F32, 2e-5}, {QN_MODE_F32, 2e-5}, {QN_MODE_BF16, 5e-2}};
    for (size_t m = 0; m < QN_COUNT(modes); m++) {
        const qn_kernels *k;
        qn_err err;
        if (qn_kernels_get(&k, modes[m].mode, &err) != QN_OK) {
            print_message("skipped: %s\n", err.text);
            continue;
        }
        for (size_t c = 0; c < QN_COUNT(configs); c++) check(modes[m].mode, &configs[c], modes[m].limit);
    }
}

/* In double: the stream that enters the head, row by row, against the training forward, to 1e-12; in chunks of every size. */
static void check_stream(rig *r, const int32_t *tokens, const double *want, int64_t chunk)
{
    const int64_t C = qn_model_config_of(r->m)->width;
    int32_t now[B * T];
    double *got = rig_bytes((size_t)(B * T * C) * 8);
    char *cache = rig_bytes(B * qn_stage_need_of(r->stage[0])->cache_bytes);
    for (int64_t past = 0; past < T; past += chunk) {
        const int64_t n = past + chunk <= T ? chunk : T - past;
        for (int64_t b = 0; b < B; b++) memcpy(now + b * n, tokens + b * T + past, (size_t)n * sizeof(*now));
        const qn_mb mb = {.B = B, .T = n, .tokens = now};
        qn_stage_infer(r->stage[0], &mb, past, got, NULL, cache, NULL);
        for (int64_t i = 0; i < B * n * C; i++) {
            const int64_t row = i / C, b = row / n, t = row % n;
            const double w = want[(b * T + past + t) * C + i % C];
            assert_true(fabs(got[i] - w) <= 1e-12 * fmax(1.0, fabs(w)));
        }
    }
    free(got);
    free(cache);
}

static void cached_stream_equals_forward_in_double(void **state)
{
    (void)state;
    for (size_t c = 0; c < QN_COUNT(configs); c++) {
        qn_model_config config = configs[c];
        config.dropout = 0;
        rig r;
        int32_t tokens[B * T];
        const int32_t cut[2] = {0, LAYERS - 1};
        const qn_stage_limits limits = {.B = B, .T = T, .train = true, .cache_len = 8};
        rig_open(&r, &config, QN_MODE_REF_F64, 1);
        rig_tokens(tokens, B * T, config.vocab, 41);
        rig_cut(&r, 1, cut, &limits);
        double *want = rig_bytes((size_t)(B * T * config.width) * 8);
        const qn_mb all = {.B = B, .T = T, .tokens = tokens};
        qn_stage_forward(r.stage[0], &all, want, NULL, r.stash[0]);
        for (int64_t chunk = 1; chunk <= T; chunk++) check_stream(&r, tokens, want, chunk);
        free(want);
        rig_close(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(token_by_token_equals_all_at_once),
        cmocka_unit_test(cached_stream_equals_forward_in_double),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
