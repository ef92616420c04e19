#include "checkpoint_source.h"

#include "checkpoint_compact.h"
#include "checkpoint_parts.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "core/io.h"
#include "data/safetensors/safetensors.h"

enum { TILE = 64 };

struct qn_checkpoint_source {
    const qn_model *m;
    qn_safetensors *file;
    const qn_tensor_view **tensor; /* [params] */
};

qn_status qn_checkpoint_source_open(qn_checkpoint_source **out, const char *dir, const qn_model *m, qn_err *err)
{
    const int32_t n = qn_model_params(m);
    *out = NULL;
    qn_checkpoint_source *s = qn_calloc(1, sizeof(*s));
    if (s != NULL) s->tensor = qn_calloc((size_t)n, sizeof(*s->tensor));
    if (s == NULL || s->tensor == NULL) {
        qn_free(s);
        return QN_FAIL(err, QN_ENOMEM, "no memory for the list of %d tensors", n);
    }
    s->m = m;
    qn_status st = qn_safetensors_open(&s->file, dir, err);
    if (st == QN_OK) st = qni_refuse_unknown(s->file, m, dir, err);
    for (int32_t i = 0; st == QN_OK && i < n; i++) {
        const qn_param *p = qn_model_param(m, i);
        const qn_shape want = qni_file_shape(p);
        if (p->adapter || qni_has_q8(s->file, p))
            st = QN_FAIL(err, QN_EUNSUPPORTED,
                         "%s: '%s' is %s, which is not read piece by piece; load the model into memory (without --from-file)",
                         dir, p->name, p->adapter ? "an adapter's" : "a weight of 8 bits");
        else
            st = qni_find_tensor(&s->tensor[i], s->file, dir, p->name, &want, err);
    }
    if (st == QN_OK)
        *out = s;
    else
        qn_checkpoint_source_close(s);
    return st;
}

void qn_checkpoint_source_close(qn_checkpoint_source *s)
{
    if (s == NULL) return;
    qn_safetensors_close(s->file);
    qn_free(s->tensor);
    qn_free(s);
}

/* Elements [first, first + count) of w [O, I] from a file that holds [I, O]: in tiles of rows of w, whose elements are neighbours
 * in the file. */
static qn_status read_transposed(float *to, const qn_tensor_view *t, int64_t O, int64_t I, int64_t first, int64_t count,
                                 qn_err *err)
{
    const int64_t end = first + count, last = (end - 1) / I + 1;
    for (int64_t o = first / I; o < last; o += TILE) {
        const int64_t rows = qn_min64(TILE, last - o);
        for (int64_t i = 0; i < I; i++) {
            float line[TILE];
            const qn_status st = qn_tensor_read_f32(line, t, i * O + o, rows, err);
            if (st != QN_OK) return st;
            for (int64_t r = 0; r < rows; r++) {
                const int64_t e = (o + r) * I + i;
                if (e >= first && e < end) to[e - first] = line[r];
            }
        }
    }
    return QN_OK;
}

qn_status qn_checkpoint_source_read(void *ctx, int32_t param, int64_t first, int64_t count, void *to, qn_err *err)
{
    const qn_checkpoint_source *s = ctx;
    const qn_param *p = qn_model_param(s->m, param);
    if (first < 0 || count < 0 || first > p->count - count)
        return QN_FAIL(err, QN_ERANGE, "elements %lld to %lld of '%s', which has %lld", (long long)first,
                       (long long)(first + count), p->name, (long long)p->count);
    if (count == 0) return QN_OK;
    const qn_tensor_view *t = s->tensor[param];
    const qn_status st = p->file_transposed ? read_transposed(to, t, p->dim[0], p->dim[1], first, count, err)
                                            : qn_tensor_read_f32(to, t, first, count, err);
    if (first + count == p->count) qn_map_done(t->data, t->bytes); /* parts come in order: this was the last */
    return st;
}
