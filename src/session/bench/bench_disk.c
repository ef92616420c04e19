/* quern bench disk: checkpoints against the disk's own rate, and how long it takes to start from one.
 *
 * disk         the same bytes in as many files, written from memory in pieces of 1 MiB, synced, renamed, their directory synced;
 *              read back in the same pieces into memory that is there already
 * checkpoint   qn_checkpoint_write and qn_checkpoint_read of the same model with its moments
 * start        from a model's directory to the first token: values read, weights packed, a prompt of one token
 *
 * Before each reading the files' pages are dropped from the cache where the system does so, for both alike. All kinds take turns.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bench_common.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
#include "core/compiler.h"
#include "core/io.h"
#include "core/team.h"
#include "session/load.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/forward/runner.h"

enum { PIECE = 1 << 20, KINDS = 5, MOST_RUNS = 1000, SETS = 3 };
enum { DISK_WRITE, CHECKPOINT_WRITE, DISK_READ, CHECKPOINT_READ, START };

typedef struct disk_bench {
    qn_bench_options opt;
    qn_model *model;
    float **value[SETS]; /* values, first and second moments */
    void *block[SETS];
    size_t block_bytes[SETS];
    char folder[PATH_MAX], raw[2][PATH_MAX], checkpoint[PATH_MAX];
    double bytes; /* of a checkpoint's tensors */
    double ns[KINDS][MOST_RUNS];
} disk_bench;

/* --- the disk's own rate */

static qn_status disk_error(qn_err *err, const char *what, const char *path)
{
    return QN_FAIL(err, QN_EIO, "cannot %s %s: %s", what, path, strerror(errno));
}

static qn_status move_pieces(int fd, char *at, size_t bytes, bool out, const char *path, qn_err *err)
{
    while (bytes > 0) {
        const size_t piece = bytes < PIECE ? bytes : PIECE;
        const ssize_t n = out ? write(fd, at, piece) : read(fd, at, piece);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return disk_error(err, out ? "write" : "read", path);
        at += n;
        bytes -= (size_t)n;
    }
    return QN_OK;
}

/* A file of some blocks of memory, one after the other. */
static qn_status raw_read(const char *path, void *const *block, const size_t *bytes, int blocks, qn_err *err)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return disk_error(err, "open", path);
    qn_status st = QN_OK;
    for (int i = 0; st == QN_OK && i < blocks; i++) st = move_pieces(fd, block[i], bytes[i], false, path, err);
    close(fd);
    return st;
}

static qn_status raw_write(const char *path, const char *folder, void *const *block, const size_t *bytes, int blocks, qn_err *err)
{
    char tmp[PATH_MAX + 8];
    snprintf(tmp, sizeof(tmp), "%s.tmp", path);
    const int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return disk_error(err, "create", tmp);
    qn_status st = QN_OK;
    for (int i = 0; st == QN_OK && i < blocks; i++) st = move_pieces(fd, block[i], bytes[i], true, tmp, err);
    if (st == QN_OK && fsync(fd) < 0) st = disk_error(err, "sync", tmp);
    close(fd);
    if (st == QN_OK && rename(tmp, path) < 0) st = disk_error(err, "rename", tmp);
    if (st != QN_OK) return st;
    const int above = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (above < 0) return disk_error(err, "open", folder);
    (void)fsync(above); /* some file systems cannot */
    close(above);
    return QN_OK;
}

/* Makes the next reader go to the disk. A system that does not is no error: both kinds of reading then come from memory. */
static void forget_pages(const char *path)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

/* --- runs */

static qn_state_view view_of(const disk_bench *b)
{
    return (qn_state_view){.model = b->model, .value = b->value[0], .m = b->value[1], .v = b->value[2]};
}

/* Two files as a checkpoint has them: the values, and both moments. */
static qn_status raw_files(disk_bench *b, bool out, qn_err *err)
{
    qn_status st = QN_OK;
    for (int f = 0; st == QN_OK && f < 2; f++) {
        const int first = f, blocks = f == 0 ? 1 : SETS - 1;
        st = out ? raw_write(b->raw[f], b->folder, b->block + first, b->block_bytes + first, blocks, err)
                 : raw_read(b->raw[f], b->block + first, b->block_bytes + first, blocks, err);
    }
    return st;
}

static void forget_checkpoint(const disk_bench *b)
{
    static const char *const file[] = {"model.safetensors", "quern/optimizer.safetensors"};
    for (size_t i = 0; i < QN_COUNT(file); i++) {
        char path[PATH_MAX];
        if (qn_path_join(path, sizeof(path), b->checkpoint, file[i], NULL) == QN_OK) forget_pages(path);
    }
}

/* Reads the values alone, packs, and feeds a token. */
static qn_status start(disk_bench *b, qn_err *err)
{
    const qn_bench_options *o = &b->opt;
    const int32_t cuts[2] = {0, qn_model_layers(b->model)};
    const qn_state_view values = {.model = b->model, .value = b->value[0]};
    const qn_runner_desc d = {.model = b->model,
                              .value = (void *const *)b->value[0],
                              .first_layer = cuts,
                              .workers = 1,
                              .threads = (int32_t)o->threads,
                              .mode = QN_MODE_BF16,
                              .weights = QN_WEIGHTS_BF16,
                              .kv = QN_BF16,
                              .B = 1,
                              .T = 1,
                              .cache_len = o->context,
                              .slots = 1};
    const int32_t token = 0;
    const float *logits;
    qn_runner *runner = NULL;
    qn_status st = qn_checkpoint_read(b->checkpoint, &values, err);
    if (st == QN_OK) st = qn_runner_open(&runner, &d, err);
    if (st == QN_OK) st = qn_runner_feed(runner, &token, 1, &logits, err);
    qn_runner_close(runner);
    return st;
}

