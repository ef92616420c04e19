/* Weights into the layouts of oneDNN's products: columns of the product in blocks of 64. In bf16 pairs of consecutive k are
 * interleaved in a block: unit (k / 2, n) of 32 bits holds (k, n) low and (k + 1, n) high and lies at n / 64 * block + k / 2 * 64
 * + n % 64; in f32 unit (k, n) lies at n / 64 * block + k * 64 + n % 64. Padding up to whole blocks (64 columns; 32 k in bf16, 16
 * in f32) is zero. linear_pack_dnnl.c checks that this is the layout before it comes here.
 *
 * What is written is read much later: large copies go past the caches, a whole line at a time, so that no line is read first. */
#include "vectors.h"

#include "kernels/linear_dnnl.h"

#define QN_PACK(name) QN_ENTRY_NAME(name, QN_ISA)

enum { COLUMNS = 64, STRIP = 64, DEPTH = 16 };

QN_INLINE vu rounded(vf v) /* as v_narrow, in the high half */
{
    const vu u = (vu)v, up = u + 0x7fff + (u >> 16 & 1), quiet = u | 0x400000;
    const vu nan = (vu)(v != v);
    return ((nan & quiet) | (~nan & up)) & 0xffff0000u;
}

/* w [K, N], rows k0 .. k1 (multiples of 32, k1 up to the padded K). */
void QN_PACK(pack_pairs)(uint32_t *out, int64_t block, const float *w, int64_t K, int64_t N, int64_t k0, int64_t k1, bool stream)
{
    for (int64_t k = k0; k < k1; k += 2) {
        const float *low = w + k * N, *high = low + N;
        for (int64_t n = 0; n < (N + COLUMNS - 1) / COLUMNS * COLUMNS; n += W) {
            const vf a = k < K && n < N ? v_load(low + n, N - n) : v_of(0);
            const vf b = k + 1 < K && n < N ? v_load(high + n, N - n) : v_of(0);
            const vu pair = rounded(a) >> 16 | rounded(b);
            v_put(out + n / COLUMNS * block + k / 2 * COLUMNS + n % COLUMNS, (vf)pair, stream);
        }
    }
    v_stream_end();
}

/* The same in f32; k0, k1: multiples of 16. */
void QN_PACK(pack_plain)(uint32_t *out, int64_t block, const float *w, int64_t K, int64_t N, int64_t k0, int64_t k1, bool stream)
{
    for (int64_t k = k0; k < k1; k++)
        for (int64_t n = 0; n < (N + COLUMNS - 1) / COLUMNS * COLUMNS; n += W)
            v_put(out + n / COLUMNS * block + k * COLUMNS + n % COLUMNS, k < K && n < N ? v_load(w + k * N + n, N - n) : v_of(0),
                  stream);
    v_stream_end();
}

/* units / COLUMNS pairs of k of COLUMNS columns; x [COLUMNS, STRIP] bf16. */
static void interleave(uint32_t *out, const qn_bf16 *x, int64_t pairs, bool stream)
{
    for (int64_t k = 0; k < pairs; k += W)
        for (int64_t n = 0; n < COLUMNS; n += W) {
            vf unit[W]; /* shuffles move bits: the type does not matter */
            for (int i = 0; i < W; i++) memcpy(&unit[i], x + (n + i) * STRIP + 2 * k, sizeof(unit[i]));
            v_transpose(unit);
            for (int i = 0; i < W; i++) v_put(out + (k + i) * COLUMNS + n, unit[i], stream);
        }
}

/* w [N, K] transposed, columns n0 .. n1 (multiples of 64, n1 up to the padded N). */
void QN_PACK(pack_pairs_transposed)(uint32_t *out, int64_t block, const float *w, int64_t K, int64_t N, int64_t n0, int64_t n1,
                                    bool stream)
{
    const int64_t units = (K + 31) / 32 * 16;
    for (int64_t n = n0; n < n1; n += COLUMNS)
        for (int64_t k = 0; k < K; k += STRIP) {
            QN_ALIGNED(64) qn_bf16 x[COLUMNS * STRIP];
            for (int64_t i = 0; i < COLUMNS; i++)
                for (int64_t j = 0; j < STRIP; j += W)
                    v_store(x + i * STRIP + j, n + i < N && k + j < K ? v_load(w + (n + i) * K + k + j, K - k - j) : v_of(0), W);
            interleave(out + n / COLUMNS * block + k / 2 * COLUMNS, x, qn_min64(STRIP / 2, units - k / 2), stream);
        }
    v_stream_end();
}

/* The same in f32. */
void QN_PACK(pack_plain_transposed)(uint32_t *out, int64_t block, const float *w, int64_t K, int64_t N, int64_t n0, int64_t n1,
                                    bool stream)
{
    for (int64_t n = n0; n < n1; n += W)
        for (int64_t k = 0; k < (K + DEPTH - 1) / DEPTH * DEPTH; k += W) {
            vf unit[W];
            for (int i = 0; i < W; i++) unit[i] = n + i < N && k < K ? v_load(w + (n + i) * K + k, K - k) : v_of(0);
            v_transpose(unit);
            for (int i = 0; i < W; i++) v_put(out + n / COLUMNS * block + (k + i) * COLUMNS + n % COLUMNS, unit[i], stream);
        }
    v_stream_end();
}
