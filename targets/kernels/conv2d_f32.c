/* Convolutions in float32 for any CPU, positions of a row in the lanes, in vectors as long as the CPU's registers.
 *
 * A block of x is copied, with the zeros around it, to where a first-level cache holds it. Columns that a stride parts lie
 * apart there, so that every term of a window (an input at a tap) is a vector at a fixed distance from the window's first.
 * POSITIONS vectors by CHANNELS channels of sums stay in registers for all terms of a block: a weight, read where it is
 * stored, serves POSITIONS vectors, and a vector CHANNELS channels. Each sum is its bias, then its terms in the order of the
 * weights, however work is cut into blocks and calls: bytes do not depend on that.
 */
#include "hwc_kernels.h"

/* Registers are 32 with AVX-512, else 16: the sums, a vector of each position, and a weight. */
#if defined(__AVX512F__)
#define LANES 16
#define CHANNELS 8
#elif defined(__AVX__)
#define LANES 8
#define CHANNELS 4
#else
#define LANES 4
#define CHANNELS 4
#endif
#define POSITIONS 3
#define BLOCK 6144       /* floats of x: 24 KiB of a first-level cache of 32 */
#define KEPT 4096        /* floats of sums that wait to be pooled */
#define MOST_TERMS 512
#define FEW_TERMS 108    /* what a block has, if there are as many: a sum is read and written once a block */
#define MOST_COLUMNS 128
#define SOME_COLUMNS 64  /* more are given up for terms */
#define MOST_SPOTS 256

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t integers __attribute__((vector_size(4 * LANES)));

static inline vector load(const float *from) { return *(const vector *)from; }
static inline void store(float *to, vector value) { *(vector *)to = value; }
#if LANES == 16
#define EACH(v) v, v, v, v, v, v, v, v, v, v, v, v, v, v, v, v
#elif LANES == 8
#define EACH(v) v, v, v, v, v, v, v, v
#else
#define EACH(v) v, v, v, v
#endif
static inline vector all(float value) { return (vector){EACH(value)}; }
static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t most(size_t a, size_t b) { return a > b ? a : b; }
static inline size_t whole(size_t count) { return (count + LANES - 1) / LANES * LANES; }

#if LANES == 16
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#elif LANES == 8
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define ODD 1, 3, 5, 7, 9, 11, 13, 15
#else
#define EVEN 0, 2, 4, 6
#define ODD 1, 3, 5, 7
#endif

/* Fewer floats than a vector has. */
static inline void copy_some(float *to, const float *from, size_t count) {
    size_t at = 0;
#if LANES > 8
    if (count & 8) __builtin_memcpy(to, from, 32), at += 8;
#endif
#if LANES > 4
    if (count & 4) __builtin_memcpy(to + at, from + at, 16), at += 4;
#endif
    if (count & 2) __builtin_memcpy(to + at, from + at, 8), at += 2;
    if (count & 1) to[at] = from[at];
}

/* NaN stays. */
static inline vector floored(vector x, vector floor) { return (vector)((integers)x & ~(integers)(x < floor)); }

/* NaN is the largest. */
static inline vector larger(vector a, vector b) {
    const integers first = ~(integers)(a < b) & (integers)(b == b);
    return (vector)(((integers)a & first) | ((integers)b & ~first));
}

/* A vector of positions: its windows in the block, its sums from where those of a channel begin, its lanes in use. */
typedef struct {
    uint32_t window, sum, held;
} spot;

/* What is computed at once: rows and columns of one image's result, and the inputs of a group that lie in the block. */
typedef struct {
    const struct hwc_conv2d_f32 *c;
    size_t all_rows, all_columns, most_rows, most_columns, most_inputs; /* of an image; of a block */
    size_t image, group;
    size_t row, rows, column, columns;
    size_t input, inputs;
    size_t phase, pitch, plane;   /* floats of the block between columns that the stride parts, rows, and inputs */
    float *sums;                  /* of the first channel at the first position */
    size_t sum_row, sum_channel;  /* floats between sums of rows and of channels */
    size_t spot_count, terms;
    uint32_t distances[MOST_TERMS];
    spot spots[MOST_SPOTS];
    float block[BLOCK + LANES] __attribute__((aligned(64)));
    float kept[KEPT] __attribute__((aligned(64)));
} part;

