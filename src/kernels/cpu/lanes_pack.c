/* Weights into the layout of oneDNN's bf16 products: columns of the product in blocks of 64, and in a block pairs of consecutive
 * k interleaved: unit (k / 2, n) of 32 bits holds (k, n) low and (k + 1, n) high and lies at n / 64 * block + k / 2 * 64 + n
 * % 64. Padding up to whole blocks (64 columns, 32 k) is zero. linear_dnnl.c checks that this is the layout before it comes here.
 */
#include "vectors.h"

#include "kernels/linear_dnnl.h"

#define QN_PACK(name) QN_ENTRY_NAME(name, QN_ISA)

enum { COLUMNS = 64, STRIP = 64 };

QN_INLINE vu rounded(vf v) /* as v_narrow, in the high half */
{
    const vu u = (vu)v, up = u + 0x7fff + (u >> 16 & 1), quiet = u | 0x400000;
    const vu nan = (vu)(v != v);
    return ((nan & quiet) | (~nan & up)) & 0xffff0000u;
}

/* w [K, N], rows k0 .. k1 (multiples of 32, k1 up to the padded K). */
void QN_PACK(pack_pairs)(uint32_t *out, int64_t block, const float *w, int64_t K, int64_t N, int64_t k0, int64_t k1)
{
    for (int64_t k = k0; k < k1; k += 2) {
        const float *low = w + k * N, *high = low + N;
        for (int64_t n = 0; n < (N + COLUMNS - 1) / COLUMNS * COLUMNS; n += W) {
            const vf a = k < K && n < N ? v_load(low + n, N - n) : v_of(0);
            const vf b = k + 1 < K && n < N ? v_load(high + n, N - n) : v_of(0);
            const vu pair = rounded(a) >> 16 | rounded(b);
            memcpy(out + n / COLUMNS * block + k / 2 * COLUMNS + n % COLUMNS, &pair, sizeof(pair));
        }
    }
}

/* STRIP / 2 units of COLUMNS columns; x [COLUMNS, STRIP] bf16. */
static void interleave(uint32_t *out, const qn_bf16 *x)
{
    for (int64_t n = 0; n < COLUMNS; n += W)
        for (int64_t k = 0; k < STRIP; k += 2 * W) {
            vf unit[W]; /* shuffles move bits: the type does not matter */
            for (int i = 0; i < W; i++) memcpy(&unit[i], x + (n + i) * STRIP + k, sizeof(unit[i]));
            v_transpose(unit);
            for (int i = 0; i < W; i++) memcpy(out + (k / 2 + i) * COLUMNS + n, &unit[i], sizeof(unit[i]));
        }
}

/* w [N, K] transposed, columns n0 .. n1 (multiples of 64, n1 up to the padded N). */
void QN_PACK(pack_transposed)(uint32_t *out, int64_t block, const float *w, int64_t K, int64_t N, int64_t n0, int64_t n1)
{
    const int64_t units = (K + 31) / 32 * 16;
    for (int64_t n = n0; n < n1; n += COLUMNS)
        for (int64_t k = 0; k < K; k += STRIP) {
            QN_ALIGNED(64) qn_bf16 x[COLUMNS * STRIP];
            QN_ALIGNED(64) uint32_t last[COLUMNS * STRIP / 2];
            uint32_t *to = out + n / COLUMNS * block + k / 2 * COLUMNS;
            const int64_t room = qn_min64(STRIP / 2, units - k / 2);
            for (int64_t i = 0; i < COLUMNS; i++)
                for (int64_t j = 0; j < STRIP; j += W)
                    v_store(x + i * STRIP + j, n + i < N && k + j < K ? v_load(w + (n + i) * K + k + j, K - k - j) : v_of(0), W);
            interleave(room == STRIP / 2 ? to : last, x);
            if (room < STRIP / 2) memcpy(to, last, (size_t)(room * COLUMNS) * sizeof(*to));
        }
}
