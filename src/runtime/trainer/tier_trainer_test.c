/* Devices with little memory: training on them gives the bits of resident training for every window and any number of devices;
 * the lagging optimizer gives those of its reference, written out here; arenas stay as small as planned. */
#include <math.h>

#include "core/alloc.h"
#include "homes.h"
#include "support/sanitized.h"
#include "support/device_rig.h"

enum { BLOCKS = 8, PIECES = BLOCKS + 2, ITEMS = 3, STEPS = QN_SANITIZED ? 3 : 20 };

static const qn_model_config models[] = RIG_DEVICE_MODELS(BLOCKS);

typedef struct outcome {
    double loss[STEPS], norm[STEPS];
    char *state;
    size_t bytes;
} outcome;

static qn_trainer *open_on(const qn_model *m, const qn_order *o, const char *transport, const qn_trainer_tiers *tiers,
                           const int64_t *limit, uint64_t jitter, qn_err *err)
{
    qn_trainer *t = NULL;
    int32_t first[RIG_MAX_STAGES + 1];
    rig_cut(first, o->stages, qn_model_layers(m));
    const qn_trainer_desc d = {.model = m,
                               .order = o,
                               .first_layer = first,
                               .mode = QN_MODE_F32,
                               .threads = 1 + (int32_t)(jitter % 2),
                               .source = &rig_source,
                               .hyper = rig_hyper,
                               .seed = 5,
                               .arena_limit = limit,
                               .transport = qn_transport_find(transport),
                               .driver = strcmp(transport, "thread") == 0 ? QN_DRIVE_THREADS : QN_DRIVE_LOOP,
                               .faults = {.dead_worker = -1},
                               .tiers = tiers,
                               .jitter = jitter};
    const qn_status st = qn_trainer_open(&t, &d, err);
    assert_true((st == QN_OK) == (t != NULL));
    return t;
}

static outcome train(qn_trainer *t, const qn_model *m)
{
    outcome out;
    qn_err err;
    for (int64_t step = 0; step < STEPS; step++) {
        qn_step_result r;
        rig_ok(qn_trainer_step(t, step, RIG_LR, &r, NULL, &err), &err);
        out.loss[step] = r.loss;
        out.norm[step] = r.grad_norm;
    }
    qn_trainer_settle(t);
    out.bytes = rig_state_bytes(m, sizeof(float));
    out.state = malloc(out.bytes);
    assert_non_null(out.state);
    rig_state(out.state, t, m, sizeof(float), 0);
    return out;
}

static outcome resident(const qn_model *m)
{
    static const rig_way way = {.schedule = "gpipe", .workers = 1, .threads = 1, .transport = "self"};
    qn_trainer *t = rig_open(m, QN_MODE_F32, &way, ITEMS);
    const outcome out = train(t, m);
    qn_trainer_close(t);
    return out;
}

static void same(const outcome *got, const outcome *want, const char *what, int32_t a, int32_t b)
{
    for (int32_t i = 0; i < STEPS; i++)
        if (got->loss[i] != want->loss[i] || got->norm[i] != want->norm[i])
            fail_msg("%s %d %d: step %d has loss %.17g and norm %.17g, wanted %.17g and %.17g", what, a, b, i, got->loss[i],
                     got->norm[i], want->loss[i], want->norm[i]);
    if (memcmp(got->state, want->state, want->bytes) != 0) fail_msg("%s %d %d: another state at the end", what, a, b);
    free(got->state);
}

/* The plan says what moves and how much memory it takes, and that is what happens. */
static void as_planned(qn_trainer *t)
{
    const qn_plan *p = qn_trainer_plan(t);
    for (int32_t w = 0; w < p->workers; w++) {
        int64_t up = 0, down = 0;
        for (int32_t i = 0; i < p->tasks; i++) {
            const qn_value *v = p->task[i].in.count > 0 ? &p->value[p->ref[p->task[i].in.first]] : NULL;
            if (p->task[i].worker != w || v == NULL) continue;
            if (p->task[i].op == QN_OP_LOAD && v->cls == QN_V_PARAM) up += v->bytes;
            if (p->task[i].op == QN_OP_OFFLOAD && v->cls == QN_V_PGRAD) down += v->bytes;
        }
        assert_int_equal(qn_trainer_moved(t, w, QN_LANE_UP, QN_V_PARAM), STEPS * up);
        assert_int_equal(qn_trainer_moved(t, w, QN_LANE_DOWN, QN_V_PGRAD), STEPS * down);
        assert_int_equal(qn_trainer_moved(t, w, QN_LANE_DOWN, QN_V_PARAM), 0);
        assert_int_equal(qn_trainer_high_water(t, w), p->arena_bytes[w]);
    }
}

