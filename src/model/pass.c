/* The walker: runs a stage's operations one by one, in either direction, resolving the places of stage_layout.c to pointers.
 *
 * A pass takes its scratch when its first operation runs, as much of it as the layer needs that it is in, and returns it after
 * its last, in stack order: a pass that is stopped in between may be overtaken by others that end before it goes on. */
#include "stage.h"

#include <string.h>

#include "core/arena.h"
#include "core/checked.h"
#include "core/compiler.h"

enum { PASS_FORWARD, PASS_EVALUATE, PASS_INFER, PASS_BACKWARD, PASS_WEIGHT, PASS_RECOMPUTE, PASS_REMAKE };

/* --- the cursor: layer counts within the stage; before the first layer or after the last the pass is at its end */
static bool walks_back(const qn_pass *p)
{
    return p->kind == PASS_BACKWARD || p->kind == PASS_WEIGHT;
}

static bool at_end(const qn_pass *p)
{
    return p->layer < (walks_back(p) ? p->stage->lowest : 0) || p->layer >= p->stage->count;
}

static qn_op_fn *either(qn_op_fn *special, qn_op_fn *usual)
{
    return special != NULL ? special : usual;
}

static bool has_work(const qn_pass *p)
{
    const stage_layer *sl = &p->stage->layer[p->layer];
    const qn_op_kind *kind = sl->layer->op[p->op].kind;
    const bool learns = sl->op[p->op].learns;
    switch (p->kind) {
    case PASS_FORWARD:
    case PASS_REMAKE:
        return kind->forward != NULL;
    case PASS_EVALUATE:
        return either(kind->evaluate, kind->forward) != NULL;
    case PASS_INFER:
        return either(kind->infer, kind->forward) != NULL;
    case PASS_RECOMPUTE:
        return sl->op[p->op].redo;
    case PASS_BACKWARD:
        if (p->redo) return sl->op[p->op].redo;
        return kind->backward_input != NULL || (p->wstash == NULL && learns);
    default:
        return learns;
    }
}

/* Operations of the layer that this pass runs: a forward that nobody takes y from stops when the stash is full. */
static int32_t ops_of(const qn_pass *p, int32_t layer)
{
    const stage_layer *sl = &p->stage->layer[layer];
    const bool last = layer + 1 == p->stage->count;
    if (last && p->kind == PASS_REMAKE) return qn_max32(sl->stash_ops, sl->again_ops);
    return last && p->kind == PASS_FORWARD && p->y == NULL ? sl->stash_ops : sl->layer->ops;
}

static bool goes_back(const qn_pass *p)
{
    return walks_back(p) && !p->redo;
}

/* Puts the cursor on the first operation of the layer; walking back, on its last, unless its values have to be made again first.
 */
static void enter(qn_pass *p)
{
    const bool ends = at_end(p);
    p->redo = !ends && p->kind == PASS_BACKWARD && !p->stage->limits.again_early && p->stage->layer[p->layer].redone;
    p->op = goes_back(p) && !ends ? ops_of(p, p->layer) - 1 : 0;
}

/* Moves the cursor to the operation it is at, or else the next one that has work in this pass. */
static void settle(qn_pass *p)
{
    while (!at_end(p)) {
        if (p->op >= 0 && p->op < ops_of(p, p->layer)) {
            if (has_work(p)) return;
            p->op += goes_back(p) ? -1 : 1;
        } else if (p->redo) {
            p->redo = false;
            p->op = ops_of(p, p->layer) - 1;
        } else {
            p->layer += walks_back(p) ? -1 : 1;
            enter(p);
        }
    }
}

static qn_pass start(qn_stage *s, const qn_mb *mb, int32_t kind)
{
    return (qn_pass){.stage = s, .kind = kind, .mb = mb};
}

static qn_pass placed(qn_pass p)
{
    if (walks_back(&p)) {
        p.layer = p.stage->count - 1;
        enter(&p);
    }
    settle(&p);
    return p;
}

qn_pass qn_pass_forward(qn_stage *s, const qn_mb *mb, void *y, const void *x, void *stash)
{
    qn_pass p = start(s, mb, PASS_FORWARD);
    p.y = y;
    p.x = x;
    p.stash = stash;
    if (y == NULL && s->need.stash_bytes == 0) p.layer = s->count; /* nothing that anyone reads */
    return placed(p);
}

qn_pass qn_pass_recompute(qn_stage *s, const qn_mb *mb, const void *x, void *stash)
{
    qn_pass p = start(s, mb, PASS_RECOMPUTE);
    p.x = x;
    p.stash = stash;
    return placed(p);
}

qn_pass qn_pass_remake(qn_stage *s, const qn_mb *mb, const void *x, void *stash)
{
    qn_pass p = start(s, mb, PASS_REMAKE);
    p.x = x;
    p.stash = stash;
    if (s->need.stash_bytes + s->need.rstash_bytes == 0) p.layer = s->count; /* nothing that anyone reads */
    return placed(p);
}

