/* y = x w in float16, sums in float32. */
#include "acme.h"

HWC_MATMUL_F16(acme_matmul_f16) {
    for (size_t m = 0; m < c->m; ++m) {
        const uint16_t *x = c->x + m * c->x_stride;
        for (size_t n = c->n_begin; n < c->n_end; ++n) {
            const uint16_t *w = c->w + n * c->w_n_stride;
            float sum;
            ACME_SUM(sum, c->k, k, hwc_half(x[k]) * hwc_half(w[k * c->w_k_stride]));
            c->y[m * c->y_stride + n] = hwc_to_half(sum);
        }
    }
}
