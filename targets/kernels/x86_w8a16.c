/* W8A16 products: int8 weights in groups by float32 activations, all in float32.
 *
 * Many rows of activations are multiplied by panels (panel.h). Few: a vector of codes becomes one of floats by two
 * conversions, and a group's sum is scaled once, which keeps up with memory. Without AVX2 and F16C: portable.h.
 */
#include "few_rows.h"
#include "panel.h"
#include "portable.h"

#ifdef STEP
/* A vector of codes, less 128 where they are not signed. */
static inline lanes floats_of(const uint8_t *codes, uint32_t codes_form) {
#if STEP == 16
    const __m128i raw = _mm_loadu_si128((const __m128i *)(const void *)codes);
    if (codes_form == HWC_CODES_SIGNED) return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(raw));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_cvtepu8_epi32(raw), _mm512_set1_epi32(128)));
#else
    const __m128i raw = _mm_loadl_epi64((const __m128i *)(const void *)codes);
    if (codes_form == HWC_CODES_SIGNED) return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(raw));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_cvtepu8_epi32(raw), _mm256_set1_epi32(128)));
#endif
}

static inline __attribute__((always_inline)) void tile(const struct hwc_dequantise_matmul *c, size_t m, size_t n,
                                                       int rows, int columns) {
    lanes total[4][MOST_ROWS];
    for (int column = 0; column < columns; ++column)
        for (int row = 0; row < rows; ++row) total[column][row] = ON_LANES(setzero_ps)();
    for (size_t group = 0; group < c->groups; ++group) {
        const size_t k = group * c->group;
        for (int column = 0; column < columns; ++column) {
            const uint8_t *codes = c->codes + (n + column) * c->row_bytes + k;
            if (rows == 1) _mm_prefetch((const char *)(codes + AHEAD), _MM_HINT_T0);
            lanes sum[MOST_ROWS];
            for (int row = 0; row < rows; ++row) sum[row] = ON_LANES(setzero_ps)();
            for (size_t at = 0; at < c->group; at += STEP) {
                const lanes weights = floats_of(codes + at, c->codes_form);
                for (int row = 0; row < rows; ++row) {
                    const lanes x = ON_LANES(loadu_ps)(c->x + (m + row) * c->x_stride + k + at);
                    sum[row] = ON_LANES(fmadd_ps)(weights, x, sum[row]);
                }
            }
            const lanes scale = ON_LANES(set1_ps)(_cvtsh_ss(c->scales[(n + column) * c->groups + group]));
            for (int row = 0; row < rows; ++row)
                total[column][row] = ON_LANES(fmadd_ps)(sum[row], scale, total[column][row]);
        }
    }
    for (int column = 0; column < columns; ++column)
        for (int row = 0; row < rows; ++row)
            c->y[(m + row) * c->y_stride + n + column] = sum_of(total[column][row]);
}

static void multiply(const struct hwc_dequantise_matmul *c) {
    size_t m = 0;
#define ROWS(n, columns) tile(c, m, n, MOST_ROWS, columns)
    for (; m + MOST_ROWS <= c->m; m += MOST_ROWS) BY_COLUMNS(c->n_begin, c->n_end, COLUMNS_OF_ROWS, ROWS);
#define ROW(n, columns) tile(c, m, n, 1, columns)
    for (; m < c->m; ++m) BY_COLUMNS(c->n_begin, c->n_end, 1, ROW);
}
#define FAST(c) ((c)->group % STEP == 0 && (c)->zeros_form == HWC_ZEROS_NONE)
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
