/* The n-th allocation fails, for every n: whatever opens something says so and gives back all it took. */
#include "support/fault_sweep.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/io.h"
#include "data/safetensors/safetensors.h"
#include "data/tokenizer/tokenizer.h"
#include "runtime/forward/runner.h"
#include "support/trainer_rig.h"
#include "schedule/gen/gen.h"
#include "schedule/trace.h"
#include "support/sanitized.h"

static char root[512];

/* --- tokenizer.json */
typedef struct text {
    char *at;
    size_t bytes;
    int32_t id[64]; /* what the sentence gives */
    int64_t ids;
} text;

static qn_status use_tokenizer(void *ctx, qn_err *err)
{
    text *json = ctx;
    qn_tokenizer *t;
    int32_t *ids = NULL;
    int64_t count;
    qn_status st = qn_tokenizer_open_json(&t, json->at, json->bytes, err);
    if (st != QN_OK) return st;
    st = qn_tokenizer_encode(&ids, &count, t, "the grain is fine, the mill is slow", 35, err);
    if (st == QN_OK && json->ids == 0) {
        assert_in_range(count, 1, QN_COUNT(json->id));
        memcpy(json->id, ids, (size_t)count * sizeof(*ids));
        json->ids = count;
    }
    if (st == QN_OK) assert_true(count == json->ids && memcmp(ids, json->id, (size_t)count * sizeof(*ids)) == 0);
    qn_free(ids);
    qn_tokenizer_close(t);
    return st;
}

static void tokenizer(void **state)
{
    static const char *const name[] = {"bpe_small.json", "llama2_like.json"};
    (void)state;
    const char *source = getenv("QUERN_TEST_SOURCE");
    for (size_t i = 0; i < QN_COUNT(name); i++) {
        char path[1024];
        text json = {.ids = 0};
        qn_err err;
        snprintf(path, sizeof(path), "%s/tests/golden/%s", source != NULL ? source : ".", name[i]);
        rig_ok(qn_file_read(&json.at, &json.bytes, path, 1 << 20, &err), &err);
        rig_ok(use_tokenizer(&json, &err), &err);
        /* Without memory for its JIT a pattern is interpreted, with the same result: those failures may be survived. */
        const long failures = fault_sweep(QN_FAULT_ALLOC, use_tokenizer, &json, 1, 40);
        print_message("%s: %ld allocations\n", name[i], failures);
        assert_true(failures > 10);
        qn_free(json.at);
    }
}

/* --- safetensors */
static qn_status fill_ones(void *ctx, int32_t i, int64_t first, int64_t count, void *to, qn_err *err)
{
    float *x = to;
    (void)ctx, (void)i, (void)first, (void)err;
    for (int64_t k = 0; k < count; k++) x[k] = 1;
    return QN_OK;
}

static qn_status use_safetensors(void *ctx, qn_err *err)
{
    static const qn_tensor_desc tensor[] = {{.name = "a", .dtype = QN_F32, .shape = {.rank = 2, .dim = {3, 5}}},
                                            {.name = "b", .dtype = QN_F32, .shape = {.rank = 1, .dim = {70}}}};
    qn_safetensors *f;
    qn_status st = qn_safetensors_write(ctx, "model", tensor, 2, 100, fill_ones, NULL, err); /* two shards and an index */
    if (st == QN_OK) st = qn_safetensors_open(&f, ctx, err);
    if (st == QN_OK) qn_safetensors_close(f);
    return st;
}

static void safetensors(void **state)
{
    (void)state;
    assert_true(fault_sweep(QN_FAULT_ALLOC, use_safetensors, root, 1, 0) > 10);
}

/* --- model and stage */
static qn_status use_stage(void *ctx, qn_err *err)
{
    const qn_kernels *k;
    qn_model *m = NULL;
    qn_stage *s = NULL;
    qn_arena scratch = QN_ARENA_PROBE;
    const qn_exec ex = {.scratch = &scratch};
    const qn_stage_limits limits = {.B = 2, .T = 8, .train = true, .cache_len = 8};
    qn_status st;
    QN_TRY(st, qn_kernels_get(&k, QN_MODE_F32, err), out);
    QN_TRY(st, qn_model_open(&m, ctx, err), out);
    QN_TRY(st, qn_stage_open(&s, m, 0, qn_model_layers(m), k, &ex, &limits, err), out);
out:
    qn_stage_close(s);
    qn_model_close(m);
    return st;
}

static void stages(void **state)
{
    (void)state;
    for (size_t c = 0; c < RIG_CONFIGS; c++) {
        qn_model_config config = rig_config[c];
        assert_true(fault_sweep(QN_FAULT_ALLOC, use_stage, &config, 1, 0) > 5);
    }
}

