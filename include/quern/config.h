/* Configuration tables: one per module. From the same table come the flags, the environment names, the keys of config.json,
 * the help text and docs/config.md, so that they cannot drift apart. Unknown keys fail, with the nearest match. */
#ifndef QUERN_CONFIG_H
#define QUERN_CONFIG_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "quern/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qn_key_type {
    QN_KEY_BOOL,   /* int: 0 or 1; flag without a value sets it, --no-x clears it */
    QN_KEY_INT,    /* int64_t: plain decimal; with the unit "bytes" also 64K, 16m, 1.5G, 64MiB (powers of 1024) */
    QN_KEY_REAL,   /* double, finite */
    QN_KEY_TEXT,   /* const char *, or NULL */
    QN_KEY_CHOICE, /* int32_t: index into choices */
    QN_KEY_LIST,   /* qn_list: values up to the next flag, or separated by commas; repeated flags add */
    QN_KEY_FILES,  /* qn_list: values up to the next flag, never split at commas (as one text: a line each); repeated flags add */
} qn_key_type;

typedef struct qn_list {
    int32_t count;
    const char **item;
} qn_list;

/* One row. min and max bound INT and REAL (min == max: unbounded; max < min: no upper bound). choices: "a|b|c" for CHOICE. */
typedef struct qn_key {
    const char *name; /* "micro-batches": flag --micro-batches, environment QUERN_MICRO_BATCHES, file key micro_batches */
    qn_key_type type;
    size_t offset;        /* of the field in the options struct */
    const char *fallback; /* default as text, NULL: zero or NULL */
    double min, max;
    const char *choices;
    const char *unit; /* "", "tokens", "bytes", ... */
    const char *help; /* one line; a first word in capitals names the value in usage lines */
} qn_key;

typedef struct qn_table {
    const char *name; /* "train" */
    const qn_key *keys;
    size_t count;
} qn_table;

/* Parsed values own their strings. */
typedef struct qn_config qn_config;

/* Fills the options struct (size bytes) with the defaults, then the environment, then argv (flags; "--flag value",
 * "--flag=value"). argv holds arguments only: not the program's name and not the verb. What is neither a flag nor a flag's value
 * is a positional argument, and so is everything after "--". A value that starts with "--" is written "--flag=--value". An empty
 * environment variable counts as not set. Errors: QN_EINVAL with a sentence that suggests the nearest flag; QN_ERANGE with the
 * range; QN_ENOMEM. out owns every string that options points at, so it must outlive options; table must outlive out. */
qn_status qn_config_parse(qn_config **out, const qn_table *table, void *options, size_t size, int argc, char **argv,
                          qn_err *err) QN_MUST_USE;
/* Sets one key by its name (either "micro-batches" or "micro_batches") from text, as a file or an embedder does; a list is
 * replaced. Errors: QN_EINVAL, QN_ERANGE, QN_ENOMEM. */
qn_status qn_config_set(qn_config *c, const char *name, const char *text, qn_err *err) QN_MUST_USE;
/* The value of key i as text in buf ("" for NULL), such that qn_config_set reads it back: lists are comma-separated, FILES
 * have a line each. Returns the length as snprintf. */
int qn_config_text(const qn_config *c, size_t i, char *buf, size_t cap);
/* The same of one key in any options struct. */
int qn_key_text(const qn_key *key, const void *options, char *buf, size_t cap);
int qn_config_given(const qn_config *c, const char *name); /* set by flag, environment or qn_config_set, not by default */
qn_list qn_config_positional(const qn_config *c);
void qn_config_close(qn_config *c);

/* Help text of one table: a line per key with default, range and unit. */
void qn_config_help(const qn_table *table, FILE *to);
/* The same as a Markdown table for docs/config.md. */
void qn_config_markdown(const qn_table *table, FILE *to);
/* The nearest of n names, or NULL when none is near. */
const char *qn_nearest(const char *word, const char *const *names, size_t n);

#ifdef __cplusplus
}
#endif
#endif
