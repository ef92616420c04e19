#include "tier.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"

static int64_t aligned(int64_t bytes)
{
    return (bytes + 63) & ~(int64_t)63;
}

/* --- pieces */

static bool in_piece(const qni_tier_desc *d, int32_t s, int32_t layer)
{
    const int32_t *first = &d->first_layer[qn_chain_stage(qn_order_grid(d->order), s)];
    return layer >= first[0] && layer < first[1];
}

/* The model that a piece is cut from: the whole one, or its shard. */
static const qn_model *model_of(const qni_tier *t, int32_t s)
{
    return t->part_model == NULL ? t->model : t->part_model[qn_shard(t->grid, s)];
}

/* Is use u of piece s left out of its chunks, since it comes up packed? Counts its bytes. */
static bool packed_alone(qni_tier *t, const qni_tier_desc *d, int32_t s, int32_t u)
{
    const int32_t p = qn_model_use(d->model, u)->param;
    const int64_t bytes = aligned(qn_model_param(model_of(t, s), p)->count * (int64_t)t->element);
    t->value_bytes[s] += bytes;
    if (!t->direct || !qn_stage_packs_whole(t->stage[d->order->worker_of[s] * t->stages + s], p)) return false;
    if (t->staging_bytes < (size_t)bytes) t->staging_bytes = (size_t)bytes;
    return true;
}

