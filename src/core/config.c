/* The table-driven configuration: from one table the flags, the environment names, the file keys, help and Markdown.
 *
 * A value comes from the strongest source that gives it: default < environment < flag; qn_config_set overrides them all.
 * The config owns copies of all strings and the arrays of all lists; the options struct only points at them. */
#include "quern/config.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "bytes_text.h"
#include "checked.h"
#include "compiler.h"

enum { NAME_BYTES = 64, LABEL_BYTES = NAME_BYTES + 32, HELP_COLUMN = 30 };

typedef enum source { FROM_NOWHERE, FROM_DEFAULT, FROM_ENVIRONMENT, FROM_FLAG, FROM_SET } source;

struct qn_config {
    const qn_table *table;
    char *options;
    source *from;  /* per key */
    qn_list *list; /* per key: the arrays behind LIST and FILES fields */
    qn_list positional;
    qn_list owned; /* every string */
};

static bool is_list(qn_key_type type)
{
    return type == QN_KEY_LIST || type == QN_KEY_FILES;
}

static size_t field_bytes(qn_key_type type)
{
    switch (type) {
    case QN_KEY_BOOL:
        return sizeof(int);
    case QN_KEY_INT:
        return sizeof(int64_t);
    case QN_KEY_REAL:
        return sizeof(double);
    case QN_KEY_TEXT:
        return sizeof(const char *);
    case QN_KEY_CHOICE:
        return sizeof(int32_t);
    case QN_KEY_LIST:
    case QN_KEY_FILES:
        return sizeof(qn_list);
    }
    return 0;
}

/* ---- names ---- */

/* Whether the first n bytes of word are the key's name; '_' stands for '-'. */
static bool same_name(const char *name, const char *word, size_t n)
{
    if (strlen(name) != n) return false;
    for (size_t i = 0; i < n; i++) {
        if (name[i] != (word[i] == '_' ? '-' : word[i])) return false;
    }
    return true;
}

/* Index of the key, or table->count. */
static size_t find_key(const qn_table *table, const char *word, size_t n)
{
    size_t i = 0;
    while (i < table->count && !same_name(table->keys[i].name, word, n)) i++;
    return i;
}

static void environment_name(char out[LABEL_BYTES], const char *name)
{
    size_t n = (size_t)snprintf(out, LABEL_BYTES, "QUERN_%s", name);
    QN_ASSERT(n < LABEL_BYTES);
    for (size_t i = 0; i < n; i++) out[i] = out[i] == '-' ? '_' : (char)toupper((unsigned char)out[i]);
}

