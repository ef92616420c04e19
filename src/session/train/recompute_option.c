/* What --recompute asks for. Blocks are counted from 0, as in the names of their parameters; the embedding and the head have
 * nothing worth making again. */
#include "recompute_option.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/compiler.h"

static const struct {
    const char *name;
    unsigned bits;
} groups[] = {
    {"all", QN_AGAIN_ALL}, {"attention", QN_AGAIN_ATTENTION}, {"norm", QN_AGAIN_NORM}, {"activation", QN_AGAIN_ACTIVATION}};

static qn_status not_understood(const char *word, size_t n, int32_t blocks, qn_err *err)
{
    return QN_FAIL(err, QN_EINVAL,
                   "--recompute selective has '%.*s'; blocks from 0 to %d, ranges of them such as 0-%d, all, attention, norm and "
                   "activation are possible",
                   (int)n, word, blocks - 1, blocks - 1);
}

/* "3" or "0-3". */
static bool read_range(int32_t *first, int32_t *last, const char *word, size_t n, int32_t blocks)
{
    char *end;
    if (n == 0 || word[0] < '0' || word[0] > '9') return false;
    errno = 0;
    const long a = strtol(word, &end, 10);
    long b = a;
    if (*end == '-' && end[1] >= '0' && end[1] <= '9') b = strtol(end + 1, &end, 10);
    *first = (int32_t)a;
    *last = (int32_t)b;
    return errno == 0 && end == word + n && a <= b && b < blocks;
}

static qn_status read_selection(uint8_t *again, const char *list, int32_t blocks, qn_err *err)
{
    for (const char *word = list, *next; word != NULL; word = next) {
        const size_t n = strcspn(word, ",");
        int32_t first = 0, last = blocks - 1;
        unsigned bits = 0;
        next = word[n] == ',' ? word + n + 1 : NULL;
        for (size_t g = 0; g < QN_COUNT(groups); g++)
            if (strlen(groups[g].name) == n && strncmp(word, groups[g].name, n) == 0) bits = groups[g].bits;
        if (bits == 0) {
            if (!read_range(&first, &last, word, n, blocks)) return not_understood(word, n, blocks, err);
            bits = QN_AGAIN_ALL;
        }
        for (int32_t i = first; i <= last; i++) again[1 + i] |= (uint8_t)bits; /* layer 0 of the chain is the embedding */
    }
    return QN_OK;
}

qn_status qni_recompute_read(qni_recompute *out, const char *text, int32_t at, const qn_model *model, qn_err *err)
{
    static const char *const whole[] = {
        [QN_RECOMPUTE_NONE] = "none", [QN_RECOMPUTE_FULL] = "full", [QN_RECOMPUTE_EXCEPT_LAST] = "except-last"};
    static const char part[] = "selective:";
    *out = (qni_recompute){.how = QN_RECOMPUTE_PART, .late = at == 2};
    for (int i = 0; i < (int)QN_COUNT(whole); i++) {
        if (strcmp(text, whole[i]) != 0) continue;
        out->how = (qn_recompute)i;
        return QN_OK;
    }
    if (strncmp(text, part, sizeof(part) - 1) != 0)
        return QN_FAIL(err, QN_EINVAL,
                       "--recompute is %s; none, full, except-last and selective:WHAT are possible, such as selective:0-3,7 or "
                       "selective:attention",
                       text);
    out->late = at != 1;
    out->again = qn_calloc((size_t)qn_model_layers(model), sizeof(*out->again));
    if (out->again == NULL) return QN_FAIL(err, QN_ENOMEM, "the choice of what is computed again");
    return read_selection(out->again, text + sizeof(part) - 1, qn_model_config_of(model)->layers, err);
}

void qni_recompute_fini(qni_recompute *r)
{
    qn_free(r->again);
    r->again = NULL;
}
