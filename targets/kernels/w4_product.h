/* Products of int4 weights in groups by activations as levels of PLANES bytes: 2, or 1 for those that are rounded to 8 bits.
 *
 * Where a CPU has vectors of bytes (dot4.h), codes are bytes 0..15; their dot products with levels are exact integers, made
 * float32 once a segment of at most 32 k. Elsewhere, and for groups that are no multiple of 8, sums are float32.
 */
#ifndef HWC_W4_PRODUCT_H
#define HWC_W4_PRODUCT_H

#include "portable.h"
#include "dot4.h"
#include "levels.h"

#ifdef DOT4
#include "w4_rows.h"

/* Most k at a time of so many rows: rows of codes are tiled in a buffer that holds less. */
static size_t chunk_of(size_t rows, int tiled) {
    if (rows > 8) return ROOM / MOST_ROWS;
    return tiled && rows <= 4 ? ROOM / (rows == 3 ? 4 : rows) : ROOM / 8;
}

static void by_vectors(const struct hwc_dequantise_matmul *c) {
    row_blocks x;
    const int tiled = c->codes_form & HWC_CODES_TILED;
    for (size_t m = 0; m < c->m; m += MOST_ROWS) {
        const size_t rows = c->m - m < MOST_ROWS ? c->m - m : MOST_ROWS, chunk = chunk_of(rows, tiled);
        const int few = !tiled && rows < FEWEST_TILED && lanes_fit(c);
        for (size_t begin = 0; begin < c->k; begin += chunk) {
            const part p = {.m = m, .rows = rows, .begin = begin, .end = c->k - begin < chunk ? c->k : begin + chunk};
            x.k = (p.end - begin + STEP - 1) / STEP * STEP;
            x.summed = few ? 1 : segment_of(c->group) / 8;
            for (size_t row = 0; row < p.rows;) {
                const size_t together = few ? 1 : together_of(p.rows - row);
                for (size_t one = 0; one < together; ++one)
                    block_row(c->x + (m + row + one) * c->x_stride + begin, p.end - begin, &x, few ? BY_VECTOR : BY_EIGHT,
                              row, one, together);
                row += together;
            }
            if (tiled) by_tiles(c, &x, &p);
            else if (few) by_rows(c, &x, &p);
            else by_tiled_rows(c, &x, &p);
        }
    }
}
#endif

/* Any CPU's, of activations that are rounded: a block of one row at a time. */
static inline void by_blocks(const struct hwc_dequantise_matmul *c) {
    for (size_t at = 0; at < c->m * ((c->k + BLOCK - 1) / BLOCK); ++at) {
        const size_t m = at % c->m, begin = at / c->m * BLOCK, held = c->k - begin < BLOCK ? c->k - begin : BLOCK;
        word rest[BLOCK];
        int16_t level[BLOCK];
        float scales[BLOCK / 8];
        const word *values = block_values(c->x + m * c->x_stride + begin, held, rest);
        block_levels(values, scale_of(values, scales), level);
        for (size_t n = c->n_begin; n < c->n_end; ++n) {
            float sum = 0.0f, *y = c->y + m * c->y_stride + n;
            for (size_t k = begin; k < begin + held; ++k)
                sum += (float)level[k - begin] *
                       hwc_weight(c, hwc_code_at(c, 4, n, k), 4, hwc_group_at(c, n, k / c->group));
            *y = (begin ? *y : 0.0f) + sum * scales[0];
        }
    }
}

static inline void w4_product(const struct hwc_dequantise_matmul *c) {
#ifdef DOT4
    if (c->group % 8 == 0) {
        by_vectors(c);
        return;
    }
#endif
    if (PLANES == 1) by_blocks(c);
    else portable_product(c, 4);
}
#endif
