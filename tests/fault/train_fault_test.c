/* Whole training runs when memory, disk or a message fails: the failure is told, the last checkpoint stays whole, nothing half
 * written is taken for one, and --resume ends with the very bits of a run that nothing happened to.
 *
 *   base  a run interrupted and saved after step 2 of 4; each case works on a copy of it
 *   want  the same run finished undisturbed: its last checkpoint is what every case must come to */
#include "support/fault_sweep.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/compiler.h"
#include "core/io.h"
#include "quern/session.h"
#include "session/load.h"
#include "support/sanitized.h"

enum { PATH = 1024, LAST = 4, BASE = 2 };

static char root[PATH / 4], corpus[PATH / 2];

static const char *in_root(const char *name)
{
    static char buf[8][PATH];
    static int turn;
    turn = (turn + 1) % 8;
    snprintf(buf[turn], PATH, "%s/%s", root, name);
    return buf[turn];
}

static void ok(qn_status st, const qn_err *err)
{
    if (st != QN_OK) fail_msg("%s: %s", qn_status_name(st), err->text);
}

/* --- runs */
typedef struct training {
    const char *out, *width;
    bool resume;
    int64_t stop_after; /* steps; 0: never */
} training;

static int64_t steps_seen;

static void count_step(void *ctx, const qn_train_step *s)
{
    (void)ctx;
    steps_seen = s->step;
}

static int stop_now(void *ctx)
{
    const training *t = ctx;
    return t->stop_after > 0 && steps_seen >= t->stop_after;
}

static qn_status train(void *ctx, qn_err *err)
{
    training *t = ctx;
    char *argv[] = {"--data",
                    corpus,
                    "--layers",
                    "2",
                    "--heads",
                    "2",
                    "--width",
                    (char *)(uintptr_t)t->width,
                    "--context",
                    "8",
                    "--batch",
                    "4",
                    "--steps",
                    "4",
                    "--warmup",
                    "1",
                    "--micro-batches",
                    "2",
                    "--workers",
                    "2",
                    "--save-every",
                    "1",
                    "--keep",
                    "2",
                    "--dropout",
                    "0.1",
                    "--no-pin",
                    "--out",
                    (char *)(uintptr_t)t->out,
                    t->resume ? "--resume" : "--force"};
    qn_config *config;
    qn_train_options opt;
    qn_train_done done;
    const qn_train_hooks hooks = {.ctx = t, .stepped = count_step, .stop = stop_now};
    steps_seen = 0;
    qn_status st = qn_config_parse(&config, &qn_train_table, &opt, sizeof(opt), QN_COUNT(argv), argv, err);
    if (st != QN_OK) return st;
    st = qn_train(&done, &opt, &hooks, err);
    qn_config_close(config);
    return st;
}

