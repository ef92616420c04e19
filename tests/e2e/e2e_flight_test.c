/* quern train --flight: steps without a barrier between them give the losses of one step at a time, through evaluations,
 * checkpoints and a resumed run. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/program.h"

#define TINY "--layers 4 --heads 2 --width 32 --context 16 --batch 8 --workers 2 --micro-batches 4 --eval-every 5 --save-every 7"

enum { STEPS = 16 };

static int set_up(void **state)
{
    (void)state;
    if (make_root("e2e_flight")) return 1;
    write_corpus(in_root("text"), 4000);
    return 0;
}

static void losses(double *loss, int steps)
{
    must_be(0);
    for (int i = 0; i < steps; i++) {
        json_t *step = json_line(i);
        loss[i] = json_at(step, "loss");
        json_decref(step);
    }
}

static void the_same_losses(void **state)
{
    (void)state;
    static const char *const how[] = {
        "--schedule zb-h2 --post-validate",
        "--schedule zb-v --post-validate --clip 0",
        "--schedule zb-2p --post-validate --clip 0.5",
        "--schedule 1f1b",
        "--schedule roundpipe --device-memory 64M --optimizer-lag 1",
        "--schedule interleaved --device-memory 64M --window 1,1",
    };
    for (size_t i = 0; i < sizeof(how) / sizeof(how[0]); i++) {
        double want[STEPS], got[STEPS];
        run_line("train --data %s " TINY " --steps %d %s --flight 1 --force --out %s --json", in_root("text"), STEPS, how[i],
                 in_root("one"));
        losses(want, STEPS);
        run_line("train --data %s " TINY " --steps %d %s --flight 4 --force --out %s --json", in_root("text"), STEPS, how[i],
                 in_root("four"));
        losses(got, STEPS);
        for (int k = 0; k < STEPS; k++)
            if (got[k] != want[k]) fail_msg("%s: step %d has loss %.17g, wanted %.17g", how[i], k + 1, got[k], want[k]);
        run_line("train --data %s " TINY " --steps %d %s --force --out %s --json", in_root("text"), STEPS, how[i],
                 in_root("chosen"));
        losses(got, STEPS);
        for (int k = 0; k < STEPS; k++)
            if (got[k] != want[k]) fail_msg("%s: step %d has loss %.17g, wanted %.17g", how[i], k + 1, got[k], want[k]);
    }
}

static void too_long_is_refused(void **state)
{
    (void)state;
    run_line("train --data %s " TINY " --steps 2 --flight 16 --out %s", in_root("text"), in_root("long"));
    must_say(2, "flight", "15");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_losses),
        cmocka_unit_test(too_long_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, remove_root);
}
