/* quern train */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "quern/session.h"

static volatile sig_atomic_t interrupts;

static void on_interrupt(int number)
{
    (void)number;
    if (++interrupts > 1) _exit(EXIT_INTERRUPTED); /* what was saved is saved: files are renamed into place */
    static const char message[] = "\nquern: finishing the step and saving; press Ctrl-C again to stop at once\n";
    const ssize_t written = write(STDERR_FILENO, message, sizeof(message) - 1);
    (void)written;
}

typedef struct view {
    bool json, terminal;
    double shown_s;
} view;

static void began(void *ctx, const char *summary)
{
    (void)ctx;
    fprintf(stderr, "quern: %s\n", summary);
}

static void json_step(const qn_train_step *s)
{
    cli_json j = cli_json_begin();
    cli_json_integer(&j, "step", s->step);
    cli_json_number(&j, "loss", s->loss);
    cli_json_number(&j, "grad_norm", s->grad_norm);
    cli_json_number(&j, "lr", s->lr);
    cli_json_number(&j, "tokens_per_s", s->tokens_per_s);
    cli_json_number(&j, "step_ms", s->step_ms);
    if (s->evaluated) cli_json_number(&j, "val_loss", s->val_loss);
    cli_json_end(&j);
}

static void stepped(void *ctx, const qn_train_step *s)
{
    view *v = ctx;
    if (v->json) {
        json_step(s);
        return;
    }
    if (s->evaluated)
        fprintf(stderr, "%sstep %lld: validation loss %.4f\n", v->terminal ? "\r\033[K" : "", (long long)s->step, s->val_loss);
    if (!v->terminal) return;
    const double left = s->seconds_left;
    fprintf(stderr, "\r\033[Kstep %lld/%lld  loss %.4f  %.0f tokens/s  %.1f ms  %d:%02d left", (long long)s->step,
            (long long)s->steps, s->loss, s->tokens_per_s, s->step_ms, (int)(left / 60), (int)left % 60);
    if (s->step == s->steps) fputc('\n', stderr);
    fflush(stderr);
}

static int stop(void *ctx)
{
    (void)ctx;
    return interrupts > 0;
}

/* Of each device: what it used of its memory, and what moved. */
static void show_devices(const qn_train_done *d)
{
    const double mb = 1.0 / (1 << 20);
    if (d->devices == 0) return;
    fprintf(stderr, "\nquern: device memory in use, at most");
    for (int32_t w = 0; w < d->devices; w++) fprintf(stderr, "%s %.1f", w > 0 ? "," : "", (double)d->high_water[w] * mb);
    fprintf(stderr, " MB; %.0f MB loaded, %.0f MB brought back", (double)d->loaded * mb, (double)d->unloaded * mb);
}

static void show_early(const qn_train_done *d)
{
    fprintf(stderr, "\nquern: %lld optimizer steps of a stage taken before all gradients were known, %lld of them taken back",
            (long long)d->early, (long long)d->taken_back);
}

static void show_done(const qn_train_done *d, bool json, bool early)
{
    if (json) {
        cli_json j = cli_json_begin();
        cli_json_true(&j, "done");
        cli_json_integer(&j, "steps", d->steps);
        cli_json_number(&j, "val_loss", d->val_loss);
        cli_json_number(&j, "tokens_per_s", d->tokens_per_s);
        cli_json_integers(&j, "arena_bytes", d->arena_bytes, d->workers);
        cli_json_integers(&j, "arena_high_water", d->arena_high, d->workers);
        if (d->devices > 0) {
            cli_json_integers(&j, "device_high_water", d->high_water, d->devices);
            cli_json_integer(&j, "bytes_up", d->loaded);
            cli_json_integer(&j, "bytes_down", d->unloaded);
        }
        if (early) {
            cli_json_integer(&j, "early_steps", d->early);
            cli_json_integer(&j, "taken_back", d->taken_back);
        }
        cli_json_end(&j);
        return;
    }
    printf("%s\n", d->sample);
    fflush(stdout);
    fprintf(stderr, "quern: %lld steps, %.0f tokens/s", (long long)d->steps, d->tokens_per_s);
    if (isfinite(d->val_loss)) fprintf(stderr, ", validation loss %.4f", d->val_loss);
    show_devices(d);
    if (early) show_early(d);
    fprintf(stderr, "\nquern: run     %s\nquern: model   %s\nquern: report  %s\n", d->run, d->model, d->report);
}

static int run(const cli_verb *verb, int argc, char **argv)
{
    qn_err err = {.code = QN_OK};
    qn_config *config = NULL;
    qn_train_options opt;
    qn_train_done done;
    view v = {.json = cli_take_json(&argc, argv), .terminal = isatty(STDERR_FILENO)};
    int code = EXIT_DONE;
    if (qn_config_parse(&config, verb->table, &opt, sizeof(opt), argc, argv, &err) != QN_OK) return cli_fail(&err);
    if (qn_config_positional(config).count > 0) {
        fprintf(stderr, "quern: '%s' stands alone; text files go behind --data\n", qn_config_positional(config).item[0]);
        code = EXIT_USAGE;
        goto out;
    }
    if (opt.resume && opt.out != NULL && qn_train_adopt(config, opt.out, &err) != QN_OK) {
        code = cli_fail(&err);
        goto out;
    }
    const struct sigaction action = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    const qn_train_hooks hooks = {.ctx = &v, .began = began, .stepped = stepped, .stop = stop};
    if (qn_train(&done, &opt, &hooks, &err) != QN_OK) {
        if (v.terminal) fputc('\n', stderr);
        code = cli_fail(&err);
    } else {
        show_done(&done, v.json, opt.post_validate != 0);
    }
out:
    qn_config_close(config);
    return code;
}

const cli_verb cli_train = {
    .name = "train",
    .summary = "train a language model on text as a pipeline",
    .examples = "  quern train --data book.txt --out runs/book\n"
                "  quern train --data *.txt --tokenizer tokenizer.json --arch llama --kv-heads 2 --workers 2 --schedule "
                "interleaved --out runs/a\n"
                "  quern train --resume --out runs/a --workers 4      # goes on bit-exactly, spread otherwise\n"
                "  quern train --data b.txt --init runs/a --lr 1e-4 --out runs/b\n"
                "  quern train --data b.txt --init runs/a --lora-rank 8 --lora-targets q,v --out runs/tuned\n",
    .table = &qn_train_table,
    .run = run,
};
