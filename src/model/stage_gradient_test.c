/* Gradients against finite differences, in double: each layer alone and the whole model, for both families. */
#include "model/lora.h"
#include "model_rig.h"

static const double LIMIT = 1e-7; /* five-point differences in double; the promise to users is 1e-5 */

enum { B = 2, T = 5, SAMPLED = 12 };

typedef struct probe {
    rig *r;
    qn_mb mb;
    double loss;
    qn_stage *stage;
    const double *dy; /* the objective of a stage without the head is dy . y */
    double *x, *y, *dx;
    int64_t n; /* elements of x */
} probe;

static double objective(probe *p, void *wstash)
{
    const bool head = rig_last(p->r, 0), embedding = rig_first(p->r, 0);
    p->loss = 0;
    qn_stage_pack(p->stage);
    qn_stage_forward(p->stage, &p->mb, head ? NULL : p->y, embedding ? NULL : p->x, p->r->stash[0]);
    qn_stage_backward(p->stage, &p->mb, embedding ? NULL : p->dx, head ? NULL : p->dy, embedding ? NULL : p->x, p->r->stash[0],
                      wstash);
    if (head) return p->loss;
    double sum = 0;
    for (int64_t i = 0; i < p->n; i++) sum += p->dy[i] * p->y[i];
    return sum;
}

/* Derivative of the objective by *at. B with W separate computes the loss and leaves the gradients alone. */
static double difference(probe *p, double *at)
{
    const double h = 1e-3, was = *at;
    double f[4];
    for (int i = 0; i < 4; i++) {
        static const double step[4] = {-2, -1, 1, 2};
        *at = was + h * step[i];
        f[i] = objective(p, p->r->wstash[0]);
    }
    *at = was;
    return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h);
}

static double largest(const double *g, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, fabs(g[i]));
    return most;
}

/* Up to SAMPLED entries of value against those of its gradient; the largest one always among them. */
static void check_entries(probe *p, const char *name, double *value, const double *grad, int64_t n, uint32_t seed)
{
    const double most = largest(grad, n);
    double worst = 0;
    int64_t top = 0;
    while (top < n && fabs(grad[top]) < most) top++;
    for (int64_t k = 0; k < SAMPLED && k < n; k++) {
        seed = seed * 1664525u + 1013904223u;
        const int64_t i = k == 0 ? top : n <= SAMPLED ? k : (int64_t)((seed >> 8) % (uint32_t)n);
        const double want = difference(p, &value[i]);
        const double error = fabs(grad[i] - want) / (fabs(want) + 1e-2 * most + 1e-6);
        worst = fmax(worst, error);
        if (error > LIMIT)
            fail_msg("%s[%lld]: gradient %.15g, differences %.15g, relative error %.3g", name, (long long)i, grad[i], want,
                     error);
    }
    if (getenv("QUERN_TEST_VERBOSE") != NULL) print_message("  %-48s largest %.3g, error %.3g\n", name, most, worst);
}

