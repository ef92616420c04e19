/* Every element-wise and row-wise fast kernel against its reference: all instruction sets of this machine, both modes, sizes with
 * remainders, guards around every array; and the promises of kernels.h: the same bits for 1 to 3 threads and for a row alone.
 *
 * Inputs are of order 1. With u = 2^-24 and n terms, a lane sums n / W of them and the tree adds log2(W) levels, so a sum errs by
 * at most (n / 4 + 8) u times the sum of absolute values: `terms` below. Element-wise results err by a few u of the values that
 * make them up: a bound in units of 2^-24 beside each case. A result in bf16 adds one rounding to eight bits. */
#include "support/near.h"

#include "kernels/kernels.h"

enum { MAX_ARGS = 7, VOCABULARY = 11 };
static const double U = 0x1p-24;

static const int64_t rows_of[] = {0, 1, 2, 5, 37}, widths[] = {1, 7, 8, 15, 16, 17, 63, 64, 65, 520, 1027};

/* How an argument's elements are counted. */
typedef enum extent { ROWS_BY_WIDTH, ROWS, WIDTH, TABLE /* VOCABULARY rows */ } extent;
typedef enum role { IN, OUT, ADDED /* in and out */ } role;
typedef struct arg {
    role role;
    char type; /* 'a' act, 'r' res or param */
    extent extent;
    double low, high;
} arg;

typedef struct call {
    const qn_kernels *k;
    const qn_exec *ex;
    void *p[MAX_ARGS];
    const int32_t *tok, *pos;
    uint32_t first; /* sample of row 0 */
    int64_t R, C;
} call;

typedef struct op {
    const char *name;
    void (*run)(const call *c);
    /* Units of U that element (r, c) of output o may err; v[a] are the arguments, as the reference saw and left them. */
    double (*bound)(float *const *v, int o, int64_t r, int64_t c, int64_t R, int64_t C);
    bool by_row; /* a row alone gives the same bits */
    arg arg[MAX_ARGS];
} op;

static double terms(int64_t n)
{
    return (double)n / 4 + 8;
}

/* --- norms. x in [-1, 1]: an error of the mean of e moves y by e rstd w. */
static void layernorm_forward(const call *c)
{
    c->k->layernorm_forward(c->ex, c->p[0], c->p[1], c->p[2], c->p[3], c->p[4], c->p[5], c->R, c->C, 1e-5);
}
static double layernorm_forward_bound(float *const *v, int o, int64_t r, int64_t c, int64_t R, int64_t C)
{
    (void)R;
    const double rstd = v[2][r];
    if (o == 1) return terms(C) + 2;
    if (o == 2) return (terms(C) + 8) * rstd * (1 + rstd);
    return (2 * terms(C) + 16) * (fabs((double)v[4][c]) * rstd * (2 + rstd) + fabs((double)v[5][c]));
}

/* dx, dy, x, mean, rstd, w */
static void layernorm_input(const call *c)
{
    c->k->layernorm_backward_input(c->ex, c->p[0], c->p[1], c->p[2], c->p[3], c->p[4], c->p[5], c->R, c->C, false);
}
static void layernorm_input_add(const call *c)
{
    c->k->layernorm_backward_input(c->ex, c->p[0], c->p[1], c->p[2], c->p[3], c->p[4], c->p[5], c->R, c->C, true);
}
static double layernorm_input_bound(float *const *v, int o, int64_t r, int64_t c, int64_t R, int64_t C)
{
    (void)o, (void)c, (void)R;
    const double n = 2 * (double)v[4][r]; /* largest normalised x: |x - mean| <= 2 */
    return (terms(C) + 12) * v[4][r] * (1 + n) * (1 + n) + 2;
}
/* dw, db, dy, x, mean, rstd: rows in order, one term each */
static void layernorm_weight(const call *c)
{
    c->k->layernorm_backward_weight(c->ex, c->p[0], c->p[1], c->p[2], c->p[3], c->p[4], c->p[5], c->R, c->C);
}
static double weight_bound(float *const *v, int o, int64_t r, int64_t c, int64_t R, int64_t C)
{
    (void)v, (void)o, (void)r, (void)c, (void)C;
    return ((double)R + 6) * (double)(R + 1) * 4; /* |dy n| <= 4 */
}

