/* FP8 products for x86-64: E4M3 weights with one scale a row by float32 activations, all in float32.
 *
 * AVX-512: an E4M3 magnitude shifted by 7 bits is a float16 of 2^-8 times its value, subnormals too, which the CPU
 * converts; 2^8 goes into the row's scale.
 */
#include "hwc_kernels.h"

#define MOST_ROWS 4

#if defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>

static inline __m512 sixteen(const uint8_t *codes, __mmask16 held) {
    const __m256i wide = _mm256_cvtepu8_epi16(_mm_maskz_loadu_epi8(held, codes));
    const __m256i magnitude = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(0x3F80));
    const __m256i sign = _mm256_and_si256(_mm256_slli_epi16(wide, 8), _mm256_set1_epi16((short)0x8000));
    return _mm512_cvtph_ps(_mm256_or_si256(magnitude, sign));
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

HWC_MATMUL_FP8(hwc_fp8) {
    size_t m = 0;
    for (; m + MOST_ROWS <= c->m; m += MOST_ROWS) columns_of(c, m, MOST_ROWS);
    for (; m < c->m; ++m) columns_of(c, m, 1);
}
#else
HWC_MATMUL_FP8(hwc_fp8) {
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
