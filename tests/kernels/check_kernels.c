/* Holds the CPU's kernels to exact sums over shapes, groups, zero points and edges; buffers are as large as they must be,
 * so that a sanitizer sees one byte too many. Prints what is off; exits 1 if anything is. With a kernel's name:
 * that one; with `large` behind it, without the many small shapes, which are not in tiles. */
#include "hwc_kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void grouped_kernel(const float *, size_t, const uint8_t *, size_t, const uint16_t *, size_t, const uint8_t *, size_t,
                            float *, size_t, size_t, size_t, size_t, size_t, size_t, size_t, size_t, size_t);
grouped_kernel hwc_w4a16, hwc_w4a8, hwc_w8a16;
void hwc_fp8(const float *, size_t, const uint8_t *, size_t, const float *, size_t, float *, size_t, size_t, size_t,
             size_t, size_t, size_t);
void hwc_matmul_f32(const float *, size_t, const float *, size_t, float *, size_t, size_t, size_t, size_t, size_t, size_t);

/* A kernel of weights in groups, and what it may be off by: of its products, or of the largest of 32 activations. */
struct tried {
    const char *name;
    grouped_kernel *run;
    int bits, rounds, by_largest;
    double allowed;
};
static const struct tried W4A16 = {"w4a16", hwc_w4a16, 4, 0, 1, 1.6e-5}, W4A8 = {"w4a8", hwc_w4a8, 4, 1, 0, 1e-6},
                          W8A16 = {"w8a16", hwc_w8a16, 8, 0, 0, 1e-6};

#define UNTOUCHED 12345.0f
static int off;
static const char *wanted; /* a kernel's name; NULL: all */

static int asked(const char *name) { return !wanted || !strcmp(wanted, name); }

static float uniform(void) { return (float)rand() / (float)RAND_MAX * 2.0f - 1.0f; }

static void *room(size_t bytes) {
    void *found = malloc(bytes ? bytes : 1);
    if (!found) exit(2);
    return found;
}

static void *random_bytes(size_t count) {
    uint8_t *found = room(count);
    for (size_t at = 0; at < count; ++at) found[at] = (uint8_t)rand();
    return found;
}

static float *random_rows(size_t count) {
    float *found = room(count * sizeof *found);
    for (size_t at = 0; at < count; ++at) found[at] = at % 7 == 3 ? 0.0f : uniform() * (at % 11 ? 1.0f : 300.0f);
    return found;
}

/* Compares one result with its exact sum; `size` is the sum of the absolute values of what is summed. */
static void hold(const char *what, size_t m, size_t n, size_t k, float found, double exact, double size, double allowed) {
    if (!(fabs(found - exact) <= allowed * size + 1e-30)) {
        printf("%s %zux%zux%zu: %.9g, not %.9g\n", what, m, n, k, found, exact);
        off = 1;
    }
}

/* Values that try a block of activations: large beside small ones, only zeros, subnormals, the largest there are. */
static void edges(float *x, size_t count, unsigned kind) {
    for (size_t at = 0; at < count; ++at) {
        if (kind == 1) x[at] = at % 37 == 5 ? 1e6f : x[at] * 1e-3f;
        if (kind == 2) x[at] = 0.0f;
        if (kind == 3) x[at] = uniform() * 1e-40f;
        if (kind == 4) x[at] = uniform() * 1e34f;
        if (kind == 5) x[at] = uniform() * 1e-30f;
        if (kind == 6) x[at] = at % 32 == 7 ? 127.0f : (float)(rand() % 32) - 15.5f; /* ties between levels */
    }
}

/* Activations as they come, or as ONNX's nodes round blocks of a row of k to int8. */
static double *multiplied(const float *x, size_t count, size_t k, int rounds) {
    double *found = room(count * sizeof *found);
    float largest = 0;
    for (size_t at = 0; at < count; ++at) {
        const size_t last = (at / k + 1) * k;
        if (at % k % 32 == 0) largest = 0x1p-100f;
        for (size_t of = at; at % k % 32 == 0 && of < at + 32 && of < last; ++of) largest = fmaxf(largest, fabsf(x[of]));
        const float inverse = 127.0f / largest, scaled = x[at] * inverse, share = 1.0f / 127.0f, step = largest * share;
        found[at] = rounds ? (double)nearbyintf(scaled) * (double)step : (double)x[at];
    }
    return found;
}

