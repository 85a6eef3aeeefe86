/* The grouped product for any CPU: 16 weights at a time in float32, in loops that compilers make vectors of. Codes in
 * tiles: one weight at a time. */
#ifndef HWC_PORTABLE_H
#define HWC_PORTABLE_H

#include "hwc_kernels.h"

#define LANES 16
#define ROWS_AT_ONCE 4

/* Sixteen weights of a group, less its scale and what its zeros add. */
static inline void levels_of(const uint8_t *codes, int bits, uint32_t codes_form, float *out) {
    const int middle = 1 << (bits - 1);
    for (int lane = 0; lane < LANES; ++lane) {
        const int code = bits == 4 ? (codes[lane / 2] >> (4 * (lane & 1))) & 15 : codes[lane];
        out[lane] = (float)(codes_form & HWC_CODES_SIGNED ? (code ^ middle) - middle : code - middle);
    }
}

/* What is added to every level of a group, as a multiple of its scale's unit: the weight is level * scale + added. */
static inline float added_of(const struct hwc_dequantise_matmul *c, int bits, size_t group_at, float scale) {
    if (c->zeros_form == HWC_ZEROS_OFFSET) return (float)(1 << (bits - 1)) * scale + hwc_half(c->offsets[group_at]);
    return c->zeros_form == HWC_ZEROS_POINT ? -(float)c->zeros[group_at] * scale : 0.0f;
}

static inline void portable_column(const struct hwc_dequantise_matmul *c, int bits, size_t m, size_t rows, size_t n) {
    float sums[ROWS_AT_ONCE][LANES]; /* cleared by a loop: of an initialiser some compilers make a call of memset */
    for (size_t row = 0; row < rows; ++row)
        for (int lane = 0; lane < LANES; ++lane) sums[row][lane] = 0.0f;
    for (size_t group = 0; group < c->groups; ++group) {
        const size_t group_at = n * c->groups + group;
        const float scale = hwc_half(c->scales[group_at]), added = added_of(c, bits, group_at, scale);
        for (size_t k = group * c->group; k < (group + 1) * c->group; k += LANES) {
            float weights[LANES];
            levels_of(c->codes + n * c->row_bytes + k * (size_t)bits / 8, bits, c->codes_form, weights);
            for (int lane = 0; lane < LANES; ++lane) weights[lane] = weights[lane] * scale + added;
            for (size_t row = 0; row < rows; ++row) {
                const float *x = c->x + (m + row) * c->x_stride + k;
                for (int lane = 0; lane < LANES; ++lane) sums[row][lane] += weights[lane] * x[lane];
            }
        }
    }
    for (size_t row = 0; row < rows; ++row) {
        float sum = 0.0f;
        for (int lane = 0; lane < LANES; ++lane) sum += sums[row][lane];
        c->y[(m + row) * c->y_stride + n] = sum;
    }
}

/* One weight at a time, for tiles and for groups that are no multiple of 16. */
static inline void plain_product(const struct hwc_dequantise_matmul *c, int bits) {
    for (size_t m = 0; m < c->m; ++m) {
        for (size_t n = c->n_begin; n < c->n_end; ++n) {
            float sum = 0.0f;
            for (size_t k = 0; k < c->k; ++k)
                sum += c->x[m * c->x_stride + k] *
                       hwc_weight(c, hwc_code_at(c, bits, n, k), bits, hwc_group_at(c, n, k / c->group));
            c->y[m * c->y_stride + n] = sum;
        }
    }
}

static inline void portable_product(const struct hwc_dequantise_matmul *c, int bits) {
    if (c->group % LANES || c->codes_form & HWC_CODES_TILED) {
        plain_product(c, bits);
        return;
    }
    for (size_t m = 0; m < c->m; m += ROWS_AT_ONCE) {
        const size_t rows = c->m - m < ROWS_AT_ONCE ? c->m - m : ROWS_AT_ONCE;
        for (size_t n = c->n_begin; n < c->n_end; ++n) portable_column(c, bits, m, rows, n);
    }
}

#endif
