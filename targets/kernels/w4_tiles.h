/* Products by tiles of int4 codes: columns in the lanes, so that a code's vector serves every row of activations. */
#ifndef HWC_W4_TILES_H
#define HWC_W4_TILES_H

#include "blocks.h"

#define INLINE static inline __attribute__((always_inline))

/* One row of activations waits for memory, where the CPU's own prefetching ends at each page: codes are asked for so many
 * bytes early, and scales so many groups where vectors are a tile wide (with narrower ones that costs more than it gives). */
#define AHEAD (L == HWC_TILE ? 1024 : 2048)
#define SCALES_AHEAD 8

/* What part of a product is computed: rows from m on, k from begin to end. */
typedef struct {
    size_t m, rows, begin, end;
} part;

/* L columns from n on: their codes, scales and zeros from the part's first k on. */
typedef struct {
    const uint8_t *codes;
    const uint16_t *scales, *offsets;
    const int8_t *zeros;
    size_t width; /* columns that lie beside each other: HWC_TILE, or L */
} tile;

/* A tile's width, which the compiler knows where the two are the same. */
INLINE size_t width_of(const tile *t) { return L == HWC_TILE ? HWC_TILE : t->width; }

/* Most k at a time that share a block of activations and a group of weights. */
static inline size_t segment_of(size_t group) { return group % 32 == 0 ? 32 : group % 16 == 0 ? 16 : 8; }

/* Scale a segment's sums by its activations and weights, and add them to `rows` rows' totals by one tile. */
INLINE void add_scaled(const struct hwc_dequantise_matmul *c, const row_blocks *x, const tile *t, size_t row, size_t k,
                       size_t group, int rows, const vec *high, const vec *low, vecf *total) {
    const size_t entry = group * width_of(t);
    const vecf scale = f_halves(t->scales + entry);
    for (int r = 0; r < rows; ++r) {
        const size_t at = ((row + (size_t)r) * x->k + k) / 8;
        const vec base = v_each(x->sums[at]); /* -8 times the sum of the segment's levels */
        const vecf scaled = f_mul(scale, f_each(x->scales[at]));
        vec sum = PLANES == 2 ? v_whole(high[r], low[r]) : v_single(high[r]);
        if (c->zeros_form != HWC_ZEROS_OFFSET) sum = v_add(sum, base);
        vecf whole = v_float(sum);
        if (c->zeros_form == HWC_ZEROS_POINT)
            whole = f_fma(f_bytes(t->zeros + entry), f_mul(v_float(base), f_each(0.125f)), whole);
        if (c->zeros_form == HWC_ZEROS_OFFSET)
            total[r] = f_fma(f_halves(t->offsets + entry),
                             f_mul(v_float(base), f_each(-0.125f * x->scales[at])), total[r]);
        total[r] = f_fma(whole, scaled, total[r]);
    }
}

/* Add one segment, of 8 * steps k, of `rows` rows by the columns of `count` tiles, which share the rows' levels. */
INLINE void add_segment(const struct hwc_dequantise_matmul *c, const row_blocks *x, const tile *t, size_t row, size_t k,
                        size_t group, vec flip, int rows, int count, int steps, vecf total[][TILE_ROWS]) {
    vec high[TILES][TILE_ROWS], low[TILES][TILE_ROWS];
    for (int at = 0; at < count; ++at)
        for (int r = 0; r < rows; ++r) high[at][r] = low[at][r] = v_zero();
    for (int step = 0; step < steps; ++step) {
        const size_t eight = k / 8 + (size_t)step;
        const four_bytes *levels = (const four_bytes *)(x->levels + row * x->k * PLANES) + eight * (size_t)rows * 2 * PLANES;
        for (int at = 0; at < count; ++at) {
            const uint8_t *from = t[at].codes + eight * 4 * width_of(t + at);
            if (rows == 1 && at % (HWC_TILE / L) == 0) __builtin_prefetch(from + AHEAD);
            const vec codes = v_flipped(v_load(from), flip), even = v_low(codes), odd = v_high(codes);
            for (int r = 0; r < rows; ++r) {
                const four_bytes *of = levels + 2 * PLANES * r;
                v_dot(high[at][r], even, v_each(of[0]));
                if (PLANES == 2) v_dot(low[at][r], even, v_each(of[2]));
                v_dot(high[at][r], odd, v_each(of[1]));
                if (PLANES == 2) v_dot(low[at][r], odd, v_each(of[3]));
            }
        }
    }
    for (int at = 0; at < count; ++at) {
        if (rows == 1 && L == HWC_TILE) __builtin_prefetch(t[at].scales + (group + SCALES_AHEAD) * HWC_TILE);
        add_scaled(c, x, t + at, row, k, group, rows, high[at], low[at], total[at]);
    }
}