static void grouped(const struct tried *of, size_t m, size_t n, size_t k, size_t group, uint32_t codes_form,
                    uint32_t zeros_form, unsigned kind) {
    if (!asked(of->name)) return;
    const int bits = of->bits;
    const int tiled = (codes_form & HWC_CODES_TILED) != 0;
    const size_t groups = k / group, row_bytes = k * (size_t)bits / 8, begin = tiled ? (n > 16 ? 16 : 0) : n > 4;
    float *x = random_rows(m * k), *y = room(m * n * sizeof *y);
    uint8_t *codes = random_bytes(n * row_bytes);
    uint16_t *scales = room(n * groups * 2), *offsets = room(n * groups * 2);
    int8_t *zeros = room(n * groups);
    for (size_t at = 0; at < n * groups; ++at) {
        scales[at] = at % 5 == 4 ? (uint16_t)(rand() % 0x400) : hwc_to_half(uniform() * 0.02f); /* subnormals too */
        offsets[at] = hwc_to_half(uniform());
        zeros[at] = (int8_t)(rand() % (1 << bits) - (1 << (bits - 1)));
    }
    edges(x, m * k, kind);
    double *values = multiplied(x, m * k, k, of->rounds);
    const uint8_t *third = zeros_form == HWC_ZEROS_POINT ? (const uint8_t *)zeros
                         : zeros_form == HWC_ZEROS_OFFSET ? (const uint8_t *)offsets : codes;
    for (size_t at = 0; at < m * n; ++at) y[at] = UNTOUCHED;
    of->run(x, 0, codes, 0, scales, 0, third, 0, y, 0, m, n, k, group, codes_form, zeros_form, begin, n);
    const struct hwc_dequantise_matmul told = {.codes = codes, .scales = scales, .zeros = zeros, .offsets = offsets,
        .row_bytes = row_bytes, .group = group, .groups = groups, .codes_form = codes_form, .zeros_form = zeros_form};
    for (size_t row = 0; row < m; ++row) {
        if (begin && y[row * n] != UNTOUCHED) { printf("column 0 was written\n"); off = 1; }
        for (size_t column = begin; column < n; ++column) {
            double exact = 0, size = 0, largest = 0;
            for (size_t at = 0; at < k; ++at) {
                const size_t entry = hwc_group_at(&told, column, at / group);
                const double weight = hwc_weight(&told, hwc_code_at(&told, bits, column, at), bits, entry);
                const double unit = 8 * fabs((double)hwc_half(scales[entry])) + fabs(weight);
                if (at % 32 == 0) largest = 0;
                for (size_t near = at; at % 32 == 0 && near < at + 32 && near < k; ++near)
                    largest = fmax(largest, fabs((double)x[row * k + near]));
                exact += weight * values[row * k + at];
                size += unit * (fabs(values[row * k + at]) + (of->by_largest ? largest : 0));
            }
            hold(of->name, m, n, k, y[row * n + column], exact, size, of->allowed);
        }
    }
    free(x), free(y), free(codes), free(scales), free(offsets), free(zeros), free(values);
}

/* An infinity or NaN in a row makes its results no finite number, and leaves other rows as they are. */
static void unbounded(const struct tried *of, uint32_t codes_form, float value) {
    if (!asked(of->name)) return;
    enum { M = 9, N = 32, K = 64, GROUP = 32 };
    float *x = random_rows(M * K), *y = room(M * N * sizeof *y);
    uint8_t *codes = random_bytes(N * K / 2);
    uint16_t *scales = room(N * K / GROUP * 2);
    for (size_t at = 0; at < N * K / GROUP; ++at) scales[at] = 0x3C00;
    x[4 * K + 35] = value;
    of->run(x, 0, codes, 0, scales, 0, codes, 0, y, 0, M, N, K, GROUP, codes_form, HWC_ZEROS_NONE, 0, N);
    for (size_t at = 0; at < M * N; ++at)
        if ((at / N == 4) == !!isfinite(y[at])) { printf("%s: %g in a row gives %g in row %zu\n", of->name, value, y[at], at / N); off = 1; }
    free(x), free(y), free(codes), free(scales);
}

static void eight(size_t m, size_t n, size_t k) {
    if (!asked("fp8")) return;
    float *x = random_rows(m * k), *y = room(m * n * sizeof *y), *scales = random_rows(n);
    uint8_t *codes = random_bytes(n * k);
    for (size_t at = 0; at < n * k; ++at)
        if ((codes[at] & 0x7F) == 0x7F) codes[at] = (uint8_t)at & 7; /* no NaN; subnormals instead */
    hwc_fp8(x, 0, codes, 0, scales, 0, y, 0, m, n, k, 0, n);
    for (size_t row = 0; row < m; ++row)
        for (size_t column = 0; column < n; ++column) {
            double exact = 0, size = 0;
            for (size_t at = 0; at < k; ++at) {
                const double part = (double)hwc_e4m3(codes[column * k + at]) * scales[column] * x[row * k + at];
                exact += part;
                size += fabs(part);
            }
            hold("fp8", m, n, k, y[row * n + column], exact, size, 1e-6);
        }
    free(x), free(y), free(scales), free(codes);
}

