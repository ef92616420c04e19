/* The tables, and the choice of one: which kernels this machine gets for a mode.
 *
 * A fast table joins element-wise kernels and attention of one instruction set (cpu/lanes_*.c) with products by oneDNN, which
 * looks at the machine itself. */
#include <stdlib.h>
#include <string.h>

#include "compact.h"
#include "fast.h"
#include "reference.h"

/* Where the entries of a fast table come from. Kernels that do not touch act are the same in both modes. */
#define ELEMENTS(act, isa)  QN_RES_ENTRIES(QN_ENTRY_FILL, f32_##isa) QN_ACT_ENTRIES(QN_ENTRY_FILL, act##_##isa)
#define ATTENTION(act, isa) QN_ATTENTION_ENTRIES(QN_ENTRY_FILL, act##_##isa)
#define CACHED(act, isa)    QN_CACHED_ENTRIES(QN_ENTRY_FILL, act##_##isa)
#define PRODUCTS(act)                                                                                                            \
    .linear_open = qni_dnnl_linear_open_##act, .linear_close = qni_dnnl_linear_close,                                            \
    .linear_packed_bytes = qni_dnnl_linear_packed_bytes, .linear_scratch = qni_dnnl_linear_scratch,                              \
    .linear_pack = qni_dnnl_linear_pack, .linear_step = qni_dnnl_linear_step, .linear_forward = qni_dnnl_linear_forward,         \
    .linear_backward_input = qni_dnnl_linear_backward_input, .linear_backward_weight = qni_dnnl_linear_backward_weight,          \
    .classifier_scratch = qni_dnnl_classifier_scratch, .classifier = qni_dnnl_classifier,                                        \
    .vocab_scratch = qni_dnnl_vocab_scratch, .vocab_scores = qni_dnnl_vocab_scores,                                              \
    .vocab_fold = qni_vocab_fold_ref_f32 /* a few numbers a row: in double for all */

#define TYPES(mode_, act_, rest) .mode = mode_, .act = act_, .res = rest, .param = rest
#define FAST_F32(isa, label)                                                                                                     \
    {                                                                                                                            \
        .name = "f32/" #label, TYPES(QN_MODE_F32, QN_F32, QN_F32), ELEMENTS(f32, isa) ATTENTION(f32, isa) PRODUCTS(f32)          \
    }
#define FAST_BF16(isa, attention)                                                                                                \
    {                                                                                                                            \
        .name = "bf16/" #attention, TYPES(QN_MODE_BF16, QN_BF16, QN_F32),                                                        \
        ELEMENTS(bf16, isa) ATTENTION(bf16, attention) PRODUCTS(bf16)                                                            \
    }

/* The tables that only infer: products on compact weights. */
#define COMPACT(act, weights)                                                                                                    \
    .linear_open = qni_compact_open_##act##_##weights, .linear_close = qni_compact_close,                                        \
    .linear_packed_bytes = qni_compact_packed_bytes, .linear_scratch = qni_compact_scratch, .linear_pack = qni_compact_pack,     \
    .linear_forward = qni_compact_forward
#define INFER_F32(isa, weights)                                                                                                  \
    {                                                                                                                            \
        .name = "f32/" #isa "/" #weights, TYPES(QN_MODE_F32, QN_F32, QN_F32),                                                    \
        ELEMENTS(f32, isa) ATTENTION(f32, isa) CACHED(f32, isa) COMPACT(f32, weights)                                            \
    }
#define INFER_BF16(isa, weights)                                                                                                 \
    {                                                                                                                            \
        .name = "bf16/" #isa "/" #weights, TYPES(QN_MODE_BF16, QN_BF16, QN_F32),                                                 \
        ELEMENTS(bf16, isa) ATTENTION(bf16, isa) CACHED(bf16, isa) COMPACT(bf16, weights)                                        \
    }
#define INFER_REFERENCE(weights)                                                                                                 \
    {                                                                                                                            \
        .name = "f32/reference/" #weights, TYPES(QN_MODE_REF_F32, QN_F32, QN_F32),                                               \
        QN_RES_ENTRIES(QN_ENTRY_FILL, ref_f32) QN_ACT_ENTRIES(QN_ENTRY_FILL, ref_f32)                                            \
            QN_ATTENTION_ENTRIES(QN_ENTRY_FILL, ref_f32) QN_CACHED_ENTRIES(QN_ENTRY_FILL, ref_f32) COMPACT(ref, weights)         \
    }
