/* Decoding with a model twice as large as the device's memory, straight from its file (Superpipeline, arXiv:2410.08791,
 * reconstructed). A model of small values is written, dropped from memory and from the system's cache, and 64 tokens are decoded
 * through an arena of 512 MiB.
 *
 *   arena      its high water, by the runner: at most its limit
 *   resident   the most of the process that was in memory while it decoded (VmHWM of /proc/self/status, set back before), pages
 *              of the mapped file among it: at most the arena and a quarter
 *   limit      RLIMIT_DATA while it decodes: what the process had before, the arena, and an eighth of it; an allocation beyond
 *              fails, and the run with it
 *
 * Every token needs all weights once, so that its time is that of reading them: with batch 1 nothing hides that. After the first
 * token they come from the system's cache where there is room for the file. */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "bench_common.h"
#include "bench_window.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
#include "core/io.h"
#include "core/team.h"
#include "session/load.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/checkpoint_source.h"
#include "runtime/forward/runner.h"

enum { TOKENS = 64, CONTEXT = 128, TIMES = 2 };
static const int64_t MEMORY = 512 << 20;

typedef struct big {
    qn_model *model;
    char folder[PATH_MAX];
    int64_t bytes; /* of the values */
    int32_t *order;
    double ms[TOKENS];
    int64_t most_resident, high_water, loaded; /* bytes */
} big;

/* ---- the process's own memory */

/* A field of /proc/self/status in bytes. */
static qn_status process_bytes(int64_t *out, const char *field, qn_err *err)
{
    char *text = NULL;
    size_t bytes;
    qn_status st = qn_file_read(&text, &bytes, "/proc/self/status", 1 << 20, err);
    if (st != QN_OK) return st;
    const char *at = strstr(text, field);
    if (at == NULL)
        st = QN_FAIL(err, QN_EUNSUPPORTED, "/proc/self/status has no %s: this system does not say what a process holds", field);
    else
        *out = strtoll(at + strlen(field), NULL, 10) * 1024;
    qn_free(text);
    return st;
}

/* From here on VmHWM counts anew. */
static qn_status reset_peak(qn_err *err)
{
    const int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    const bool done = fd >= 0 && write(fd, "5", 1) == 1;
    if (fd >= 0) close(fd);
    return done ? QN_OK : QN_FAIL(err, QN_EUNSUPPORTED, "/proc/self/clear_refs does not set back what a process held at most");
}

static qn_status limit_data(struct rlimit *before, qn_err *err)
{
    int64_t now;
    qn_status st = process_bytes(&now, "VmData:", err);
    if (st != QN_OK) return st;
    if (getrlimit(RLIMIT_DATA, before) != 0) return QN_FAIL(err, QN_EIO, "the limit of data memory cannot be read");
    struct rlimit mine = *before;
    mine.rlim_cur = (rlim_t)(now + MEMORY + MEMORY / 8);
    if (before->rlim_cur != RLIM_INFINITY && before->rlim_cur < mine.rlim_cur) return QN_OK; /* it is lower already */
    return setrlimit(RLIMIT_DATA, &mine) == 0 ? QN_OK : QN_FAIL(err, QN_EIO, "the limit of data memory cannot be set");
}

/* ---- the model */

static qn_status open_model(big *b, qn_err *err)
{
    qn_model_config c = {
        .arch = QN_ARCH_LLAMA, .layers = 8, .heads = 16, .kv_heads = 16, .width = 1024, .context = CONTEXT, .vocab = 8192};
    for (;; c.layers++) {
        const qn_status st = qn_model_open(&b->model, &c, err);
        if (st != QN_OK) return st;
        b->bytes = qn_model_param_count(b->model) * (int64_t)sizeof(float);
        if (b->bytes >= TIMES * MEMORY) return QN_OK;
        qn_model_close(b->model);
        b->model = NULL;
    }
}

