/* quern bench kernels: every kernel on GPT-2's shapes beside its ceiling: oneDNN's own product rate, or the rate at which memory
 * is copied. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bench_common.h"
#include "core/alloc.h"
#include "core/clock.h"
#include "kernels/dnnl_ceiling.h"
#include "kernels/kernels.h"

typedef struct rig {
    const qn_bench_options *opt;
    const qn_kernels *k;
    qn_exec ex;
    qn_arena scratch;
    qn_line_fn *line;
    void *ctx;
    void *buffer[8]; /* each buffer_bytes, filled with small numbers */
    size_t buffer_bytes;
    double product_rate, copy_rate; /* ceilings: GFLOP/s of 2048^3, GB/s read + written by a team's copy */
    int64_t R, C;
} rig;

typedef void run_fn(rig *r, void *arg);

typedef struct timing {
    double ns[101]; /* sorted */
    int32_t n;
    double median;
} timing;

static timing time_of(rig *r, run_fn *run, void *arg)
{
    timing t;
    t.n = r->opt->steps < 101 ? (int32_t)r->opt->steps : 101;
    for (int32_t i = -1; i < t.n; i++) {
        const int64_t began = qn_now_ns();
        run(r, arg);
        if (i >= 0) t.ns[i] = (double)(qn_now_ns() - began);
    }
    t.median = qni_median(t.ns, t.n);
    return t;
}

/* work: flops, or bytes read and written. */
static void show(rig *r, const char *name, const char *unit, double work, timing t, double ceiling)
{
    qni_line l = qni_line_begin(r->opt->json);
    qni_line_text(&l, "kernel", name);
    qni_line_number(&l, unit, work / t.median);
    qni_line_number(&l, "ceiling", ceiling);
    qni_line_number(&l, "share", work / t.median / ceiling);
    qni_line_number(&l, "us", t.median * 1e-3);
    qni_line_number(&l, "least_us", t.ns[0] * 1e-3);
    qni_line_number(&l, "most_us", t.ns[t.n - 1] * 1e-3);
    qni_line_number(&l, "spread", qni_spread(t.ns, t.n));
    qni_line_end(&l, r->line, r->ctx);
}

/* ---- linear maps ---- */

typedef struct linear_case {
    qn_linear *lin;
    void *packed;
    int32_t *target;
    int kind;
} linear_case;

static void run_linear(rig *r, void *arg)
{
    const linear_case *c = arg;
    double loss = 0;
    switch (c->kind) {
    case 0:
        r->k->linear_forward(&r->ex, c->lin, r->buffer[0], r->buffer[1], c->packed, r->buffer[4], r->R);
        break;
    case 1:
        r->k->linear_backward_input(&r->ex, c->lin, r->buffer[0], r->buffer[1], c->packed, r->R, false);
        break;
    case 2:
        r->k->linear_backward_weight(&r->ex, c->lin, r->buffer[0], r->buffer[4], r->buffer[1], r->buffer[2], r->R);
        break;
    case 3:
        r->k->linear_pack(&r->ex, c->lin, c->packed, r->buffer[3], QN_PACK_FORWARD | QN_PACK_BACKWARD);
        break;
    default:
        r->k->classifier(&r->ex, c->lin, &loss, r->buffer[0], r->buffer[3], r->buffer[1], c->packed, c->target, r->R,
                         QN_CLASS_LOSS | QN_CLASS_INPUT | QN_CLASS_WEIGHT);
    }
}

static qn_status ceiling_of(double *gflops, const rig *r, int64_t m, int64_t n, int64_t k, bool c_f32, qn_err *err)
{
    double ns[5];
    qni_ceiling *c;
    const qn_status st = qni_ceiling_open(&c, m, n, k, r->opt->dtype != 0, c_f32, (int32_t)r->opt->threads, err);
    if (st != QN_OK) return st;
    qn_team_pin_self(-1); /* the library's own threads take over this thread's affinity */
    for (int i = 0; i < 5; i++) ns[i] = (double)qni_ceiling_run(c);
    qn_team_pin_self(0);
    qni_ceiling_close(c);
    *gflops = 2.0 * (double)m * (double)n * (double)k / qni_median(ns, 5);
    return QN_OK;
}

