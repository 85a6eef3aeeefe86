/* Products by rows of int4 codes, as they lie: k in the lanes; or tiled first, where several rows of activations ask. */
#ifndef HWC_W4_ROWS_H
#define HWC_W4_ROWS_H

#include "w4_tiles.h"

#define FEWEST_TILED 4 /* rows of activations from which on tiling pays */
#define MOST_GROUPS 8  /* of one vector of codes */

/* Which of a vector's groups each lane is of, for groups that divide a vector or that vectors divide. */
static inline int lanes_fit(const struct hwc_dequantise_matmul *c) {
    return c->zeros_form == HWC_ZEROS_NONE &&
           (c->group % STEP == 0 || (STEP % c->group == 0 && STEP / c->group <= MOST_GROUPS));
}

/* Scales by lane from entry `at` on; `careful`: no entry past the last is read. */
INLINE vecf scales_by_lane(const struct hwc_dequantise_matmul *c, size_t at, vec lanes, int careful) {
    if (!careful) return f_spread(c->scales + at, lanes);
    uint16_t few[MOST_GROUPS] = {0};
    for (size_t entry = 0; entry < MOST_GROUPS && at + entry < c->n * c->groups; ++entry)
        few[entry] = c->scales[at + entry];
    return f_spread(few, lanes);
}

INLINE vec codes_of(const uint8_t *codes, size_t left) {
    uint8_t few[4 * L] = {0};
    for (size_t at = 0; at < 4 * L && at < left / 2; ++at) few[at] = codes[at];
    return v_load(few);
}

/* A row of activations, and how what is by group is brought to lanes. */
typedef struct {
    const row_blocks *x;
    const part *p;
    size_t row;
    vec flip, lanes;
    int shift;
} line;

/* Add one step of `columns` rows of codes from n on. */
INLINE void add_step(const struct hwc_dequantise_matmul *c, const line *l, size_t n, size_t k, int columns, int careful,
                     vecf *total) {
    const size_t whole = l->p->begin + k, at = (l->row * l->x->k + k) / 8;
    const int8_t *levels = l->x->levels + (l->row * l->x->k + k) * PLANES;
    for (int column = 0; column < columns; ++column) {
        const size_t from = n + (size_t)column;
        const uint8_t *bytes = c->codes + from * c->row_bytes + whole / 2;
        const vec codes = careful ? codes_of(bytes, l->p->end - whole) : v_load(bytes);
        const vec flipped = v_flipped(codes, l->flip), even = v_low(flipped), odd = v_high(flipped);
        vec high = v_zero(), low = v_zero();
        v_dot(high, even, v_load(levels));
        if (PLANES == 2) v_dot(low, even, v_load(levels + 8 * L));
        v_dot(high, odd, v_load(levels + 4 * L));
        if (PLANES == 2) v_dot(low, odd, v_load(levels + 12 * L));
        const vecf sum = v_float(v_add(PLANES == 2 ? v_whole(high, low) : v_single(high), v_load(l->x->sums + at)));
        const vecf weights = scales_by_lane(c, from * c->groups + (whole >> l->shift), l->lanes, careful);
        total[column] = f_fma(sum, f_mul(weights, f_load(l->x->scales + at)), total[column]);
    }
}

/* Results of one row of activations by `columns` rows of codes from n on. */
INLINE void row_product(const struct hwc_dequantise_matmul *c, const line *l, size_t n, int columns) {
    const size_t count = l->p->end - l->p->begin, last = n + (size_t)columns;
    const size_t open = last * c->groups + MOST_GROUPS <= c->n * c->groups ? count / STEP * STEP : 0;
    vecf total[4];
    for (int column = 0; column < columns; ++column) total[column] = f_zero();
    for (size_t k = 0; k < open; k += STEP) add_step(c, l, n, k, columns, 0, total);
    for (size_t k = open; k < count; k += STEP) add_step(c, l, n, k, columns, 1, total);
    for (int column = 0; column < columns; ++column) {
        float *y = c->y + (l->p->m + l->row) * c->y_stride + n + (size_t)column;
        *y = (l->p->begin ? *y : 0.0f) + f_sum(total[column]);
    }
}

static void by_rows(const struct hwc_dequantise_matmul *c, const row_blocks *x, const part *p) {
    const vec flip = v_bytes((char)(c->codes_form & HWC_CODES_SIGNED ? 0x88 : 0));
    const int shift = __builtin_ctzll(c->group);
    int32_t lane[L];
    for (int at = 0; at < L; ++at) lane[at] = (int32_t)((size_t)at * 8 >> shift);
    for (size_t row = 0; row < p->rows; ++row) {
        const line l = {.x = x, .p = p, .row = row, .flip = flip, .lanes = v_load(lane), .shift = shift};
        size_t n = c->n_begin;
        for (; n + 4 <= c->n_end; n += 4) row_product(c, &l, n, 4);
        for (; n < c->n_end; ++n) row_product(c, &l, n, 1);
    }
}

/* A buffer that L rows of codes are tiled in, for one part's k. */
typedef struct {
    uint8_t codes[ROOM / 8 * L / 2];
    uint16_t scales[ROOM / 64 * L], offsets[ROOM / 64 * L];
    int8_t zeros[ROOM / 64 * L];
} tiled_rows;

static void tile_of(const struct hwc_dequantise_matmul *c, const part *p, size_t n, size_t held, tiled_rows *out) {
    const size_t first = p->begin / c->group, groups = (p->end - 1) / c->group + 1 - first;
    for (size_t column = 0; column < L; ++column) {
        const size_t line = n + (column < held ? column : 0);
        const uint8_t *codes = c->codes + line * c->row_bytes + p->begin / 2;
        for (size_t eight = 0; eight < (p->end - p->begin) / 8; ++eight)
            __builtin_memcpy(out->codes + (eight * L + column) * 4, codes + eight * 4, 4);
        for (size_t group = 0; group < groups; ++group) {
            const size_t from = line * c->groups + first + group, to = group * L + column;
            out->scales[to] = c->scales[from];
            if (c->zeros_form == HWC_ZEROS_POINT) out->zeros[to] = c->zeros[from];
            if (c->zeros_form == HWC_ZEROS_OFFSET) out->offsets[to] = c->offsets[from];
        }
    }
}

static void by_tiled_rows(const struct hwc_dequantise_matmul *c, const row_blocks *x, const part *p) {
    tiled_rows made;
    const tile t = {.codes = made.codes, .scales = made.scales, .offsets = made.offsets, .zeros = made.zeros,
                    .width = L};
    for (size_t n = c->n_begin; n < c->n_end; n += L) {
        const size_t held = c->n_end - n < L ? c->n_end - n : L;
        tile_of(c, p, n, held, &made);
        segments(c, x, &t, p, n, 1, held);
    }
}
#endif
