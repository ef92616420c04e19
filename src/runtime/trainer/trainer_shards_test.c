/* Tensor shards through the whole trainer: at a fixed t the same bits for any number of workers, schedule, recomputation, thread
 * count, transport and order of arrival; near t = 1; state that goes from one t to another; sums and bytes as they should be. */
#include <math.h>
#include <stdatomic.h>

#include "support/malloc_guard.c"
#include "support/quiet_rig.h"
#include "support/sanitized.h"

enum { STEPS = QN_SANITIZED ? 5 : 20, ITEMS = 4 };

typedef rig_outcome outcome;

static const qn_model_config config[] = {
    RIG_SHARD_GPT2(16),
    RIG_SHARD_LLAMA(8),
    {.arch = QN_ARCH_LLAMA, .layers = 2, .heads = 4, .kv_heads = 4, .width = 32, .context = 8, .vocab = RIG_VOCAB, .tied = true},
};

static outcome compute(const qn_model *m, qn_mode mode, const rig_way *way)
{
    return rig_compute(m, mode, way, ITEMS, STEPS);
}

static const char *const schedules[] = {"gpipe", "1f1b", "interleaved", "split", "zb-h1", "v-half"};
static const char *const transports[] = {"thread", "self", "sim"};

static void sweep(const qn_model *m, qn_mode mode, int32_t shards, int32_t *turn)
{
    const rig_way base = {.schedule = "gpipe", .workers = 1, .threads = 1, .transport = "self", .shards = shards};
    outcome want = compute(m, mode, &base);
    assert_true(want.loss[STEPS - 1] < want.loss[0]);
    for (size_t s = 0; s < QN_COUNT(schedules); s++) {
        for (int32_t P = 1; P <= 3; P++) {
            for (int32_t tw = 1; tw <= shards; tw *= 2, (*turn)++) {
                if (QN_SANITIZED && ((uint32_t)*turn * 2654435761u >> 16) % 6 != 0) continue;
                if (*turn % 3 != shards / 4) continue; /* over all models and numbers of shards each meets each */
                const rig_way way = {.schedule = schedules[s],
                                     .workers = P,
                                     .threads = 1 + *turn % 2,
                                     .recompute = (qn_recompute)(*turn % 3),
                                     .transport = transports[*turn / 2 % 3],
                                     .seed = *turn / 2 % 3 == 2 ? 1000u + (uint64_t)*turn : 0,
                                     .shards = shards,
                                     .shard_workers = tw};
                rig_assert_same(m, mode, &way, ITEMS, STEPS, &want);
            }
        }
    }
    free(want.state);
}

static void the_same_bits_for_any_number_of_workers(void **unused)
{
    (void)unused;
    int32_t turn = 0;
    for (size_t c = 0; c < QN_COUNT(config); c++) {
        qn_model *m = rig_model(&config[c]);
        sweep(m, QN_MODE_F32, 2, &turn);
        if (c == 1) sweep(m, QN_MODE_F32, 4, &turn);
        qn_model_close(m);
    }
}

static void every_order_of_arrival(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&config[0]);
    const rig_way base = {.schedule = "1f1b", .workers = 1, .threads = 1, .transport = "self", .shards = 4};
    outcome want = compute(m, QN_MODE_F32, &base);
    for (uint64_t seed = 1; seed <= (QN_SANITIZED ? 4 : 12); seed++) {
        const rig_way way = {.schedule = schedules[seed % 4],
                             .workers = 1 + (int32_t)(seed % 3),
                             .threads = 1,
                             .transport = "sim",
                             .seed = seed,
                             .shards = 4,
                             .shard_workers = 1 << seed / 4 % 3};
        rig_assert_same(m, QN_MODE_F32, &way, ITEMS, STEPS, &want);
    }
    free(want.state);
    qn_model_close(m);
}

