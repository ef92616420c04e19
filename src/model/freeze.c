/* Frozen parameters: which ones, and what that spares the stages.
 *
 * Backward walks down to the lowest layer that has something to train; below it there is neither a pass nor a stash. */
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "core/checked.h"
#include "core/compiler.h"
#include "model/layer.h"

bool qni_op_learns(const qn_model *m, const qn_op *op)
{
    for (int32_t u = 0; op->kind->backward_weight != NULL && u < op->uses; u++)
        if (op->use[u] >= 0 && !m->param[m->use[op->use[u]].param].frozen) return true;
    return false;
}

int32_t qni_lowest_trained(const qn_model *m)
{
    int32_t lowest = m->layers;
    for (int32_t u = 0; u < m->uses; u++) {
        const qn_param *p = &m->param[m->use[u].param];
        const int32_t at = p->origin == 0 ? 0 : m->use[u].layer; /* the embedding, also in shards: look-ups go in at layer 0 */
        if (!p->frozen) lowest = qn_min32(lowest, at);
    }
    return lowest;
}

int64_t qn_model_trained_count(const qn_model *m)
{
    int64_t n = 0;
    for (int32_t i = 0; i < m->params; i++) n += m->param[i].frozen ? 0 : m->param[i].count;
    return n;
}

static size_t common_prefix(const char *a, const char *b)
{
    size_t n = 0;
    while (a[n] != '\0' && a[n] == b[n]) n++;
    return n;
}

/* The names that agree with the pattern the longest, up to three. */
static qn_status refuse(const qn_model *m, const char *pattern, qn_err *err)
{
    enum { SHOWN = 3 };
    char list[SHOWN * (sizeof(m->param->name) + 4)] = "";
    size_t longest = 0, used = 0;
    int32_t shown = 0;
    for (int32_t i = 0; i < m->params; i++) {
        const size_t n = common_prefix(pattern, m->param[i].name);
        if (n > longest) longest = n;
    }
    for (int32_t i = 0; i < m->params && shown < SHOWN; i++) {
        if (common_prefix(pattern, m->param[i].name) < longest) continue;
        used += (size_t)snprintf(list + used, sizeof(list) - used, "%s'%s'", shown > 0 ? ", " : "", m->param[i].name);
        shown++;
    }
    return QN_FAIL(err, QN_EINVAL, "nothing to freeze: no parameter matches '%s'; the nearest are %s ('*' stands for any text)",
                   pattern, list);
}

qn_status qn_model_freeze(qn_model *m, const char *const *pattern, int32_t patterns, qn_err *err)
{
    for (int32_t k = 0; k < patterns; k++) {
        bool found = false;
        for (int32_t i = 0; i < m->params; i++) {
            if (m->param[i].adapter || fnmatch(pattern[k], m->param[i].name, 0) != 0) continue;
            found = true;
            m->param[i].frozen = true;
        }
        if (!found) return refuse(m, pattern[k], err);
    }
    if (qn_model_trained_count(m) == 0)
        return QN_FAIL(err, QN_EINVAL, "all %d parameters are frozen: nothing is left to train", m->params);
    return QN_OK;
}