static qn_status bench_linear(rig *r, int64_t in, int64_t out, qn_err *err)
{
    static const char *const kinds[] = {"forward", "backward_input", "backward_weight"};
    const qn_linear_shape shape = {.in = in, .out = out, .rows = r->R, .threads = (int32_t)r->opt->threads};
    const double flops = 2.0 * (double)(r->R * in) * (double)out;
    linear_case c = {.kind = 0};
    char name[64];
    size_t packed_bytes = 0;
    qn_status st;
    QN_TRY(st, r->k->linear_open(&c.lin, &shape, err), out);
    packed_bytes = r->k->linear_packed_bytes(c.lin, QN_PACK_FORWARD | QN_PACK_BACKWARD);
    c.packed = qn_alloc_pages(packed_bytes);
    if (c.packed == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "packed weights");
        goto out;
    }
    c.kind = 3;
    const timing pack = time_of(r, run_linear, &c);
    for (c.kind = 0; c.kind < 3; c.kind++) {
        const int64_t size[3][3] = {{r->R, out, in}, {r->R, in, out}, {out, in, r->R}};
        double ceiling;
        QN_TRY(st, ceiling_of(&ceiling, r, size[c.kind][0], size[c.kind][1], size[c.kind][2], c.kind > 0, err), out);
        snprintf(name, sizeof(name), "linear %" PRId64 " -> %" PRId64 " %s", in, out, kinds[c.kind]);
        show(r, name, "gflops", flops, time_of(r, run_linear, &c), ceiling);
    }
    snprintf(name, sizeof(name), "linear %" PRId64 " -> %" PRId64 " pack", in, out);
    show(r, name, "gbs", (double)(in * out) * 4 + (double)packed_bytes, pack, r->copy_rate);
out:
    qn_free_pages(c.packed, packed_bytes);
    r->k->linear_close(c.lin);
    return st;
}

static qn_status bench_classifier(rig *r, qn_err *err)
{
    const int64_t V = r->opt->vocab;
    const qn_linear_shape shape = {.in = r->C, .out = V, .rows = r->R, .threads = (int32_t)r->opt->threads};
    linear_case c = {.kind = 4};
    size_t packed_bytes = 0;
    qn_status st;
    QN_TRY(st, r->k->linear_open(&c.lin, &shape, err), out);
    packed_bytes = r->k->linear_packed_bytes(c.lin, QN_PACK_FORWARD | QN_PACK_BACKWARD);
    c.packed = qn_alloc_pages(packed_bytes);
    c.target = qn_calloc((size_t)r->R, sizeof(*c.target));
    if (c.packed == NULL || c.target == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "packed weights");
        goto out;
    }
    for (int64_t i = 0; i < r->R; i++) c.target[i] = (int32_t)((i * 7919) % V);
    r->k->linear_pack(&r->ex, c.lin, c.packed, r->buffer[3], QN_PACK_FORWARD | QN_PACK_BACKWARD);
    show(r, "classifier: loss and both gradients", "gflops", 6.0 * (double)(r->R * r->C) * (double)V, time_of(r, run_linear, &c),
         r->product_rate);
out:
    qn_free_pages(c.packed, packed_bytes);
    qn_free(c.target);
    r->k->linear_close(c.lin);
    return st;
}

/* ---- attention ---- */

static void run_attention(rig *r, void *arg)
{
    const int64_t T = r->opt->context, H = r->opt->heads, K = r->opt->kv_heads, D = r->C / H;
    const qn_attention_shape s = {.B = r->opt->batch,
                                  .T = T,
                                  .H = H,
                                  .K = K,
                                  .D = D,
                                  .ldq = r->C,
                                  .ldk = K * D,
                                  .ldv = K * D,
                                  .ldo = r->C,
                                  .scale = 1 / sqrt((double)D)};
    if (*(const int *)arg == 0)
        r->k->attention_forward(&r->ex, r->buffer[0], r->buffer[4], r->buffer[1], r->buffer[2], r->buffer[3], &s);
    else
        r->k->attention_backward(&r->ex, r->buffer[5], r->buffer[6], r->buffer[7], r->buffer[1], r->buffer[0], r->buffer[4],
                                 r->buffer[1], r->buffer[2], r->buffer[3], &s);
}

static void bench_attention(rig *r)
{
    int kind = 0;
    const double pairs = 0.5 * (double)(r->opt->batch * r->opt->context) * (double)(r->opt->context + 1); /* causal */
    show(r, "attention forward", "gflops", 4 * pairs * (double)r->C, time_of(r, run_attention, &kind), r->product_rate);
    kind = 1;
    show(r, "attention backward", "gflops", 10 * pairs * (double)r->C, time_of(r, run_attention, &kind), r->product_rate);
}

/* ---- what moves memory ---- */

static void copy_part(void *arg, int32_t thread, int32_t threads)
{
    rig *r = arg;
    int64_t begin, end;
    qn_split(&begin, &end, (int64_t)r->buffer_bytes, 4096, thread, threads);
    memcpy((char *)r->buffer[0] + begin, (const char *)r->buffer[1] + begin, (size_t)(end - begin));
}

static void run_copy(rig *r, void *arg)
{
    (void)arg;
    qn_exec_run(&r->ex, copy_part, r);
}