static void steps_after_the_first_allocate_nothing(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&config[1]);
    for (int i = 0; i < 4; i++) {
        const rig_way way = {.schedule = "1f1b",
                             .workers = 2,
                             .threads = 1 + i % 2,
                             .transport = transports[i % 3],
                             .shards = 4,
                             .shard_workers = 1 << i % 3};
        rig_quiet_after_the_first(m, &way, ITEMS);
    }
    qn_model_close(m);
}

/* Losses of 20 steps within 1e-5 of one shard. */
static void near_one_shard(void **unused)
{
    (void)unused;
    for (size_t c = 0; c < QN_COUNT(config); c++) {
        qn_model *m = rig_model(&config[c]);
        const rig_way one = {.schedule = "1f1b", .workers = 2, .threads = 1, .transport = "thread"};
        outcome want = compute(m, QN_MODE_F32, &one);
        for (int32_t t = 2; t <= 4; t *= 2) {
            rig_way way = one;
            way.shards = t;
            way.shard_workers = 2;
            outcome got = compute(m, QN_MODE_F32, &way);
            for (int32_t step = 0; step < STEPS; step++) {
                assert_true(fabs(got.loss[step] / want.loss[step] - 1) < 1e-5);
                assert_true(fabs(got.norm[step] / want.norm[step] - 1) < 1e-4);
            }
            free(got.state);
        }
        free(want.state);
        qn_model_close(m);
    }
}

/* A state taken at one t and given to another goes on as it would have, to rounding; given to the same t, bit for bit. */
static void state_goes_from_one_number_of_shards_to_another(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&config[1]);
    const size_t bytes = rig_state_bytes(m, sizeof(float));
    char *state = malloc(bytes), *again = malloc(bytes);
    assert_true(state != NULL && again != NULL);
    double want = 0;
    for (int32_t t = 1; t <= 4; t *= 2) {
        qn_err err;
        qn_step_result r;
        const rig_way way = {.schedule = "1f1b", .workers = 2, .threads = 1, .transport = "thread", .shards = t};
        qn_trainer *a = rig_open(m, QN_MODE_F32, &way, ITEMS);
        for (int64_t step = 0; t == 1 && step < 3; step++) rig_ok(qn_trainer_step(a, step, RIG_LR, &r, NULL, &err), &err);
        if (t == 1) rig_state(state, a, m, sizeof(float), 0);
        rig_state(state, a, m, sizeof(float), 1);
        rig_state(again, a, m, sizeof(float), 0);
        assert_memory_equal(again, state, bytes);
        rig_ok(qn_trainer_step(a, 3, RIG_LR, &r, NULL, &err), &err);
        if (t == 1) want = r.loss;
        assert_true(fabs(r.loss / want - 1) < 1e-5);
        qn_trainer_close(a);
    }
    free(state);
    free(again);
    qn_model_close(m);
}

/* --- bytes by channel, counted where they are handed to the transport */
static qn_transport counting;
static const qn_transport *counted;
static int64_t bytes_of[QN_VALUE_CLASSES], messages_of[QN_VALUE_CLASSES];
static int32_t class_of[4096];

static void count_put(qn_world *w, int32_t channel, qn_slot_tag tag)
{
    bytes_of[class_of[channel]] += (int64_t)tag.bytes;
    messages_of[class_of[channel]]++;
    counted->put_publish(w, channel, tag);
}

/* One step; what went over channels of each class. */
static double count_step(const qn_model *m, rig_way way, int64_t bytes[QN_VALUE_CLASSES])
{
    qn_err err;
    qn_step_result r;
    counted = qn_transport_find("self");
    counting = *counted;
    counting.put_publish = count_put;
    way.transport = "self";
    way.counting = &counting;
    qn_trainer *t = rig_open(m, QN_MODE_F32, &way, ITEMS);
    const qn_plan *p = qn_trainer_plan(t);
    assert_true(p->channels < (int32_t)QN_COUNT(class_of));
    for (int32_t c = 0; c < p->channels; c++) class_of[c] = p->channel[c].cls;
    memset(bytes_of, 0, sizeof(bytes_of));
    memset(messages_of, 0, sizeof(messages_of));
    rig_ok(qn_trainer_step(t, 0, RIG_LR, &r, NULL, &err), &err);
    memcpy(bytes, bytes_of, sizeof(bytes_of));
    qn_trainer_close(t);
    return r.loss;
}