/* The parameters of each piece, once each, then the gradients of its uses. */
static qn_status list_parts(qni_tier *t, const qni_tier_desc *d, qn_err *err)
{
    const int32_t uses = qn_model_uses(d->model), S = t->stages;
    t->part = qn_calloc(2 * (size_t)uses * (size_t)d->order->columns, sizeof(*t->part));
    t->first_part = qn_calloc(2 * ((size_t)S + 1), sizeof(*t->first_part));
    if (t->part == NULL || t->first_part == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for the parts of %d pieces", S);
    t->first_grad = t->first_part + S + 1;
    int32_t n = 0;
    for (int32_t s = 0; s < S; s++) {
        t->first_part[s] = n;
        for (int32_t u = 0; u < uses; u++) {
            const qn_use *use = qn_model_use(d->model, u);
            bool twice = false;
            if (!in_piece(d, s, use->layer)) continue;
            for (int32_t i = t->first_part[s]; i < n; i++) twice = twice || t->part[i].index == use->param;
            if (twice) continue;
            if (packed_alone(t, d, s, u)) continue;
            t->part[n++] =
                (qni_part){.index = use->param, .bytes = qn_model_param(model_of(t, s), use->param)->count * (int64_t)t->element};
        }
    }
    t->first_part[S] = n;
    for (int32_t s = 0; s < S; s++) {
        t->first_grad[s] = n;
        for (int32_t u = 0; u < uses; u++) {
            const qn_param *p = qn_model_param(model_of(t, s), qn_model_use(d->model, u)->param);
            if (!in_piece(d, s, qn_model_use(d->model, u)->layer) || p->frozen) continue;
            t->part[n++] = (qni_part){.index = u, .offset = t->pgrad_bytes[s], .bytes = p->count * (int64_t)t->element};
            t->pgrad_bytes[s] += aligned(p->count * (int64_t)t->element);
        }
    }
    t->first_grad[S] = n;
    return QN_OK;
}

/* Each piece's parameters into at most so many chunks of about equal size. */
static qn_status cut_chunks(qni_tier *t, int32_t most, qn_err *err)
{
    const int32_t all = t->first_part[t->stages];
    int64_t *bytes = qn_calloc((size_t)all, sizeof(*bytes));
    int32_t *of = qn_calloc((size_t)all, sizeof(*of));
    t->chunk_first = qn_calloc((size_t)t->stages + 1, sizeof(*t->chunk_first));
    t->chunk_bytes = qn_calloc((size_t)all + 2 * (size_t)t->stages, sizeof(*t->chunk_bytes));
    qn_status st = bytes != NULL && of != NULL && t->chunk_first != NULL && t->chunk_bytes != NULL
                       ? QN_OK
                       : QN_FAIL(err, QN_ENOMEM, "no memory for the chunks of %d pieces", t->stages);
    for (int32_t s = 0; s < t->stages && st == QN_OK; s++) {
        qni_part *part = t->part + t->first_part[s];
        const bool packed = t->direct && t->packed_bytes[s] > 0;
        const int32_t n = t->first_part[s + 1] - t->first_part[s], chunks = qn_max32(!packed, qn_min32(n, most));
        int64_t *load = t->chunk_bytes + t->chunk_first[s];
        for (int32_t i = 0; i < n; i++) bytes[i] = part[i].bytes;
        if (chunks > 0) st = qn_lpt_chunks(of, bytes, n, chunks, err);
        for (int32_t i = 0; i < n && st == QN_OK; i++) {
            part[i].chunk = of[i];
            part[i].offset = load[of[i]];
            load[of[i]] += aligned(part[i].bytes);
        }
        if (packed) load[chunks] = t->packed_bytes[s];
        t->chunk_first[s + 1] = t->chunk_first[s] + chunks + packed;
    }
    qn_free(bytes);
    qn_free(of);
    return st;
}

/* --- devices */

/* Wherever the cursor comes to. */
static bool runs(const qn_order *o, int32_t w, int32_t s)
{
    for (int32_t r = 0; r < (o->turn > 0 ? o->workers : 1); r++) {
        if (qn_turned(o->worker_of[s], o->workers, o->turn, r) == w) return true;
        if (o->backward_of != NULL && qn_turned(o->backward_of[s], o->workers, o->turn, r) == w) return true;
    }
    return false;
}

static qn_status open_devices(qni_tier *t, const qni_tier_desc *d, qn_err *err)
{
    const int32_t S = t->stages;
    for (int32_t w = 0; w < t->devices; w++) {
        size_t scratch = QN_CACHE_LINE;
        t->exec[w].scratch = &t->scratch[w];
        qn_status st = d->threads > 1 ? qn_team_open(&t->exec[w].team, d->threads, d->pin ? w * d->threads : -1, err) : QN_OK;
        for (int32_t s = 0; s < S && st == QN_OK; s++) {
            if (!runs(d->order, w, s)) continue;
            qn_stage **at = &t->stage[w * S + s];
            const int32_t *first = &d->first_layer[qn_chain_stage(t->grid, s)];
            st = qn_stage_open(at, model_of(t, s), first[0], first[1] - first[0], d->k, &t->exec[w], &d->limits, err);
            if (st != QN_OK) break;
            const qn_stage_need *need = qn_stage_need_of(*at);
            if (scratch < need->scratch_bytes) scratch = need->scratch_bytes;
            t->packed_bytes[s] = (int64_t)need->packed_bytes;
            t->need[s] = (int64_t)need->act_bytes;
            t->need[S + s] = d->limits.cache_len > 0 ? 0 : (int64_t)need->stash_bytes;
            t->need[2 * S + s] = (int64_t)need->wstash_bytes;
        }
        if (st == QN_OK) st = qn_arena_open(&t->scratch[w], scratch, err);
        if (st != QN_OK) return st;
    }
    return QN_OK;
}

/* Where a matrix from a file lies, on the host, while it is packed. */
static qn_status take_staging(qni_tier *t, qn_err *err)
{
    t->staging = qn_calloc((size_t)t->devices, sizeof(*t->staging));
    for (int32_t w = 0; t->staging != NULL && w < t->devices; w++) {
        t->staging[w] = qn_alloc_pages(t->staging_bytes);
        if (t->staging[w] == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for a matrix of %zu bytes", t->staging_bytes);
    }
    return t->staging != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "no memory for %d devices", t->devices);
}

qn_status qni_tier_init(qni_tier *t, const qni_tier_desc *d, qn_err *err)
{
    const size_t S = (size_t)d->order->stages, N = (size_t)d->order->workers, D = (size_t)qn_depth(qn_order_grid(d->order));
    *t = (qni_tier){.model = d->model,
                    .part_model = d->part_model,
                    .k = d->k,
                    .element = qn_dtype_bytes(d->k->param),
                    .devices = d->order->workers,
                    .stages = d->order->stages,
                    .grid = qn_order_grid(d->order),
                    .direct = d->direct};
    t->exec = qn_calloc(N, sizeof(*t->exec));
    t->unwanted = qn_calloc(8 * N, sizeof(*t->unwanted));
    t->scratch = qn_calloc(N, sizeof(*t->scratch));
    t->stage = qn_calloc(N * S, sizeof(qn_stage *));
    t->bound = qn_calloc(N * (size_t)(qn_model_params(d->model) + qn_model_uses(d->model)), sizeof(void *));
    t->packed_bytes = qn_calloc(6 * S, sizeof(*t->packed_bytes));
    t->first_layer = qn_calloc(D + 1, sizeof(*t->first_layer));
    if (t->exec == NULL || t->unwanted == NULL || t->scratch == NULL || t->stage == NULL || t->bound == NULL ||
        t->packed_bytes == NULL || t->first_layer == NULL)
        return QN_FAIL(err, QN_ENOMEM, "no memory for %zu devices", N);
    t->pgrad_bytes = t->packed_bytes + S;
    t->need = t->packed_bytes + 2 * S;
    t->value_bytes = t->packed_bytes + 5 * S;
    memcpy(t->first_layer, d->first_layer, (D + 1) * sizeof(*t->first_layer));
    qn_status st = open_devices(t, d, err);
    if (st == QN_OK) st = list_parts(t, d, err);
    if (st == QN_OK) st = cut_chunks(t, d->chunks, err);
    if (st == QN_OK && d->from_file && t->staging_bytes > 0) st = take_staging(t, err);
    return st;
}

void qni_tier_fini(qni_tier *t)
{
    for (int32_t i = 0; t->stage != NULL && i < t->devices * t->stages; i++) qn_stage_close(t->stage[i]);
    for (int32_t w = 0; w < t->devices; w++) {
        if (t->exec != NULL && t->exec[w].team != NULL) qn_team_close(t->exec[w].team);
        if (t->scratch != NULL) qn_arena_close(&t->scratch[w]);
        if (t->staging != NULL && t->staging[w] != NULL) qn_free_pages(t->staging[w], t->staging_bytes);
    }
    qn_free(t->staging);
    if (t->block != NULL) qn_free_pages(t->block, t->block_bytes);
    qn_free(t->exec);
    qn_free(t->unwanted);
    qn_free(t->scratch);
    qn_free(t->stage);
    qn_free(t->bound);
    qn_free(t->packed_bytes);
    qn_free(t->first_layer);
    qn_free(t->part);
    qn_free(t->first_part);
    qn_free(t->chunk_first);
    qn_free(t->chunk_bytes);
    qn_free(t->host);
    qn_free(t->begins);
    qn_free(t->partial);
    *t = (qni_tier){0};
}

void qni_tier_reset_scratch(qni_tier *t)
{
    for (int32_t w = 0; w < t->devices; w++) qn_arena_release(&t->scratch[w], 0);
}

/* --- the plan */

static qn_status lower_with(qn_plan **out, const qni_tier *t, const qn_order *order, qn_lowering how, const qni_tier_window *w,
                            int32_t window, qn_err *err)
{
    const qn_tiers tiers = {.window = window,
                            .replace = qn_min32(w->replace, window),
                            .chunk_first = t->chunk_first,
                            .chunk_bytes = t->chunk_bytes,
                            .packed_bytes = t->direct ? NULL : t->packed_bytes,
                            .pgrad_bytes = t->pgrad_bytes,
                            .lag = w->lag,
                            .groups = w->groups,
                            .keep = w->keep};
    how.act_bytes = t->need;
    how.stash_bytes = t->need + t->stages;
    how.wstash_bytes = t->need + 2 * t->stages;
    how.tiers = &tiers;
    return qn_lower(out, order, &how, err);
}

/* What a device needs for the parts of a plan that the cursor brings to it. */
static int64_t needs(const qn_plan *p, int32_t device)
{
    int64_t bytes = 0;
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t k = 0; k < qn_cursor_period(p); k++)
            if (qn_turned(w, p->workers, qn_step_turn(p), k) == device) bytes = qn_max64(bytes, p->arena_bytes[w]);
    return bytes;
}

