/* Lowering with tiers: parameters, gradients and stage inputs live on the host; a worker's arena holds a window of weights and
 * the activations of the work at hand (RoundPipe arXiv:2604.27085; Superpipeline arXiv:2410.08791, reconstructed).
 *
 *   up     LOAD act, grad    while the group before computes
 *          LOAD pgrad        a sum that an earlier round began, for the first of those who add to it
 *          LOAD param        spread over the groups of the visit behind which they may come: chunk c only after the activation
 *                            that its group issues (so it delays an activation by one chunk at most); what the next visit itself
 *                            needs comes first
 *   comp   PACK of a stay's weights, [R] F | BW | B, W
 *   down   OFFLOAD act, grad after the group that wrote them, pgrad after its last addition (of a group of items: the down
 *          lane has a piece's groups in turn, and what takes a copy down may add it to those before)
 *   host   (worker 0) TIE NORM FOLD OPT on host memory;  with lag 1: OPT of the last step's gradients, then per stage PCOPY once
 *          its last LOAD is over and GCOPY once its gradient is down, TIE NORM FOLD;  post-validated (arXiv:2401.10241, section
 * 4; that a host does so for its devices is ours): per stage, the last one first, NORM GUESS OPT as soon as its gradient is down;
 * then FOLD, and VALIDATE of each stage, behind which the next step may load it
 *
 * R of a part that is made again early writes rstash; where the forward's stash has not stayed, the stash with it.
 *
 * With tensor shards every column has LOADs, OFFLOADs and host tasks of its own; a device holds one shard of a stage, so that
 * joint tasks stand alone in their lanes, and shards meet over the part channels as they do where weights are resident.
 *
 * A value that its reader finds in the arena (same visit, or the very next group) makes no copy. Backward recomputes unless it is
 * in its forward's visit.
 *
 * No lowered plan can lock up where the compute tasks alone could run. A LOAD is issued before place s of the comp lane, waits
 * for slots that are dropped before s, and is needed at n > s - or n >= s where it is what place s itself needs, and then nothing
 * later is issued before it; the up lane is ordered by s. An OFFLOAD waits for its writer alone and the down lane has the
 * writers' order. So comp tasks wait, along both lanes, for comp tasks before them and for what they depend on anyway. */
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "lower_tiers.h"

static const int64_t FOREVER = INT64_MAX / 4;

/* A slot of an arena in the making: count neighbouring values from value on. */
typedef struct note {
    int32_t worker, value, count, dropper; /* dropper: builder task, QN_NONE: nobody */
    int64_t from, until;
    int32_t until_group, until_visit; /* not QN_NONE: until is the end of that group, or visit, of the worker */
} note;

typedef struct cell {            /* of one (stage, item) */
    int32_t act, grad;           /* values as their writers made them; grad: of this stage's output */
    int32_t act_host, grad_host; /* values, QN_NONE: no copy */
    int32_t act_note, grad_note;
    int32_t f, b, w;  /* groups of F, of the first backward task and of the last */
    int32_t on, back; /* workers of F, and of the backward tasks */
    int32_t act_here; /* what backward reads */
    int32_t stash, stash_note, wstash, wstash_note, rstash, rstash_note, here_note;
} cell;

typedef struct tiers {
    const qn_order *o;
    const qn_lowering *how;
    const qn_tiers *t;
    qn_grid grid;
    qni_builder b;
    qni_tour *tour; /* [workers] */
    cell *cell;     /* [stages * items] */
    note *note;
    int32_t notes, note_cap;
    int32_t *load; /* LOADs of weights */
    int32_t loads, load_cap;
    int32_t *pos;                             /* [workers]: comp tasks so far */
    int32_t *chunk_host;                      /* [chunks of all stages] */
    int32_t groups;                           /* of gradients, of all replicas */
    int32_t *part;                            /* [items]: of its stage's gradients, see part_of */
    int32_t parts;                            /* of each stage */
    int32_t *pgrad, *pgrad_note, *pgrad_host; /* [stages * parts] */
    bool training;
} tiers;

static cell *cell_of(const tiers *l, int32_t s, int32_t m)
{
    return &l->cell[(size_t)s * (size_t)l->o->items + (size_t)m];
}

/* Items of a group of gradients. */
static int32_t group_items(const tiers *l)
{
    return l->o->items / l->groups;
}

/* The group of its replica that an item's gradients belong to, as item of their values: none where there is one. */
static int32_t group_of(const tiers *l, int32_t m)
{
    return l->groups > qn_replicas(l->grid) ? m % qn_items_each(l->grid) / group_items(l) : QN_NONE;
}

/* Has the stage one before it, and one behind it, that its items pass through? */
static bool has_before(const tiers *l, int32_t s)
{
    return !qn_first_in_column(l->grid, s);
}

static bool has_next(const tiers *l, int32_t s)
{
    return !qn_last_in_column(l->grid, s);
}

/* A part: items of one group and one round, whose gradients are added up in one arena. Where a round ends within a group the sum
 * goes down and, for the next round, up again, so that the fold goes on in its order. */
static bool begins_group(const tiers *l, int32_t m)
{
    return m % group_items(l) == 0;
}

static bool ends_part(const tiers *l, int32_t m)
{
    return m + 1 == l->o->items || l->part[m + 1] != l->part[m];
}

static void find_parts(tiers *l)
{
    for (int32_t m = 0; m < l->o->items; m++) {
        const bool round = m > 0 && qn_round_of(m, l->o->round) != qn_round_of(m - 1, l->o->round);
        l->parts += begins_group(l, m) || round;
        l->part[m] = l->parts - 1;
    }
}

static size_t pgrad_of(const tiers *l, int32_t s, int32_t m)
{
    return (size_t)s * (size_t)l->parts + (size_t)l->part[m];
}

