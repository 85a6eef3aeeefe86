/* W8A16 products: int8 weights in groups by float32 activations, all in float32.
 *
 * Many rows of activations are multiplied by panels (panel.h). Few: on AVX-512, 16 codes become 16 floats by two conversions; a group's sum is scaled once. Without it: portable.h.
 */
#include "panel.h"
#include "portable.h"

#define MOST_ROWS 4

#if defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>

static inline __m512 sixteen(const uint8_t *codes, uint32_t codes_form) {
    const __m128i raw = _mm_loadu_si128((const __m128i *)(const void *)codes);
    if (codes_form == HWC_CODES_SIGNED) return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(raw));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_cvtepu8_epi32(raw), _mm512_set1_epi32(128)));
}

static inline __attribute__((always_inline)) void tile(const struct hwc_dequantise_matmul *c, size_t m, size_t n,
                                                       int rows, int columns) {
    __m512 total[4][MOST_ROWS];
    for (int column = 0; column < columns; ++column)
        for (int row = 0; row < rows; ++row) total[column][row] = _mm512_setzero_ps();
    for (size_t group = 0; group < c->groups; ++group) {
        const size_t k = group * c->group;
        for (int column = 0; column < columns; ++column) {
            const uint8_t *codes = c->codes + (n + column) * c->row_bytes + k;
            __m512 sum[MOST_ROWS];
            for (int row = 0; row < rows; ++row) sum[row] = _mm512_setzero_ps();
            for (size_t at = 0; at < c->group; at += 16) {
                const __m512 weights = sixteen(codes + at, c->codes_form);
                for (int row = 0; row < rows; ++row)
                    sum[row] = _mm512_fmadd_ps(weights, _mm512_loadu_ps(c->x + (m + row) * c->x_stride + k + at), sum[row]);
            }
            const __m512 scale = _mm512_set1_ps(_cvtsh_ss(c->scales[(n + column) * c->groups + group]));
            for (int row = 0; row < rows; ++row)
                total[column][row] = _mm512_fmadd_ps(sum[row], scale, total[column][row]);
        }
    }
    for (int column = 0; column < columns; ++column)
        for (int row = 0; row < rows; ++row)
            c->y[(m + row) * c->y_stride + n + column] = _mm512_reduce_add_ps(total[column][row]);
}

static inline __attribute__((always_inline)) void columns_of(const struct hwc_dequantise_matmul *c, size_t m, int rows) {
    const size_t whole = c->n_begin + (c->n_end - c->n_begin) / 4 * 4;
    for (size_t n = c->n_begin; n < whole; n += 4) tile(c, m, n, rows, 4);
    for (size_t n = whole; n < c->n_end; ++n) tile(c, m, n, rows, 1);
}

static void multiply(const struct hwc_dequantise_matmul *c) {
    size_t m = 0;
    for (; m + MOST_ROWS <= c->m; m += MOST_ROWS) columns_of(c, m, MOST_ROWS);
    for (; m < c->m; ++m) columns_of(c, m, 1);
}
#define FAST(c) ((c)->group % 16 == 0 && (c)->zeros_form == HWC_ZEROS_NONE)
#else
static inline void multiply(const struct hwc_dequantise_matmul *c) { (void)c; }
#define FAST(c) 0
#endif

/* What makes weights of the codes of one group: weight = code * scale + added. */
typedef struct {
    float scales[PANEL_COLUMNS], added[PANEL_COLUMNS];
} panel_group;

static void group_of(const struct hwc_dequantise_matmul *c, size_t n, size_t group, panel_group *out) {
    for (size_t column = 0; column < PANEL_COLUMNS; ++column) {
        const size_t at = (n + column < c->n_end ? n + column : n) * c->groups + group;
        const float scale = hwc_half(c->scales[at]), middle = c->codes_form == HWC_CODES_SIGNED ? 0.0f : -128.0f;
        out->scales[column] = scale;
        out->added[column] = middle * scale + added_of(c, 8, at, scale);
    }
}

static inline void int8_lanes(const uint8_t *codes, uint32_t codes_form, const float *scales, const float *added,
                              float *to) {
    typedef uint8_t bytes __attribute__((vector_size(PANEL_LANES), aligned(1), may_alias));
    typedef int8_t signed_bytes __attribute__((vector_size(PANEL_LANES), aligned(1), may_alias));
    const panel_lanes level = codes_form == HWC_CODES_SIGNED
                                  ? __builtin_convertvector(*(const signed_bytes *)codes, panel_lanes)
                                  : __builtin_convertvector(*(const bytes *)codes, panel_lanes);
    *(panel_lanes *)to = level * *(const panel_lanes *)scales + *(const panel_lanes *)added;
}

static void decode(const void *kernel, size_t n, size_t k, size_t count, float *panel) {
    const struct hwc_dequantise_matmul *c = kernel;
    const size_t held = c->n_end - n < PANEL_COLUMNS ? c->n_end - n : PANEL_COLUMNS;
    uint8_t codes[PANEL_K * PANEL_COLUMNS];
    panel_group group;
    panel_bytes(c->codes + n * c->row_bytes + k, c->row_bytes, held, count, codes);
    for (size_t at = 0; at < count; ++at) {
        if (at == 0 || (k + at) % c->group == 0) group_of(c, n, (k + at) / c->group, &group);
        for (size_t first = 0; first < PANEL_COLUMNS; first += PANEL_LANES) {
            const size_t place = at * PANEL_COLUMNS + first;
            int8_lanes(codes + place, c->codes_form, group.scales + first, group.added + first, panel + place);
        }
    }
}

static void many(const struct hwc_dequantise_matmul *c) {
    const panel_task task = {.x = c->x, .y = c->y, .m = c->m, .k = c->k, .x_stride = c->x_stride, .y_stride = c->y_stride,
                             .n_begin = c->n_begin, .n_end = c->n_end};
    panel_product(&task, c, decode);
}

HWC_DEQUANTISE_MATMUL_INT8(hwc_w8a16) {
    if (c->m >= PANEL_FEWEST) many(c);
    else if (FAST(c)) multiply(c);
    else portable_product(c, 8);
}
