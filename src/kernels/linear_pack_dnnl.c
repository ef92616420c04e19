/* Packs: copies of the weights in the layouts that the products want, made once a step, alone or together with the optimizer's
 * step on them.
 *
 * A pack is one cache line that says which copies it holds, then those copies, forward first, in the layouts oneDNN prefers
 * (chosen once, at open). Where these are the blocked layouts of its AVX-512 products the copies are our own work
 * (cpu/lanes_pack.c); elsewhere oneDNN reorders. The step goes over W in strips of 64 rows, whose copies are made while they are
 * still in the cache. */
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "linear_dnnl.h"

enum { PACK_HEAD = 64, PACK_GRAIN = 64, STREAMED_BYTES = 1 << 20 };

/* Blocks of 64 columns, of pairs of k in bf16: what cpu/lanes_pack.c writes. */
static bool is_blocked(const dnnl_memory_desc_t *md, bool bf16)
{
    const dnnl_blocking_desc_t *b = &md->format_desc.blocking;
    static const dnnl_dim_t sizes[3] = {16, 64, 2}, axes[3] = {0, 1, 0};
    const int blocks = bf16 ? 3 : 2, pair = bf16 ? 2 : 1;
    if (md->format_kind != dnnl_blocked || b->inner_nblks != blocks || md->offset0 != 0) return false;
    for (int i = 0; i < blocks; i++)
        if (b->inner_blks[i] != sizes[i] || b->inner_idxs[i] != axes[i]) return false;
    return md->extra.flags == dnnl_memory_extra_flag_none && b->strides[0] == 1024 * pair &&
           b->strides[1] == md->padded_dims[0] * 64 && md->padded_dims[0] % (16 * pair) == 0 &&
           md->padded_dims[0] - md->dims[0] < 16 * pair && md->padded_dims[1] % 64 == 0;
}

/* --- oneDNN's reorders */

/* W as the caller has it: a plain [O, C] f32 seen as the k x n matrix of the product. */
static dnnl_status_t plain_layout(dnnl_memory_desc_t *md, int64_t C, int64_t O, bool backward)
{
    const dnnl_dims_t fdims = {C, O}, fstrides = {1, C}, bdims = {O, C}, bstrides = {C, 1};
    return dnnl_memory_desc_init_by_strides(md, 2, backward ? bdims : fdims, dnnl_f32, backward ? bstrides : fstrides);
}

/* Reorders of slices along the output columns of the product, one a thread. */
static qn_status open_reorders(qn_linear *lin, qn_err *err)
{
    const int64_t C = lin->shape.in, O = lin->shape.out;
    for (int b = 0; b < 2; b++) {
        const dnnl_memory_desc_t *whole = b ? &lin->backward : &lin->forward;
        qni_reorder *packs = b ? lin->pack_backward : lin->pack_forward;
        for (int32_t i = 0; i < lin->shape.threads; i++) {
            dnnl_memory_desc_t plain, from, to;
            int64_t begin, end;
            qn_split(&begin, &end, b ? C : O, PACK_GRAIN, i, lin->shape.threads);
            if (begin == end) continue;
            const dnnl_dims_t dims = {b ? O : C, end - begin}, at = {0, begin};
            dnnl_status_t ds = plain_layout(&plain, C, O, b != 0);
            if (ds == dnnl_success) ds = dnnl_memory_desc_init_submemory(&from, &plain, dims, at);
            if (ds == dnnl_success) ds = dnnl_memory_desc_init_submemory(&to, whole, dims, at);
            qn_status st = qni_dnnl_status(ds, "slice of packed weights", err);
            if (st == QN_OK) st = qni_reorder_open(&packs[i], lin->engine, &from, &to, err);
            if (st != QN_OK) return st;
        }
    }
    return QN_OK;
}

qn_status qni_linear_open_packs(qn_linear *lin, qn_err *err)
{
    const size_t threads = (size_t)lin->shape.threads;
    lin->own_packs = is_blocked(&lin->forward, lin->mul_bf16) && is_blocked(&lin->backward, lin->mul_bf16);
    if (lin->own_packs) return QN_OK;
    lin->pack_forward = qn_calloc(threads, sizeof(qni_reorder));
    lin->pack_backward = qn_calloc(threads, sizeof(qni_reorder));
    if (lin->pack_forward == NULL || lin->pack_backward == NULL)
        return QN_FAIL(err, QN_ENOMEM, "no memory for packing on %d threads", (int)lin->shape.threads);
    return open_reorders(lin, err);
}

void qni_linear_close_packs(qn_linear *lin)
{
    for (int32_t t = 0; t < lin->shape.threads; t++) {
        if (lin->pack_forward != NULL) qni_reorder_close(&lin->pack_forward[t]);
        if (lin->pack_backward != NULL) qni_reorder_close(&lin->pack_backward[t]);
    }
    qn_free(lin->pack_forward);
    qn_free(lin->pack_backward);
}

/* --- where the copies lie */

static size_t line_bytes(size_t n)
{
    return (n + PACK_HEAD - 1) / PACK_HEAD * PACK_HEAD;
}

size_t qni_dnnl_linear_packed_bytes(const qn_linear *lin, unsigned copies)
{
    size_t n = PACK_HEAD;
    if (copies & QN_PACK_FORWARD) n += line_bytes(dnnl_memory_desc_get_size(&lin->forward));
    if (copies & QN_PACK_BACKWARD) n += line_bytes(dnnl_memory_desc_get_size(&lin->backward));
    return n;
}