static void rmsnorm_forward(const call *c)
{
    c->k->rmsnorm_forward(c->ex, c->p[0], c->p[1], c->p[2], c->p[3], c->R, c->C, 1e-5);
}
static double rmsnorm_forward_bound(float *const *v, int o, int64_t r, int64_t c, int64_t R, int64_t C)
{
    (void)R;
    if (o == 1) return (terms(C) + 4) * v[1][r];
    return (terms(C) + 8) * fabs((double)v[0][r * C + c]) + 1e-30;
}
static void rmsnorm_input(const call *c)
{
    c->k->rmsnorm_backward_input(c->ex, c->p[0], c->p[1], c->p[2], c->p[3], c->p[4], c->R, c->C, false);
}
static void rmsnorm_input_add(const call *c)
{
    c->k->rmsnorm_backward_input(c->ex, c->p[0], c->p[1], c->p[2], c->p[3], c->p[4], c->R, c->C, true);
}
static double rmsnorm_input_bound(float *const *v, int o, int64_t r, int64_t c, int64_t R, int64_t C)
{
    (void)o, (void)c, (void)R;
    const double n = v[3][r];
    return (terms(C) + 12) * n * (1 + n) * (1 + n) + 2;
}
static void rmsnorm_weight(const call *c)
{
    c->k->rmsnorm_backward_weight(c->ex, c->p[0], c->p[1], c->p[2], c->p[3], c->R, c->C);
}

/* --- activations. exp errs by 2 units, the sigmoid by 4, times the argument's own error of about 3 units per unit of |x|. */
static void gelu_forward(const call *c)
{
    c->k->gelu_forward(c->ex, c->p[0], c->p[1], c->R * c->C);
}
static void gelu_backward(const call *c)
{
    c->k->gelu_backward(c->ex, c->p[0], c->p[1], c->p[2], c->R * c->C);
}
static void swiglu_forward(const call *c)
{
    c->k->swiglu_forward(c->ex, c->p[0], c->p[1], c->p[2], c->R * c->C);
}
static void swiglu_backward(const call *c)
{
    c->k->swiglu_backward(c->ex, c->p[0], c->p[1], c->p[2], c->p[3], c->p[4], c->R * c->C);
}
static double activation_bound(float *const *v, int o, int64_t r, int64_t c, int64_t R, int64_t C)
{
    (void)v, (void)o, (void)r, (void)c, (void)R, (void)C;
    return 64;
}

/* --- scale and accumulate: one rounding, the same */
static void scale_forward(const call *c)
{
    c->k->scale_forward(c->ex, c->p[0], c->p[1], c->R * c->C, 0.7);
}
static void scale_backward(const call *c)
{
    c->k->scale_backward(c->ex, c->p[0], c->p[1], c->R * c->C, 0.7);
}
static void accumulate(const call *c)
{
    c->k->accumulate(c->ex, c->p[0], c->p[1], c->R * c->C);
}

/* --- rope: sine and cosine to 2e-7 each, two products */
static int64_t head_width(int64_t C)
{
    return C % 16 == 0 ? 16 : C % 2 == 0 ? C : C - 1;
}
static void rope(const call *c)
{
    const int64_t D = head_width(c->C);
    if (D > 0) c->k->rope(c->ex, c->p[0], c->p[0], c->pos, c->R, c->C / D, D, c->C, 10000, false);
}
static void rope_inverse(const call *c)
{
    const int64_t D = head_width(c->C);
    if (D > 0) c->k->rope(c->ex, c->p[0], c->p[0], c->pos, c->R, c->C / D, D, c->C, 500000, true);
}
static double few_bound(float *const *v, int o, int64_t r, int64_t c, int64_t R, int64_t C)
{
    (void)v, (void)o, (void)r, (void)c, (void)R, (void)C;
    return 12;
}
static double exact_bound(float *const *v, int o, int64_t r, int64_t c, int64_t R, int64_t C)
{
    (void)v, (void)o, (void)r, (void)c, (void)R, (void)C;
    return 0;
}

