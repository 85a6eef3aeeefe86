/* FP8 products: E4M3 weights with one scale a row by float32 activations, all in float32.
 *
 * Few rows of activations are multiplied as the codes lie, k in the lanes; many by panels (panel.h).
 * AVX-512: an E4M3 magnitude shifted by 7 bits is a float16 of 2^-8 times its value, subnormals too, which the CPU
 * converts; 2^8 goes into the row's scale.
 */
#include "hwc_kernels.h"
#include "panel.h"

#define MOST_ROWS 4

#if defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>

static inline __m512 sixteen(const uint8_t *codes, __mmask16 held) {
    const __m256i wide = _mm256_cvtepu8_epi16(_mm_maskz_loadu_epi8(held, codes));
    const __m256i magnitude = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(0x3F80));
    const __m256i sign = _mm256_and_si256(_mm256_slli_epi16(wide, 8), _mm256_set1_epi16((short)0x8000));
    return _mm512_cvtph_ps(_mm256_or_si256(magnitude, sign));
}

/* Sixteen codes by their scales. */
static inline void e4m3_lanes(const uint8_t *codes, const float *scales, float *to) {
    const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(scales), _mm512_set1_ps(256.0f));
    _mm512_storeu_ps(to, _mm512_mul_ps(sixteen(codes, 0xFFFF), scaled));
}

static inline __attribute__((always_inline)) void tile(const struct hwc_matmul_fp8 *c, size_t m, size_t n, int rows,
                                                       int columns) {
    __m512 total[4][MOST_ROWS];
    for (int column = 0; column < columns; ++column)
        for (int row = 0; row < rows; ++row) total[column][row] = _mm512_setzero_ps();
    for (size_t k = 0; k < c->k; k += 16) {
        const __mmask16 held = c->k - k >= 16 ? 0xFFFF : (__mmask16)((1u << (c->k - k)) - 1);
        for (int column = 0; column < columns; ++column) {
            const __m512 weights = sixteen(c->codes + (n + column) * c->k + k, held);
            for (int row = 0; row < rows; ++row) {
                const __m512 x = _mm512_maskz_loadu_ps(held, c->x + (m + row) * c->x_stride + k);
                total[column][row] = _mm512_fmadd_ps(weights, x, total[column][row]);
            }
        }
    }
    for (int column = 0; column < columns; ++column)
        for (int row = 0; row < rows; ++row)
            c->y[(m + row) * c->y_stride + n + column] =
                _mm512_reduce_add_ps(total[column][row]) * (256.0f * c->scales[n + column]);
}

static inline __attribute__((always_inline)) void columns_of(const struct hwc_matmul_fp8 *c, size_t m, int rows) {
    const size_t whole = c->n_begin + (c->n_end - c->n_begin) / 4 * 4;
    for (size_t n = c->n_begin; n < whole; n += 4) tile(c, m, n, rows, 4);
    for (size_t n = whole; n < c->n_end; ++n) tile(c, m, n, rows, 1);
}

static void few(const struct hwc_matmul_fp8 *c) {
    size_t m = 0;
    for (; m + MOST_ROWS <= c->m; m += MOST_ROWS) columns_of(c, m, MOST_ROWS);
    for (; m < c->m; ++m) columns_of(c, m, 1);
}
#else
/* Sixteen codes by their scales. Subnormal codes are made from integers: as float32 they would be flushed to zero. */
static inline void e4m3_lanes(const uint8_t *codes, const float *scales, float *to) {
    typedef uint8_t bytes __attribute__((vector_size(PANEL_LANES), aligned(1), may_alias));
    typedef int32_t words __attribute__((vector_size(4 * PANEL_LANES), may_alias));
    const words code = __builtin_convertvector(*(const bytes *)codes, words), magnitude = code & 0x7F;
    const words small = (words)(__builtin_convertvector(magnitude, panel_lanes) * 0x1p-9f);
    const words large = (magnitude << 20) + (120 << 23);
    const words is_small = magnitude < 8, value = (is_small & small) | (~is_small & large) | ((code & 0x80) << 24);
    *(panel_lanes *)to = (panel_lanes)value * *(const panel_lanes *)scales;
}

static void few(const struct hwc_matmul_fp8 *c) {
    for (size_t m = 0; m < c->m; ++m) {
        for (size_t n = c->n_begin; n < c->n_end; ++n) {
            const float *x = c->x + m * c->x_stride;
            float sum = 0.0f;
            for (size_t k = 0; k < c->k; ++k) sum += x[k] * hwc_e4m3(c->codes[n * c->k + k]);
            c->y[m * c->y_stride + n] = sum * c->scales[n];
        }
    }
}
#endif

static void decode(const void *kernel, size_t n, size_t k, size_t count, float *panel) {
    const struct hwc_matmul_fp8 *c = kernel;
    const size_t held = c->n_end - n < PANEL_COLUMNS ? c->n_end - n : PANEL_COLUMNS;
    uint8_t codes[PANEL_K * PANEL_COLUMNS];
    float scales[PANEL_COLUMNS];
    for (size_t column = 0; column < PANEL_COLUMNS; ++column) scales[column] = column < held ? c->scales[n + column] : 0;
    panel_bytes(c->codes + n * c->k + k, c->k, held, count, codes);
    for (size_t at = 0; at < count; ++at)
        for (size_t first = 0; first < PANEL_COLUMNS; first += PANEL_LANES)
            e4m3_lanes(codes + at * PANEL_COLUMNS + first, scales + first, panel + at * PANEL_COLUMNS + first);
}

static void many(const struct hwc_matmul_fp8 *c) {
    const panel_task task = {.x = c->x, .y = c->y, .m = c->m, .k = c->k, .x_stride = c->x_stride, .y_stride = c->y_stride,
                             .n_begin = c->n_begin, .n_end = c->n_end};
    panel_product(&task, c, decode);
}

HWC_MATMUL_FP8(hwc_fp8) {
    if (c->m < PANEL_FEWEST) few(c);
    else many(c);
}
