/* The backward of every reference against central differences, in double.
 *
 * L = sum of output * cotangent. The gradient of each input element, found by the backward, must agree with
 * (L(x + h) - L(x - h)) / 2h to 1e-6 of the largest gradient of that input: with h = 1e-4 and inputs of order 1 the difference is
 * good to h^2 = 1e-8 times the third derivative and to 2^-52 / h = 2e-12 times the number of terms. */
#include "support/near.h"

#include "kernels/kernels.h"

enum { ARGS = 6, MAX = 512 };

/* One case: inputs x (with gradient g, NULL: none), outputs y with cotangents dy. */
typedef struct trial {
    const qn_kernels *k;
    const qn_exec *ex;
    int64_t nx[ARGS], ny[ARGS];
    double x[ARGS][MAX], g[ARGS][MAX], y[ARGS][MAX], dy[ARGS][MAX], aux[4][MAX];
    int32_t tok[MAX], pos[MAX];
    qn_linear *lin;
    qn_attention_shape shape;
    bool flag;
    double loss; /* added to L */
} trial;

typedef void trial_fn(trial *t);

static double value(trial *t, trial_fn *forward)
{
    t->loss = 0;
    forward(t);
    double sum = t->loss;
    for (int a = 0; a < ARGS; a++)
        for (int64_t i = 0; i < t->ny[a]; i++) sum += t->y[a][i] * t->dy[a][i];
    return sum;
}

static void fill(trial *t, uint16_t stream)
{
    for (uint16_t a = 0; a < ARGS; a++)
        for (uint32_t i = 0; i < MAX; i++) {
            t->x[a][i] = near_uniform((uint16_t)(stream + a), i, -1, 1);
            t->dy[a][i] = near_uniform((uint16_t)(stream + ARGS + a), i, -1, 1);
            t->g[a][i] = 0;
        }
}

static void check(trial *t, trial_fn *forward, trial_fn *backward, const char *name)
{
    const double h = 1e-4;
    (void)value(t, forward);
    backward(t);
    double worst = 0;
    for (int a = 0; a < ARGS; a++) {
        double largest = 0;
        for (int64_t i = 0; i < t->nx[a]; i++) largest = fmax(largest, fabs(t->g[a][i]));
        for (int64_t i = 0; i < t->nx[a]; i++) {
            const double x = t->x[a][i];
            t->x[a][i] = x + h;
            const double high = value(t, forward);
            t->x[a][i] = x - h;
            const double low = value(t, forward);
            t->x[a][i] = x;
            const double want = (high - low) / (2 * h), error = fabs(want - t->g[a][i]) / fmax(largest, 1e-3);
            worst = fmax(worst, error);
            if (!(error <= 1e-6))
                fail_msg("%s: input %d element %lld: gradient %.12g, difference %.12g", name, a, (long long)i, t->g[a][i], want);
        }
    }
    print_message("%-12s %.1e\n", name, worst);
}

static trial *trial_open(near_teams *teams, uint16_t stream)
{
    trial *t = calloc(1, sizeof(*t));
    assert_non_null(t);
    near_teams_open(teams);
    t->ex = &teams->ex[0];
    assert_int_equal(qn_kernels_get(&t->k, QN_MODE_REF_F64, NULL), QN_OK);
    fill(t, stream);
    return t;
}

static void trial_close(trial *t, near_teams *teams)
{
    if (t->lin != NULL) t->k->linear_close(t->lin);
    near_teams_close(teams);
    free(t);
}