/* One tile: windows of its vectors; where sums of each come from and go to, a channel `…_apart` floats from the last. */
typedef struct {
    const float *x[POSITIONS];
    const float *from[POSITIONS];
    float *to[POSITIONS];
    size_t from_apart[POSITIONS], to_apart[POSITIONS];
    const float *w; /* of the first channel */
    size_t w_apart;
    const uint32_t *distances;
    size_t terms;
    float floor; /* what is less becomes 0 */
} tile;

/* Add all terms of the block to the sums. Not part of its callers: what they hold in registers has room in memory. */
static inline __attribute__((always_inline)) void add_terms(const tile *t, int count, int channels) {
    vector sum[CHANNELS][POSITIONS];
    const float *x[POSITIONS], *w[CHANNELS];
    for (int n = 0; n < channels; ++n) w[n] = t->w + (size_t)n * t->w_apart;
    for (int v = 0; v < count; ++v) x[v] = t->x[v];
    for (int n = 0; n < channels; ++n)
        for (int v = 0; v < count; ++v)
            sum[n][v] = load(t->from[v] + (size_t)n * t->from_apart[v]);
    const uint32_t *distances = t->distances, *end = distances + t->terms;
    size_t term = 0;
    do { /* at least once: GCC spills sums before a loop that may not run */
        const size_t distance = *distances++;
        vector window[POSITIONS];
        for (int v = 0; v < count; ++v) window[v] = load(x[v] + distance);
        for (int n = 0; n < channels; ++n) {
            const vector weight = all(w[n][term]);
            for (int v = 0; v < count; ++v) sum[n][v] += window[v] * weight;
        }
        ++term;
    } while (distances < end);
    const vector floor = all(t->floor);
    for (int n = 0; n < channels; ++n)
        for (int v = 0; v < count; ++v)
            store(t->to[v] + (size_t)n * t->to_apart[v], floored(sum[n][v], floor));
}

#define ADD_TERMS(count, channels)                                                                                     \
    static __attribute__((noinline)) void add_terms_##count##_##channels(const tile *t) { add_terms(t, count, channels); }
#define ADD_TERMS_OF(channels) ADD_TERMS(1, channels) ADD_TERMS(2, channels) ADD_TERMS(3, channels)
ADD_TERMS_OF(1) ADD_TERMS_OF(2) ADD_TERMS_OF(4)
#if CHANNELS == 8
ADD_TERMS_OF(8)
#endif

static inline __attribute__((always_inline)) void add_to(const tile *t, size_t count, int channels) {
#define ADD_IF(n) \
    if (channels == n) { \
        if (count == 3) add_terms_3_##n(t); \
        else if (count == 2) add_terms_2_##n(t); \
        else add_terms_1_##n(t); \
    }
    ADD_IF(1) ADD_IF(2) ADD_IF(4)
#if CHANNELS == 8
    ADD_IF(8)
#endif
}

