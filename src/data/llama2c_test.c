/* llama2.c's checkpoint: a small one made here (every tensor, the order of q and k rows, each length cut short), and the real
 * one. */
#include "data/data_test.h"

#include "data/llama2c_internal.h"

enum { W = 8, H = 12, L = 2, HEADS = 2, KV = 1, V = 5, T = 3, HEAD = 28 };

/* Number n of the file's floats is n. */
static size_t make_file(unsigned char *file, int32_t vocab)
{
    const int32_t head[7] = {W, H, L, HEADS, KV, vocab, T};
    const int32_t K = W / HEADS * KV;
    const int32_t floats =
        V * W + L * (W + W * W + 2 * K * W + W * W + W + 3 * H * W) + W + T * (W / HEADS) + (vocab < 0 ? V * W : 0);
    memcpy(file, head, HEAD);
    for (int32_t i = 0; i < floats; i++) {
        const float x = (float)i;
        memcpy(file + HEAD + 4 * i, &x, 4);
    }
    return HEAD + 4 * (size_t)floats;
}

static unsigned char file[16384];

static void tensors_have_hugging_face_names(void **state)
{
    qn_llama2c *f;
    float x[H * W];
    (void)state;
    for (int untied = 0; untied < 2; untied++) {
        const size_t bytes = make_file(file, untied ? -V : V);
        const int32_t K = W / HEADS * KV;
        MUST(qni_llama2c_open_memory(&f, file, bytes, "f", &err));
        const qn_llama2c_header *h = qn_llama2c_header_of(f);
        assert_true(h->width == W && h->hidden == H && h->layers == L && h->heads == HEADS && h->kv_heads == KV &&
                    h->vocab == V && h->context == T && h->tied == !untied);
        MUST(qn_llama2c_read(x, f, "model.embed_tokens.weight", V * W, &err));
        for (int i = 0; i < V * W; i++) assert_true(x[i] == (float)i);
        const int att = V * W, wq = att + L * W, wk = wq + L * W * W, wv = wk + L * K * W, wo = wv + L * K * W;
        MUST(qn_llama2c_read(x, f, "model.layers.1.input_layernorm.weight", W, &err));
        assert_true(x[0] == (float)(att + W));
        /* Within a head of 4 rows: 0 2 1 3 in the file's numbering. */
        static const int row[4] = {0, 2, 1, 3};
        MUST(qn_llama2c_read(x, f, "model.layers.1.self_attn.q_proj.weight", W * W, &err));
        for (int r = 0; r < W; r++)
            for (int c = 0; c < W; c++) assert_true(x[r * W + c] == (float)(wq + W * W + (r / 4 * 4 + row[r % 4]) * W + c));
        MUST(qn_llama2c_read(x, f, "model.layers.0.self_attn.k_proj.weight", K * W, &err));
        for (int r = 0; r < K; r++) assert_true(x[r * W] == (float)(wk + row[r] * W));
        MUST(qn_llama2c_read(x, f, "model.layers.1.self_attn.v_proj.weight", K * W, &err));
        for (int i = 0; i < K * W; i++) assert_true(x[i] == (float)(wv + K * W + i));
        MUST(qn_llama2c_read(x, f, "model.layers.0.self_attn.o_proj.weight", W * W, &err));
        assert_true(x[0] == (float)wo);
        const int ffn = wo + L * W * W, w1 = ffn + L * W, w2 = w1 + L * H * W, w3 = w2 + L * H * W, norm = w3 + L * H * W;
        MUST(qn_llama2c_read(x, f, "model.layers.0.post_attention_layernorm.weight", W, &err));
        assert_true(x[0] == (float)ffn);
        MUST(qn_llama2c_read(x, f, "model.layers.1.mlp.gate_proj.weight", H * W, &err));
        assert_true(x[0] == (float)(w1 + H * W));
        MUST(qn_llama2c_read(x, f, "model.layers.1.mlp.down_proj.weight", H * W, &err));
        assert_true(x[0] == (float)(w2 + H * W));
        MUST(qn_llama2c_read(x, f, "model.layers.0.mlp.up_proj.weight", H * W, &err));
        assert_true(x[0] == (float)w3);
        MUST(qn_llama2c_read(x, f, "model.norm.weight", W, &err));
        assert_true(x[0] == (float)norm);
        if (untied) {
            MUST(qn_llama2c_read(x, f, "lm_head.weight", V * W, &err));
            assert_true(x[0] == (float)(norm + W + T * W / HEADS));
        } else {
            MUST_FAIL(qn_llama2c_read(x, f, "lm_head.weight", V * W, &err), QN_ENOENT, "lm_head.weight");
        }
        MUST_FAIL(qn_llama2c_read(x, f, "model.norm.weight", W + 1, &err), QN_ERANGE, "8 numbers");
        static const char *const none[] = {"",
                                           "model.layers.2.input_layernorm.weight",
                                           "model.layers.00.input_layernorm.weight",
                                           "model.layers.-1.x",
                                           "model.layers.0.model.norm.weight",
                                           "input_layernorm.weight",
                                           "model.layers.99999999999.x",
                                           "model.layers.+1.mlp.up_proj.weight"};
        for (size_t i = 0; i < QN_COUNT(none); i++) MUST_FAIL(qn_llama2c_read(x, f, none[i], W, &err), QN_ENOENT, "no tensor");
        qn_llama2c_close(f);
    }
}

static void wrong_files_are_refused(void **state)
{
    static const int32_t bad[] = {0, -1, 7, INT32_MIN, INT32_MAX, 1 << 24};
    qn_llama2c *f;
    const size_t bytes = make_file(file, V);
    (void)state;
    for (size_t n = 0; n < bytes; n++) MUST_FAIL(qni_llama2c_open_memory(&f, file, n, "f", &err), QN_EFORMAT, "short");
    MUST_FAIL(qni_llama2c_open_memory(&f, file, bytes + 4, "f", &err), QN_EFORMAT, "wants");
    for (int field = 0; field < 7; field++)
        for (size_t i = 0; i < QN_COUNT(bad); i++) {
            qn_err why;
            make_file(file, V);
            memcpy(file + 4 * field, &bad[i], 4);
            assert_int_equal(qni_llama2c_open_memory(&f, file, bytes, "f", &why), QN_EFORMAT);
        }
}

static void the_real_checkpoint_opens(void **state)
{
    char path[512];
    float norm[64];
    qn_llama2c *f;
    (void)state;
    if (data_path(path, "stories260k/stories260K.bin") == NULL) skip();
    MUST(qn_llama2c_open(&f, path, &err));
    const qn_llama2c_header *h = qn_llama2c_header_of(f);
    assert_true(h->width == 64 && h->hidden == 172 && h->layers == 5 && h->heads == 8 && h->kv_heads == 4 && h->vocab == 512 &&
                h->context == 512 && h->tied);
    MUST(qn_llama2c_read(norm, f, "model.norm.weight", 64, &err));
    for (int i = 0; i < 64; i++) assert_true(norm[i] > 0.1f && norm[i] < 100.0f);
    qn_llama2c_close(f);
    MUST_FAIL(qn_llama2c_open(&f, "/nonexistent", &err), QN_ENOENT, "nonexistent");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_have_hugging_face_names),
        cmocka_unit_test(wrong_files_are_refused),
        cmocka_unit_test(the_real_checkpoint_opens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
