/* Attention in float32 for any CPU, in vectors as long as the CPU's registers.
 *
 * One pass over the keys that a row may see (Milakov and Gimelshein, arXiv:1805.02867): scores of a block of keys, their
 * exponentials against the largest so far, their product with the values added to the result. Scores are never stored
 * beyond a block, and keys that the mask rules out before the first or behind the last allowed one are never read: a
 * step takes time by the cache that is used, not by the one that was declared.
 */
#include "hwc_kernels.h"

#if defined(__AVX512F__)
#define LANES 16
#define BESIDE 4 /* vectors of sums of each of ROWS_AT_ONCE rows that there are registers for */
#elif defined(__AVX__)
#define LANES 8
#define BESIDE 2
#else
#define LANES 4
#define BESIDE 2
#endif
#define KEYS 64          /* a block: with 64 floats a key, its keys and values fit a first-level cache of 32 KiB */
#define ROWS_AT_ONCE 4   /* what one key, once loaded, is multiplied by */
#define FEWEST_TURNED 8  /* rows from which on keys are turned first: they lie in the lanes then, and no sum goes across */
#define WIDEST_TURNED 128
#define NEVER -1e30f     /* a mask's value for a key that does not count: -inf, or near the least float */

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t integers __attribute__((vector_size(4 * LANES)));

static inline vector load(const float *from) { return *(const vector *)from; }
static inline void store(float *to, vector value) { *(vector *)to = value; }
static inline vector all(float value) { return (vector){0.0f} + value; }

static inline vector chosen(integers which, vector yes, vector no) {
    return (vector)(((integers)yes & which) | ((integers)no & ~which));
}

static inline float sum_of(vector v) {
    typedef float quarter __attribute__((vector_size(16)));
    union { vector whole; quarter parts[LANES / 4]; } in = {v};
    quarter c = in.parts[0];
#if LANES == 16
    c = (c + in.parts[2]) + (in.parts[1] + in.parts[3]);
#elif LANES == 8
    c += in.parts[1];
#endif
    return (c[0] + c[2]) + (c[1] + c[3]);
}

static inline float larger(float a, float b) { return a > b ? a : b; }

static inline float largest(vector v) {
    float most[4];
    for (int at = 0; at < 4; ++at) most[at] = v[at];
    for (int lane = 4; lane < LANES; ++lane) most[lane % 4] = larger(v[lane], most[lane % 4]);
    return larger(larger(most[0], most[1]), larger(most[2], most[3]));
}

/* e^x for x <= 0 to 2 units of the last place, 0 below -87: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] with the
 * coefficients of Cephes' expf (Moshier, 1992). NaN stays NaN. */
static inline vector exponential(vector x) {
    const vector clamped = chosen(x < -87.0f, all(-87.0f), x);
    const vector n = (clamped * 1.44269504f + 12582912.0f) - 12582912.0f; /* 1.5 * 2^23: rounds to an integer */
    const vector r = clamped - n * 0.693359375f + n * 2.12194440e-4f;
    vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const integers power = (__builtin_convertvector(chosen(n == n, n, all(0.0f)), integers) + 127) << 23;
    return chosen(x < -87.0f, all(0.0f), p * (vector)power);
}

/* Keys first <= c < end hold every key that a mask allows; all of them, where it allows none. */
typedef struct {
    size_t first, end;
} span;

static inline int allows(const float *mask, size_t from, size_t to) {
    for (size_t at = from; at < to; ++at)
        if (!(mask[at] <= NEVER)) return 1;
    return 0;
}

static inline int allows_block(const float *mask) {
    typedef int64_t pair __attribute__((vector_size(16)));
    union { integers whole; pair parts[LANES / 4]; } found = {{0}};
    for (size_t at = 0; at < KEYS; at += LANES) found.whole |= ~(load(mask + at) <= NEVER);
    for (int part = 1; part < LANES / 4; ++part) found.parts[0] |= found.parts[part];
    return (found.parts[0][0] | found.parts[0][1]) != 0;
}

static span seen(const float *mask, size_t keys) {
    span found = {0, keys};
    while (found.end >= KEYS && !allows_block(mask + found.end - KEYS)) found.end -= KEYS;
    while (found.end > 0 && !allows(mask, found.end - 1, found.end)) --found.end;
    if (found.end == 0) return (span){0, keys};
    while (found.first + KEYS <= found.end && !allows_block(mask + found.first)) found.first += KEYS;
    return found;
}

/* What is known of a row so far; y holds the sum of its weighted values. */
typedef struct {
    span keys;
    const float *q, *mask;
    float *y;
    float most, total;
} row_state;