/* Channels `channel` and on at all positions of the part; vectors that are not whole by way of a buffer. */
static inline __attribute__((always_inline)) void channels_of(const part *p, size_t channel, int channels, int relu) {
    const struct hwc_conv2d_f32 *c = p->c;
    const size_t taps = c->kernel_height * c->kernel_width;
    tile t;
    t.w = c->w + (channel * c->inputs + p->input) * taps, t.w_apart = c->inputs * taps;
    t.distances = p->distances, t.terms = p->terms, t.floor = relu ? 0.0f : -__builtin_inff();
    float bias[CHANNELS * LANES], edge[POSITIONS][CHANNELS * LANES];
    for (int n = 0; n < channels; ++n) {
        store(bias + n * LANES, all(c->bias ? c->bias[channel + (size_t)n] : 0.0f));
        for (int v = 0; v < POSITIONS; ++v) store(edge[v] + n * LANES, all(0.0f));
    }
    for (size_t at = 0, count; at < p->spot_count; at += count) {
        const size_t left = p->spot_count - at;
        const spot *spots = p->spots + at;
        count = left == 4 ? 2 : least(left, POSITIONS);
        for (size_t v = 0; v < count; ++v) {
            float *sums = p->sums + spots[v].sum;
            t.x[v] = p->block + spots[v].window, t.to[v] = sums, t.to_apart[v] = p->sum_channel;
            if (spots[v].held < LANES) {
                t.to[v] = edge[v], t.to_apart[v] = LANES;
                for (int n = 0; n < channels && p->input; ++n)
                    copy_some(edge[v] + n * LANES, sums + (size_t)n * p->sum_channel, spots[v].held);
            }
            t.from[v] = p->input ? t.to[v] : bias, t.from_apart[v] = p->input ? t.to_apart[v] : LANES;
        }
        add_to(&t, count, channels);
        for (size_t v = 0; v < count; ++v)
            for (int n = 0; n < channels && spots[v].held < LANES; ++n)
                copy_some(p->sums + spots[v].sum + (size_t)n * p->sum_channel, edge[v] + n * LANES, spots[v].held);
    }
}

static void channels_between(part *p, size_t begin, size_t end) {
    const int relu = (p->c->form & (HWC_CONV2D_RELU | HWC_CONV2D_POOL)) == HWC_CONV2D_RELU &&
                     p->input + p->inputs == p->c->inputs;
    float *first = p->sums;
    for (size_t n = begin; n < end;) {
        size_t count = CHANNELS;
        if (n + CHANNELS <= end) channels_of(p, n, CHANNELS, relu);
#if CHANNELS > 4
        else if (count = 4, n + 4 <= end) channels_of(p, n, 4, relu);
#endif
        else if (count = 2, n + 2 <= end) channels_of(p, n, 2, relu);
        else count = 1, channels_of(p, n, 1, relu);
        n += count, p->sums += count * p->sum_channel;
    }
    p->sums = first;
}

/* Columns first, first + step, … of a row of x, zeros outside of it; up to LANES zeros more than `count` floats. */
static inline void copy_row(const float *x, ptrdiff_t first, size_t step, size_t width, size_t count, float *to) {
    size_t before = first < 0 ? (size_t)-first : 0, end = first < (ptrdiff_t)width ? (size_t)((ptrdiff_t)width - first) : 0;
    if (step > 1) before = (before + step - 1) / step, end = (end + step - 1) / step;
    end = least(end, count), before = least(before, end);
    for (size_t at = 0; at < before; at += LANES) store(to + at, all(0.0f));
    for (size_t at = end; at < count; at += LANES) store(to + at, all(0.0f));
    const float *from = x + first;
    if (step > 1) {
        size_t at = before;
        for (; step == 2 && at + LANES < end; at += LANES) /* less: the last vector would reach one behind the row */
            store(to + at, __builtin_shufflevector(load(from + 2 * at), load(from + 2 * at + LANES), EVEN));
        for (; at < end; ++at) to[at] = from[(ptrdiff_t)(at * step)];
    } else if (end - before < LANES) {
        copy_some(to + before, from + before, end - before);
    } else {
        for (size_t at = before; at + LANES < end; at += LANES) store(to + at, load(from + at));
        store(to + end - LANES, load(from + end - LANES));
    }
}

