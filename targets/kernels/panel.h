/* Products of many rows of activations in float32: weights are decoded a panel at a time, columns in the lanes, and every
 * decoded weight serves all rows. What decodes is the kernel's own: see panel_product. */
#ifndef HWC_PANEL_H
#define HWC_PANEL_H

#include <stddef.h>
#include <stdint.h>

/* Rows of activations from which on it pays; lanes of a register; sums that there are registers for: vectors, by rows. */
#if defined(__AVX512F__)
#define PANEL_FEWEST 16
#define PANEL_LANES 16
#define PANEL_VECTORS 2
#define PANEL_ROWS 12
#define PANEL_K 512
#elif defined(__AVX__)
#define PANEL_FEWEST 32
#define PANEL_LANES 8
#define PANEL_VECTORS 2
#define PANEL_ROWS 4
#define PANEL_K 256
#else
#define PANEL_FEWEST 16
#define PANEL_LANES 4
#define PANEL_VECTORS 4
#define PANEL_ROWS 2
#define PANEL_K 128
#endif
#define PANEL_LEFT (PANEL_ROWS < 8 ? 2 : 4)
#define PANEL_COLUMNS (PANEL_VECTORS * PANEL_LANES)

typedef float panel_lanes __attribute__((vector_size(4 * PANEL_LANES), aligned(4), may_alias));

/* A product, less its weights. */
typedef struct {
    const float *x;
    float *y;
    size_t m, k, x_stride, y_stride, n_begin, n_end;
} panel_task;

/* Add `count` k of `rows` rows from row m and k on, by a panel, to sums that begin at 0 where k does. */
static inline __attribute__((always_inline)) void panel_block(const panel_task *t, const float *panel, size_t m,
                                                              size_t n, size_t k, size_t count, int rows) {
    panel_lanes sum[PANEL_ROWS][PANEL_VECTORS];
    float edge[PANEL_COLUMNS];
    const size_t held = t->n_end - n < PANEL_COLUMNS ? t->n_end - n : PANEL_COLUMNS;
    for (int row = 0; row < rows; ++row) {
        const float *from = t->y + (m + (size_t)row) * t->y_stride + n;
        if (held < PANEL_COLUMNS) {
            for (size_t column = 0; column < PANEL_COLUMNS; ++column) edge[column] = column < held && k ? from[column] : 0;
            from = edge;
        }
        for (int at = 0; at < PANEL_VECTORS; ++at)
            sum[row][at] = k ? ((const panel_lanes *)from)[at] : (panel_lanes){0.0f};
    }
    const float *x = t->x + m * t->x_stride + k;
    for (size_t at = 0; at < count; ++at) {
        panel_lanes weights[PANEL_VECTORS];
        for (int of = 0; of < PANEL_VECTORS; ++of) weights[of] = ((const panel_lanes *)(panel + at * PANEL_COLUMNS))[of];
        for (int row = 0; row < rows; ++row)
            for (int of = 0; of < PANEL_VECTORS; ++of)
                sum[row][of] += weights[of] * x[(size_t)row * t->x_stride + at];
    }
    for (int row = 0; row < rows; ++row) {
        float *y = t->y + (m + (size_t)row) * t->y_stride + n, *to = held < PANEL_COLUMNS ? edge : y;
        for (int at = 0; at < PANEL_VECTORS; ++at) ((panel_lanes *)to)[at] = sum[row][at];
        for (size_t column = 0; held < PANEL_COLUMNS && column < held; ++column) y[column] = edge[column];
    }
}

static inline void panel_rows(const panel_task *t, const float *panel, size_t n, size_t k, size_t count) {
    size_t m = 0;
    for (; m + PANEL_ROWS <= t->m; m += PANEL_ROWS) panel_block(t, panel, m, n, k, count, PANEL_ROWS);
    for (; m + PANEL_LEFT <= t->m; m += PANEL_LEFT) panel_block(t, panel, m, n, k, count, PANEL_LEFT);
    for (; m < t->m; ++m) panel_block(t, panel, m, n, k, count, 1);
}

/* Writes weights of PANEL_COLUMNS columns from n on, `count` k from k on, as [k][column]; columns past the last count as 0,
 * and are not read. */
typedef void panel_decode(const void *kernel, size_t n, size_t k, size_t count, float *panel);

static inline __attribute__((always_inline)) void panel_product(const panel_task *t, const void *kernel,
                                                                panel_decode *decode) {
    float panel[PANEL_K * PANEL_COLUMNS] __attribute__((aligned(64)));
    for (size_t n = t->n_begin; n < t->n_end; n += PANEL_COLUMNS)
        for (size_t k = 0; k < t->k; k += PANEL_K) {
            const size_t count = t->k - k < PANEL_K ? t->k - k : PANEL_K;
            decode(kernel, n, k, count, panel);
            panel_rows(t, panel, n, k, count);
        }
}

/* Bytes of rows as [count][column], `stride` apart; of `held` rows, and 0 for the others. */
static inline void panel_bytes(const uint8_t *from, size_t stride, size_t held, size_t count, uint8_t *to) {
    typedef uint8_t bytes __attribute__((vector_size(16), aligned(1), may_alias));
    for (size_t first = 0; first < PANEL_COLUMNS; first += 16)
        for (size_t k = 0; k < count; k += 16) {
            bytes rows[16], next[16];
            for (size_t row = 0; row < 16; ++row) {
                rows[row] = (bytes){0};
                if (first + row < held && k + 16 <= count) rows[row] = *(const bytes *)(from + (first + row) * stride + k);
                for (size_t at = k; first + row < held && k + 16 > count && at < count; ++at)
                    rows[row][at - k] = from[(first + row) * stride + at];
            }
            for (int step = 0; step < 4; ++step) { /* rows r and r + 8 are interleaved: four times is a transposition */
                for (size_t row = 0; row < 8; ++row) {
                    next[2 * row] = __builtin_shufflevector(rows[row], rows[row + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5,
                                                            21, 6, 22, 7, 23);
                    next[2 * row + 1] = __builtin_shufflevector(rows[row], rows[row + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12,
                                                                28, 13, 29, 14, 30, 15, 31);
                }
                __builtin_memcpy(rows, next, sizeof rows);
            }
            for (size_t at = k; at < k + 16 && at < count; ++at) *(bytes *)(to + at * PANEL_COLUMNS + first) = rows[at - k];
        }
}
#endif