/* Whether the arenas of a plan fit, and else by how much the worst does not. */
static int64_t excess(const qn_plan *p, const int64_t *limit, int32_t *worst)
{
    int64_t over = 0;
    for (int32_t w = 0; limit != NULL && w < p->workers; w++) {
        if (needs(p, w) - limit[w] <= over) continue;
        over = needs(p, w) - limit[w];
        *worst = w;
    }
    return over;
}

/* The largest piece of a device, and what it alone takes there: its weights, packed weights and gradients. */
static int32_t largest_piece(const qni_tier *t, const qn_order *order, int32_t device, int64_t *bytes)
{
    int32_t largest = QN_NONE;
    *bytes = -1;
    for (int32_t s = 0; s < t->stages; s++) {
        if (!runs(order, device, s)) continue;
        int64_t here = t->direct ? 0 : t->packed_bytes[s] + t->pgrad_bytes[s];
        for (int32_t c = t->chunk_first[s]; c < t->chunk_first[s + 1]; c++) here += aligned(t->chunk_bytes[c]);
        if (here > *bytes) largest = s;
        *bytes = qn_max64(*bytes, here);
    }
    return largest;
}

/* The sentence for a device of `has` bytes, where a window of one piece wants more. */
static qn_status too_little(const qni_tier *t, const qn_order *order, int32_t device, int64_t has, int64_t wants, bool window,
                            qn_err *err)
{
    char which[64];
    int64_t bytes;
    const int32_t s = largest_piece(t, order, device, &bytes), last = qn_model_layers(t->model) - 1;
    const int32_t *layer = &t->first_layer[qn_chain_stage(t->grid, s)], from = layer[0], to = layer[1] - 1;
    if (from < to)
        snprintf(which, sizeof(which), "stage %d (layers %d to %d)", qn_chain_stage(t->grid, s), from, to);
    else
        snprintf(which, sizeof(which), "layer %d (%s)", from,
                 from == 0      ? "the embedding"
                 : from == last ? "the head"
                                : "a block");
    if (has < bytes)
        return QN_FAIL(err, QN_EINVAL,
                       "a device memory of %" PRId64 " bytes is smaller than one %s: %s of layers 0 to %d needs %" PRId64
                       " bytes for its weights%s alone; the smallest that would do is %" PRId64 "%s",
                       has, from < to ? "stage" : "layer", which, last, bytes, t->direct ? "" : ", packed weights and gradients",
                       wants, from < to ? " (more and smaller stages need less)" : "");
    return QN_FAIL(err, QN_EINVAL,
                   "device %d has %" PRId64
                   " bytes, too few%s; the smallest that would do, with a window of one piece, is %" PRId64
                   " (fewer samples in a micro-batch, or more and smaller pieces, need less)",
                   device, has, window ? " for this window" : "", wants);
}

