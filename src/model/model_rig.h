/* What the tests of this folder share: a model with parameters in memory, cut into stages, and steps over them.
 *
 * Parameters come from a formula that tests/golden/model_golden.py computes too. Everything fails the test on error. */
#ifndef QN_MODEL_RIG_H
#define QN_MODEL_RIG_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "core/compiler.h"
#include "core/rng.h"
#include "model/model.h"

enum { RIG_STAGES = 16 };

typedef struct rig {
    qn_model *m;
    const qn_kernels *k;
    qn_arena scratch;
    qn_team *team;
    qn_exec ex;
    void **value, **grad; /* [params], [uses] */
    int32_t stages;
    qn_stage *stage[RIG_STAGES];
    void *packed[RIG_STAGES], *stash[RIG_STAGES], *wstash[RIG_STAGES], *rstash[RIG_STAGES];
    void *x[RIG_STAGES + 1], *dx[RIG_STAGES + 1]; /* x[s]: what enters stage s */
    double loss;
} rig;

static inline void rig_ok(qn_status st, const qn_err *err)
{
    if (st != QN_OK) fail_msg("%s: %s", qn_status_name(st), err->text);
}

static inline void *rig_bytes(size_t n)
{
    void *p = calloc(1, n + 64);
    assert_non_null(p);
    return p;
}

static inline double rig_get(qn_dtype dt, const void *p, int64_t i)
{
    return dt == QN_F64 ? ((const double *)p)[i] : dt == QN_F32 ? ((const float *)p)[i] : qn_bf16_to_f32(((const qn_bf16 *)p)[i]);
}

static inline void rig_set(qn_dtype dt, void *p, int64_t i, double v)
{
    if (dt == QN_F64)
        ((double *)p)[i] = v;
    else
        ((float *)p)[i] = (float)v;
}

/* FNV-1a of the name starts a linear congruential sequence; values spread evenly in (-0.2, 0.2), norms' weights around 1. */
static inline void rig_fill_param(const qn_param *p, qn_dtype dt, void *value)
{
    uint32_t h = 2166136261u;
    for (const char *c = p->name; *c != '\0'; c++) h = (h ^ (uint8_t)*c) * 16777619u;
    for (int64_t i = 0; i < p->count; i++) {
        h = h * 1664525u + 1013904223u;
        const float v = (float)(((double)(h >> 8) / 8388608.0 - 1.0) * 0.2 + (p->init == QN_INIT_ONE ? 1.0 : 0.0));
        rig_set(dt, value, i, v);
    }
}

static inline void rig_open(rig *r, const qn_model_config *c, qn_mode mode, int32_t threads)
{
    qn_err err;
    memset(r, 0, sizeof(*r));
    rig_ok(qn_model_open(&r->m, c, &err), &err);
    rig_ok(qn_kernels_get(&r->k, mode, &err), &err);
    if (threads > 1) rig_ok(qn_team_open(&r->team, threads, -1, &err), &err);
    r->ex = (qn_exec){.team = r->team, .scratch = &r->scratch};
    r->value = calloc((size_t)qn_model_params(r->m), sizeof(void *));
    r->grad = calloc((size_t)qn_model_uses(r->m), sizeof(void *));
    const size_t e = qn_dtype_bytes(r->k->param);
    for (int32_t i = 0; i < qn_model_params(r->m); i++) {
        const qn_param *p = qn_model_param(r->m, i);
        r->value[i] = rig_bytes((size_t)p->count * e);
        rig_fill_param(p, r->k->param, r->value[i]);
    }
    for (int32_t u = 0; u < qn_model_uses(r->m); u++)
        r->grad[u] = rig_bytes((size_t)qn_model_param(r->m, qn_model_use(r->m, u)->param)->count * e);
}

static inline void rig_pack(rig *r)
{
    for (int32_t s = 0; s < r->stages; s++) qn_stage_pack(r->stage[s]);
}

/* Stage s holds the layers cut[s] .. cut[s + 1] - 1. */
static inline void rig_cut(rig *r, int32_t stages, const int32_t *cut, const qn_stage_limits *limits)
{
    qn_err err;
    size_t scratch = 0;
    r->stages = stages;
    for (int32_t s = 0; s < stages; s++) {
        rig_ok(qn_stage_open(&r->stage[s], r->m, cut[s], cut[s + 1] - cut[s], r->k, &r->ex, limits, &err), &err);
        const qn_stage_need *n = qn_stage_need_of(r->stage[s]);
        if (scratch < n->scratch_bytes) scratch = n->scratch_bytes;
        r->packed[s] = rig_bytes(n->packed_bytes);
        r->stash[s] = rig_bytes(n->stash_bytes);
        r->wstash[s] = rig_bytes(n->wstash_bytes);
        r->rstash[s] = rig_bytes(n->rstash_bytes);
        const qn_stage_binding b = {.value = (void *const *)r->value, .grad = (void *const *)r->grad, .packed = r->packed[s]};
        qn_stage_bind(r->stage[s], &b);
    }
    rig_ok(qn_arena_open(&r->scratch, scratch, &err), &err);
    for (int32_t s = 0; s <= stages; s++) {
        const size_t bytes = qn_stage_need_of(r->stage[0])->act_bytes;
        r->x[s] = rig_bytes(bytes);
        r->dx[s] = rig_bytes(bytes);
    }
    rig_pack(r);
}