static void every_window_gives_the_resident_bits(void **state)
{
    (void)state;
    int32_t turn = 0;
    for (size_t c = 0; c < QN_COUNT(models); c++) {
        qn_model *m = rig_model(&models[c]);
        outcome want = resident(m);
        assert_true(QN_SANITIZED || want.loss[STEPS - 1] < want.loss[0]); /* a few steps may not learn yet */
        for (int32_t N = 1; N <= 3; N++) {
            qn_order *o = rig_dealt(N, PIECES, ITEMS);
            for (int32_t k = 1; k <= PIECES; k++) {
                for (int32_t r = 1; r <= k; r++, turn++) {
                    if ((c > 0 && k > 3) || (QN_SANITIZED && turn % 7 != 0))
                        continue; /* all windows with one model, some with the other */
                    const qn_trainer_tiers tiers = {.window = k, .replace = r};
                    qn_err err;
                    qn_trainer *t = open_on(m, o, turn % 8 == 0 ? "thread" : "self", &tiers, NULL, (uint64_t)turn % 3, &err);
                    if (t == NULL) fail_msg("%s", err.text);
                    const outcome got = train(t, m);
                    as_planned(t);
                    qn_trainer_close(t);
                    same(&got, &want, "window", k, r);
                }
            }
            qn_order_close(o);
        }
        free(want.state);
        qn_model_close(m);
    }
}

static void plain_schedules_run_on_devices(void **state)
{
    (void)state;
    static const char *const name[] = {"gpipe", "1f1b", "interleaved", "split"};
    for (size_t c = 0; c < QN_COUNT(models); c++) {
        qn_model *m = rig_model(&models[c]);
        outcome want = resident(m);
        for (size_t s = 0; s < QN_COUNT(name); s++) {
            for (int32_t P = 1; P <= 3; P++) {
                const rig_way way = {.schedule = name[s], .workers = P, .threads = 1, .transport = "thread"};
                const qn_trainer_tiers tiers = {.window = 1 + P % 2, .replace = 1};
                qn_err err;
                qn_order *o = rig_order(&way, ITEMS);
                qn_trainer *t = open_on(m, o, P % 2 == 0 ? "self" : "thread", &tiers, NULL, (uint64_t)P, &err);
                if (t == NULL) fail_msg("%s", err.text);
                const outcome got = train(t, m);
                as_planned(t);
                qn_trainer_close(t);
                qn_order_close(o);
                same(&got, &want, name[s], P, 0);
            }
        }
        free(want.state);
        qn_model_close(m);
    }
}

/* A model that needs four times what the device has; and what is said when not even one piece fits. */
static void four_times_the_device(void **state)
{
    (void)state;
    qn_model *m = rig_model(&models[1]);
    outcome want = resident(m);
    qn_order *o = rig_dealt(1, PIECES, ITEMS);
    qn_err err = {0};
    int64_t one = 1, limit;
    const qn_trainer_tiers most = {.window = PIECES, .replace = 1}, fit = {.replace = 1};
    qn_trainer *t = open_on(m, o, "self", &most, NULL, 0, &err);
    assert_non_null(t);
    limit = qn_trainer_plan(t)->arena_bytes[0] / 4;
    qn_trainer_close(t);
    t = open_on(m, o, "thread", &fit, &limit, 0, &err);
    if (t == NULL) fail_msg("%s", err.text);
    assert_true(qn_trainer_plan(t)->arena_bytes[0] <= limit);
    const outcome got = train(t, m);
    as_planned(t);
    assert_true(qn_trainer_high_water(t, 0) <= limit && 2 * qn_trainer_high_water(t, 0) > limit);
    qn_trainer_close(t);
    same(&got, &want, "four times", 0, 0);
    assert_null(open_on(m, o, "self", &fit, &one, 0, &err));
    assert_int_equal(err.code, QN_EINVAL);
    const char *said = strstr(err.text, "the smallest that would do");
    assert_non_null(said);
    limit = strtoll(strstr(said, "is ") + 3, NULL, 10); /* and it does */
    t = open_on(m, o, "self", &fit, &limit, 0, &err);
    if (t == NULL) fail_msg("%s", err.text);
    qn_trainer_close(t);
    limit--;
    assert_null(open_on(m, o, "self", &fit, &limit, 0, &err));
    free(want.state);
    qn_order_close(o);
    qn_model_close(m);
}

