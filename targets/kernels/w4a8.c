/* W4A8 products: int4 weights by float32 activations, rounded here to 8 bits and a scale for 32 of them. */
#define PLANES 1
#include "w4_product.h"

HWC_DEQUANTISE_MATMUL_INT4(hwc_w4a8) { w4_product(c); }