/* --- schedules */
static qn_status use_schedule(void *ctx, qn_err *err)
{
    const qn_generator *g = qn_generator_find(ctx);
    const bool even = qn_generator_replicas(g) > 1;
    const qn_pattern pattern = {
        .workers = g->max_workers > 0 ? g->max_workers : 3 + even, .items = 6 + 2 * even, .chunks = g->usual_chunks};
    const qn_lowering how = {.recompute = QN_RECOMPUTE_EXCEPT_LAST,
                             .step_tasks = !g->host_state,
                             .stat_bytes = 8,
                             .tied_owner = 0,
                             .tied_replica = 2,
                             .tied_bytes = 8};
    qn_order *order = NULL;
    qn_plan *plan = NULL;
    qn_trace trace = {.time = NULL};
    char *drawing = NULL;
    qn_status st;
    QN_TRY(st, qn_generate(&order, ctx, &pattern, err), out);
    QN_TRY(st, qn_lower(&plan, order, &how, err), out);
    trace = (qn_trace){.plan = plan, .time = calloc((size_t)plan->tasks, sizeof(qn_span_time))};
    assert_non_null(trace.time);
    QN_TRY(st, qn_simulate(&trace, plan, &(qn_sim_options){.latency = 1}, err), out);
    QN_TRY(st, qn_trace_ascii(&drawing, &trace, 80, err), out);
out:
    qn_free(drawing);
    free(trace.time);
    qn_plan_close(plan);
    qn_order_close(order);
    return st;
}

static void schedules(void **state)
{
    (void)state;
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        char name[32];
        snprintf(name, sizeof(name), "%s", g->name);
        assert_true(fault_sweep(QN_FAULT_ALLOC, use_schedule, name, 1, 0) > 5);
    }
}

/* --- trainer and runner */
static qn_status use_trainer(void *ctx, qn_err *err)
{
    const qn_model *m = ctx;
    const rig_way way = {.schedule = "1f1b", .workers = 2, .threads = 2, .transport = "thread"};
    int32_t first[3];
    qn_trainer *t = NULL;
    qn_step_result result;
    qn_order *order = NULL;
    const qn_pattern pattern = {.workers = 2, .items = 3, .chunks = 1};
    qn_status st;
    QN_TRY(st, qn_generate(&order, way.schedule, &pattern, err), out);
    rig_cut(first, 2, qn_model_layers(m));
    const qn_trainer_desc d = {.model = m,
                               .order = order,
                               .first_layer = first,
                               .threads = way.threads,
                               .source = &rig_source,
                               .hyper = rig_hyper,
                               .seed = 5,
                               .faults = {.dead_worker = -1}};
    QN_TRY(st, qn_trainer_open(&t, &d, err), out);
    QN_TRY(st, qn_trainer_step(t, 0, RIG_LR, &result, NULL, err), out);
out:
    qn_trainer_close(t);
    qn_order_close(order);
    return st;
}

static void trainer(void **state)
{
    (void)state;
    qn_model *m = rig_model(&rig_config[0]);
    const long failures = fault_sweep(QN_FAULT_ALLOC, use_trainer, m, QN_SANITIZED ? 2 : 1, 0);
    print_message("trainer: %ld failures\n", failures);
    assert_true(failures > 10);
    qn_model_close(m);
}

typedef struct values {
    qn_model *model;
    float *block;
    void **value;
} values;

static qn_status use_runner(void *ctx, qn_err *err)
{
    const values *v = ctx;
    const int32_t first[] = {0, 2, qn_model_layers(v->model)}, tokens[] = {1, 2, 3};
    qn_runner *r;
    const float *logits;
    const qn_runner_desc d = {
        .model = v->model, .value = v->value, .first_layer = first, .workers = 2, .threads = 1, .B = 1, .T = 4, .cache_len = 8};
    qn_status st = qn_runner_open(&r, &d, err);
    if (st != QN_OK) return st;
    st = qn_runner_feed(r, tokens, 3, &logits, err);
    qn_runner_close(r);
    return st;
}

static void runner(void **state)
{
    (void)state;
    values v = {.model = rig_model(&rig_config[1])};
    v.block = calloc((size_t)qn_model_param_count(v.model), sizeof(float));
    v.value = calloc((size_t)qn_model_params(v.model), sizeof(void *));
    assert_true(v.block != NULL && v.value != NULL);
    float *at = v.block;
    for (int32_t p = 0; p < qn_model_params(v.model); at += qn_model_param(v.model, p)->count, p++) {
        qn_model_init_param(v.model, p, 1, QN_F32, at);
        v.value[p] = at;
    }
    const long failures = fault_sweep(QN_FAULT_ALLOC, use_runner, &v, QN_SANITIZED ? 2 : 1, 0);
    print_message("runner: %ld failures\n", failures);
    assert_true(failures > 10);
    free(v.value);
    free(v.block);
    qn_model_close(v.model);
}

static int set_up(void **state)
{
    const char *tmp = getenv("QUERN_TEST_TMP");
    (void)state;
    snprintf(root, sizeof(root), "%s/alloc_fault_%ld", tmp != NULL ? tmp : P_tmpdir, (long)getpid());
    return qn_make_dirs(root, NULL) != QN_OK;
}

static int tear_down(void **state)
{
    (void)state;
    return qn_remove_tree(root, NULL) != QN_OK;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokenizer), cmocka_unit_test(safetensors), cmocka_unit_test(stages),
        cmocka_unit_test(schedules), cmocka_unit_test(trainer),     cmocka_unit_test(runner),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