/* --- residual and dropout: the same mask and the same roundings, so equal */
static qn_rng_key key_of(const call *c)
{
    return (qn_rng_key){.seed = UINT64_C(0x123456789abcdef0), .step = 7, .sample = c->first, .layer = 3, .op = 9};
}
static void residual_forward(const call *c)
{
    const qn_rng_key key = key_of(c);
    c->k->residual_forward(c->ex, c->p[0], c->p[1], c->p[2], 0, c->R * c->C, c->C, 0.3, &key);
}
static void residual_plain(const call *c)
{
    c->k->residual_forward(c->ex, c->p[0], c->p[0], c->p[1], 0, c->R * c->C, c->C, 0, NULL);
}
static void residual_backward(const call *c)
{
    const qn_rng_key key = key_of(c);
    c->k->residual_backward(c->ex, c->p[0], c->p[1], 0, c->R * c->C, c->C, 0.3, &key);
}
static void dropout(const call *c)
{
    const qn_rng_key key = key_of(c);
    c->k->dropout(c->ex, c->p[0], c->p[0], 0, c->R * c->C, c->C, 0.1, &key);
}
static void dropout_all(const call *c)
{
    const qn_rng_key key = key_of(c);
    c->k->dropout(c->ex, c->p[0], c->p[0], 0, c->R * c->C, c->C, 1, &key);
}

/* --- embedding: one addition a row, in the same order */
static void embedding_forward(const call *c)
{
    c->k->embedding_forward(c->ex, c->p[0], c->tok, c->pos, c->p[1], c->p[2], c->R, c->C);
}
static void embedding_tokens(const call *c)
{
    c->k->embedding_forward(c->ex, c->p[0], c->tok, c->pos, c->p[1], NULL, c->R, c->C);
}
static void embedding_weight(const call *c)
{
    c->k->embedding_backward_weight(c->ex, c->p[0], c->p[1], c->tok, c->pos, c->p[2], c->R, c->C);
}

/* --- optimizer: p, g, m, v */
static void adamw(const call *c)
{
    const qn_adamw h = {
        .lr = 0.01, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .decay = 0.1, .correct1 = 0.3, .correct2 = 0.03, .grad_scale = 0.5};
    c->k->adamw(c->ex, c->p[0], c->p[1], c->p[2], c->p[3], c->R * c->C, &h);
}
static void adamw_undo(const call *c)
{
    const qn_adamw h = {
        .lr = 0.01, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .decay = 0.1, .correct1 = 0.3, .correct2 = 0.03, .grad_scale = 0.5};
    c->k->adamw_undo(c->ex, c->p[0], c->p[1], c->p[2], c->p[3], c->R * c->C, &h);
}
static void fold(const call *c)
{
    c->k->fold(c->ex, c->p[0], c->p[1], c->R * c->C);
}

