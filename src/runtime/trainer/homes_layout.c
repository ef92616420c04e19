/* The homes' layout: who owns what, and where each array lies in its worker's blocks. */
#include "homes_layout.h"

#include "core/alloc.h"
#include "core/checked.h"

static size_t bytes_of(const qni_homes *h, int32_t param)
{
    return (size_t)qni_home_param(h, param)->count * h->element;
}

/* Rows of a table that is cut into vocabulary shards? */
static bool is_cut(const qni_homes *h, int32_t p)
{
    return qn_model_config_of(h->set->model)->vocab_shards > 0 && qni_home_param(h, p)->layer >= qn_model_chain(h->set->model);
}

static int32_t chain_stage_of_layer(const qn_stage_set *s, int32_t layer)
{
    int32_t i = 0;
    while (layer >= s->first_layer[i + 1]) i++;
    return i;
}

static qn_status take_tables(qni_homes *h, qn_err *err)
{
    const size_t W = (size_t)h->set->workers, N = (size_t)h->params, U = (size_t)h->uses, R = (size_t)qn_replicas(h->grid),
                 S = (size_t)h->grid.stages, D = (size_t)qn_depth(h->grid);
    h->owner = qn_calloc(N, sizeof(*h->owner));
    h->first_use = qn_calloc(N, sizeof(*h->first_use));
    h->use_chain = qn_calloc(U, sizeof(*h->use_chain));
    h->use_at = qn_calloc(U, sizeof(*h->use_at));
    h->bundle = qn_calloc(D * R, sizeof(*h->bundle));
    h->region_size = qn_calloc(D, sizeof(*h->region_size));
    h->region = qn_calloc(S, sizeof(*h->region));
    h->value = qn_calloc(3 * W + 2 * R, sizeof(*h->value));
    h->table = qn_calloc(3 * W * N + 2 * R * U, sizeof(*h->table));
    h->block = qn_calloc(W * QNI_BLOCKS, sizeof(*h->block));
    if (h->owner == NULL || h->first_use == NULL || h->use_chain == NULL || h->use_at == NULL || h->bundle == NULL ||
        h->region_size == NULL || h->region == NULL || h->value == NULL || h->table == NULL || h->block == NULL)
        return QN_FAIL(err, QN_ENOMEM, "no memory for the tables of %d parameters", h->params);
    h->m = h->value + W;
    h->v = h->m + W;
    h->grad = h->v + W;
    h->sum = h->grad + R;
    void **at = h->table;
    for (size_t i = 0; i < 3 * W; i++, at += N) h->value[i] = at;
    for (size_t i = 0; i < 2 * R; i++, at += U) h->grad[i] = at;
    return QN_OK;
}

/* Where the uses are; a parameter's first use is where it lives. */
static qn_status find_uses(qni_homes *h, qn_err *err)
{
    const int32_t t = h->shards;
    h->tied = h->tied_use = QN_NONE;
    for (int32_t p = 0; p < h->params; p++) h->first_use[p] = QN_NONE;
    for (int32_t u = 0; u < h->uses; u++) {
        const int32_t p = qni_use_param(h, u);
        h->use_chain[u] = chain_stage_of_layer(h->set, qn_model_use(h->set->model, u / t)->layer);
        if (h->first_use[p] == QN_NONE) h->first_use[p] = u;
        if (h->use_chain[u] == h->use_chain[h->first_use[p]] || qni_homes_frozen(h, p)) continue;
        if (h->tied != QN_NONE && h->tied / t != p / t)
            return QN_FAIL(err, QN_EUNSUPPORTED, "parameters '%s' and '%s' are both shared between stages; one can be",
                           qni_home_param(h, h->tied)->name, qni_home_param(h, p)->name);
        h->tied = p / t * t;
        h->tied_use = u / t * t;
    }
    return QN_OK;
}

/* The embedding's use of a table whose other use is in the same stage. Accumulators that travel, or of which there are several,
 * are whole. */
static void find_rows(qni_homes *h)
{
    const bool whole = h->shards > 1 || qn_replicas(h->grid) > 1 || h->levels > 0 || h->set->unpacked;
    if (whole || qn_model_config_of(h->set->model)->vocab_shards > 0) return;
    for (int32_t u = 0; u < h->uses; u++) {
        const int32_t p = qni_use_param(h, u), first = h->first_use[p];
        if (u == first || qni_homes_frozen(h, p) || h->use_chain[u] != h->use_chain[first]) continue;
        if (qn_model_use(h->set->model, first)->layer == 0) h->rows_use = first;
    }
}

/* The largest parameter of chain stage s (shard 0's) that has no owner yet, or QN_NONE. */
static int32_t largest_without(const qni_homes *h, int32_t s)
{
    int32_t best = QN_NONE;
    for (int32_t p = 0; p < h->params; p += h->shards) {
        if (h->owner[p] != QN_NONE || h->use_chain[h->first_use[p]] != s) continue;
        if (best == QN_NONE || bytes_of(h, p) > bytes_of(h, best)) best = p;
    }
    return best;
}

