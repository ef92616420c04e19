/* The same bits however a step is computed: any cut, empty stages, B and W apart, recomputation, one operation at a time,
 * pre-emption between any two operations, room to spare, threads. */
#include "model_rig.h"

#include "core/alloc.h"

enum { B = 3, T = 5, LAYERS = 4, LARGE_T = 67, ROWS = B * LARGE_T };

typedef struct result {
    double loss;
    size_t bytes;
    char *grads; /* of all uses, one after the other */
} result;

typedef struct batch {
    int32_t tokens[ROWS], targets[ROWS];
    qn_mb mb;
} batch;

static void make_batch(batch *b, int32_t V, int64_t samples, int64_t length)
{
    rig_tokens(b->tokens, ROWS, V, 21);
    rig_tokens(b->targets, ROWS, V, 22);
    b->targets[4] = -1;
    b->mb =
        (qn_mb){.B = samples, .T = length, .tokens = b->tokens, .targets = b->targets, .seed = 77, .step = 9, .first_sample = 4};
}

static result take(rig *r)
{
    result out = {.loss = r->loss};
    const size_t e = qn_dtype_bytes(r->k->param);
    for (int32_t u = 0; u < qn_model_uses(r->m); u++)
        out.bytes += (size_t)qn_model_param(r->m, qn_model_use(r->m, u)->param)->count * e;
    out.grads = rig_bytes(out.bytes);
    size_t at = 0;
    for (int32_t u = 0; u < qn_model_uses(r->m); u++) {
        const size_t n = (size_t)qn_model_param(r->m, qn_model_use(r->m, u)->param)->count * e;
        memcpy(out.grads + at, r->grad[u], n);
        at += n;
    }
    return out;
}

static result compute_rows(rig *r, int32_t stages, const int32_t *cut, const qn_stage_limits *limits, int64_t length,
                           unsigned how)
{
    batch b;
    make_batch(&b, qn_model_config_of(r->m)->vocab, B, length);
    rig_cut(r, stages, cut, limits);
    rig_clear_grads(r);
    (void)rig_step(r, &b.mb, how);
    const result out = take(r);
    rig_uncut(r);
    return out;
}

static result compute(rig *r, int32_t stages, const int32_t *cut, const qn_stage_limits *limits, unsigned how)
{
    return compute_rows(r, stages, cut, limits, T, how);
}

static void assert_same(result want, result got)
{
    assert_memory_equal(&want.loss, &got.loss, sizeof(double));
    assert_int_equal(want.bytes, got.bytes);
    assert_memory_equal(want.grads, got.grads, want.bytes);
    free(got.grads);
}

static const qn_stage_limits exact = {.B = B, .T = T, .train = true};
static const int32_t uncut[2] = {0, LAYERS};

static const qn_model_config configs[] = {
    {.arch = QN_ARCH_GPT2, .layers = 2, .heads = 2, .width = 16, .context = 8, .vocab = 13, .tied = true, .dropout = 0.2},
    {.arch = QN_ARCH_GPT2, .layers = 2, .heads = 2, .width = 16, .context = 8, .vocab = 13},
    {.arch = QN_ARCH_LLAMA, .layers = 2, .heads = 4, .kv_heads = 2, .width = 32, .context = 8, .vocab = 13, .dropout = 0.2},
    {.arch = QN_ARCH_LLAMA, .layers = 2, .heads = 4, .kv_heads = 1, .width = 32, .context = 8, .vocab = 13, .tied = true},
};

/* Runs body for each configuration in each mode that this build has. */
static void for_each(void (*body)(rig *r))
{
    static const qn_mode modes[] = {QN_MODE_REF_F32, QN_MODE_F32, QN_MODE_BF16};
    for (size_t m = 0; m < QN_COUNT(modes); m++) {
        const qn_kernels *k;
        qn_err err;
        if (qn_kernels_get(&k, modes[m], &err) != QN_OK) {
            print_message("skipped: %s\n", err.text);
            continue;
        }
        for (size_t c = 0; c < QN_COUNT(configs); c++) {
            rig r;
            rig_open(&r, &configs[c], modes[m], 1);
            assert_int_equal(qn_model_layers(r.m), LAYERS);
            body(&r);
            rig_close(&r);
        }
    }
}

