/* What a matrix unit of 128 rows computes, as portable code for a chip's own cores: a stand-in, not the unit.
 *
 * It computes as such an array does: a column of 128 weights stays while activations stream past it, a cell is one
 * fused multiply-add, and sums are float32. Its numbers are right; the instructions and the time it takes on a core
 * say nothing about the unit, which is priced by its descriptor's figures. A kernel a file: what is linked is used.
 */
#ifndef HWC_ARRAY_H
#define HWC_ARRAY_H

#include "hwc_kernels.h"

enum { ARRAY_ROWS = 128, STREAMS = 4 };

/* The part of a column that is in the array at once. */
static inline size_t rows_from(size_t k, size_t at) { return k - at < ARRAY_ROWS ? k - at : ARRAY_ROWS; }

/* y[i] (+)= x[i, 0 .. rows) · weights, for every row i of x; `first` begins the sums. */
static inline void stream(const float *x, size_t x_stride, const float *weights, size_t rows, size_t m, float *y,
                          size_t y_stride, int first) {
    size_t i = 0;
    for (; i + STREAMS <= m; i += STREAMS) {
        const float *at = x + i * x_stride;
        float sums[STREAMS];
        for (size_t s = 0; s < STREAMS; ++s) sums[s] = first ? 0.0f : y[(i + s) * y_stride];
        for (size_t r = 0; r < rows; ++r)
            for (size_t s = 0; s < STREAMS; ++s) sums[s] = __builtin_fmaf(at[s * x_stride + r], weights[r], sums[s]);
        for (size_t s = 0; s < STREAMS; ++s) y[(i + s) * y_stride] = sums[s];
    }
    for (; i < m; ++i) {
        float sum = first ? 0.0f : y[i * y_stride];
        for (size_t r = 0; r < rows; ++r) sum = __builtin_fmaf(x[i * x_stride + r], weights[r], sum);
        y[i * y_stride] = sum;
    }
}

/* Weights k .. k + rows of column n, unpacked and scaled as they enter the array: hwc_weight, a group at a time. */
static inline void fill(const struct hwc_dequantise_matmul *c, int bits, size_t n, size_t k, size_t rows,
                        float *column) {
    const uint8_t *codes = c->codes + n * c->row_bytes;
    const int middle = 1 << (bits - 1), flipped = (c->codes_form & HWC_CODES_SIGNED) ? middle : 0;
    for (size_t r = 0; r < rows;) {
        const size_t group = (k + r) / c->group, at = n * c->groups + group, left = (group + 1) * c->group - k;
        const size_t end = left < rows ? left : rows;
        const float scale = hwc_half(c->scales[at]);
        const float offset = c->zeros_form == HWC_ZEROS_OFFSET ? hwc_half(c->offsets[at]) : 0.0f;
        const int zero = c->zeros_form == HWC_ZEROS_OFFSET  ? 0
                         : c->zeros_form == HWC_ZEROS_POINT ? middle + c->zeros[at]
                                                            : middle;
        for (; r < end; ++r) {
            const int code = bits == 4 ? hwc_nibble(codes, k + r) : codes[k + r];
            column[r] = (float)((code ^ flipped) - zero) * scale + offset;
        }
    }
}

static inline void dequantise_stream(const struct hwc_dequantise_matmul *c, int bits) {
    float column[ARRAY_ROWS];
    for (size_t n = c->n_begin; n < c->n_end; ++n) {
        for (size_t k = 0; k == 0 || k < c->k; k += ARRAY_ROWS) {
            const size_t rows = rows_from(c->k, k);
            fill(c, bits, n, k, rows, column);
            stream(c->x + k, c->x_stride, column, rows, c->m, c->y + n, c->y_stride, k == 0);
        }
    }
}

#endif
