/* metrics.sqlite. Owns the connection and its prepared statements.
 *
 * Rows are written inside a transaction that is committed every BATCH_ROWS rows or BATCH_NS, whichever comes first, so that a
 * fast run does not sync at every step and a slow one is readable at once. WAL lets others read meanwhile; they wait up to
 * BUSY_MS for a lock.
 *
 *   meta:   application_id names the kind of file, user_version the schema
 *   steps:  step, loss, grad_norm, lr, tokens_per_s, step_ms       evals: step, val_loss */
#include "metrics.h"

#include <inttypes.h>
#include <math.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"

enum { APPLICATION = 0x514E4D54 /* "QNMT" */, VERSION = 1, BUSY_MS = 5000, BATCH_ROWS = 256 };
static const int64_t BATCH_NS = 500000000;

struct qn_metrics {
    sqlite3 *db;
    sqlite3_stmt *step, *eval, *begin, *commit;
    bool open_batch;
    int32_t batch_rows;
    int64_t batch_began_ns;
};

static qn_status fail_sql(qn_err *err, sqlite3 *db, const char *doing)
{
    const bool memory = db != NULL && sqlite3_errcode(db) == SQLITE_NOMEM;
    const char *path = db != NULL ? sqlite3_db_filename(db, "main") : NULL;
    const int system = db != NULL ? sqlite3_system_errno(db) : 0; /* a full disk, when that is behind it */
    return QN_FAIL(err, memory ? QN_ENOMEM : QN_EIO, "%s %s: %s%s%s", path != NULL ? path : "metrics", doing,
                   db != NULL ? sqlite3_errmsg(db) : "out of memory", system != 0 ? ": " : "",
                   system != 0 ? strerror(system) : "");
}

static qn_status execute(sqlite3 *db, const char *sql, const char *doing, qn_err *err)
{
    if (qni_fault_hit(QN_FAULT_IO)) return QN_FAIL(err, QN_EIO, "%s: input or output failed", doing);
    return sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK ? QN_OK : fail_sql(err, db, doing);
}

static qn_status pragma(int64_t *out, sqlite3 *db, const char *sql, qn_err *err)
{
    sqlite3_stmt *s = NULL;
    qn_status st = QN_OK;
    if (qni_fault_hit(QN_FAULT_IO)) return QN_FAIL(err, QN_EIO, "reading the header: input or output failed");
    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK || sqlite3_step(s) != SQLITE_ROW)
        st = fail_sql(err, db, "cannot be read as a database");
    else
        *out = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return st;
}

static qn_status connect_to(sqlite3 **out, const char *path, int flags, qn_err *err)
{
    if (qni_fault_hit(QN_FAULT_IO)) return QN_FAIL(err, QN_EIO, "cannot open %s: input or output failed", path);
    const int rc = sqlite3_open_v2(path, out, flags, NULL);
    if (rc != SQLITE_OK) {
        const qn_status st =
            QN_FAIL(err, rc == SQLITE_NOMEM ? QN_ENOMEM : QN_EIO, "cannot open %s: %s", path, sqlite3_errstr(rc));
        sqlite3_close(*out);
        *out = NULL;
        return st;
    }
    sqlite3_busy_timeout(*out, BUSY_MS);
    return QN_OK;
}

/* An empty database, or one of ours. *fresh: there are no tables yet. */
static qn_status check_kind(bool *fresh, sqlite3 *db, qn_err *err)
{
    int64_t application = 0, version = 0, tables = 0;
    qn_status st;
    QN_TRY(st, pragma(&application, db, "PRAGMA application_id", err), out);
    QN_TRY(st, pragma(&version, db, "PRAGMA user_version", err), out);
    QN_TRY(st, pragma(&tables, db, "SELECT count(*) FROM sqlite_master", err), out);
    *fresh = application == 0 && version == 0 && tables == 0;
    if (!*fresh && (application != APPLICATION || version != VERSION))
        st = QN_FAIL(err, QN_EIO,
                     "%s is a database, but not metrics of this version (application id %" PRId64 ", version %" PRId64
                     "; %d and %d were wanted)",
                     sqlite3_db_filename(db, "main"), application, version, APPLICATION, VERSION);
out:
    return st;
}

static qn_status prepare(sqlite3_stmt **out, sqlite3 *db, const char *sql, qn_err *err)
{
    return sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, out, NULL) == SQLITE_OK
               ? QN_OK
               : fail_sql(err, db, "cannot prepare a statement");
}