static void all_cuts(rig *r)
{
    const result want = compute(r, 1, uncut, &exact, 0);
    assert_true(want.loss > 0 && isfinite(want.loss));
    for (int32_t a = 0; a <= LAYERS; a++) {
        for (int32_t b = a; b <= LAYERS; b++) {
            for (unsigned how = 0; how < 4; how++) {
                const int32_t cut[4] = {0, a, b, LAYERS};
                assert_same(want, compute(r, 3, cut, &exact, how));
            }
        }
    }
    const int32_t each[7] = {0, 0, 1, 2, 3, 4, 4};
    for (unsigned how = 0; how < 4; how++) assert_same(want, compute(r, 6, each, &exact, how));
    for (unsigned how = 0; how < 4; how++) assert_same(want, compute(r, 1, uncut, &exact, how));
    free(want.grads);
}

static void any_cut_gives_the_same_bits(void **state)
{
    (void)state;
    for_each(all_cuts);
}

static void with_room(rig *r)
{
    const qn_stage_limits roomy = {.B = B + 2, .T = T + 3, .train = true, .cache_len = 8};
    const result want = compute(r, 1, uncut, &exact, 0);
    assert_same(want, compute(r, 1, uncut, &roomy, 0));
    assert_same(want, compute(r, 1, uncut, &roomy, RIG_SEPARATE | RIG_RECOMPUTE));
    free(want.grads);
}

static void room_to_spare_changes_nothing(void **state)
{
    (void)state;
    for_each(with_room);
}

/* Each operation of B is followed by a whole other pass on the same worker. */
static void preempted(rig *r)
{
    batch b;
    const result want = compute(r, 1, uncut, &exact, 0);
    make_batch(&b, qn_model_config_of(r->m)->vocab, B, T);
    rig_cut(r, 1, uncut, &exact);
    rig_clear_grads(r);
    const size_t one = r->scratch.cap;
    qn_err err;
    qn_arena_close(&r->scratch);
    rig_ok(qn_arena_open(&r->scratch, 2 * one, &err), &err);
    double other_loss = 0;
    qn_mb other = b.mb;
    other.loss = &other_loss;
    r->loss = 0;
    b.mb.loss = &r->loss;
    void *stash = rig_bytes(qn_stage_need_of(r->stage[0])->stash_bytes);
    int32_t steps = 0;
    bool more = true;
    for (qn_pass p = qn_pass_forward(r->stage[0], &b.mb, NULL, NULL, r->stash[0]); more;) {
        assert_true(strlen(qn_pass_name(&p)) > 2);
        more = qn_pass_step(&p);
        qn_stage_evaluate(r->stage[0], &other, NULL, NULL, stash);
        steps++;
        if (!more) assert_string_equal(qn_pass_name(&p), "");
        if (!more) assert_false(qn_pass_step(&p));
    }
    more = true;
    for (qn_pass p = qn_pass_backward(r->stage[0], &b.mb, NULL, NULL, NULL, r->stash[0], NULL); more;) {
        more = qn_pass_step(&p);
        qn_stage_evaluate(r->stage[0], &other, NULL, NULL, stash);
        steps++;
    }
    assert_true(steps > 30);
    assert_int_equal(qn_arena_mark(&r->scratch), 0);
    free(stash);
    assert_same(want, take(r));
    free(want.grads);
    rig_uncut(r);
}

static void a_pass_may_be_overtaken_between_operations(void **state)
{
    (void)state;
    for_each(preempted);
}