/* --- folders */
static void copy_file(const char *to, const char *from)
{
    char *text;
    size_t bytes;
    qn_err err;
    ok(qn_file_read(&text, &bytes, from, (size_t)1 << 30, &err), &err);
    FILE *file = fopen(to, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
    qn_free(text);
}

static void copy_tree(const char *to, const char *from)
{
    qn_err err;
    ok(qn_make_dirs(to, &err), &err);
    DIR *dir = opendir(from);
    assert_non_null(dir);
    for (const struct dirent *e; (e = readdir(dir)) != NULL;) {
        char a[PATH], b[PATH];
        if (e->d_name[0] == '.') continue;
        ok(qn_path_join(a, PATH, from, e->d_name, &err), &err);
        ok(qn_path_join(b, PATH, to, e->d_name, &err), &err);
        if (qn_path_exists(a) == 2)
            copy_tree(b, a);
        else
            copy_file(b, a);
    }
    closedir(dir);
}

static void fresh(const char *work, const char *from)
{
    qn_err err;
    ok(qn_remove_tree(work, &err), &err);
    copy_tree(work, from);
}

static void same_file(const char *run, const char *other, int step, const char *name)
{
    char *text[2], path[PATH];
    size_t bytes[2];
    qn_err err;
    for (int i = 0; i < 2; i++) {
        snprintf(path, PATH, "%s/checkpoints/step-%08d/%s", i == 0 ? run : other, step, name);
        ok(qn_file_read(&text[i], &bytes[i], path, (size_t)1 << 30, &err), &err);
    }
    assert_int_equal(bytes[0], bytes[1]);
    assert_memory_equal(text[0], text[1], bytes[0]);
    qn_free(text[0]);
    qn_free(text[1]);
}

/* Every folder with a checkpoint's name is a whole checkpoint; at least one there is, and it is the newest. */
static void checkpoints_whole(const char *run)
{
    char folder[PATH];
    int count = 0;
    snprintf(folder, PATH, "%s/checkpoints", run);
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    for (const struct dirent *e; (e = readdir(dir)) != NULL;) {
        if (e->d_name[0] == '.' || strlen(e->d_name) != strlen("step-00000000")) continue;
        char path[PATH];
        qni_loaded l;
        qn_err err;
        ok(qn_path_join(path, PATH, folder, e->d_name, &err), &err);
        ok(qni_load(&l, path, NULL, &err), &err);
        assert_non_null(l.tokenizer);
        qni_load_fini(&l);
        count++;
    }
    closedir(dir);
    assert_true(count > 0);
}

/* After a failure: whole, and goes on to the same end. */
static void recovers(const char *work, const char *want, const char *width)
{
    qn_err err = {.code = QN_OK};
    checkpoints_whole(work);
    training again = {.out = work, .width = width, .resume = true};
    const qn_status st = train(&again, &err);
    if (st != QN_OK && st != QN_ESTATE) fail_msg("does not go on: %s", err.text); /* ESTATE: all steps were done and saved */
    same_file(work, want, LAST, "model.safetensors");
    same_file(work, want, LAST, "quern/optimizer.safetensors");
    same_file(work, want, LAST, "config.json");
}

/* base and want for a width. */
static void make_runs(const char *base, const char *want, const char *width)
{
    qn_err err = {.code = QN_OK};
    training first = {.out = base, .width = width, .stop_after = BASE}, rest = {.out = want, .width = width, .resume = true};
    if (train(&first, &err) != QN_EINTR) fail_msg("%s", err.text);
    fresh(want, base);
    err = (qn_err){.code = QN_OK};
    ok(train(&rest, &err), &err);
}

/* --- cases */

/* The n-th event of the kind fails while the run goes on from step 2. Returns the number of events. */
static long nth_fails(qn_fault kind, long stride, const char *word, long *told)
{
    const char *work = in_root("work"), *base = in_root("base"), *want = in_root("want");
    for (long n = 1;; n += stride) {
        qn_err err = {.code = QN_OK};
        training t = {.out = work, .width = "16", .resume = true};
        fresh(work, base);
        qni_fault_arm(kind, n);
        const qn_status st = train(&t, &err);
        const bool struck = fault_struck(kind, n);
        if (!struck) {
            ok(st, &err);
            return n;
        }
        if (st != QN_OK) {
            fault_explained(st, &err, n);
            if (word != NULL && strstr(err.text, word) == NULL) fail_msg("event %ld: '%s' does not say '%s'", n, err.text, word);
            ++*told;
        }
        recovers(work, want, "16");
    }
}

static void nth_io_fails(void **state)
{
    (void)state;
    long told = 0;
    const long events = nth_fails(QN_FAULT_IO, 1, NULL, &told);
    print_message("%ld reads, writes, syncs and renames, %ld failures told\n", events, told);
    assert_true(told > 0);
}

static void nth_message_lost(void **state)
{
    (void)state;
    long told = 0;
    const long events = nth_fails(QN_FAULT_MESSAGE, 1, "lost", &told);
    print_message("%ld messages, %ld losses told\n", events, told);
    assert_true(told > 0);
}

/* On a coarse grid with a random-looking stride, so that the whole length is seen. */
static void nth_allocation_fails(void **state)
{
    (void)state;
    long told = 0;
    const long events = nth_fails(QN_FAULT_ALLOC, QN_SANITIZED ? 7 : 3, NULL, &told);
    print_message("%ld allocations, %ld failures told\n", events, told);
    assert_true(told > 0);
}

/* A run that fails before its first checkpoint is told, and the same command works afterwards. */
static void new_run_fails(void **state)
{
    const char *work = in_root("new");
    static const qn_fault kind[] = {QN_FAULT_ALLOC, QN_FAULT_IO};
    (void)state;
    for (size_t k = 0; k < QN_COUNT(kind); k++) {
        const long stride = (kind[k] == QN_FAULT_ALLOC ? 7 : 1) * (QN_SANITIZED ? 2 : 1);
        for (long n = 1;; n += stride) {
            qn_err err = {.code = QN_OK};
            training t = {.out = work, .width = "16", .stop_after = 1};
            ok(qn_remove_tree(work, &err), &err);
            qni_fault_arm(kind[k], n);
            const qn_status st = train(&t, &err);
            if (!fault_struck(kind[k], n)) break;
            if (st != QN_OK) fault_explained(st, &err, n);
            err = (qn_err){.code = QN_OK};
            if (train(&t, &err) != QN_EINTR) fail_msg("after failed event %ld: %s", n, err.text);
            checkpoints_whole(work);
        }
    }
}

/* What an earlier crash left is no checkpoint, and is cleared away. */
static void leftovers_are_no_checkpoints(void **state)
{
    const char *work = in_root("work"), *tmp = in_root("work/checkpoints/step-00000009.tmp");
    (void)state;
    qn_err err = {.code = QN_OK};
    fresh(work, in_root("base"));
    copy_tree(tmp, in_root("base/checkpoints/step-00000002"));
    assert_int_equal(unlink(in_root("work/checkpoints/step-00000009.tmp/model.safetensors")), 0);
    recovers(work, in_root("want"), "16");
    assert_int_equal(qn_path_exists(tmp), 0);
    (void)err;
}

/* --- disk full. The model is wide, so that checkpoints are what does not fit. */
static void disk_full_here(const char *work, const char *base, const char *want, int64_t limit, long *told)
{
    qn_err err = {.code = QN_OK};
    training t = {.out = work, .width = "64", .resume = true};
    struct rlimit old, tight;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    tight = old;
    tight.rlim_cur = (rlim_t)limit;
    fresh(work, base);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
    const qn_status st = train(&t, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    if (st != QN_OK) {
        fault_explained(st, &err, limit);
        if (strstr(err.text, strerror(EFBIG)) == NULL && strstr(err.text, "full") == NULL) fail_msg("%s", err.text);
        ++*told;
    }
    recovers(work, want, "64");
}

static void files_cannot_grow(void **state)
{
    (void)state;
    long told = 0;
    const char *base = in_root("wide"), *want = in_root("wide-want"), *work = in_root("wide-work");
    signal(SIGXFSZ, SIG_IGN);
    for (int64_t limit = 1 << 17; limit <= 1 << 21; limit *= 2) disk_full_here(work, base, want, limit, &told);
    print_message("%ld full disks told\n", told);
    assert_true(told > 0);
}

/* Fills the file system of ballast, then gives room bytes back. */
static void leave_room(const char *ballast, int64_t room)
{
    static const char zeros[1 << 16];
    const int fd = open(ballast, O_CREAT | O_WRONLY, 0600);
    int64_t bytes = 0;
    assert_true(fd >= 0);
    for (ssize_t n; (n = write(fd, zeros, sizeof(zeros))) > 0;) bytes += n;
    assert_int_equal(errno, ENOSPC);
    assert_true(bytes > room);
    assert_int_equal(ftruncate(fd, bytes - room), 0);
    close(fd);
}

static void file_system_full(void **state)
{
    (void)state;
    const char *disk = in_root("disk"), *work = in_root("disk/run"), *ballast = in_root("disk/ballast"), *wide = in_root("wide"),
               *want = in_root("wide-want");
    qn_err err = {.code = QN_OK};
    ok(qn_make_dirs(disk, &err), &err);
    if (mount("quern-test", disk, "tmpfs", 0, "size=16m") != 0) {
        print_message("no mounting here (%s): file system not filled\n", strerror(errno));
        skip();
    }
    long told = 0, tried = 0;
    for (int64_t room = 1 << 14; room <= 5 << 20; room += room / (QN_SANITIZED ? 2 : 4), tried++) {
        training t = {.out = work, .width = "64", .resume = true};
        fresh(work, wide);
        leave_room(ballast, room);
        err = (qn_err){.code = QN_OK};
        const qn_status st = train(&t, &err);
        if (st != QN_OK) {
            if (strstr(err.text, strerror(ENOSPC)) == NULL && strstr(err.text, "full") == NULL) fail_msg("%s", err.text);
            told++;
        }
        assert_int_equal(unlink(ballast), 0);
        recovers(work, want, "64");
    }
    print_message("%ld full file systems told of %ld\n", told, tried);
    assert_int_equal(umount(disk), 0);
    assert_true(told > 0 && told < tried);
}

static int set_up(void **state)
{
    const char *tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : getenv("QUERN_TEST_TMP"); /* thousands of syncs */
    (void)state;
    snprintf(root, sizeof(root), "%s/train_fault_%ld", tmp != NULL ? tmp : P_tmpdir, (long)getpid());
    if (qn_make_dirs(root, NULL) != QN_OK) return 1;
    snprintf(corpus, sizeof(corpus), "%s/corpus.txt", root);
    FILE *file = fopen(corpus, "w");
    if (file == NULL) return 1;
    for (int i = 0; i < 40; i++) fprintf(file, "%d sacks of grain make %d sacks of flour\n", i, i - i / 7);
    fclose(file);
    make_runs(in_root("base"), in_root("want"), "16");
    make_runs(in_root("wide"), in_root("wide-want"), "64");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    (void)umount2(in_root("disk"), MNT_DETACH);
    return qn_remove_tree(root, NULL) != QN_OK;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nth_io_fails),
        cmocka_unit_test(nth_message_lost),
        cmocka_unit_test(nth_allocation_fails),
        cmocka_unit_test(new_run_fails),
        cmocka_unit_test(leftovers_are_no_checkpoints),
        cmocka_unit_test(files_cannot_grow),
        cmocka_unit_test(file_system_full),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
