/* Compact linear maps: handles, packing, and the scalar definition of the three kinds of weights; see compact.h. */
#include "compact.h"

#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"

struct qn_linear {
    qn_linear_shape shape;
    qni_compact kind;
};

/* --- sizes */
int64_t qni_q8_blocks(int64_t C)
{
    return (C + QNI_Q8_BLOCK - 1) / QNI_Q8_BLOCK;
}

static size_t column_bytes(qn_weights weights, int64_t C)
{
    switch (weights) {
    case QN_WEIGHTS_BF16:
        return (size_t)((C + 1) / 2) * 4;
    case QN_WEIGHTS_Q8:
        return (size_t)qni_q8_blocks(C) * (sizeof(qn_f16) + QNI_Q8_BLOCK);
    default:
        return (size_t)C * 4;
    }
}

qni_compact_view qni_compact_view_of(const qn_linear *lin)
{
    const qni_compact *k = &lin->kind;
    const int64_t C = lin->shape.in, O = lin->shape.out;
    return (qni_compact_view){.C = C,
                              .O = O,
                              .columns = k->columns,
                              .panels = (O + k->columns - 1) / k->columns,
                              .panel_bytes = (size_t)k->columns * column_bytes(k->weights, C),
                              .weights = k->weights,
                              .act_bf16 = k->act_bf16,
                              .dots = k->dots};
}

/* A prepared block of 8 bits: 32 integers, the scale, 128 times their sum. */
size_t qni_compact_room(const qni_compact_view *v, int64_t R)
{
    const size_t row = v->weights == QN_WEIGHTS_Q8 ? (size_t)qni_q8_blocks(v->C) * (QNI_Q8_BLOCK + 2 * sizeof(float))
                                                   : (size_t)v->C * sizeof(float);
    return (size_t)R * row + 4 * QN_CACHE_LINE;
}

