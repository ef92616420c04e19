/* Tasks of any kind on the lists of their workers, with their start times, kept up to date while tasks move. Private to
 * search*.c.
 *
 * start is the longest path to a task; a move re-computes only what changes, and is taken back when a task would end behind a
 * bound. That refuses circles too: on one, times grow for ever. */
#ifndef QN_SCHEDULE_SEARCH_LISTS_H
#define QN_SCHEDULE_SEARCH_LISTS_H

#include "search.h"

typedef struct qni_edge {
    int32_t from, to;
    int64_t lag; /* from the end of the one to the start of the other */
} qni_edge;

typedef struct qni_lists {
    int32_t workers, tasks;
    int32_t *worker;         /* [tasks] */
    int32_t *group, *adds;   /* [tasks]: tasks of one group, and such that add to one value, keep their order; -1: none */
    int64_t *cost;           /* [tasks] */
    int64_t *up, *down;      /* [tasks]: memory of its worker taken at its start, given back at its end */
    const int64_t *limit;    /* [workers], NULL: none; borrowed */
    int32_t *first;          /* [workers + 1]: of the worker's list in seq */
    int32_t *seq, *pos;      /* [tasks]: the lists; where a task stands */
    int64_t *start;          /* [tasks] */
    qni_edge *edge;          /* as they were added, then sorted by to */
    int32_t edges, edge_cap; /* */
    int32_t *in, *out;       /* [tasks + 1]: first edge to a task; first in next of those from it */
    int32_t *next;           /* [edges] */
    int32_t *ring;           /* [tasks]: tasks to look at again */
    bool *waiting;           /* [tasks]: is in the ring */
    int32_t head, waiters;
    int32_t *changed; /* journal of one move */
    int64_t *was;
    int32_t changes, changes_cap;
    bool failed; /* out of memory; sticks until done */
} qni_lists;

/* Tables with zeros; the caller fills worker, group, adds, cost, up, down, first and seq, adds edges, and says done. Errors:
 * QN_ENOMEM. close accepts zeroes. */
qn_status qni_lists_open(qni_lists *l, int32_t workers, int32_t tasks, qn_err *err) QN_MUST_USE;
void qni_lists_edge(qni_lists *l, int32_t from, int32_t to, int64_t lag);
qn_status qni_lists_done(qni_lists *l, qn_err *err) QN_MUST_USE;
void qni_lists_close(qni_lists *l);

/* Another sequence of the same tasks. */
void qni_lists_set(qni_lists *l, const int32_t *seq);
/* All start times anew; false when tasks wait for each other. */
bool qni_lists_times(qni_lists *l);

int64_t qni_lists_makespan(const qni_lists *l);
int64_t qni_lists_ends(const qni_lists *l); /* sum of the workers' ends */
int64_t qni_lists_peak(const qni_lists *l, int32_t worker);
bool qni_lists_fit(const qni_lists *l, int32_t worker);

/* Moves the task at index `from` of seq to index `to` of the same worker. False: not legal, beyond the memory, or a task ends
 * behind bound; then nothing changed. After true, the move may be undone once. */
bool qni_lists_move(qni_lists *l, int32_t from, int32_t to, int64_t bound);
void qni_lists_undo(qni_lists *l, int32_t from, int32_t to);

/* The critical path from its end to its beginning; path [tasks]. Returns its length. */
int32_t qni_lists_path(const qni_lists *l, int32_t *path);

/* search_improve.c: local search on the lists, which hold the best ones found at the end. Errors: QN_ESCHEDULE (the lists cannot
 * run or are beyond the limit), QN_ENOMEM. */
qn_status qni_lists_improve(qni_lists *l, int64_t *makespan, uint64_t seed, int64_t rounds, const qn_search_progress *progress,
                            qn_err *err) QN_MUST_USE;

#endif
