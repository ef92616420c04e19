/* v-adaptive within a limit of bytes: what a stash of a stage takes is known once the stages are, so the blocks are tried, from
 * the one that holds most on. */
#include <stdio.h>
#include <string.h>

#include "schedule/gen/gen.h"
#include "train_run.h"

bool qni_train_adapts(const qni_train_run *r)
{
    return strcmp(r->opt->schedule, "v-adaptive") == 0 && r->opt->memory > 0;
}

qn_status qni_train_adapt(qni_train_run *r, qn_trainer_desc *desc, qn_err *err)
{
    qn_err last = {.code = QN_OK};
    qn_status st = QN_ESCHEDULE;
    int32_t stashes = 2 * r->order->workers;
    if (err != NULL) last = *err;
    while (st == QN_ESCHEDULE && --stashes > 0) {
        r->stashes = stashes;
        st = qni_train_reorder(r, err);
        if (st == QN_EINVAL) break; /* no block holds less */
        if (st != QN_OK) return st;
        desc->order = r->order;
        st = qn_trainer_open(&r->trainer, desc, err);
        if (err != NULL) last = *err;
    }
    if (st != QN_EINVAL && st != QN_ESCHEDULE) return st;
    return QN_FAIL(err, QN_ESCHEDULE, "v-adaptive with --memory %lld: no block fits; with the one that holds least %.800s",
                   (long long)r->opt->memory, last.text);
}