/* --- the lagging optimizer's reference: the whole model as one stage, one thing after the other, on one thread */
enum { MOST = 160 };

typedef struct plain {
    const qn_model *m;
    const qn_kernels *k;
    qn_exec ex;
    qn_arena scratch;
    qn_stage *stage;
    void *packed, *stash;
    size_t packed_bytes, stash_bytes;
    void *theta[MOST], *old[MOST], *grad[MOST], *mom[MOST], *var[MOST]; /* by parameter; grad by use */
} plain;

static size_t param_bytes(const plain *x, int32_t p)
{
    return (size_t)qn_model_param(x->m, p)->count * sizeof(float);
}

static void plain_open(plain *x, const qn_model *m)
{
    qn_err err;
    const qn_stage_limits limits = {.B = (RIG_BATCH + ITEMS - 1) / ITEMS, .T = RIG_T, .train = true};
    memset(x, 0, sizeof(*x));
    x->m = m;
    x->ex.scratch = &x->scratch;
    assert_true(qn_model_params(m) <= MOST && qn_model_uses(m) <= MOST);
    rig_ok(qn_kernels_get(&x->k, QN_MODE_F32, &err), &err);
    rig_ok(qn_stage_open(&x->stage, m, 0, qn_model_layers(m), x->k, &x->ex, &limits, &err), &err);
    const qn_stage_need *need = qn_stage_need_of(x->stage);
    rig_ok(qn_arena_open(&x->scratch, need->scratch_bytes, &err), &err);
    x->packed = qn_alloc_pages(x->packed_bytes = need->packed_bytes + 64);
    x->stash = qn_alloc_pages(x->stash_bytes = need->stash_bytes + 64);
    for (int32_t p = 0; p < qn_model_params(m); p++) {
        void **const at[] = {&x->theta[p], &x->old[p], &x->mom[p], &x->var[p]};
        for (int i = 0; i < 4; i++) *at[i] = qn_alloc_pages(param_bytes(x, p));
        qn_model_init_param(m, p, 5, x->k->param, x->theta[p]);
        memcpy(x->old[p], x->theta[p], param_bytes(x, p));
    }
    for (int32_t u = 0; u < qn_model_uses(m); u++) x->grad[u] = qn_alloc_pages(param_bytes(x, qn_model_use(m, u)->param));
}

static void plain_close(plain *x)
{
    for (int32_t p = 0; p < qn_model_params(x->m); p++) {
        void *const at[] = {x->theta[p], x->old[p], x->mom[p], x->var[p]};
        for (int i = 0; i < 4; i++) qn_free_pages(at[i], param_bytes(x, p));
    }
    for (int32_t u = 0; u < qn_model_uses(x->m); u++) qn_free_pages(x->grad[u], param_bytes(x, qn_model_use(x->m, u)->param));
    qn_free_pages(x->packed, x->packed_bytes);
    qn_free_pages(x->stash, x->stash_bytes);
    qn_stage_close(x->stage);
    qn_arena_close(&x->scratch);
}

static int32_t first_use(const plain *x, int32_t p)
{
    int32_t u = 0;
    while (qn_model_use(x->m, u)->param != p) u++;
    return u;
}

/* g = gradient of L at old, folded item by item; its loss, targets and norm. */
static void plain_gradient(plain *x, int64_t step, double *loss, double *tokens, double *norm)
{
    const int64_t each = (RIG_BATCH + ITEMS - 1) / ITEMS;
    int32_t in[RIG_BATCH * RIG_T], out[RIG_BATCH * RIG_T];
    const qn_stage_binding b = {.value = x->old, .grad = x->grad, .packed = x->packed};
    for (int64_t i = 0; i < RIG_BATCH; i++) rig_read(&rig_source, step, i, in + i * RIG_T, out + i * RIG_T);
    qn_stage_bind(x->stage, &b);
    qn_stage_pack(x->stage);
    *loss = *tokens = 0.0;
    double squares = 0.0;
    for (int64_t i = 0; i < ITEMS; i++) {
        const int64_t first = i * each < RIG_BATCH ? i * each : RIG_BATCH,
                      end = first + each < RIG_BATCH ? first + each : RIG_BATCH;
        double sum = 0.0;
        const qn_mb mb = {.B = end - first,
                          .T = RIG_T,
                          .tokens = in + first * RIG_T,
                          .targets = out + first * RIG_T,
                          .seed = 5,
                          .step = (uint32_t)step,
                          .first_sample = (uint32_t)first,
                          .loss = &sum};
        qn_stage_forward(x->stage, &mb, NULL, NULL, x->stash);
        qn_stage_backward(x->stage, &mb, NULL, NULL, NULL, x->stash, NULL);
        *loss += sum;
        for (int64_t j = first * RIG_T; j < end * RIG_T; j++) *tokens += out[j] >= 0;
    }
    for (int32_t u = 0; u < qn_model_uses(x->m); u++) {
        const int32_t p = qn_model_use(x->m, u)->param, f = first_use(x, p);
        if (u != f) x->k->fold(&x->ex, x->grad[f], x->grad[u], qn_model_param(x->m, p)->count);
    }
    for (int32_t p = 0; p < qn_model_params(x->m); p++)
        squares += x->k->sumsq(&x->ex, x->grad[first_use(x, p)], qn_model_param(x->m, p)->count);
    *norm = sqrt(squares) / *tokens;
}

