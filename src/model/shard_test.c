/* Tensor shards on one thread: t shard models in step give what one model gives; their gradients against finite differences in
 * double; four sums per layer and step; slices that put the full parameter together again. */
#include "model_rig.h"

#include "kernels/shard_sum.h"

enum { B = 2, T = 5, MOST = 4 };
enum { SEQUENCE = 8, AGAIN = 16 }; /* shards have slices of the rows */
enum { NO_WEIGHTS = 4 };           /* with RIG_SEPARATE: gradients of weights stay as they are */

typedef struct group group;
typedef struct member {
    group *g;
    int32_t shard;
} member;

/* t shard models that step in turn, and where they meet. */
struct group {
    rig r[MOST];
    member member[MOST];
    int32_t t, met[4]; /* [qn_meet] */
    qn_meeting what[MOST];
    bool sequence;
    bool offered[MOST], ready[MOST];
};

/* All are here: every row of the whole is the sum of all, then everybody takes what the kind of meeting says. */
static void finish_meeting(group *g)
{
    const qn_meeting *what = &g->what[0];
    const size_t row = (size_t)qn_meeting_row(what), bytes = (size_t)what->rows * row;
    const qn_exec ex = {0};
    char *whole = rig_bytes(bytes);
    const void *part[MOST];
    int64_t first;
    for (int32_t k = 0; k < g->t; k++) {
        const int64_t rows = qn_shard_slice(g->t, k, what->rows, &first);
        part[k] = g->what[k].whole;
        const char *own = (const char *)part[k] + (size_t)first * row, *mine = g->what[k].mine;
        if (what->kind == QN_MEET_GATHER) memcpy(whole + (size_t)first * row, mine != NULL ? mine : own, (size_t)rows * row);
    }
    if (what->kind != QN_MEET_GATHER) qn_shard_sum(&ex, (void *[]){whole}, 1, part, g->t, what->type, what->rows * what->width);
    for (int32_t k = 0; k < g->t; k++) {
        const int64_t rows = qn_shard_slice(g->t, k, what->rows, &first);
        if (what->kind == QN_MEET_SCATTER)
            memcpy(g->what[k].mine, whole + (size_t)first * row, (size_t)rows * row);
        else
            memcpy(g->what[k].whole, whole, bytes);
    }
    free(whole);
}

static bool meet(void *ctx, const qn_meeting *what)
{
    const member *me = ctx;
    group *g = me->g;
    if (g->ready[me->shard]) {
        g->ready[me->shard] = false;
        return true;
    }
    g->what[me->shard] = *what;
    g->offered[me->shard] = true;
    for (int32_t k = 0; k < g->t; k++)
        if (!g->offered[k]) return false;
    finish_meeting(g);
    for (int32_t k = 0; k < g->t; k++) {
        assert_true(g->what[k].kind == what->kind && g->what[k].rows == what->rows && g->what[k].width == what->width);
        g->offered[k] = false;
        g->ready[k] = k != me->shard;
    }
    g->met[what->kind]++;
    return true;
}

/* The full parameters are those of full. */
static void open_group(group *g, const rig *full, qn_model_config c, qn_mode mode, int32_t t, bool sequence,
                       const qn_stage_limits *limits)
{
    memset(g, 0, sizeof(*g));
    g->t = t;
    for (int32_t k = 0; k < t; k++) {
        rig *r = &g->r[k];
        const int32_t cut[2] = {0, qn_model_layers(full->m)};
        c.shards = t;
        c.shard = k;
        c.sequence = g->sequence = sequence;
        rig_open(r, &c, mode, 1);
        for (int32_t p = 0; p < qn_model_params(r->m); p++)
            qn_param_take(qn_model_param(r->m, p), r->value[p], full->value[p], qn_dtype_bytes(r->k->param));
        rig_cut(r, 1, cut, limits);
        g->member[k] = (member){g, k};
        const qn_exchange x = {meet, &g->member[k]};
        qn_stage_set_exchange(r->stage[0], &x);
    }
}