static qn_status run_kind(double *ns, disk_bench *b, int kind, qn_err *err)
{
    const qn_state_view state = view_of(b);
    const qn_checkpoint_desc desc = {.bos = -1, .eos = -1, .state_json = "{}"};
    qn_status st = QN_OK;
    if (kind == DISK_READ)
        for (int i = 0; i < 2; i++) forget_pages(b->raw[i]);
    if (kind >= CHECKPOINT_READ) forget_checkpoint(b);
    const int64_t from = qn_now_ns();
    if (kind == DISK_WRITE) st = raw_files(b, true, err);
    if (kind == CHECKPOINT_WRITE) st = qn_checkpoint_write(b->checkpoint, &state, &desc, err);
    if (kind == DISK_READ) st = raw_files(b, false, err);
    if (kind == CHECKPOINT_READ) st = qn_checkpoint_read(b->checkpoint, &state, err);
    if (kind == START) st = start(b, err);
    *ns = (double)(qn_now_ns() - from);
    return st;
}

/* --- open, show, close */

static qn_status open_bench(disk_bench *b, qn_err *err)
{
    const qn_bench_options *o = &b->opt;
    const qn_model_config config = {.arch = (qn_arch)o->arch,
                                    .layers = (int32_t)o->layers,
                                    .heads = (int32_t)o->heads,
                                    .width = (int32_t)o->width,
                                    .context = (int32_t)o->context,
                                    .vocab = (int32_t)o->vocab,
                                    .tied = o->arch == QN_ARCH_GPT2};
    qn_status st;
    if (o->folder == NULL) b->opt.folder = ".";
    QN_TRY(st, qn_path_join(b->folder, sizeof(b->folder), b->opt.folder, "quern-bench", err), out);
    QN_TRY(st, qn_path_join(b->raw[0], sizeof(b->raw[0]), b->folder, "values", err), out);
    QN_TRY(st, qn_path_join(b->raw[1], sizeof(b->raw[1]), b->folder, "moments", err), out);
    QN_TRY(st, qn_path_join(b->checkpoint, sizeof(b->checkpoint), b->folder, "checkpoint", err), out);
    if (qn_path_exists(b->folder) != 0) {
        st = QN_FAIL(err, QN_EINVAL, "%s is there already; the benchmark writes a directory of that name and removes it",
                     b->folder);
        b->folder[0] = '\0';
        goto out;
    }
    QN_TRY(st, qn_make_dirs(b->folder, err), out);
    QN_TRY(st, qn_model_open(&b->model, &config, err), out);
    for (int i = 0; i < SETS; i++) {
        QN_TRY(st, qni_values_open(&b->value[i], &b->block[i], &b->block_bytes[i], b->model, err), out);
        for (int32_t p = 0; p < qn_model_params(b->model); p++)
            qn_model_init_param(b->model, p, (uint64_t)i + 1, QN_F32, b->value[i][p]);
    }
    b->bytes = 4.0 * SETS * (double)qn_model_param_count(b->model);
out:
    return st;
}

static void close_bench(disk_bench *b)
{
    if (b->folder[0] != '\0') (void)!qn_remove_tree(b->folder, NULL);
    for (int i = 0; i < SETS; i++) qni_values_close(b->value[i], b->block[i], b->block_bytes[i]);
    qn_model_close(b->model);
}

static void show(disk_bench *b, int32_t runs, qn_line_fn *line, void *ctx)
{
    static const char *const names[KINDS] = {"disk write", "write", "disk read", "read", "to the first token"};
    double ns[KINDS];
    for (int k = 0; k < KINDS; k++) {
        const bool ours = k == CHECKPOINT_WRITE || k == CHECKPOINT_READ;
        ns[k] = qni_median(b->ns[k], runs);
        qni_line l = qni_line_begin(b->opt.json);
        qni_line_text(&l, k == START ? "start" : ours ? "checkpoint" : "disk", names[k]);
        qni_line_number(&l, "parameters", (double)qn_model_param_count(b->model));
        if (k != START) qni_line_number(&l, "gbs", b->bytes / ns[k]);
        if (ours) qni_line_number(&l, "ceiling", b->bytes / ns[k - 1]);
        if (ours) qni_line_number(&l, "share", ns[k - 1] / ns[k]);
        qni_line_number(&l, "ms", ns[k] * 1e-6);
        if (k == START) qni_line_number(&l, "disk_ms", ns[DISK_READ] * 1e-6 / SETS);
        qni_line_number(&l, "spread", qni_spread(b->ns[k], runs));
        qni_line_end(&l, line, ctx);
    }
}

qn_status qn_bench_disk(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err)
{
    const int32_t runs = (int32_t)given->steps;
    disk_bench *b = qn_calloc(1, sizeof(*b));
    if (b == NULL) return QN_FAIL(err, QN_ENOMEM, "results of %d runs", runs);
    b->opt = qni_bench_defaults(given, false);
    qn_status st = open_bench(b, err);
    for (int32_t i = 0; st == QN_OK && i < runs; i++)
        for (int k = 0; st == QN_OK && k < KINDS; k++) st = run_kind(&b->ns[k][i], b, k, err);
    if (st == QN_OK) show(b, runs, line, ctx);
    close_bench(b);
    qn_free(b);
    return st;
}
