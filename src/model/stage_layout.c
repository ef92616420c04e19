/* Where the values and gradients of a stage lie. Everything follows from the layers' operations and their masks.
 *
 * A value that some backward reads goes to the stash; other values, and gradients, live in scratch only from the operation that
 * writes them first to the one that reads them last, and values whose lives do not meet share memory. */
#include "stage.h"

#include "core/arena.h"
#include "core/checked.h"
#include "core/compiler.h"

enum { ALIGN = QN_CACHE_LINE };

static size_t elem_bytes(const qn_stage *s, qn_elem elem)
{
    return qn_dtype_bytes(elem == QN_ELEM_ACT ? s->k->act : s->k->res);
}

size_t qni_value_bytes(const qn_stage *s, const qn_value *v, qn_elem elem)
{
    const int32_t t = s->m->config.shards;
    const int64_t rows = v->sliced ? (s->rows + t - 1) / t : s->rows; /* no item and no shard has more */
    return (size_t)(rows * v->width) * elem_bytes(s, elem); /* qn_stage_open bounds the rows, qn_model_open the widths */
}

static size_t largest(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* --- lives */
void qni_life_touch(qni_life *v, int32_t op)
{
    if (v->begin > op) v->begin = op;
    if (v->end < op) v->end = op;
}

/* First fit: each life, in order, gets the lowest offset that is free of those placed before. Returns the bytes used. */
size_t qni_place_lives(qni_life *v, int32_t n)
{
    size_t top = 0;
    for (int32_t i = 0; i < n; i++) {
        if (v[i].begin > v[i].end) continue;
        v[i].offset = 0;
        for (int32_t j = 0; j < i; j++) {
            const bool meet = v[j].begin <= v[j].end && v[i].begin <= v[j].end && v[j].begin <= v[i].end &&
                              v[i].offset < v[j].offset + v[j].bytes && v[j].offset < v[i].offset + v[i].bytes;
            if (!meet) continue;
            v[i].offset = v[j].offset + v[j].bytes;
            j = -1; /* moved: look at all of them again */
        }
        if (top < v[i].offset + v[i].bytes) top = v[i].offset + v[i].bytes;
    }
    return top;
}

qni_life qni_no_life(size_t bytes)
{
    size_t padded = 0;
    const bool fits = qn_align_size(&padded, bytes, ALIGN);
    QN_ASSERT(fits);
    return (qni_life){.bytes = padded, .begin = QN_LAYER_OPS, .end = -1};
}

/* --- which values backward reads */
static void mark_reads(bool *needed, const qn_op *op, bool learns)
{
    const unsigned in = op->kind->input_reads_in | (learns ? op->kind->weight_reads_in : 0);
    const unsigned out = op->kind->input_reads_out | (learns ? op->kind->weight_reads_out : 0);
    for (int32_t i = 0; i < op->ins; i++) {
        if (in >> i & 1) needed[op->in[i].value] = true;
    }
    for (int32_t i = 0; i < op->outs; i++) {
        if (out >> i & 1) needed[op->out[i].value] = true;
    }
}

/* None for a layer that backward never comes to. */
static void needed_values(bool *needed, const stage_layer *sl, bool walked)
{
    for (int32_t v = 0; v < QN_LAYER_VALUES; v++) needed[v] = false;
    for (int32_t o = 0; walked && o < sl->layer->ops; o++) mark_reads(needed, &sl->layer->op[o], sl->op[o].learns);
}

static bool writes(const qn_op *op, const bool *kept)
{
    for (int32_t i = 0; i < op->outs; i++) {
        if (kept[op->out[i].value]) return true;
    }
    return false;
}

/* --- forward values, in training and in infer */
static size_t layout_scratch_values(const qn_stage *s, const qn_layer *l, stage_value *value, bool infer, size_t base)
{
    qni_life v[QN_LAYER_VALUES];
    for (int32_t i = 0; i < l->values; i++) v[i] = qni_no_life(qni_value_bytes(s, &l->value[i], l->value[i].elem));
    for (int32_t o = 0; o < l->ops; o++) {
        for (int32_t i = 0; i < l->op[o].ins; i++) qni_life_touch(&v[l->op[o].in[i].value], o);
        for (int32_t i = 0; i < l->op[o].outs; i++) qni_life_touch(&v[l->op[o].out[i].value], o);
    }
    for (int32_t i = 0; i < l->values; i++) {
        const qn_place *p = infer ? &value[i].infer : &value[i].train;
        if (p->at != QN_AT_NONE) v[i] = qni_no_life(0); /* placed already */
    }
    const size_t bytes = qni_place_lives(v, l->values);
    for (int32_t i = 0; i < l->values; i++) {
        if (v[i].begin > v[i].end) continue;
        *(infer ? &value[i].infer : &value[i].train) = (qn_place){QN_AT_SCRATCH, base + v[i].offset};
    }
    return bytes;
}

/* The places of the stream between layers, then the stash, then scratch. Between layers that backward never comes to the stream
 * goes to and fro between two buffers of scratch. Returns the scratch of the largest layer with them. */
static size_t layout_train_values(qn_stage *s, qn_arena *stash)
{
    size_t most = 0, stream = 0;
    const bool fits = qn_align_size(&stream, s->need.act_bytes, ALIGN);
    QN_ASSERT(fits);
    const size_t streams = s->lowest > 0 ? 2 * stream : 0;
    for (int32_t i = 0; i < s->count; i++) {
        stage_layer *sl = &s->layer[i];
        const qn_layer *l = sl->layer;
        bool kept[QN_LAYER_VALUES];
        needed_values(kept, sl, i >= s->lowest);
        const bool selected = s->limits.again != NULL && sl->index < qn_model_chain(s->m); /* no vocabulary shard */
        qni_mark_again(sl, kept, i >= s->lowest && selected ? s->limits.again[sl->index] : 0);
        if (i >= s->lowest) qni_mark_cheap(s, sl, kept);
        sl->value[0].train = i == 0 ? (qn_place){QN_AT_X, 0} : s->layer[i - 1].value[s->layer[i - 1].layer->output].train;
        if (l->output >= 0 && i + 1 < s->count) { /* the next layer's input */
            kept[l->output] = i + 1 >= s->lowest;
            if (!kept[l->output])
                sl->value[l->output].train = (qn_place){QN_AT_SCRATCH, s->values_offset + (size_t)(i & 1) * stream};
        }
        if (l->output >= 0 && i + 1 == s->count) {
            QN_ASSERT(!kept[l->output]);
            sl->value[l->output].train = (qn_place){QN_AT_Y, 0};
        }
        for (int32_t v = 1; v < l->values; v++) {
            if (!kept[v]) continue;
            sl->value[v].train = (qn_place){QN_AT_STASH, stash->used};
            qn_arena_push(stash, 1, qni_value_bytes(s, &l->value[v], l->value[v].elem), 1);
            qn_arena_push(stash, 1, 0, ALIGN);
        }
        for (int32_t o = 0; o < l->ops; o++) {
            if (writes(&l->op[o], kept)) sl->stash_ops = o + 1;
        }
        sl->scratch = streams + layout_scratch_values(s, l, sl->value, false, s->values_offset + streams);
        most = largest(most, sl->scratch);
    }
    return most;
}

/* Infer: the stream goes to and fro between two buffers. Returns the scratch with them. */
static size_t layout_infer_values(qn_stage *s)
{
    size_t most = 0, stream = 0;
    const bool fits = qn_align_size(&stream, s->need.act_bytes, ALIGN);
    QN_ASSERT(fits);
    for (int32_t i = 0; i < s->count; i++) {
        stage_layer *sl = &s->layer[i];
        const qn_layer *l = sl->layer;
        sl->value[0].infer = i == 0 ? (qn_place){QN_AT_X, 0} : s->layer[i - 1].value[s->layer[i - 1].layer->output].infer;
        if (l->output >= 0)
            sl->value[l->output].infer = i + 1 == s->count
                                             ? (qn_place){QN_AT_Y, 0}
                                             : (qn_place){QN_AT_SCRATCH, s->values_offset + (size_t)(i & 1) * stream};
        const size_t bytes = 2 * stream + layout_scratch_values(s, l, sl->value, true, s->values_offset + 2 * stream);
        sl->scratch = largest(sl->scratch, bytes);
        most = largest(most, bytes);
    }
    return most;
}

/* --- gradients */

/* Marks the values whose gradient is the stream's: the output, and back through the residual joins; the input always is. */
static void mark_stream(bool *stream, const qn_layer *l)
{
    for (int32_t v = 0; v < l->values; v++) stream[v] = (v == 0 && !l->off_input) || (v == l->output && !l->off_stream);
    for (int32_t o = l->ops - 1; o >= 0; o--) {
        const qn_op *op = &l->op[o];
        if (!op->kind->passes_stream) continue;
        QN_ASSERT(stream[op->out[0].value]); /* joins lie on the way from the layer's input to its output */
        stream[op->in[0].value] = true;
    }
}

static bool in_place(const qn_op *op)
{
    return op->ins > 0 && op->outs > 0 && op->in[0].value == op->out[0].value;
}

/* First writer sets, later ones add. Checks that no operation is asked to add that cannot, and that gradient types agree. */
static void set_add_flags(stage_layer *sl, const bool *stream, qn_elem *elem)
{
    const qn_layer *l = sl->layer;
    bool written[QN_LAYER_VALUES] = {false};
    int32_t writer[QN_LAYER_VALUES];
    for (int32_t v = 0; v < l->values; v++) {
        written[v] = stream[v] && sl->stream_seeded;
        writer[v] = -1;
    }
    bool stream_written = sl->stream_seeded;
    for (int32_t o = l->ops - 1; o >= 0; o--) {
        const qn_op *op = &l->op[o];
        for (int32_t i = 0; i < op->ins; i++) {
            const int32_t v = op->in[i].value;
            if ((i == 0 && op->kind->passes_stream) || (i == 0 && in_place(op))) continue;
            const bool had =
                stream[v] ? stream_written : written[v] && writer[v] != o; /* column slices of one value: one write */
            QN_ASSERT(!had || op->kind->can_add);
            QN_ASSERT(!written[v] || stream[v] || elem[v] == op->kind->grad_elem);
            QN_ASSERT(!stream[v] || op->kind->grad_elem == QN_ELEM_RES);
            sl->op[o].add[i] = had;
            elem[v] = op->kind->grad_elem;
            written[v] = true;
            writer[v] = o;
            if (stream[v]) stream_written = true;
        }
    }
}

/* Places the gradients of one layer: those that W reads go to the wstash when it is separate. Returns the scratch needed. */
static size_t place_gradients(const qn_stage *s, stage_layer *sl, qn_arena *wstash, size_t base)
{
    const qn_layer *l = sl->layer;
    bool stream[QN_LAYER_VALUES], for_weight[QN_LAYER_VALUES] = {false};
    qn_elem elem[QN_LAYER_VALUES] = {QN_ELEM_RES};
    qni_life v[2 * QN_LAYER_VALUES], *const again = v + l->values; /* gradients; values that are made again where they are read */
    mark_stream(stream, l);
    set_add_flags(sl, stream, elem);
    for (int32_t o = 0; o < l->ops; o++)
        for (int32_t i = 0; l->op[o].kind->tell != NULL && i < l->op[o].outs; i++)
            elem[l->op[o].out[i].value] = l->value[l->op[o].out[i].value].elem; /* the operation's own */
    for (int32_t i = 0; i < l->values; i++) v[i] = qni_no_life(qni_value_bytes(s, &l->value[i], elem[i]));
    for (int32_t o = 0; o < l->ops; o++) { /* lives run backwards: from the value's readers to its writer */
        const qn_op *op = &l->op[o];
        for (int32_t i = 0; i < op->ins; i++) qni_life_touch(&v[op->in[i].value], o);
    }
    if (l->off_stream) qni_life_touch(&v[l->output], l->ops);
    for (int32_t o = 0; o < l->ops; o++) {
        const qn_op *op = &l->op[o];
        for (int32_t i = 0; i < op->outs; i++) {
            const int32_t out = op->out[i].value;
            if (v[out].end >= 0 || op->kind->tell != NULL) qni_life_touch(&v[out], o); /* others that nothing reads have none */
            if (sl->op[o].learns && i == 0) for_weight[out] = true;
        }
    }
    for (int32_t i = 0; i < l->values; i++) {
        if (stream[i] || (i == 0 && l->off_input)) v[i] = qni_no_life(0);
        again[i] = qni_no_life(qni_value_bytes(s, &l->value[i], l->value[i].elem));
    }
    qni_time_cheap(sl, again);
    const size_t bytes = qni_place_lives(v, 2 * l->values);
    for (int32_t i = 0; i < l->values; i++) {
        if (sl->value[i].cheap) sl->value[i].back = sl->value[i].wback = (qn_place){QN_AT_SCRATCH, base + again[i].offset};
        if (stream[i]) sl->value[i].grad = sl->value[i].wgrad = (qn_place){QN_AT_STREAM, 0};
        if (i == 0 && l->off_input) sl->value[i].grad = sl->value[i].wgrad = (qn_place){QN_AT_DX, 0};
        if (v[i].begin > v[i].end) continue;
        sl->value[i].grad = sl->value[i].wgrad = (qn_place){QN_AT_SCRATCH, base + v[i].offset};
        if (!for_weight[i]) continue;
        sl->value[i].wgrad = (qn_place){QN_AT_WSTASH, wstash->used};
        qn_arena_push(wstash, 1, v[i].bytes, 1);
    }
    return bytes;
}

/* The stream's gradient is the caller's dx; where the stage begins with the embedding, its own. */
static size_t layout_gradients(qn_stage *s, qn_arena *wstash, qn_arena *rstash)
{
    size_t most = 0, stream = 0;
    const bool fits = qn_align_size(&stream, s->need.act_bytes, ALIGN);
    QN_ASSERT(fits);
    const bool own = s->first == 0 && s->count > 0;
    if (own) {
        s->stream = (qn_place){QN_AT_SCRATCH, s->values_offset};
        s->wstream = s->stream;
        if (s->lowest == 0) { /* the embedding's W reads it */
            s->wstream = (qn_place){QN_AT_WSTASH, wstash->used};
            qn_arena_push(wstash, 1, stream, 1);
        }
    }
    const size_t base = s->values_offset + (own ? stream : 0);
    for (int32_t i = 0; i < s->count; i++) {
        stage_layer *sl = &s->layer[i];
        sl->stream_seeded = sl->layer->output >= 0 && !sl->layer->off_stream;
        if (i < s->lowest) continue;
        size_t transients; /* gone when the layer's gradients begin */
        const size_t again = qni_place_again(s, sl, wstash, rstash, base, &transients);
        const size_t bytes = (own ? stream : 0) + again + largest(place_gradients(s, sl, wstash, base + again), transients);
        sl->scratch = largest(sl->scratch, bytes);
        most = largest(most, bytes);
    }
    return largest(most, own ? stream : 0);
}

/* --- packed weights, cache, kernels' scratch */
static void layout_op(qn_stage *s, const qn_op *op, stage_op *so, qn_arena *packed, qn_arena *cache, size_t *kernel_scratch)
{
    if (op->kind->is_product) {
        const unsigned copies = s->limits.train ? QN_PACK_FORWARD | QN_PACK_BACKWARD : QN_PACK_FORWARD;
        qn_arena_push(packed, 1, 0, ALIGN);
        so->packed_offset = packed->used;
        qn_arena_push(packed, 1, s->k->linear_packed_bytes(so->lin, copies), ALIGN);
    }
    if (op->kind->has_cache) {
        const qn_attention_shape shape = {.H = op->size[0], .K = op->size[1], .D = op->size[2]};
        const size_t row = (size_t)(2 * op->size[1] * op->size[2]) * elem_bytes(s, QN_ELEM_ACT);
        so->cache_offset = cache->used;
        if (s->k->cached_bytes != NULL)
            qn_arena_push(cache, 1, s->k->cached_bytes(&shape, s->limits.cache_len, s->limits.kv), ALIGN);
        else
            qn_arena_push(cache, row, (size_t)s->limits.cache_len, 1);
    }
    if (op->kind->scratch == NULL) return;
    const size_t bytes = op->kind->scratch(op, s->k, so->lin, &s->limits, qn_exec_threads(s->ex));
    if (*kernel_scratch < bytes) *kernel_scratch = bytes;
}

qn_status qni_stage_layout(qn_stage *s, qn_err *err)
{
    qn_arena stash = QN_ARENA_PROBE, wstash = QN_ARENA_PROBE, rstash = QN_ARENA_PROBE, packed = QN_ARENA_PROBE,
             cache = QN_ARENA_PROBE;
    size_t values = 0, total = 0;
    const qn_value stream = {.width = s->m->config.width, .elem = QN_ELEM_RES, .sliced = s->m->config.sequence};
    s->need.act_bytes = qni_value_bytes(s, &stream, stream.elem);
    bool fits = qn_align_size(&s->values_offset, (size_t)s->rows * sizeof(int32_t), ALIGN);
    if (s->limits.train) {
        values = layout_train_values(s, &stash);
        values = largest(values, layout_gradients(s, &wstash, &rstash));
    }
    if (s->limits.cache_len > 0 || !s->limits.train) values = largest(values, layout_infer_values(s));
    if (s->ends_off_stream) {
        fits = fits && qn_align_size(&values, values, ALIGN);
        s->spare = s->values_offset + values;
        const qn_layer *last = s->layer[s->count - 1].layer;
        values += qni_value_bytes(s, &last->value[last->output], QN_ELEM_RES);
    }
    fits = fits && qn_add_size(&s->own_scratch, s->values_offset, values);
    s->even_scratch = s->ends_off_stream || s->m->config.shards > 1;
    for (int32_t i = 0; i < s->count && fits; i++) {
        stage_layer *sl = &s->layer[i];
        size_t kernels = 0, both = 0;
        for (int32_t o = 0; o < sl->layer->ops; o++) layout_op(s, &sl->layer->op[o], &sl->op[o], &packed, &cache, &kernels);
        sl->scratch = s->even_scratch ? s->own_scratch : s->values_offset + sl->scratch;
        fits = qn_add_size(&both, sl->scratch, kernels);
        total = largest(total, both);
    }
    qn_arena_push(&cache, 1, 0, ALIGN);
    fits = fits && qn_add_size(&total, largest(total, s->own_scratch), 4 * ALIGN) && !stash.failed && !wstash.failed &&
           !rstash.failed && !packed.failed && !cache.failed;
    if (!fits)
        return QN_FAIL(err, QN_ENOMEM,
                       "a stage of %d layers with %lld samples of %lld tokens does not fit into the address space", s->count,
                       (long long)s->limits.B, (long long)s->limits.T);
    s->need.stash_bytes = stash.used;
    s->need.wstash_bytes = wstash.used;
    s->need.rstash_bytes = rstash.used;
    s->need.scratch_bytes = total;
    s->need.packed_bytes = packed.used;
    s->need.cache_bytes = cache.used;
    return QN_OK;
}
