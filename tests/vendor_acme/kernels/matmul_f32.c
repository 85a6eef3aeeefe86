/* y = x w in float32. */
#include "acme.h"

HWC_MATMUL_F32(acme_matmul_f32) {
    for (size_t m = 0; m < c->m; ++m) {
        const float *x = c->x + m * c->x_stride;
        for (size_t n = c->n_begin; n < c->n_end; ++n) {
            const float *w = c->w + n * c->w_n_stride;
            ACME_SUM(c->y[m * c->y_stride + n], c->k, k, x[k] * w[k * c->w_k_stride]);
        }
    }
}