static void close_group(group *g)
{
    for (int32_t k = 0; k < g->t; k++) rig_close(&g->r[k]);
}

/* Each in turn until its next meeting. */
static void run_together(qn_pass *pass, int32_t t)
{
    bool busy[MOST];
    int32_t left = t;
    for (int32_t k = 0; k < t; k++) busy[k] = true;
    while (left > 0) {
        for (int32_t k = 0; k < t; k++) {
            while (busy[k]) {
                busy[k] = qn_pass_step(&pass[k]);
                if (busy[k] && pass[k].waits) break;
                left -= !busy[k];
            }
        }
    }
}

static double group_step(group *g, const qn_mb *item, unsigned how)
{
    qn_pass pass[MOST];
    qn_mb mb[MOST];
    double loss[MOST] = {0};
    for (int32_t k = 0; k < g->t; k++) {
        mb[k] = *item;
        mb[k].loss = &loss[k];
        pass[k] = qn_pass_forward(g->r[k].stage[0], &mb[k], NULL, NULL, g->r[k].stash[0]);
    }
    run_together(pass, g->t);
    if (how & RIG_RECOMPUTE) {
        for (int32_t k = 0; k < g->t; k++) {
            rig_poison(g->r[k].stash[0], qn_stage_need_of(g->r[k].stage[0])->stash_bytes);
            pass[k] = qn_pass_forward(g->r[k].stage[0], &mb[k], NULL, NULL, g->r[k].stash[0]);
        }
        run_together(pass, g->t);
    }
    for (int32_t k = 0; k < g->t; k++)
        pass[k] = qn_pass_backward(g->r[k].stage[0], &mb[k], NULL, NULL, NULL, g->r[k].stash[0],
                                   how & RIG_SEPARATE ? g->r[k].wstash[0] : NULL);
    run_together(pass, g->t);
    for (int32_t k = 0; k < g->t; k++)
        pass[k] = qn_pass_backward_weight(g->r[k].stage[0], &mb[k], NULL, g->r[k].stash[0], g->r[k].wstash[0]);
    if (how & RIG_SEPARATE && !(how & NO_WEIGHTS)) run_together(pass, g->t);
    for (int32_t k = 1; k < g->t; k++) assert_memory_equal(&loss[k], &loss[0], sizeof(double));
    return loss[0];
}

/* The full gradient of use u, from all shards; what every shard holds is the same in all of them, bit for bit, or a part of it.
 */
static void gather_gradient(const group *g, int32_t u, void *full)
{
    const int32_t param = qn_model_use(g->r[0].m, u)->param;
    const size_t e = qn_dtype_bytes(g->r[0].k->param);
    for (int32_t k = 0; k < g->t; k++) {
        const qn_param *p = qn_model_param(g->r[k].m, param);
        if (p->joined && k > 0) {
            for (int64_t i = 0; i < p->count; i++)
                rig_set(g->r[0].k->param, full, i,
                        rig_get(g->r[0].k->param, full, i) + rig_get(g->r[0].k->param, g->r[k].grad[u], i));
            continue;
        }
        qn_param_put(p, full, g->r[k].grad[u], e);
        if (p->slice.shards == 1) assert_memory_equal(g->r[k].grad[u], g->r[0].grad[u], (size_t)p->count * e);
    }
}

static qn_mb item_of(const qn_model_config *c, int32_t *tokens, int32_t *targets)
{
    rig_tokens(tokens, B * T, c->vocab, 5);
    rig_tokens(targets, B * T, c->vocab, 6);
    targets[3] = -1;
    return (qn_mb){.B = B, .T = T, .tokens = tokens, .targets = targets, .seed = 11, .step = 3, .first_sample = 8};
}

