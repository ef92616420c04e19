/* Token and position embedding, fast. Definition: embedding.c. */
#include "kernels/cpu/vectors.h"

typedef struct job {
    float *y; /* forward */
    const float *wte, *wpe;
    float *dwte, *dwpe; /* backward */
    const float *dy;
    const int32_t *tok, *pos;
    int64_t R, C;
} job;

static void forward_part(void *ctx, int32_t thread, int32_t threads)
{
    const job *j = ctx;
    const share part = lanes_share(j->R, 1, thread, threads);
    for (int64_t r = part.begin; r < part.end; r++) {
        float *y = j->y + r * j->C;
        const float *t = j->wte + j->tok[r] * j->C, *p = j->wpe != NULL ? j->wpe + j->pos[r] * j->C : NULL;
        if (p == NULL)
            memcpy(y, t, (size_t)j->C * sizeof(*y));
        else
            for (int64_t c = 0; c < j->C; c += W) v_store(y + c, v_load(t + c, j->C - c) + v_load(p + c, j->C - c), j->C - c);
    }
}

void QN_LANES_F32(embedding_forward)(const qn_exec *ex, void *y, const int32_t *tok, const int32_t *pos, const void *wte,
                                     const void *wpe, int64_t R, int64_t C)
{
    job j = {.y = y, .wte = wte, .wpe = wpe, .tok = tok, .pos = pos, .R = R, .C = C};
    lanes_run(ex, forward_part, &j, R * C);
}

QN_INLINE void add_row(float *a, const float *b, int64_t n)
{
    for (int64_t c = 0; c < n; c += W) v_store(a + c, v_load(a + c, n - c) + v_load(b + c, n - c), n - c);
}

/* Columns are split over threads, so that no two touch one element and rows ascend in each. */
static void backward_part(void *ctx, int32_t thread, int32_t threads)
{
    const job *j = ctx;
    const share part = lanes_share(j->C, QN_CACHE_LINE, thread, threads);
    const int64_t c = part.begin, n = part.end - c;
    if (n == 0) return;
    for (int64_t r = 0; r < j->R; r++) {
        const float *dy = j->dy + r * j->C + c;
        if (j->dwte != NULL) add_row(j->dwte + j->tok[r] * j->C + c, dy, n);
        if (j->dwpe != NULL) add_row(j->dwpe + j->pos[r] * j->C + c, dy, n);
    }
}

void QN_LANES_F32(embedding_backward_weight)(const qn_exec *ex, void *dwte, void *dwpe, const int32_t *tok, const int32_t *pos,
                                             const void *dy, int64_t R, int64_t C)
{
    job j = {.dwte = dwte, .dwpe = dwpe, .dy = dy, .tok = tok, .pos = pos, .R = R, .C = C};
    lanes_run(ex, backward_part, &j, R * C);
}