static int64_t size_of(const int64_t *given, const int64_t *said, int32_t s, int64_t none)
{
    return given != NULL ? given[s] : said != NULL ? said[s] : none;
}

static int32_t add_note(tiers *l, note n)
{
    if (!l->b.failed && !qni_grow(&l->note, &l->note_cap, l->notes + 1, sizeof *l->note)) l->b.failed = true;
    if (l->b.failed) return 0;
    l->note[l->notes] = n;
    return l->notes++;
}

static int32_t add_host(tiers *l, int32_t cls, int32_t s, int32_t m, int64_t bytes)
{
    const int32_t v = qni_add_value(&l->b, cls, s, m, 0, bytes);
    if (!l->b.failed) l->b.value[v].host = l->b.value[v].carried = true;
    return v;
}

/* A value that a comp task makes at its place in the lane. */
static int32_t add_made(tiers *l, int32_t cls, int32_t s, int32_t m, int32_t w, int64_t bytes, int32_t *at)
{
    const int32_t v = qni_add_value(&l->b, cls, s, m, w, bytes);
    *at = add_note(l, (note){.worker = w,
                             .value = v,
                             .count = 1,
                             .dropper = QN_NONE,
                             .from = 2 * (int64_t)l->pos[w] - 1,
                             .until = FOREVER,
                             .until_group = QN_NONE,
                             .until_visit = QN_NONE});
    return v;
}

/* Comp task `task`, the last in its lane so far, drops the note's value. */
static void drop(tiers *l, int32_t task, int32_t at)
{
    if (l->b.failed) return;
    note *n = &l->note[at];
    n->dropper = task;
    n->until = 2 * (int64_t)l->pos[n->worker];
    qni_add_link(&l->b, task, QNI_FREE, n->value);
}

static int32_t add_comp(tiers *l, int32_t op, int32_t s, int32_t m, int32_t w)
{
    const int32_t t = qni_add_task(&l->b, op, s, m, w, QN_LANE_COMP);
    if (l->b.failed) return 0;
    l->b.key[t] = l->pos[w]++;
    const int64_t usual = op == QN_OP_BW ? 2 : qni_is_compute(op) ? 1 : 0;
    l->b.task[t].cost = l->o->cost[op] >= 0 ? l->o->cost[op] : usual;
    return t;
}

/* A LOAD or OFFLOAD of one value, issued at a place of the comp lane: before, with or behind the others of that place. */
enum { FIRST = -1, WITH = 0, BEHIND = 1 };

static int32_t add_copy(tiers *l, int32_t op, int32_t w, int32_t from, int32_t to, int64_t issued, int32_t rank)
{
    if (l->b.failed) return 0;
    const qn_value v = l->b.value[op == QN_OP_LOAD ? to : from]; /* the one in the arena */
    const int32_t t = qni_add_task(&l->b, op, v.stage, v.item, w, op == QN_OP_LOAD ? QN_LANE_UP : QN_LANE_DOWN);
    qni_add_link(&l->b, t, QNI_IN, from);
    qni_add_link(&l->b, t, QNI_OUT, to);
    if (l->b.failed) return 0;
    l->b.key[t] = 4 * issued + rank;
    const int64_t rate = l->t->bytes_per_tick;
    l->b.task[t].cost = l->t->latency + (rate > 0 ? (v.bytes + rate - 1) / rate : 0);
    return t;
}

/* ---- activations and their gradients */

/* Where the group before g begins: there the inputs of g may start to come up. */
static int64_t issue_place(const qni_tour *tour, int32_t g)
{
    return g > 0 ? tour->group[g - 1].first : 0;
}

/* A value of the host copy in the worker's arena, from a LOAD for group g. */
static int32_t bring_up(tiers *l, int32_t w, int32_t g, int32_t host, int32_t *at)
{
    if (l->b.failed) return 0;
    const qn_value v = l->b.value[host];
    const int64_t place = issue_place(&l->tour[w], g);
    const int32_t here = add_made(l, v.cls, v.stage, v.item, w, v.bytes, at);
    add_copy(l, QN_OP_LOAD, w, host, here, place, WITH);
    if (!l->b.failed) l->note[*at].from = 2 * place;
    return here;
}

/* Can the reader, group gr of worker wr, take the value from where group gw of worker ww wrote it? */
static bool is_direct(const tiers *l, int32_t ww, int32_t gw, int32_t wr, int32_t gr)
{
    const qni_group *g = l->tour[ww].group;
    return ww == wr && (g[gw].visit == g[gr].visit || gr == gw + 1);
}

static bool shares_visit(const tiers *l, const cell *c) /* forward and backward of a cell */
{
    return l->training && c->on == c->back && l->tour[c->on].group[c->f].visit == l->tour[c->back].group[c->b].visit;
}

static bool recomputes(const tiers *l, const cell *c)
{
    /* A part is made again inside backward, where the stash is kept at all. */
    const bool all = l->how->recompute != QN_RECOMPUTE_NONE && l->how->recompute != QN_RECOMPUTE_PART;
    return l->training && (all || !shares_visit(l, c));
}

/* Bytes of what R makes again besides a stash, or with it where the stash did not stay. */
static int64_t again_bytes(const tiers *l, int32_t s)
{
    const bool part = l->training && l->how->recompute == QN_RECOMPUTE_PART && l->how->rstash_bytes != NULL;
    return part ? l->how->rstash_bytes[s] : 0;
}

/* The input of (s, m), just written by F(s - 1, m) as group g of its worker: is a host copy wanted, and does the forward read it
 * right here? */
static bool act_direct(const tiers *l, int32_t s, int32_t m)
{
    const cell *from = cell_of(l, s - 1, m), *to = cell_of(l, s, m);
    return is_direct(l, from->on, from->f, to->on, to->f);
}