qn_pass qn_pass_evaluate(qn_stage *s, const qn_mb *mb, void *y, const void *x, void *stash)
{
    qn_pass p = start(s, mb, PASS_EVALUATE);
    p.y = y;
    p.x = x;
    p.stash = stash;
    return placed(p);
}

qn_pass qn_pass_backward(qn_stage *s, const qn_mb *mb, void *dx, const void *dy, const void *x, void *stash, void *wstash)
{
    qn_pass p = start(s, mb, PASS_BACKWARD);
    p.y = dx;
    p.dy = dy;
    p.x = x;
    p.stash = stash;
    p.wstash = wstash;
    return placed(p);
}

qn_pass qn_pass_backward_weight(qn_stage *s, const qn_mb *mb, const void *x, const void *stash, const void *wstash)
{
    qn_pass p = start(s, mb, PASS_WEIGHT);
    p.x = x;
    p.stash = (void *)stash; /* only read; statistics that come with a value made again are written with the bits they have */
    p.wstash = (void *)wstash;
    return placed(p);
}

qn_pass qn_pass_infer(qn_stage *s, const qn_mb *mb, int64_t past, void *y, const void *x, void *cache, float *logits)
{
    qn_pass p = start(s, mb, PASS_INFER);
    p.past = past;
    p.y = y;
    p.x = x;
    p.cache = cache;
    p.logits = logits;
    return placed(p);
}

/* --- pointers */
static char *offset_in(const void *base, size_t offset)
{
    return base == NULL ? NULL : (char *)base + offset;
}

static char *stream_gradient(const qn_pass *p)
{
    const qn_stage *s = p->stage;
    const qn_place place = p->wstash != NULL ? s->wstream : s->stream;
    if (place.at == QN_AT_NONE) return p->y; /* dx */
    return place.at == QN_AT_WSTASH ? offset_in(p->wstash, place.offset) : p->scratch + place.offset;
}

static char *place_address(const qn_pass *p, qn_place place)
{
    switch (place.at) {
    case QN_AT_X:
        return (char *)p->x;
    case QN_AT_Y:
        if (walks_back(p)) return NULL;
        return p->y == NULL && p->stage->ends_off_stream ? p->scratch + p->stage->spare : p->y;
    case QN_AT_STASH:
        return offset_in(p->stash, place.offset);
    case QN_AT_WSTASH:
        return offset_in(p->wstash, place.offset);
    case QN_AT_RSTASH:
        return offset_in(p->mb->rstash, place.offset);
    case QN_AT_SCRATCH:
        return p->scratch + place.offset;
    case QN_AT_STREAM:
        return stream_gradient(p);
    case QN_AT_DX:
        return p->y;
    default:
        return NULL;
    }
}

static size_t elem_bytes(const qn_stage *s, qn_elem elem)
{
    return qn_dtype_bytes(elem == QN_ELEM_ACT ? s->k->act : s->k->res);
}

static void *value_at(const qn_pass *p, const stage_layer *sl, qn_ref ref)
{
    const stage_value *v = &sl->value[ref.value];
    const bool later =
        walks_back(p) || p->kind == PASS_RECOMPUTE;        /* what F left in scratch is gone: it is made again or not read */
    const bool into = p->kind == PASS_REMAKE && v->remade; /* where backward looks for it */
    const qn_place place = p->kind == PASS_INFER ? v->infer
                           : into                ? v->back
                           : !later              ? v->train
                           : p->wstash != NULL   ? v->wback
                                                 : v->back;
    return offset_in(place_address(p, place), (size_t)ref.column * elem_bytes(p->stage, sl->layer->value[ref.value].elem));
}

static void *gradient_at(const qn_pass *p, const stage_layer *sl, qn_ref ref, qn_elem elem)
{
    if (!walks_back(p)) return NULL;
    const stage_value *v = &sl->value[ref.value];
    const qn_place place = p->wstash == NULL ? v->grad : v->wgrad;
    return offset_in(place_address(p, place), (size_t)ref.column * elem_bytes(p->stage, elem));
}