static void evaluated(rig *r)
{
    batch b;
    make_batch(&b, qn_model_config_of(r->m)->vocab, B, T);
    double loss[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        const int32_t cut[3] = {0, i == 0 ? 0 : 2, LAYERS};
        rig_cut(r, 2, cut, &exact);
        b.mb.loss = &loss[i];
        for (int32_t s = 0; s < 2; s++)
            qn_stage_evaluate(r->stage[s], &b.mb, rig_has_y(r, s) ? r->x[s + 1] : NULL, rig_has_x(r, s) ? r->x[s] : NULL,
                              r->stash[s]);
        rig_uncut(r);
    }
    assert_memory_equal(&loss[0], &loss[1], sizeof(double));
    if (qn_model_config_of(r->m)->dropout > 0) return; /* evaluation drops nothing, training does */
    const result want = compute(r, 1, uncut, &exact, 0);
    assert_memory_equal(&want.loss, &loss[0], sizeof(double));
    free(want.grads);
}

static void evaluation_gives_the_loss_without_dropout(void **state)
{
    (void)state;
    for_each(evaluated);
}

/* 0 rows: no loss, no gradient; the hot path does not allocate. */
static void nothing_to_do(rig *r)
{
    static const int64_t sizes[2][2] = {{0, T}, {B, 0}};
    const int32_t cut[4] = {0, 2, 2, LAYERS};
    rig_cut(r, 3, cut, &exact);
    rig_clear_grads(r);
    for (int i = 0; i < 2; i++) {
        qn_mb mb = {.B = sizes[i][0], .T = sizes[i][1]};
        assert_true(rig_step(r, &mb, i == 0 ? 0 : RIG_SEPARATE | RIG_RECOMPUTE) == 0);
    }
    const result got = take(r);
    for (size_t i = 0; i < got.bytes; i++) assert_int_equal(got.grads[i], 0);
    free(got.grads);
    batch b;
    make_batch(&b, qn_model_config_of(r->m)->vocab, B, T);
    (void)rig_step(r, &b.mb, 0);
    qni_no_alloc_begin();
    (void)rig_step(r, &b.mb, RIG_SEPARATE);
    assert_int_equal(qni_no_alloc_end(), 0);
    rig_uncut(r);
}

static void no_rows_and_no_allocation(void **state)
{
    (void)state;
    for_each(nothing_to_do);
}

static void two_threads_give_the_same_bits(void **state)
{
    (void)state;
    static const qn_mode modes[] = {QN_MODE_F32, QN_MODE_BF16};
    for (size_t i = 0; i < QN_COUNT(modes); i++) {
        const qn_kernels *k;
        qn_err err;
        if (qn_kernels_get(&k, modes[i], &err) != QN_OK) {
            print_message("skipped: %s\n", err.text);
            continue;
        }
        for (size_t c = 0; c < QN_COUNT(configs); c++) {
            rig one, two;
            rig_open(&one, &configs[c], modes[i], 1);
            rig_open(&two, &configs[c], modes[i], 2);
            const result want = compute(&one, 1, uncut, &exact, 0);
            assert_same(want, compute(&two, 1, uncut, &exact, 0));
            assert_same(want, compute(&two, 1, uncut, &exact, RIG_SEPARATE));
            free(want.grads);
            rig_close(&one);
            rig_close(&two);
        }
    }
}