static bool grad_direct(const tiers *l, int32_t s, int32_t m)
{
    const cell *from = cell_of(l, s + 1, m), *to = cell_of(l, s, m);
    return is_direct(l, from->back, from->b, to->back, to->b);
}

/* ---- weights */

static int32_t chunk_first(const qn_tiers *t, int32_t s)
{
    return t->chunk_first != NULL ? t->chunk_first[s] : s;
}

static int64_t chunk_bytes(const qn_tiers *t, int32_t c)
{
    return t->chunk_bytes != NULL ? t->chunk_bytes[c] : 1;
}

/* The values of a stay, made before its first use; its LOADs follow when all places are known. */
static void begin_stay(tiers *l, int32_t w, qni_stay *y)
{
    const int32_t first = chunk_first(l->t, y->stage), end = chunk_first(l->t, y->stage + 1);
    for (int32_t c = first; c < end; c++) {
        const int32_t v = qni_add_value(&l->b, QN_V_PARAM, y->stage, c - first, w, chunk_bytes(l->t, c));
        if (c == first) y->value = v;
    }
    if (l->t->packed_bytes == NULL) return;
    const int32_t packed = qni_add_value(&l->b, QN_V_PACKED, y->stage, QN_NONE, w, l->t->packed_bytes[y->stage]);
    const int32_t pack = add_comp(l, QN_OP_PACK, y->stage, QN_NONE, w);
    for (int32_t c = 0; c < end - first; c++) qni_add_link(&l->b, pack, QNI_IN, y->value + c);
    qni_add_link(&l->b, pack, QNI_OUT, packed);
    y->packed_from = 2 * (int64_t)l->pos[w] - 1;
}

static int32_t stay_values(const tiers *l, const qni_stay *y)
{
    return chunk_first(l->t, y->stage + 1) - chunk_first(l->t, y->stage) + (l->t->packed_bytes != NULL);
}

static void read_weights(tiers *l, int32_t w, int32_t stay, int32_t task)
{
    qni_stay *y = &l->tour[w].stay[stay];
    for (int32_t i = 0; i < stay_values(l, y); i++) qni_add_link(&l->b, task, QNI_IN, y->value + i);
    y->last = task;
}

/* Where in the lane the LOAD of chunk c of n, all behind one visit, is issued: spread over the groups of the visit that follows,
 * but before it where that visit itself needs the piece. */
static int64_t load_place(const qni_tour *tour, const qni_stay *y, int32_t c, int32_t n, bool *late)
{
    const int32_t next = y->after + 1;
    const qni_visit *v = &tour->visit[next];
    *late = y->use != next;
    if (!*late) return next == 0 ? -1 : tour->group[v->first].first;
    const int32_t groups = v->last - v->first + 1;
    return tour->group[v->first + (int32_t)((int64_t)c * groups / n)].first;
}

static void load_weights(tiers *l, int32_t w)
{
    qni_tour *tour = &l->tour[w];
    for (int32_t i = 0; i < tour->stays && !l->b.failed; i++) {
        qni_stay *y = &tour->stay[i];
        if (y->value == QN_NONE) continue;
        const int32_t first = chunk_first(l->t, y->stage), n = chunk_first(l->t, y->stage + 1) - first;
        for (int32_t c = 0; c < n; c++) {
            bool late;
            const int64_t place = load_place(tour, y, c, n, &late);
            const int32_t load = add_copy(l, QN_OP_LOAD, w, l->chunk_host[first + c], y->value + c, place, late ? BEHIND : FIRST);
            if (!l->b.failed && !qni_grow(&l->load, &l->load_cap, l->loads + 1, sizeof *l->load)) l->b.failed = true;
            if (!l->b.failed) l->load[l->loads++] = load;
        }
        const int64_t from = y->after < 0 ? 0 : 2 * (int64_t)tour->group[tour->visit[y->after].last].last + 2;
        note stay = {.worker = w,
                     .value = y->value,
                     .count = n,
                     .dropper = y->forever ? QN_NONE : y->last,
                     .from = from,
                     .until = y->forever || l->b.failed ? FOREVER : 2 * l->b.key[y->last] + 2,
                     .until_group = QN_NONE,
                     .until_visit = QN_NONE};
        add_note(l, stay);
        if (stay_values(l, y) > n) { /* the packed weights: from PACK on, or with the others where they outlast the step */
            stay.value += n;
            stay.count = 1;
            if (!y->forever) stay.from = y->packed_from;
            add_note(l, stay);
        }
        for (int32_t v = 0; v < stay_values(l, y) && !l->b.failed; v++) {
            if (y->forever)
                l->b.value[y->value + v].carried = true;
            else
                qni_add_link(&l->b, y->last, QNI_FREE, y->value + v);
        }
    }
}

/* ---- the comp lane */

static void emit_forward(tiers *l, int32_t w, int32_t g)
{
    qni_group *x = &l->tour[w].group[g];
    const int32_t s = x->stage, m = x->item;
    cell *c = cell_of(l, s, m);
    int32_t in = QN_NONE, in_note = QN_NONE;
    const bool direct = has_before(l, s) && act_direct(l, s, m);
    if (direct) {
        in = c->act;
        in_note = c->act_note;
    } else if (has_before(l, s)) {
        in = bring_up(l, w, g, c->act_host, &in_note);
    }
    const int32_t t = add_comp(l, QN_OP_F, s, m, w);
    if (has_before(l, s)) qni_add_link(&l->b, t, QNI_IN, in);
    read_weights(l, w, x->stay, t);
    if (has_next(l, s)) {
        cell *next = cell_of(l, s + 1, m);
        next->act = add_made(l, QN_V_ACT, s + 1, m, w, size_of(l->how->act_bytes, l->o->act_bytes, s + 1, 1), &next->act_note);
        qni_add_link(&l->b, t, QNI_OUT, next->act);
    }
    const int32_t stash = add_made(l, QN_V_STASH, s, m, w, size_of(l->how->stash_bytes, l->o->stash_bytes, s, 1), &c->stash_note);
    qni_add_link(&l->b, t, QNI_OUT, stash);
    if (!l->training || recomputes(l, c))
        drop(l, t, c->stash_note);
    else
        c->stash = stash;
    if (has_before(l, s) && shares_visit(l, c)) {
        c->act_here = in;
        c->here_note = in_note;
    } else if (has_before(l, s) && (!direct || c->act_host == QN_NONE)) {
        drop(l, t, in_note);
    }
}