#define RC ROWS_BY_WIDTH
static const op ops[] = {
    {"layernorm_forward",
     layernorm_forward,
     layernorm_forward_bound,
     true,
     {{OUT, 'a', RC, 0, 1},
      {OUT, 'r', ROWS, 0, 1},
      {OUT, 'r', ROWS, 0, 1},
      {IN, 'r', RC, -1, 1},
      {IN, 'r', WIDTH, -1, 1},
      {IN, 'r', WIDTH, -1, 1}}},
    {"layernorm_backward_input",
     layernorm_input,
     layernorm_input_bound,
     true,
     {{OUT, 'r', RC, 0, 1},
      {IN, 'r', RC, -1, 1},
      {IN, 'r', RC, -1, 1},
      {IN, 'r', ROWS, -1, 1},
      {IN, 'r', ROWS, 0.5, 2},
      {IN, 'r', WIDTH, -1, 1}}},
    {"layernorm_backward_input, add",
     layernorm_input_add,
     layernorm_input_bound,
     true,
     {{ADDED, 'r', RC, -1, 1},
      {IN, 'r', RC, -1, 1},
      {IN, 'r', RC, -1, 1},
      {IN, 'r', ROWS, -1, 1},
      {IN, 'r', ROWS, 0.5, 2},
      {IN, 'r', WIDTH, -1, 1}}},
    {"layernorm_backward_weight",
     layernorm_weight,
     weight_bound,
     false,
     {{ADDED, 'r', WIDTH, -1, 1},
      {ADDED, 'r', WIDTH, -1, 1},
      {IN, 'r', RC, -1, 1},
      {IN, 'r', RC, -1, 1},
      {IN, 'r', ROWS, -1, 1},
      {IN, 'r', ROWS, 0.5, 2}}},
    {"rmsnorm_forward",
     rmsnorm_forward,
     rmsnorm_forward_bound,
     true,
     {{OUT, 'a', RC, 0, 1}, {OUT, 'r', ROWS, 0, 1}, {IN, 'r', RC, -1, 1}, {IN, 'r', WIDTH, -1, 1}}},
    {"rmsnorm_backward_input",
     rmsnorm_input,
     rmsnorm_input_bound,
     true,
     {{OUT, 'r', RC, 0, 1}, {IN, 'r', RC, -1, 1}, {IN, 'r', RC, -1, 1}, {IN, 'r', ROWS, 0.5, 2}, {IN, 'r', WIDTH, -1, 1}}},
    {"rmsnorm_backward_input, add",
     rmsnorm_input_add,
     rmsnorm_input_bound,
     true,
     {{ADDED, 'r', RC, -1, 1}, {IN, 'r', RC, -1, 1}, {IN, 'r', RC, -1, 1}, {IN, 'r', ROWS, 0.5, 2}, {IN, 'r', WIDTH, -1, 1}}},
    {"rmsnorm_backward_weight",
     rmsnorm_weight,
     weight_bound,
     false,
     {{ADDED, 'r', WIDTH, -1, 1}, {IN, 'r', RC, -1, 1}, {IN, 'r', RC, -1, 1}, {IN, 'r', ROWS, 0.5, 2}}},
    {"gelu_forward", gelu_forward, activation_bound, true, {{OUT, 'a', RC, 0, 1}, {IN, 'a', RC, -6, 6}}},
    {"gelu_backward", gelu_backward, activation_bound, true, {{OUT, 'a', RC, 0, 1}, {IN, 'r', RC, -1, 1}, {IN, 'a', RC, -6, 6}}},
    {"swiglu_forward",
     swiglu_forward,
     activation_bound,
     true,
     {{OUT, 'a', RC, 0, 1}, {IN, 'a', RC, -6, 6}, {IN, 'a', RC, -1, 1}}},
    {"swiglu_backward",
     swiglu_backward,
     activation_bound,
     true,
     {{OUT, 'a', RC, 0, 1}, {OUT, 'a', RC, 0, 1}, {IN, 'r', RC, -1, 1}, {IN, 'a', RC, -6, 6}, {IN, 'a', RC, -1, 1}}},
    {"scale_forward", scale_forward, exact_bound, true, {{OUT, 'a', RC, 0, 1}, {IN, 'a', RC, -1, 1}}},
    {"scale_backward", scale_backward, exact_bound, true, {{OUT, 'a', RC, 0, 1}, {IN, 'r', RC, -1, 1}}},
    {"accumulate", accumulate, exact_bound, true, {{ADDED, 'a', RC, -1, 1}, {IN, 'a', RC, -1, 1}}},
    {"rope", rope, few_bound, true, {{ADDED, 'a', RC, -1, 1}}},
    {"rope, inverse", rope_inverse, few_bound, true, {{ADDED, 'a', RC, -1, 1}}},
    {"residual_forward", residual_forward, exact_bound, true, {{OUT, 'r', RC, 0, 1}, {IN, 'r', RC, -1, 1}, {IN, 'a', RC, -1, 1}}},
    {"residual_forward, p = 0", residual_plain, exact_bound, true, {{ADDED, 'r', RC, -1, 1}, {IN, 'a', RC, -1, 1}}},
    {"residual_backward", residual_backward, exact_bound, true, {{OUT, 'a', RC, 0, 1}, {IN, 'r', RC, -1, 1}}},
    {"dropout", dropout, exact_bound, true, {{ADDED, 'r', RC, -1, 1}}},
    {"dropout, p = 1", dropout_all, exact_bound, true, {{ADDED, 'r', RC, -1, 1}}},
    {"embedding_forward",
     embedding_forward,
     exact_bound,
     true,
     {{OUT, 'r', RC, 0, 1}, {IN, 'r', TABLE, -1, 1}, {IN, 'r', TABLE, -1, 1}}},
    {"embedding_forward, no wpe", embedding_tokens, exact_bound, true, {{OUT, 'r', RC, 0, 1}, {IN, 'r', TABLE, -1, 1}}},
    {"embedding_backward_weight",
     embedding_weight,
     exact_bound,
     false,
     {{ADDED, 'r', TABLE, -1, 1}, {ADDED, 'r', TABLE, -1, 1}, {IN, 'r', RC, -1, 1}}},
    {"adamw",
     adamw,
     few_bound,
     true,
     {{ADDED, 'r', RC, -1, 1}, {ADDED, 'r', RC, -1, 1}, {ADDED, 'r', RC, -1, 1}, {ADDED, 'r', RC, 0.01, 1}}},
    {"adamw_undo",
     adamw_undo,
     few_bound,
     true,
     {{ADDED, 'r', RC, -1, 1}, {IN, 'r', RC, -1, 1}, {ADDED, 'r', RC, -1, 1}, {ADDED, 'r', RC, 0.01, 1}}},
    {"fold", fold, exact_bound, true, {{ADDED, 'r', RC, -1, 1}, {ADDED, 'r', RC, -1, 1}}},
};

