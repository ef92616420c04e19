/* What a layer is made of: a short list of operations over local values. Internal to src/model.
 *
 * A layer is plain data, filled once by its builder (layers/<kind>.c) when the model is opened:
 *
 *   values  0 is the residual stream that enters the layer; the others are written by exactly one operation each. A value has a
 *           width (elements per row), and there is one row per token. An operation may also change a value in place: then the
 * same value is its input and its output (rotary embedding, dropout). ops     in the order of the forward pass; backward is the
 * same list read from its end. output  the value that leaves the layer: the residual stream again, -1 for a head, which ends the
 * chain.
 *
 * An operation kind (ops/<kind>.c) is a table of functions and the masks that say which of its inputs and outputs it reads again
 * in backward. From these alone the stage works out what F has to keep, what B has to keep for W, and what is scratch.
 *
 * The gradient of the stream is one buffer for the whole stage: a residual join passes it on untouched and norms add to it. */
#ifndef QN_MODEL_LAYER_H
#define QN_MODEL_LAYER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/model.h"

enum { QN_OP_INS = 4, QN_OP_OUTS = 3, QN_OP_USES = 2, QN_LAYER_VALUES = 64, QN_LAYER_OPS = 64 };

/* Element kinds of values and gradients; the kernel table says which type each of them is. */
typedef enum qn_elem { QN_ELEM_RES, QN_ELEM_ACT } qn_elem;

typedef struct qn_value {
    int64_t width; /* elements per row */
    qn_elem elem;
    bool sliced; /* only the rows of the shard's slice */
} qn_value;

/* Columns column .. of a value; its row stride is the value's width. */
typedef struct qn_ref {
    int32_t value;
    int64_t column;
} qn_ref;

struct qn_op;

/* One operation as it runs: resolved pointers. Arrays are [R, width of their value], first element at the reference's column. */
typedef struct qn_op_run {
    const qn_kernels *k;
    const qn_exec *ex;
    const struct qn_op *op;
    const qn_mb *mb;
    int64_t B, T, R; /* R: rows of the operation, all of the item or those of the shard's slice, from row `first` of it on */
    int64_t first;
    const int32_t *pos; /* [R] position of each row in its sample */
    double dropout;     /* 0 outside training */
    qn_rng_key key;     /* of this item, layer and operation */
    void *in[QN_OP_INS], *out[QN_OP_OUTS];
    int64_t ld_in[QN_OP_INS], ld_out[QN_OP_OUTS];
    void *din[QN_OP_INS], *dout[QN_OP_OUTS];
    bool add[QN_OP_INS]; /* din[i] holds a gradient already: add to it */
    const void *w[QN_OP_USES];
    void *dw[QN_OP_USES];
    qn_row_sums *rows; /* takes the gradient of use 0 in place of dw[0], or NULL */
    qn_linear *lin;
    const void *packed;
    int64_t past; /* infer: positions already in the cache */
    char *cache;  /* infer: this operation's part of the first sample's cache */
    size_t cache_stride;
    int64_t cache_len;
    qn_dtype kv;
    float *logits;
} qn_op_run;

/* Tokens or targets of the run's rows; with no rows there may be none at all. */
static inline const int32_t *qni_ids_of(const qn_op_run *r, const int32_t *ids)
{
    return r->R > 0 ? ids + r->first : ids;
}

/* What an operation costs: floating-point operations of its products, and kernel scratch. */
typedef struct qn_op_flops {
    int64_t forward, input, weight;
} qn_op_flops;

typedef void qn_op_fn(const qn_op_run *r);

typedef struct qn_op_kind {
    const char *name;
    qn_op_fn *forward;  /* NULL: nothing to do in F */
    qn_op_fn *evaluate; /* NULL: as forward */
    qn_op_fn *infer;    /* NULL: as forward */
    qn_op_fn *tell; /* of shards: before they meet, writes row `shard` of output 0 [shards, ..], or in backward of its gradient;
                       they GATHER these rows, and forward, evaluate or backward find all of them */
    qn_op_fn *backward_input;                   /* NULL: no input has a gradient */
    qn_op_fn *backward_weight;                  /* NULL: no parameters */
    qn_op_fn *backward;                         /* both in one pass; NULL: backward_input, then backward_weight */
    unsigned input_reads_in, input_reads_out;   /* masks: values that backward_input reads */
    unsigned weight_reads_in, weight_reads_out; /* the same for backward_weight; it also reads the gradients of its outputs */
    qn_elem grad_elem;                          /* of the gradients it writes to its inputs */
    unsigned group;                             /* QN_AGAIN_*: of operations that may be made again on their own */
    bool cheap;                                 /* output 0 may be made again where it is read (stage_cheap.c) */
    bool can_add;                               /* backward_input honours add[] */
    bool passes_stream;                         /* the gradient of input 0 is the gradient of output 0: a residual join */
    bool is_product;                            /* has a linear: sizes C = size[0], O = size[1]; use 0 is its matrix */
    bool drops;                                 /* real is its dropout, applied in training alone */
    bool of_shards;                             /* only shards have it */
    qn_meet meets, meets_back; /* before forward and backward_input runs (op_shard.c). SUM: output 0, the gradient of input 0, in
                                  place; else between input 0 and output 0, or their gradients */
    bool has_cache;            /* keeps keys and values when inferring: size[1] * size[2] columns each */
    qn_op_flops (*flops)(const struct qn_op *op, int64_t B, int64_t T);
    size_t (*scratch)(const struct qn_op *op, const qn_kernels *k, qn_linear *lin, const qn_stage_limits *limits,
                      int32_t threads);
} qn_op_kind;