/* Everything that operation needs, for the current cursor. */
static qn_op_run resolve(const qn_pass *p)
{
    const qn_stage *s = p->stage;
    const stage_layer *sl = &s->layer[p->layer];
    const stage_op *so = &sl->op[p->op];
    const qn_op *op = &sl->layer->op[p->op];
    const bool training = p->kind != PASS_EVALUATE && p->kind != PASS_INFER;
    qn_op_run r = {.k = s->k, .ex = s->ex, .op = op, .mb = p->mb, .B = p->mb->B, .T = p->mb->T, .lin = so->lin};
    r.R = r.B * r.T;
    if (op->sliced) r.R = qni_stream_rows(s, r.R, &r.first);
    r.pos = (const int32_t *)(const void *)p->scratch + r.first;
    r.dropout = training && (op->kind->drops) ? op->real : 0.0;
    r.key = (qn_rng_key){.seed = p->mb->seed,
                         .step = p->mb->step,
                         .sample = p->mb->first_sample,
                         .layer = (uint16_t)sl->index,
                         .op = (uint16_t)op->key};
    for (int32_t i = 0; i < op->ins; i++) {
        r.in[i] = value_at(p, sl, op->in[i]);
        r.ld_in[i] = sl->layer->value[op->in[i].value].width;
        r.din[i] = gradient_at(p, sl, op->in[i], op->kind->grad_elem);
        r.add[i] = so->add[i];
    }
    for (int32_t i = 0; i < op->outs; i++) {
        r.out[i] = value_at(p, sl, op->out[i]);
        r.ld_out[i] = sl->layer->value[op->out[i].value].width;
        r.dout[i] = gradient_at(p, sl, op->out[i], QN_ELEM_RES); /* whole values: the column is 0 */
    }
    for (int32_t u = 0; u < op->uses; u++) {
        r.w[u] = so->w[u];
        r.dw[u] = so->dw[u];
    }
    r.rows = so->rows;
    r.packed = op->kind->is_product ? offset_in(s->packed, so->packed_offset) : NULL;
    r.past = p->past;
    r.cache = offset_in(p->cache, so->cache_offset);
    r.cache_stride = s->need.cache_bytes;
    r.cache_len = s->limits.cache_len;
    r.kv = s->limits.kv;
    r.logits = p->logits;
    return r;
}

/* --- one step */
static void copy_rows(const qn_pass *p, void *to, const void *from, bool sliced)
{
    const qn_stage *s = p->stage;
    int64_t first, rows = p->mb->B * p->mb->T;
    if (sliced) rows = qni_stream_rows(s, rows, &first);
    const size_t bytes = (size_t)(rows * s->m->config.width) * elem_bytes(s, QN_ELEM_RES);
    const bool ends = to == NULL || from == NULL; /* an empty stage before the embedding or after the head */
    if (bytes > 0 && !ends && to != from) memcpy(to, from, bytes);
}

static void copy_stream(const qn_pass *p, void *to, const void *from)
{
    copy_rows(p, to, from, true);
}

/* As much scratch as the layer at the cursor needs: what the pass has stays where it is. */
static void fit_scratch(const qn_pass *p)
{
    qn_arena *a = p->stage->ex->scratch;
    if (p->stage->even_scratch) return;
    const size_t end = (size_t)(p->scratch - a->base) + p->stage->layer[p->layer].scratch;
    if (end < a->used) qn_arena_release(a, end);
    if (end > a->used) QN_ASSERT(qn_arena_push(a, 1, end - a->used, 1) != NULL);
}

static void begin(qn_pass *p)
{
    const qn_stage *s = p->stage;
    const qn_mb *mb = p->mb;
    QN_ASSERT(mb->B >= 0 && mb->T >= 0 && mb->B * mb->T <= s->rows);
    QN_ASSERT(mb->segment != NULL || (mb->B <= s->limits.B && mb->T <= s->limits.T));
    QN_ASSERT(p->kind == PASS_INFER || s->limits.train);
    p->begun = true;
    p->mark = qn_arena_mark(s->ex->scratch);
    p->scratch = qn_arena_push(s->ex->scratch, at_end(p) ? s->own_scratch : s->layer[p->layer].scratch, 1, QN_CACHE_LINE);
    QN_ASSERT(p->scratch != NULL);
    int32_t *pos = (int32_t *)(void *)p->scratch;
    for (int64_t b = 0; mb->segment == NULL && b < mb->B; b++) {
        for (int64_t t = 0; t < mb->T; t++) *pos++ = (int32_t)(p->past + t);
    }
    for (int32_t i = 0; mb->segment != NULL && i < mb->segments; i++) {
        for (int64_t t = 0; t < mb->segment[i].count; t++) *pos++ = (int32_t)(mb->segment[i].past + t);
    }
    if (p->kind == PASS_BACKWARD && s->ends_off_stream) {
        const stage_layer *last = &s->layer[s->count - 1];
        const int32_t y = last->layer->output;
        const qn_place to = p->wstash == NULL ? last->value[y].grad : last->value[y].wgrad;
        copy_rows(p, place_address(p, to), p->dy, last->layer->value[y].sliced);
    } else if (p->kind == PASS_BACKWARD && !s->has_head)
        copy_stream(p, stream_gradient(p), p->dy); /* joins and norms add to it */
}