static qn_status set_up(qn_metrics *m, int64_t keep_to, qn_err *err)
{
    static const char schema[] =
        "BEGIN;"
        "CREATE TABLE steps(step INTEGER PRIMARY KEY, loss REAL, grad_norm REAL, lr REAL, tokens_per_s REAL, step_ms REAL);"
        "CREATE TABLE evals(step INTEGER PRIMARY KEY, val_loss REAL);"
        "PRAGMA application_id = 1364086100; PRAGMA user_version = 1;"
        "COMMIT";
    _Static_assert(APPLICATION == 1364086100, "the schema text names the application id");
    bool fresh = false;
    char forget[128];
    qn_status st;
    QN_TRY(st, check_kind(&fresh, m->db, err), out);
    QN_TRY(st, execute(m->db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL", "cannot switch to WAL", err), out);
    if (fresh) QN_TRY(st, execute(m->db, schema, "cannot make its tables", err), out);
    sqlite3_snprintf(sizeof(forget), forget,
                     "BEGIN; DELETE FROM steps WHERE step > %lld; DELETE FROM evals WHERE step > %lld; COMMIT",
                     (long long)keep_to, (long long)keep_to);
    QN_TRY(st, execute(m->db, forget, "cannot drop old rows", err), out);
    QN_TRY(st, prepare(&m->step, m->db, "INSERT OR REPLACE INTO steps VALUES(?, ?, ?, ?, ?, ?)", err), out);
    QN_TRY(st, prepare(&m->eval, m->db, "INSERT OR REPLACE INTO evals VALUES(?, ?)", err), out);
    QN_TRY(st, prepare(&m->begin, m->db, "BEGIN IMMEDIATE", err), out);
    QN_TRY(st, prepare(&m->commit, m->db, "COMMIT", err), out);
out:
    return st;
}

qn_status qn_metrics_open(qn_metrics **out, const char *path, int64_t keep_to, qn_err *err)
{
    qn_status st = QN_OK;
    qn_metrics *m = qn_calloc(1, sizeof(*m));
    if (m == NULL) return QN_FAIL(err, QN_ENOMEM, "handle of %s", path);
    QN_TRY(st, connect_to(&m->db, path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, err), out);
    QN_TRY(st, set_up(m, keep_to, err), out);
    *out = m;
    m = NULL;
out:
    qn_metrics_close(m);
    return st;
}

void qn_metrics_close(qn_metrics *m)
{
    if (m == NULL) return;
    if (m->open_batch) sqlite3_exec(m->db, "COMMIT", NULL, NULL, NULL); /* the last chance; flush reports, close cannot */
    sqlite3_finalize(m->step);
    sqlite3_finalize(m->eval);
    sqlite3_finalize(m->begin);
    sqlite3_finalize(m->commit);
    sqlite3_close(m->db);
    qn_free(m);
}

static qn_status run(qn_metrics *m, sqlite3_stmt *s, const char *doing, qn_err *err)
{
    qn_status st = QN_OK;
    if (qni_fault_hit(QN_FAULT_IO))
        st = QN_FAIL(err, QN_EIO, "%s: input or output failed", doing);
    else if (sqlite3_step(s) != SQLITE_DONE)
        st = fail_sql(err, m->db, doing);
    sqlite3_reset(s);
    return st;
}

qn_status qn_metrics_flush(qn_metrics *m, qn_err *err)
{
    if (!m->open_batch) return QN_OK;
    const qn_status st = run(m, m->commit, "cannot commit", err);
    m->open_batch = sqlite3_get_autocommit(m->db) == 0; /* some failures roll back, after others the commit may be tried again */
    return st;
}

/* One row of a bound statement, within the batch. */
static qn_status put(qn_metrics *m, sqlite3_stmt *s, qn_err *err)
{
    qn_status st;
    if (!m->open_batch) {
        QN_TRY(st, run(m, m->begin, "cannot begin to write", err), out);
        m->open_batch = true;
        m->batch_rows = 0;
        m->batch_began_ns = qn_now_ns();
    }
    QN_TRY(st, run(m, s, "cannot write a row", err), out);
    if (++m->batch_rows >= BATCH_ROWS || qn_now_ns() - m->batch_began_ns >= BATCH_NS) st = qn_metrics_flush(m, err);
out:
    return st;
}

static void bind(sqlite3_stmt *s, int column, double x)
{
    if (isfinite(x))
        sqlite3_bind_double(s, column, x);
    else
        sqlite3_bind_null(s, column);
}

qn_status qn_metrics_step(qn_metrics *m, const qn_metrics_row *row, qn_err *err)
{
    sqlite3_bind_int64(m->step, 1, row->step);
    bind(m->step, 2, row->loss);
    bind(m->step, 3, row->grad_norm);
    bind(m->step, 4, row->lr);
    bind(m->step, 5, row->tokens_per_s);
    bind(m->step, 6, row->step_ms);
    return put(m, m->step, err);
}

qn_status qn_metrics_eval(qn_metrics *m, int64_t step, double val_loss, qn_err *err)
{
    sqlite3_bind_int64(m->eval, 1, step);
    bind(m->eval, 2, val_loss);
    return put(m, m->eval, err);
}

static double column(sqlite3_stmt *s, int i)
{
    return sqlite3_column_type(s, i) == SQLITE_NULL ? NAN : sqlite3_column_double(s, i);
}

/* A read-only connection and a statement that asks for at most cap rows. */
static qn_status open_query(sqlite3 **db, sqlite3_stmt **s, const char *path, const char *sql, int64_t cap, qn_err *err)
{
    bool fresh;
    qn_status st;
    QN_TRY(st, connect_to(db, path, SQLITE_OPEN_READONLY, err), out);
    QN_TRY(st, check_kind(&fresh, *db, err), out);
    QN_TRY(st, prepare(s, *db, sql, err), out);
    sqlite3_bind_int64(*s, 1, cap);
out:
    return st;
}

static qn_metrics_row row_at(sqlite3_stmt *s)
{
    return (qn_metrics_row){.step = sqlite3_column_int64(s, 0),
                            .loss = column(s, 1),
                            .grad_norm = column(s, 2),
                            .lr = column(s, 3),
                            .tokens_per_s = column(s, 4),
                            .step_ms = column(s, 5)};
}

int64_t qn_metrics_read(const char *path, qn_metrics_row *rows, int64_t cap, qn_err *err)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *s = NULL;
    int64_t n = -1;
    if (open_query(&db, &s, path, "SELECT step, loss, grad_norm, lr, tokens_per_s, step_ms FROM steps ORDER BY step LIMIT ?", cap,
                   err) == QN_OK) {
        int rc = SQLITE_DONE;
        for (n = 0; n < cap && (rc = sqlite3_step(s)) == SQLITE_ROW; n++) rows[n] = row_at(s);
        if (n < cap && rc != SQLITE_DONE) {
            (void)fail_sql(err, db, "cannot be read");
            n = -1;
        }
    }
    sqlite3_finalize(s);
    sqlite3_close(db);
    return n;
}

int64_t qn_metrics_last(const char *path, qn_metrics_row *row, qn_err *err)
{
    static const char sql[] = "SELECT step, loss, grad_norm, lr, tokens_per_s, step_ms, (SELECT count(*) FROM steps) FROM steps "
                              "ORDER BY step DESC LIMIT ?";
    sqlite3 *db = NULL;
    sqlite3_stmt *s = NULL;
    int64_t n = -1;
    if (open_query(&db, &s, path, sql, 1, err) == QN_OK) {
        const int rc = sqlite3_step(s);
        if (rc == SQLITE_ROW) {
            *row = row_at(s);
            n = sqlite3_column_int64(s, 6);
        } else if (rc == SQLITE_DONE) {
            n = 0;
        } else {
            (void)fail_sql(err, db, "cannot be read");
        }
    }
    sqlite3_finalize(s);
    sqlite3_close(db);
    return n;
}

int64_t qn_metrics_read_evals(const char *path, int64_t *step, double *val_loss, int64_t cap, qn_err *err)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *s = NULL;
    int64_t n = -1;
    if (open_query(&db, &s, path, "SELECT step, val_loss FROM evals ORDER BY step LIMIT ?", cap, err) == QN_OK) {
        int rc = SQLITE_DONE;
        for (n = 0; n < cap && (rc = sqlite3_step(s)) == SQLITE_ROW; n++) {
            step[n] = sqlite3_column_int64(s, 0);
            val_loss[n] = column(s, 1);
        }
        if (n < cap && rc != SQLITE_DONE) {
            (void)fail_sql(err, db, "cannot be read");
            n = -1;
        }
    }
    sqlite3_finalize(s);
    sqlite3_close(db);
    return n;
}
