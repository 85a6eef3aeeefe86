/* W4A16 products for x86-64: int4 weights in groups by float32 activations.
 *
 * AVX-512 BF16: a code's nibble is looked up as a bfloat16, exactly; an activation is the sum of two bfloat16, which keeps
 * 16 bits of its mantissa; products are exact, and summed in float32. One load of 64 bytes holds 128 weights of a row; in
 * each 16-bit word of it lie four consecutive k, so that activations are kept by k % 4.
 * Without it: portable.h.
 */
#include "portable.h"

#define CHUNK 1024 /* k at a time: what is kept of 8 rows of activations fits a first-level cache */
#define BLOCK 128
#define MOST_ROWS 8

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>

/* Activations of one chunk: by block, high halves of k % 4 = 0..3, then low halves, 32 bfloat16 each. */
typedef struct {
    uint16_t halves[CHUNK / BLOCK][8][32];
} row_chunk;

static inline uint32_t bits_of(float value) { union { float f; uint32_t u; } whole = {value}; return whole.u; }
static inline float float_of(uint32_t bits) { union { uint32_t u; float f; } whole = {bits}; return whole.f; }

static void split_row(const float *x, size_t count, row_chunk *out) {
    for (size_t block = 0; block * BLOCK < count; ++block) {
        for (size_t word = 0; word < 32; ++word) {
            for (size_t part = 0; part < 4; ++part) {
                const size_t k = block * BLOCK + 4 * word + part;
                const float value = k < count ? x[k] : 0.0f;
                const uint32_t high = (bits_of(value) + 0x7FFFu + ((bits_of(value) >> 16) & 1u)) & 0xFFFF0000u;
                const uint32_t low = bits_of(value - float_of(high));
                out->halves[block][part][word] = (uint16_t)(high >> 16);
                out->halves[block][4 + part][word] = (uint16_t)((low + 0x7FFFu + ((low >> 16) & 1u)) >> 16);
            }
        }
    }
}

/* bfloat16 of a code as it is stored, by its low four bits; the table is there twice, as five bits are looked at. */
static inline __m512i table_of(uint32_t codes_form) {
    uint16_t table[32];
    for (int at = 0; at < 32; ++at) {
        const int code = at & 15;
        const float value = (float)(codes_form == HWC_CODES_SIGNED ? (code ^ 8) - 8 : code - 8);
        table[at] = (uint16_t)(bits_of(value) >> 16);
    }
    return _mm512_loadu_si512(table);
}

/* Scales of the four 32s of a block, each in its four lanes; `left` weights of the row are in the block. */
static inline __m512 scales_of(const uint16_t *scales, size_t group, size_t k, size_t left) {
    uint16_t four[4] = {0, 0, 0, 0};
    if (group == 32 && left >= BLOCK) {
        __builtin_memcpy(four, scales + k / 32, 8);
    } else {
        for (size_t at = 0; at < 4 && at * 32 < left; ++at) four[at] = scales[(k + at * 32) / group];
    }
    uint64_t whole;
    __builtin_memcpy(&whole, four, 8);
    const __m128 wide = _mm_cvtph_ps(_mm_cvtsi64_si128((long long)whole));
    const __m512i lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return _mm512_permutexvar_ps(lanes, _mm512_castps128_ps512(wide));
}

#define DOT(sum, halves, words) _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(halves), (__m512bh)(words))