/* --- handles */
static qn_status open_linear(qn_linear **out, const qn_linear_shape *shape, qn_weights weights, bool act_bf16, bool fast,
                             qn_err *err)
{
    if (shape->in < 1 || shape->out < 1 || shape->rows < 0 || shape->in > INT32_MAX / 4 || shape->out > INT32_MAX / 4 ||
        shape->rows > INT32_MAX / 4)
        return QN_FAIL(err, QN_ERANGE, "linear map of %lld to %lld for %lld rows: want sizes from 1 to %d", (long long)shape->in,
                       (long long)shape->out, (long long)shape->rows, INT32_MAX / 4);
    qn_linear *lin = qn_calloc(1, sizeof(*lin));
    if (lin == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for a linear map of %zu bytes", sizeof(*lin));
    lin->shape = *shape;
    lin->kind = (qni_compact){.weights = weights, .act_bf16 = act_bf16, .columns = 1};
    if (fast) {
        lin->kind.forward = qni_compact_forward_portable;
        lin->kind.columns = 16;
#if defined(__x86_64__)
        if (strcmp(qn_kernels_isa(), "avx2") == 0) {
            lin->kind.forward = qni_compact_forward_avx2;
            lin->kind.columns = 32;
        }
        if (strncmp(qn_kernels_isa(), "avx512", 6) == 0) {
            lin->kind.forward = qni_compact_forward_avx512;
            lin->kind.columns = 64;
            lin->kind.dots = strcmp(qn_kernels_isa(), "avx512_bf16") == 0;
        }
#endif
    }
    *out = lin;
    return QN_OK;
}

enum { ACT_f32, ACT_bf16, ACT_ref };
#define KIND_f32  QN_WEIGHTS_F32
#define KIND_bf16 QN_WEIGHTS_BF16
#define KIND_q8   QN_WEIGHTS_Q8
#define OPEN(act, weights)                                                                                                       \
    qn_status qni_compact_open_##act##_##weights(qn_linear **out, const qn_linear_shape *shape, qn_err *err)                     \
    {                                                                                                                            \
        return open_linear(out, shape, KIND_##weights, (int)ACT_##act == (int)ACT_bf16, (int)ACT_##act != (int)ACT_ref, err);    \
    }
QNI_COMPACT_OPENS(OPEN)
#undef OPEN

void qni_compact_close(qn_linear *lin)
{
    qn_free(lin);
}

size_t qni_compact_packed_bytes(const qn_linear *lin, unsigned copies)
{
    const qni_compact_view v = qni_compact_view_of(lin);
    QN_ASSERT(copies == QN_PACK_FORWARD);
    return (size_t)v.panels * v.panel_bytes;
}

size_t qni_compact_scratch(const qn_linear *lin)
{
    const qni_compact_view v = qni_compact_view_of(lin);
    return qni_compact_room(&v, lin->shape.rows) + QN_CACHE_LINE;
}

/* --- packing */

/* The rounding is that of GGUF's reference, so that a Q8_0 file goes through unchanged: half away from zero, against the
 * scale before it is rounded itself. What is not a number becomes the largest. */
qn_f16 qni_q8_block(int8_t *q, const float *w, int64_t n)
{
    float most = 0;
    for (int64_t i = 0; i < n; i++) most = fabsf(w[i]) > most ? fabsf(w[i]) : most;
    const float scale = most / 127, inverse = scale > 0 ? 1 / scale : 0;
    for (int64_t i = 0; i < QNI_Q8_BLOCK; i++) {
        const float x = i < n ? w[i] * inverse : 0;
        q[i] = (int8_t)(!(x < 127) ? 127 : x <= -127 ? -127 : (int)(x < 0 ? x - 0.5f : x + 0.5f));
    }
    return qn_f32_to_f16(scale);
}

/* Output o of w [O, C] into its place in a panel; NULL: zeros. */
static void pack_output(char *panel, const qni_compact_view *v, int64_t column, const float *w)
{
    const int64_t C = v->C, n = v->columns;
    if (v->weights == QN_WEIGHTS_F32) {
        float *to = (float *)(void *)panel + column;
        for (int64_t k = 0; k < C; k++) to[k * n] = w != NULL ? w[k] : 0;
    } else if (v->weights == QN_WEIGHTS_BF16) {
        uint32_t *to = (uint32_t *)(void *)panel + column;
        for (int64_t k = 0; k < C; k += 2) {
            const uint32_t low = w != NULL ? qn_f32_to_bf16(w[k]) : 0,
                           high = w != NULL && k + 1 < C ? qn_f32_to_bf16(w[k + 1]) : 0;
            to[k / 2 * n] = low | high << 16;
        }
    } else {
        for (int64_t b = 0; b < qni_q8_blocks(C); b++) {
            char *block = panel + (size_t)(b * n) * (sizeof(qn_f16) + QNI_Q8_BLOCK), *bytes = block + (size_t)n * sizeof(qn_f16);
            int8_t q[QNI_Q8_BLOCK] = {0};
            const qn_f16 scale =
                w != NULL ? qni_q8_block(q, w + b * QNI_Q8_BLOCK, qn_min64(QNI_Q8_BLOCK, C - b * QNI_Q8_BLOCK)) : 0;
            memcpy(block + (size_t)column * sizeof(scale), &scale, sizeof(scale));
            for (int i = 0; i < QNI_Q8_BLOCK; i++)
                bytes[(i / 4 * n + column) * 4 + i % 4] = (char)(unsigned char)(q[i] + QNI_Q8_BIAS);
        }
    }
}

typedef struct pack_call {
    qni_compact_view v;
    char *packed;
    const float *w;
} pack_call;

static void pack_part(void *ctx, int32_t thread, int32_t threads)
{
    const pack_call *c = ctx;
    int64_t begin, end;
    qn_split(&begin, &end, c->v.panels, 1, thread, threads);
    for (int64_t o = begin * c->v.columns; o < end * c->v.columns; o++)
        pack_output(c->packed + (size_t)(o / c->v.columns) * c->v.panel_bytes, &c->v, o % c->v.columns,
                    o < c->v.O ? c->w + o * c->v.C : NULL);
}

void qni_compact_pack(const qn_exec *ex, qn_linear *lin, void *packed, const void *w, unsigned copies)
{
    pack_call call = {.v = qni_compact_view_of(lin), .packed = packed, .w = w};
    QN_ASSERT(copies == QN_PACK_FORWARD);
    qn_exec_run(ex, pack_part, &call);
}

/* --- the definition: one output of one row, left to right, in double */
static double dot_q8(const float *x, const char *panel, int64_t C)
{
    double sum = 0;
    for (int64_t b = 0; b < qni_q8_blocks(C); b++) {
        const char *block = panel + (size_t)b * (sizeof(qn_f16) + QNI_Q8_BLOCK);
        const int64_t n = qn_min64(QNI_Q8_BLOCK, C - b * QNI_Q8_BLOCK);
        qn_f16 scale;
        float most = 0;
        memcpy(&scale, block, sizeof(scale));
        for (int64_t i = 0; i < n; i++) { /* NaN wins */
            const float a = fabsf(x[b * QNI_Q8_BLOCK + i]);
            most = a > most || a != a ? a : most;
        }
        const float inverse = most > 0 ? 127 / most : 0;
        int32_t integer = 0;
        for (int64_t i = 0; i < n && most <= 3e38f; i++)
            integer += (int32_t)lrintf(x[b * QNI_Q8_BLOCK + i] * inverse) *
                       ((int32_t)(unsigned char)block[sizeof(scale) + (size_t)i] - QNI_Q8_BIAS);
        sum += (double)(most / 127) * qn_f16_to_f32(scale) * integer;
    }
    return sum;
}

static double dot(const float *x, const char *column, const qni_compact_view *v)
{
    double sum = 0;
    if (v->weights == QN_WEIGHTS_Q8) return dot_q8(x, column, v->C);
    for (int64_t k = 0; k < v->C; k++)
        sum += (double)x[k] * (v->weights == QN_WEIGHTS_F32 ? ((const float *)(const void *)column)[k]
                                                            : qn_bf16_to_f32(((const qn_bf16 *)(const void *)column)[k]));
    return sum;
}

static void forward_ref(const qni_compact_view *v, float *y, const float *x, const char *packed, const float *bias, int64_t R)
{
    for (int64_t r = 0; r < R; r++)
        for (int64_t o = 0; o < v->O; o++)
            y[r * v->O + o] = (float)((bias != NULL ? bias[o] : 0) + dot(x + r * v->C, packed + (size_t)o * v->panel_bytes, v));
}

void qni_compact_forward(const qn_exec *ex, qn_linear *lin, void *y, const void *x, const void *packed, const void *bias,
                         int64_t R)
{
    if (R == 0) return;
    if (lin->kind.forward == NULL) {
        const qni_compact_view v = qni_compact_view_of(lin);
        forward_ref(&v, y, x, packed, bias, R);
        return;
    }
    QN_ASSERT(R <= lin->shape.rows);
    const qni_compact_view v = qni_compact_view_of(lin);
    const size_t mark = qn_arena_mark(ex->scratch);
    void *room = qn_arena_push(ex->scratch, 1, qni_compact_room(&v, R), QN_CACHE_LINE);
    QN_ASSERT(room != NULL);
    lin->kind.forward(ex, lin, y, x, packed, bias, R, room);
    qn_arena_release(ex->scratch, mark);
}
