/* Products in float32 by weights in tiles of 16 columns, [n / 16, k, 16], in vectors as long as the CPU's registers.
 *
 * Sums of some rows by a tile stay in registers while K_AT_ONCE of k pass, whose part of the tile then lies in the
 * first-level cache for all rows. Few rows take several tiles at once instead: one row waits for memory and nothing else.
 */
#include "hwc_kernels.h"

#if defined(__AVX512F__)
#define LANES 16
#define ROWS 12
#define TILES_OF_ROWS 2
#define WIDEST 24 /* vectors of sums */
#elif defined(__AVX__)
#define LANES 8
#define ROWS 4
#define TILES_OF_ROWS 1
#define WIDEST 8
#elif defined(__aarch64__)
#define LANES 4
#define ROWS 6
#define TILES_OF_ROWS 1
#define WIDEST 24
#else
#define LANES 4
#define ROWS 2
#define TILES_OF_ROWS 1
#define WIDEST 8
#endif
#define FEW (ROWS < 4 ? ROWS : 4)
#define PARTS (HWC_TILE / LANES) /* vectors of a tile */
#define K_AT_ONCE 512
#define AHEAD 2048 /* bytes: weights of one row's product are asked for that early */
#define INLINE static inline __attribute__((always_inline))

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* Add k from `begin` to `end` of `rows` rows from row m by `tiles` tiles from column n. */
INLINE void block(const struct hwc_matmul_f32_tiles *c, size_t m, size_t n, size_t begin, size_t end, int rows, int tiles) {
    vector sum[ROWS][WIDEST];
    const float *w = c->w + n * c->k, *x = c->x + m * c->x_stride;
    for (int r = 0; r < rows; ++r)
        for (int at = 0; at < tiles * PARTS; ++at)
            sum[r][at] = begin ? *(const vector *)(c->y + (m + (size_t)r) * c->y_stride + n + (size_t)at * LANES)
                               : (vector){0.0f};
    for (size_t k = begin; k < end; ++k) {
        vector weights[WIDEST];
        for (int tile = 0; tile < tiles; ++tile) {
            const float *from = w + ((size_t)tile * c->k + k) * HWC_TILE;
            if (rows == 1) __builtin_prefetch((const char *)from + AHEAD);
            for (int part = 0; part < PARTS; ++part) weights[tile * PARTS + part] = *(const vector *)(from + part * LANES);
        }
        for (int r = 0; r < rows; ++r) {
            const float value = x[(size_t)r * c->x_stride + k];
            for (int at = 0; at < tiles * PARTS; ++at) sum[r][at] += weights[at] * value;
        }
    }
    for (int r = 0; r < rows; ++r)
        for (int at = 0; at < tiles * PARTS; ++at)
            *(vector *)(c->y + (m + (size_t)r) * c->y_stride + n + (size_t)at * LANES) = sum[r][at];
}

/* All rows by as many tiles as are left, at most `tiles` at once. */
#define ROWS_BY_TILES(rows, tiles)                                                             \
    do {                                                                                       \
        size_t n = c->n_begin;                                                                 \
        for (; n + (tiles) * HWC_TILE <= c->n_end; n += (tiles) * HWC_TILE)                    \
            block(c, m, n, begin, end, rows, tiles);                                           \
        for (; n < c->n_end; n += HWC_TILE) block(c, m, n, begin, end, rows, 1);               \
    } while (0)

static void few(const struct hwc_matmul_f32_tiles *c, size_t m, size_t rows, size_t begin, size_t end) {
    if (rows == 1) ROWS_BY_TILES(1, WIDEST / PARTS > 4 ? 4 : WIDEST / PARTS);
    else if (rows == 2) ROWS_BY_TILES(2, WIDEST / PARTS / 2 > 4 ? 4 : WIDEST / PARTS / 2);
#if ROWS > 2
    else if (rows == 3) ROWS_BY_TILES(3, 1);
    else ROWS_BY_TILES(4, 1);
#endif
}

HWC_MATMUL_F32_TILES(hwc_matmul_f32) {
    for (size_t begin = 0; begin < c->k; begin += K_AT_ONCE) {
        const size_t end = c->k - begin < K_AT_ONCE ? c->k : begin + K_AT_ONCE, whole = c->m / ROWS * ROWS;
        const size_t together = TILES_OF_ROWS * HWC_TILE;
        for (size_t n = c->n_begin; whole && n < c->n_end; n += together) {
            const int one = TILES_OF_ROWS == 1 || n + together > c->n_end;
            for (size_t m = 0; m < whole; m += ROWS)
                if (one) block(c, m, n, begin, end, ROWS, 1);
                else block(c, m, n, begin, end, ROWS, TILES_OF_ROWS);
        }
        for (size_t m = whole; m < c->m;) {
            const size_t left = c->m - m, rows = left >= FEW ? FEW : left;
            few(c, m, rows, begin, end);
            m += rows;
        }
    }
}