/* Add a chunk's part of `columns` results from column n on, of `rows` rows of activations. */
static inline __attribute__((always_inline)) void tile(const struct hwc_dequantise_matmul *c, const row_chunk *x,
                                                       __m512i table, size_t m, size_t n, size_t begin, size_t end,
                                                       int rows, int columns) {
    __m512 total[4][MOST_ROWS];
    for (int column = 0; column < columns; ++column)
        for (int row = 0; row < rows; ++row) total[column][row] = _mm512_setzero_ps();
    for (size_t k = begin; k < end; k += BLOCK) {
        const size_t left = end - k;
        const __mmask64 held = left >= BLOCK ? ~0ull : (1ull << (left / 2)) - 1;
        for (int column = 0; column < columns; ++column) {
            const uint8_t *codes = c->codes + (n + column) * c->row_bytes + k / 2;
            const __m512i words = _mm512_maskz_loadu_epi8(held, codes);
            const __m512i part[4] = {
                _mm512_permutexvar_epi16(words, table), _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4), table),
                _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 8), table),
                _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 12), table)};
            const __m512 scale = scales_of(c->scales + (n + column) * c->groups, c->group, k, left);
            for (int row = 0; row < rows; ++row) {
                const uint16_t(*halves)[32] = x[row].halves[(k - begin) / BLOCK];
                __m512 high = _mm512_setzero_ps(), low = _mm512_setzero_ps();
                for (int at = 0; at < 4; ++at) {
                    high = DOT(high, halves[at], part[at]);
                    low = DOT(low, halves[4 + at], part[at]);
                }
                total[column][row] = _mm512_fmadd_ps(_mm512_add_ps(high, low), scale, total[column][row]);
            }
        }
    }
    for (int column = 0; column < columns; ++column)
        for (int row = 0; row < rows; ++row) {
            float *y = c->y + (m + row) * c->y_stride + n + column;
            *y = (begin ? *y : 0.0f) + _mm512_reduce_add_ps(total[column][row]);
        }
}

static inline __attribute__((always_inline)) void columns_of(const struct hwc_dequantise_matmul *c, const row_chunk *x,
                                                             __m512i table, size_t m, size_t begin, size_t end,
                                                             int rows) {
    const size_t whole = c->n_begin + (c->n_end - c->n_begin) / 4 * 4;
    for (size_t n = c->n_begin; n < whole; n += 4) tile(c, x, table, m, n, begin, end, rows, 4);
    for (size_t n = whole; n < c->n_end; ++n) tile(c, x, table, m, n, begin, end, rows, 1);
}

/* Add what zero points or offsets make of the sums of activations by group. */
static void correct(const struct hwc_dequantise_matmul *c, size_t m) {
    for (size_t from = 0; from < c->groups; from += CHUNK / 32) {
        const size_t count = c->groups - from < CHUNK / 32 ? c->groups - from : CHUNK / 32;
        float sums[CHUNK / 32];
        for (size_t at = 0; at < count; ++at) {
            const float *x = c->x + m * c->x_stride + (from + at) * c->group;
            sums[at] = 0.0f;
            for (size_t k = 0; k < c->group; ++k) sums[at] += x[k];
        }
        for (size_t n = c->n_begin; n < c->n_end; ++n) {
            float added = 0.0f;
            for (size_t at = 0; at < count; ++at) {
                const size_t group = n * c->groups + from + at;
                const float scale = hwc_half(c->scales[group]);
                const float each = c->zeros_form == HWC_ZEROS_POINT ? -(float)c->zeros[group] * scale
                                                                    : 8.0f * scale + hwc_half(c->offsets[group]);
                added += each * sums[at];
            }
            c->y[m * c->y_stride + n] += added;
        }
    }
}

static void multiply(const struct hwc_dequantise_matmul *c) {
    row_chunk x[MOST_ROWS];
    const __m512i table = table_of(c->codes_form);
    for (size_t m = 0; m < c->m;) {
        const size_t left = c->m - m, rows = left >= MOST_ROWS ? MOST_ROWS : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        for (size_t begin = 0; begin < c->k; begin += CHUNK) {
            const size_t end = begin + CHUNK < c->k ? begin + CHUNK : c->k;
            for (size_t row = 0; row < rows; ++row)
                split_row(c->x + (m + row) * c->x_stride + begin, end - begin, &x[row]);
            if (rows == MOST_ROWS) columns_of(c, x, table, m, begin, end, MOST_ROWS);
            else if (rows == 4) columns_of(c, x, table, m, begin, end, 4);
            else if (rows == 2) columns_of(c, x, table, m, begin, end, 2);
            else columns_of(c, x, table, m, begin, end, 1);
        }
        m += rows;
    }
    if (c->zeros_form != HWC_ZEROS_NONE)
        for (size_t m = 0; m < c->m; ++m) correct(c, m);
}
#define FAST(c) ((c)->group % 32 == 0)
#else
static inline void multiply(const struct hwc_dequantise_matmul *c) { (void)c; }
#define FAST(c) 0
#endif

HWC_DEQUANTISE_MATMUL_INT4(hwc_w4a16) {
    if (FAST(c)) multiply(c);
    else portable_product(c, 4);
}
