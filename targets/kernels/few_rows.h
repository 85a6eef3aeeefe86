/* What products of few rows of activations share, k in the lanes: a vector of codes becomes one of floats, which serves all
 * rows. Needs AVX-512, or AVX2 with FMA and F16C; without them STEP, the floats of a vector, is not defined. */
#ifndef HWC_FEW_ROWS_H
#define HWC_FEW_ROWS_H

#include <stddef.h>

#define MOST_ROWS 4
#define COLUMNS_OF_A_ROW 4 /* beside each other, of one row of activations */
#define AHEAD 4096 /* bytes: codes are asked for that early; one row of activations waits for memory and nothing else */

#if defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#define STEP 16
#define COLUMNS_OF_ROWS 4 /* beside each other, of MOST_ROWS rows: their sums stay in registers */
#define ON_LANES(name) _mm512_##name
typedef __m512 lanes;

static inline float sum_of(lanes sums) { return _mm512_reduce_add_ps(sums); }
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#define STEP 8
#define COLUMNS_OF_ROWS 2
#define ON_LANES(name) _mm256_##name
typedef __m256 lanes;

static inline float sum_of(lanes sums) {
    const __m128 half = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
    const __m128 quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}
#endif

/* CALL(column, how many) for every column from begin to end: `together` at a time, then one by one. */
#define BY_COLUMNS(begin, end, together, CALL)                                                      \
    do {                                                                                            \
        const size_t whole = (begin) + ((end) - (begin)) / (together) * (together);                 \
        for (size_t column = (begin); column < whole; column += (together)) CALL(column, together); \
        for (size_t column = whole; column < (end); ++column) CALL(column, 1);                      \
    } while (0)

#endif