static int64_t count_of(extent e, int64_t R, int64_t C)
{
    return e == RC ? R * C : e == ROWS ? R : e == WIDTH ? C : VOCABULARY * C;
}

static int args_of(const op *o)
{
    int n = 0;
    while (n < MAX_ARGS && o->arg[n].high > o->arg[n].low) n++;
    return n;
}

typedef struct bench {
    const op *op;
    const qn_kernels *fast, *reference;
    int args;
    int64_t R, C;
    near_array a[MAX_ARGS];
    int32_t tok[64], pos[64];
} bench;

static call call_of(bench *b, const qn_kernels *k, const qn_exec *ex)
{
    call c = {.k = k, .ex = ex, .tok = b->tok, .pos = b->pos, .first = 40, .R = b->R, .C = b->C};
    for (int i = 0; i < b->args; i++) c.p[i] = k == b->reference ? (void *)b->a[i].f : b->a[i].p;
    return c;
}

static void run_fast(bench *b, const qn_exec *ex)
{
    for (int i = 0; i < b->args; i++) near_rewind(&b->a[i]);
    const call c = call_of(b, b->fast, ex);
    b->op->run(&c);
    for (int i = 0; i < b->args; i++) near_check_guards(&b->a[i], b->op->name);
}

static void check_bounds(bench *b, const qn_exec *ex)
{
    float *v[MAX_ARGS];
    const call c = call_of(b, b->reference, ex);
    b->op->run(&c);
    run_fast(b, ex);
    for (int i = 0; i < b->args; i++) v[i] = b->a[i].f;
    for (int i = 0; i < b->args; i++) {
        const near_array *a = &b->a[i];
        const int64_t width = b->op->arg[i].extent == ROWS ? 1 : b->C;
        for (int64_t e = 0; e < a->n; e++) {
            const double want = a->f[e], got = near_get(a, e);
            double bound = 0; /* inputs stay as they were */
            if (b->op->arg[i].role != IN) {
                bound = b->op->bound(v, i, e / width, e % width, b->R, b->C) * U;
                if (b->op->bound != exact_bound || a->type == QN_BF16) bound += near_rounding(a->type, want);
            }
            if (!near_within(got, want, bound))
                fail_msg("%s %s R=%lld C=%lld: argument %d element %lld is %.9g, want %.9g within %.3g", b->fast->name,
                         b->op->name, (long long)b->R, (long long)b->C, i, (long long)e, got, want, bound);
        }
    }
}

/* The same bits with any number of threads, and for each row alone. */
static void check_equality(bench *b, near_teams *teams)
{
    void *first[MAX_ARGS];
    run_fast(b, &teams->ex[0]);
    for (int i = 0; i < b->args; i++) {
        first[i] = malloc(near_bytes(&b->a[i]) + 1);
        assert_non_null(first[i]);
        memcpy(first[i], b->a[i].p, near_bytes(&b->a[i]));
    }
    for (int t = 1; t < NEAR_TEAMS; t++) {
        run_fast(b, &teams->ex[t]);
        for (int i = 0; i < b->args; i++)
            if (memcmp(first[i], b->a[i].p, near_bytes(&b->a[i])) != 0)
                fail_msg("%s %s R=%lld C=%lld: argument %d changes with %d threads", b->fast->name, b->op->name, (long long)b->R,
                         (long long)b->C, i, t + 1);
    }
    if (b->op->by_row) {
        for (int i = 0; i < b->args; i++) near_rewind(&b->a[i]);
        for (int64_t r = 0; r < b->R; r++) {
            call c = call_of(b, b->fast, &teams->ex[0]);
            c.R = 1, c.tok += r, c.pos += r, c.first += (uint32_t)r;
            for (int i = 0; i < b->args; i++) {
                const extent e = b->op->arg[i].extent;
                const int64_t step = e == RC ? b->C : e == ROWS ? 1 : 0;
                c.p[i] = (char *)c.p[i] + (size_t)(r * step) * qn_dtype_bytes(b->a[i].type);
            }
            b->op->run(&c);
        }
        for (int i = 0; i < b->args; i++)
            if (memcmp(first[i], b->a[i].p, near_bytes(&b->a[i])) != 0)
                fail_msg("%s %s R=%lld C=%lld: argument %d of a row alone differs", b->fast->name, b->op->name, (long long)b->R,
                         (long long)b->C, i);
    }
    for (int i = 0; i < b->args; i++) free(first[i]);
}