/* Edit distance (Levenshtein 1966), for words that fit the row buffer. */
static size_t distance(const char *a, size_t na, const char *b, size_t nb)
{
    size_t row[NAME_BYTES + 1];
    for (size_t j = 0; j <= nb; j++) row[j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[nb];
}

const char *qn_nearest(const char *word, const char *const *names, size_t n)
{
    const char *best = NULL;
    const size_t len = strlen(word);
    if (len == 0 || len > NAME_BYTES) return NULL;
    size_t least = len / 3 + 2; /* further away than this is no likeness */
    for (size_t i = 0; i < n; i++) {
        const size_t name_len = strlen(names[i]);
        if (name_len > NAME_BYTES) continue;
        size_t d = distance(word, len, names[i], name_len);
        if (len >= 3 && strncmp(word, names[i], len) == 0) d = d > 0; /* the beginning of a name is as near as a slip */
        if (d < least && d < len) {
            least = d;
            best = names[i];
        }
    }
    return best;
}

static qn_status unknown_key(const qn_table *table, const char *word, size_t n, const char *dashes, qn_err *err)
{
    char asked[NAME_BYTES + 1];
    const char *near = NULL;
    const char **names = qn_malloc(table->count, sizeof(*names));
    if (names != NULL && n <= NAME_BYTES) {
        memcpy(asked, word, n);
        asked[n] = '\0';
        for (size_t i = 0; i < table->count; i++) names[i] = table->keys[i].name;
        near = qn_nearest(asked, names, table->count);
    }
    qn_free(names);
    const int shown = n < NAME_BYTES ? (int)n : NAME_BYTES;
    if (near != NULL)
        return QN_FAIL(err, QN_EINVAL, "%s has no %s%.*s; did you mean %s%s?", table->name, dashes, shown, word, dashes, near);
    return QN_FAIL(err, QN_EINVAL, "%s has no %s%.*s; quern %s --help lists what it has", table->name, dashes, shown, word,
                   table->name);
}

/* ---- values ---- */

static bool list_add(qn_list *list, const char *item)
{
    const char **more = qn_realloc((void *)list->item, (size_t)list->count + 1, sizeof(*more));
    if (more == NULL) return false;
    more[list->count++] = item;
    list->item = more;
    return true;
}

/* A copy of n bytes that lives as long as the config. */
static const char *keep(qn_config *c, const char *text, size_t n, qn_err *err)
{
    char *copy = qn_malloc(n + 1, 1);
    if (copy != NULL) {
        memcpy(copy, text, n);
        copy[n] = '\0';
        if (list_add(&c->owned, copy)) return copy;
        qn_free(copy);
    }
    (void)QN_FAIL(err, QN_ENOMEM, "no memory for the configuration");
    return NULL;
}

/* A short text that reads back as the same number. */
static int real_text(char *buf, size_t cap, double x)
{
    int n = 0;
    for (int digits = 15; digits <= 17; digits++) {
        char text[32];
        snprintf(text, sizeof(text), "%.*g", digits, x);
        n = snprintf(buf, cap, "%s", text);
        if (strtod(text, NULL) == x) break;
    }
    return n;
}

static bool has_most(const qn_key *k)
{
    return k->max >= k->min && k->max != INFINITY;
}

static qn_status check_range(const qn_key *k, const char *label, const char *text, double value, qn_err *err)
{
    if (k->min == k->max || (value >= k->min && (value <= k->max || !has_most(k)))) return QN_OK;
    char least[32], most[32];
    real_text(least, sizeof(least), k->min);
    real_text(most, sizeof(most), k->max);
    if (!has_most(k)) return QN_FAIL(err, QN_ERANGE, "%s is %s; it must be at least %s", label, text, least);
    if (k->min == -INFINITY) return QN_FAIL(err, QN_ERANGE, "%s is %s; it must be at most %s", label, text, most);
    return QN_FAIL(err, QN_ERANGE, "%s is %s; it must lie between %s and %s", label, text, least, most);
}

static bool is_bytes(const qn_key *k)
{
    return k->unit != NULL && strcmp(k->unit, "bytes") == 0;
}

static qn_status set_int(int64_t *out, const qn_key *k, const char *label, const char *text, qn_err *err)
{
    char *end;
    const char *digits = *text == '-' || *text == '+' ? text + 1 : text, *rest;
    bool fits;
    int64_t value;
    if (is_bytes(k)) {
        rest = qn_bytes_read(&value, &fits, digits);
        if (rest != NULL && *text == '-') value = -value;
    } else {
        errno = 0;
        value = strtoll(text, &end, 10);
        fits = errno != ERANGE;
        rest = isdigit((unsigned char)*digits) ? end : NULL;
    }
    if (rest == NULL || *rest != '\0')
        return QN_FAIL(err, QN_EINVAL, "%s is '%s'; %s", label, text,
                       is_bytes(k) ? "a number of bytes is needed, such as 4096, 64K, 64M or 1.5G" : "a whole number is needed");
    if (!fits) return QN_FAIL(err, QN_ERANGE, "%s is %s, which does not fit into 64 bits", label, text);
    const qn_status st = check_range(k, label, text, (double)value, err);
    if (st == QN_OK) *out = value;
    return st;
}

static qn_status set_real(double *out, const qn_key *k, const char *label, const char *text, qn_err *err)
{
    char *end;
    const double value = strtod(text, &end);
    if (*text == '\0' || *end != '\0' || text[strspn(text, "+-.0123456789eE")] != '\0')
        return QN_FAIL(err, QN_EINVAL, "%s is '%s'; a number is needed", label, text);
    if (!isfinite(value)) return QN_FAIL(err, QN_ERANGE, "%s is %s, which is too large for a double", label, text);
    const qn_status st = check_range(k, label, text, value, err);
    if (st == QN_OK) *out = value;
    return st;
}

static qn_status set_bool(int *out, const char *label, const char *text, qn_err *err)
{
    static const char *const words[] = {"false", "true", "0", "1", "no", "yes", "off", "on"};
    for (size_t i = 0; i < QN_COUNT(words); i++) {
        if (strcmp(text, words[i]) == 0) {
            *out = (int)(i & 1);
            return QN_OK;
        }
    }
    return QN_FAIL(err, QN_EINVAL, "%s is '%s'; true or false is needed", label, text);
}

static qn_status set_choice(int32_t *out, const qn_key *k, const char *label, const char *text, qn_err *err)
{
    const size_t n = strlen(text);
    int32_t index = 0;
    for (const char *at = k->choices;; index++) {
        const size_t len = strcspn(at, "|");
        if (len == n && memcmp(at, text, n) == 0) {
            *out = index;
            return QN_OK;
        }
        if (at[len] == '\0') break;
        at += len + 1;
    }
    return QN_FAIL(err, QN_EINVAL, "%s is '%s'; it must be one of %s", label, text, k->choices);
}

/* Adds the parts of text to the key's list, which starts anew when a stronger source speaks for the first time. */
static qn_status set_list(qn_config *c, size_t i, const char *label, const char *text, source from, bool one_file, qn_err *err)
{
    const qn_key *k = &c->table->keys[i];
    const char *separator = one_file ? "" : k->type == QN_KEY_FILES ? "\n" : ",";
    qn_status st = QN_OK;
    if (c->from[i] != from || from == FROM_SET) c->list[i].count = 0;
    for (const char *at = text; *text != '\0';) {
        const size_t n = *separator == '\0' ? strlen(at) : strcspn(at, separator);
        const char *item = n > 0 ? keep(c, at, n, err) : NULL;
        if (n == 0)
            st = QN_FAIL(err, QN_EINVAL, "%s is '%s'; one of its parts is empty", label, text);
        else if (item == NULL || !list_add(&c->list[i], item))
            st = QN_FAIL(err, QN_ENOMEM, "no memory for the values of %s", label);
        if (st != QN_OK || at[n] == '\0') break;
        at += n + 1;
    }
    memcpy(c->options + k->offset, &c->list[i], sizeof(qn_list)); /* also after a failure: the array may have moved */
    if (st == QN_OK && c->list[i].count == 0 && from == FROM_FLAG)
        st = QN_FAIL(err, QN_EINVAL, "%s needs at least one value", label);
    return st;
}

static qn_status apply(qn_config *c, size_t i, const char *label, const char *text, source from, qn_err *err)
{
    const qn_key *k = &c->table->keys[i];
    void *field = c->options + k->offset;
    qn_status st = QN_OK;
    switch (k->type) {
    case QN_KEY_BOOL:
        st = set_bool(field, label, text, err);
        break;
    case QN_KEY_INT:
        st = set_int(field, k, label, text, err);
        break;
    case QN_KEY_REAL:
        st = set_real(field, k, label, text, err);
        break;
    case QN_KEY_CHOICE:
        st = set_choice(field, k, label, text, err);
        break;
    case QN_KEY_LIST:
    case QN_KEY_FILES:
        st = set_list(c, i, label, text, from, from == FROM_FLAG && k->type == QN_KEY_FILES, err);
        break;
    case QN_KEY_TEXT: {
        const char *copy = keep(c, text, strlen(text), err);
        if (copy == NULL) return QN_ENOMEM;
        memcpy(field, &copy, sizeof(copy));
        break;
    }
    }
    if (st == QN_OK) c->from[i] = from;
    return st;
}

/* ---- sources ---- */

static qn_status read_defaults(qn_config *c, qn_err *err)
{
    char label[LABEL_BYTES];
    for (size_t i = 0; i < c->table->count; i++) {
        const qn_key *k = &c->table->keys[i];
        if (k->fallback == NULL) continue;
        snprintf(label, sizeof(label), "the default of %s", k->name);
        const qn_status st = apply(c, i, label, k->fallback, FROM_DEFAULT, err);
        if (st != QN_OK) return st;
    }
    return QN_OK;
}

static qn_status read_environment(qn_config *c, qn_err *err)
{
    char label[LABEL_BYTES];
    for (size_t i = 0; i < c->table->count; i++) {
        environment_name(label, c->table->keys[i].name);
        const char *text = getenv(label);
        if (text == NULL || *text == '\0') continue;
        const qn_status st = apply(c, i, label, text, FROM_ENVIRONMENT, err);
        if (st != QN_OK) return st;
    }
    return QN_OK;
}

static bool is_flag(const char *arg)
{
    return arg[0] == '-' && arg[1] == '-';
}

/* Reads the flag argv[*at - 1] and its values; *at is the next argument. */
static qn_status read_flag(qn_config *c, int argc, char **argv, int *at, qn_err *err)
{
    const char *word = argv[*at - 1] + 2;
    const size_t n = strcspn(word, "=");
    const char *value = word[n] == '=' ? word + n + 1 : NULL;
    char label[LABEL_BYTES];
    size_t i = find_key(c->table, word, n);
    if (i == c->table->count && n > 3 && strncmp(word, "no-", 3) == 0) {
        i = find_key(c->table, word + 3, n - 3);
        if (i < c->table->count && c->table->keys[i].type == QN_KEY_BOOL) {
            if (value != NULL) return QN_FAIL(err, QN_EINVAL, "--%.*s takes no value", (int)n, word);
            return apply(c, i, "--no-", "false", FROM_FLAG, err);
        }
        i = c->table->count;
    }
    if (i == c->table->count) return unknown_key(c->table, word, n, "--", err);
    const qn_key *k = &c->table->keys[i];
    snprintf(label, sizeof(label), "--%s", k->name);
    if (value != NULL) return apply(c, i, label, value, FROM_FLAG, err);
    if (k->type == QN_KEY_BOOL) return apply(c, i, label, "true", FROM_FLAG, err);
    if (*at == argc || is_flag(argv[*at])) return QN_FAIL(err, QN_EINVAL, "%s needs a value", label);
    if (!is_list(k->type)) return apply(c, i, label, argv[(*at)++], FROM_FLAG, err);
    while (*at < argc && !is_flag(argv[*at])) {
        const qn_status st = apply(c, i, label, argv[(*at)++], FROM_FLAG, err);
        if (st != QN_OK) return st;
    }
    return QN_OK;
}

static qn_status read_arguments(qn_config *c, int argc, char **argv, qn_err *err)
{
    bool flags = true;
    for (int at = 0; at < argc;) {
        const char *arg = argv[at++];
        qn_status st = QN_OK;
        if (flags && strcmp(arg, "--") == 0) {
            flags = false;
        } else if (flags && is_flag(arg)) {
            st = read_flag(c, argc, argv, &at, err);
        } else if (flags && arg[0] == '-' && isalpha((unsigned char)arg[1])) {
            st = QN_FAIL(err, QN_EINVAL, "%s has no flag %s; flags start with two dashes", c->table->name, arg);
        } else {
            const char *copy = keep(c, arg, strlen(arg), err);
            if (copy == NULL) return QN_ENOMEM;
            if (!list_add(&c->positional, copy)) st = QN_FAIL(err, QN_ENOMEM, "no memory for the arguments");
        }
        if (st != QN_OK) return st;
    }
    return QN_OK;
}

qn_status qn_config_parse(qn_config **out, const qn_table *table, void *options, size_t size, int argc, char **argv, qn_err *err)
{
    qn_status st = QN_OK;
    *out = NULL;
    for (size_t i = 0; i < table->count; i++) {
        const qn_key *k = &table->keys[i];
        QN_ASSERT(strlen(k->name) < NAME_BYTES && k->offset <= size && field_bytes(k->type) <= size - k->offset);
        QN_ASSERT(k->type != QN_KEY_CHOICE || k->choices != NULL);
    }
    memset(options, 0, size);
    qn_config *c = qn_calloc(1, sizeof(*c));
    if (c == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for the configuration");
    c->table = table;
    c->options = options;
    c->from = qn_calloc(table->count, sizeof(*c->from));
    c->list = qn_calloc(table->count, sizeof(*c->list));
    if (c->from == NULL || c->list == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "no memory for the configuration");
        goto out;
    }
    QN_TRY(st, read_defaults(c, err), out);
    QN_TRY(st, read_environment(c, err), out);
    QN_TRY(st, read_arguments(c, argc, argv, err), out);
    *out = c;
    c = NULL;
out:
    qn_config_close(c);
    return st;
}

qn_status qn_config_set(qn_config *c, const char *name, const char *text, qn_err *err)
{
    const size_t n = strlen(name), i = find_key(c->table, name, n);
    if (i == c->table->count) return unknown_key(c->table, name, n, "", err);
    return apply(c, i, c->table->keys[i].name, text, FROM_SET, err);
}

/* ---- text ---- */

static int list_text(const qn_list *list, char separator, char *buf, size_t cap)
{
    size_t n = 0;
    if (cap > 0) buf[0] = '\0';
    for (int32_t i = 0; i < list->count; i++) {
        const size_t room = n < cap ? cap - n : 0;
        const char between[2] = {i > 0 ? separator : '\0', '\0'};
        n += (size_t)snprintf(room > 0 ? buf + n : NULL, room, "%s%s", between, list->item[i]);
    }
    return (int)n;
}

static int choice_text(const char *choices, int32_t index, char *buf, size_t cap)
{
    for (; index > 0; index--) choices += strcspn(choices, "|") + 1;
    return snprintf(buf, cap, "%.*s", (int)strcspn(choices, "|"), choices);
}

int qn_key_text(const qn_key *k, const void *options, char *buf, size_t cap)
{
    const void *field = (const char *)options + k->offset;
    switch (k->type) {
    case QN_KEY_BOOL:
        return snprintf(buf, cap, "%s", *(const int *)field ? "true" : "false");
    case QN_KEY_INT:
        return snprintf(buf, cap, "%lld", (long long)*(const int64_t *)field);
    case QN_KEY_REAL:
        return real_text(buf, cap, *(const double *)field);
    case QN_KEY_CHOICE:
        return choice_text(k->choices, *(const int32_t *)field, buf, cap);
    case QN_KEY_LIST:
        return list_text(field, ',', buf, cap);
    case QN_KEY_FILES:
        return list_text(field, '\n', buf, cap);
    case QN_KEY_TEXT:
        break;
    }
    const char *text = *(const char *const *)field;
    return snprintf(buf, cap, "%s", text != NULL ? text : "");
}

int qn_config_text(const qn_config *c, size_t i, char *buf, size_t cap)
{
    QN_ASSERT(i < c->table->count);
    return qn_key_text(&c->table->keys[i], c->options, buf, cap);
}

int qn_config_given(const qn_config *c, const char *name)
{
    const size_t i = find_key(c->table, name, strlen(name));
    return i < c->table->count && c->from[i] > FROM_DEFAULT;
}

qn_list qn_config_positional(const qn_config *c)
{
    return c->positional;
}

void qn_config_close(qn_config *c)
{
    if (c == NULL) return;
    for (size_t i = 0; c->list != NULL && i < c->table->count; i++) qn_free((void *)c->list[i].item);
    for (int32_t i = 0; i < c->owned.count; i++) qn_free((void *)(uintptr_t)c->owned.item[i]);
    qn_free((void *)c->owned.item);
    qn_free((void *)c->positional.item);
    qn_free(c->list);
    qn_free(c->from);
    qn_free(c);
}

/* ---- help ---- */

/* Length of the first word of the help text when it is in capitals and so names the value; 0 otherwise. */
static size_t value_word(const qn_key *k)
{
    const size_t n = strcspn(k->help, " ");
    size_t capitals = 0;
    while (capitals < n && (isupper((unsigned char)k->help[capitals]) || strchr("|.", k->help[capitals]) != NULL)) capitals++;
    return k->type != QN_KEY_BOOL && n >= 2 && capitals == n && k->help[n] == ' ' ? n : 0;
}

static void value_name(char *buf, size_t cap, const qn_key *k)
{
    static const char *const names[] = {
        [QN_KEY_BOOL] = "",   [QN_KEY_INT] = " N",         [QN_KEY_REAL] = " X",        [QN_KEY_TEXT] = " TEXT",
        [QN_KEY_CHOICE] = "", [QN_KEY_LIST] = " VALUE...", [QN_KEY_FILES] = " FILE...",
    };
    const size_t n = value_word(k);
    if (n > 0)
        snprintf(buf, cap, " %.*s%s", (int)n, k->help, is_list(k->type) && k->help[n - 1] != '.' ? "..." : "");
    else if (k->type == QN_KEY_CHOICE)
        snprintf(buf, cap, " %s", k->choices);
    else
        snprintf(buf, cap, "%s", names[k->type]);
}

static const char *meaning(const qn_key *k)
{
    const size_t n = value_word(k);
    return n > 0 ? k->help + n + 1 : k->help;
}

/* "1 to 64", "at least 1", "" */
static void range_text(char *buf, size_t cap, const qn_key *k)
{
    char least[32], most[32];
    buf[0] = '\0';
    if (k->min == k->max) return;
    real_text(least, sizeof(least), k->min);
    real_text(most, sizeof(most), k->max);
    if (!has_most(k))
        snprintf(buf, cap, "at least %s", least);
    else if (k->min == -INFINITY)
        snprintf(buf, cap, "at most %s", most);
    else
        snprintf(buf, cap, "%s to %s", least, most);
}

/* Default, range and unit between parentheses, in as far as there are any. */
static void print_facts(const qn_key *k, FILE *to)
{
    char range[80];
    range_text(range, sizeof(range), k);
    const char *between = " (";
    if (k->fallback != NULL && *k->fallback != '\0' && !(k->type == QN_KEY_BOOL && strcmp(k->fallback, "false") == 0)) {
        fprintf(to, "%sdefault %s", between, k->fallback);
        between = "; ";
    }
    if (range[0] != '\0') {
        fprintf(to, "%s%s", between, range);
        between = "; ";
    }
    if (k->unit != NULL && *k->unit != '\0') {
        fprintf(to, "%s%s", between, k->unit);
        between = "; ";
    }
    if (between[0] == ';') fputc(')', to);
}

void qn_config_help(const qn_table *table, FILE *to)
{
    for (size_t i = 0; i < table->count; i++) {
        const qn_key *k = &table->keys[i];
        char value[160];
        value_name(value, sizeof(value), k);
        const int n = fprintf(to, "  --%s%s", k->name, value);
        if (n >= HELP_COLUMN)
            fprintf(to, "\n%*s", HELP_COLUMN, "");
        else
            fprintf(to, "%*s", HELP_COLUMN - n, "");
        fputs(meaning(k), to);
        print_facts(k, to);
        fputc('\n', to);
    }
}

/* Text in a cell of a Markdown table. */
static void print_cell(const char *text, FILE *to)
{
    for (; *text != '\0'; text++) {
        if (*text == '|') fputc('\\', to);
        fputc(*text, to);
    }
}

void qn_config_markdown(const qn_table *table, FILE *to)
{
    fputs("| flag | environment | default | range | unit | meaning |\n|---|---|---|---|---|---|\n", to);
    for (size_t i = 0; i < table->count; i++) {
        const qn_key *k = &table->keys[i];
        char value[160], name[LABEL_BYTES], range[80];
        value_name(value, sizeof(value), k);
        environment_name(name, k->name);
        range_text(range, sizeof(range), k);
        fprintf(to, "| `--%s", k->name);
        print_cell(value, to);
        fprintf(to, "` | `%s` | ", name);
        print_cell(k->fallback != NULL ? k->fallback : "", to);
        fprintf(to, " | %s | %s | ", range, k->unit != NULL ? k->unit : "");
        print_cell(meaning(k), to);
        fputs(" |\n", to);
    }
}
