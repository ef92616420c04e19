/* The published small setting of nanoGPT (4 layers, 4 heads, 128 wide, context 64, batch 12, 2000 steps) on tinyshakespeare,
 * whole last tenth as validation: at most 1.93 (four seeds gave 1.890 to 1.914 with another trainer), and the same number on one
 * worker and on two. The longest test of the suite, about two minutes of one core; it is left out of sanitizer builds. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "support/program.h"
#include "support/sanitized.h"

static double validation_loss(const char *text, int workers)
{
    run_line("train --data %s --tokenizer chars --arch gpt2 --layers 4 --heads 4 --width 128 --context 64 --batch 12 --steps "
             "2000 --lr 1e-3 --min-lr 1e-4 "
             "--warmup 100 --beta2 0.99 --weight-decay 0.1 --clip 1.0 --workers %d --micro-batches 4 --out %s --force --json",
             text, workers, in_root("run"));
    must_be(0);
    json_t *done = json_line(2000);
    assert_non_null(done);
    const double loss = json_at(done, "val_loss");
    json_decref(done);
    return loss;
}

static void shakespeare_is_learned(void **state)
{
    (void)state;
    const char *text = data_file("tinyshakespeare/input.txt");
    if (text == NULL) skip();
    if (QN_SANITIZED) {
        print_message("skipped: too long for a sanitizer build\n");
        skip();
    }
    const double two = validation_loss(text, 2), one = validation_loss(text, 1);
    print_message("validation loss %.17g on two workers, %.17g on one\n", two, one);
    assert_true(two <= 1.93);
    assert_true(one == two);
}

int main(void)
{
    if (make_root("e2e_shakespeare")) return 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(shakespeare_is_learned)};
    return cmocka_run_group_tests(tests, NULL, remove_root);
}