static void tiles(size_t m, size_t n, size_t k) {
    if (!asked("f32 tiles")) return;
    const size_t begin = n > 16 ? 16 : 0;
    float *x = random_rows(m * k), *w = random_rows(n * k), *y = room(m * n * sizeof *y);
    for (size_t at = 0; at < m * n; ++at) y[at] = UNTOUCHED;
    hwc_matmul_f32(x, 0, w, 0, y, 0, m, n, k, begin, n);
    for (size_t row = 0; row < m; ++row)
        for (size_t column = 0; column < n; ++column) {
            double exact = 0, size = 0;
            for (size_t at = 0; at < k; ++at) {
                const double part = (double)w[(column / 16 * k + at) * 16 + column % 16] * x[row * k + at];
                exact += part;
                size += fabs(part);
            }
            const double wanted = column < begin ? UNTOUCHED : exact;
            hold("f32 tiles", m, n, k, y[row * n + column], wanted, column < begin ? 0 : size, 1e-6);
        }
    free(x), free(w), free(y);
}

static void small(void) {
    static const size_t rows[] = {0, 1, 2, 5, 8, 9}, columns[] = {1, 3, 6};
    static const size_t shapes[][2] = {{32, 32},  {96, 32},   {128, 32}, {576, 32}, {1056, 32}, {192, 64},  {384, 128},
                                       {512, 256}, {48, 16},  {24, 8},   {1536, 512}, {72, 24}, {240, 48}, {36, 12},
                                       {20, 10}};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; ++r)
        for (size_t c = 0; c < sizeof columns / sizeof *columns; ++c) {
            for (size_t s = 0; s < sizeof shapes / sizeof *shapes; ++s)
                for (uint32_t form = 0; form < 6; ++form) {
                    grouped(&W4A16, rows[r], columns[c], shapes[s][0], shapes[s][1], form / 3, form % 3, 0);
                    grouped(&W4A8, rows[r], columns[c], shapes[s][0], shapes[s][1], form / 3, form % 3, 0);
                    grouped(&W8A16, rows[r], columns[c], shapes[s][0], shapes[s][1], form / 3, form % 3, 0);
                }
            for (size_t k = 1; k < 70; k += 6) eight(rows[r], columns[c], k);
            eight(rows[r], columns[c], 640);
        }
}

/* Tiles, shapes that cross every boundary of the blocking, and edge values. */
static void large(void) {
    static const size_t shapes[][4] = {{1, 16, 32, 32},  {1, 80, 2080, 32},  {3, 48, 192, 64},    {7, 16, 48, 16},
                                       {8, 32, 2304, 128}, {35, 16, 576, 32}, {41, 32, 1048, 8},  {33, 48, 1200, 48},
                                       {1, 16, 24, 24},  {17, 16, 520, 40}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; ++s)
        for (uint32_t form = 0; form < 12; ++form) {
            const size_t *at = shapes[s];
            grouped(&W4A16, at[0], at[1] + (form < 6 ? 5 : 0), at[2], at[3], form / 3, form % 3, (unsigned)s % 2);
            grouped(&W4A8, at[0], at[1] + (form < 6 ? 5 : 0), at[2], at[3], form / 3, form % 3, (unsigned)s % 2);
        }
    static const size_t tall[][4] = {{16, 33, 96, 32}, {19, 5, 300, 50}, {24, 64, 144, 144}};
    for (size_t s = 0; s < sizeof tall / sizeof *tall; ++s) {
        for (uint32_t form = 0; form < 6; ++form)
            grouped(&W8A16, tall[s][0], tall[s][1], tall[s][2], tall[s][3], form / 3, form % 3, 0);
        eight(tall[s][0], tall[s][1], tall[s][2] + s);
    }
    static const size_t rows[] = {0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 26};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; ++r)
        for (size_t n = 16; n <= 112; n += 32) tiles(rows[r], n, 37), tiles(rows[r], n, 256), tiles(rows[r], n, 531);
    static const struct tried *const int4[] = {&W4A16, &W4A8};
    static const float values[] = {INFINITY, -INFINITY, NAN};
    for (size_t one = 0; one < 2; ++one) {
        for (unsigned kind = 1; kind < 7; ++kind)
            for (uint32_t form = 0; form < 12; ++form) grouped(int4[one], 5, 32, 256, 32, form / 3, form % 3, kind);
        for (uint32_t form = 0; form < 12; ++form) unbounded(int4[one], form % 4, values[form / 4]);
    }
}

int main(int count, char **words) {
    wanted = count > 1 ? words[1] : NULL;
    if (count < 3 || strcmp(words[2], "large")) small();
    large();
    puts(off ? "off" : "all within their bounds");
    return off;
}
