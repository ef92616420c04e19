/* A stage inside: where each value and gradient of its layers lies during each pass. Internal to src/model.
 *
 *   stash    [layer][value]  what backward reads: the union of the masks of the layer's operations
 *   wstash   [layer][gradient]  gradients of outputs that backward_weight reads, when B and W are separate tasks
 *   rstash   [layer][value]  what an R task makes again before backward (stage_again.c)
 *   scratch  [positions | the pass's own values, one layer at a time | kernels' scratch]
 *
 * Offsets are fixed when the stage is opened, for the most rows; an item with fewer rows uses the front of each range. */
#ifndef QN_MODEL_STAGE_H
#define QN_MODEL_STAGE_H

#include "core/arena.h"
#include "model/layer.h"

typedef enum place_kind {
    QN_AT_NONE,    /* not there in this pass */
    QN_AT_X,       /* the stage's input */
    QN_AT_Y,       /* the stage's output */
    QN_AT_STASH,   /* offset in the item's stash */
    QN_AT_WSTASH,  /* offset in the item's wstash */
    QN_AT_RSTASH,  /* offset in the item's rstash */
    QN_AT_SCRATCH, /* offset from the pass's scratch */
    QN_AT_STREAM,  /* the one gradient of the residual stream */
    QN_AT_DX,      /* the caller's, of an input that is no part of the stream */
} place_kind;

typedef struct qn_place {
    place_kind at;
    size_t offset;
} qn_place;

/* How a pass walks back: B and W together, B alone, W alone. */
enum { QNI_WAY_BW, QNI_WAY_B, QNI_WAY_W, QNI_WAYS };

typedef struct stage_value {
    qn_place train, infer; /* the value in F, and in infer */
    qn_place back, wback;  /* the value as BW finds it, and B and W apart; where a remade one is made */
    bool remade;           /* made again for backward */
    bool cheap;            /* made again where backward reads it */
    qn_place grad, wgrad;  /* its gradient in BW, and in B with W separate */
} stage_value;

typedef struct stage_op {
    qn_linear *lin; /* borrowed from the stage's list */
    size_t packed_offset, cache_offset;
    bool add[QN_OP_INS];
    bool learns;               /* backward_weight is wanted */
    bool redo;                 /* run again for backward */
    bool cheap;                /* output 0 is made again where it is read */
    int32_t remake[QNI_WAYS];  /* before which operation's backward, by the way of the pass; -1: not in it */
    const void *w[QN_OP_USES]; /* as bound */
    void *dw[QN_OP_USES];
    qn_row_sums *rows; /* in place of dw[0], or NULL */
    bool fresh;        /* packed by the step that changed the weights: the next packing passes over it */
} stage_op;

typedef struct stage_layer {
    const qn_layer *layer;
    int32_t index; /* in the chain */
    bool redone;   /* some of it is run again for backward: by operations before again_ops */
    int32_t again_ops;
    int32_t stash_ops;  /* operations after these write nothing that backward reads: recomputation skips them */
    bool stream_seeded; /* the stream has a gradient when this layer's backward begins */
    size_t scratch;     /* what a pass has while it is in this layer: positions and values */
    stage_value value[QN_LAYER_VALUES];
    stage_op op[QN_LAYER_OPS];
} stage_layer;

typedef struct stage_linear {
    int64_t in, out;
    qn_linear *lin;
} stage_linear;

struct qn_stage {
    const qn_model *m;
    const qn_kernels *k;
    const qn_exec *ex;
    int32_t first, count;
    int32_t lowest; /* of this stage's layers, the first that backward walks; count: none, all below is frozen */
    bool has_head;
    bool ends_off_stream; /* the last layer's output has a gradient of its own, copied from dy */
    size_t spare;         /* scratch for that output when nobody takes it */
    qn_exchange exchange; /* of a shard model */
    qn_stage_limits limits;
    qn_stage_need need;
    int64_t rows;         /* the most of an item */
    size_t own_scratch;   /* positions and values, of the layer that needs most */
    bool even_scratch;    /* the same in all layers: shards take turns on one stack, or the spare output lies behind all values */
    size_t values_offset; /* of the values in it */
    qn_place stream;      /* scratch place of the stream's gradient where the caller gives no dx; its place in wstash follows */
    qn_place wstream;
    stage_layer *layer;
    stage_linear *linear; /* one per pair of sizes */
    int32_t linears;
    void *packed;
};

/* Lives: operations begin .. end use the memory, both included. */
typedef struct qni_life {
    size_t bytes, offset;
    int32_t begin, end; /* begin > end: none */
} qni_life;
qni_life qni_no_life(size_t bytes);
void qni_life_touch(qni_life *v, int32_t op);
size_t qni_place_lives(qni_life *v, int32_t n);
/* Bytes of a value for the most rows it may have; elem: its own, or that of its gradient. */
size_t qni_value_bytes(const qn_stage *s, const qn_value *v, qn_elem elem);
/* The rows that this stage's stream has of so many of an item: all, or those of the shard's slice, from *first on. */
static inline int64_t qni_stream_rows(const qn_stage *s, int64_t rows, int64_t *first)
{
    const qn_model_config *c = &s->m->config;
    *first = 0;
    return c->sequence ? qn_shard_slice(c->shards, c->shard, rows, first) : rows;
}

/* stage_again.c. kept: on entry what backward reads, on return what F keeps of it and for it; marks what is made again. */
void qni_mark_again(stage_layer *sl, bool *kept, unsigned again);
/* Where backward finds a layer's values. Returns the scratch at base that remade ones take while the layer is walked back, and
 * behind it that of values on the way. */
size_t qni_place_again(const qn_stage *s, stage_layer *sl, qn_arena *wstash, qn_arena *rstash, size_t base, size_t *transients);

/* stage_cheap.c, after the user's choice. kept: on return without what is made again where it is read, and with what that takes.
 */
void qni_mark_cheap(const qn_stage *s, stage_layer *sl, bool *kept);
/* When these are made again; life [values], no_life on entry: from there to their last reader, in backward. */
void qni_time_cheap(stage_layer *sl, qni_life *life);

/* Fills in all places, add flags and needs. Errors: QN_ENOMEM when a size does not fit. */
qn_status qni_stage_layout(qn_stage *s, qn_err *err);

#endif