/* Whether what the operation needs from the other shards is there. back: for its backward. */
static bool shards_are_here(const qn_pass *p, const qn_op_run *r, bool back)
{
    const qn_stage *s = p->stage;
    const qn_op_kind *kind = r->op->kind;
    const qn_meet meets = back ? kind->meets_back : kind->meets;
    if (meets == QN_MEET_NONE || r->B * r->T == 0) return true;
    QN_ASSERT(s->exchange.meet != NULL);
    void *in = back ? r->din[0] : r->in[0], *out = back ? r->dout[0] : r->out[0];
    const qn_value *value = &s->layer[p->layer].layer->value[r->op->out[0].value];
    const bool act = (back ? kind->grad_elem : value->elem) == QN_ELEM_ACT;
    qn_meeting what = {.kind = meets, .type = act ? s->k->act : s->k->res, .rows = r->B * r->T, .width = value->width};
    if (kind->tell != NULL) { /* a row each */
        const int32_t t = s->m->config.shards;
        what = (qn_meeting){.kind = meets, .whole = back ? out : r->out[0], .type = s->k->res, .rows = t};
        what.width = value->width / t * r->B * r->T;
    } else if (meets == QN_MEET_SUM) { /* elements, not rows: the slices are as even as can be */
        what.whole = back ? in : out;
        what.rows *= what.width;
        what.width = 1;
    } else { /* the slice is on the outer side */
        const bool inwards = kind->meets == QN_MEET_GATHER;
        what.mine = inwards ? in : out;
        what.whole = inwards ? out : in;
    }
    return s->exchange.meet(s->exchange.ctx, &what);
}

/* What the operation at the cursor is the first to read of what is made again where it is read. False: other shards have to come
 * first. */
static bool make_again(qn_pass *p)
{
    const stage_layer *sl = &p->stage->layer[p->layer];
    const int32_t way = p->kind == PASS_WEIGHT ? QNI_WAY_W : p->wstash == NULL ? QNI_WAY_BW : QNI_WAY_B;
    for (qn_pass at = *p; p->made < sl->layer->ops; p->made++) {
        if (!sl->op[p->made].cheap || sl->op[p->made].remake[way] != p->op) continue;
        at.op = p->made;
        const qn_op_run r = resolve(&at);
        if (!shards_are_here(p, &r, false)) return false;
        r.op->kind->forward(&r);
    }
    return true;
}

/* All that the operation at the cursor waits for. */
static bool is_ready(qn_pass *p)
{
    if (goes_back(p) && !make_again(p)) return false;
    const qn_op_run r = resolve(p);
    if (p->kind == PASS_WEIGHT) return true;
    if (r.op->kind->tell != NULL && !p->told) r.op->kind->tell(&r);
    p->told = true;
    return shards_are_here(p, &r, goes_back(p));
}

static void run_op(const qn_pass *p)
{
    const qn_op_run r = resolve(p);
    const qn_op_kind *kind = r.op->kind;
    const bool learns = p->wstash == NULL && p->stage->layer[p->layer].op[p->op].learns; /* here; else in W or never */
    if (p->redo) {
        kind->forward(&r);
        return;
    }
    switch (p->kind) {
    case PASS_FORWARD:
    case PASS_RECOMPUTE:
    case PASS_REMAKE:
        kind->forward(&r);
        break;
    case PASS_EVALUATE:
        either(kind->evaluate, kind->forward)(&r);
        break;
    case PASS_INFER:
        either(kind->infer, kind->forward)(&r);
        break;
    case PASS_WEIGHT:
        kind->backward_weight(&r);
        break;
    default:
        if (learns && kind->backward != NULL) {
            kind->backward(&r);
            break;
        }
        if (kind->backward_input != NULL) kind->backward_input(&r);
        if (learns) kind->backward_weight(&r);
    }
}

bool qn_pass_step(qn_pass *p)
{
    if (p->stage->count == 0) {
        if (p->kind != PASS_WEIGHT) copy_stream(p, p->y, p->kind == PASS_BACKWARD ? p->dy : p->x);
        return false;
    }
    if (!p->begun) begin(p);
    if (!at_end(p)) {
        fit_scratch(p);
        p->waits = !is_ready(p);
        if (p->waits) return true;
        run_op(p);
        p->made = 0;
        p->told = false;
        p->op += goes_back(p) ? -1 : 1;
        settle(p);
    }
    if (!at_end(p)) return true;
    if (p->kind == PASS_BACKWARD && p->stage->stream.at != QN_AT_NONE && !p->stage->layer[0].layer->off_input)
        copy_stream(p, p->y, stream_gradient(p));
    if (p->scratch != NULL) qn_arena_release(p->stage->ex->scratch, p->mark);
    p->scratch = NULL;
    return false;
}

const char *qn_pass_name(const qn_pass *p)
{
    return at_end(p) ? "" : p->stage->layer[p->layer].layer->op[p->op].name;
}