/* Scatter/gather: a stage's link carries 1/t of the bytes, and nothing else changes. */
static void a_link_carries_a_slice_of_each_shard(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&config[1]);
    for (int32_t t = 2; t <= 4; t *= 2) {
        for (int32_t tw = 1; tw <= t; tw *= 2) {
            int64_t slices[QN_VALUE_CLASSES], whole[QN_VALUE_CLASSES], one[QN_VALUE_CLASSES];
            rig_way way = {.schedule = "1f1b", .workers = 3, .threads = 1, .shards = t, .shard_workers = tw};
            const double loss = count_step(m, way, slices);
            way.whole_links = true;
            const double loss_whole = count_step(m, way, whole);
            way.shards = way.shard_workers = 1;
            count_step(m, way, one);
            assert_memory_equal(&loss, &loss_whole, sizeof(loss));
            assert_int_equal(whole[QN_V_ACT], t * one[QN_V_ACT]);
            assert_int_equal(slices[QN_V_ACT], one[QN_V_ACT]);
            assert_int_equal(slices[QN_V_GRAD], one[QN_V_GRAD]);
            /* what the receivers hand on: every worker what its shards have, to all others of its stage */
            const int64_t gathered = (one[QN_V_ACT] + one[QN_V_GRAD]) * (tw - 1);
            assert_int_equal(slices[QN_V_PART], whole[QN_V_PART] + gathered);
        }
    }
    qn_model_close(m);
}

/* Four sums per block and item, and one each of look-ups and of the gradient of the head's input; each a scatter and a gather:
 * with a worker for each of t shards every worker sends 2 (t - 1) / t of the numbers, 8 b s h (t - 1) / t a layer in all
 * (Narayanan et al. 2021, section 3.2). With fewer workers, w, the raw contributions of all their shards: t (w - 1) / w + (w - 1)
 * of the numbers over all workers. The head's statistics, three of each row and shard, are gathered. */
static void four_sums_of_a_block(void **unused)
{
    (void)unused;
    for (size_t c = 0; c < QN_COUNT(config); c++) {
        qn_model *m = rig_model(&config[c]);
        for (int32_t t = 2; t <= 4; t *= 2) {
            for (int32_t w = 1; w <= t; w *= 2) {
                int64_t bytes[QN_VALUE_CLASSES];
                const rig_way way = {.schedule = "1f1b", .workers = 1, .threads = 1, .shards = t, .shard_workers = w};
                count_step(m, way, bytes);
                const int64_t n = (int64_t)RIG_BATCH * RIG_T * config[c].width * (int64_t)sizeof(float);
                const int64_t sum = n * t * (w - 1) / w + n * (w - 1), sums = 4 * config[c].layers + 2;
                const int64_t stats = (int64_t)RIG_BATCH * RIG_T * 3 * t * (w - 1) * (int64_t)sizeof(float);
                assert_int_equal(bytes[QN_V_PART], sums * sum + stats);
                if (w == t) assert_int_equal((bytes[QN_V_PART] - stats) / t, (config[c].layers * 8 + 4) * n * (t - 1) / t);
                /* one piece each: of every slice from or to each of the others */
                assert_int_equal(messages_of[QN_V_PART], (sums * 2 + 1) * ITEMS * t * (w - 1));
            }
        }
        qn_model_close(m);
    }
}