static const qn_model_config gpt2 = {
    .arch = QN_ARCH_GPT2, .layers = 2, .heads = 4, .width = 16, .context = 6, .vocab = 11, .tied = true, .dropout = 0.3};
static const qn_model_config llama = {.arch = QN_ARCH_LLAMA,
                                      .layers = 3,
                                      .heads = 8,
                                      .kv_heads = 4,
                                      .width = 32,
                                      .hidden = 24,
                                      .context = 6,
                                      .vocab = 11,
                                      .dropout = 0.1};

static double largest_error(const rig *full, const group *g, double *most)
{
    double worst = 0;
    for (int32_t u = 0; u < qn_model_uses(full->m); u++) {
        const qn_param *p = qn_model_param(full->m, qn_model_use(full->m, u)->param);
        void *got = rig_bytes((size_t)p->count * 8);
        gather_gradient(g, u, got);
        for (int64_t i = 0; i < p->count; i++) {
            const double want = rig_get(full->k->param, full->grad[u], i);
            worst = fmax(worst, fabs(rig_get(full->k->param, got, i) - want));
            *most = fmax(*most, fabs(want));
        }
        free(got);
    }
    return worst;
}

/* Loss and gradients against t = 1, relative to the largest gradient; the number of meetings. The item has its own sizes. */
static void compare_item(const qn_model_config *c, qn_mode mode, int32_t t, double limit, unsigned how, int64_t samples,
                         int64_t length)
{
    const uint8_t all[] = {QN_AGAIN_ALL, QN_AGAIN_ALL, QN_AGAIN_ATTENTION, QN_AGAIN_ALL, 0};
    const qn_stage_limits limits = {.B = B, .T = T, .train = true, .again = how & AGAIN ? all : NULL};
    const int32_t cut[2] = {0, c->layers + 2};
    int32_t tokens[B * T], targets[B * T];
    rig full;
    group g;
    double most = 0;
    rig_open(&full, c, mode, 1);
    rig_cut(&full, 1, cut, &limits);
    open_group(&g, &full, *c, mode, t, how & SEQUENCE, &limits);
    qn_mb mb = item_of(c, tokens, targets);
    mb.B = samples;
    mb.T = length;
    const double want = rig_step(&full, &mb, 0), got = group_step(&g, &mb, how);
    const double worst = largest_error(&full, &g, &most);
    if (fabs(got - want) > limit * fabs(want) || worst > limit * most)
        fail_msg("arch %d, mode %d, t %d, how %u, %d x %d rows: loss %.17g, wanted %.17g; gradients differ by %.3g of %.3g",
                 (int)c->arch, (int)mode, t, how, (int)samples, (int)length, got, want, worst, most);
    /* Twice in each block, once for look-ups in F and the gradient of the head's input in B; and the head's statistics. */
    const int32_t some = samples * length > 0, forwards = (how & RIG_RECOMPUTE ? 2 : 1) * some, meets = 2 * c->layers;
    if (how & SEQUENCE) { /* what has been gathered is gathered again for weight gradients; for the head in B and in W */
        assert_int_equal(g.met[QN_MEET_SUM], 0);
        if (!(how & AGAIN)) {
            assert_int_equal(g.met[QN_MEET_SCATTER], (meets + 1) * (forwards + some));
            assert_int_equal(g.met[QN_MEET_GATHER],
                             meets * (forwards + 2 * some) + 2 * some + (how & RIG_SEPARATE ? 2 : 1) * some);
        }
    } else {
        assert_int_equal(g.met[QN_MEET_SUM], (meets + 1) * (forwards + some));
        assert_int_equal(g.met[QN_MEET_GATHER], some);
    }
    close_group(&g);
    rig_close(&full);
}

static void compare(const qn_model_config *c, qn_mode mode, int32_t t, double limit, unsigned how)
{
    compare_item(c, mode, t, limit, how, B, T);
}