static inline void rig_uncut(rig *r)
{
    for (int32_t s = 0; s < r->stages; s++) {
        qn_stage_close(r->stage[s]);
        free(r->packed[s]);
        free(r->stash[s]);
        free(r->wstash[s]);
        free(r->rstash[s]);
    }
    for (int32_t s = 0; s <= r->stages; s++) {
        free(r->x[s]);
        free(r->dx[s]);
    }
    qn_arena_close(&r->scratch);
    r->stages = 0;
}

static inline void rig_close(rig *r)
{
    if (r->stages > 0) rig_uncut(r);
    for (int32_t i = 0; i < qn_model_params(r->m); i++) free(r->value[i]);
    for (int32_t u = 0; u < qn_model_uses(r->m); u++) free(r->grad[u]);
    free(r->value);
    free(r->grad);
    qn_team_close(r->team);
    qn_model_close(r->m);
}

static inline void rig_clear_grads(rig *r)
{
    for (int32_t u = 0; u < qn_model_uses(r->m); u++)
        memset(r->grad[u], 0, (size_t)qn_model_param(r->m, qn_model_use(r->m, u)->param)->count * qn_dtype_bytes(r->k->param));
}

enum { RIG_SEPARATE = 1, RIG_RECOMPUTE = 2, RIG_REMAKE = 32 };

/* Bytes that show in any result that reads them. */
static inline void rig_poison(void *p, size_t n)
{
    memset(p, 0x7f, n);
}

static inline bool rig_first(const rig *r, int32_t s)
{
    return qn_stage_has_use(r->stage[s], 0);
}
static inline bool rig_last(const rig *r, int32_t s)
{
    return qn_stage_has_use(r->stage[s], qn_model_uses(r->m) - 1);
}

/* Whether any earlier stage holds the embedding, any later or this one the head: empty stages sit on either side. */
static inline bool rig_has_x(const rig *r, int32_t s)
{
    for (int32_t i = 0; i < s; i++) {
        if (rig_first(r, i)) return true;
    }
    return false;
}

static inline bool rig_has_y(const rig *r, int32_t s)
{
    for (int32_t i = s + 1; i < r->stages; i++) {
        if (rig_last(r, i)) return true;
    }
    return false;
}

/* F of all stages, then B (and W) of all stages: the loss sum, gradients added. */
static inline double rig_step(rig *r, qn_mb *mb, unsigned how)
{
    r->loss = 0;
    mb->loss = &r->loss;
    for (int32_t s = 0; s < r->stages; s++) {
        void *y = rig_has_y(r, s) ? r->x[s + 1] : NULL;
        rig_poison(r->stash[s], qn_stage_need_of(r->stage[s])->stash_bytes);
        rig_poison(r->scratch.base, r->scratch.cap);
        qn_stage_forward(r->stage[s], mb, y, rig_has_x(r, s) ? r->x[s] : NULL, r->stash[s]);
    }
    for (int32_t s = r->stages - 1; s >= 0; s--) {
        const size_t stash = qn_stage_need_of(r->stage[s])->stash_bytes, wstash = qn_stage_need_of(r->stage[s])->wstash_bytes;
        const void *x = rig_has_x(r, s) ? r->x[s] : NULL;
        void *dx = rig_has_x(r, s) ? r->dx[s] : NULL, *dy = rig_has_y(r, s) ? r->dx[s + 1] : NULL;
        if (how & RIG_RECOMPUTE) {
            rig_poison(r->stash[s], stash);
            qn_stage_forward(r->stage[s], mb, NULL, x, r->stash[s]);
        }
        mb->rstash = r->rstash[s];
        if (qn_stage_need_of(r->stage[s])->rstash_bytes > 0) {
            rig_poison(r->rstash[s], qn_stage_need_of(r->stage[s])->rstash_bytes);
            rig_poison(r->scratch.base, r->scratch.cap);
        }
        if (how & RIG_REMAKE) {
            rig_poison(r->stash[s], stash);
            qn_pass p = qn_pass_remake(r->stage[s], mb, x, r->stash[s]);
            while (qn_pass_step(&p)) continue;
        } else if (qn_stage_need_of(r->stage[s])->rstash_bytes > 0) {
            qn_stage_recompute(r->stage[s], mb, x, r->stash[s]);
        }
        rig_poison(r->scratch.base, r->scratch.cap);
        rig_poison(r->wstash[s], wstash);
        qn_stage_backward(r->stage[s], mb, dx, dy, x, r->stash[s], how & RIG_SEPARATE ? r->wstash[s] : NULL);
        if (!(how & RIG_SEPARATE)) continue;
        rig_poison(r->scratch.base, r->scratch.cap);
        qn_stage_backward_weight(r->stage[s], mb, x, r->stash[s], r->wstash[s]);
    }
    return r->loss;
}

/* n tokens in [0, V), the same for the same seed. */
static inline void rig_tokens(int32_t *t, int64_t n, int32_t V, uint32_t seed)
{
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        t[i] = (int32_t)((seed >> 8) % (uint32_t)V);
    }
}

#endif