static inline __attribute__((always_inline)) void scores(const row_state *row, int rows, const float *k, size_t begin,
                                                         size_t end, size_t width, float weights[][KEYS]) {
    const size_t whole = width / LANES * LANES;
    for (size_t c = begin; c < end; ++c) {
        vector sums[ROWS_AT_ONCE];
        for (int r = 0; r < rows; ++r) sums[r] = all(0.0f);
        for (size_t d = 0; d < whole; d += LANES) {
            const vector key = load(k + c * width + d);
            for (int r = 0; r < rows; ++r) sums[r] += load(row[r].q + d) * key;
        }
        for (int r = 0; r < rows; ++r) {
            float sum = sum_of(sums[r]);
            for (size_t d = whole; d < width; ++d) sum += row[r].q[d] * k[c * width + d];
            weights[r][c - begin] = sum + row[r].mask[c];
        }
    }
    for (int r = 0; r < rows; ++r)
        for (size_t at = end - begin; at < KEYS; ++at) weights[r][at] = -__builtin_inff();
}

/* Keys of a block as [width][KEYS]; what is behind the last is 0. */
static inline void turn(const float *k, size_t begin, size_t end, size_t width, float *to) {
    typedef float four __attribute__((vector_size(16), aligned(4), may_alias));
    for (size_t c = 0; c < KEYS; c += 4)
        for (size_t d = 0; d < width; d += 4) {
            four row[4], pair[4];
            for (size_t at = 0; at < 4; ++at)
                row[at] = begin + c + at < end ? *(const four *)(k + (begin + c + at) * width + d) : (four){0.0f};
            for (size_t at = 0; at < 4; at += 2) {
                pair[at] = __builtin_shufflevector(row[at], row[at + 1], 0, 4, 1, 5);
                pair[at + 1] = __builtin_shufflevector(row[at], row[at + 1], 2, 6, 3, 7);
            }
            for (size_t at = 0; at < 2; ++at) {
                float *column = to + (d + 2 * at) * KEYS + c;
                *(four *)column = __builtin_shufflevector(pair[at], pair[at + 2], 0, 1, 4, 5);
                *(four *)(column + KEYS) = __builtin_shufflevector(pair[at], pair[at + 2], 2, 3, 6, 7);
            }
        }
}

static inline __attribute__((always_inline)) void turned_scores(const row_state *row, int rows, const float *turned,
                                                                size_t begin, size_t end, size_t width,
                                                                float weights[][KEYS]) {
    for (size_t at = 0; at < KEYS; at += BESIDE * LANES) {
        vector sums[ROWS_AT_ONCE][BESIDE];
        for (int r = 0; r < rows; ++r)
            for (int of = 0; of < BESIDE; ++of) sums[r][of] = all(0.0f);
        for (size_t d = 0; d < width; ++d) {
            vector keys[BESIDE];
            for (int of = 0; of < BESIDE; ++of) keys[of] = load(turned + d * KEYS + at + (size_t)of * LANES);
            for (int r = 0; r < rows; ++r)
                for (int of = 0; of < BESIDE; ++of) sums[r][of] += keys[of] * row[r].q[d];
        }
        for (int r = 0; r < rows; ++r)
            for (int of = 0; of < BESIDE; ++of) store(weights[r] + at + (size_t)of * LANES, sums[r][of]);
    }
    for (int r = 0; r < rows; ++r) {
        for (size_t c = begin; c < end; ++c) weights[r][c - begin] += row[r].mask[c];
        for (size_t at = end - begin; at < KEYS; ++at) weights[r][at] = -__builtin_inff();
    }
}

/* Scores of a block to weights; returns by what the row's sums so far are to be multiplied. */
static inline float weigh(row_state *row, float *weights) {
    vector most = all(row->most);
    for (size_t at = 0; at < KEYS; at += LANES) {
        const vector some = load(weights + at);
        most = chosen(some > most, some, most);
    }
    const float now = largest(most);
    const float shift = now == -__builtin_inff() ? 0.0f : now; /* -inf less -inf is no number */
    vector total = all(0.0f);
    for (size_t at = 0; at < KEYS; at += LANES) {
        const vector weight = exponential(load(weights + at) - shift);
        store(weights + at, weight);
        total += weight;
    }
    const float kept = exponential(all(row->most - shift))[0];
    row->most = now;
    row->total = row->total * kept + sum_of(total);
    return kept;
}

/* Add the values of a block to `parts` vectors of every row's result, from d on. */
static inline __attribute__((always_inline)) void add_parts(const row_state *row, int rows, int parts, size_t d,
                                                            const float *v, size_t begin, size_t end, size_t width,
                                                            float weights[][KEYS], const float *kept) {
    vector made[ROWS_AT_ONCE][BESIDE];
    for (int r = 0; r < rows; ++r)
        for (int part = 0; part < parts; ++part) made[r][part] = load(row[r].y + d + part * LANES) * kept[r];
    for (size_t c = begin; c < end; ++c)
        for (int part = 0; part < parts; ++part) {
            const vector value = load(v + c * width + d + part * LANES);
            for (int r = 0; r < rows; ++r) made[r][part] += value * weights[r][c - begin];
        }
    for (int r = 0; r < rows; ++r)
        for (int part = 0; part < parts; ++part) store(row[r].y + d + part * LANES, made[r][part]);
}

