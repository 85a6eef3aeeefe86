/* The C ABI of vendor kernels, by pattern. A kernel is linked into the artefact and called instead of generated code.
 *
 *     #include "hwc_kernels.h"
 *     HWC_MATMUL_F32(acme_matmul) {              // [kernels.NAME] pattern = "matmul_f32", symbol = "acme_matmul"
 *         for (size_t m = 0; m < c->m; ++m)
 *             for (size_t n = c->n_begin; n < c->n_end; ++n) ... c->y[m * c->y_stride + n] = sum;
 *     }
 *
 * One call computes columns n_begin <= n < n_end of y[m, n], every row of them, and writes nothing else; calls of one
 * product may run at once on several threads. Sizes and strides are in elements. Pointers are aligned to their element
 * alone. A kernel has no libc, no state and no calls but its own: it is linked into a freestanding shared object.
 */
#ifndef HWC_KERNELS_H
#define HWC_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define HWC_KERNELS_ABI 1
/* Protected: seen from outside, as the check that it was linked needs, but never called through a table. */
#define HWC_EXPORT __attribute__((visibility("protected"), used))

/* How quantised codes lie in memory. */
enum hwc_codes {
    HWC_CODES_UNSIGNED = 0, /* the code itself: 0..15 in a nibble, 0..255 in a byte */
    HWC_CODES_SIGNED = 1,   /* two's complement of the code less 8, or less 128 */
    HWC_CODES_TILED = 2     /* added to either, int4 alone: see HWC_TILE */
};
/* Codes in tiles: [n / 16, k / 8] of 16 columns by 4 bytes, which hold 8 consecutive k of one column as a row does; scales,
 * zeros and offsets as [n / 16, groups, 16]. n is a multiple of 16, and so are n_begin and n_end. */
#define HWC_TILE 16
/* What a group has beside its scale. */
enum hwc_zeros {
    HWC_ZEROS_NONE = 0,  /* weight = (code - middle) * scale; middle is 8 for int4, 128 for int8 */
    HWC_ZEROS_POINT = 1, /* weight = (code - middle - zero) * scale; zero is int8_t, stored less the middle */
    HWC_ZEROS_OFFSET = 2 /* weight = code * scale + offset, the code counted from 0; offset is a float16 */
};

/* y[m, n] = sum over k of x[m, k] * w[k, n]; weights in float32. */
struct hwc_matmul_f32 {
    const float *x, *w;
    float *y;
    size_t m, n, k, x_stride, y_stride;
    size_t w_k_stride, w_n_stride; /* w[k, n] is w[k * w_k_stride + n * w_n_stride]; one of the two is 1 */
    size_t n_begin, n_end;
};

/* The same with weights in tiles of HWC_TILE columns: w[k, n] is w[(n / 16 * k_all + k) * 16 + n % 16]. n is a multiple of
 * 16, and so are n_begin and n_end. */
struct hwc_matmul_f32_tiles {
    const float *x, *w;
    float *y;
    size_t m, n, k, x_stride, y_stride, n_begin, n_end;
};

/* The same in float16, as bits; sums are float32. */
struct hwc_matmul_f16 {
    const uint16_t *x, *w;
    uint16_t *y;
    size_t m, n, k, x_stride, y_stride, w_k_stride, w_n_stride, n_begin, n_end;
};

/* y[m, n] = sum over k of x[m, k] * weight[n, k], the weight as hwc_zeros tells, in int4 or int8. The pattern
 * rounded_matmul_int4 has the same record and macro as dequantise_matmul_int4; there the kernel first rounds each 32
 * consecutive values of a row of x: r = max(largest |x|, 2^-100), x becomes roundeven(x * (127 / r)) * (r * (1 / 127)). */
struct hwc_dequantise_matmul {
    const float *x;
    const uint8_t *codes;   /* row n begins at n * row_bytes; in int4 an even k is the low nibble */
    const uint16_t *scales; /* float16 bits [n, groups]; the group of k is k / group */
    const int8_t *zeros;    /* [n, groups] with HWC_ZEROS_POINT, else NULL */
    const uint16_t *offsets; /* float16 bits [n, groups] with HWC_ZEROS_OFFSET, else NULL */
    float *y;
    size_t m, n, k, x_stride, y_stride, row_bytes, group, groups;
    uint32_t codes_form; /* enum hwc_codes */
    uint32_t zeros_form; /* enum hwc_zeros */
    size_t n_begin, n_end;
};

/* y[m, n] = scale[n] * sum over k of x[m, k] * code[n, k], codes in E4M3 (one byte each, never NaN). */
struct hwc_matmul_fp8 {
    const float *x;
    const uint8_t *codes; /* row n begins at n * k */
    const float *scales;  /* [n] */
    float *y;
    size_t m, n, k, x_stride, y_stride, n_begin, n_end;
};

