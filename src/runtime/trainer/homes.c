#include "homes.h"

#include <math.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "homes_layout.h"

static int64_t count_of(const qni_homes *h, int32_t param)
{
    return qni_home_param(h, param)->count;
}

bool qni_homes_frozen(const qni_homes *h, int32_t param)
{
    return qni_home_param(h, param)->frozen;
}

qn_status qni_homes_init(qni_homes *h, const qn_stage_set *set, const qni_homes_shape *shape, qn_err *err)
{
    *h = (qni_homes){.set = set,
                     .grid = qni_stage_set_grid(set, shape->items),
                     .groups = shape->groups,
                     .zero1 = shape->zero1,
                     .tokens = shape->tokens,
                     .rows_use = QN_NONE,
                     .shards = set->shards,
                     .params = qn_model_params(set->model) * set->shards,
                     .uses = qn_model_uses(set->model) * set->shards,
                     .element = qn_dtype_bytes(set->k->param)};
    for (int32_t n = shape->groups / qn_replicas(h->grid); n > 1; n /= 2) h->levels++;
    return qni_homes_lay(h, err);
}

void qni_homes_fini(qni_homes *h)
{
    for (int32_t i = 0; h->block != NULL && i < h->set->workers * QNI_BLOCKS; i++) qn_arena_close(&h->block[i]);
    qn_free(h->block);
    qn_free(h->table);
    qn_free(h->value);
    for (int i = 0; i < 2; i++)
        if (h->whole[i] != NULL) qn_free_pages(h->whole[i], (size_t)h->whole_arrays[i] * h->whole_bytes[i]);
    qn_free(h->region);
    qn_free(h->region_size);
    qn_free(h->bundle);
    qn_free(h->use_at);
    qn_free(h->use_chain);
    qn_free(h->first_use);
    qn_free(h->owner);
    *h = (qni_homes){0};
}

void *qni_homes_join(const qni_homes *h, int32_t stage, int32_t index, int64_t *count)
{
    const int32_t s = qn_chain_stage(h->grid, stage), r = qn_replica(h->grid, stage);
    for (int32_t u = qn_shard(h->grid, stage); u < h->uses; u += h->shards) {
        const int32_t p = qni_use_param(h, u);
        if (h->use_chain[u] != s || qn_replica(h->grid, h->owner[p]) != r || !qni_homes_joined(h, p) || index-- > 0) continue;
        *count = count_of(h, p);
        return h->sum[r][u];
    }
    return NULL;
}

/* ---- values */

typedef struct initial_job {
    qni_homes *h;
    uint64_t seed;
    int32_t worker;
} initial_job;

static void initial_part(void *ctx, int32_t thread, int32_t threads)
{
    const initial_job *job = ctx;
    const qni_homes *h = job->h;
    int32_t turn = 0;
    for (int32_t p = 0; p < h->params; p++) {
        if (qni_homes_worker(h, h->owner[p]) != job->worker || turn++ % threads != thread) continue;
        qn_model_init_param(qni_stage_set_part(h->set, p % h->shards), p / h->shards, job->seed, h->set->k->param,
                            h->value[job->worker][p]);
    }
}

void qni_homes_set_initial(qni_homes *h, uint64_t seed)
{
    for (int32_t w = 0; w < h->set->workers; w++) {
        initial_job job = {.h = h, .seed = seed, .worker = w};
        qn_exec_run(&h->set->exec[w], initial_part, &job);
    }
    qni_homes_refresh(h);
}

void qni_homes_refresh(qni_homes *h)
{
    for (int32_t s = 0; s < h->set->stages; s++) qn_stage_forget_packs(h->set->stage[s]);
    for (int32_t w = 0; w < h->set->workers; w++) {
        for (int32_t p = 0; p < h->params; p++) {
            const int32_t from = qni_homes_worker(h, h->owner[p]);
            const size_t bytes = (size_t)count_of(h, p) * h->element;
            if (from == w) continue;
            if (h->value[w][p] != NULL) memcpy(h->value[w][p], h->value[from][p], bytes);
            if (h->m[w][p] != NULL) memcpy(h->m[w][p], h->m[from][p], bytes);
            if (h->v[w][p] != NULL) memcpy(h->v[w][p], h->v[from][p], bytes);
        }
    }
}

int64_t qni_homes_bytes(const qni_homes *h, int32_t block)
{
    int64_t bytes = 0;
    for (int32_t w = 0; w < h->set->workers; w++) bytes += (int64_t)h->block[w * QNI_BLOCKS + block].used;
    for (int i = 0; i < 2; i++)
        bytes += (int64_t)h->whole_bytes[i] * (block == QNI_BLOCK_GRADS     ? 0
                                               : block == QNI_BLOCK_MOMENTS ? qn_max32(h->whole_arrays[i] - 1, 0)
                                                                            : 1);
    return bytes;
}