/* R before the backward of a cell: what the forward has not kept of its stash, and what it never keeps. */
static void add_recompute(tiers *l, int32_t w, const qni_group *x, cell *c, int32_t grad)
{
    const int32_t s = x->stage, m = x->item, r = add_comp(l, QN_OP_R, s, m, w);
    const bool all = recomputes(l, c);
    if (has_before(l, s)) qni_add_link(&l->b, r, QNI_IN, c->act_here);
    if (grad != QN_NONE && l->how->recompute_late) qni_add_link(&l->b, r, QNI_IN, grad);
    read_weights(l, w, x->stay, r);
    if (all) c->stash = add_made(l, QN_V_STASH, s, m, w, size_of(l->how->stash_bytes, l->o->stash_bytes, s, 1), &c->stash_note);
    qni_add_link(&l->b, r, all ? QNI_OUT : QNI_IN, c->stash);
    if (again_bytes(l, s) == 0) return;
    c->rstash = add_made(l, QN_V_RSTASH, s, m, w, again_bytes(l, s), &c->rstash_note);
    qni_add_link(&l->b, r, QNI_OUT, c->rstash);
}

static void emit_backward(tiers *l, int32_t w, int32_t g)
{
    qni_group *x = &l->tour[w].group[g];
    const int32_t s = x->stage, m = x->item;
    cell *c = cell_of(l, s, m);
    const bool first = c->b == g, last = c->w == g;
    int32_t grad = QN_NONE, grad_note = QN_NONE;
    const bool direct = has_next(l, s) && first && grad_direct(l, s, m);
    if (first && has_before(l, s) && !shares_visit(l, c)) c->act_here = bring_up(l, w, g, c->act_host, &c->here_note);
    if (first && has_next(l, s)) {
        grad = direct ? c->grad : bring_up(l, w, g, c->grad_host, &grad_note);
        if (direct) grad_note = c->grad_note;
    }
    if (first && (recomputes(l, c) || again_bytes(l, s) > 0)) add_recompute(l, w, x, c, grad);
    const int32_t t = add_comp(l, x->op, s, m, w);
    if (grad != QN_NONE) qni_add_link(&l->b, t, QNI_IN, grad);
    if (has_before(l, s)) qni_add_link(&l->b, t, QNI_IN, c->act_here);
    qni_add_link(&l->b, t, QNI_IN, c->stash);
    if (c->rstash != QN_NONE) qni_add_link(&l->b, t, QNI_IN, c->rstash);
    if (x->op == QN_OP_W) qni_add_link(&l->b, t, QNI_IN, c->wstash);
    read_weights(l, w, x->stay, t);
    if (first && has_before(l, s)) {
        cell *before = cell_of(l, s - 1, m);
        before->grad = add_made(l, QN_V_GRAD, s - 1, m, w, size_of(l->how->act_bytes, l->o->act_bytes, s, 1), &before->grad_note);
        qni_add_link(&l->b, t, QNI_OUT, before->grad);
    }
    if (x->op == QN_OP_B) {
        c->wstash = add_made(l, QN_V_WSTASH, s, m, w, size_of(l->how->wstash_bytes, l->o->wstash_bytes, s, 1), &c->wstash_note);
        qni_add_link(&l->b, t, QNI_OUT, c->wstash);
    } else {
        const size_t p = pgrad_of(l, s, m);
        if (l->pgrad[p] == QN_NONE && !begins_group(l, m)) {
            l->pgrad[p] = bring_up(l, w, g, l->pgrad_host[p - 1], &l->pgrad_note[p]);
            qni_add_link(&l->b, t, QNI_IN, l->pgrad[p]);
        } else if (l->pgrad[p] == QN_NONE) {
            l->pgrad[p] =
                add_made(l, QN_V_PGRAD, s, group_of(l, m), w, size_of(l->t->pgrad_bytes, NULL, s, 1), &l->pgrad_note[p]);
        }
        qni_add_link(&l->b, t, QNI_ACC, l->pgrad[p]);
        x->ends_gradient = ends_part(l, m); /* items come in ascending order */
    }
    if (grad != QN_NONE) drop(l, t, grad_note);
    if (!last) return;
    if (has_before(l, s)) drop(l, t, c->here_note);
    drop(l, t, c->stash_note);
    if (c->rstash != QN_NONE) drop(l, t, c->rstash_note);
    if (x->op == QN_OP_W) drop(l, t, c->wstash_note);
}

/* A copy down of a value that group g wrote; its slot is kept while the next group, or the next visit, works. */
static void take_down(tiers *l, int32_t w, int32_t g, int32_t from, int32_t to, int32_t at, bool visit)
{
    const qni_tour *tour = &l->tour[w];
    if (l->b.failed) return;
    const int32_t t = add_copy(l, QN_OP_OFFLOAD, w, from, to, tour->group[g].last, visit ? BEHIND : WITH);
    if (l->b.failed) return;
    note *n = &l->note[at];
    n->dropper = t;
    n->until_group = visit ? QN_NONE : qn_min32(g + 1, tour->groups - 1);
    n->until_visit = visit ? qn_min32(tour->group[g].visit + 1, tour->visits - 1) : QN_NONE;
    qni_add_link(&l->b, t, QNI_FREE, from);
}

