/* A run directory.
 *
 *   RUN/config.json        every setting as text: what it takes to repeat the run
 *   RUN/tokenizer.json, tokens.bin   the tokenizer and the text as token ids
 *   RUN/checkpoints/step-00000100/   model directories with Quern's state (runtime/checkpoint.h)
 *   RUN/metrics.sqlite, log.jsonl, trace.json, profile.json, report.html */
#ifndef QN_SESSION_RUN_DIR_H
#define QN_SESSION_RUN_DIR_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "load.h"
#include "quern/config.h"
#include "quern/status.h"

/* The newest complete checkpoint of a run; step may be NULL. Errors: QN_ENOENT when path is no run or has none. */
qn_status qni_run_newest_checkpoint(char out[QNI_PATH], int64_t *step, const char *run, qn_err *err) QN_MUST_USE;
/* "RUN/checkpoints/step-00000100" */
qn_status qni_run_checkpoint_path(char out[QNI_PATH], const char *run, int64_t step, qn_err *err) QN_MUST_USE;
/* Removes all but the newest keep checkpoints, and leftovers of writes that did not finish. */
qn_status qni_run_prune(const char *run, int64_t keep, qn_err *err) QN_MUST_USE;

/* Settings of an options struct as the text of a JSON object {"key": "value", ...}; *out freed with qn_free. */
qn_status qni_settings_json(char **out, const qn_table *table, const void *options, qn_err *err) QN_MUST_USE;
/* Whether the settings named in keys (NULL-terminated) are the same in json and in options. Errors: QN_EINVAL naming the first
 * that differs, with both values. */
qn_status qni_settings_fit(const char *json, size_t bytes, const qn_table *table, const void *options, const char *const *keys,
                           qn_err *err) QN_MUST_USE;

/* log.jsonl: one line a call, flushed. log may be NULL. */
void qni_log_line(FILE *log, const char *line);

#endif