/* Each parameter of a stage, in all shards, to the replica that owns the fewest bytes of the stage so far, large ones first. */
static qn_status deal_out(qni_homes *h, qn_err *err)
{
    const int32_t R = qn_replicas(h->grid);
    size_t *load = qn_calloc((size_t)R, sizeof(*load));
    if (load == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for %d replicas", R);
    for (int32_t p = 0; p < h->params; p++) h->owner[p] = QN_NONE;
    for (int32_t s = 0; s < qn_depth(h->grid); s++) {
        for (int32_t r = 0; r < R; r++) load[r] = 0;
        for (int32_t p; (p = largest_without(h, s)) != QN_NONE;) {
            int32_t to = 0;
            for (int32_t r = 1; r < R; r++)
                if (load[r] < load[to]) to = r;
            for (int32_t k = 0; k < h->shards; k++) h->owner[p + k] = qn_stage_at(h->grid, to * h->shards + k, s);
            load[to] += qni_homes_frozen(h, p) ? 0 : bytes_of(h, p);
        }
    }
    qn_free(load);
    return QN_OK;
}

/* Offsets in a stage's region: by owner, first uses before others. */
static void lay_region(qni_homes *h, int32_t s)
{
    const int32_t R = qn_replicas(h->grid);
    size_t end = 0;
    for (int32_t r = 0; r < R; r++) {
        qni_bundle *b = &h->bundle[s * R + r];
        b->at = qni_line_up(end);
        for (int others = 0; others < 2; others++) {
            for (int32_t u = 0; u < h->uses; u += h->shards) { /* the parts of a parameter are alike */
                const int32_t p = qni_use_param(h, u);
                if (h->use_chain[u] != s || qni_homes_frozen(h, p) || qn_replica(h->grid, h->owner[p]) != r ||
                    (u != h->first_use[p]) != (others == 1))
                    continue;
                if (others == 1 && h->rows_use == h->first_use[p]) { /* shared */
                    h->use_at[u] = h->use_at[h->rows_use];
                    continue;
                }
                for (int32_t k = 0; k < h->shards; k++) {
                    h->use_at[u + k] = qni_line_up(end);
                    QN_ASSERT(bytes_of(h, p + k) == bytes_of(h, p));
                }
                end = h->use_at[u] + bytes_of(h, p);
                b->bytes = end - b->at;
                if (others == 0) b->values = b->bytes;
                /* Rows of two whole tables cannot travel as one: with replicas none owns both. */
                QN_ASSERT(R == 1 || others == 1 || !is_cut(h, p) || b->values == bytes_of(h, p));
            }
        }
    }
    h->region_size[s] = end;
}

/* --- blocks */

/* Is a shard of stage s of the chain on worker w, in any replica? */
static bool is_on(const qni_homes *h, int32_t w, int32_t s, int32_t shard)
{
    for (int32_t r = 0; r < qn_replicas(h->grid); r++)
        if (qni_homes_worker(h, qn_stage_at(h->grid, r * h->shards + shard, s)) == w) return true;
    return false;
}

/* Is a use, in any replica? */
static bool use_is_on(const qni_homes *h, int32_t w, int32_t u)
{
    return is_on(h, w, h->use_chain[u], u % h->shards);
}

/* The values that one replica owns of a stage, as one array. */
static void lay_bundle(qni_homes *h, qn_arena *a, int32_t w, int32_t s, int32_t shard, int32_t r)
{
    const qni_bundle *b = &h->bundle[s * qn_replicas(h->grid) + r];
    char *base = b->values > 0 ? qn_arena_push(a, b->values, 1, QN_CACHE_LINE) : NULL;
    for (int32_t p = shard; base != NULL && p < h->params; p += h->shards) {
        const int32_t u = h->first_use[p];
        if (h->use_chain[u] == s && !qni_homes_frozen(h, p) && qn_replica(h->grid, h->owner[p]) == r)
            h->value[w][p] = base + (h->use_at[u] - b->at);
    }
}

/* Their part of the whole table, on the owner's worker: array 0 value, 1 m, 2 v. NULL: no such rows, or not there. */
static char *part_of_whole(const qni_homes *h, int32_t w, int32_t p, int32_t array)
{
    if (!is_cut(h, p) || qni_homes_worker(h, h->owner[p]) != w) return NULL;
    const qn_param *q = qni_home_param(h, p);
    const int32_t table = q->origin == 0 ? 0 : 1;
    return h->whole[table] + (size_t)array * h->whole_bytes[table] + (size_t)q->slice.shard * bytes_of(h, p);
}

static qn_status take_whole(qni_homes *h, qn_err *err)
{
    for (int32_t p = 0; p < h->params; p++) {
        if (!is_cut(h, p)) continue;
        const qn_param *q = qni_home_param(h, p);
        const int32_t table = q->origin == 0 ? 0 : 1, arrays = q->frozen ? 1 : 3;
        if (h->whole[table] != NULL) continue;
        h->whole_bytes[table] = (size_t)q->slice.shards * bytes_of(h, p);
        h->whole_arrays[table] = arrays;
        h->whole[table] = qn_alloc_pages((size_t)arrays * h->whole_bytes[table]);
        if (h->whole[table] == NULL)
            return QN_FAIL(err, QN_ENOMEM, "no memory for the %d x %zu bytes of '%s'", arrays, h->whole_bytes[table], q->name);
    }
    return QN_OK;
}

/* Values that travel together lie together; then those that stay as they are, and those whose first use is elsewhere. */
static void lay_values(qni_homes *h, qn_arena *a, int32_t w)
{
    for (int32_t p = 0; p < h->params; p++) h->value[w][p] = NULL;
    for (int32_t s = 0; s < h->set->chain; s++)
        for (int32_t k = 0; k < h->shards; k++)
            for (int32_t r = 0; is_on(h, w, s, k) && r < qn_replicas(h->grid); r++) lay_bundle(h, a, w, s, k, r);
    for (int32_t p = 0; p < h->params; p++)
        if (part_of_whole(h, w, p, 0) != NULL) h->value[w][p] = part_of_whole(h, w, p, 0);
    for (int32_t u = 0; u < h->uses; u++) {
        const int32_t p = qni_use_param(h, u);
        if (h->value[w][p] != NULL || !use_is_on(h, w, u)) continue;
        if (!qni_homes_frozen(h, p) && !is_cut(h, p) && use_is_on(h, w, h->first_use[p])) continue; /* in a bundle */
        h->value[w][p] = qn_arena_push(a, bytes_of(h, p), 1, QN_CACHE_LINE);
    }
}

static void lay_grads(qni_homes *h, qn_arena *a, int32_t w)
{
    for (int32_t stage = 0; stage < h->grid.stages; stage++) {
        const int32_t s = qn_chain_stage(h->grid, stage), r = qn_replica(h->grid, stage);
        if (qni_homes_worker(h, stage) != w || h->region_size[s] == 0) continue;
        const size_t line = qni_line_up(h->region_size[s]);
        h->region[stage] = qn_arena_push(a, (size_t)h->levels * line + h->region_size[s], 1, QN_CACHE_LINE);
        for (int32_t u = qn_shard(h->grid, stage); h->region[stage] != NULL && u < h->uses; u += h->shards) {
            if (h->use_chain[u] != s || qni_homes_frozen(h, qni_use_param(h, u))) continue;
            h->grad[r][u] = h->region[stage] + h->use_at[u];
            h->sum[r][u] = h->region[stage] + (size_t)h->levels * line + h->use_at[u];
        }
        if (h->rows_use == QN_NONE || qni_use_stage(h, r, h->rows_use) != stage) continue;
        const qn_param *table = qni_home_param(h, qni_use_param(h, h->rows_use));
        qn_row_sums_lay(&h->rows, a, table->dim[0], table->dim[1], h->tokens, h->element);
    }
}

static void lay_moments(qni_homes *h, qn_arena *a, int32_t w)
{
    for (int32_t p = 0; p < h->params; p++) {
        const bool here = h->zero1 ? qni_homes_worker(h, h->owner[p]) == w : use_is_on(h, w, h->first_use[p]);
        if (!here || qni_homes_frozen(h, p)) continue;
        h->m[w][p] = part_of_whole(h, w, p, 1);
        h->v[w][p] = part_of_whole(h, w, p, 2);
        if (h->m[w][p] != NULL) continue;
        h->m[w][p] = qn_arena_push(a, bytes_of(h, p), 1, QN_CACHE_LINE);
        h->v[w][p] = qn_arena_push(a, bytes_of(h, p), 1, QN_CACHE_LINE);
    }
}

static void lay_block(qni_homes *h, qn_arena *a, int32_t w, int32_t block)
{
    if (block == QNI_BLOCK_VALUES)
        lay_values(h, a, w);
    else if (block == QNI_BLOCK_GRADS)
        lay_grads(h, a, w);
    else
        lay_moments(h, a, w);
}

static qn_status take_blocks(qni_homes *h, qn_err *err)
{
    for (int32_t w = 0; w < h->set->workers; w++) {
        for (int32_t b = 0; b < QNI_BLOCKS; b++) {
            qn_arena *a = &h->block[w * QNI_BLOCKS + b], probe = QN_ARENA_PROBE;
            lay_block(h, &probe, w, b);
            if (probe.used == 0) continue;
            const qn_status st = probe.failed
                                     ? QN_FAIL(err, QN_ENOMEM, "the parameters of worker %d do not fit into the address space", w)
                                     : qn_arena_open(a, probe.used, err);
            if (st != QN_OK) return st;
            lay_block(h, a, w, b);
        }
    }
    return QN_OK;
}

qn_status qni_homes_lay(qni_homes *h, qn_err *err)
{
    qn_status st = take_tables(h, err);
    if (st == QN_OK) st = find_uses(h, err);
    if (st == QN_OK) find_rows(h);
    if (st == QN_OK) st = deal_out(h, err);
    for (int32_t s = 0; st == QN_OK && s < qn_depth(h->grid); s++) lay_region(h, s);
    if (st == QN_OK) st = take_whole(h, err);
    return st == QN_OK ? take_blocks(h, err) : st;
}