#define GRADIENT_TEST(name, setup)                                                                                               \
    static void name##_gradient(void **state)                                                                                    \
    {                                                                                                                            \
        (void)state;                                                                                                             \
        near_teams teams;                                                                                                        \
        trial *t = trial_open(&teams, __LINE__);                                                                                 \
        setup;                                                                                                                   \
        check(t, name##_f, name##_b, #name);                                                                                     \
        trial_close(t, &teams);                                                                                                  \
    }

enum { R = 5, C = 7, O = 6 }; /* of most cases */

static void embedding_f(trial *t)
{
    t->k->embedding_forward(t->ex, t->y[0], t->tok, t->pos, t->x[0], t->x[1], R, C);
}
static void embedding_b(trial *t)
{
    t->k->embedding_backward_weight(t->ex, t->g[0], t->g[1], t->tok, t->pos, t->dy[0], R, C);
}
static void embedding_setup(trial *t)
{
    for (int r = 0; r < R; r++) t->tok[r] = r * 2 % 3, t->pos[r] = r % 4;
    t->nx[0] = 3 * C, t->nx[1] = 4 * C, t->ny[0] = R * C;
}
GRADIENT_TEST(embedding, embedding_setup(t))

/* x, w, b; mean and rstd in aux */
static void layernorm_f(trial *t)
{
    t->k->layernorm_forward(t->ex, t->y[0], t->aux[0], t->aux[1], t->x[0], t->x[1], t->x[2], R, C, 1e-5);
}
static void layernorm_b(trial *t)
{
    t->k->layernorm_backward_input(t->ex, t->g[0], t->dy[0], t->x[0], t->aux[0], t->aux[1], t->x[1], R, C, true);
    t->k->layernorm_backward_weight(t->ex, t->g[1], t->g[2], t->dy[0], t->x[0], t->aux[0], t->aux[1], R, C);
}
GRADIENT_TEST(layernorm, (t->nx[0] = t->ny[0] = R * C, t->nx[1] = t->nx[2] = C))

static void rmsnorm_f(trial *t)
{
    t->k->rmsnorm_forward(t->ex, t->y[0], t->aux[1], t->x[0], t->x[1], R, C, 1e-5);
}
static void rmsnorm_b(trial *t)
{
    t->k->rmsnorm_backward_input(t->ex, t->g[0], t->dy[0], t->x[0], t->aux[1], t->x[1], R, C, false);
    t->k->rmsnorm_backward_weight(t->ex, t->g[1], t->dy[0], t->x[0], t->aux[1], R, C);
}
GRADIENT_TEST(rmsnorm, (t->nx[0] = t->ny[0] = R * C, t->nx[1] = C))

/* x, w, b; the pack in aux */
static void linear_f(trial *t)
{
    t->k->linear_pack(t->ex, t->lin, t->aux[0], t->x[1], QN_PACK_FORWARD | QN_PACK_BACKWARD);
    t->k->linear_forward(t->ex, t->lin, t->y[0], t->x[0], t->aux[0], t->x[2], R);
}
static void linear_b(trial *t)
{
    t->k->linear_backward_input(t->ex, t->lin, t->g[0], t->dy[0], t->aux[0], R, false);
    t->k->linear_backward_weight(t->ex, t->lin, t->g[1], t->g[2], t->dy[0], t->x[0], R);
}
static void linear_setup(trial *t, int64_t in, int64_t out)
{
    const qn_linear_shape shape = {.in = in, .out = out, .rows = R, .threads = 1};
    assert_int_equal(t->k->linear_open(&t->lin, &shape, NULL), QN_OK);
    t->nx[0] = R * in, t->nx[1] = out * in;
}
GRADIENT_TEST(linear, (linear_setup(t, C, O), t->nx[2] = O, t->ny[0] = R * O))

static void classifier_f(trial *t)
{
    t->k->linear_pack(t->ex, t->lin, t->aux[0], t->x[1], QN_PACK_FORWARD | QN_PACK_BACKWARD);
    t->k->classifier(t->ex, t->lin, &t->loss, NULL, NULL, t->x[0], t->aux[0], t->tok, R, QN_CLASS_LOSS);
}
static void classifier_b(trial *t)
{
    t->k->classifier(t->ex, t->lin, NULL, t->g[0], t->g[1], t->x[0], t->aux[0], t->tok, R, QN_CLASS_INPUT | QN_CLASS_WEIGHT);
}
static void classifier_setup(trial *t)
{
    linear_setup(t, C, O);
    for (int r = 0; r < R; r++) t->tok[r] = r == 2 ? -1 : r * 5 % O;
}
GRADIENT_TEST(classifier, classifier_setup(t))

static void gelu_f(trial *t)
{
    t->k->gelu_forward(t->ex, t->y[0], t->x[0], 50);
}
static void gelu_b(trial *t)
{
    t->k->gelu_backward(t->ex, t->g[0], t->dy[0], t->x[0], 50);
}
static void gelu_setup(trial *t)
{
    t->nx[0] = t->ny[0] = 50;
    for (int i = 0; i < 50; i++) t->x[0][i] *= 4;
}
GRADIENT_TEST(gelu, gelu_setup(t))

static void swiglu_f(trial *t)
{
    t->k->swiglu_forward(t->ex, t->y[0], t->x[0], t->x[1], 50);
}
static void swiglu_b(trial *t)
{
    t->k->swiglu_backward(t->ex, t->g[0], t->g[1], t->dy[0], t->x[0], t->x[1], 50);
}
GRADIENT_TEST(swiglu, t->nx[0] = t->nx[1] = t->ny[0] = 50)

static void rope_f(trial *t)
{
    t->k->rope(t->ex, t->y[0], t->x[0], t->pos, 4, 2, 6, 12, 10000, false);
}
static void rope_b(trial *t)
{
    t->k->rope(t->ex, t->g[0], t->dy[0], t->pos, 4, 2, 6, 12, 10000, true);
}
GRADIENT_TEST(rope, (t->nx[0] = t->ny[0] = 48, t->pos[1] = 3, t->pos[2] = 100))

/* q, k, v: two samples of five tokens, four heads on two, rows wider than the heads */
static void attention_f(trial *t)
{
    t->k->attention_forward(t->ex, t->y[0], t->aux[0], t->x[0], t->x[1], t->x[2], &t->shape);
}
static void attention_b(trial *t)
{
    t->k->attention_backward(t->ex, t->g[0], t->g[1], t->g[2], t->dy[0], t->y[0], t->aux[0], t->x[0], t->x[1], t->x[2],
                             &t->shape);
}
static void attention_setup(trial *t)
{
    t->shape =
        (qn_attention_shape){.B = 2, .T = 5, .H = 4, .K = 2, .D = 3, .ldq = 14, .ldk = 7, .ldv = 8, .ldo = 12, .scale = 0.7};
    t->nx[0] = 140, t->nx[1] = 70, t->nx[2] = 80, t->ny[0] = 120;
}
GRADIENT_TEST(attention, attention_setup(t))

static const qn_rng_key KEY = {.seed = 5, .step = 3, .sample = 2, .layer = 1, .op = 4};

static void residual_f(trial *t)
{
    t->k->residual_forward(t->ex, t->y[0], t->x[0], t->x[1], 0, 42, 14, 0.3, &KEY);
}
static void residual_b(trial *t)
{
    memcpy(t->g[0], t->dy[0], sizeof(t->g[0]));
    t->k->residual_backward(t->ex, t->g[1], t->dy[0], 0, 42, 14, 0.3, &KEY);
}
GRADIENT_TEST(residual, t->nx[0] = t->nx[1] = t->ny[0] = 42)

static void dropout_f(trial *t)
{
    t->k->dropout(t->ex, t->y[0], t->x[0], 0, 42, 14, 0.3, &KEY);
}
static void dropout_b(trial *t)
{
    t->k->dropout(t->ex, t->g[0], t->dy[0], 0, 42, 14, 0.3, &KEY);
}
GRADIENT_TEST(dropout, t->nx[0] = t->ny[0] = 42)

/* infer on a cache is forward's last rows, exactly: the two share their definition. */
static void infer_is_forward(void **state)
{
    (void)state;
    near_teams teams;
    trial *t = trial_open(&teams, 900);
    t->shape =
        (qn_attention_shape){.B = 1, .T = 8, .H = 4, .K = 2, .D = 3, .ldq = 12, .ldk = 6, .ldv = 6, .ldo = 12, .scale = 0.7};
    attention_f(t);
    for (int64_t P = 0; P < 8; P++) {
        qn_attention_shape s = t->shape;
        s.T = 8 - P;
        t->k->attention_infer(t->ex, t->y[1], t->x[0] + P * 12, t->x[1], t->x[2], &s, P);
        assert_memory_equal(t->y[1], t->y[0] + P * 12, (size_t)s.T * 12 * sizeof(double));
    }
    trial_close(t, &teams);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embedding_gradient), cmocka_unit_test(layernorm_gradient),  cmocka_unit_test(rmsnorm_gradient),
        cmocka_unit_test(linear_gradient),    cmocka_unit_test(classifier_gradient), cmocka_unit_test(gelu_gradient),
        cmocka_unit_test(swiglu_gradient),    cmocka_unit_test(rope_gradient),       cmocka_unit_test(attention_gradient),
        cmocka_unit_test(residual_gradient),  cmocka_unit_test(dropout_gradient),    cmocka_unit_test(infer_is_forward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