static void whole_links_give_the_same_bits(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&config[0]);
    const rig_way base = {.schedule = "gpipe", .workers = 1, .threads = 1, .transport = "self", .shards = 4};
    outcome want = compute(m, QN_MODE_F32, &base);
    for (int turn = 0; turn < 6; turn++) {
        const rig_way way = {.schedule = schedules[turn],
                             .workers = 2,
                             .threads = 1,
                             .recompute = (qn_recompute)(turn % 3),
                             .transport = transports[turn % 3],
                             .seed = turn % 3 == 2 ? 7 : 0,
                             .shards = 4,
                             .shard_workers = 1 << turn % 3,
                             .whole_links = turn % 2 == 0};
        rig_assert_same(m, QN_MODE_F32, &way, ITEMS, STEPS, &want);
    }
    free(want.state);
    qn_model_close(m);
}

/* Sums and wholes in many pieces, down to two elements of each shard. */
static void pieces_give_the_same_bits(void **unused)
{
    static const int64_t slots[] = {32, 56, 1000};
    (void)unused;
    qn_model *m = rig_model(&config[1]);
    const rig_way base = {.schedule = "gpipe", .workers = 1, .threads = 1, .transport = "self", .shards = 4};
    outcome want = compute(m, QN_MODE_F32, &base);
    for (int turn = 0; turn < 9; turn++) {
        if (QN_SANITIZED && turn % 4 != 0) continue;
        const rig_way way = {.schedule = schedules[turn % 2],
                             .workers = 2,
                             .threads = 1,
                             .transport = turn % 3 == 0 ? "self" : transports[turn % 3],
                             .seed = turn % 3 == 2 ? 11 : 0,
                             .shards = 4,
                             .shard_workers = 2 << turn % 2,
                             .part_bytes = slots[turn / 3]};
        rig_assert_same(m, QN_MODE_F32, &way, ITEMS, STEPS, &want);
    }
    free(want.state);
    qn_model_close(m);
}

/* --- a step that is given up between any two messages */
static _Atomic int32_t messages_left;
static qn_trainer *to_cancel;

static void cancelling_put(qn_world *w, int32_t channel, qn_slot_tag tag)
{
    counted->put_publish(w, channel, tag);
    if (atomic_fetch_sub(&messages_left, 1) == 1) qn_trainer_cancel(to_cancel);
}

/* What a cancelled step left behind does not show in the next one, once the state is what it was. */
static void a_step_is_cancelled_while_shards_meet(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&config[0]);
    const size_t bytes = rig_state_bytes(m, sizeof(float));
    char *state = malloc(bytes);
    assert_non_null(state);
    for (int driver = 0; driver < 2; driver++) {
        rig_way way = {
            .schedule = "1f1b", .workers = 2, .threads = 1, .shards = 4, .shard_workers = 2, .recompute = QN_RECOMPUTE_FULL};
        way.transport = transports[driver];
        counted = qn_transport_find(way.transport);
        counting = *counted;
        counting.put_publish = cancelling_put;
        way.counting = &counting;
        qn_trainer *t = to_cancel = rig_open(m, QN_MODE_F32, &way, ITEMS);
        qn_err err;
        qn_step_result want, r;
        rig_state(state, t, m, sizeof(float), 0);
        messages_left = INT32_MAX;
        rig_ok(qn_trainer_step(t, 0, RIG_LR, &want, NULL, &err), &err);
        const int32_t most = (INT32_MAX - messages_left) * 3 / 4; /* the last ones may come too late to stop anything */
        for (int32_t n = 1; n < most; n += 1 + most / (QN_SANITIZED ? 5 : 24)) {
            messages_left = n;
            assert_int_equal(qn_trainer_step(t, 0, RIG_LR, &r, NULL, &err), QN_ECANCELLED);
            messages_left = INT32_MAX;
            rig_state(state, t, m, sizeof(float), 1);
            rig_ok(qn_trainer_step(t, 0, RIG_LR, &r, NULL, &err), &err);
            assert_memory_equal(&r.loss, &want.loss, sizeof(r.loss));
            assert_memory_equal(&r.grad_norm, &want.grad_norm, sizeof(r.grad_norm));
            rig_state(state, t, m, sizeof(float), 1);
        }
        qn_trainer_close(t);
    }
    free(state);
    qn_model_close(m);
}