/* y = softmax(q · kᵀ + mask) · v for each of batch × heads; heads whose keys are shared stand below each other as rows.
 * q and y are [batch, heads, rows, width], k and v [batch, heads, keys, width], mask [mask_batches, mask_rows, keys];
 * row r has the mask's row r % mask_rows. q has its factor 1 / √width already. What is counted by n_begin and n_end is
 * blocks of HWC_ATTENTION_ROWS rows, head after head. */
#define HWC_ATTENTION_ROWS 32
struct hwc_attention_f32 {
    const float *q, *k, *v, *mask;
    float *y;
    size_t rows, keys, width;
    size_t heads; /* in one of the batch */
    size_t mask_batches, mask_rows; /* 1, or the batch; rows / mask_rows is a whole number */
    size_t n_begin, n_end;
};

/* y = windows of x by w, plus a bias, for each of batch images; then what `form` asks for. x is [batch, groups * inputs,
 * height, width], w [channels, inputs, kernel_height, kernel_width], y [batch, channels, rows, columns] or, pooled,
 * [batch, channels, rows / 2, columns / 2]. The window of row r begins pad_top above row r * stride_height of x; what lies
 * outside x counts as 0, also beyond its last row and column. What is counted by n_begin and n_end is channels, image after
 * image: channel n % channels of image n / channels. */
enum hwc_conv2d_form {
    HWC_CONV2D_BIAS = 1,   /* there is a bias [channels] */
    HWC_CONV2D_RELU = 2,   /* what is negative becomes 0; NaN stays */
    HWC_CONV2D_POOL = 4    /* after that, the largest of each 2x2; a last odd row or column is dropped; NaN is the largest */
};
#define HWC_CONV2D_MOST_WINDOW 16 /* kernel_height, kernel_width */
#define HWC_CONV2D_MOST_STRIDE 4
struct hwc_conv2d_f32 {
    const float *x, *w, *bias; /* bias: NULL without one */
    float *y;
    size_t batch, groups, inputs, channels; /* inputs: of one group; channels: of all */
    size_t height, width, kernel_height, kernel_width, stride_height, stride_width, pad_top, pad_left;
    size_t rows, columns; /* of the convolution, before any pooling */
    uint32_t form; /* enum hwc_conv2d_form */
    size_t n_begin, n_end;
};

#define HWC_MATMUL_(symbol, element, record)                                                                          \
    static inline void symbol##_body(const struct record *c);                                                         \
    HWC_EXPORT void symbol(const element *x, size_t x_at, const element *w, size_t w_at, element *y, size_t y_at,     \
                           size_t m, size_t n, size_t k, size_t w_k_stride, size_t w_n_stride, size_t n_begin,        \
                           size_t n_end) {                                                                            \
        const struct record c = {.x = x + x_at, .w = w + w_at, .y = y + y_at, .m = m, .n = n, .k = k, .x_stride = k,  \
                                 .y_stride = n, .w_k_stride = w_k_stride, .w_n_stride = w_n_stride,                   \
                                 .n_begin = n_begin, .n_end = n_end};                                                 \
        symbol##_body(&c);                                                                                            \
    }                                                                                                                 \
    static inline void symbol##_body(const struct record *c)

#define HWC_MATMUL_F32(symbol) HWC_MATMUL_(symbol, float, hwc_matmul_f32)
#define HWC_MATMUL_F16(symbol) HWC_MATMUL_(symbol, uint16_t, hwc_matmul_f16)

#define HWC_MATMUL_F32_TILES(symbol)                                                                                  \
    static inline void symbol##_body(const struct hwc_matmul_f32_tiles *c);                                           \
    HWC_EXPORT void symbol(const float *x, size_t x_at, const float *w, size_t w_at, float *y, size_t y_at, size_t m, \
                           size_t n, size_t k, size_t n_begin, size_t n_end) {                                        \
        const struct hwc_matmul_f32_tiles c = {.x = x + x_at, .w = w + w_at, .y = y + y_at, .m = m, .n = n, .k = k,   \
                                               .x_stride = k, .y_stride = n, .n_begin = n_begin, .n_end = n_end};     \
        symbol##_body(&c);                                                                                            \
    }                                                                                                                 \
    static inline void symbol##_body(const struct hwc_matmul_f32_tiles *c)