static void run_moving(rig *r, void *arg)
{
    const qn_kernels *k = r->k;
    void *const *b = r->buffer;
    const int64_t n = r->R * 4 * r->C;
    const qn_rng_key key = {.seed = 1};
    const qn_adamw hyper = {.lr = 1e-4,
                            .beta1 = 0.9,
                            .beta2 = 0.95,
                            .eps = 1e-8,
                            .decay = 0.1,
                            .correct1 = 0.1,
                            .correct2 = 0.05,
                            .grad_scale = 1e-6};
    switch (*(const int *)arg) {
    case 0:
        k->layernorm_forward(&r->ex, b[0], b[4], b[5], b[1], b[2], b[3], r->R, r->C, 1e-5);
        break;
    case 1:
        k->layernorm_backward_input(&r->ex, b[0], b[1], b[2], b[4], b[5], b[3], r->R, r->C, true);
        break;
    case 2:
        k->layernorm_backward_weight(&r->ex, b[6], b[7], b[1], b[2], b[4], b[5], r->R, r->C);
        break;
    case 3:
        k->gelu_forward(&r->ex, b[0], b[1], n);
        break;
    case 4:
        k->gelu_backward(&r->ex, b[0], b[1], b[2], n);
        break;
    case 5:
        k->residual_forward(&r->ex, b[0], b[1], b[2], 0, r->opt->batch * r->opt->context * r->C, r->opt->context * r->C, 0, &key);
        break;
    default:
        k->adamw(&r->ex, b[0], b[1], b[2], b[3], n, &hyper);
        break;
    }
}

static void bench_moving(rig *r)
{
    const double act = r->opt->dtype == 0 ? 4 : 2, rows = (double)(r->R * r->C), n = 4 * rows;
    const struct {
        const char *name;
        double bytes;
    } list[] = {{"layernorm forward", rows * (4 + act)},
                {"layernorm backward input", rows * 16},
                {"layernorm backward weight", rows * 8},
                {"gelu forward", n * 2 * act},
                {"gelu backward", n * (4 + 2 * act)},
                {"residual forward", rows * (8 + act)},
                {"adamw", n * 32}};
    for (int i = 0; i < (int)(sizeof(list) / sizeof(list[0])); i++)
        show(r, list[i].name, "gbs", list[i].bytes, time_of(r, run_moving, &i), r->copy_rate);
}

static qn_status open_rig(rig *r, qn_err *err)
{
    const qn_bench_options *o = r->opt;
    qn_status st;
    r->R = o->batch * o->context;
    r->C = o->width;
    const size_t widest = (size_t)(4 * r->C), rows = (size_t)r->R, table = (size_t)o->vocab * (size_t)r->C;
    r->buffer_bytes = 4 * (rows * widest > table ? rows * widest : table);
    QN_TRY(st, qn_kernels_get(&r->k, o->dtype == 0 ? QN_MODE_F32 : QN_MODE_BF16, err), out);
    QN_TRY(st, qn_team_open(&r->ex.team, (int32_t)o->threads, 0, err), out);
    qn_team_pin_self(0);
    QN_TRY(st, qn_arena_open(&r->scratch, (size_t)1 << 30, err), out);
    r->ex.scratch = &r->scratch;
    for (int i = 0; i < 8; i++) {
        r->buffer[i] = qn_alloc_pages(r->buffer_bytes);
        if (r->buffer[i] == NULL) {
            st = QN_FAIL(err, QN_ENOMEM, "buffers of %zu bytes", r->buffer_bytes);
            goto out;
        }
        /* 0x3c is small and finite in every type: 0x3c3c3c3c is 0.0115 as f32, 0x3c3c is 0.0115 as bf16 */
        memset(r->buffer[i], 0x3c, r->buffer_bytes);
    }
out:
    return st;
}

qn_status qn_bench_kernels(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err)
{
    const qn_bench_options opt = qni_bench_defaults(given, false);
    rig r = {.opt = &opt, .line = line, .ctx = ctx};
    qn_status st;
    if (opt.width % opt.heads != 0 || opt.heads % opt.kv_heads != 0)
        return QN_FAIL(err, QN_EINVAL,
                       "%" PRId64 " heads for a width of %" PRId64 " with %" PRId64
                       " heads of keys and values: the width must be a multiple of the heads, and these of those of keys",
                       opt.heads, opt.width, opt.kv_heads);
    QN_TRY(st, open_rig(&r, err), out);
    QN_TRY(st, ceiling_of(&r.product_rate, &r, 2048, 2048, 2048, false, err), out);
    r.copy_rate = 2.0 * (double)r.buffer_bytes / time_of(&r, run_copy, NULL).median;
    qni_line l = qni_line_begin(opt.json);
    qni_line_text(&l, "isa", qn_kernels_isa());
    qni_line_number(&l, "threads", (double)opt.threads);
    qni_line_number(&l, "product_gflops", r.product_rate);
    qni_line_number(&l, "copy_gbs", r.copy_rate);
    qni_line_end(&l, line, ctx);
    const int64_t shape[4][2] = {{r.C, 3 * r.C}, {r.C, r.C}, {r.C, 4 * r.C}, {4 * r.C, r.C}};
    for (int i = 0; i < 4; i++) QN_TRY(st, bench_linear(&r, shape[i][0], shape[i][1], err), out);
    QN_TRY(st, bench_classifier(&r, err), out);
    bench_attention(&r);
    bench_moving(&r);
out:
    for (int i = 0; i < 8; i++) qn_free_pages(r.buffer[i], r.buffer_bytes);
    qn_arena_close(&r.scratch);
    qn_team_close(r.ex.team);
    return st;
}
