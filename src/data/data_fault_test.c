/* Every n-th allocation and every n-th read, write, sync and rename of this module fails once: a clean error each time, nothing
 * leaked (the address sanitizer tells), nothing left half done, and the same call works afterwards. */
#include "data/data_test.h"

#include "core/alloc.h"
#include "data/dataset/shards.h"
#include "data/safetensors/safetensors.h"
#include "data/text/text.h"
#include "data/tokenizer/tokenizer.h"

static const char text[] = "low low lower newest newest caf\xc3\xa9 e\xcc\x81 widest aaaa 2024\n";
static const size_t text_bytes = sizeof(text) - 1;

/* Encodes, decodes and closes t. */
static qn_status use(qn_tokenizer *t, qn_err *err)
{
    int32_t *id = NULL;
    int64_t n = 0;
    char *out = NULL;
    size_t bytes;
    qn_status st = qn_tokenizer_encode(&id, &n, t, text, text_bytes, err);
    if (st == QN_OK) st = qn_tokenizer_decode(&out, &bytes, t, id, n, err);
    qn_free(out);
    out = NULL;
    if (st == QN_OK) st = qn_tokenizer_json(&out, &bytes, t, err);
    qn_free(out);
    qn_free(id);
    qn_tokenizer_close(t);
    return st;
}

static qn_status chars(qn_err *err)
{
    qn_tokenizer *t;
    const qn_status st = qn_tokenizer_open_chars(&t, text, text_bytes, err);
    return st == QN_OK ? use(t, err) : st;
}

static qn_status bytes_(qn_err *err)
{
    qn_tokenizer *t;
    const qn_status st = qn_tokenizer_open_bytes(&t, err);
    return st == QN_OK ? use(t, err) : st;
}

static qn_status train(qn_err *err)
{
    const char *p = text;
    qn_tokenizer *t;
    const qn_status st = qn_tokenizer_train(&t, &p, &text_bytes, 1, 266, NULL, NULL, err);
    return st == QN_OK ? use(t, err) : st;
}

static qn_status open_stored(const char *name, qn_err *err)
{
    char path[512];
    qn_tokenizer *t;
    const qn_status st = qn_tokenizer_open(&t, source_path(path, name), err);
    return st == QN_OK ? use(t, err) : st;
}

static qn_status qwen(qn_err *err)
{
    return open_stored("tests/golden/qwen_like.json", err);
}

static qn_status llama(qn_err *err)
{
    return open_stored("tests/golden/llama2_like.json", err);
}

static qn_status shard(qn_err *err)
{
    const int32_t id[] = {1, 2, 3, 4};
    char path[512];
    qn_tokens *t;
    qn_source *s;
    qn_status st = qn_tokens_write(tmp_path(path, "fault-shard"), id, 4, 5, err);
    if (st == QN_OK) st = qn_tokens_open(&t, path, err);
    if (st != QN_OK) return st;
    st = qn_source_windows(&s, t, qn_tokens_train_part(t), 1, 1, 1, err);
    if (st == QN_OK) s->ops->close(s);
    qn_tokens_close(t);
    return st;
}

static qn_status text_file(qn_err *err)
{
    char path[512], *out;
    size_t n;
    const char *list[2] = {tmp_path(path, "fault-text"), path};
    qn_status st = qn_file_write(path, text, text_bytes, err);
    if (st == QN_OK) st = qn_text_read(&out, &n, list, 2, err);
    if (st == QN_OK) qn_free(out);
    return st;
}

static qn_status zeros(void *ctx, int32_t i, int64_t first, int64_t count, void *to, qn_err *err)
{
    (void)ctx, (void)i, (void)first, (void)err;
    memset(to, 0, 4 * (size_t)count);
    return QN_OK;
}

static qn_status tensors(qn_err *err)
{
    static const qn_tensor_desc d[] = {{"a", QN_F32, {1, {40}}}, {"b", QN_F32, {1, {40}}}};
    char dir[512];
    qn_safetensors *f;
    qn_status st = qn_make_dirs(tmp_path(dir, "fault-tensors"), err);
    if (st == QN_OK) st = qn_safetensors_write(dir, "model", d, 2, 100, zeros, NULL, err);
    if (st == QN_OK) st = qn_safetensors_open(&f, dir, err);
    if (st == QN_OK) qn_safetensors_close(f);
    return st;
}

static void each_failure_is_survived(void **state)
{
    static qn_status (*const call[])(qn_err *) = {chars, bytes_, train, qwen, llama, shard, text_file, tensors};
    char path[512];
    (void)state;
    for (size_t i = 0; i < QN_COUNT(call); i++)
        for (int kind = QN_FAULT_ALLOC; kind <= QN_FAULT_IO; kind++) {
            long n = 0;
            bool pending;
            qn_status st;
            do {
                qn_err err = {.code = QN_OK};
                qni_fault_arm((qn_fault)kind, ++n);
                st = call[i](&err);
                pending = false; /* did the n-th event come at all? */
                for (long k = 0; k < n && !pending; k++) pending = qni_fault_hit((qn_fault)kind) != 0;
                qni_fault_arm((qn_fault)kind, 0);
                if (st != QN_OK && (err.code != st || err.text[0] == '\0' || (st != QN_ENOMEM && st != QN_EIO)))
                    fail_msg("call %zu, failure %ld of kind %d: %s '%s'", i, n, kind, qn_status_name(st), err.text);
                /* A failure may do no harm (a pattern that is not compiled to machine code): go on until none came. */
            } while (!pending);
            assert_int_equal(st, QN_OK);
            MUST(call[i](&err));
        }
    unlink(tmp_path(path, "fault-shard"));
    unlink(tmp_path(path, "fault-text"));
    MUST(qn_remove_tree(tmp_path(path, "fault-tensors"), &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_failure_is_survived)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
