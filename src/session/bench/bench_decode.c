/* Where the time of a decoded token goes: the whole model as one stage on one team, stepped operation by operation. Operations of
 * the same name in different layers count together; the median over passes of each kind's sum is shown. What the pipeline adds
 * around the operations is the difference to a token's time in the lines before. */
#include "bench_decode.h"

#include <stdio.h>
#include <string.h>

#include "bench_common.h"
#include "core/alloc.h"
#include "core/clock.h"
#include "core/team.h"
#include "runtime/forward/runner.h"

enum { KINDS = 32, WARM = 32, PASSES = 32 };

typedef struct decode_rig {
    const qn_bench_options *opt;
    qn_exec ex;
    qn_arena scratch;
    qn_stage *stage;
    void *packed, *cache;
    size_t packed_bytes, cache_bytes;
    float *logits;
    int32_t *order, *token; /* [vocab], [rows] */
    qn_segment *segment;    /* [rows] */
    int32_t rows, kinds;
    char name[KINDS][32];
    double us[KINDS][PASSES];
} decode_rig;

static qn_status open_rig(decode_rig *r, const qn_model *m, float *const *value, qn_err *err)
{
    const qn_bench_options *o = r->opt;
    const qn_stage_limits limits = {
        .B = r->rows, .T = 1, .cache_len = o->context, .kv = o->dtype == 0 ? QN_F32 : QN_BF16, .logits = r->rows};
    const qn_kernels *k = NULL;
    qn_status st =
        qn_kernels_infer(&k, o->dtype == 0 ? QN_MODE_F32 : QN_MODE_BF16, (qn_weights)(QN_WEIGHTS_F32 + o->weights), err);
    if (st == QN_OK) st = qn_team_open(&r->ex.team, (int32_t)o->threads, 0, err);
    r->ex.scratch = &r->scratch;
    if (st == QN_OK) st = qn_stage_open(&r->stage, m, 0, qn_model_layers(m), k, &r->ex, &limits, err);
    if (st == QN_OK) st = qn_arena_open(&r->scratch, qn_stage_need_of(r->stage)->scratch_bytes + 64, err);
    if (st != QN_OK) return st;
    r->packed_bytes = qn_stage_need_of(r->stage)->packed_bytes;
    r->cache_bytes = qn_stage_need_of(r->stage)->cache_bytes * (size_t)r->rows;
    r->packed = qn_alloc_pages(r->packed_bytes);
    r->cache = qn_alloc_pages(r->cache_bytes);
    r->logits = qn_calloc((size_t)(o->vocab * r->rows), sizeof(*r->logits));
    r->order = qn_calloc((size_t)o->vocab, sizeof(*r->order));
    r->token = qn_calloc((size_t)r->rows, sizeof(*r->token));
    r->segment = qn_calloc((size_t)r->rows, sizeof(*r->segment));
    if (r->packed == NULL || r->cache == NULL || r->logits == NULL || r->order == NULL || r->token == NULL || r->segment == NULL)
        return QN_FAIL(err, QN_ENOMEM, "no memory for %zu bytes of packed weights", r->packed_bytes);
    const qn_stage_binding b = {.value = (void *const *)value, .packed = r->packed};
    qn_stage_bind(r->stage, &b);
    qn_stage_pack(r->stage);
    return QN_OK;
}

static void close_rig(decode_rig *r)
{
    qn_stage_close(r->stage);
    qn_team_close(r->ex.team);
    qn_arena_close(&r->scratch);
    qn_free_pages(r->packed, r->packed_bytes);
    qn_free_pages(r->cache, r->cache_bytes);
    qn_free(r->logits);
    qn_free(r->order);
    qn_free(r->token);
    qn_free(r->segment);
}

/* The sum that operations of that name count into: "3.attention" into "attention". */
static int32_t kind_of(decode_rig *r, const char *name)
{
    const char *dot = strchr(name, '.');
    const char *own = dot != NULL ? dot + 1 : name;
    int32_t i = 0;
    while (i < r->kinds && strcmp(r->name[i], own) != 0) i++;
    if (i == KINDS) return KINDS - 1;
    if (i == r->kinds) snprintf(r->name[r->kinds++], sizeof(r->name[i]), "%s", own);
    return i;
}

/* One token of each row: the pass and the choice of the next. at: passes so far; those below WARM are not counted. */
static void one_token(decode_rig *r, int32_t at)
{
    const qn_sampling greedy = {.temperature = 0};
    const qn_mb mb = {.B = 1, .T = r->rows, .segment = r->segment, .segments = r->rows, .tokens = r->token};
    const int32_t pass_at = at - WARM;
    for (int32_t s = 0; s < r->rows; s++) r->segment[s] = (qn_segment){.slot = s, .logits = 1, .past = at, .count = 1};
    qn_pass pass = qn_pass_infer(r->stage, &mb, 0, NULL, NULL, r->cache, r->logits);
    for (bool more = true; more;) {
        const int32_t kind = kind_of(r, qn_pass_name(&pass));
        const int64_t from = qn_now_ns();
        more = qn_pass_step(&pass);
        if (pass_at >= 0) r->us[kind][pass_at] += (double)(qn_now_ns() - from) * 1e-3;
    }
    const int32_t kind = kind_of(r, "sample");
    const int64_t from = qn_now_ns();
    for (int32_t s = 0; s < r->rows; s++)
        r->token[s] = qn_sample(r->logits + s * r->opt->vocab, (int32_t)r->opt->vocab, &greedy, at, r->order);
    if (pass_at >= 0) r->us[kind][pass_at] += (double)(qn_now_ns() - from) * 1e-3;
}

static void show(decode_rig *r, qn_line_fn *line, void *ctx)
{
    double sum = 0;
    qni_line l = qni_line_begin(r->opt->json);
    qni_line_text(&l, "decode_phases", "us");
    qni_line_number(&l, "batch", r->rows);
    for (int32_t i = 0; i < r->kinds; i++) {
        const double us = qni_median(r->us[i], PASSES);
        qni_line_number(&l, r->name[i], us);
        sum += us;
    }
    qni_line_number(&l, "sum", sum);
    qni_line_end(&l, line, ctx);
}

qn_status qni_bench_decode_phases(const qn_bench_options *opt, int32_t rows, const qn_model *m, float *const *value,
                                  qn_line_fn *line, void *ctx, qn_err *err)
{
    decode_rig *r = qn_calloc(1, sizeof(*r));
    if (r == NULL) return QN_FAIL(err, QN_ENOMEM, "phases of decoding");
    r->opt = opt;
    r->rows = rows;
    qn_status st = open_rig(r, m, value, err);
    qn_team_pin_self(0);
    for (int32_t i = 0; st == QN_OK && i < WARM + PASSES; i++) one_token(r, i);
    qn_team_pin_self(-1);
    if (st == QN_OK) show(r, line, ctx);
    close_rig(r);
    qn_free(r);
    return st;
}
