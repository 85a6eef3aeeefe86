/* Levels of activations: 32 of a row share a float32 scale, and are integers of PLANES bytes, to nearest even.
 *
 * With two planes a level is wrong by at most 2^-16 of the largest of its 32: less than bfloat16 is of each. With one it is
 * what `hwc.quantise.int8_activations` writes in ONNX, operation for operation: never let the compiler fuse two of them. A
 * block whose largest is under 2^-100 counts as that large. An infinity or NaN makes the scale NaN, and so every result of
 * its row.
 */
#ifndef HWC_LEVELS_H
#define HWC_LEVELS_H

#include "hwc_kernels.h"

#define BLOCK 32
#if PLANES == 2
#define MOST_LEVEL 32639.0f /* its high byte is 127 and its low byte too */
#else
#define MOST_LEVEL 127.0f
#endif

typedef union { float f; int32_t i; } __attribute__((may_alias)) word;

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

/* Levels of 32 values. */
static inline void block_levels(const word *values, float inverse, int16_t *level) {
    for (int at = 0; at < BLOCK; ++at) { /* to nearest even, by the lowest bits of 1.5 * 2^23 and a level */
        const float scaled = values[at].f * inverse;
        const word rounded = {.f = scaled + 12582912.0f};
        level[at] = (int16_t)(rounded.i - 0x4B400000);
    }
}

/* A block of `held` values and zeros behind them. Whole ones are read where they are: vectors that are wider than a copy's
 * parts would wait for them. */
static inline const word *block_values(const float *x, size_t held, word *rest) {
    if (held >= BLOCK) return (const word *)(const void *)x;
    for (size_t at = 0; at < BLOCK; ++at) rest[at].f = at < held ? x[at] : 0.0f;
    return rest;
}
#endif
