/* Products of int8 weights in groups on a matrix unit of 128 rows; see array.h for what this stands in for. */
#include "array.h"

HWC_DEQUANTISE_MATMUL_INT8(hwc_array_int8) { dequantise_stream(c, 8); }