/* Copy what windows of the part reach, as far as any tap does. */
static void copy_block(part *p) {
    const struct hwc_conv2d_f32 *c = p->c;
    const size_t high = (p->rows - 1) * c->stride_height + c->kernel_height;
    const size_t phases = least(c->stride_width, c->kernel_width);
    const ptrdiff_t left = (ptrdiff_t)(p->column * c->stride_width) - (ptrdiff_t)c->pad_left;
    for (size_t input = 0; input < p->inputs; ++input) {
        const size_t at = (p->image * c->groups + p->group) * c->inputs + p->input + input;
        for (size_t row = 0; row < high; ++row) {
            if (c->stride_height > 1 && row % c->stride_height >= c->kernel_height) continue;
            const ptrdiff_t from = (ptrdiff_t)(p->row * c->stride_height + row) - (ptrdiff_t)c->pad_top;
            const int inside = from >= 0 && from < (ptrdiff_t)c->height;
            const float *x = c->x + (at * c->height + (inside ? (size_t)from : 0)) * c->width;
            float *to = p->block + input * p->plane + row * p->pitch;
            for (size_t phase = 0; phase < phases; ++phase, to += p->phase)
                copy_row(x, left + (ptrdiff_t)phase, c->stride_width, inside ? c->width : 0, p->phase, to);
        }
    }
}

/* Tell where the terms of the block's inputs lie in it. */
static void place_terms(part *p) {
    const struct hwc_conv2d_f32 *c = p->c;
    p->terms = 0;
    for (size_t input = 0; input < p->inputs; ++input)
        for (size_t row = 0; row < c->kernel_height; ++row) {
            const size_t first = input * p->plane + row * p->pitch;
            for (size_t column = 0, phase = 0, at = first; column < c->kernel_width; ++column) {
                p->distances[p->terms++] = (uint32_t)(at + phase * p->phase);
                if (++phase == c->stride_width) phase = 0, ++at;
            }
        }
}

static void place_spots(part *p) {
    p->spot_count = 0;
    for (size_t row = 0; row < p->rows; ++row)
        for (size_t column = 0; column < p->columns; column += LANES)
            p->spots[p->spot_count++] = (spot){
                .window = (uint32_t)(row * p->c->stride_height * p->pitch + column),
                .sum = (uint32_t)(row * p->sum_row + column),
                .held = (uint32_t)least(LANES, p->columns - column),
            };
}

/* The largest of each 2x2 of kept sums, which are in whole vectors. */
static void pool(const part *p, size_t channels, float *y, size_t y_row, size_t y_channel) {
    for (size_t n = 0; n < channels; ++n)
        for (size_t row = 0; row < p->rows / 2; ++row) {
            const float *above = p->kept + n * p->sum_channel + 2 * row * p->sum_row, *below = above + p->sum_row;
            float *to = y + n * y_channel + row * y_row;
            for (size_t column = 0; column < p->columns / 2; column += LANES) {
                const size_t from = 2 * column, next = from + LANES < p->sum_row ? from + LANES : from;
                const vector left = larger(load(above + from), load(below + from));
                const vector right = larger(load(above + next), load(below + next));
                vector made = larger(__builtin_shufflevector(left, right, EVEN), __builtin_shufflevector(left, right, ODD));
                if (p->c->form & HWC_CONV2D_RELU) made = floored(made, all(0.0f));
                if (column + LANES <= p->columns / 2) {
                    store(to + column, made);
                } else {
                    float edge[LANES];
                    store(edge, made);
                    copy_some(to + column, edge, p->columns / 2 - column);
                }
            }
        }
}

