/* Activations as block floating point: 32 of a row share a scale, and are levels of 16 bits in a high and a low byte.
 *
 * A level is wrong by at most 2^-16 of the largest of its 32: less than bfloat16 is of each. Values under 2^-116 are 0. An
 * infinity or NaN makes the scale NaN, and so every result of its row.
 */
#ifndef HWC_BLOCKS_H
#define HWC_BLOCKS_H

#include "dot4.h"

#define BLOCK 32
#define STEP (8 * L)       /* k of one vector of codes: lane i has k = 8 i ... 8 i + 7 */
#define ROOM 16384         /* values kept: 8 rows of 2048 or 16 of 1024 */
#define MOST_ROWS 16
#define MOST_LEVEL 32639.0f /* its high byte is 127 and its low byte too */

typedef union { float f; int32_t i; } __attribute__((may_alias)) word;
typedef int32_t four_bytes __attribute__((may_alias));

/* How levels lie. */
enum order {
    BY_VECTOR, /* by step: a vector of the high bytes of even k, one of odd k, then those of the low bytes */
    BY_EIGHT   /* by eight k, for `together` rows: four high bytes of even k, four of odd k, then the low bytes */
};

/* Rows of activations, `k` of each, a multiple of STEP. Row r's sums and scales begin at r * k / 8. */
typedef struct {
    size_t k;
    size_t summed; /* 1, 2 or 4; the sum stands at each of these eights */
    int8_t levels[2 * ROOM] __attribute__((aligned(64)));
    int32_t sums[ROOM / 8]; /* of `summed` eights of levels, times -8: what codes from 0 instead of -8 have too much */
    float scales[ROOM / 8]; /* equal for the four of a block */
} row_blocks;

/* Write the scale of 32 values four times, and return what makes levels of them. */
static inline float scale_of(const word *values, float *scales) {
    int32_t most = 27 << 23; /* 2^-100 */
    for (int at = 0; at < BLOCK; ++at) {
        const int32_t size = values[at].i & 0x7FFFFFFF;
        most = size > most ? size : most;
    }
    const word largest = {.i = most};
    const int finite = most < 0x7F800000;
    for (int at = 0; at < BLOCK / 8; ++at) scales[at] = finite ? largest.f * (1.0f / MOST_LEVEL) : __builtin_nanf("");
    return finite ? MOST_LEVEL / largest.f : 0.0f;
}

/* The bytes of eight levels, in the order of BY_EIGHT. */
static inline void split(const int16_t *level, int8_t *to) {
    int16_t both[8]; /* high byte: the high byte rounded, low byte: what is left, signed */
    for (int at = 0; at < 8; ++at) both[at] = (int16_t)(((level[at] + 128) & ~255) | (level[at] & 255));
    typedef int8_t bytes __attribute__((vector_size(16)));
    bytes whole;
    __builtin_memcpy(&whole, both, 16);
    whole = __builtin_shufflevector(whole, whole, 1, 5, 9, 13, 3, 7, 11, 15, 0, 4, 8, 12, 2, 6, 10, 14);
    __builtin_memcpy(to, &whole, 16);
}

/* Levels of 32 values. */
static inline void block_levels(const word *values, float inverse, int16_t *level) {
    for (int at = 0; at < BLOCK; ++at) { /* to nearest even, by the lowest bits of 1.5 * 2^23 and a level */
        const word rounded = {.f = values[at].f * inverse + 12582912.0f};
        level[at] = (int16_t)(rounded.i - 0x4B400000);
    }
}

/* Write the sums of 32 levels. */
static inline void sums_of(const int16_t *level, size_t summed, int32_t *sums) {
    if (summed == BLOCK / 8) {
        int32_t sum = 0;
        for (size_t at = 0; at < BLOCK; ++at) sum += level[at];
        for (size_t eight = 0; eight < BLOCK / 8; ++eight) sums[eight] = -8 * sum;
        return;
    }
    for (size_t eight = 0; eight < BLOCK / 8; ++eight) {
        const size_t first = eight / summed * summed;
        int32_t sum = 0;
        for (size_t at = 8 * first; at < 8 * (first + summed); ++at) sum += level[at];
        sums[eight] = -8 * sum;
    }
}

/* Blocks of `count` values as row `first + one` of `together` rows from `first` on; the rest of the last step is 0. */
static void block_row(const float *x, size_t count, row_blocks *out, enum order order, size_t first, size_t one,
                      size_t together) {
    int32_t *sums = out->sums + (first + one) * out->k / 8;
    float *scales = out->scales + (first + one) * out->k / 8;
    int8_t *levels = out->levels + first * out->k * 2;
    for (size_t k = 0; k < out->k; k += BLOCK) {
        word rest[BLOCK];
        int16_t level[BLOCK];
        for (size_t at = 0; k + BLOCK > count && at < BLOCK; ++at) rest[at].f = k + at < count ? x[k + at] : 0.0f;
        /* Not copied: vectors that are wider than a copy's parts would wait for them. */
        const word *values = k + BLOCK > count ? rest : (const word *)(const void *)(x + k);
        block_levels(values, scale_of(values, scales + k / 8), level);
        sums_of(level, out->summed, sums + k / 8);
        for (size_t eight = k / 8; eight < k / 8 + BLOCK / 8; ++eight) {
            int8_t kinds[16];
            if (order == BY_EIGHT) {
                split(level + (eight * 8 - k), levels + (eight * together + one) * 16);
                continue;
            }
            split(level + (eight * 8 - k), kinds);
            for (size_t kind = 0; kind < 4; ++kind)
                __builtin_memcpy(levels + eight / L * 16 * L + kind * 4 * L + eight % L * 4, kinds + kind * 4, 4);
        }
    }
}
#endif