/* Sizes that are cut into blocks and shares inside the kernels, with remainders. */
static void larger_sizes_give_the_same_bits(void **state)
{
    (void)state;
    static const qn_mode modes[] = {QN_MODE_F32, QN_MODE_BF16};
    static const qn_model_config large[] = {
        {.arch = QN_ARCH_GPT2, .layers = 2, .heads = 4, .width = 128, .context = 80, .vocab = 1003, .tied = true, .dropout = 0.1},
        {.arch = QN_ARCH_LLAMA, .layers = 2, .heads = 6, .kv_heads = 2, .width = 96, .context = 80, .vocab = 515},
    };
    const qn_stage_limits limits = {.B = B, .T = LARGE_T, .train = true}, roomy = {.B = B + 1, .T = LARGE_T + 5, .train = true};
    const int32_t cut[4] = {0, 1, 3, LAYERS};
    for (size_t i = 0; i < QN_COUNT(modes); i++) {
        const qn_kernels *k;
        qn_err err;
        if (qn_kernels_get(&k, modes[i], &err) != QN_OK) {
            print_message("skipped: %s\n", err.text);
            continue;
        }
        for (size_t c = 0; c < QN_COUNT(large); c++) {
            rig one, two;
            rig_open(&one, &large[c], modes[i], 1);
            rig_open(&two, &large[c], modes[i], 2);
            const result want = compute_rows(&one, 1, uncut, &limits, LARGE_T, 0);
            assert_same(want, compute_rows(&two, 1, uncut, &limits, LARGE_T, 0));
            assert_same(want, compute_rows(&two, 3, cut, &limits, LARGE_T, RIG_SEPARATE));
            assert_same(want, compute_rows(&one, 3, cut, &roomy, LARGE_T, RIG_RECOMPUTE));
            assert_same(want, compute_rows(&two, 3, cut, &roomy, LARGE_T, RIG_SEPARATE | RIG_RECOMPUTE));
            free(want.grads);
            rig_close(&one);
            rig_close(&two);
        }
    }
}

/* Largest difference of two gradients, relative to the largest entry of each use's gradient. */
static double gradient_distance(const rig *a, const rig *b)
{
    double worst = 0;
    for (int32_t u = 0; u < qn_model_uses(a->m); u++) {
        const int64_t n = qn_model_param(a->m, qn_model_use(a->m, u)->param)->count;
        double most = 0, apart = 0;
        for (int64_t i = 0; i < n; i++) {
            const double x = rig_get(a->k->param, a->grad[u], i);
            most = fmax(most, fabs(x));
            apart = fmax(apart, fabs(x - rig_get(b->k->param, b->grad[u], i)));
        }
        worst = fmax(worst, apart / (most + 1e-9));
    }
    return worst;
}

static void every_mode_is_close_to_double(void **state)
{
    (void)state;
    static const struct {
        qn_mode mode;
        double loss, grad;
    } want[] = {{QN_MODE_REF_F32, 1e-6, 1e-5}, {QN_MODE_F32, 1e-6, 1e-5}, {QN_MODE_BF16, 1e-2, 6e-2}};
    for (size_t i = 0; i < QN_COUNT(want); i++) {
        const qn_kernels *k;
        qn_err err;
        if (qn_kernels_get(&k, want[i].mode, &err) != QN_OK) {
            print_message("skipped: %s\n", err.text);
            continue;
        }
        for (size_t c = 0; c < QN_COUNT(configs); c++) {
            rig exactly, r;
            rig_open(&exactly, &configs[c], QN_MODE_REF_F64, 1);
            rig_open(&r, &configs[c], want[i].mode, 1);
            const result a = compute(&exactly, 1, uncut, &exact, 0), b = compute(&r, 1, uncut, &exact, 0);
            const double loss = fabs(a.loss - b.loss) / a.loss, grad = gradient_distance(&exactly, &r);
            print_message("%s: loss differs by %.2g, gradients by %.2g\n", k->name, loss, grad);
            assert_true(loss <= want[i].loss);
            assert_true(grad <= want[i].grad);
            free(a.grads);
            free(b.grads);
            rig_close(&exactly);
            rig_close(&r);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_cut_gives_the_same_bits),
        cmocka_unit_test(room_to_spare_changes_nothing),
        cmocka_unit_test(a_pass_may_be_overtaken_between_operations),
        cmocka_unit_test(evaluation_gives_the_loss_without_dropout),
        cmocka_unit_test(no_rows_and_no_allocation),
        cmocka_unit_test(two_threads_give_the_same_bits),
        cmocka_unit_test(larger_sizes_give_the_same_bits),
        cmocka_unit_test(every_mode_is_close_to_double),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
