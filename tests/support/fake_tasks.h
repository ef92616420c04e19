/* Fake tasks for the executor's tests: every task checks that what it reads is what was to be written, and writes a pattern that
 * names value and step. So a slot reused too early, a message in the wrong place or a task too soon is seen. */
#ifndef QN_TEST_FAKE_TASKS_H
#define QN_TEST_FAKE_TASKS_H

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/executor/executor.h"

typedef struct fake {
    const qn_plan *plan;
    qn_executor *ex;
    uint64_t step;
    int32_t *root;        /* [values] the value that this one is a copy of, through SEND and RECV */
    bool *written;        /* [values] some task has it in out */
    size_t *bytes;        /* [values] really there */
    unsigned char **home; /* [values] for those without a place in an arena */
    int32_t *last_item;   /* [values] of the accumulations in this step */
    _Atomic int64_t ran;
    int32_t *log;          /* NULL, or [tasks]: compute tasks in the order in which they ran */
    _Atomic int32_t wrong; /* first task that found something wrong, -1 */
    _Atomic int32_t wrong_value;
    int32_t fail_task, cancel_task; /* -1: none */
    int64_t sleep_us;               /* per compute task */
} fake;

static unsigned char fake_byte(const fake *f, int32_t value, size_t i)
{
    return (unsigned char)(((uint64_t)f->root[value] * 0x9e3779b97f4a7c15u + f->step * 0xbf58476d1ce4e5b9u +
                            i * 0x94d049bb133111ebu) >>
                           29);
}

static unsigned char *fake_memory(fake *f, int32_t value)
{
    return f->plan->value[value].offset == QN_NONE ? f->home[value] : qn_executor_value(f->ex, value);
}

static void *fake_home(void *ctx, int32_t value, size_t *bytes)
{
    fake *f = ctx;
    *bytes = f->bytes[value];
    return f->home[value];
}

static size_t fake_actual(void *ctx, int32_t value)
{
    return ((fake *)ctx)->bytes[value];
}

static void fake_wrong(fake *f, int32_t task, int32_t value)
{
    int32_t none = -1;
    if (atomic_compare_exchange_strong(&f->wrong, &none, task)) atomic_store(&f->wrong_value, value);
}

static void fake_check(fake *f, int32_t task, int32_t value)
{
    if (!f->written[f->root[value]]) return;
    const unsigned char *at = fake_memory(f, value);
    for (size_t i = 0; i < f->bytes[value]; i++) {
        if (at[i] == fake_byte(f, value, i)) continue;
        fake_wrong(f, task, value);
        return;
    }
}

static qn_status fake_run(void *ctx, qn_executor *ex, int32_t task, qn_err *err)
{
    fake *f = ctx;
    const qn_plan *p = f->plan;
    const qn_task *t = &p->task[task];
    char text[96];
    if (task == f->cancel_task) qn_executor_cancel(ex);
    if (task == f->fail_task) return QN_FAIL(err, QN_EIO, "planted at %s", qn_task_text(text, sizeof(text), p, task));
    for (int32_t i = 0; i < t->in.count; i++) fake_check(f, task, p->ref[t->in.first + i]);
    for (int32_t i = 0; i < t->out.count; i++) {
        const int32_t v = p->ref[t->out.first + i];
        unsigned char *at = fake_memory(f, v);
        for (size_t k = 0; k < f->bytes[v]; k++) at[k] = fake_byte(f, v, k);
    }
    for (int32_t i = 0; i < t->acc.count; i++) {
        const int32_t v = p->ref[t->acc.first + i];
        if (t->item != QN_NONE && f->last_item[v] >= t->item) fake_wrong(f, task, v);
        f->last_item[v] = t->item;
    }
    /* Once more: nobody may have written over it meanwhile. */
    if (f->sleep_us > 0) usleep((useconds_t)f->sleep_us);
    for (int32_t i = 0; i < t->in.count; i++) fake_check(f, task, p->ref[t->in.first + i]);
    const int64_t at = atomic_fetch_add(&f->ran, 1);
    if (f->log != NULL) f->log[at] = task;
    return QN_OK;
}

static const qn_task_fns FAKE_FNS = {.run = fake_run, .home = fake_home, .actual = fake_actual};

/* Copies travel: the receiver's value is the sender's. Chains (forwarded twice) are followed to their start. */
static void fake_roots(fake *f)
{
    const qn_plan *p = f->plan;
    for (int32_t v = 0; v < p->values; v++) f->root[v] = v;
    for (int32_t laps = 0; laps < p->workers; laps++) {
        for (int32_t r = 0; r < p->tasks; r++) {
            if (p->task[r].op != QN_OP_RECV) continue;
            for (int32_t s = 0; s < p->tasks; s++) {
                const qn_task *a = &p->task[s], *b = &p->task[r];
                if (a->op != QN_OP_SEND || a->channel != b->channel || a->tag != b->tag) continue;
                f->root[p->ref[b->out.first]] = f->root[p->ref[a->in.first]];
            }
        }
    }
}

/* partial: values hold fewer bytes than planned, some none at all. */
static void fake_init(fake *f, const qn_plan *p, bool partial)
{
    const size_t n = (size_t)p->values + 1;
    *f = (fake){.plan = p, .wrong = -1, .fail_task = -1, .cancel_task = -1};
    f->root = calloc(n, sizeof(*f->root));
    f->written = calloc(n, sizeof(*f->written));
    f->bytes = calloc(n, sizeof(*f->bytes));
    f->home = calloc(n, sizeof(*f->home));
    f->last_item = calloc(n, sizeof(*f->last_item));
    fake_roots(f);
    for (int32_t t = 0; t < p->tasks; t++)
        for (int32_t i = 0; i < p->task[t].out.count; i++) f->written[p->ref[p->task[t].out.first + i]] = true;
    for (int32_t v = 0; v < p->values; v++) {
        const size_t whole =
            p->value[f->root[v]].bytes < p->value[v].bytes ? (size_t)p->value[f->root[v]].bytes : (size_t)p->value[v].bytes;
        f->bytes[v] = partial ? whole * ((size_t)f->root[v] % 4) / 3 : whole;
        if (p->value[v].offset == QN_NONE) f->home[v] = calloc(f->bytes[v] + 1, 1);
    }
}

static void fake_fini(fake *f)
{
    for (int32_t v = 0; v < f->plan->values; v++) free(f->home[v]);
    free(f->root);
    free(f->written);
    free(f->bytes);
    free(f->home);
    free(f->last_item);
}

static qn_status fake_step(fake *f, qn_trace *trace, qn_err *err)
{
    f->step++;
    atomic_store(&f->ran, 0);
    for (int32_t v = 0; v < f->plan->values; v++) f->last_item[v] = -1;
    return qn_executor_step(f->ex, trace, err);
}

static int64_t fake_tasks(const qn_plan *p)
{
    int64_t n = 0;
    for (int32_t t = 0; t < p->tasks; t++) n += p->task[t].op != QN_OP_SEND && p->task[t].op != QN_OP_RECV;
    return n;
}

#endif
