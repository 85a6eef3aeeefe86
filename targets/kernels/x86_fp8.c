/* FP8 products: E4M3 weights with one scale a row by float32 activations, all in float32.
 *
 * Few rows of activations are multiplied as the codes lie, k in the lanes; many by panels (panel.h).
 * With F16C an E4M3 magnitude shifted by 7 bits is a float16 of 2^-8 times its value, subnormals too, which the CPU
 * converts; 2^8 goes into the row's scale.
 */
#include "few_rows.h"
#include "hwc_kernels.h"
#include "panel.h"

#ifdef STEP
/* A vector of codes, by 2^-8. */
static inline lanes floats_of(const uint8_t *codes) {
#if STEP == 16
    const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)codes));
    const __m256i magnitude = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(0x3F80));
    const __m256i sign = _mm256_and_si256(_mm256_slli_epi16(wide, 8), _mm256_set1_epi16((short)0x8000));
    return _mm512_cvtph_ps(_mm256_or_si256(magnitude, sign));
#else
    const __m128i high = _mm_unpacklo_epi8(_mm_setzero_si128(), _mm_loadl_epi64((const __m128i *)(const void *)codes));
    return _mm256_cvtph_ps(_mm_and_si128(_mm_srai_epi16(high, 1), _mm_set1_epi16((short)0xBFFF))); /* one sign of two */
#endif
}

/* Codes of a panel's lanes by their scales. A CPU with AVX-512F alone has panels of more lanes than our vectors. */
static inline void e4m3_lanes(const uint8_t *codes, const float *scales, float *to) {
    for (size_t at = 0; at < PANEL_LANES; at += STEP) {
        const lanes scaled = ON_LANES(mul_ps)(ON_LANES(loadu_ps)(scales + at), ON_LANES(set1_ps)(256.0f));
        ON_LANES(storeu_ps)(to + at, ON_LANES(mul_ps)(floats_of(codes + at), scaled));
    }
}

static inline __attribute__((always_inline)) void tile(const struct hwc_matmul_fp8 *c, size_t m, size_t n, int rows,
                                                       int columns) {
    const size_t whole = c->k / STEP * STEP;
    lanes total[COLUMNS_OF_A_ROW][MOST_ROWS];
    for (int column = 0; column < columns; ++column)
        for (int row = 0; row < rows; ++row) total[column][row] = ON_LANES(setzero_ps)();
    for (size_t k = 0; k < whole; k += STEP) {
        for (int column = 0; column < columns; ++column) {
            const uint8_t *codes = c->codes + (n + column) * c->k + k;
            if (rows == 1 && k % 64 == 0) _mm_prefetch((const char *)(codes + AHEAD), _MM_HINT_T0);
            const lanes weights = floats_of(codes);
            for (int row = 0; row < rows; ++row) {
                const lanes x = ON_LANES(loadu_ps)(c->x + (m + row) * c->x_stride + k);
                total[column][row] = ON_LANES(fmadd_ps)(weights, x, total[column][row]);
            }
        }
    }
    for (int column = 0; column < columns; ++column)
        for (int row = 0; row < rows; ++row) {
            float sum = sum_of(total[column][row]) * 256.0f;
            for (size_t k = whole; k < c->k; ++k)
                sum += c->x[(m + row) * c->x_stride + k] * hwc_e4m3(c->codes[(n + column) * c->k + k]);
            c->y[(m + row) * c->y_stride + n + column] = sum * c->scales[n + column];
        }
}

static void few(const struct hwc_matmul_fp8 *c) {
    size_t m = 0;
#define ROWS(n, columns) tile(c, m, n, MOST_ROWS, columns)
    for (; m + MOST_ROWS <= c->m; m += MOST_ROWS) BY_COLUMNS(c->n_begin, c->n_end, COLUMNS_OF_ROWS, ROWS);
#define ROW(n, columns) tile(c, m, n, 1, columns)
    for (; m < c->m; ++m) BY_COLUMNS(c->n_begin, c->n_end, COLUMNS_OF_A_ROW, ROW);
}
#else
/* A vector of codes by their scales. Subnormal codes are made from integers: as float32 they would be flushed to zero. */
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
