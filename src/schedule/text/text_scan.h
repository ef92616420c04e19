/* A bounded reader of lines and words with places for messages. '#' starts a comment. Private to the text forms. */
#ifndef QN_SCHEDULE_TEXT_SCAN_H
#define QN_SCHEDULE_TEXT_SCAN_H

#include "schedule/schedule_internal.h"

enum { QNI_MAX_TASKS = 4000000, QNI_MAX_STAGES = 65536, QNI_MAX_VALUES = 4 * QNI_MAX_TASKS };

typedef struct qni_word {
    const char *at;
    size_t length;
} qni_word;

typedef struct qni_scan {
    const char *next, *end;        /* what comes after this line */
    const char *start, *at, *stop; /* this line: begin, position, end */
    int32_t line;
} qni_scan;

qni_scan qni_scan_of(const char *text, size_t bytes);
/* The next line that holds something; false at the end. */
bool qni_scan_line(qni_scan *s);
/* The next word of the line; false (and an empty word) at its end. */
bool qni_scan_word(qni_scan *s, qni_word *w);
bool qni_word_is(qni_word w, const char *text);
/* "12", "-3" wholly; false when it is no number within low .. high. */
bool qni_word_int(int64_t *out, qni_word w, int64_t low, int64_t high);
/* "2.0" or, with item QN_NONE, "2". */
bool qni_word_place(int32_t *stage, int32_t *item, qni_word w);
/* Index of the word in names (by the function), or QN_NONE. */
int32_t qni_word_find(qni_word w, const char *(*name)(int32_t), int32_t count);
/* QN_EFORMAT with line and column of the word: "line 3, column 5: ... " */
#define QNI_SCAN_FAIL(err, s, w, ...) qni_scan_fail((err), (s), (w), __FILE__, __LINE__, __VA_ARGS__)
qn_status qni_scan_fail(qn_err *err, const qni_scan *s, qni_word w, const char *file, int line, const char *fmt, ...)
    QN_PRINTF(6, 7);
/* For messages: at most 32 characters of a word, printable. */
const char *qni_word_show(char buf[40], qni_word w);

/* A line "key number ..." : reads count numbers within low .. high and demands the line's end. Errors: QN_EFORMAT. */
qn_status qni_scan_numbers(qni_scan *s, int64_t *out, int32_t count, int64_t low, int64_t high, const char *what,
                           qn_err *err) QN_MUST_USE;
/* The one number of a line, 1 to most. Errors: QN_EFORMAT. */
qn_status qni_scan_grid_number(qni_scan *s, int32_t *out, int32_t most, const char *what, qn_err *err) QN_MUST_USE;
qn_status qni_scan_line_end(qni_scan *s, qn_err *err) QN_MUST_USE;
/* The first lines of both forms: "quern-order 1", workers, stages, items. Leaves the scan before the next line. Errors:
 * QN_EFORMAT, QN_ERANGE. */
typedef struct qni_sizes {
    int32_t workers, stages, items;
} qni_sizes;
qn_status qni_scan_head(qni_scan *s, const char *form, qni_sizes *out, qn_err *err) QN_MUST_USE;

/* "vocabulary SHARDS ALGORITHM": at most as many as there are stages. Errors: QN_EFORMAT. */
qn_status qni_scan_vocabulary(qni_scan *s, int32_t *sides, int32_t *vocab, int32_t stages, qn_err *err) QN_MUST_USE;

/* "cursor TURN ROUND": below the workers; 0 or more. Errors: QN_EFORMAT. */
qn_status qni_scan_cursor(qni_scan *s, int32_t *turn, int32_t *round, int32_t workers, qn_err *err) QN_MUST_USE;

/* csv_text.c */
qn_status qni_csv_read(qn_order **out, const char *text, size_t bytes, qn_err *err) QN_MUST_USE;

#endif