/* What group g of worker w leaves for others goes down. */
static void emit_down(tiers *l, int32_t w, int32_t g)
{
    const qni_group *x = &l->tour[w].group[g];
    const int32_t s = x->stage, m = x->item;
    if (x->op == QN_OP_F && has_next(l, s)) {
        const cell *next = cell_of(l, s + 1, m);
        /* a forward that reads it right here comes first: the copy may not wait for it, but its slot may be given away by the
         * copy */
        const int32_t behind = act_direct(l, s + 1, m) ? next->f : g;
        if (next->act_host != QN_NONE) take_down(l, w, behind, next->act, next->act_host, next->act_note, false);
    }
    if (x->op == QN_OP_F) return;
    if (has_before(l, s) && cell_of(l, s, m)->b == g) {
        const cell *before = cell_of(l, s - 1, m);
        if (before->grad_host != QN_NONE) take_down(l, w, g, before->grad, before->grad_host, before->grad_note, false);
    }
    const size_t p = pgrad_of(l, s, m);
    if (x->op != QN_OP_B && l->pgrad_host[p] != QN_NONE && x->ends_gradient)
        take_down(l, w, g, l->pgrad[p], l->pgrad_host[p], l->pgrad_note[p], true);
}

static void emit_worker(tiers *l, int32_t w)
{
    qni_tour *tour = &l->tour[w];
    for (int32_t g = 0; g < tour->groups; g++) {
        qni_group *x = &tour->group[g];
        qni_stay *y = &tour->stay[x->stay];
        x->first = l->pos[w];
        if (y->value == QN_NONE) begin_stay(l, w, y);
        if (x->op == QN_OP_F)
            emit_forward(l, w, g);
        else
            emit_backward(l, w, g);
        x->last = l->pos[w] - 1;
    }
    for (int32_t g = 0; g < tour->groups; g++) emit_down(l, w, g);
    load_weights(l, w);
}

/* ---- the host lane */

static int32_t add_step(tiers *l, int32_t op, int32_t s, int32_t *key)
{
    const int32_t t = qni_add_task(&l->b, op, s, QN_NONE, 0, QN_LANE_HOST);
    if (!l->b.failed) l->b.key[t] = (*key)++;
    return t;
}

/* Stages of the first replica, in all its shards. */
static int32_t own_stages(const tiers *l)
{
    return l->grid.shards * qn_column_stages(l->grid);
}

/* PCOPY of a stage waits until the last of its chunks has come up on every worker. */
static void wait_for_loads(tiers *l, int32_t pcopy, int32_t s)
{
    for (int32_t i = 0; i < l->loads && !l->b.failed; i++)
        if (qn_in_first_replica(l->grid, l->b.task[l->load[i]].stage) == s) qni_add_link(&l->b, pcopy, QNI_WAIT, l->load[i]);
}

/* Of all groups of all replicas: the host adds them up. */
static void read_gradients(tiers *l, int32_t task, int32_t s)
{
    for (int32_t r = 0; r < qn_replicas(l->grid); r++) {
        const int32_t stage = r * own_stages(l) + s;
        for (int32_t m = qn_first_item(l->grid, stage) - 1 + group_items(l); qn_has_item(l->grid, stage, m); m += group_items(l))
            qni_add_link(&l->b, task, QNI_IN, l->pgrad_host[pgrad_of(l, stage, m)]);
    }
}

/* The host's tasks are of the first replica's stages and do the work of all: it has one copy of the weights. */
static void add_sum(tiers *l, int32_t s, int32_t *key)
{
    if (qn_replicas(l->grid) > 1) read_gradients(l, add_step(l, QN_OP_SUM, s, key), s);
}

static void add_pcopy(tiers *l, int32_t s, bool tied, int32_t *key)
{
    const int32_t pcopy = add_step(l, QN_OP_PCOPY, s, key);
    wait_for_loads(l, pcopy, s);
    const int32_t other = s - l->how->tied_owner + l->how->tied_replica;
    if (tied && qn_chain_stage(l->grid, s) == l->how->tied_owner) wait_for_loads(l, pcopy, other);
}

static void add_tie(tiers *l, int32_t shard, int32_t *key)
{
    const int32_t column = l->how->tied_home * l->grid.shards + shard;
    const int32_t tie = add_step(l, QN_OP_TIE, qn_stage_at(l->grid, column, l->how->tied_owner), key);
    read_gradients(l, tie, qn_stage_at(l->grid, shard, l->how->tied_owner));
    read_gradients(l, tie, qn_stage_at(l->grid, shard, l->how->tied_replica));
}

/* OPT or VALIDATE. */
static void add_stage_step(tiers *l, int32_t op, int32_t s, int32_t stat, int32_t *key)
{
    const int32_t t = add_step(l, op, s, key);
    qni_add_link(&l->b, t, QNI_IN, stat);
    read_gradients(l, t, s);
}

/* Steps of stages on the norm so far: STAT of stage s with item 0 is that of all stages from s on. */
static void emit_validated(tiers *l, bool tied, int32_t result)
{
    int32_t key = 0, before = QN_NONE;
    for (int32_t s = own_stages(l) - 1; s >= 0; s--) {
        add_sum(l, s, &key);
        if (tied && qn_chain_stage(l->grid, s) == l->how->tied_owner) add_tie(l, qn_shard(l->grid, s), &key);
        const int32_t own = add_host(l, QN_V_STAT, s, QN_NONE, l->how->stat_bytes),
                      sums = add_host(l, QN_V_STAT, s, 0, l->how->stat_bytes);
        const int32_t norm = add_step(l, QN_OP_NORM, s, &key);
        read_gradients(l, norm, s);
        qni_add_link(&l->b, norm, QNI_OUT, own);
        const int32_t guess = add_step(l, QN_OP_GUESS, s, &key);
        qni_add_link(&l->b, guess, QNI_IN, own);
        if (before != QN_NONE) qni_add_link(&l->b, guess, QNI_IN, before);
        qni_add_link(&l->b, guess, QNI_OUT, sums);
        add_stage_step(l, QN_OP_OPT, s, sums, &key);
        before = sums;
    }
    const int32_t fold = add_step(l, QN_OP_FOLD, QN_NONE, &key);
    qni_add_link(&l->b, fold, QNI_IN, before);
    qni_add_link(&l->b, fold, QNI_OUT, result);
    for (int32_t s = 0; s < own_stages(l); s++) add_stage_step(l, QN_OP_VALIDATE, s, result, &key);
}

