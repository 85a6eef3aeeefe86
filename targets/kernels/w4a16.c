/* W4A16 products: int4 weights by float32 activations, of which 16 bits are kept beside a scale. */
#define PLANES 2
#include "w4_product.h"

HWC_DEQUANTISE_MATMUL_INT4(hwc_w4a16) { w4_product(c); }
