/* quern bench disk: checkpoints against the disk's own rate, and how long it takes to start from one.
 *
 * disk         the same bytes in as many files, written straight from memory, aligned, in pieces of 4 MiB past the system's cache
 *              (through it where the file system knows no other way), synced, renamed, their directory synced; read back in the
 *              same way into memory that is there already
 * checkpoint   qn_checkpoint_write and qn_checkpoint_read of the same model with its moments
 * start        from a model's directory to the first token: values read, weights packed, a prompt of one token
 *
 * A disk that is shared changes its rate from second to second. So every checkpoint stands between two runs of the bare disk and
 * is held against their mean; `share` is the median of these ratios. Before each reading the files' pages are dropped from the
 * cache, for both alike. */
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

enum { PIECE = 4 << 20, GRAIN = 4096, KINDS = 5, MOST_RUNS = 1000, SETS = 3 };
enum { DISK_WRITE, CHECKPOINT_WRITE, DISK_READ, CHECKPOINT_READ, START };

typedef struct disk_bench {
    qn_bench_options opt;
    qn_model *model;
    float **value[SETS]; /* values, first and second moments */
    void *block[SETS];
    size_t block_bytes[SETS];
    char folder[PATH_MAX], raw[2][PATH_MAX], checkpoint[PATH_MAX];
    double bytes;                                                  /* of a checkpoint's tensors */
    bool direct;                                                   /* the bare disk goes past the cache */
    double ns[KINDS][MOST_RUNS + 1], before[KINDS][MOST_RUNS + 1]; /* before: in the order of the runs, not sorted */
} disk_bench;

/* --- the disk's own rate */

static qn_status disk_error(qn_err *err, const char *what, const char *path)
{
    return QN_FAIL(err, QN_EIO, "cannot %s %s: %s", what, path, strerror(errno));
}

/* Through the cache from here on. Whether that changed something. */
static bool leave_direct(int fd)
{
    const int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && (flags & O_DIRECT) != 0 && fcntl(fd, F_SETFL, flags & ~O_DIRECT) == 0;
}

static qn_status move_pieces(int fd, char *at, size_t bytes, bool out, const char *path, qn_err *err)
{
    while (bytes > 0) {
        const size_t piece = bytes < PIECE ? bytes : PIECE;
        const ssize_t n = out ? write(fd, at, piece) : read(fd, at, piece);
        if (n < 0 && (errno == EINTR || (errno == EINVAL && leave_direct(fd)))) continue;
        if (n <= 0) return disk_error(err, out ? "write" : "read", path);
        at += n;
        bytes -= (size_t)n;
    }
    return QN_OK;
}

static int open_direct(disk_bench *b, const char *path, int flags)
{
    const int fd = open(path, flags | O_DIRECT | O_CLOEXEC, 0666);
    b->direct = fd >= 0;
    return fd >= 0 ? fd : open(path, flags | O_CLOEXEC, 0666);
}

/* The sets of numbers that are file f of a checkpoint: the values, or both moments. Whole blocks of the disk: memory is mapped in
 * no smaller parts. */
static qn_status move_sets(int fd, disk_bench *b, int f, bool out, const char *path, qn_err *err)
{
    qn_status st = QN_OK;
    for (int i = f; st == QN_OK && i <= 2 * f; i++)
        st = move_pieces(fd, b->block[i], (b->block_bytes[i] + GRAIN - 1) / GRAIN * GRAIN, out, path, err);
    return st;
}

static qn_status raw_read(disk_bench *b, int f, qn_err *err)
{
    const int fd = open_direct(b, b->raw[f], O_RDONLY);
    if (fd < 0) return disk_error(err, "open", b->raw[f]);
    const qn_status st = move_sets(fd, b, f, false, b->raw[f], err);
    close(fd);
    return st;
}