static void emit_host(tiers *l)
{
    const int32_t S = own_stages(l);
    int32_t key = 0;
    const bool lag = l->t->lag > 0, tied = l->how->tied_owner != QN_NONE && l->how->tied_replica != QN_NONE;
    const int32_t result = add_host(l, QN_V_STAT, QN_NONE, QN_NONE, l->how->stat_bytes);
    if (l->how->post_validate) {
        emit_validated(l, tied, result);
        return;
    }
    const int32_t sums = add_host(l, QN_V_STAT, 0, QN_NONE, l->how->stat_bytes);
    for (int32_t s = 0; s < S && lag; s++) add_step(l, QN_OP_OPT, s, &key);
    /* Weights first: devices that are through with a piece may begin the next step with it, visits before its gradient is down.
     */
    const int32_t ahead = (int32_t)qn_min64(S, (int64_t)l->o->workers / qn_replicas(l->grid) * l->t->window);
    for (int32_t s = S - 1; s >= -ahead && lag; s--) {
        if (s >= 0) add_pcopy(l, s, tied, &key);
        if (s + ahead < S) read_gradients(l, add_step(l, QN_OP_GCOPY, s + ahead, &key), s + ahead);
    }
    for (int32_t s = 0; s < S; s++) add_sum(l, s, &key);
    for (int32_t k = 0; tied && k < l->grid.shards; k++) add_tie(l, k, &key);
    const int32_t norm = add_step(l, QN_OP_NORM, QN_NONE, &key);
    for (int32_t s = 0; s < S; s++) read_gradients(l, norm, s);
    qni_add_link(&l->b, norm, QNI_OUT, sums);
    const int32_t fold = add_step(l, QN_OP_FOLD, QN_NONE, &key);
    qni_add_link(&l->b, fold, QNI_IN, sums);
    qni_add_link(&l->b, fold, QNI_OUT, result);
    for (int32_t s = 0; s < S && !lag; s++) add_stage_step(l, QN_OP_OPT, s, result, &key);
}

/* ---- all of it */

static qn_status take_tables(tiers *l, qn_err *err)
{
    const size_t S = (size_t)l->o->stages, cells = S * (size_t)l->o->items;
    const size_t chunks = (size_t)chunk_first(l->t, l->o->stages);
    l->tour = qn_calloc((size_t)l->o->workers, sizeof *l->tour);
    l->cell = qn_malloc(cells, sizeof *l->cell);
    l->pos = qn_calloc((size_t)l->o->workers, sizeof *l->pos);
    l->chunk_host = qn_malloc(chunks, sizeof *l->chunk_host);
    l->part = qn_malloc((size_t)l->o->items, sizeof *l->part);
    if (l->part != NULL) find_parts(l);
    l->pgrad = qn_malloc(3 * S * (size_t)l->parts, sizeof *l->pgrad);
    if (l->tour == NULL || l->cell == NULL || l->pos == NULL || l->chunk_host == NULL || l->part == NULL || l->pgrad == NULL)
        return QN_FAIL(err, QN_ENOMEM, "plan of %zu stages and micro-batches", cells);
    memset(l->cell, 0xff, cells * sizeof *l->cell); /* QN_NONE everywhere */
    memset(l->pgrad, 0xff, 3 * S * (size_t)l->parts * sizeof *l->pgrad);
    l->pgrad_note = l->pgrad + S * (size_t)l->parts;
    l->pgrad_host = l->pgrad_note + S * (size_t)l->parts;
    return QN_OK;
}

static void place_groups(tiers *l)
{
    for (int32_t w = 0; w < l->o->workers; w++) {
        for (int32_t g = 0; g < l->tour[w].groups; g++) {
            const qni_group *x = &l->tour[w].group[g];
            cell *c = cell_of(l, x->stage, x->item);
            *(x->op == QN_OP_F ? &c->on : &c->back) = w;
            if (x->op == QN_OP_F) c->f = g;
            if (x->op == QN_OP_B || x->op == QN_OP_BW) c->b = g;
            if (x->op == QN_OP_W || x->op == QN_OP_BW) c->w = g;
        }
    }
}

/* Host copies: all weights and gradients; inputs and gradients of stages where some reader does not find them where they were
 * made. */
static void add_hosts(tiers *l)
{
    for (int32_t s = 0; s < l->o->stages; s++) {
        const int32_t first = chunk_first(l->t, s), end = chunk_first(l->t, s + 1);
        const int32_t same = chunk_first(l->t, qn_in_first_replica(l->grid, s)); /* one copy for all replicas */
        for (int32_t c = first; c < end; c++)
            l->chunk_host[c] =
                same < first ? l->chunk_host[same + c - first] : add_host(l, QN_V_PARAM, s, c - first, chunk_bytes(l->t, c));
        for (int32_t i = 0, m = qn_first_item(l->grid, s); i < qn_items_each(l->grid); i++, m++) {
            cell *c = cell_of(l, s, m);
            const int64_t act = size_of(l->how->act_bytes, l->o->act_bytes, s, 1);
            if (l->training && ends_part(l, m))
                l->pgrad_host[pgrad_of(l, s, m)] =
                    add_host(l, QN_V_PGRAD, s, group_of(l, m), size_of(l->t->pgrad_bytes, NULL, s, 1));
            if (has_before(l, s) && (!act_direct(l, s, m) || (l->training && !shares_visit(l, c))))
                c->act_host = add_host(l, QN_V_ACT, s, m, act);
            if (l->training && has_next(l, s) && !grad_direct(l, s, m))
                c->grad_host = add_host(l, QN_V_GRAD, s, m, size_of(l->how->act_bytes, l->o->act_bytes, s + 1, 1));
        }
    }
}