qn_status qni_tier_lower(qn_plan **out, const qni_tier *t, const qn_order *order, qn_lowering how, const qni_tier_window *w,
                         qn_err *err)
{
    const int64_t *limit = how.arena_limit;
    const int32_t most = w->window > 0 ? w->window : t->stages;
    int32_t worst = 0;
    how.arena_limit = NULL;
    *out = NULL;
    for (int32_t k = most; k >= 1; k = k > 8 && w->window == 0 ? k * 3 / 4 : k - 1) {
        if (w->window > 0 && k < most) k = 1; /* only to say what would do */
        qn_plan *p = NULL;
        const qn_status st = lower_with(&p, t, order, how, w, k, err);
        if (st != QN_OK) return st;
        const int64_t over = excess(p, limit, &worst);
        if (over == 0 && (w->window == 0 || k == most)) {
            for (int32_t i = 0; limit != NULL && i < p->workers; i++) p->arena_limit[i] = limit[i];
            *out = p;
            return QN_OK;
        }
        const int64_t wants = needs(p, worst);
        qn_plan_close(p);
        if (k == 1) return too_little(t, order, worst, limit[worst], wants, most > 1 && w->window > 0, err);
    }
    return QN_OK;
}

qn_status qni_tier_attach(qni_tier *t, const qn_plan *p, qn_err *err)
{
    const int32_t each = p->values / p->steps; /* the same in every step of a flight */
    bool *seen = qn_calloc((size_t)p->values, sizeof(*seen));
    t->plan = p;
    t->host = qn_calloc((size_t)p->values, sizeof(void *));
    t->begins = qn_calloc((size_t)p->tasks, sizeof(*t->begins));
    t->partial = qn_calloc((size_t)p->values, sizeof(*t->partial));
    size_t bytes = 0;
    for (int32_t v = 0; v < each; v++)
        if (p->value[v].host && (p->value[v].cls == QN_V_ACT || p->value[v].cls == QN_V_GRAD))
            bytes += (size_t)aligned(p->value[v].bytes);
    t->block_bytes = bytes;
    t->block = bytes > 0 ? qn_alloc_pages(bytes) : NULL;
    if (seen == NULL || t->host == NULL || t->begins == NULL || t->partial == NULL || (bytes > 0 && t->block == NULL)) {
        qn_free(seen);
        return QN_FAIL(err, QN_ENOMEM, "the host needs %zu bytes for the inputs of stages", bytes);
    }
    char *at = t->block;
    for (int32_t v = 0; v < each; v++) {
        if (!p->value[v].host || (p->value[v].cls != QN_V_ACT && p->value[v].cls != QN_V_GRAD)) continue;
        t->host[v] = at;
        at += aligned(p->value[v].bytes);
    }
    for (int32_t v = each; v < p->values; v++) t->host[v] = t->host[v - each];
    for (int32_t i = 0; i < p->tasks; i++) { /* sums that go on in another round */
        if (p->task[i].op != QN_OP_LOAD || p->value[p->ref[p->task[i].in.first]].cls != QN_V_PGRAD) continue;
        t->partial[p->ref[p->task[i].in.first]] = true;
        seen[p->ref[p->task[i].out.first]] = true;
    }
    for (int32_t i = 0; i < p->tasks; i++) {
        if (p->task[i].acc.count != 1) continue;
        const int32_t v = p->ref[p->task[i].acc.first];
        t->begins[i] = !seen[v] && p->value[v].offset != QN_NONE;
        seen[v] = true;
    }
    qn_free(seen);
    return QN_OK;
}

