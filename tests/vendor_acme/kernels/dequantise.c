/* y = x wᵀ with int4 or int8 weights, decoded as they are used. */
#include "acme.h"

HWC_DEQUANTISE_MATMUL_INT4(acme_matmul_int4) {
    for (size_t n = c->n_begin; n < c->n_end; ++n) {
        const uint8_t *row = c->codes + n * c->row_bytes;
        for (size_t m = 0; m < c->m; ++m) {
            const float *x = c->x + m * c->x_stride;
            ACME_SUM(c->y[m * c->y_stride + n], c->k, k,
                     x[k] * hwc_weight(c, hwc_nibble(row, k), 4, n * c->groups + k / c->group));
        }
    }
}

HWC_DEQUANTISE_MATMUL_INT8(acme_matmul_int8) {
    for (size_t n = c->n_begin; n < c->n_end; ++n) {
        const uint8_t *row = c->codes + n * c->row_bytes;
        for (size_t m = 0; m < c->m; ++m) {
            const float *x = c->x + m * c->x_stride;
            ACME_SUM(c->y[m * c->y_stride + n], c->k, k,
                     x[k] * hwc_weight(c, row[k], 8, n * c->groups + k / c->group));
        }
    }
}
