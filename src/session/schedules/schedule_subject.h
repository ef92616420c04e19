/* One schedule under examination: from a name or a file to a plan with costs, a simulated trace and the numbers that describe it.
 * What simulate, compare and search share. */
#ifndef QN_SESSION_SCHEDULE_SUBJECT_H
#define QN_SESSION_SCHEDULE_SUBJECT_H

#include "session/report/page.h"
#include "quern/schedule.h"
#include "schedule/gen/gen.h"
#include "schedule/trace.h"
#include "schedule_costs.h"
#include "schedule_devices.h"
#include "schedule_file.h"
#include "schedule_rounds.h"
#include "schedule_steps.h"

typedef struct qni_subject {
    char name[96];
    const qn_generator *generator; /* NULL: from a file or found by search */
    qni_schedule from;
    qn_pattern pattern; /* that the generator was asked for */
    double adapt;       /* v-adaptive: bytes of a worker that its block is chosen for, 0: not by bytes */
    qn_plan *plan;
    int32_t chunks;           /* stages of a worker, rounded up */
    int32_t fine;             /* stages of the finest schedule it is compared with; its own otherwise */
    int32_t depth;            /* stages of a column; all columns cost the same */
    int64_t (*cost)[QN_OPS];  /* [depth]; NULL: the user says nothing */
    int64_t *size[QNI_SIZES]; /* [stages] or NULL */
    qn_trace trace;
    int64_t latency; /* of a message, in ticks */
    char unit[8];    /* of the costs */
    qn_trace_summary *sum;
    int64_t (*idle)[QN_IDLE_PARTS]; /* [workers] */
    int64_t exposed;                /* how much longer the step is than if messages took no time */
    double *memory;                 /* [workers]: bytes of arena, or micro-batches held at once */
    bool in_bytes;
    int32_t messages;
    qni_device device;  /* zeroes: none */
    int32_t window;     /* stages whose weights a device holds */
    qni_copies *copies; /* [workers]; NULL: none */
    int64_t copies_end;
    qni_rounds rounds;         /* of roundpipe, where the costs are of layers; zeroes: not cut here */
    qn_step_share *steps;      /* [plan->steps]; NULL: of one step */
    char refused[QN_ERR_TEXT]; /* why it is out of the comparison; "": it is not */
} qni_subject;

/* The order of a generator, made for these costs where they are said, or the file's order or plan. chunks 0: the schedule's usual
 * number. fine: stages that costs which hold for all are of; 0: this schedule's own. Errors as qn_schedule_simulate. */
qn_status qni_subject_open(qni_subject *s, const char *name, int64_t chunks, const qn_schedule_options *opt,
                           const qni_costs *costs, int32_t fine, qn_err *err) QN_MUST_USE;
/* The same for an order at hand, which s owns from then on, also after an error. */
qn_status qni_subject_take(qni_subject *s, const char *name, qn_order *order, const qni_costs *costs, int32_t fine,
                           qn_err *err) QN_MUST_USE;
void qni_subject_close(qni_subject *s); /* accepts zeroes */

/* Lowers, simulates and measures. costs NULL: the schedule's own. */
qn_status qni_subject_simulate(qni_subject *s, const qn_schedule_options *opt, const qni_costs *costs, qn_err *err) QN_MUST_USE;

/* The most memory of any worker; *worker may be NULL. */
double qni_subject_memory(const qni_subject *s, int32_t *worker);
/* limit 0: none. Errors: QN_EINVAL: which worker needs how much, and that this is the smallest limit that fits. */
qn_status qni_subject_fits(const qni_subject *s, double limit, qn_err *err) QN_MUST_USE;

/* "12.5 MB" or "2.5 micro-batches"; or for a table's cell: "12.5M", "2.5". */
const char *qni_memory_text(char buf[32], double x, bool in_bytes);

/* Texts of the tools. */
void qni_json_name(qni_page *p, const char *name, const char *value);
void qni_json_array(qni_page *p, const char *name, const int64_t *value, int32_t count, double scale);
void qni_json_subject(qni_page *p, const qni_subject *s, double scale); /* without the closing brace */
qn_status qni_subject_pictures(const qni_subject *s, int32_t n, const char *svg, const char *trace, double scale,
                               qn_err *err) QN_MUST_USE;

#endif
