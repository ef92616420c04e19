/* Values in bf16 (a Hugging Face file as any other) and in 8 bits (Quern's own: NAME [out, in] u8, NAME.scale [out, blocks] f16).
 */
#include "checkpoint_compact.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/io.h"
#include "kernels/q8.h"

enum { NAME = sizeof(((qn_param *)0)->name) + 8 };
static const char suffix[] = ".scale";

typedef enum part_kind { WHOLE_F32, WHOLE_BF16, BYTES, SCALES } part_kind;

typedef struct part { /* a tensor of the file */
    const qn_param *param;
    const float *value;
    part_kind kind;
} part;

/* Matrices, but the positions: they are only looked up, and small. */
static bool is_compact(const qn_param *p)
{
    return p->rank == 2 && strcmp(p->name, "transformer.wpe.weight") != 0;
}

/* --- writing */

/* Element e of the file's order as memory has it. */
static int64_t in_memory(const qn_param *p, int64_t e)
{
    return p->file_transposed ? e % p->dim[0] * p->dim[1] + e / p->dim[0] : e;
}

static void fill_bytes(uint8_t *to, const part *t, int64_t first, int64_t count)
{
    const int64_t C = t->param->dim[1];
    for (int64_t done = 0; done < count;) {
        const int64_t e = first + done, column = e % C, block = column / QNI_Q8_BLOCK * QNI_Q8_BLOCK;
        const int64_t n = qn_min64(QNI_Q8_BLOCK, C - block), take = qn_min64(n - (column - block), count - done);
        int8_t q[QNI_Q8_BLOCK];
        (void)qni_q8_block(q, t->value + e - column + block, n);
        for (int64_t i = 0; i < take; i++) to[done + i] = (uint8_t)(q[column - block + i] + QNI_Q8_BIAS);
        done += take;
    }
}

static void fill_scales(qn_f16 *to, const part *t, int64_t first, int64_t count)
{
    const int64_t C = t->param->dim[1], blocks = qni_q8_blocks(C);
    for (int64_t i = 0; i < count; i++) {
        const int64_t row = (first + i) / blocks, at = (first + i) % blocks * QNI_Q8_BLOCK;
        int8_t q[QNI_Q8_BLOCK];
        to[i] = qni_q8_block(q, t->value + row * C + at, qn_min64(QNI_Q8_BLOCK, C - at));
    }
}

static qn_status fill(void *ctx, int32_t i, int64_t first, int64_t count, void *to, qn_err *err)
{
    const part *t = (const part *)ctx + i;
    (void)err;
    switch (t->kind) {
    case BYTES:
        fill_bytes(to, t, first, count);
        break;
    case SCALES:
        fill_scales(to, t, first, count);
        break;
    case WHOLE_BF16:
        for (int64_t e = 0; e < count; e++) ((qn_bf16 *)to)[e] = qn_f32_to_bf16(t->value[in_memory(t->param, first + e)]);
        break;
    default:
        for (int64_t e = 0; e < count; e++) ((float *)to)[e] = t->value[in_memory(t->param, first + e)];
    }
    return QN_OK;
}

static qn_tensor_desc describe(char name[NAME], const part *t)
{
    static const qn_dtype types[] = {[WHOLE_F32] = QN_F32, [WHOLE_BF16] = QN_BF16, [BYTES] = QN_U8, [SCALES] = QN_F16};
    const qn_param *p = t->param;
    const bool turned = p->file_transposed && t->kind != BYTES && t->kind != SCALES;
    qn_tensor_desc d = {
        .name = name, .dtype = types[t->kind], .shape = {.rank = p->rank, .dim = {p->dim[turned], p->dim[!turned]}}};
    if (p->rank == 1) d.shape.dim[0] = p->dim[0];
    if (t->kind == SCALES) d.shape.dim[1] = qni_q8_blocks(p->dim[1]);
    snprintf(name, NAME, "%s%s", p->name, t->kind == SCALES ? suffix : "");
    return d;
}