static const qn_kernels reference_f32 = {
    .name = "f32/reference", TYPES(QN_MODE_REF_F32, QN_F32, QN_F32), QN_ALL_ENTRIES(QN_ENTRY_FILL, ref_f32)};
static const qn_kernels reference_f64 = {
    .name = "f64/reference", TYPES(QN_MODE_REF_F64, QN_F64, QN_F64), QN_ALL_ENTRIES(QN_ENTRY_FILL, ref_f64)};

static const qn_kernels reference_infer[3] = {INFER_REFERENCE(f32), INFER_REFERENCE(bf16), INFER_REFERENCE(q8)};

/* In ascending order of speed. The set of elements and products, and that of attention in bf16. */
#define ISA(isa, attention)                                                                                                      \
    {                                                                                                                            \
#attention, FAST_F32(isa, attention), FAST_BF16(isa, attention),                                                         \
            {INFER_F32(isa, f32), INFER_F32(isa, bf16), INFER_F32(isa, q8) },                                                    \
             {INFER_BF16(isa, f32), INFER_BF16(isa, bf16), INFER_BF16(isa, q8) },                                                \
    }
static const struct {
    const char *isa;
    qn_kernels f32, bf16;
    qn_kernels infer_f32[3], infer_bf16[3]; /* in the order of qn_weights, from F32 on */
} fast[] = {
    ISA(portable, portable),
#if defined(__x86_64__)
    ISA(avx2, avx2),
    ISA(avx512, avx512),
    ISA(avx512, avx512_bf16),
#endif
};

static bool machine_has(const char *isa)
{
#if defined(__x86_64__)
    if (strcmp(isa, "avx2") == 0) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (strcmp(isa, "avx512_bf16") == 0) return machine_has("avx512") && __builtin_cpu_supports("avx512bf16");
    if (strcmp(isa, "avx512") == 0)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl");
#endif
    return strcmp(isa, "portable") == 0;
}

/* The index into fast: of the best set, or of the one QUERN_ISA names; -1 when that is not here. */
static int chosen(void)
{
    const char *wanted = getenv("QUERN_ISA");
    for (int i = QN_COUNT(fast) - 1; i >= 0; i--)
        if ((wanted == NULL || strcmp(wanted, fast[i].isa) == 0) && machine_has(fast[i].isa)) return i;
    return -1;
}

qn_status qn_kernels_get(const qn_kernels **out, qn_mode mode, qn_err *err)
{
    const int i = chosen();
    if (i < 0)
        return QN_FAIL(err, QN_EUNSUPPORTED,
                       "QUERN_ISA names the instruction set '%s', which this machine lacks; unset it, or use portable, avx2, "
                       "avx512 or avx512_bf16",
                       getenv("QUERN_ISA"));
    switch (mode) {
    case QN_MODE_F32:
        *out = &fast[i].f32;
        break;
    case QN_MODE_BF16:
        *out = &fast[i].bf16;
        break;
    case QN_MODE_REF_F32:
        *out = &reference_f32;
        break;
    case QN_MODE_REF_F64:
        *out = &reference_f64;
        break;
    default:
        return QN_FAIL(err, QN_EINVAL, "numeric mode %d is outside 0 to %d", (int)mode, QN_MODES - 1);
    }
    return QN_OK;
}

qn_status qn_kernels_infer(const qn_kernels **out, qn_mode mode, qn_weights weights, qn_err *err)
{
    const qn_status st = qn_kernels_get(out, mode, err);
    if (st != QN_OK || weights == QN_WEIGHTS_OWN) return st;
    if (weights < QN_WEIGHTS_OWN || weights >= QN_WEIGHTS || mode == QN_MODE_REF_F64)
        return QN_FAIL(err, QN_EINVAL, "there are no kernels for weights of kind %d in mode %d", (int)weights, (int)mode);
    const int i = chosen(), w = (int)weights - QN_WEIGHTS_F32;
    *out = mode == QN_MODE_REF_F32 ? &reference_infer[w] : mode == QN_MODE_F32 ? &fast[i].infer_f32[w] : &fast[i].infer_bf16[w];
    return QN_OK;
}

const char *qn_kernels_isa(void)
{
    const int i = chosen();
    return i < 0 ? "none" : fast[i].isa;
}