/* Replicas of shards: at fixed t and G the same bits for any number of replicas and workers, with moments shared or dealt out. */
static void together_with_replicas(void **unused)
{
    (void)unused;
    for (size_t c = 0; c < 2; c++) {
        qn_model *m = rig_model(&config[c]);
        const rig_way base = {
            .schedule = "gpipe", .workers = 1, .threads = 1, .transport = "self", .shards = 2, .replicas = 1, .groups = 2};
        outcome want = compute(m, QN_MODE_F32, &base);
        for (int turn = 0; turn < 8; turn++) {
            const rig_way way = {.schedule = schedules[turn % 2],
                                 .workers = 1 + turn / 2 % 2,
                                 .threads = 1,
                                 .recompute = (qn_recompute)(turn % 3),
                                 .transport = transports[turn % 3],
                                 .seed = turn % 3 == 2 ? 9 : 0,
                                 .shards = 2,
                                 .shard_workers = 1 + turn / 4,
                                 .replicas = 2,
                                 .groups = 2,
                                 .zero1 = turn % 2 == 0};
            rig_assert_same(m, QN_MODE_F32, &way, ITEMS, STEPS, &want);
        }
        free(want.state);
        qn_model_close(m);
    }
}

/* Embedding and output matrix: each shard has ceil(V / t) rows of them, with their gradients and moments; so over all shards
 * there is no second copy, and of one of them nothing but the vectors is as large as with t = 1. */
static void each_shard_has_its_rows_of_the_vocabulary(void **unused)
{
    (void)unused;
    for (size_t c = 0; c < QN_COUNT(config); c++) {
        qn_model *m = rig_model(&config[c]);
        for (int32_t t = 1; t <= 4; t *= 2) {
            const rig_way way = {
                .schedule = "1f1b", .workers = 2, .threads = 1, .transport = "self", .shards = t, .shard_workers = t};
            qn_trainer *a = rig_open(m, QN_MODE_F32, &way, ITEMS);
            const qn_memory memory = qn_trainer_memory(a);
            int64_t once = 0, most = 0; /* elements; what rounding up to cache lines adds */
            for (int32_t p = 0; p < qn_model_params(m); p++) {
                const qn_param *whole = qn_model_param(m, p);
                for (int32_t k = 0; k < t; k++) {
                    const qn_param_home h = qn_trainer_shard_home(a, p, k);
                    if (whole->rank == 2 && whole->dim[0] == RIG_VOCAB)
                        assert_int_equal(h.part->dim[0], (RIG_VOCAB + t - 1) / t);
                    else if (whole->rank == 2 && whole->dim[0] != config[c].context)
                        assert_int_equal(h.part->count, whole->count / t);
                    once += h.part->count;
                    most += 64 / 4;
                }
            }
            assert_in_range(memory.moments, 2 * once * 4, 2 * (once + most) * 4);
            qn_trainer_close(a);
        }
        qn_model_close(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_bits_for_any_number_of_workers),
        cmocka_unit_test(every_order_of_arrival),
        cmocka_unit_test(a_link_carries_a_slice_of_each_shard),
        cmocka_unit_test(four_sums_of_a_block),
        cmocka_unit_test(whole_links_give_the_same_bits),
        cmocka_unit_test(pieces_give_the_same_bits),
        cmocka_unit_test(a_step_is_cancelled_while_shards_meet),
        cmocka_unit_test(together_with_replicas),
        cmocka_unit_test(steps_after_the_first_allocate_nothing),
        cmocka_unit_test(near_one_shard),
        cmocka_unit_test(each_shard_has_its_rows_of_the_vocabulary),
        cmocka_unit_test(state_goes_from_one_number_of_shards_to_another),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
