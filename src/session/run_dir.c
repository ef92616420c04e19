/* The layout of a run directory: checkpoints by step, settings as JSON. */
#include "run_dir.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/io.h"

static const char step_prefix[] = "step-";

qn_status qni_run_checkpoint_path(char out[QNI_PATH], const char *run, int64_t step, qn_err *err)
{
    char name[64];
    snprintf(name, sizeof(name), "checkpoints/%s%08" PRId64, step_prefix, step);
    return qn_path_join(out, QNI_PATH, run, name, err);
}

/* The step of a checkpoint's name, or -1. */
static int64_t step_of(const char *name)
{
    const size_t n = sizeof(step_prefix) - 1;
    if (strncmp(name, step_prefix, n) != 0 || name[n] < '0' || name[n] > '9') return -1;
    char *end;
    const long long step = strtoll(name + n, &end, 10);
    return *end == '\0' ? step : -1;
}

qn_status qni_run_newest_checkpoint(char out[QNI_PATH], int64_t *step, const char *run, qn_err *err)
{
    char folder[QNI_PATH];
    qn_status st = qn_path_join(folder, sizeof(folder), run, "checkpoints", err);
    if (st != QN_OK) return st;
    int64_t newest = -1;
    DIR *dir = opendir(folder);
    for (const struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        const int64_t found = step_of(e->d_name);
        if (found > newest) newest = found;
    }
    if (dir != NULL) closedir(dir);
    if (newest < 0) return QN_FAIL(err, QN_ENOENT, "%s holds no checkpoint", run);
    if (step != NULL) *step = newest;
    return qni_run_checkpoint_path(out, run, newest, err);
}

static int newest_first(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Deletes what write did not finish: step-N.tmp and step-N.old. */
static qn_status remove_leftover(const char *folder, const char *name, qn_err *err)
{
    const char *dot = strrchr(name, '.');
    if (dot == NULL || strncmp(name, step_prefix, sizeof(step_prefix) - 1) != 0) return QN_OK;
    char path[QNI_PATH];
    qn_status st = qn_path_join(path, sizeof(path), folder, name, err);
    return st != QN_OK ? st : qn_remove_tree(path, err);
}

qn_status qni_run_prune(const char *run, int64_t keep, qn_err *err)
{
    enum { MOST = 65536 };
    char folder[QNI_PATH], path[QNI_PATH];
    int64_t count = 0;
    qn_status st = qn_path_join(folder, sizeof(folder), run, "checkpoints", err);
    if (st != QN_OK) return st;
    int64_t *steps = qn_malloc(MOST, sizeof(*steps));
    DIR *dir = opendir(folder);
    if (steps == NULL || dir == NULL) {
        st = dir == NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "list of checkpoints");
        goto out;
    }
    for (const struct dirent *e; (e = readdir(dir)) != NULL;) {
        const int64_t step = step_of(e->d_name);
        if (step >= 0 && count < MOST)
            steps[count++] = step;
        else
            QN_TRY(st, remove_leftover(folder, e->d_name, err), out);
    }
    qsort(steps, (size_t)count, sizeof(*steps), newest_first);
    for (int64_t i = keep; i < count; i++) {
        QN_TRY(st, qni_run_checkpoint_path(path, run, steps[i], err), out);
        QN_TRY(st, qn_remove_tree(path, err), out);
    }
out:
    if (dir != NULL) closedir(dir);
    qn_free(steps);
    return st;
}

/* The text of one setting, *out freed with qn_free. */
static qn_status setting_text(char **out, const qn_key *key, const void *options, qn_err *err)
{
    const int n = qn_key_text(key, options, NULL, 0);
    *out = n < 0 ? NULL : qn_malloc((size_t)n + 1, 1);
    if (*out == NULL) return QN_FAIL(err, QN_ENOMEM, "text of setting %s", key->name);
    qn_key_text(key, options, *out, (size_t)n + 1);
    return QN_OK;
}

qn_status qni_settings_json(char **out, const qn_table *table, const void *options, qn_err *err)
{
    qn_status st = QN_OK;
    json_t *object = json_object();
    for (size_t i = 0; i < table->count; i++) {
        char *text;
        QN_TRY(st, setting_text(&text, &table->keys[i], options, err), out);
        const int bad = json_object_set_new(object, table->keys[i].name, json_string(text));
        qn_free(text);
        if (bad) {
            st = QN_FAIL(err, QN_EFORMAT, "setting %s is not UTF-8 text", table->keys[i].name);
            goto out;
        }
    }
    char *text = json_dumps(object, JSON_INDENT(2));
    *out = text == NULL ? NULL : qn_strdup(text);
    free(text);
    if (*out == NULL) st = QN_FAIL(err, QN_ENOMEM, "settings");
out:
    json_decref(object);
    return st;
}

qn_status qni_settings_fit(const char *json, size_t bytes, const qn_table *table, const void *options, const char *const *keys,
                           qn_err *err)
{
    qn_status st = QN_OK;
    json_error_t where;
    json_t *object = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &where);
    if (!json_is_object(object)) {
        st = QN_FAIL(err, QN_EFORMAT, "the saved settings are no JSON object (line %d, column %d: %s)", where.line, where.column,
                     where.text);
        goto out;
    }
    for (; *keys != NULL; keys++) {
        const char *saved = json_string_value(json_object_get(object, *keys));
        for (size_t i = 0; i < table->count; i++) {
            if (strcmp(table->keys[i].name, *keys) != 0) continue;
            char *now;
            QN_TRY(st, setting_text(&now, &table->keys[i], options, err), out);
            if (saved == NULL) saved = table->keys[i].fallback != NULL ? table->keys[i].fallback : ""; /* an older run */
            if (strcmp(saved, now) != 0)
                st = QN_FAIL(
                    err, QN_EINVAL,
                    "--%s is %s here, but the run to resume was made with %s; leave the flag out, or start a new run with --init",
                    *keys, now[0] ? now : "not set", saved[0] ? saved : "none");
            qn_free(now);
            if (st != QN_OK) goto out;
        }
    }
out:
    json_decref(object);
    return st;
}

void qni_log_line(FILE *log, const char *line)
{
    if (log == NULL) return;
    fputs(line, log);
    fputc('\n', log);
    fflush(log);
}