qn_status qni_write_compact(const char *dir, const qn_state_view *s, qn_weights store, size_t shard_bytes, qn_err *err)
{
    const int32_t params = qn_model_params(s->model);
    int32_t n = 0;
    qn_status st = QN_OK;
    part *list = qn_calloc((size_t)params * 2, sizeof(*list));
    qn_tensor_desc *desc = qn_calloc((size_t)params * 2, sizeof(*desc));
    char(*name)[NAME] = qn_calloc((size_t)params * 2, NAME);
    if (list == NULL || desc == NULL || name == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "no memory for the list of %d tensors", (int)params);
        goto out;
    }
    for (int32_t i = 0; i < params; i++) {
        const qn_param *p = qn_model_param(s->model, i);
        const bool q8 = store == QN_WEIGHTS_Q8 && is_compact(p), bf16 = store == QN_WEIGHTS_BF16 && p->rank == 2;
        list[n++] = (part){p, s->value[i], q8 ? BYTES : bf16 ? WHOLE_BF16 : WHOLE_F32};
        if (q8) list[n++] = (part){p, s->value[i], SCALES};
    }
    for (int32_t i = 0; i < n; i++) desc[i] = describe(name[i], &list[i]);
    st = qn_safetensors_write(dir, "model", desc, n, shard_bytes, fill, list, err);
out:
    qn_free(name);
    qn_free(desc);
    qn_free(list);
    return st;
}

qn_status qni_compact_config(char **text, qn_weights store, qn_err *err)
{
    static const char found[] = "\"torch_dtype\": \"float32\"";
    const char *put = store == QN_WEIGHTS_BF16
                          ? "\"torch_dtype\": \"bfloat16\""
                          : "\"quantization_config\": {\"block_size\": 32, \"quant_method\": \"quern_q8\"},\n"
                            "  \"torch_dtype\": \"float32\"";
    const char *at = strstr(*text, found);
    if (at == NULL) return QN_FAIL(err, QN_EINTERNAL, "config.json was written without a torch_dtype");
    const size_t bytes = strlen(*text) + strlen(put) + 1;
    char *out = qn_malloc(bytes, 1);
    if (out == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for the text of config.json");
    snprintf(out, bytes, "%.*s%s%s", (int)(at - *text), *text, put, at + sizeof(found) - 1);
    qn_free(*text);
    *text = out;
    return QN_OK;
}

/* --- reading */
bool qni_is_scale_of(const char *tensor, const char *param)
{
    const size_t n = strlen(param);
    return strncmp(tensor, param, n) == 0 && strcmp(tensor + n, suffix) == 0;
}

bool qni_has_q8(const qn_safetensors *f, const qn_param *p)
{
    const qn_tensor_view *t = qn_safetensors_find(f, p->name);
    return t != NULL && t->dtype == QN_U8;
}

static bool is_matrix(const qn_tensor_view *t, qn_dtype dtype, int64_t rows, int64_t columns)
{
    return t != NULL && t->dtype == dtype && t->shape.rank == 2 && t->shape.dim[0] == rows && t->shape.dim[1] == columns;
}

qn_status qni_read_q8(float *value, const qn_safetensors *f, const qn_param *p, qn_err *err)
{
    char name[NAME];
    const int64_t C = p->dim[1], blocks = p->rank == 2 ? qni_q8_blocks(C) : 0;
    snprintf(name, sizeof(name), "%s%s", p->name, suffix);
    const qn_tensor_view *q = qn_safetensors_find(f, p->name), *scale = qn_safetensors_find(f, name);
    if (p->rank != 2 || !is_matrix(q, QN_U8, p->dim[0], C) || !is_matrix(scale, QN_F16, p->dim[0], blocks))
        return QN_FAIL(err, QN_EFORMAT,
                       "tensors '%s' and '%s' are no weights of 8 bits; wanted: u8 [%" PRId64 ", %" PRId64 "] and f16 [%" PRId64
                       ", %" PRId64 "]",
                       p->name, name, p->dim[0], C, p->dim[0], blocks);
    const uint8_t *from = q->data, *scales = scale->data;
    qn_map_want(q->data, q->bytes);
    qn_map_want(scale->data, scale->bytes);
    for (int64_t row = 0; row < p->dim[0]; row++)
        for (int64_t b = 0; b < blocks; b++) {
            qn_f16 half;
            memcpy(&half, scales + (row * blocks + b) * 2, sizeof(half));
            const float x = qn_f16_to_f32(half);
            if (!isfinite(x))
                return QN_FAIL(err, QN_EFORMAT, "tensor '%s': the scale of row %" PRId64 ", block %" PRId64 " is no number", name,
                               row, b);
            for (int64_t c = b * QNI_Q8_BLOCK; c < qn_min64(C, (b + 1) * QNI_Q8_BLOCK); c++)
                value[row * C + c] = x * (float)((int32_t)from[row * C + c] - QNI_Q8_BIAS);
        }
    return QN_OK;
}