static void check_op(const op *o, const qn_kernels *fast, const qn_kernels *reference, int64_t R, int64_t C, near_teams *teams)
{
    bench b = {.op = o, .fast = fast, .reference = reference, .args = args_of(o), .R = R, .C = C};
    for (int i = 0; i < 64; i++) {
        b.tok[i] = (int32_t)near_uniform(70, (uint32_t)i, 0, VOCABULARY);
        b.pos[i] = i % VOCABULARY;
    }
    for (int i = 0; i < b.args; i++) {
        const arg *a = &o->arg[i];
        b.a[i] = near_open(a->type == 'a' ? fast->act : QN_F32, count_of(a->extent, R, C), (uint16_t)(80 + i), a->low, a->high);
    }
    check_bounds(&b, &teams->ex[0]);
    check_equality(&b, teams);
    for (int i = 0; i < b.args; i++) near_close(&b.a[i]);
}

static void check_table(const char *isa, qn_mode mode)
{
    const qn_kernels *fast, *reference;
    assert_int_equal(setenv("QUERN_ISA", isa, 1), 0);
    const qn_status st = qn_kernels_get(&fast, mode, NULL);
    if (st == QN_EUNSUPPORTED) {
        print_message("%s: not on this machine\n", isa);
        skip();
    }
    assert_int_equal(st, QN_OK);
    assert_int_equal(qn_kernels_get(&reference, QN_MODE_REF_F32, NULL), QN_OK);
    near_teams teams;
    near_teams_open(&teams);
    for (size_t o = 0; o < QN_COUNT(ops); o++)
        for (size_t r = 0; r < QN_COUNT(rows_of); r++)
            for (size_t c = 0; c < QN_COUNT(widths); c++) check_op(&ops[o], fast, reference, rows_of[r], widths[c], &teams);
    near_teams_close(&teams);
}

/* --- what does not fit the list of ops */
static const qn_kernels *table_of(const char *isa, qn_mode mode)
{
    const qn_kernels *k;
    assert_int_equal(setenv("QUERN_ISA", isa, 1), 0);
    return qn_kernels_get(&k, mode, NULL) == QN_OK ? k : NULL;
}

static const char *const ISAS[] = {"portable", "avx2", "avx512"};

/* Doubles of n / 64 terms a slice: relative error below n 2^-53. The slices depend on n alone, so threads change no bit. */
static void sumsq_of_any_length(void **state)
{
    (void)state;
    static const int64_t sizes[] = {0, 1, 7, 15, 16, 17, 63, 64, 65, 1023, 1024, 1025, 65536, 200003};
    const qn_kernels *reference = table_of("portable", QN_MODE_REF_F32);
    near_teams teams;
    near_teams_open(&teams);
    for (size_t i = 0; i < QN_COUNT(sizes); i++) {
        near_array g = near_open(QN_F32, sizes[i], 60, -1, 1);
        const double want = reference->sumsq(&teams.ex[0], g.p, g.n);
        for (size_t s = 0; s < QN_COUNT(ISAS); s++) {
            const qn_kernels *k = table_of(ISAS[s], QN_MODE_F32);
            if (k == NULL) continue;
            const double got = k->sumsq(&teams.ex[0], g.p, g.n);
            assert_true(near_within(got, want, want * ((double)g.n + 1) * 0x1p-53));
            for (int t = 1; t < NEAR_TEAMS; t++) assert_true(k->sumsq(&teams.ex[t], g.p, g.n) == got);
        }
        near_close(&g);
    }
    near_teams_close(&teams);
}