static void check_range(rig *r, int32_t first, int32_t count)
{
    const int32_t cut[2] = {first, first + count}, C = qn_model_config_of(r->m)->width, V = qn_model_config_of(r->m)->vocab;
    const qn_stage_limits limits = {.B = B, .T = T, .train = true};
    int32_t tokens[B * T], targets[B * T];
    rig_cut(r, 1, cut, &limits);
    rig_tokens(tokens, B * T, V, 5);
    rig_tokens(targets, B * T, V, 6);
    targets[3] = -1; /* no loss here */
    probe p = {.r = r, .stage = r->stage[0], .n = (int64_t)B * T * C};
    p.mb =
        (qn_mb){.B = B, .T = T, .tokens = tokens, .targets = targets, .seed = 11, .step = 3, .first_sample = 8, .loss = &p.loss};
    p.x = rig_bytes((size_t)p.n * 8);
    p.y = rig_bytes((size_t)p.n * 8);
    p.dx = rig_bytes((size_t)p.n * 8);
    double *dy = rig_bytes((size_t)p.n * 8);
    qn_rng rng = qn_rng_of((qn_rng_key){.seed = 17});
    for (int64_t i = 0; i < p.n; i++) {
        p.x[i] = qn_rng_normal(&rng);
        dy[i] = qn_rng_normal(&rng);
    }
    p.dy = dy;
    rig_clear_grads(r);
    (void)objective(&p, NULL);
    if (!rig_first(r, 0)) {
        double *dx = rig_bytes((size_t)p.n * 8);
        memcpy(dx, p.dx, (size_t)p.n * 8);
        check_entries(&p, "dx", p.x, dx, p.n, 1);
        free(dx);
    }
    for (int32_t u = 0; u < qn_model_uses(r->m); u++) {
        const qn_use *use = qn_model_use(r->m, u);
        const qn_param *param = qn_model_param(r->m, use->param);
        if (!qn_stage_has_use(r->stage[0], u) || param->frozen) continue;
        double *sum = rig_bytes((size_t)param->count * 8);
        bool seen = false; /* a tied weight: all its uses in the stage together, checked once */
        for (int32_t v = 0; v < qn_model_uses(r->m); v++) {
            if (qn_model_use(r->m, v)->param != use->param || !qn_stage_has_use(r->stage[0], v)) continue;
            if (v < u) seen = true;
            for (int64_t i = 0; i < param->count; i++) sum[i] += ((double *)r->grad[v])[i];
        }
        if (!seen) check_entries(&p, param->name, r->value[use->param], sum, param->count, (uint32_t)u);
        free(sum);
    }
    free(p.x);
    free(p.y);
    free(p.dx);
    free(dy);
    rig_uncut(r);
}

static void check_model(qn_model_config c)
{
    rig r;
    rig_open(&r, &c, QN_MODE_REF_F64, 1);
    const int32_t n = qn_model_layers(r.m);
    for (int32_t i = 0; i < n; i++) check_range(&r, i, 1);
    check_range(&r, 0, n);
    check_range(&r, 1, n - 1);
    check_range(&r, 0, n - 1);
    rig_close(&r);
}

static const qn_model_config gpt2 = {
    .arch = QN_ARCH_GPT2, .layers = 2, .heads = 2, .kv_heads = 2, .width = 8, .context = 6, .vocab = 11, .tied = true};
static const qn_model_config llama = {
    .arch = QN_ARCH_LLAMA, .layers = 2, .heads = 4, .kv_heads = 2, .width = 16, .hidden = 12, .context = 6, .vocab = 11};

static void gpt2_tied_with_dropout(void **state)
{
    (void)state;
    qn_model_config c = gpt2;
    c.dropout = 0.3;
    check_model(c);
}

static void gpt2_untied(void **state)
{
    (void)state;
    qn_model_config c = gpt2;
    c.tied = false;
    check_model(c);
}

static void llama_untied_grouped(void **state)
{
    (void)state;
    check_model(llama);
}

static void llama_tied_with_dropout(void **state)
{
    (void)state;
    qn_model_config c = llama;
    c.tied = true;
    c.dropout = 0.2;
    check_model(c);
}

static void adapters(qn_model_config c, const char *targets)
{
    qn_err err;
    rig_ok(qn_lora_targets(&c.lora.targets, c.arch, &targets, 1, &err), &err);
    c.lora.rank = 3;
    c.lora.alpha = 4.5;
    c.dropout = 0.2;
    check_model(c);
}

static void gpt2_adapters(void **state)
{
    (void)state;
    adapters(gpt2, "all-linear");
    adapters(gpt2, "v");
}

static void llama_adapters(void **state)
{
    (void)state;
    adapters(llama, "all-linear");
    adapters(llama, "down");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpt2_tied_with_dropout),  cmocka_unit_test(gpt2_untied),   cmocka_unit_test(llama_untied_grouped),
        cmocka_unit_test(llama_tied_with_dropout), cmocka_unit_test(gpt2_adapters), cmocka_unit_test(llama_adapters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
