/* W8A16 products: int8 weights in groups by float32 activations, all in float32.
 *
 * Many rows of activations are multiplied by panels (panel.h). Few: a vector of codes becomes one of floats by two
 * instructions, and a group's sum is scaled once, which keeps up with memory. Without AVX2 and F16C: portable.h.
 */
#include "few_rows.h"
#include "panel.h"
#include "portable.h"

#ifdef STEP
#if STEP == 16
#define UNIT 1.0f
#else
#define UNIT 0x1p-24f /* codes are taken as the highest bytes of integers */
#endif

/* A vector of codes, less 128 where they are not signed, by 1 / UNIT. */
static inline lanes floats_of(const uint8_t *codes, uint32_t codes_form) {
#if STEP == 16
    const __m128i raw = _mm_loadu_si128((const __m128i *)(const void *)codes);
    if (codes_form == HWC_CODES_SIGNED) return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(raw));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_cvtepu8_epi32(raw), _mm512_set1_epi32(128)));
#else
    long long raw;
    __builtin_memcpy(&raw, codes, sizeof raw);
    __m256i eight = _mm256_set1_epi64x(raw);
    if (codes_form != HWC_CODES_SIGNED) eight = _mm256_xor_si256(eight, _mm256_set1_epi8((char)0x80));
    const __m256i highest = _mm256_setr_epi8(-1, -1, -1, 0, -1, -1, -1, 1, -1, -1, -1, 2, -1, -1, -1, 3, -1, -1, -1, 4, -1,
                                             -1, -1, 5, -1, -1, -1, 6, -1, -1, -1, 7);
    return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(eight, highest));
#endif
}

#define SCALES 64 /* groups whose scales are converted together */

static inline void scales_of(const uint16_t *halves, size_t count, float *to) {
    size_t at = 0;
    for (; at + 8 <= count; at += 8) {
        const __m128i eight = _mm_loadu_si128((const __m128i *)(const void *)(halves + at));
        _mm256_storeu_ps(to + at, _mm256_mul_ps(_mm256_cvtph_ps(eight), _mm256_set1_ps(UNIT)));
    }
    for (; at < count; ++at) to[at] = _cvtsh_ss(halves[at]) * UNIT;
}

/* Columns n, n + 1, ... by one row of activations, whose values are loaded once for all of them. */
static inline __attribute__((always_inline)) void one_row(const struct hwc_dequantise_matmul *c, size_t m, size_t n,
                                                          int columns, size_t group, uint32_t form) {
    const float *x = c->x + m * c->x_stride;
    lanes total[COLUMNS_OF_A_ROW];
    float scales[COLUMNS_OF_A_ROW][SCALES];
    for (int column = 0; column < columns; ++column) total[column] = ON_LANES(setzero_ps)();
    for (size_t first = 0; first < c->groups; first += SCALES) {
        const size_t count = c->groups - first < SCALES ? c->groups - first : SCALES;
        for (int column = 0; column < columns; ++column)
            scales_of(c->scales + (n + (size_t)column) * c->groups + first, count, scales[column]);
        for (size_t at = 0; at < count; ++at) {
            const size_t k = (first + at) * group;
            lanes sum[COLUMNS_OF_A_ROW];
            for (int column = 0; column < columns; ++column) sum[column] = ON_LANES(setzero_ps)();
            for (size_t step = 0; step < group; step += STEP) {
                const lanes values = ON_LANES(loadu_ps)(x + k + step);
                for (int column = 0; column < columns; ++column) {
                    const uint8_t *codes = c->codes + (n + (size_t)column) * c->row_bytes + k + step;
                    if ((k + step) % 64 == 0) _mm_prefetch((const char *)(codes + AHEAD), _MM_HINT_T0);
                    sum[column] = ON_LANES(fmadd_ps)(floats_of(codes, form), values, sum[column]);
                }
            }
            for (int column = 0; column < columns; ++column)
                total[column] = ON_LANES(fmadd_ps)(sum[column], ON_LANES(set1_ps)(scales[column][at]), total[column]);
        }
    }
    for (int column = 0; column < columns; ++column) c->y[m * c->y_stride + n + (size_t)column] = sum_of(total[column]);
}

/* MOST_ROWS rows by two columns or one. */
static inline __attribute__((always_inline)) void some_rows(const struct hwc_dequantise_matmul *c, size_t m, size_t n,
                                                            int columns) {
    lanes total[COLUMNS_OF_ROWS][MOST_ROWS];
    for (int column = 0; column < columns; ++column)
        for (int row = 0; row < MOST_ROWS; ++row) total[column][row] = ON_LANES(setzero_ps)();
    for (size_t group = 0; group < c->groups; ++group) {
        const size_t k = group * c->group;
        for (int column = 0; column < columns; ++column) {
            const uint8_t *codes = c->codes + (n + column) * c->row_bytes + k;
            lanes sum[MOST_ROWS];
            for (int row = 0; row < MOST_ROWS; ++row) sum[row] = ON_LANES(setzero_ps)();
            for (size_t at = 0; at < c->group; at += STEP) {
                const lanes weights = floats_of(codes + at, c->codes_form);
                for (int row = 0; row < MOST_ROWS; ++row) {
                    const lanes x = ON_LANES(loadu_ps)(c->x + (m + row) * c->x_stride + k + at);
                    sum[row] = ON_LANES(fmadd_ps)(weights, x, sum[row]);
                }
            }
            const lanes scale = ON_LANES(set1_ps)(_cvtsh_ss(c->scales[(n + column) * c->groups + group]) * UNIT);
            for (int row = 0; row < MOST_ROWS; ++row)
                total[column][row] = ON_LANES(fmadd_ps)(sum[row], scale, total[column][row]);
        }
    }
    for (int column = 0; column < columns; ++column)
        for (int row = 0; row < MOST_ROWS; ++row)
            c->y[(m + row) * c->y_stride + n + column] = sum_of(total[column][row]);
}

static void multiply(const struct hwc_dequantise_matmul *c) {
    size_t m = 0;
#define ROWS(n, columns) some_rows(c, m, n, columns)
    for (; m + MOST_ROWS <= c->m; m += MOST_ROWS) BY_COLUMNS(c->n_begin, c->n_end, COLUMNS_OF_ROWS, ROWS);
#define USUAL_ROW(n, columns) one_row(c, m, n, columns, 32, HWC_CODES_SIGNED)
#define ROW(n, columns) one_row(c, m, n, columns, c->group, c->codes_form)
    for (; m < c->m; ++m)
        if (c->group == 32 && c->codes_form == HWC_CODES_SIGNED)
            BY_COLUMNS(c->n_begin, c->n_end, COLUMNS_OF_A_ROW, USUAL_ROW);
        else BY_COLUMNS(c->n_begin, c->n_end, COLUMNS_OF_A_ROW, ROW);
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