static qn_status raw_write(disk_bench *b, int f, qn_err *err)
{
    char tmp[PATH_MAX + 8];
    snprintf(tmp, sizeof(tmp), "%s.tmp", b->raw[f]);
    const int fd = open_direct(b, tmp, O_WRONLY | O_CREAT | O_TRUNC);
    if (fd < 0) return disk_error(err, "create", tmp);
    qn_status st = move_sets(fd, b, f, true, tmp, err);
    if (st == QN_OK && fdatasync(fd) < 0) st = disk_error(err, "sync", tmp);
    close(fd);
    if (st == QN_OK && rename(tmp, b->raw[f]) < 0) st = disk_error(err, "rename", tmp);
    if (st != QN_OK) return st;
    const int above = open(b->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (above < 0) return disk_error(err, "open", b->folder);
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
    for (int f = 0; kind == DISK_WRITE && st == QN_OK && f < 2; f++) st = raw_write(b, f, err);
    if (kind == CHECKPOINT_WRITE) st = qn_checkpoint_write(b->checkpoint, &state, &desc, err);
    for (int f = 0; kind == DISK_READ && st == QN_OK && f < 2; f++) st = raw_read(b, f, err);
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

/* The bare disk's time around each of our runs, over ours, sorted. */
static void shares(double *share, const double *disk, const double *ours, int32_t runs)
{
    for (int32_t i = 0; i < runs; i++) share[i] = 0.5 * (disk[i] + disk[i + 1]) / ours[i];
    (void)qni_median(share, runs);
}

static void show(disk_bench *b, int32_t runs, qn_line_fn *line, void *ctx)
{
    static const char *const names[KINDS] = {"disk write", "write", "disk read", "read", "to the first token"};
    for (int k = 0; k < KINDS; k++) {
        const bool ours = k == CHECKPOINT_WRITE || k == CHECKPOINT_READ;
        double share[MOST_RUNS];
        if (ours) shares(share, b->before[k - 1], b->ns[k], runs);
        const int32_t n = ours || k == START ? runs : runs + 1;
        const double ns = qni_median(b->ns[k], n);
        qni_line l = qni_line_begin(b->opt.json);
        qni_line_text(&l, k == START ? "start" : ours ? "checkpoint" : "disk", names[k]);
        qni_line_number(&l, "parameters", (double)qn_model_param_count(b->model));
        if (k != START) qni_line_number(&l, "gbs", b->bytes / ns);
        if (ours) qni_line_number(&l, "share", qni_median(share, runs));
        if (ours) qni_line_number(&l, "share_least", share[0]);
        if (ours) qni_line_number(&l, "share_most", share[runs - 1]);
        if (!ours && k != START) qni_line_text(&l, "way", b->direct ? "direct" : "cache");
        qni_line_number(&l, "ms", ns * 1e-6);
        qni_line_number(&l, "least_ms", b->ns[k][0] * 1e-6);
        qni_line_number(&l, "most_ms", b->ns[k][n - 1] * 1e-6);
        qni_line_number(&l, "spread", qni_spread(b->ns[k], n));
        qni_line_end(&l, line, ctx);
    }
}

/* Bare disk, ours, bare disk, ours, ..., bare disk. */
static qn_status take_turns(disk_bench *b, int disk, int ours, int32_t runs, qn_err *err)
{
    qn_status st = run_kind(&b->ns[disk][0], b, disk, err);
    for (int32_t i = 0; st == QN_OK && i < runs; i++) {
        st = run_kind(&b->ns[ours][i], b, ours, err);
        if (st == QN_OK) st = run_kind(&b->ns[disk][i + 1], b, disk, err);
    }
    memcpy(b->before[disk], b->ns[disk], sizeof(b->before[disk]));
    return st;
}

qn_status qn_bench_disk(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err)
{
    const int32_t runs = (int32_t)qn_min64(given->steps, MOST_RUNS);
    double warm;
    disk_bench *b = qn_calloc(1, sizeof(*b));
    if (b == NULL) return QN_FAIL(err, QN_ENOMEM, "results of %d runs", runs);
    b->opt = qni_bench_defaults(given, false);
    qn_status st = open_bench(b, err);
    for (int k = 0; st == QN_OK && k <= CHECKPOINT_WRITE; k++)
        st = run_kind(&warm, b, k, err); /* as all later ones: over old files */
    if (st == QN_OK) st = take_turns(b, DISK_WRITE, CHECKPOINT_WRITE, runs, err);
    if (st == QN_OK) st = take_turns(b, DISK_READ, CHECKPOINT_READ, runs, err);
    for (int32_t i = 0; st == QN_OK && i < runs; i++) st = run_kind(&b->ns[START][i], b, START, err);
    if (st == QN_OK) show(b, runs, line, ctx);
    close_bench(b);
    qn_free(b);
    return st;
}
