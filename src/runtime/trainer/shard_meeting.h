/* A meeting of the shards of a stage: what of it stands on one worker, and who moves which piece when. Internal to src/runtime;
 * tensor_shards.h says what a meeting is for.
 *
 *   SUM      phase SCATTER, then GATHER          SCATTER, GATHER   that phase alone
 *
 *   phase SCATTER   to a peer: its slices, of each the raw contributions of all shards here; folds the slices of this worker
 *   phase GATHER    to a peer: the slices of this worker; takes the others'
 *
 * A phase goes through slices in shard order, a slice in pieces of at most a slot; every peer has its own place in both
 * directions, so that nobody waits for a slow one but the fold that needs it. */
#ifndef QN_RUNTIME_SHARD_MEETING_H
#define QN_RUNTIME_SHARD_MEETING_H

#include "kernels/shard_sum.h"
#include "tensor_shards.h"

enum { QNI_WIDEST = sizeof(double) }; /* of the types that are summed */

typedef struct qni_member { /* a shard on this worker */
    qni_joint *joint;
    qn_pass pass;
    qn_mb mb;
    bool busy, offered, ready; /* offered: waits with its numbers; ready: the meeting is over, the pass may go on */
    int32_t shard;
    char *whole, *mine; /* of the meeting: see qn_meeting; mine is this shard's slice, wherever it is */
} qni_member;

typedef struct qni_cursor { /* goes through the pieces of some shards' slices, shard by shard */
    int32_t shard;          /* the number of shards: at the end */
    int64_t piece;
} qni_cursor;

typedef struct qni_peer { /* another worker with shards of the stage */
    int32_t out, in;      /* channels */
    qni_cursor put, got;  /* what is sent to it, what comes from it */
    uint64_t puts, gots;  /* pieces of the meeting so far */
    const char *slot;     /* of the piece that is used next, NULL: not there yet */
} qni_peer;

typedef struct qni_where { /* of a shard: on that peer, or (QN_NONE) on this worker; number `index` among the shards there */
    int32_t peer, index;
} qni_where;

typedef enum qni_phase { QNI_SCATTER, QNI_GATHER, QNI_OVER } qni_phase;

struct qni_joint {
    int32_t task, count, peers, shards;
    qni_member member[QN_MAX_SHARDS];
    qni_peer peer[QN_MAX_SHARDS];
    qni_where where[QN_MAX_SHARDS];
    /* the meeting in progress */
    bool open, of_link; /* of_link: before the passes, nobody has asked for it */
    qn_meeting what;    /* of any member: sizes are the same for all */
    qni_phase phase;
    qni_cursor fold; /* scatter: the piece of this worker's slices that is folded next */
    int64_t piece;   /* the most bytes of a shard's slice in a message */
    uint64_t turn;   /* phases of this task so far */
    int32_t arrays;  /* of a JOIN: how many have been offered */
};

/* A shard's part in the next meeting: the hook of a stage (qn_exchange, ctx a qni_member), true when the meeting is over. The
 * first shard opens it. */
bool qni_meeting_offer(void *ctx, const qn_meeting *what);
/* All shards of this worker have offered. */
void qni_meeting_begin(const qni_shards *s, qni_joint *j);
/* Moves what can be moved. QN_EAGAIN: more has to come. QN_OK: all of them are ready. Errors: QN_EINTERNAL (another worker sent
 * what does not belong here). */
qn_status qni_meeting_run(qni_shards *s, qni_joint *j, qn_executor *ex, qn_err *err) QN_MUST_USE;
/* The bytes of shard k's slice, and where they lie in the whole. */
int64_t qni_meeting_slice(const qni_joint *j, int32_t k, int64_t *first);
/* How many shards a peer has; QN_NONE: this worker. */
int32_t qni_meeting_shards(const qni_joint *j, int32_t peer);

#endif
