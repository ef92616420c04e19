/* Trains a tiny language model as a pipeline of two workers and prints what it learned:
 *
 *     hello_pipeline book.txt [run-directory] */
#include <stdio.h>

#include "quern/session.h"

static void began(void *ctx, const char *summary)
{
    (void)ctx;
    printf("%s\n", summary);
}

static void stepped(void *ctx, const qn_train_step *s)
{
    (void)ctx;
    if (s->step % 20 == 0) printf("step %3lld of %lld   loss %.3f\n", (long long)s->step, (long long)s->steps, s->loss);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s TEXT-FILE [RUN-DIRECTORY]\n", argv[0]);
        return 2;
    }
    qn_config *config = NULL;
    qn_train_options options;
    qn_train_done done;
    qn_err err;
    const qn_train_hooks hooks = {.began = began, .stepped = stepped};
    qn_status status = qn_config_parse(&config, &qn_train_table, &options, sizeof(options), 0, NULL, &err); /* the defaults */
    const char *text = argv[1];
    options.data = (qn_list){.count = 1, .item = &text};
    options.out = argc > 2 ? argv[2] : "hello-run";
    options.force = 1;
    options.steps = 200;
    options.lr = 3e-3;
    options.width = 64;
    options.workers = 2;
    if (status == QN_OK) status = qn_train(&done, &options, &hooks, &err);
    if (status == QN_OK)
        printf("validation loss %.3f; the model writes:\n\n%s\n\nthe pipeline and the loss curve: %s\n", done.val_loss,
               done.sample, done.report);
    else
        fprintf(stderr, "%s\n", err.text);
    qn_config_close(config);
    return status == QN_OK ? 0 : 1;
}
