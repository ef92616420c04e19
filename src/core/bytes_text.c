#include "bytes_text.h"

#include <ctype.h>
#include <string.h>

#include "checked.h"

/* log2 of the unit, 0: none. */
static int unit_bits(char c)
{
    static const char UNITS[] = "KMGT";
    const char *at = c != '\0' ? strchr(UNITS, toupper((unsigned char)c)) : NULL;
    return at != NULL ? 10 * (int)(at - UNITS + 1) : 0;
}

static bool add(int64_t *sum, int64_t more)
{
    if (*sum > INT64_MAX - more) return false;
    *sum += more;
    return true;
}

const char *qn_bytes_read(int64_t *out, bool *fits, const char *text)
{
    const char *at = text;
    int64_t whole = 0, part = 0, scale = 1;
    *fits = true;
    if (!isdigit((unsigned char)*at)) return NULL;
    for (; isdigit((unsigned char)*at); at++) *fits = *fits && qn_mul_i64(&whole, whole, 10) && add(&whole, *at - '0');
    const bool fraction = *at == '.';
    if (fraction && !isdigit((unsigned char)at[1])) return NULL;
    for (at += fraction; fraction && isdigit((unsigned char)*at); at++) {
        if (scale == 1000000) continue; /* a millionth is enough, and its product with a unit fits */
        part = part * 10 + (*at - '0');
        scale *= 10;
    }
    const int bits = unit_bits(*at);
    if (bits == 0 && fraction) return NULL;
    at += bits > 0;
    if (bits > 0 && at[0] == 'i' && (at[1] == 'B' || at[1] == 'b')) at++;
    if (*at == 'B' || (bits > 0 && *at == 'b')) at++;
    *fits = *fits && qn_mul_i64(&whole, whole, (int64_t)1 << bits) && add(&whole, (part << bits) / scale);
    *out = whole;
    return at;
}