static void slices_give_what_one_model_gives(void **state)
{
    static const int64_t sizes[][2] = {{B, T}, {1, 3}, {1, 1}, {2, 2}, {0, T}, {B, 0}};
    (void)state;
    for (int32_t t = 2; t <= MOST; t *= 2) {
        for (size_t i = 0; i < QN_COUNT(sizes); i++) {
            compare_item(&gpt2, QN_MODE_REF_F64, t, 1e-13, SEQUENCE, sizes[i][0], sizes[i][1]);
            compare_item(&llama, QN_MODE_REF_F64, t, 1e-13, SEQUENCE | RIG_SEPARATE, sizes[i][0], sizes[i][1]);
        }
        for (int way = 0; way < 8; way++) {
            const unsigned how = SEQUENCE | (way & 1 ? RIG_SEPARATE : 0) | (way & 2 ? RIG_RECOMPUTE : 0) | (way & 4 ? AGAIN : 0);
            if ((way & 6) == 6) continue;
            compare(&gpt2, QN_MODE_F32, t, 1e-5, how);
            compare(&llama, QN_MODE_F32, t, 1e-5, how);
        }
        compare(&gpt2, QN_MODE_BF16, t, 4e-2, SEQUENCE);
        compare(&llama, QN_MODE_BF16, t, 4e-2, SEQUENCE | RIG_SEPARATE);
    }
}

static void shards_give_what_one_model_gives(void **state)
{
    (void)state;
    for (int32_t t = 2; t <= MOST; t *= 2) {
        compare(&gpt2, QN_MODE_REF_F64, t, 1e-13, 0);
        compare(&llama, QN_MODE_REF_F64, t, 1e-13, 0);
        compare(&gpt2, QN_MODE_REF_F32, t, 1e-5, 0);
        compare(&llama, QN_MODE_REF_F32, t, 1e-5, 0);
        compare(&gpt2, QN_MODE_F32, t, 1e-5, 0);
        compare(&llama, QN_MODE_F32, t, 1e-5, 0);
        compare(&gpt2, QN_MODE_F32, t, 1e-5, RIG_SEPARATE);
        compare(&llama, QN_MODE_F32, t, 1e-5, RIG_SEPARATE | RIG_RECOMPUTE);
    }
}

/* What a stage keeps between F and B, and hands on, per item of many rows. With t shards the stream and the norms' statistics
 * stay whole, all else falls by t; with slices all of it does: s b h (10 + 24 / t) becomes s b h 34 / t where everything is kept
 * in 16 bits (Korthikanti et al. 2022, table 2). Here, a row of a GPT-2 block in f32: 2 C of the stream and 4 statistics, against
 * 3 C of q, k, v, C and H of attention, 4 C of the MLP. */
static void memory_outside_of_products_is_shared(void **state)
{
    enum { ROWS = 1024, L = 3, C = 16, H = 4 };
    const int64_t outer = 2 * C + 4, inner = 8 * C + H;
    (void)state;
    for (int32_t t = 1; t <= MOST; t *= 2) {
        for (int sequence = 0; sequence < (t == 1 ? 1 : 2); sequence++) {
            const qn_stage_limits limits = {.B = 8, .T = ROWS / 8, .train = true};
            const int32_t cut[2] = {1, 1 + L};
            qn_model_config c = gpt2;
            rig r;
            c.layers = L;
            c.context = ROWS / 8;
            c.shards = t;
            c.sequence = sequence;
            rig_open(&r, &c, QN_MODE_F32, 1);
            rig_cut(&r, 1, cut, &limits);
            const qn_stage_need *n = qn_stage_need_of(r.stage[0]);
            const int64_t slice = sequence ? ROWS / t : ROWS;
            assert_int_equal(n->act_bytes, slice * C * 4);
            /* the last block's output is the next stage's */
            assert_int_equal(n->stash_bytes, (L * (slice * outer + ROWS / t * inner) - slice * C) * 4);
            rig_close(&r);
        }
    }
}

