/* y = x wᵀ with E4M3 weights and one scale for each output channel. */
#include "acme.h"

HWC_MATMUL_FP8(acme_matmul_fp8) {
    for (size_t n = c->n_begin; n < c->n_end; ++n) {
        const uint8_t *row = c->codes + n * c->k;
        for (size_t m = 0; m < c->m; ++m) {
            const float *x = c->x + m * c->x_stride;
            float sum;
            ACME_SUM(sum, c->k, k, x[k] * hwc_e4m3(row[k]));
            c->y[m * c->y_stride + n] = c->scales[n] * sum;
        }
    }
}
