/* What happens when the code itself is wrong: the place goes to stderr, and the process ends with a core. */
#include "compiler.h"

#include <stdio.h>
#include <stdlib.h>

void qni_assert_failed(const char *cond, const char *file, int line)
{
    fprintf(stderr, "quern: internal error: %s does not hold at %s:%d; please report this\n", cond, file, line);
    abort();
}