static int64_t aligned(int64_t bytes)
{
    return (bytes + 63) & ~(int64_t)63;
}

/* Ends that were not known yet, offsets of all notes, and what they make tasks wait for. */
static qn_status lay_slots(tiers *l, qn_plan *p, const int32_t *place, qn_err *err)
{
    qn_status st = QN_OK;
    qni_slot *slot = qn_calloc((size_t)l->notes, sizeof *slot);
    int32_t *list = qn_malloc((size_t)l->notes, sizeof *list);
    int32_t(*need)[QN_LANES] = qn_malloc((size_t)p->values, sizeof *need),
    (*extra)[QN_LANES] = qn_malloc((size_t)p->tasks, sizeof *extra);
    if (slot == NULL || list == NULL || need == NULL || extra == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "slots of %d values", p->values);
        goto out;
    }
    memset(need, 0xff, (size_t)p->values * sizeof *need);
    memset(extra, 0xff, (size_t)p->tasks * sizeof *extra);
    for (int32_t w = 0; w < p->workers; w++) {
        const qni_tour *tour = &l->tour[w];
        int32_t n = 0;
        for (int32_t i = 0; i < l->notes; i++) {
            const note *x = &l->note[i];
            if (x->worker != w) continue;
            const int32_t end = x->until_visit != QN_NONE ? tour->visit[x->until_visit].last : x->until_group;
            qni_slot *s = &slot[n];
            *s = (qni_slot){.from = x->from, .until = end != QN_NONE ? 2 * (int64_t)tour->group[end].last + 2 : x->until};
            if (x->dropper == QN_NONE) s->until = FOREVER;
            for (int32_t k = 0; k < x->count; k++)
                s->bytes = (x->count > 1 ? aligned(s->bytes) : 0) + p->value[x->value + k].bytes;
            if (x->dropper != QN_NONE) {
                s->drop_lane = p->task[place[x->dropper]].lane;
                s->drop_index = qni_lane_index(p, place[x->dropper]);
            }
            list[n++] = i;
        }
        QN_TRY(st, qni_colour_best(slot, n, &p->arena_bytes[w], err), out);
        for (int32_t i = 0; i < n; i++) {
            int64_t at = 0; /* within the slot */
            for (int32_t k = 0; k < l->note[list[i]].count; k++) {
                qn_value *v = &p->value[l->note[list[i]].value + k];
                at = k > 0 ? aligned(at) : at;
                v->offset = slot[i].offset + at;
                at += v->bytes;
                memcpy(need[l->note[list[i]].value + k], slot[i].need, sizeof slot[i].need);
            }
        }
    }
    for (int32_t t = 0; t < p->tasks; t++) {
        const qn_span span[] = {p->task[t].out, p->task[t].acc};
        for (int32_t i = 0; i < span[0].count + span[1].count; i++) {
            const int32_t v = p->ref[i < span[0].count ? span[0].first + i : span[1].first + i - span[0].count];
            for (int32_t k = 0; k < QN_LANES; k++) extra[t][k] = qn_max32(extra[t][k], need[v][k]);
        }
    }
    QN_TRY(st, qni_plan_finish(p, (const int32_t(*)[QN_LANES])extra, err), out);
out:
    qn_free(slot);
    qn_free(list);
    qn_free(need);
    qn_free(extra);
    return st;
}

/* Channels between workers that hold shards of one stage, for what these exchange while their tasks run. */
static void add_parts(tiers *l)
{
    const qn_order *o = l->o;
    const qn_grid g = l->grid;
    bool *meet = o->shards > 1 ? qn_calloc((size_t)o->workers * (size_t)o->workers, sizeof *meet) : NULL;
    if (meet == NULL) {
        l->b.failed = l->b.failed || o->shards > 1;
        return;
    }
    for (int32_t s = 0; s < o->stages; s++)
        for (int32_t k = 0; k < g.shards; k++) {
            const int32_t other = s + (k - qn_shard(g, s)) * qn_column_stages(g);
            meet[(size_t)o->worker_of[s] * (size_t)o->workers + (size_t)o->worker_of[other]] = true;
            const int32_t from = qn_backward_worker(o->worker_of, o->backward_of, s);
            meet[(size_t)from * (size_t)o->workers + (size_t)qn_backward_worker(o->worker_of, o->backward_of, other)] = true;
        }
    for (int32_t i = 0; i < o->workers * o->workers; i++) {
        const int32_t from = i / o->workers, to = i % o->workers;
        if (from != to && meet[i])
            qni_add_channel(&l->b, (qn_channel){.from = from,
                                                .to = to,
                                                .cls = QN_V_PART,
                                                .edge = from,
                                                .depth = 2,
                                                .slot_bytes = l->how->part_bytes > 0 ? l->how->part_bytes : 1});
    }
    qn_free(meet);
}