static unsigned packed_copies(const void *packed)
{
    unsigned copies;
    memcpy(&copies, packed, sizeof(copies));
    return copies;
}

const void *qni_linear_packed_forward(const qn_linear *lin, const void *packed)
{
    (void)lin;
    QN_ASSERT(packed_copies(packed) & QN_PACK_FORWARD);
    return (const char *)packed + PACK_HEAD;
}

const void *qni_linear_packed_backward(const qn_linear *lin, const void *packed)
{
    const unsigned copies = packed_copies(packed);
    QN_ASSERT(copies & QN_PACK_BACKWARD);
    const size_t skip = copies & QN_PACK_FORWARD ? line_bytes(dnnl_memory_desc_get_size(&lin->forward)) : 0;
    return (const char *)packed + PACK_HEAD + skip;
}

/* --- packing */

typedef struct pack_call {
    qn_linear *lin;
    const float *w;
    float *p, *g, *m, *v; /* of a step: p is w */
    const qn_adamw *hyper;
    void *forward, *backward; /* NULL: not wanted */
    bool stream;
} pack_call;

/* Columns of the product, from n0 on, up to n1 at most. */
static void pack_forward(const pack_call *call, int64_t n0, int64_t n1)
{
    const dnnl_memory_desc_t *md = &call->lin->forward;
    const int64_t end = qn_min64(n1, md->padded_dims[1]), units = md->padded_dims[0] * (call->lin->mul_bf16 ? 32 : 64);
    if (call->forward != NULL && n0 < end)
        call->lin->transposed(call->forward, units, call->w, call->lin->shape.in, call->lin->shape.out, n0, end, call->stream);
}

/* The same of what the other product sums over. */
static void pack_backward(const pack_call *call, int64_t k0, int64_t k1)
{
    const dnnl_memory_desc_t *md = &call->lin->backward;
    const int64_t end = qn_min64(k1, md->padded_dims[0]), units = md->padded_dims[0] * (call->lin->mul_bf16 ? 32 : 64);
    if (call->backward != NULL && k0 < end)
        call->lin->plain(call->backward, units, call->w, call->lin->shape.out, call->lin->shape.in, k0, end, call->stream);
}

static void pack_part(void *ctx, int32_t thread, int32_t threads)
{
    const pack_call *call = ctx;
    const qn_linear *lin = call->lin;
    int64_t begin, end;
    if (lin->own_packs) {
        qn_split(&begin, &end, lin->forward.padded_dims[1], PACK_GRAIN, thread, threads);
        pack_forward(call, begin, end);
        qn_split(&begin, &end, lin->backward.padded_dims[0], PACK_GRAIN, thread, threads);
        pack_backward(call, begin, end);
        return;
    }
    for (int32_t i = thread; i < lin->shape.threads; i += threads) {
        qni_reorder *f = &lin->pack_forward[i], *b = &lin->pack_backward[i];
        if (call->forward != NULL && f->primitive != NULL) qni_reorder_run(f, lin->streams[thread], call->forward, call->w);
        if (call->backward != NULL && b->primitive != NULL) qni_reorder_run(b, lin->streams[thread], call->backward, call->w);
    }
}

/* Rows of W in strips; behind the last row the padding of the copies. */
static void step_part(void *ctx, int32_t thread, int32_t threads)
{
    const pack_call *call = ctx;
    const int64_t O = call->lin->shape.out, C = call->lin->shape.in;
    int64_t begin, end;
    qn_split(&begin, &end, O, PACK_GRAIN, thread, threads);
    for (int64_t o = begin; o < end; o += PACK_GRAIN) {
        const int64_t at = o * C, n = qn_min64(PACK_GRAIN, end - o) * C;
        call->lin->step(call->p + at, call->g + at, call->m + at, call->v + at, n, call->hyper);
        pack_forward(call, o, o + PACK_GRAIN);
        pack_backward(call, o, o + PACK_GRAIN);
    }
}

static pack_call call_of(qn_linear *lin, void *packed, const void *w, unsigned copies)
{
    memcpy(packed, &copies, sizeof(copies));
    pack_call call = {.lin = lin, .w = w};
    if (copies & QN_PACK_FORWARD) call.forward = (void *)qni_linear_packed_forward(lin, packed);
    if (copies & QN_PACK_BACKWARD) call.backward = (void *)qni_linear_packed_backward(lin, packed);
    call.stream = (uintptr_t)packed % QN_CACHE_LINE == 0 && dnnl_memory_desc_get_size(&lin->forward) >= STREAMED_BYTES;
    return call;
}

void qni_dnnl_linear_pack(const qn_exec *ex, qn_linear *lin, void *packed, const void *w, unsigned copies)
{
    pack_call call = call_of(lin, packed, w, copies);
    qn_exec_run(ex, pack_part, &call);
}

void qni_dnnl_linear_step(const qn_exec *ex, qn_linear *lin, void *packed, void *w, void *g, void *m, void *v,
                          const qn_adamw *hyper, unsigned copies)
{
    pack_call call = call_of(lin, packed, w, copies);
    call.p = w;
    call.g = g;
    call.m = m;
    call.v = v;
    call.hyper = hyper;
    if (!lin->own_packs) call.forward = call.backward = NULL;
    qn_exec_run(ex, step_part, &call);
    if (!lin->own_packs) qni_dnnl_linear_pack(ex, lin, packed, w, copies);
}
