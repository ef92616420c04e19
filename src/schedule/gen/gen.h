/* The list of published schedules. A generator is pure: a pattern in, an order for all workers out. */
#ifndef QN_SCHEDULE_GEN_H
#define QN_SCHEDULE_GEN_H

#include "schedule/ir.h"

typedef qn_status qn_gen_fn(qn_order *order, const qn_pattern *pat, qn_err *err);

typedef struct qn_generator {
    const char *name;   /* "1f1b" */
    const char *paper;  /* one line */
    const char *bubble; /* formula */
    const char *memory; /* formula */
    qn_gen_fn *generate;
    int32_t min_chunks, max_chunks; /* v allowed; max 0: any */
    int32_t usual_chunks;           /* v when nobody asks for another */
    int32_t min_items;              /* micro-batches needed per worker; 0: any number will do */
    int32_t max_workers;            /* 0: any */
    bool host_state; /* a stage's forward and backward run on different workers: trains with its state on the host */
} qn_generator;

qn_gen_fn qn_gen_gpipe, qn_gen_1f1b, qn_gen_interleaved, qn_gen_zb_h1, qn_gen_zb_h2, qn_gen_zb_1p, qn_gen_zb_2p, qn_gen_zb_v,
    qn_gen_v_min, qn_gen_v_half, qn_gen_interleaved_zb, qn_gen_looped_bfs, qn_gen_dualpipe, qn_gen_dualpipev, qn_gen_v_zb,
    qn_gen_v_adaptive, qn_gen_roundpipe, qn_gen_superpipe;

/* Copies of the model that the schedule itself has: two for dualpipe, else one. */
int32_t qn_generator_replicas(const qn_generator *g);

/* Are these numbers of workers and micro-batches among those the schedule can do? */
bool qn_generator_can(const qn_generator *g, int32_t workers, int32_t items);

/* By name, or NULL. list: all, terminated by a NULL name. */
const qn_generator *qn_generator_find(const char *name);
const qn_generator *qn_generator_list(void);

/* Opens an order of P * v stages and fills it. Errors: QN_EINVAL (unknown name with the nearest; numbers the schedule cannot do,
 * with the ranges that work), QN_ENOMEM. */
qn_status qn_generate(qn_order **out, const char *name, const qn_pattern *pat, qn_err *err) QN_MUST_USE;

#endif
