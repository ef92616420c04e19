/* The products of a step; see bench_products.h. */
#include "bench_products.h"

#include "bench_common.h"
#include "core/alloc.h"
#include "core/team.h"

enum { CHOOSING = 2 }; /* runs in which the library's threads start and its better layout is chosen; not counted */

static void add(qni_products *p, int64_t m, int64_t n, int64_t k, bool c_f32)
{
    int32_t at = 0;
    while (at < p->count && (p->list[at].m != m || p->list[at].n != n || p->list[at].k != k || p->list[at].c_f32 != c_f32)) at++;
    if (at == QNI_PRODUCTS) return;
    if (at == p->count) {
        p->list[at].m = m;
        p->list[at].n = n;
        p->list[at].k = k;
        p->list[at].c_f32 = c_f32;
        p->count++;
    }
    p->list[at].times++;
}

static void list_products(qni_products *p, const qni_products_of *of)
{
    const qn_model *m = of->model;
    for (int32_t u = 0; u < qn_model_uses(m); u++) {
        const qn_use *use = qn_model_use(m, u);
        const qn_param *w = qn_model_param(m, use->param);
        if (w->rank != 2 || w->adapter || use->layer == 0) continue; /* embeddings are no product */
        if (use->layer + 1 == qn_model_layers(m) && !of->head) continue;
        add(p, of->rows, w->dim[0], w->dim[1], false);
        if (of->input) add(p, of->rows, w->dim[1], w->dim[0], true);
        if (of->weight) add(p, w->dim[0], w->dim[1], of->rows, true);
    }
}

qn_status qni_products_open(qni_products *p, const qni_products_of *of, qn_err *err)
{
    list_products(p, of);
    p->room = of->runs;
    for (int32_t i = 0; i < p->count; i++) {
        const qn_status st = qni_ceiling_open(&p->list[i].c, p->list[i].m, p->list[i].n, p->list[i].k, of->bf16,
                                              p->list[i].c_f32 && of->bf16, of->threads, err);
        if (st != QN_OK) return st;
        p->list[i].ns = qn_calloc((size_t)of->runs, sizeof(double));
        if (p->list[i].ns == NULL) return QN_FAIL(err, QN_ENOMEM, "results of %d runs", of->runs);
    }
    qn_team_pin_self(-1);
    for (int32_t i = 0; i < CHOOSING * p->count; i++) (void)qni_ceiling_run(p->list[i / CHOOSING].c);
    qn_team_pin_self(0);
    return QN_OK;
}

void qni_products_close(qni_products *p)
{
    for (int32_t i = 0; i < p->count; i++) {
        qni_ceiling_close(p->list[i].c);
        qn_free(p->list[i].ns);
    }
    *p = (qni_products){.count = 0};
}

void qni_products_run(qni_products *p)
{
    if (p->runs == p->room) return;
    qn_team_pin_self(-1);
    for (int32_t i = 0; i < p->count; i++) p->list[i].ns[p->runs] = (double)qni_ceiling_run(p->list[i].c);
    p->runs++;
    qn_team_pin_self(0);
}

double qni_products_rate(qni_products *p)
{
    double flops = 0, ns = 0;
    for (int32_t i = 0; i < p->count; i++) {
        flops += 2.0 * (double)p->list[i].m * (double)p->list[i].n * (double)p->list[i].k * (double)p->list[i].times;
        ns += qni_median(p->list[i].ns, p->runs) * (double)p->list[i].times;
    }
    return ns > 0 ? flops / ns : 0;
}
