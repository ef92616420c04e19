/* Vocabulary parallelism for the schedules that have it: 1f1b as published, v-half reconstructed. The slots of V-Half's V passes
 * are not known to us: here the two backwards of its block stand one interval later per barrier, V passes are put where the last
 * stage's forwards end. */
#include <string.h>

#include "core/checked.h"
#include "schedule/gen/gen.h"
#include "schedule/gen/v_block.h"
#include "schedule/gen/vocab_parts.h"

enum { INTERVAL = 6 };

static qni_block later(int32_t i, int32_t P, int32_t barriers)
{
    qni_block b = qni_v_half_block(i, P);
    b.b1 += barriers * INTERVAL;
    b.b0 += barriers * INTERVAL;
    return b;
}

static qni_block two_barriers(int32_t i, int32_t P)
{
    return later(i, P, 2);
}
static qni_block one_barrier(int32_t i, int32_t P)
{
    return later(i, P, 1);
}

static qn_status v_half(qn_order **out, const qn_pattern *pat, qn_err *err)
{
    qn_order *chain = NULL;
    qn_status st;
    QN_TRY(st, qn_order_open(&chain, pat->workers, 2 * pat->workers, pat->items, err), out);
    QN_TRY(st, qni_gen_v_block(chain, pat, pat->vocab == 1 ? two_barriers : one_barrier, err), out);
    QN_TRY(st, qni_vocab_add_passes(out, chain, pat, err), out);
out:
    qn_order_close(chain);
    return st;
}

static qn_status one_f_one_b(qn_order **out, const qn_pattern *pat, int32_t sides, qn_err *err)
{
    const int64_t f = qn_max64(pat->cost[QN_OP_F], 1), b = qn_max64(pat->cost[QN_OP_BW], 1), link = pat->cost[QN_OP_SEND];
    const int32_t P = pat->workers;
    qn_order *o = NULL;
    qn_status st;
    QN_TRY(st, qn_order_open(&o, P, P + sides, pat->items, err), out);
    o->sides = sides;
    o->vocab = pat->vocab;
    for (int32_t k = 0; k < sides; k++) o->worker_of[P + k] = k % P;
    if (b >= f && link < f)
        qni_vocab_1f1b(o, pat);
    else
        QN_TRY(st, qni_vocab_list(o, pat, err), out);
    QN_TRY(st, qn_order_done(o, err), out);
    *out = o;
    o = NULL;
out:
    qn_order_close(o);
    return st;
}

qn_status qni_generate_vocab(qn_order **out, const char *name, const qn_pattern *pat, qn_err *err)
{
    const int32_t sides = pat->sides > 0 ? pat->sides : pat->workers;
    const bool half = strcmp(name, "v-half") == 0;
    qn_order *o = NULL;
    if (pat->vocab != 1 && pat->vocab != 2)
        return QN_FAIL(err, QN_EINVAL, "vocabulary parallelism by algorithm %d: 1 (two barriers) and 2 (one) are possible",
                       pat->vocab);
    if (!half && strcmp(name, "1f1b") != 0)
        return QN_FAIL(err, QN_EINVAL, "%s has no passes for a vocabulary cut into shards; 1f1b and v-half have", name);
    if (pat->sides < 0 || sides > 1024)
        return QN_FAIL(err, QN_EINVAL, "%s with %d vocabulary shards: 1 to 1024 are possible", name, pat->sides);
    if ((int64_t)sides * pat->items > INT32_MAX / 64)
        return QN_FAIL(err, QN_EINVAL, "%s with %d vocabulary shards and %d micro-batches: too many tasks for one step", name,
                       sides, pat->items);
    qn_status st = half ? v_half(&o, pat, err) : one_f_one_b(&o, pat, sides, err);
    if (st == QN_OK) st = qni_vocab_add_inputs(out, o, pat, err);
    qn_order_close(o);
    return st;
}