static inline __attribute__((always_inline)) void add_values(const row_state *row, int rows, const float *v, size_t begin,
                                                             size_t end, size_t width, float weights[][KEYS],
                                                             const float *kept) {
    size_t d = 0;
    for (; d + BESIDE * LANES <= width; d += BESIDE * LANES)
        add_parts(row, rows, BESIDE, d, v, begin, end, width, weights, kept);
    for (; d + 2 * LANES <= width; d += 2 * LANES) add_parts(row, rows, 2, d, v, begin, end, width, weights, kept);
    for (; d + LANES <= width; d += LANES) add_parts(row, rows, 1, d, v, begin, end, width, weights, kept);
    for (; d < width; ++d)
        for (int r = 0; r < rows; ++r) {
            float made = row[r].y[d] * kept[r];
            for (size_t c = begin; c < end; ++c) made += v[c * width + d] * weights[r][c - begin];
            row[r].y[d] = made;
        }
}

/* `turned`: the block's keys as turn() leaves them, or NULL. */
static inline __attribute__((always_inline)) void take(row_state *row, int rows, const float *k, const float *turned,
                                                       const float *v, size_t begin, size_t end, size_t width) {
    float weights[ROWS_AT_ONCE][KEYS], kept[ROWS_AT_ONCE];
    if (turned) turned_scores(row, rows, turned, begin, end, width, weights);
    else scores(row, rows, k, begin, end, width, weights);
    for (int r = 0; r < rows; ++r) kept[r] = weigh(&row[r], weights[r]);
    add_values(row, rows, v, begin, end, width, weights, kept);
}

/* The same, for whatever number of rows and with the width as a constant where it is a usual one. */
static inline __attribute__((always_inline)) void take_rows(row_state *row, size_t rows, const float *k,
                                                            const float *turned, const float *v, size_t begin,
                                                            size_t end, size_t width) {
    if (rows == 4) take(row, 4, k, turned, v, begin, end, width);
    else if (rows == 3) take(row, 3, k, turned, v, begin, end, width);
    else if (rows == 2) take(row, 2, k, turned, v, begin, end, width);
    else take(row, 1, k, turned, v, begin, end, width);
}

static void take_chunk(row_state *row, size_t rows, const float *k, const float *turned, const float *v, size_t begin,
                       size_t end, size_t width) {
    if (width == 64) take_rows(row, rows, k, turned, v, begin, end, 64);
    else if (width == 128) take_rows(row, rows, k, turned, v, begin, end, 128);
    else take_rows(row, rows, k, turned, v, begin, end, width);
}

/* Rows of one head from `from` on: HWC_ATTENTION_ROWS at most. */
static void unit(const struct hwc_attention_f32 *c, size_t head, size_t from) {
    const size_t left = c->rows - from, rows = left < HWC_ATTENTION_ROWS ? left : HWC_ATTENTION_ROWS;
    const float *k = c->k + head * c->keys * c->width, *v = c->v + head * c->keys * c->width;
    const size_t batch = c->mask_batches == 1 ? 0 : head / c->heads;
    const int turns = rows >= FEWEST_TURNED && c->width <= WIDEST_TURNED && c->width % 4 == 0;
    float turned[WIDEST_TURNED * KEYS];
    row_state row[HWC_ATTENTION_ROWS];
    span whole = {c->keys, 0};
    for (size_t r = 0; r < rows; ++r) {
        const size_t at = from + r;
        const float *mask = c->mask + (batch * c->mask_rows + at % c->mask_rows) * c->keys;
        row[r] = (row_state){.keys = seen(mask, c->keys), .q = c->q + (head * c->rows + at) * c->width, .mask = mask,
                             .y = c->y + (head * c->rows + at) * c->width, .most = -__builtin_inff(), .total = 0.0f};
        for (size_t d = 0; d < c->width; ++d) row[r].y[d] = 0.0f;
        if (row[r].keys.first < whole.first) whole.first = row[r].keys.first;
        if (row[r].keys.end > whole.end) whole.end = row[r].keys.end;
    }
    for (size_t begin = whole.first; begin < whole.end; begin += KEYS) {
        const size_t end = begin + KEYS < whole.end ? begin + KEYS : whole.end;
        if (turns) turn(k, begin, end, c->width, turned);
        for (size_t r = 0; r < rows; r += ROWS_AT_ONCE) {
            const size_t some = rows - r < ROWS_AT_ONCE ? rows - r : ROWS_AT_ONCE;
            size_t first = c->keys, last = 0;
            for (size_t at = r; at < r + some; ++at) {
                if (row[at].keys.first < first) first = row[at].keys.first;
                if (row[at].keys.end > last) last = row[at].keys.end;
            }
            if (first < end && begin < last) take_chunk(row + r, some, k, turns ? turned : 0, v, begin, last < end ? last : end, c->width);
        }
    }
    for (size_t r = 0; r < rows; ++r)
        for (size_t d = 0; d < c->width; ++d) row[r].y[d] /= row[r].total;
}

HWC_ATTENTION_F32(hwc_attention) {
    const size_t blocks = (c->rows + HWC_ATTENTION_ROWS - 1) / HWC_ATTENTION_ROWS;
    for (size_t at = c->n_begin; at < c->n_end; ++at) unit(c, at / blocks, at % blocks * HWC_ATTENTION_ROWS);
}