/* Compiled code passes each buffer as a base and an offset in elements; where there are no zeros, the codes again. */
#define HWC_DEQUANTISE_MATMUL_(symbol, bits)                                                                          \
    static inline void symbol##_body(const struct hwc_dequantise_matmul *c);                                          \
    HWC_EXPORT void symbol(const float *x, size_t x_at, const uint8_t *codes, size_t codes_at,                        \
                           const uint16_t *scales, size_t scales_at, const uint8_t *zeros, size_t zeros_at, float *y, \
                           size_t y_at, size_t m, size_t n, size_t k, size_t group, size_t codes_form,                \
                           size_t zeros_form, size_t n_begin, size_t n_end) {                                         \
        const struct hwc_dequantise_matmul c = {                                                                      \
            .x = x + x_at, .codes = codes + codes_at, .scales = scales + scales_at,                                   \
            .zeros = zeros_form == HWC_ZEROS_POINT ? (const int8_t *)(zeros + zeros_at) : NULL,                       \
            .offsets = zeros_form == HWC_ZEROS_OFFSET ? (const uint16_t *)(const void *)(zeros + zeros_at) : NULL,    \
            .y = y + y_at, .m = m, .n = n, .k = k, .x_stride = k, .y_stride = n, .row_bytes = k * (bits) / 8,         \
            .group = group, .groups = k / group, .codes_form = (uint32_t)codes_form,                                  \
            .zeros_form = (uint32_t)zeros_form, .n_begin = n_begin, .n_end = n_end};                                  \
        symbol##_body(&c);                                                                                            \
    }                                                                                                                 \
    static inline void symbol##_body(const struct hwc_dequantise_matmul *c)

#define HWC_DEQUANTISE_MATMUL_INT4(symbol) HWC_DEQUANTISE_MATMUL_(symbol, 4)
#define HWC_DEQUANTISE_MATMUL_INT8(symbol) HWC_DEQUANTISE_MATMUL_(symbol, 8)

#define HWC_MATMUL_FP8(symbol)                                                                                        \
    static inline void symbol##_body(const struct hwc_matmul_fp8 *c);                                                 \
    HWC_EXPORT void symbol(const float *x, size_t x_at, const uint8_t *codes, size_t codes_at, const float *scales,   \
                           size_t scales_at, float *y, size_t y_at, size_t m, size_t n, size_t k, size_t n_begin,     \
                           size_t n_end) {                                                                            \
        const struct hwc_matmul_fp8 c = {.x = x + x_at, .codes = codes + codes_at, .scales = scales + scales_at,      \
                                         .y = y + y_at, .m = m, .n = n, .k = k, .x_stride = k, .y_stride = n,         \
                                         .n_begin = n_begin, .n_end = n_end};                                         \
        symbol##_body(&c);                                                                                            \
    }                                                                                                                 \
    static inline void symbol##_body(const struct hwc_matmul_fp8 *c)

#define HWC_ATTENTION_F32(symbol)                                                                                     \
    static inline void symbol##_body(const struct hwc_attention_f32 *c);                                              \
    HWC_EXPORT void symbol(const float *q, size_t q_at, const float *k, size_t k_at, const float *v, size_t v_at,     \
                           const float *mask, size_t mask_at, float *y, size_t y_at, size_t rows, size_t blocks,      \
                           size_t keys, size_t width, size_t heads, size_t mask_batches, size_t mask_rows,            \
                           size_t n_begin, size_t n_end) {                                                            \
        const struct hwc_attention_f32 c = {.q = q + q_at, .k = k + k_at, .v = v + v_at, .mask = mask + mask_at,      \
                                            .y = y + y_at, .rows = rows, .keys = keys, .width = width,                \
                                            .heads = heads, .mask_batches = mask_batches, .mask_rows = mask_rows,     \
                                            .n_begin = n_begin, .n_end = n_end};                                      \
        (void)blocks;                                                                                                 \
        symbol##_body(&c);                                                                                            \
    }                                                                                                                 \
    static inline void symbol##_body(const struct hwc_attention_f32 *c)

/* Where there is no bias, compiled code passes the weights again. */
#define HWC_CONV2D_F32(symbol)                                                                                        \
    static inline void symbol##_body(const struct hwc_conv2d_f32 *c);                                                 \
    HWC_EXPORT void symbol(const float *x, size_t x_at, const float *w, size_t w_at, const float *bias, size_t bias_at, \
                           float *y, size_t y_at, size_t batch, size_t units, size_t groups, size_t inputs,           \
                           size_t channels, size_t height, size_t width, size_t kernel_height, size_t kernel_width,   \
                           size_t stride_height, size_t stride_width, size_t pad_top, size_t pad_left, size_t rows,   \
                           size_t columns, size_t form, size_t n_begin, size_t n_end) {                               \
        const struct hwc_conv2d_f32 c = {                                                                             \
            .x = x + x_at, .w = w + w_at, .bias = form & HWC_CONV2D_BIAS ? bias + bias_at : NULL, .y = y + y_at,      \
            .batch = batch, .groups = groups, .inputs = inputs, .channels = channels, .height = height,               \
            .width = width, .kernel_height = kernel_height, .kernel_width = kernel_width,                             \
            .stride_height = stride_height, .stride_width = stride_width, .pad_top = pad_top, .pad_left = pad_left,   \
            .rows = rows, .columns = columns, .form = (uint32_t)form, .n_begin = n_begin, .n_end = n_end};            \
        (void)units;                                                                                                  \
        symbol##_body(&c);                                                                                            \
    }                                                                                                                 \
    static inline void symbol##_body(const struct hwc_conv2d_f32 *c)