typedef struct qn_op {
    const qn_op_kind *kind;
    char name[32]; /* "2.attention" */
    int32_t key;   /* its number in the random key: operations that only shards have do not count */
    bool sliced;   /* works on the rows of the shard's slice */
    int32_t ins, outs, uses;
    qn_ref in[QN_OP_INS], out[QN_OP_OUTS];
    int32_t use[QN_OP_USES]; /* -1: none */
    int64_t size[4];         /* by kind: linear C, O; attention H, K, D; rope H, D */
    double real;             /* by kind: eps, theta, scale, dropout */
} qn_op;

typedef struct qn_layer {
    int32_t values, ops, output;
    bool off_input;  /* value 0 is no part of the stream, with all rows in every shard: its gradient is the stage's dx alone */
    bool off_stream; /* the output ends the chain and is no part of the stream: its gradient is the stage's dy alone */
    qn_value value[QN_LAYER_VALUES];
    qn_op op[QN_LAYER_OPS];
} qn_layer;

struct qn_model {
    qn_model_config config;
    int32_t layers, params, uses;
    int32_t params_cap, uses_cap;
    int32_t chain_params; /* of the layers before the first side layer */
    qn_layer *layer;
    qn_param *param;
    qn_use *use;
};

/* Whether the operation has a parameter to train: its weight gradient is wanted. */
bool qni_op_learns(const qn_model *m, const qn_op *op);
/* The first layer of the chain with a parameter to train: backward ends there. The number of layers when there is none. */
int32_t qni_lowest_trained(const qn_model *m);

/* --- building, used by layers/: one call per parameter and operation. A failed allocation sticks in failed. */
typedef struct qn_build {
    qn_model *m;
    qn_layer *layer;
    int32_t index; /* of the layer in the chain */
    int32_t keys;  /* operations of the layer that count in the random key */
    bool sliced;   /* values and operations from here on have the rows of the shard's slice alone */
    bool failed;
} qn_build;

/* Each adds a parameter owned by this layer and its first use, which it returns. fmt gives the Hugging Face name.
 * matrix [out, in] of a product; transposed: the file holds [in, out]. table [rows, width] of look-ups. vector [n]. */
int32_t qni_matrix(qn_build *b, int64_t out, int64_t in, double std, bool transposed, const char *fmt, ...) QN_PRINTF(6, 7);
int32_t qni_table(qn_build *b, int64_t rows, int64_t width, double std, const char *fmt, ...) QN_PRINTF(5, 6);
int32_t qni_vector(qn_build *b, int64_t n, qn_init init, const char *fmt, ...) QN_PRINTF(4, 5);
/* Cuts the parameter of that use, made whole, down to what this shard holds: the same share of its outputs (dim[0]) in each of
 * `blocks` equal parts (3 where q, k and v lie in one matrix), or of its inputs (dim[1]). Returns the use. */
int32_t qni_cut_out(qn_build *b, int32_t use, int32_t blocks);
int32_t qni_cut_in(qn_build *b, int32_t use);
/* A matrix [out, in] of an adapter: initial values uniform within 1 / sqrt(in), or zero. */
int32_t qni_adapter(qn_build *b, int64_t out, int64_t in, qn_init init, const char *fmt, const char *module);
/* The parameter of that use, made with the rows of one vocabulary shard, is that part of the embedding table or (head) of the
 * output matrix. Returns the use. */
int32_t qni_rows(qn_build *b, int32_t use, int32_t shard, bool head);
/* The rows of the vocabulary that a tensor shard has, or each of its n vocabulary shards: ceil(V / t) or ceil(V / (t n)), the
 * last of them padding where that is no division. cut_rows: the parameter of that use, made with so many rows, is that part of a
 * table of V rows. Returns the use. */
