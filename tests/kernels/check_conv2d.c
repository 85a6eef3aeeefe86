/* Holds the convolution kernel to exact sums over shapes, strides, paddings and groups, and calls in pieces to the bytes of
 * one; buffers are as large as they must be, so that a sanitizer sees one float too many. Prints what is off; exits 1 if
 * anything is. */
#include "hwc_kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void hwc_conv2d(const float *, size_t, const float *, size_t, const float *, size_t, float *, size_t, size_t, size_t, size_t,
                size_t, size_t, size_t, size_t, size_t, size_t, size_t, size_t, size_t, size_t, size_t, size_t, size_t, size_t,
                size_t);

static int off;

/* Sides of x, of the window, strides, zeros before and behind. */
typedef struct {
    size_t batch, groups, inputs, channels, height, width, kh, kw, sh, sw, top, left, bottom, right;
} shape;

static float *numbers(size_t count) {
    float *found = malloc(count * sizeof *found);
    if (!found) exit(2);
    for (size_t at = 0; at < count; ++at) found[at] = (float)rand() / (float)RAND_MAX * 2.0f - 1.0f;
    return found;
}

static double larger(double a, double b) { return isnan(a) || a > b ? a : b; }

/* One point of the convolution, before pooling. */
static double exact(const shape *s, const float *x, const float *w, const float *bias, size_t image, size_t n, size_t row,
                    size_t column, unsigned form) {
    double sum = form & HWC_CONV2D_BIAS ? bias[n] : 0.0;
    const size_t group = n / (s->channels / s->groups);
    for (size_t i = 0; i < s->inputs; ++i)
        for (size_t r = 0; r < s->kh; ++r)
            for (size_t c = 0; c < s->kw; ++c) {
                const size_t at_r = row * s->sh + r - s->top, at_c = column * s->sw + c - s->left;
                if (at_r >= s->height || at_c >= s->width) continue; /* below 0 too: they are unsigned */
                const size_t plane = (image * s->groups + group) * s->inputs + i;
                sum += (double)x[(plane * s->height + at_r) * s->width + at_c] * w[((n * s->inputs + i) * s->kh + r) * s->kw + c];
            }
    return form & HWC_CONV2D_RELU && sum < 0 ? 0.0 : sum;
}

static void call(const shape *s, const float *x, const float *w, const float *bias, float *y, size_t rows, size_t columns,
                 unsigned form, size_t begin, size_t end) {
    hwc_conv2d(x, 0, w, 0, form & HWC_CONV2D_BIAS ? bias : w, 0, y, 0, s->batch, s->batch * s->channels, s->groups,
               s->inputs, s->channels, s->height, s->width, s->kh, s->kw, s->sh, s->sw, s->top, s->left, rows, columns, form,
               begin, end);
}

