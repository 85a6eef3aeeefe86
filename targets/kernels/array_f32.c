/* Products of float32 weights on a matrix unit of 128 rows; see array.h for what this stands in for. */
#include "array.h"

HWC_MATMUL_F32(hwc_array_f32) {
    float column[ARRAY_ROWS];
    for (size_t n = c->n_begin; n < c->n_end; ++n) {
        for (size_t k = 0; k == 0 || k < c->k; k += ARRAY_ROWS) {
            const size_t rows = rows_from(c->k, k);
            for (size_t r = 0; r < rows; ++r) column[r] = c->w[(k + r) * c->w_k_stride + n * c->w_n_stride];
            stream(c->x + k, c->x_stride, column, rows, c->m, c->y + n, c->y_stride, k == 0);
        }
    }
}