int64_t qni_vocab_rows(const qn_model_config *c);
int32_t qni_cut_rows(qn_build *b, int32_t use);
/* Another use, by this layer, of the parameter that an earlier use reads. */
int32_t qni_again(qn_build *b, int32_t use);

/* Each adds an operation with the given label, and returns the value that it writes. A use of -1 is none. */
int32_t qni_embedding(qn_build *b, const char *label, int64_t C, int32_t wte, int32_t wpe);
int32_t qni_layernorm(qn_build *b, const char *label, int32_t x, int32_t w, int32_t bias, double eps);
int32_t qni_rmsnorm(qn_build *b, const char *label, int32_t x, int32_t w, double eps);
int32_t qni_linear(qn_build *b, const char *label, int32_t x, int64_t out, int32_t w, int32_t bias);
int32_t qni_scale(qn_build *b, const char *label, int32_t x, double factor);
void qni_adapt(qn_build *b, const char *label, int32_t y, int32_t x, int32_t w); /* y += x w^T in place */
/* The adapter of the product y = x w^T, where the model has one there; products ask for it (lora.c). inputs: a shard holds a part
 * of the inputs; else of the outputs. */
void qni_lora(qn_build *b, const char *label, int32_t x, int32_t y, int32_t w, bool inputs);
qn_status qni_lora_check(const qn_model_config *c, qn_err *err) QN_MUST_USE;
int32_t qni_attention(qn_build *b, const char *label, qn_ref q, qn_ref k, qn_ref v, int64_t H, int64_t K, int64_t D);
int32_t qni_gelu(qn_build *b, const char *label, int32_t x);
int32_t qni_swiglu(qn_build *b, const char *label, int32_t gate, int32_t up);
int32_t qni_residual(qn_build *b, const char *label, int32_t a, int32_t branch, double dropout);
/* The way into products that hold a part of their outputs; returns what they read. The gradient of x is summed over the shards;
 * where x has a slice of the rows, all are gathered. */
int32_t qni_shard_in(qn_build *b, const char *label, int32_t x);
/* A product that holds a part of its inputs: the outputs are summed over the shards (to the shard's slice of the rows, with
 * sequence parallelism), then the bias is added, once. With one shard it is qni_linear. */
int32_t qni_linear_sum(qn_build *b, const char *label, int32_t x, int64_t out, int32_t w, int32_t bias);
/* Its first half, for op_shard.c: this shard's inputs, no bias in the outputs yet. */
int32_t qni_linear_part(qn_build *b, const char *label, int32_t x, int64_t out, int32_t w, int32_t bias);
void qni_rope(qn_build *b, const char *label, int32_t x, int64_t H, int64_t D, double theta); /* in place */
void qni_dropout(qn_build *b, const char *label, int32_t x, double dropout);                  /* in place */
void qni_classifier(qn_build *b, const char *label, int32_t x, int64_t V, int32_t w);         /* ends the chain */

/* A shard's sum of look-ups, x or (with slices, where it holds all rows) what x has, summed over the shards, with positions. */
int32_t qni_lookup_sum(qn_build *b, int32_t x, int32_t wpe);
/* The two of a tensor shard, for its rows of the vocabulary: look-ups with positions, summed over the shards (to the shard's
 * slice of the rows); and the end of the chain, whose input's gradient is the shard's part. */
int32_t qni_lookup(qn_build *b, const char *label, int32_t wte, int32_t wpe);
void qni_classifier_shard(qn_build *b, const char *label, int32_t x, int32_t w);

int32_t qni_position(qn_build *b, const char *label, int32_t x, int32_t wpe);
void qni_vocabulary(qn_build *b, const char *label, int64_t rows, int32_t out, int32_t in); /* a shard: vocab.c runs it */

/* For the files in ops/: an empty operation with its name, and a new value. */
qn_op *qni_op(qn_build *b, const qn_op_kind *kind, const char *label);
int32_t qni_value(qn_build *b, int64_t width, qn_elem elem);
void qni_op_in(qn_op *op, qn_ref ref);
void qni_op_out(qn_op *op, int32_t value);
void qni_op_use(qn_op *op, int32_t use);
static inline qn_ref qni_whole(int32_t value)
{
    return (qn_ref){value, 0};
}

/* --- the list of layers (layers/layer_list.c) */
typedef void qn_layer_builder(qn_build *b);
qn_layer_builder qni_build_embedding, qni_build_gpt2_block, qni_build_llama_block, qni_build_lm_head, qni_build_vocab_input,
    qni_build_vocab_norm, qni_build_vocab_shard;
/* Which builder makes layer i of the chain of that configuration. */
qn_layer_builder *qni_layer_builder(const qn_model_config *c, int32_t i);

#endif