/* Its pages leave the system's cache, where the system does that. */
static void forget_pages(const char *folder)
{
    char path[PATH_MAX];
    if (qn_path_join(path, sizeof(path), folder, "model.safetensors", NULL) != QN_OK) return;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

static qn_status write_model(const big *b, qn_err *err)
{
    const qn_checkpoint_desc desc = {.bos = -1, .eos = -1};
    float **value = NULL;
    void *block = NULL;
    size_t bytes = 0;
    qn_status st = qni_values_open(&value, &block, &bytes, b->model, err);
    for (int32_t i = 0; st == QN_OK && i < qn_model_params(b->model); i++)
        for (int64_t k = 0; k < qn_model_param(b->model, i)->count; k++) value[i][k] = 0.01F * (float)((k + i) % 7 - 3);
    const qn_state_view view = {.model = b->model, .value = value};
    if (st == QN_OK) st = qn_checkpoint_write(b->folder, &view, &desc, err);
    qni_values_close(value, block, bytes);
    if (st == QN_OK) forget_pages(b->folder);
    return st;
}

/* ---- decoding */

static qn_status decode(big *b, qn_runner *r, qn_err *err)
{
    const qn_sampling greedy = {.temperature = 0};
    const int32_t vocab = qn_runner_vocab(r);
    int32_t token = 1;
    for (int32_t i = 0; i < TOKENS; i++) {
        const float *logits;
        const int64_t began = qn_now_ns();
        const qn_status st = qn_runner_feed(r, &token, 1, &logits, err);
        if (st != QN_OK) return st;
        token = qn_sample(logits, vocab, &greedy, i, b->order);
        b->ms[i] = (double)(qn_now_ns() - began) * 1e-6;
    }
    return QN_OK;
}

static qn_status run(big *b, const qn_bench_options *opt, qn_err *err)
{
    const int32_t cuts[] = {0, qn_model_layers(b->model)};
    struct rlimit before;
    qn_checkpoint_source *source = NULL;
    qn_runner *runner = NULL;
    qn_status st;
    QN_TRY(st, limit_data(&before, err), out);
    QN_TRY(st, reset_peak(err), restore);
    QN_TRY(st, qn_checkpoint_source_open(&source, b->folder, b->model, err), restore);
    const qn_runner_tiers tiers = {.memory = MEMORY, .replace = 1, .read = qn_checkpoint_source_read, .read_ctx = source};
    const qn_runner_desc desc = {.model = b->model,
                                 .first_layer = cuts,
                                 .workers = 1,
                                 .threads = (int32_t)qn_max64(opt->threads, 1),
                                 .mode = QN_MODE_F32,
                                 .weights = QN_WEIGHTS_F32,
                                 .kv = QN_F32,
                                 .B = 1,
                                 .T = 1,
                                 .cache_len = CONTEXT,
                                 .slots = 1,
                                 .tiers = &tiers};
    qn_team_pin_self(-1);
    QN_TRY(st, qn_runner_open(&runner, &desc, err), restore);
    QN_TRY(st, decode(b, runner, err), restore);
    QN_TRY(st, process_bytes(&b->most_resident, "VmHWM:", err), restore);
    b->high_water = qn_runner_devices_of(runner).high_water;
    b->loaded = qn_runner_devices_of(runner).loaded;
restore:
    qn_runner_close(runner);
    qn_checkpoint_source_close(source);
    (void)setrlimit(RLIMIT_DATA, &before);
out:
    return st;
}

static void show(big *b, const qn_bench_options *opt, qn_line_fn *line, void *ctx)
{
    const double most = 1.25 * (double)MEMORY, first = b->ms[0];
    double all = 0;
    for (int32_t i = 0; i < TOKENS; i++) all += b->ms[i];
    const bool held = b->high_water <= MEMORY && (double)b->most_resident <= most;
    qni_line l = qni_line_begin(opt->json);
    qni_line_text(&l, "claim", "decoding from a file twice the size of the memory, by what the process held");
    qni_line_number(&l, "model_MB", (double)b->bytes * 1e-6);
    qni_line_number(&l, "arena_limit_MB", (double)MEMORY * 1e-6);
    qni_line_number(&l, "arena_MB", (double)b->high_water * 1e-6);
    qni_line_number(&l, "most_resident_MB", (double)b->most_resident * 1e-6);
    qni_line_number(&l, "wanted_at_most", most * 1e-6);
    qni_line_text(&l, "reached", held ? "yes" : "no");
    qni_line_number(&l, "tokens", TOKENS);
    qni_line_number(&l, "first_token_ms", first);
    qni_line_number(&l, "token_ms", qni_median(b->ms + 1, TOKENS - 1));
    qni_line_number(&l, "seconds", all * 1e-3);
    qni_line_number(&l, "read_GB", (double)b->loaded * 1e-9);
    qni_line_end(&l, line, ctx);
}

qn_status qni_bench_out_of_core(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err)
{
    const char *above = opt->folder != NULL && opt->folder[0] != '\0' ? opt->folder : ".";
    big *b = qn_calloc(1, sizeof(*b));
    bool mine = false;
    qn_status st;
    if (b == NULL) return QN_FAIL(err, QN_ENOMEM, "results");
    QN_TRY(st, qn_path_join(b->folder, sizeof(b->folder), above, "quern-out-of-core", err), out);
    if (qn_path_exists(b->folder) != 0) {
        st = QN_FAIL(err, QN_EINVAL, "%s is there already; the benchmark writes a directory of that name and removes it",
                     b->folder);
        goto out;
    }
    mine = true;
    QN_TRY(st, open_model(b, err), out);
    b->order = qn_calloc((size_t)qn_model_config_of(b->model)->vocab, sizeof(*b->order));
    st = b->order != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "room for logits");
    if (st == QN_OK) st = write_model(b, err);
    if (st == QN_OK) st = run(b, opt, err);
    if (st == QN_OK) show(b, opt, line, ctx);
out:
    if (mine) (void)!qn_remove_tree(b->folder, NULL);
    qn_model_close(b->model);
    qn_free(b->order);
    qn_free(b);
    return st;
}