/* theta = step(theta, g), and old = what theta was. */
static void plain_update(plain *x, int64_t step, double tokens, double norm)
{
    const double t = (double)step + 1.0;
    for (int32_t p = 0; p < qn_model_params(x->m); p++) {
        const qn_param *param = qn_model_param(x->m, p);
        const qn_adamw a = {.lr = RIG_LR,
                            .beta1 = rig_hyper.beta1,
                            .beta2 = rig_hyper.beta2,
                            .eps = rig_hyper.eps,
                            .decay = param->decay ? rig_hyper.decay : 0.0,
                            .correct1 = 1.0 - pow(rig_hyper.beta1, t),
                            .correct2 = 1.0 - pow(rig_hyper.beta2, t),
                            .grad_scale = (norm > rig_hyper.clip ? rig_hyper.clip / norm : 1.0) / tokens};
        memcpy(x->old[p], x->theta[p], param_bytes(x, p));
        x->k->adamw(&x->ex, x->theta[p], x->grad[first_use(x, p)], x->mom[p], x->var[p], param->count, &a);
    }
}

/* theta_k+1 = step(theta_k, gradient at theta_max(k-1, 0)), under random delays before the tasks of every lane. */
static void the_lagging_optimizer_is_its_reference(void **state)
{
    (void)state;
    for (size_t c = 0; c < QN_COUNT(models); c++) {
        qn_model *m = rig_model(&models[c]);
        plain x;
        outcome want;
        plain_open(&x, m);
        for (int64_t step = 0; step < STEPS; step++) {
            double tokens;
            plain_gradient(&x, step, &want.loss[step], &tokens, &want.norm[step]);
            want.loss[step] /= tokens;
            plain_update(&x, step, tokens, want.norm[step]);
        }
        want.bytes = rig_state_bytes(m, sizeof(float));
        want.state = malloc(want.bytes);
        char *at = want.state;
        for (int32_t p = 0; p < qn_model_params(m); p++) {
            const void *const part[] = {x.theta[p], x.mom[p], x.var[p]};
            for (int i = 0; i < 3; i++, at += param_bytes(&x, p)) memcpy(at, part[i], param_bytes(&x, p));
        }
        for (int32_t N = 1; N <= 3; N++) {
            qn_order *o = rig_dealt(N, PIECES, ITEMS);
            for (uint64_t jitter = 0; jitter < 6; jitter++) {
                const qn_trainer_tiers tiers = {.window = 2 + (int32_t)jitter % 2, .replace = 1, .lag = 1};
                qn_err err;
                qn_trainer *t = open_on(m, o, jitter % 3 == 2 ? "self" : "thread", &tiers, NULL, jitter, &err);
                if (t == NULL) fail_msg("%s", err.text);
                const outcome got = train(t, m);
                qn_trainer_close(t);
                same(&got, &want, "lag on devices", N, (int32_t)jitter);
            }
            qn_order_close(o);
        }
        outcome sync = resident(m); /* and it is not simply the other optimizer */
        assert_true(sync.loss[1] != want.loss[1]);
        free(sync.state);
        free(want.state);
        plain_close(&x);
        qn_model_close(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_window_gives_the_resident_bits),
                                       cmocka_unit_test(plain_schedules_run_on_devices), cmocka_unit_test(four_times_the_device),
                                       cmocka_unit_test(the_lagging_optimizer_is_its_reference)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
