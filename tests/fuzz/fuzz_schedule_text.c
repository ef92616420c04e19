/* Any bytes as a schedule file: read, validate or lower, play, write, read again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/compiler.h"
#include "schedule/text/schedule_text.h"
#include "schedule/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void judge_plan(const qn_plan *p)
{
    qn_err err;
    char *text = NULL;
    qn_plan *again = NULL;
    if (qn_plan_validate(p, &err) == QN_OK) QN_ASSERT(qn_token_game(p, 0));
    QN_ASSERT(qn_plan_write(&text, p, &err) == QN_OK);
    QN_ASSERT(qn_plan_read(&again, text, strlen(text), &err) == QN_OK);
    qn_plan_close(again);
    qn_free(text);
}

static void judge_order(const qn_order *o)
{
    qn_err err;
    char *text = NULL;
    qn_order *again = NULL;
    qn_plan *p = NULL;
    const qn_lowering how = {.step_tasks = true, .tied_owner = QN_NONE, .tied_replica = QN_NONE};
    QN_ASSERT(qn_order_write(&text, o, &err) == QN_OK);
    QN_ASSERT(qn_order_read(&again, text, strlen(text), &err) == QN_OK);
    qn_order_close(again);
    qn_free(text);
    if (o->stages * (int64_t)o->items > 1 << 16) return;
    if (qn_lower(&p, o, &how, &err) == QN_OK) judge_plan(p);
    qn_plan_close(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    qn_err err;
    qn_order *o = NULL;
    qn_plan *p = NULL;
    const char *text = (const char *)data;
    if (qn_schedule_form_of(text, size) == QN_FORM_PLAN) {
        if (qn_plan_read(&p, text, size, &err) == QN_OK) judge_plan(p);
        qn_plan_close(p);
    } else {
        if (qn_order_read(&o, text, size, &err) == QN_OK) judge_order(o);
        qn_order_close(o);
    }
    return 0;
}