/* --- tasks */

/* A piece's last chunk, where its weights come up packed. */
static bool is_packed(const qni_tier *t, const qn_value *v)
{
    return t->direct && t->packed_bytes[v->stage] > 0 && v->item == t->chunk_first[v->stage + 1] - t->chunk_first[v->stage] - 1;
}

qn_stage *qni_tier_bind(qni_tier *t, qn_executor *ex, int32_t index)
{
    const qn_plan *p = t->plan;
    const qn_task *task = &p->task[index];
    const int32_t s = task->stage, params = qn_model_params(t->model);
    void **value = t->bound + (size_t)task->worker * (size_t)(params + qn_model_uses(t->model)), **grad = value + params;
    qn_stage_binding b = {.value = value, .grad = t->grad != NULL ? grad : NULL};
    for (int32_t k = 0; k < 2; k++) {
        const qn_span span = k == 0 ? task->in : task->out;
        for (int32_t i = 0; i < span.count; i++) {
            const int32_t v = p->ref[span.first + i];
            if (p->value[v].cls == QN_V_PACKED) b.packed = qn_executor_value(ex, v);
            if (p->value[v].cls != QN_V_PARAM) continue;
            char *at = qn_executor_value(ex, v);
            if (is_packed(t, &p->value[v])) b.packed = at;
            for (int32_t j = t->first_part[s]; j < t->first_part[s + 1]; j++)
                if (t->part[j].chunk == p->value[v].item) value[t->part[j].index] = at + t->part[j].offset;
        }
    }
    if (task->acc.count == 1) {
        char *at = qn_executor_value(ex, p->ref[task->acc.first]);
        if (t->begins[index]) memset(at, 0, (size_t)t->pgrad_bytes[s]);
        for (int32_t j = t->first_grad[s]; j < t->first_grad[s + 1]; j++) grad[t->part[j].index] = at + t->part[j].offset;
    }
    qn_stage *stage = t->stage[task->worker * t->stages + s];
    qn_stage_bind(stage, &b);
    return stage;
}