/* Results of `rows` rows from row p->m + row on by `count` tiles next to each other, the last with `held` columns. */
INLINE void tile_product(const struct hwc_dequantise_matmul *c, const row_blocks *x, const tile *t, const part *p,
                         size_t row, size_t n, vec flip, int rows, int count, int steps, size_t held) {
    vecf total[TILES][TILE_ROWS];
    float edge[L];
    for (int at = 0; at < count; ++at)
        for (int r = 0; r < rows; ++r) {
            const float *y = c->y + (p->m + row + (size_t)r) * c->y_stride + n + (size_t)at * L;
            if (!p->begin) total[at][r] = f_zero();
            else if (held == L) total[at][r] = f_load(y);
            else {
                for (size_t column = 0; column < L; ++column) edge[column] = column < held ? y[column] : 0.0f;
                total[at][r] = f_load(edge);
            }
        }
    size_t group = 0, left = c->group - p->begin % c->group;
    for (size_t k = 0; k < p->end - p->begin; k += 8 * (size_t)steps) {
        add_segment(c, x, t, row, k, group, flip, rows, count, steps, total);
        left -= 8 * (size_t)steps;
        if (!left) ++group, left = c->group;
    }
    for (int at = 0; at < count; ++at)
        for (int r = 0; r < rows; ++r) {
            float *y = c->y + (p->m + row + (size_t)r) * c->y_stride + n + (size_t)at * L;
            if (held == L) f_store(y, total[at][r]);
            else {
                f_store(edge, total[at][r]);
                for (size_t column = 0; column < held; ++column) y[column] = edge[column];
            }
        }
}

/* How many of `left` rows are computed at once. */
static inline size_t together_of(size_t left) { return left >= TILE_ROWS ? TILE_ROWS : left >= 4 ? 4 : left >= 2 ? 2 : 1; }

/* All rows of a part by `count` tiles, which is 1 for several rows. */
INLINE void rows_by_tiles(const struct hwc_dequantise_matmul *c, const row_blocks *x, const tile *t, const part *p,
                          size_t n, vec flip, int count, int steps, size_t held) {
    size_t row = 0;
    if (count == 1) {
        for (; row + TILE_ROWS <= p->rows; row += TILE_ROWS)
            tile_product(c, x, t, p, row, n, flip, TILE_ROWS, 1, steps, held);
        for (; row + 4 <= p->rows; row += 4) tile_product(c, x, t, p, row, n, flip, 4, 1, steps, held);
        for (; row + 2 <= p->rows; row += 2) tile_product(c, x, t, p, row, n, flip, 2, 1, steps, held);
    }
    for (; row < p->rows; ++row) tile_product(c, x, t, p, row, n, flip, 1, count, steps, held);
}

/* The same with the segment that fits the group: 32 k where it can be. */
static void segments(const struct hwc_dequantise_matmul *c, const row_blocks *x, const tile *t, const part *p, size_t n,
                     int count, size_t held) {
    const vec flip = v_bytes((char)(c->codes_form & HWC_CODES_SIGNED ? 0x88 : 0));
    const size_t segment = segment_of(c->group);
    if (segment == 32 && count > 1) rows_by_tiles(c, x, t, p, n, flip, TILES, 4, held);
    else if (segment == 32) rows_by_tiles(c, x, t, p, n, flip, 1, 4, held);
    else if (segment == 16) rows_by_tiles(c, x, t, p, n, flip, 1, 2, held);
    else rows_by_tiles(c, x, t, p, n, flip, 1, 1, held);
}

/* Columns of codes that lie in tiles. */
static void by_tiles(const struct hwc_dequantise_matmul *c, const row_blocks *x, const part *p) {
    const size_t together = p->rows == 1 && c->group % 32 == 0 ? TILES : 1;
    for (size_t n = c->n_begin; n < c->n_end;) {
        const size_t count = n + together * L <= c->n_end ? together : 1;
        tile t[TILES];
        for (size_t at = 0; at < count; ++at) {
            const size_t first = (n + at * L) / HWC_TILE * HWC_TILE, lane = (n + at * L) % HWC_TILE;
            const size_t entry = first * c->groups + p->begin / c->group * HWC_TILE + lane;
            t[at] = (tile){.codes = c->codes + first * c->row_bytes + p->begin / 8 * 4 * HWC_TILE + 4 * lane,
                           .scales = c->scales + entry, .offsets = c->offsets ? c->offsets + entry : c->scales,
                           .zeros = c->zeros ? c->zeros + entry : 0, .width = HWC_TILE};
        }
        segments(c, x, t, p, n, (int)count, L);
        n += count * L;
    }
}
#endif