int64_t qni_homes_most(const qni_homes *h, int32_t block)
{
    int64_t bytes = 0;
    for (int32_t w = 0; w < h->set->workers; w++) bytes = qn_max64(bytes, (int64_t)h->block[w * QNI_BLOCKS + block].used);
    return bytes;
}

int32_t qni_homes_not_finite(const qni_homes *h)
{
    for (int32_t p = 0; p < h->params; p++) {
        const void *value = h->value[qni_homes_worker(h, h->owner[p])][p];
        for (int64_t i = 0; i < count_of(h, p); i++)
            if (!isfinite(h->element == sizeof(double) ? ((const double *)value)[i] : (double)((const float *)value)[i]))
                return p;
    }
    return QN_NONE;
}

/* ---- gradients */

void qni_homes_clear_grads(qni_homes *h)
{
    for (int32_t w = 0; w < h->set->workers; w++) {
        const qn_arena *a = &h->block[w * QNI_BLOCKS + QNI_BLOCK_GRADS];
        if (a->base != NULL) memset(a->base, 0, a->used);
    }
}

/* NULL: the stage has no gradients. */
static char *level_of(const qni_homes *h, int32_t stage, int32_t level)
{
    const size_t size = h->region_size[qn_chain_stage(h->grid, stage)];
    return size > 0 ? h->region[stage] + (size_t)level * qni_line_up(size) : NULL;
}

void *qni_homes_sums(const qni_homes *h, int32_t stage, int32_t replica)
{
    char *sums = level_of(h, stage, h->levels);
    return sums != NULL ? sums + qni_homes_bundle(h, stage, replica).at : NULL;
}

void *qni_homes_values(const qni_homes *h, int32_t stage, int32_t replica)
{
    const int32_t s = qn_chain_stage(h->grid, stage);
    for (int32_t p = 0; p < h->params; p++) {
        const int32_t u = h->first_use[p];
        if (h->use_chain[u] == s && p % h->shards == qn_shard(h->grid, stage) && !qni_homes_frozen(h, p) &&
            qn_replica(h->grid, h->owner[p]) == replica && h->use_at[u] == qni_homes_bundle(h, stage, replica).at)
            return h->value[qni_homes_worker(h, stage)][p];
    }
    return NULL;
}

void qni_homes_count(const qni_homes *h, const qn_exec *ex, char *level, size_t stride, int32_t group, size_t bytes)
{
    for (int32_t k = 0; k < h->levels && bytes > 0; k++, level += stride) {
        h->set->k->fold(ex, level + stride, level, (int64_t)(bytes / h->element));
        if ((group >> k & 1) == 0) break;
    }
}

/* Part of a stage's region, so many bytes from `at` on. */
static void count_item(qni_homes *h, int32_t stage, int32_t item, size_t at, size_t bytes)
{
    const int32_t each = h->grid.items / h->groups, group = (item - qn_first_item(h->grid, stage)) / each;
    const size_t stride = qni_line_up(h->region_size[qn_chain_stage(h->grid, stage)]);
    if (h->levels == 0 || (item + 1) % each != 0 || bytes == 0) return;
    qni_homes_count(h, &h->set->exec[qni_homes_worker(h, stage)], level_of(h, stage, 0) + at, stride, group, bytes);
}

void qni_homes_added(qni_homes *h, int32_t stage, int32_t item)
{
    count_item(h, stage, item, 0, h->region_size[qn_chain_stage(h->grid, stage)]);
}

void qni_homes_added_to(qni_homes *h, int32_t use, int32_t stage, int32_t item)
{
    const int32_t p = qni_use_param(h, use);
    if (!qni_homes_frozen(h, p)) count_item(h, stage, item, h->use_at[use], (size_t)count_of(h, p) * h->element);
}

void qni_homes_landed(qni_homes *h, int32_t stage, int32_t group)
{
    const qn_exec alone = {.team = NULL};
    const size_t size = h->region_size[qn_chain_stage(h->grid, stage)];
    if (h->levels > 0) qni_homes_count(h, &alone, level_of(h, stage, 0), qni_line_up(size), group, size);
}

void qni_homes_reduce(qni_homes *h, int32_t stage, void **from)
{
    const int32_t replicas = qn_replicas(h->grid), own = qn_replica(h->grid, stage);
    const qni_bundle b = qni_homes_bundle(h, stage, own);
    void *const mine = from[own] = qni_homes_sums(h, stage, own);
    const qn_exec *ex = &h->set->exec[qni_homes_worker(h, stage)];
    for (int32_t stride = 1; stride < replicas; stride *= 2) {
        for (int32_t i = 0; i + stride < replicas; i += 2 * stride) {
            void *left = from[i], *right = from[i + stride];
            if (right == mine) { /* sums of two are the same bits either way round: the result stays here */
                right = left;
                left = mine;
            }
            h->set->k->fold(ex, left, right, (int64_t)(b.bytes / h->element));
            from[i] = left;
        }
    }
}
