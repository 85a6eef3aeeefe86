/* Products of E4M3 weights, one scale a column, on a matrix unit of 128 rows; see array.h for what this stands in for. */
#include "array.h"

HWC_MATMUL_FP8(hwc_array_fp8) {
    float column[ARRAY_ROWS];
    for (size_t n = c->n_begin; n < c->n_end; ++n) {
        for (size_t k = 0; k == 0 || k < c->k; k += ARRAY_ROWS) {
            const size_t rows = rows_from(c->k, k);
            for (size_t r = 0; r < rows; ++r) column[r] = hwc_e4m3(c->codes[n * c->k + k + r]) * c->scales[n];
            stream(c->x + k, c->x_stride, column, rows, c->m, c->y + n, c->y_stride, k == 0);
        }
    }
}