/* A shard's own gradient against five-point differences of the group's loss by an element of the full parameter. */
static void check_differences(const qn_model_config *c, int32_t t, bool sequence)
{
    const qn_stage_limits limits = {.B = B, .T = T, .train = true};
    const int32_t cut[2] = {0, c->layers + 2};
    int32_t tokens[B * T], targets[B * T];
    rig full;
    group g;
    rig_open(&full, c, QN_MODE_REF_F64, 1);
    rig_cut(&full, 1, cut, &limits);
    open_group(&g, &full, *c, QN_MODE_REF_F64, t, sequence, &limits);
    qn_mb mb = item_of(c, tokens, targets);
    (void)group_step(&g, &mb, 0);
    for (int32_t p = 0; p < qn_model_params(full.m); p++) {
        const int64_t n = qn_model_param(full.m, p)->count;
        double *want = rig_bytes((size_t)n * 8), *one = rig_bytes((size_t)n * 8);
        for (int32_t u = 0; u < qn_model_uses(full.m); u++) {
            if (qn_model_use(full.m, u)->param != p) continue;
            gather_gradient(&g, u, one);
            for (int64_t i = 0; i < n; i++) want[i] += one[i];
        }
        double most = 0;
        for (int64_t i = 0; i < n; i++) most = fmax(most, fabs(want[i]));
        for (int64_t i = 0; i < n; i += 1 + n / 3) {
            static const double step[4] = {-2, -1, 1, 2};
            const double was = ((double *)full.value[p])[i], h = 1e-3;
            double f[4];
            for (int s = 0; s <= 4; s++) {
                ((double *)full.value[p])[i] = s < 4 ? was + h * step[s] : was;
                for (int32_t k = 0; k < t; k++) {
                    qn_param_take(qn_model_param(g.r[k].m, p), g.r[k].value[p], full.value[p], sizeof(double));
                    qn_stage_pack(g.r[k].stage[0]);
                }
                if (s < 4) f[s] = group_step(&g, &mb, RIG_SEPARATE | NO_WEIGHTS);
            }
            const double got = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h);
            if (fabs(got - want[i]) > 1e-7 * (fabs(want[i]) + 1e-2 * most + 1e-6))
                fail_msg("%s[%lld]: gradient %.15g, differences %.15g", qn_model_param(full.m, p)->name, (long long)i, want[i],
                         got);
        }
        free(want);
        free(one);
    }
    close_group(&g);
    rig_close(&full);
}

static void gradients_against_differences(void **state)
{
    (void)state;
    check_differences(&gpt2, 2, false);
    check_differences(&llama, 4, false);
    check_differences(&gpt2, 4, true);
    check_differences(&llama, 2, true);
}

static int64_t full_width(const qn_model *m)
{
    return qn_model_config_of(m)->width; /* of a row of padding, which a shard may have behind the whole */
}