static qn_status build(qn_plan **out, tiers *l, qn_err *err)
{
    const qn_order *o = l->o;
    qn_plan *p = NULL;
    int32_t *place = qn_malloc((size_t)l->b.tasks, sizeof *place);
    qn_status st = place != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "plan of %d tasks", l->b.tasks);
    if (st == QN_OK) st = qni_builder_plan(&p, &l->b, o->workers, o->stages, o->items, o->worker_of, place, err);
    if (st != QN_OK) goto out;
    p->columns = o->columns;
    p->shards = o->shards;
    p->round = o->round;
    p->turn = o->turn;
    if (o->backward_of != NULL) {
        p->backward_of = qn_malloc((size_t)o->stages, sizeof *p->backward_of);
        if (p->backward_of == NULL) {
            st = QN_FAIL(err, QN_ENOMEM, "plan of %d stages", o->stages);
            goto out;
        }
        memcpy(p->backward_of, o->backward_of, (size_t)o->stages * sizeof *p->backward_of);
    }
    QN_TRY(st, qn_plan_finish(p, err), out);
    QN_TRY(st, lay_slots(l, p, place, err), out);
    const int64_t *limit = l->how->arena_limit != NULL ? l->how->arena_limit : o->arena_limit;
    for (int32_t w = 0; limit != NULL && w < p->workers; w++) p->arena_limit[w] = limit[w];
    QN_TRY(st, qn_plan_validate(p, err), out);
    *out = p;
    p = NULL;
out:
    qn_free(place);
    qn_plan_close(p);
    return st;
}

static bool has_same_chunks(const qn_tiers *t, int32_t a, int32_t b)
{
    const int32_t x = chunk_first(t, a), y = chunk_first(t, b), n = chunk_first(t, a + 1) - x;
    bool same = n == chunk_first(t, b + 1) - y;
    for (int32_t c = 0; same && c < n; c++) same = chunk_bytes(t, x + c) == chunk_bytes(t, y + c);
    return same;
}

/* A device holds one shard of a stage: what the members of a joint set need besides stands in front of each of them. */
static qn_status check_shards(const qn_order *o, const qn_lowering *how, qn_err *err)
{
    const qn_grid g = qn_order_grid(o);
    if (o->shards == 1) return QN_OK;
    if (how->joins)
        return QN_FAIL(
            err, QN_EUNSUPPORTED,
            "device memory with %d shards that have parts of some gradients (slices of the rows, adapters): leave these "
            "or the shards out",
            o->shards);
    for (int32_t s = 0; s < o->stages; s++)
        for (int32_t k = 0; k < qn_shard(g, s); k++) {
            const int32_t other = s - (qn_shard(g, s) - k) * qn_column_stages(g);
            if (o->worker_of[other] == o->worker_of[s] ||
                qn_backward_worker(o->worker_of, o->backward_of, other) == qn_backward_worker(o->worker_of, o->backward_of, s))
                return QN_FAIL(
                    err, QN_EUNSUPPORTED,
                    "device %d would hold two of the %d shards of a stage: a device holds one, so the number of workers "
                    "has to be a multiple of %d",
                    o->worker_of[s], o->shards, o->shards);
        }
    return QN_OK;
}

static qn_status check(const qn_order *o, const qn_lowering *how, qn_err *err)
{
    const qn_tiers *t = how->tiers;
    if (t->window < 1 || t->replace < 1 || t->replace > t->window)
        return QN_FAIL(err, QN_ERANGE,
                       "a window of %d pieces of which %d are replaced at a time; k >= 1 and 1 <= k' <= k are possible",
                       t->window, t->replace);
    if (t->groups < 0 || (t->groups > 1 && (o->items % t->groups != 0 || t->groups % qn_replicas(qn_order_grid(o)) != 0)))
        return QN_FAIL(err, QN_EINVAL, "%d groups of gradients of %d replicas do not divide %d micro-batches", t->groups,
                       qn_replicas(qn_order_grid(o)), o->items);
    for (int32_t s = 0; s < o->stages; s++) {
        if (!has_same_chunks(t, s, qn_in_first_replica(qn_order_grid(o), s)))
            return QN_FAIL(err, QN_EINVAL,
                           "the weights of stage %d come in other chunks than in the first replica, but all load from one copy",
                           s);
    }
    if (t->lag > 0 && how->post_validate)
        return QN_FAIL(
            err, QN_EUNSUPPORTED,
            "a post-validated step of an optimizer that lags: it works on a step whose decision is known, so that there "
            "is nothing to validate");
    if (t->lag < 0 || t->lag > 1) return QN_FAIL(err, QN_ERANGE, "an optimizer lag of %d; 0 and 1 are possible", t->lag);
    return check_shards(o, how, err);
}

qn_status qni_lower_tiers(qn_plan **out, const qn_order *o, const qn_lowering *how, bool training, qn_err *err)
{
    tiers l = {.o = o,
               .how = how,
               .t = how->tiers,
               .grid = qn_order_grid(o),
               .groups = qn_max32(how->tiers->groups, qn_replicas(qn_order_grid(o))),
               .training = training && !how->forward_only};
    qn_status st = check(o, how, err);
    if (st == QN_OK) st = take_tables(&l, err);
    for (int32_t w = 0; w < o->workers && st == QN_OK; w++)
        st = qni_tour_open(&l.tour[w], o, w, how->forward_only, how->tiers, err);
    if (st == QN_OK) {
        place_groups(&l);
        add_hosts(&l);
        /* Values are made by their writers: forward along the chain, backward against it, whatever worker. */
        for (int32_t w = 0; w < o->workers; w++) emit_worker(&l, w);
        if (l.training && how->step_tasks) emit_host(&l);
        add_parts(&l);
        st = l.b.failed ? QN_FAIL(err, QN_ENOMEM, "plan of %d tasks", l.b.tasks) : build(out, &l, err);
    }
    for (int32_t w = 0; l.tour != NULL && w < o->workers; w++) qni_tour_close(&l.tour[w]);
    qni_builder_fini(&l.b);
    qn_free(l.tour);
    qn_free(l.cell);
    qn_free(l.note);
    qn_free(l.load);
    qn_free(l.pos);
    qn_free(l.chunk_host);
    qn_free(l.part);
    qn_free(l.pgrad);
    return st;
}