/* Where exponentials overflow, vanish or meet no number. silu(x) = swiglu(x, 1). */
static void activations_at_extremes(void **state)
{
    (void)state;
    static const float x[] = {0,   -0.0f, 1e-40f, -1e-40f, 20,    -20,   80,     -80,   88.7f,  -88.7f,   90,
                              -90, 104,   -104,   1000,    -1000, 1e19f, -1e19f, 3e38f, -3e38f, INFINITY, NAN};
    enum { N = QN_COUNT(x) };
    float one[N], y[N], up[N], want[N], want_up[N];
    for (int i = 0; i < N; i++) one[i] = 1;
    const qn_kernels *reference = table_of("portable", QN_MODE_REF_F32);
    for (size_t s = 0; s < QN_COUNT(ISAS); s++) {
        const qn_kernels *k = table_of(ISAS[s], QN_MODE_F32);
        if (k == NULL) continue;
        const qn_exec ex = {0};
        for (int which = 0; which < 4; which++) {
            float *const out[] = {y, want};
            const qn_kernels *const tables[] = {k, reference};
            for (int t = 0; t < 2; t++) {
                if (which == 0) tables[t]->gelu_forward(&ex, out[t], x, N);
                if (which == 1) tables[t]->gelu_backward(&ex, out[t], one, x, N);
                if (which == 2) tables[t]->swiglu_forward(&ex, out[t], x, one, N);
                if (which == 3) tables[t]->swiglu_backward(&ex, out[t], t == 0 ? up : want_up, one, x, one, N);
            }
            /* relative where the result is large, else the denormals that the vectors flush */
            for (int i = 0; i < N; i++) {
                if (which == 1 && x[i] == INFINITY) continue; /* inf - inf in the definition, 1 in the limit */
                if (which == 3 && x[i] == INFINITY) continue;
                if (!near_within(y[i], want[i], fabs((double)want[i]) * 64 * U + 1e-34))
                    fail_msg("%s which %d at %g: %.9g, want %.9g", k->name, which, (double)x[i], (double)y[i], (double)want[i]);
            }
        }
    }
}

/* silu(x) / x is the sigmoid: exp within 4 units, a sum, a quotient and a product of one each, so 8 of U relative. */
static void sigmoid_is_accurate(void **state)
{
    (void)state;
    enum { N = 100000 };
    near_array x = near_open(QN_F32, N, 64, -80, 30), one = near_open(QN_F32, N, 65, 1, 1), y = near_open(QN_F32, N, 66, 0, 1);
    table_of("portable", QN_MODE_REF_F32)->swiglu_forward(NULL, y.f, x.p, one.p, N);
    for (size_t s = 0; s < QN_COUNT(ISAS); s++) {
        const qn_kernels *k = table_of(ISAS[s], QN_MODE_F32);
        if (k == NULL) continue;
        double worst = 0;
        k->swiglu_forward(NULL, y.p, x.p, one.p, N);
        for (int64_t i = 0; i < N; i++) worst = fmax(worst, fabs(near_get(&y, i) / y.f[i] - 1) / U);
        print_message("%s: %.2f\n", k->name, worst);
        assert_true(worst <= 8);
    }
    near_close(&x), near_close(&one), near_close(&y);
}

/* A share of dropped elements near p, and forward and backward dropping the same ones. */
static void masks_agree(void **state)
{
    (void)state;
    enum { B = 3, N = 20001 };
    const qn_rng_key key = {.seed = near_seed(), .step = 1, .sample = 5};
    near_teams teams;
    near_teams_open(&teams);
    near_array a = near_open(QN_F32, B * N, 61, 1, 2), y = near_open(QN_F32, B * N, 62, 0, 1),
               d = near_open(QN_F32, B * N, 63, 0, 1);
    memset(a.p, 0, near_bytes(&a));
    for (size_t s = 0; s < QN_COUNT(ISAS); s++) {
        const qn_kernels *k = table_of(ISAS[s], QN_MODE_F32);
        if (k == NULL) continue;
        k->residual_forward(&teams.ex[1], y.p, a.p, a.f, 0, B * N, N, 0.25, &key);
        k->residual_backward(&teams.ex[2], d.p, a.f, 0, B * N, N, 0.25, &key);
        assert_memory_equal(y.p, d.p, near_bytes(&y));
        int64_t dropped = 0;
        for (int64_t i = 0; i < B * N; i++) dropped += ((float *)y.p)[i] == 0;
        assert_in_range(dropped, B * N / 4 - 600, B * N / 4 + 600); /* 5.7 standard deviations */
    }
    near_close(&a), near_close(&y), near_close(&d);
    near_teams_close(&teams);
}

