/* Rows of activations as levels (levels.h), in a high and a low byte where there are two planes, laid for dot products. */
#ifndef HWC_BLOCKS_H
#define HWC_BLOCKS_H

#include "dot4.h"
#include "levels.h"

#define STEP (8 * L)       /* k of one vector of codes: lane i has k = 8 i ... 8 i + 7 */
#define ROOM 16384         /* values kept: 8 rows of 2048 or 16 of 1024 */
#define MOST_ROWS 16

typedef int32_t four_bytes __attribute__((may_alias));

/* How levels lie. */
enum order {
    BY_VECTOR, /* by step: a vector of the high bytes of even k, one of odd k, then those of any low bytes */
    BY_EIGHT   /* by eight k, for `together` rows: four high bytes of even k, four of odd k, then any low bytes */
};

/* Rows of activations, `k` of each, a multiple of STEP. Row r's sums and scales begin at r * k / 8. */
typedef struct {
    size_t k;
    size_t summed; /* 1, 2 or 4; the sum stands at each of these eights */
    int8_t levels[PLANES * ROOM] __attribute__((aligned(64)));
    int32_t sums[ROOM / 8]; /* of `summed` eights of levels, times -8: what codes from 0 instead of -8 have too much */
    float scales[ROOM / 8]; /* equal for the four of a block */
} row_blocks;

/* The bytes of eight levels, in the order of BY_EIGHT. */
static inline void split(const int16_t *level, int8_t *to) {
    typedef int8_t bytes __attribute__((vector_size(16)));
#if PLANES == 1
    bytes one;
    __builtin_memcpy(&one, level, 16);
    one = __builtin_shufflevector(one, one, 0, 4, 8, 12, 2, 6, 10, 14, 0, 4, 8, 12, 2, 6, 10, 14);
    __builtin_memcpy(to, &one, 8);
#else
    int16_t both[8]; /* high byte: the high byte rounded, low byte: what is left, signed */
    for (int at = 0; at < 8; ++at) both[at] = (int16_t)(((level[at] + 128) & ~255) | (level[at] & 255));
    bytes whole;
    __builtin_memcpy(&whole, both, 16);
    whole = __builtin_shufflevector(whole, whole, 1, 5, 9, 13, 3, 7, 11, 15, 0, 4, 8, 12, 2, 6, 10, 14);
    __builtin_memcpy(to, &whole, 16);
#endif
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
    int8_t *levels = out->levels + first * out->k * PLANES;
    for (size_t k = 0; k < out->k; k += BLOCK) {
        word rest[BLOCK];
        int16_t level[BLOCK];
        const word *values = block_values(x + k, k < count ? count - k : 0, rest);
        block_levels(values, scale_of(values, scales + k / 8), level);
        sums_of(level, out->summed, sums + k / 8);
        for (size_t eight = k / 8; eight < k / 8 + BLOCK / 8; ++eight) {
            int8_t kinds[8 * PLANES];
            if (order == BY_EIGHT) {
                split(level + (eight * 8 - k), levels + (eight * together + one) * 8 * PLANES);
                continue;
            }
            split(level + (eight * 8 - k), kinds);
            for (size_t kind = 0; kind < 2 * PLANES; ++kind)
                __builtin_memcpy(levels + eight / L * 8 * PLANES * L + kind * 4 * L + eight % L * 4, kinds + kind * 4, 4);
        }
    }
}
#endif