void *qni_tier_home(const qni_tier *t, int32_t value, size_t *bytes)
{
    *bytes = (size_t)t->plan->value[value].bytes;
    return t->host[value];
}

/* Number of a parameter or use of the piece among those of all shards. */
static int32_t in_homes(const qni_tier *t, int32_t s, int32_t index)
{
    return index * t->grid.shards + qn_shard(t->grid, s);
}

/* The bytes of one part within [at, at + bytes) of its chunk. grad: the replica's, NULL for a parameter. */
static qn_status copy_part(qni_tier *t, int32_t s, const qni_part *part, char *arena, bool up, void *const *grad, int64_t at,
                           int64_t bytes, qn_err *err)
{
    const int64_t from = qn_max64(at, part->offset), to = qn_min64(at + bytes, part->offset + part->bytes);
    if (from >= to) return QN_OK;
    const int64_t skip = from - part->offset;
    if (!up)
        memcpy((char *)grad[in_homes(t, s, part->index)] + skip, arena + from, (size_t)(to - from));
    else if (grad != NULL)
        memcpy(arena + from, (const char *)grad[part->index] + skip, (size_t)(to - from));
    else if (t->value != NULL)
        memcpy(arena + from, (const char *)t->value[in_homes(t, s, part->index)] + skip, (size_t)(to - from));
    else
        return t->read(t->read_ctx, part->index, skip / (int64_t)t->element, (to - from) / (int64_t)t->element, arena + from,
                       err);
    return QN_OK;
}

typedef struct packing {
    qni_tier *t;
    int32_t device, stage;
} packing;

static qn_status value_to_pack(void *ctx, const void **value, int32_t param, qn_err *err)
{
    const packing *x = ctx;
    *value = x->t->value != NULL ? x->t->value[in_homes(x->t, x->stage, param)] : x->t->staging[x->device];
    if (x->t->value != NULL) return QN_OK;
    return x->t->read(x->t->read_ctx, param, 0, qn_model_param(x->t->model, param)->count, x->t->staging[x->device], err);
}

qn_status qni_tier_copy(qni_tier *t, qn_executor *ex, int32_t task, size_t at, size_t bytes, qn_err *err)
{
    const qn_plan *p = t->plan;
    const qn_task *x = &p->task[task];
    const int32_t in = p->ref[x->in.first], out = p->ref[x->out.first];
    const bool up = x->op == QN_OP_LOAD;
    const qn_value *v = &p->value[in];
    if (v->cls == QN_V_ACT || v->cls == QN_V_GRAD) {
        const char *from = up ? t->host[in] : qn_executor_value(ex, in);
        char *to = up ? qn_executor_value(ex, out) : t->host[out];
        memcpy(to + at, from + at, bytes);
        return QN_OK;
    }
    const bool param = v->cls == QN_V_PARAM;
    const int32_t *first = (param ? t->first_part : t->first_grad) + v->stage;
    void *const *grad = param ? NULL : t->grad[qn_replica(t->grid, v->stage)];
    char *arena = qn_executor_value(ex, up ? out : in);
    if (param && is_packed(t, v)) { /* on the lane's thread alone */
        packing from = {.t = t, .device = p->value[out].worker, .stage = v->stage};
        return qn_stage_pack_part(t->stage[from.device * t->stages + v->stage], &(qn_exec){.team = NULL}, arena, at, bytes,
                                  value_to_pack, &from, err);
    }
    for (int32_t i = first[0]; i < first[1]; i++) {
        if (param && t->part[i].chunk != v->item) continue;
        const qn_status st = copy_part(t, v->stage, &t->part[i], arena, up, grad, (int64_t)at, (int64_t)bytes, err);
        if (st != QN_OK) return st;
    }
    if (!param && !up && t->landed != NULL && !t->partial[out] && at + bytes == (size_t)v->bytes)
        t->landed(t->landed_ctx, v->stage, v->item);
    return QN_OK;
}