static void convolution(shape s, unsigned form, float odd) {
    const size_t rows = (s.height + s.top + s.bottom - s.kh) / s.sh + 1, columns = (s.width + s.left + s.right - s.kw) / s.sw + 1;
    const size_t step = form & HWC_CONV2D_POOL ? 2 : 1, y_rows = rows / step, y_columns = columns / step;
    if (!y_rows || !y_columns) return;
    const size_t units = s.batch * s.channels, count = units * y_rows * y_columns;
    const size_t x_count = s.batch * s.groups * s.inputs * s.height * s.width;
    float *x = numbers(x_count), *w = numbers(s.channels * s.inputs * s.kh * s.kw);
    float *bias = numbers(s.channels), *y = numbers(count), *pieces = numbers(count);
    if (odd != 0.0f) x[x_count / 3] = odd;
    if (isinf(odd)) x[x_count - 1] = -odd; /* of two NaN, which one is kept is the compiler's choice */
    call(&s, x, w, bias, y, rows, columns, form, 0, units);
    for (size_t at = 0, size = 1; at < units; at += size, size = size % 5 + 1)
        call(&s, x, w, bias, pieces, rows, columns, form, at, at + size < units ? at + size : units);
    int wrong = memcmp(y, pieces, count * sizeof *y) != 0;
    const double bound = 2e-7 * (4.0 + (double)(s.inputs * s.kh * s.kw));
    for (size_t at = 0; at < count && !wrong; ++at) {
        const size_t column = at % y_columns, row = at / y_columns % y_rows, unit = at / y_columns / y_rows;
        double largest = -INFINITY;
        for (size_t part = 0; part < step * step; ++part)
            largest = larger(exact(&s, x, w, bias, unit / s.channels, unit % s.channels, row * step + part / 2,
                                   column * step + part % 2, form), largest);
        wrong = isnan(largest) ? !isnan(y[at]) : isinf(largest) ? y[at] != (float)largest : !(fabs(y[at] - largest) <= bound);
    }
    if (wrong)
        printf("batch %zu, %zu groups of %zu, %zu channels, %zu×%zu, window %zu×%zu, stride %zu×%zu, form %u\n", s.batch,
               s.groups, s.inputs, s.channels, s.height, s.width, s.kh, s.kw, s.sh, s.sw, form);
    off |= wrong;
    free(x), free(w), free(bias), free(y), free(pieces);
}

static size_t any(size_t from, size_t to) { return from + (size_t)rand() % (to - from + 1); }

int main(void) {
    static const shape usual[] = {
        {2, 1, 3, 16, 32, 32, 3, 3, 1, 1, 1, 1, 1, 1},  {1, 1, 16, 32, 16, 16, 3, 3, 1, 1, 1, 1, 1, 1},
        {1, 1, 3, 8, 40, 40, 7, 7, 2, 2, 3, 3, 3, 3},   {1, 1, 40, 6, 28, 28, 3, 3, 1, 1, 1, 1, 1, 1},
        {2, 1, 130, 12, 7, 7, 1, 1, 1, 1, 0, 0, 0, 0},  {1, 1, 20, 9, 14, 14, 1, 1, 2, 2, 0, 0, 0, 0},
        {1, 1, 96, 5, 7, 7, 3, 3, 1, 1, 1, 1, 1, 1},    {1, 4, 6, 16, 9, 11, 3, 3, 1, 1, 1, 1, 1, 1},
        {1, 8, 1, 8, 12, 12, 5, 5, 1, 1, 2, 2, 2, 2},   {1, 1, 4, 7, 1, 300, 1, 9, 1, 3, 0, 4, 0, 4},
        {1, 1, 2, 4, 33, 17, 16, 16, 4, 4, 5, 0, 15, 15}, {1, 1, 1, 4, 3, 600, 3, 3, 1, 1, 1, 1, 1, 1},
        {1, 1, 30, 10, 20, 30, 3, 3, 1, 1, 1, 1, 1, 1},  {1, 1, 3, 4, 1, 1, 3, 3, 1, 1, 1, 1, 1, 1},
    };
    for (unsigned form = 0; form < 8; ++form)
        for (size_t at = 0; at < sizeof usual / sizeof *usual; ++at) {
            convolution(usual[at], form, 0.0f);
            convolution(usual[at], form, NAN);
            convolution(usual[at], form, INFINITY);
        }
    for (int at = 0; at < 300; ++at) {
        shape s = {any(1, 3), any(1, 3), any(1, 20), 0, any(1, 40), any(1, 70), any(1, 5), any(1, 5), any(1, 4), any(1, 4),
                   any(0, 3), any(0, 3), any(0, 3), any(0, 3)};
        s.channels = s.groups * any(1, 11);
        if (s.height + s.top + s.bottom < s.kh || s.width + s.left + s.right < s.kw) continue;
        convolution(s, (unsigned)any(0, 7), at % 10 ? 0.0f : NAN);
    }
    puts(off ? "off" : "all within their bounds");
    return off;
}