/* Channels begin to end of a group at the part's rows and columns. */
static void rows_and_columns(part *p, size_t begin, size_t end) {
    const struct hwc_conv2d_f32 *c = p->c;
    const int pooled = (c->form & HWC_CONV2D_POOL) != 0;
    const size_t y_rows = pooled ? c->rows / 2 : c->rows, y_columns = pooled ? c->columns / 2 : c->columns;
    const size_t y_channel = y_rows * y_columns;
    p->sum_row = pooled ? whole(p->columns) : y_columns;
    p->sum_channel = pooled ? p->rows * p->sum_row : y_channel;
    place_spots(p);
    const size_t fit = p->most_inputs < c->inputs ? KEPT / p->sum_channel / CHANNELS * CHANNELS : CHANNELS;
    const size_t at_once = pooled ? fit : end - begin;
    for (size_t n = begin; n < end; n += at_once) {
        const size_t stop = least(end, n + at_once);
        float *y = c->y + (p->image * c->channels + n) * y_channel;
        y += pooled ? p->row / 2 * y_columns + p->column / 2 : p->row * y_columns + p->column;
        p->sums = pooled ? p->kept : y;
        for (size_t input = 0; input < c->inputs; input += p->most_inputs) {
            const size_t inputs = least(p->most_inputs, c->inputs - input);
            p->input = input;
            if (inputs != p->inputs) {
                p->inputs = inputs;
                place_terms(p);
            }
            if (n == begin || inputs < c->inputs) copy_block(p);
            channels_between(p, n, stop);
        }
        if (pooled) pool(p, stop - n, y, y_columns, y_channel);
    }
}

/* Choose blocks as large as fit: columns first, then rows as long as a few inputs fit too, then inputs. */
static void choose_blocks(part *p) {
    const struct hwc_conv2d_f32 *c = p->c;
    const size_t taps = c->kernel_height * c->kernel_width, step = c->form & HWC_CONV2D_POOL ? 2 : 1;
    const size_t few = least(c->inputs, most(1, FEW_TERMS / taps));
    p->all_rows = c->rows / step * step, p->all_columns = c->columns / step * step;
    for (p->most_columns = least(p->all_columns, MOST_COLUMNS);; p->most_columns = whole(p->most_columns) / 2) {
        p->phase = whole(p->most_columns) + (c->kernel_width - 1) / c->stride_width;
        p->pitch = least(c->stride_width, c->kernel_width) * p->phase;
        const size_t plane = ((step - 1) * c->stride_height + c->kernel_height) * p->pitch; /* of the fewest rows */
        if (plane * (p->most_columns > SOME_COLUMNS ? few : 1) <= BLOCK) break;
    }
    p->most_rows = least(p->all_rows, MOST_SPOTS * LANES / whole(p->most_columns));
    if (step == 2) p->most_rows = least(p->most_rows, KEPT / (CHANNELS * whole(p->most_columns)) / 2 * 2);
    while (p->most_rows > step && ((p->most_rows - 1) * c->stride_height + c->kernel_height) * p->pitch * few > BLOCK)
        p->most_rows -= step;
    p->plane = ((p->most_rows - 1) * c->stride_height + c->kernel_height) * p->pitch;
    p->most_inputs = least(c->inputs, least(BLOCK / p->plane, MOST_TERMS / taps));
    p->inputs = 0;
}

HWC_CONV2D_F32(hwc_conv2d) {
    struct hwc_conv2d_f32 flat = *c;
    part p;
    p.c = &flat;
    if (c->kernel_height * c->kernel_width * c->stride_height * c->stride_width == 1 && c->rows == c->height &&
        c->columns == c->width && !(c->form & HWC_CONV2D_POOL)) { /* a product: all its positions are one row */
        flat.height = flat.rows = 1;
        flat.width = flat.columns = c->width * c->height;
    }
    choose_blocks(&p);
    const size_t each = c->channels / c->groups; /* channels of a group */
    for (size_t at = c->n_begin; at < c->n_end;) {
        const size_t begin = at % c->channels;
        p.image = at / c->channels, p.group = begin / each;
        const size_t end = least((p.group + 1) * each, begin + c->n_end - at);
        for (p.row = 0; p.row < p.all_rows; p.row += p.most_rows)
            for (p.column = 0; p.column < p.all_columns; p.column += p.most_columns) {
                p.rows = least(p.most_rows, p.all_rows - p.row);
                p.columns = least(p.most_columns, p.all_columns - p.column);
                rows_and_columns(&p, begin, end);
            }
        at += end - begin;
    }
}
