/* Status codes and error messages of the whole library.
 *
 * Whatever can fail returns a qn_status; the message is written once, where the failure is decided, into the
 * caller's qn_err (which may be NULL). Codes are grouped by the largest thing that is lost, and recovery reads
 * the group, never the single code. */
#ifndef QUERN_STATUS_H
#define QUERN_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define QN_MUST_USE          __attribute__((warn_unused_result))
#define QN_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define QN_MUST_USE
#define QN_PRINTF(fmt, args)
#endif

typedef enum qn_loss { QN_LOST_NOTHING, QN_LOST_CALL, QN_LOST_REQUEST, QN_LOST_STEP, QN_LOST_PEER, QN_LOST_PROCESS } qn_loss;

/* code, what is lost, short description */
#define QN_STATUS_LIST(X)                                                                                                        \
    X(QN_OK, NOTHING, "done")                                                                                                    \
    X(QN_EAGAIN, NOTHING, "not done yet: call again")                                                                            \
    X(QN_EINVAL, CALL, "wrong usage")                                                                                            \
    X(QN_ERANGE, CALL, "number outside its range")                                                                               \
    X(QN_ESTATE, CALL, "not possible in this state")                                                                             \
    X(QN_EUNSUPPORTED, CALL, "not built in or not supported here")                                                               \
    X(QN_EEXIST, CALL, "exists already")                                                                                         \
    X(QN_ENOENT, CALL, "does not exist")                                                                                         \
    X(QN_EFORMAT, CALL, "malformed input")                                                                                       \
    X(QN_EIO, CALL, "input or output failed")                                                                                    \
    X(QN_ENOMEM, CALL, "out of memory")                                                                                          \
    X(QN_ESCHEDULE, CALL, "invalid schedule")                                                                                    \
    X(QN_ECANCELLED, REQUEST, "cancelled")                                                                                       \
    X(QN_EINTR, STEP, "interrupted by the user")                                                                                 \
    X(QN_ENONFINITE, STEP, "a number is not finite")                                                                             \
    X(QN_EPEER, PEER, "a peer is lost")                                                                                          \
    X(QN_EINTERNAL, PROCESS, "internal error")

typedef enum qn_status {
#define QN_STATUS_ENUM(code, lost, text) code,
    QN_STATUS_LIST(QN_STATUS_ENUM)
#undef QN_STATUS_ENUM
        QN_STATUS_COUNT
} qn_status;

enum { QN_ERR_TEXT = 1024 };

/* The caller's message buffer. Untouched on success; holds one sentence without a final newline on failure. */
typedef struct qn_err {
    qn_status code;
    char text[QN_ERR_TEXT];
    const char *file; /* where the failure was decided; static storage */
    int line;
} qn_err;

const char *qn_status_name(qn_status status); /* "QN_EIO"; static storage */
const char *qn_status_text(qn_status status); /* "input or output failed"; static storage */
qn_loss qn_status_loss(qn_status status);     /* the largest thing lost */

/* Writes the message (err may be NULL) and returns code. Use the macro, which fills in the place. */
qn_status qn_fail(qn_err *err, qn_status code, const char *file, int line, const char *fmt, ...) QN_PRINTF(5, 6);

#define QN_FAIL(err, code, ...) qn_fail((err), (code), __FILE__, __LINE__, __VA_ARGS__)

/* Runs expr; on failure jumps to the label written at the call. */
#define QN_TRY(st, expr, label)                                                                                                  \
    do {                                                                                                                         \
        (st) = (expr);                                                                                                           \
        if ((st) != QN_OK) goto label;                                                                                           \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