/* Any range of elements is what the whole gives there, in all tables. */
static void parts_of_samples_agree(void **state)
{
    (void)state;
    enum { B = 3, N = 9001, ALL = B * N };
    static const int64_t ranges[][2] = {{0, ALL},   {1, 1},       {3, 70},       {N - 2, 5},  {N, N},
                                        {N + 6, N}, {4096, 8193}, {N + 4097, 0}, {ALL - 1, 1}};
    const qn_rng_key key = {.seed = 77, .step = 2, .sample = 9};
    const qn_exec ex = {0};
    float *x = calloc(ALL, sizeof(*x)), *want = calloc(ALL, sizeof(*want)), *got = calloc(ALL, sizeof(*got));
    assert_true(x != NULL && want != NULL && got != NULL);
    for (int i = 0; i < ALL; i++) x[i] = (float)(1 + i % 97);
    table_of("portable", QN_MODE_REF_F32)->residual_forward(&ex, want, x, x, 0, ALL, N, 0.25, &key);
    for (size_t s = 0; s <= QN_COUNT(ISAS); s++) {
        const qn_kernels *k = s == 0 ? table_of("portable", QN_MODE_REF_F32) : table_of(ISAS[s - 1], QN_MODE_F32);
        for (size_t r = 0; k != NULL && r < QN_COUNT(ranges); r++) {
            const int64_t first = ranges[r][0], n = ranges[r][1];
            memset(got, 0, ALL * sizeof(*got));
            k->residual_forward(&ex, got, x + first, x + first, first, n, N, 0.25, &key);
            assert_memory_equal(got, want + first, (size_t)n * sizeof(*got));
            assert_true(got[n < ALL ? n : 0] == 0 || n == ALL);
            k->dropout(&ex, got, x + first, first, n, N, 0.25, &key);
            for (int64_t i = 0; i < n; i++) assert_true(x[first + i] + got[i] == want[first + i]);
        }
    }
    free(x), free(want), free(got);
}

/* Narrowing as qn_f32_to_bf16, for every upper half and the lower halves around each border. */
static void bf16_rounds_as_scalar(void **state)
{
    (void)state;
    static const uint32_t low[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
    enum { N = 65536 * QN_COUNT(low) };
    float *a = calloc(N, sizeof(*a));
    qn_bf16 *y = calloc(N, sizeof(*y));
    assert_true(a != NULL && y != NULL);
    for (uint32_t i = 0; i < N; i++) {
        const uint32_t bits = i / QN_COUNT(low) << 16 | low[i % QN_COUNT(low)];
        memcpy(&a[i], &bits, sizeof(bits));
    }
    for (size_t s = 0; s < QN_COUNT(ISAS); s++) {
        const qn_kernels *k = table_of(ISAS[s], QN_MODE_BF16);
        if (k == NULL) continue;
        const qn_exec ex = {0};
        k->residual_backward(&ex, y, a, 0, N, N, 0, NULL);
        for (uint32_t i = 0; i < N; i++) assert_int_equal(y[i], qn_f32_to_bf16(a[i]));
    }
    free(a), free(y);
}

#define TABLE_TEST(isa, mode)                                                                                                    \
    static void isa##_##mode(void **state)                                                                                       \
    {                                                                                                                            \
        (void)state;                                                                                                             \
        check_table(#isa, QN_MODE_##mode);                                                                                       \
    }
TABLE_TEST(portable, F32)
TABLE_TEST(portable, BF16)
TABLE_TEST(avx2, F32)
TABLE_TEST(avx2, BF16)
TABLE_TEST(avx512, F32)
TABLE_TEST(avx512, BF16)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(portable_F32),
        cmocka_unit_test(portable_BF16),
        cmocka_unit_test(avx2_F32),
        cmocka_unit_test(avx2_BF16),
        cmocka_unit_test(avx512_F32),
        cmocka_unit_test(avx512_BF16),
        cmocka_unit_test(sumsq_of_any_length),
        cmocka_unit_test(activations_at_extremes),
        cmocka_unit_test(sigmoid_is_accurate),
        cmocka_unit_test(masks_agree),
        cmocka_unit_test(parts_of_samples_agree),
        cmocka_unit_test(bf16_rounds_as_scalar),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