/* Initial values are those of t = 1, and every element of the full parameter is in exactly as many shards as the slice says. */
static void slices_make_the_whole(void **state)
{
    (void)state;
    const qn_model_config *const all[] = {&gpt2, &llama};
    qn_err err;
    for (int32_t a = 0; a < 2; a++) {
        for (int32_t t = 1; t <= MOST; t++) {
            if (all[a]->heads % t != 0 || (all[a]->kv_heads != 0 && all[a]->kv_heads % t != 0)) continue;
            qn_model *full, *part;
            rig_ok(qn_model_open(&full, all[a], &err), &err);
            for (int32_t p = 0; p < qn_model_params(full); p++) {
                const size_t bytes = (size_t)(qn_model_param(full, p)->count + MOST * full_width(full)) * 4;
                float *want = rig_bytes(bytes), *got = rig_bytes(bytes), *piece = rig_bytes(bytes), *again = rig_bytes(bytes);
                qn_model_init_param(full, p, 9, QN_F32, want);
                int64_t elements = 0;
                for (int32_t k = 0; k < t; k++) {
                    qn_model_config c = *all[a];
                    c.shards = t;
                    c.shard = k;
                    rig_ok(qn_model_open(&part, &c, &err), &err);
                    const qn_param *x = qn_model_param(part, p);
                    assert_string_equal(x->name, qn_model_param(full, p)->name);
                    qn_model_init_param(part, p, 9, QN_F32, piece);
                    qn_param_put(x, got, piece, 4);
                    qn_param_take(x, again, want, 4);
                    assert_memory_equal(again, piece, (size_t)x->count * 4);
                    elements += x->slice.shards > 1 || k == 0 ? x->real : 0;
                    assert_true(x->real == x->count || x->dim[0] == (all[a]->vocab + t - 1) / t); /* rows of the vocabulary */
                    qn_model_close(part);
                }
                assert_int_equal(elements, qn_model_param(full, p)->count);
                assert_memory_equal(got, want, bytes);
                free(want);
                free(got);
                free(piece);
                free(again);
            }
            qn_model_close(full);
        }
    }
}

static void shards_that_do_not_divide(void **state)
{
    (void)state;
    qn_model *m;
    qn_err err;
    qn_model_config c = llama;
    c.shards = 3;
    assert_int_equal(qn_model_open(&m, &c, &err), QN_EINVAL);
    assert_non_null(strstr(err.text, "these do: 1, 2, 4"));
    c.shards = 8; /* more than key heads */
    assert_int_equal(qn_model_open(&m, &c, &err), QN_EINVAL);
    c.shards = -1;
    assert_int_equal(qn_model_open(&m, &c, &err), QN_EINVAL);
    c.shards = 4;
    c.shard = 4;
    assert_int_equal(qn_model_open(&m, &c, &err), QN_EINVAL);
    assert_non_null(strstr(err.text, "0 to 3"));
}

/* The tree: ((a + b) + (c + d)) + e, in any type, for any number of threads. */
static void sums_are_a_fixed_tree(void **state)
{
    (void)state;
    enum { N = 10000 };
    qn_err err;
    qn_team *team;
    rig_ok(qn_team_open(&team, 3, -1, &err), &err);
    float *x[5], *y = rig_bytes(N * 4);
    for (int p = 0; p < 5; p++) {
        x[p] = rig_bytes(N * 4);
        qn_rng rng = qn_rng_of((qn_rng_key){.seed = 3, .sample = (uint32_t)p});
        for (int i = 0; i < N; i++) x[p][i] = (float)qn_rng_normal(&rng);
    }
    for (int threads = 1; threads <= 3; threads += 2) {
        const qn_exec ex = {.team = threads == 1 ? NULL : team};
        void *const out[] = {y};
        qn_shard_sum(&ex, out, 1, (const void *const *)x, 5, QN_F32, N);
        for (int i = 0; i < N; i++) {
            const float want = ((x[0][i] + x[1][i]) + (x[2][i] + x[3][i])) + x[4][i];
            assert_memory_equal(&y[i], &want, 4);
        }
    }
    void *const all[] = {x[0], x[1], x[2], x[3], x[4]};
    const qn_exec ex = {0};
    qn_shard_sum(&ex, all, 5, (const void *const *)x, 5, QN_F32, N); /* in place */
    for (int p = 0; p < 5; p++) {
        assert_memory_equal(x[p], y, N * 4);
        free(x[p]);
    }
    free(y);
    qn_team_close(team);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shards_give_what_one_model_gives),
        cmocka_unit_test(slices_give_what_one_model_gives),
        cmocka_unit_test(memory_outside_of_products_is_shared),
        cmocka_unit_test(gradients_against_differences),
        cmocka_unit_test(slices_make_the_whole),
        cmocka_unit_test(shards_that_do_not_divide),
        cmocka_unit_test(sums_are_a_fixed_tree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