/* Bits with a sign at bit 31 as a float. */
static inline float hwc_signed(float magnitude, uint32_t sign) {
    union { float f; uint32_t u; } whole = {magnitude};
    whole.u |= sign;
    return whole.f;
}

/* float16 bits to float32, for compilers and cores without the type. Weights hold no infinities and no NaN. Subnormals
 * are converted from integers: as float32 subnormals they would be flushed to zero on the threads that run kernels. */
static inline float hwc_half(uint16_t bits) {
    const uint32_t magnitude = bits & 0x7FFFu;
    union { uint32_t u; float f; } normal = {(magnitude << 13) + (112u << 23)};
    return hwc_signed(magnitude < 0x400u ? (float)(int)magnitude * 0x1p-24f : normal.f, (uint32_t)(bits & 0x8000u) << 16);
}

/* An E4M3 code to float32. */
static inline float hwc_e4m3(uint8_t code) {
    const uint32_t magnitude = code & 0x7Fu;
    union { uint32_t u; float f; } normal = {(magnitude << 20) + (120u << 23)};
    return hwc_signed(magnitude < 8u ? (float)(int)magnitude * 0x1p-9f : normal.f, (uint32_t)(code & 0x80u) << 24);
}

/* float32 to float16 bits, to nearest even; past its range, infinity. */
static inline uint16_t hwc_to_half(float value) {
    union { float f; uint32_t u; } whole = {value};
    const uint32_t sign = (whole.u >> 16) & 0x8000u;
    whole.u &= 0x7FFFFFFFu;
    if (whole.u >= 0x7F800001u) return (uint16_t)(sign | 0x7E00u);
    if (whole.u >= 0x477FF000u) return (uint16_t)(sign | 0x7C00u);
    if (whole.u < 0x38800000u) { /* a multiple of 2^-24: adding 1/2 rounds it to one */
        whole.f += 0.5f;
        return (uint16_t)(sign | (whole.u - 0x3F000000u));
    }
    const uint32_t rounded = whole.u + 0xFFFu + ((whole.u >> 13) & 1u) - (112u << 23);
    return (uint16_t)(sign | (rounded >> 13));
}

/* The int4 code at k of a row of codes, as it is stored. */
static inline int hwc_nibble(const uint8_t *row, size_t k) { return (row[k / 2] >> (4 * (k & 1))) & 0xF; }

/* The code of column n at k, as it is stored: a nibble, or a byte. */
static inline int hwc_code_at(const struct hwc_dequantise_matmul *c, int bits, size_t n, size_t k) {
    const size_t tile = n / HWC_TILE * HWC_TILE * c->row_bytes + k / 8 * 4 * HWC_TILE + n % HWC_TILE * 4;
    if (c->codes_form & HWC_CODES_TILED) return hwc_nibble(c->codes + tile, k % 8);
    return bits == 4 ? hwc_nibble(c->codes + n * c->row_bytes, k) : c->codes[n * c->row_bytes + k];
}

/* The entry of a group of column n among scales, zeros or offsets. */
static inline size_t hwc_group_at(const struct hwc_dequantise_matmul *c, size_t n, size_t group) {
    if (c->codes_form & HWC_CODES_TILED) return (n / HWC_TILE * c->groups + group) * HWC_TILE + n % HWC_TILE;
    return n * c->groups + group;
}

/* The weight of one code in its group; `code` as stored: a nibble, or a byte. */
static inline float hwc_weight(const struct hwc_dequantise_matmul *c, int code, int bits, size_t group_at) {
    const int middle = 1 << (bits - 1);
    const float scale = hwc_half(c->scales[group_at]);
    const int level = c->codes_form & HWC_CODES_SIGNED ? (code ^ middle) - middle : code - middle;
    if (c->zeros_form == HWC_ZEROS_OFFSET)
        return (float)(level + middle) * scale + hwc_half(c->offsets[group_at]);
    return (float)(level - (c->zeros_form == HWC_ZEROS_POINT ? c->zeros[group_at] : 0)) * scale;
}

#endif
