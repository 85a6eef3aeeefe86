/* Vectors of one instruction set, as far as integer dot products of int4 codes need them: L lanes of 32 bits.
 *
 * v_dot adds to each lane of `sum` products of four unsigned bytes (codes, 0..15) by four signed bytes (levels). Without
 * dot instructions sums stay in 16 bits: at most DOTS of them may go into one accumulator, for 2 * 15 * 128 * DOTS < 2^15.
 * KEPT holds such sums where they are: GCC would add in another order, with more values than registers (0.7 of the speed).
 * v_whole makes of two accumulators 256 * high + low, in 32 bits; v_single of one its sum. DOT4 tells that there are such vectors.
 */
#ifndef HWC_DOT4_H
#define HWC_DOT4_H

#include "hwc_kernels.h"

#define DOTS 8
#if defined(__x86_64__)
#define KEPT(sum) __asm__("" : "+x"(sum))
#else
#define KEPT(sum) (void)(sum)
#endif

#if defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#define DOT4 1
#define L 16
#define TILE_ROWS 8 /* rows of activations that registers have room for beside a tile, and tiles beside a row */
#define TILES 4
typedef __m512i vec;
typedef __m512 vecf;
#define v_load(p) _mm512_loadu_si512(p)
#define v_zero() _mm512_setzero_si512()
#define v_each(word) _mm512_set1_epi32(word)
#define v_bytes(byte) _mm512_set1_epi8(byte)
#define v_add(a, b) _mm512_add_epi32(a, b)
#define v_flipped(a, flip) _mm512_xor_si512(a, flip)
#define v_low(a) _mm512_and_si512(a, v_bytes(15))
#define v_high(a) v_low(_mm512_srli_epi16(a, 4))
#ifdef __AVX512VNNI__
#define v_dot(sum, codes, levels) ((sum) = _mm512_dpbusd_epi32(sum, codes, levels))
#define v_whole(high, low) _mm512_add_epi32(_mm512_slli_epi32(high, 8), low)
#define v_single(sum) (sum)
#else
#define v_dot(sum, codes, levels)                                                                                     \
    do {                                                                                                              \
        (sum) = _mm512_add_epi16(sum, _mm512_maddubs_epi16(codes, levels));                                           \
        KEPT(sum);                                                                                                    \
    } while (0)
#define v_whole(high, low)                                                                                            \
    _mm512_add_epi32(_mm512_madd_epi16(high, _mm512_set1_epi16(256)), _mm512_madd_epi16(low, _mm512_set1_epi16(1)))
#define v_single(sum) _mm512_madd_epi16(sum, _mm512_set1_epi16(1))
#endif
#define v_float(a) _mm512_cvtepi32_ps(a)
#define f_load(p) _mm512_loadu_ps(p)
#define f_store(p, a) _mm512_storeu_ps(p, a)
#define f_zero() _mm512_setzero_ps()
#define f_each(value) _mm512_set1_ps(value)
#define f_mul(a, b) _mm512_mul_ps(a, b)
#define f_fma(a, b, c) _mm512_fmadd_ps(a, b, c)
#define f_sum(a) _mm512_reduce_add_ps(a)
#define f_halves(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(p)))
#define f_bytes(p) _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p))))
#define f_spread(p, lanes)                                                                                            \
    _mm512_permutexvar_ps(                                                                                            \
        lanes, _mm512_castps256_ps512(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p)))))

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#define DOT4 1
#define L 8
#define TILE_ROWS 4
#define TILES 2
typedef __m256i vec;
typedef __m256 vecf;
#define v_load(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define v_zero() _mm256_setzero_si256()
#define v_each(word) _mm256_set1_epi32(word)
#define v_bytes(byte) _mm256_set1_epi8(byte)
#define v_add(a, b) _mm256_add_epi32(a, b)
#define v_flipped(a, flip) _mm256_xor_si256(a, flip)
#define v_low(a) _mm256_and_si256(a, v_bytes(15))
#define v_high(a) v_low(_mm256_srli_epi16(a, 4))
#ifdef __AVXVNNI__
#define v_dot(sum, codes, levels) ((sum) = _mm256_dpbusd_avx_epi32(sum, codes, levels))
#define v_whole(high, low) _mm256_add_epi32(_mm256_slli_epi32(high, 8), low)
#define v_single(sum) (sum)
#else
#define v_dot(sum, codes, levels)                                                                                     \
    do {                                                                                                              \
        (sum) = _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, levels));                                           \
        KEPT(sum);                                                                                                    \
    } while (0)
#define v_whole(high, low)                                                                                            \
    _mm256_add_epi32(_mm256_madd_epi16(high, _mm256_set1_epi16(256)), _mm256_madd_epi16(low, _mm256_set1_epi16(1)))
#define v_single(sum) _mm256_madd_epi16(sum, _mm256_set1_epi16(1))
#endif
#define v_float(a) _mm256_cvtepi32_ps(a)
#define f_load(p) _mm256_loadu_ps(p)
#define f_store(p, a) _mm256_storeu_ps(p, a)
#define f_zero() _mm256_setzero_ps()
#define f_each(value) _mm256_set1_ps(value)
#define f_mul(a, b) _mm256_mul_ps(a, b)
#define f_fma(a, b, c) _mm256_fmadd_ps(a, b, c)
#define f_halves(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define f_bytes(p) _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p))))
#define f_spread(p, lanes) _mm256_permutevar8x32_ps(f_halves(p), lanes)
static inline float f_sum(vecf a) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}

#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#define DOT4 1
#define L 4
#define TILE_ROWS 8
#define TILES 4
typedef int32x4_t vec;
typedef float32x4_t vecf;
#define v_load(p) vreinterpretq_s32_s8(vld1q_s8((const int8_t *)(const void *)(p)))
#define v_zero() vdupq_n_s32(0)
#define v_each(word) vdupq_n_s32(word)
#define v_bytes(byte) vreinterpretq_s32_s8(vdupq_n_s8(byte))
#define v_add(a, b) vaddq_s32(a, b)
#define v_flipped(a, flip) veorq_s32(a, flip)
#define v_low(a) vandq_s32(a, v_bytes(15))
#define v_high(a) vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(a), 4))
#define v_dot(sum, codes, levels) ((sum) = vdotq_s32(sum, vreinterpretq_s8_s32(codes), vreinterpretq_s8_s32(levels)))
#define v_whole(high, low) vaddq_s32(vshlq_n_s32(high, 8), low)
#define v_single(sum) (sum)
#define v_float(a) vcvtq_f32_s32(a)
#define f_load(p) vld1q_f32(p)
#define f_store(p, a) vst1q_f32(p, a)
#define f_zero() vdupq_n_f32(0.0f)
#define f_each(value) vdupq_n_f32(value)
#define f_mul(a, b) vmulq_f32(a, b)
#define f_fma(a, b, c) vfmaq_f32(c, a, b)
#define f_sum(a) vaddvq_f32(a)
#define f_halves(p) vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)(const void *)(p))))
static inline vecf f_spread(const uint16_t *p, vec lanes) {
    const float four[4] = {hwc_half(p[vgetq_lane_s32(lanes, 0)]), hwc_half(p[vgetq_lane_s32(lanes, 1)]),
                           hwc_half(p[vgetq_lane_s32(lanes, 2)]), hwc_half(p[vgetq_lane_s32(lanes, 3)])};
    return vld1q_f32(four);
}
static inline vecf f_bytes(const int8_t *p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four))))));
}
#endif
#endif
