/* Holds the attention kernel to exact sums over shapes, masks and edges; buffers are as large as they must be, so that a
 * sanitizer sees one float too many. Prints what is off; exits 1 if anything is. */
#include "hwc_kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void hwc_attention(const float *, size_t, const float *, size_t, const float *, size_t, const float *, size_t, float *,
                   size_t, size_t, size_t, size_t, size_t, size_t, size_t, size_t, size_t, size_t);

static int off;

static float *numbers(size_t count, float most) {
    float *found = malloc(count * sizeof *found);
    if (!found) exit(2);
    for (size_t at = 0; at < count; ++at) found[at] = ((float)rand() / (float)RAND_MAX * 2.0f - 1.0f) * most;
    return found;
}

enum { CAUSAL, WINDOW, PADDED, OPEN, BIASED, FORBIDDEN, FORMS };

/* The mask of row `row` of `rows` at key `key`: what a decoder, a sliding window, an encoder's padding … make. */
static float mask_of(int form, size_t row, size_t rows, size_t keys, size_t key) {
    const float no = row % 2 ? -INFINITY : -3.4028235e38f;
    const size_t at = keys > rows ? keys / 2 - rows / 2 + row : row;
    switch (form) {
    case CAUSAL: return key <= at ? 0.0f : no;
    case WINDOW: return key <= at && key + 5 > at ? 0.0f : no;
    case PADDED: return key % 3 == 1 ? no : 0.0f;
    case OPEN: return 0.0f;
    case BIASED: return -0.05f * (float)key;
    default: return -3.4028235e38f; /* nothing is allowed: scores vanish beside it, every key counts alike */
    }
}

static void attention(size_t batch, size_t heads, size_t rows, size_t mask_rows, size_t keys, size_t width, int form,
                      float most) {
    const size_t all = batch * heads, mask_batches = batch > 1 && form == PADDED ? batch : 1;
    float *q = numbers(all * rows * width, most), *k = numbers(all * keys * width, 1.0f);
    float *v = numbers(all * keys * width, 1.0f), *mask = numbers(mask_batches * mask_rows * keys, 0.0f);
    float *y = numbers(all * rows * width, 9.0f);
    double *weights = malloc(keys * sizeof *weights);
    for (size_t b = 0; b < mask_batches * mask_rows; ++b)
        for (size_t c = 0; c < keys; ++c) mask[b * keys + c] = mask_of(form, b % mask_rows, mask_rows, keys, c);
    const size_t blocks = (rows + HWC_ATTENTION_ROWS - 1) / HWC_ATTENTION_ROWS;
    for (size_t at = 0; at < all * blocks; at += 2) {
        const size_t end = at + 2 < all * blocks ? at + 2 : all * blocks;
        hwc_attention(q, 0, k, 0, v, 0, mask, 0, y, 0, rows, all * blocks, keys, width, heads, mask_batches, mask_rows, at,
                      end);
    }
    for (size_t h = 0; h < all; ++h)
        for (size_t r = 0; r < rows; ++r) {
            const float *own = mask + ((mask_batches == 1 ? 0 : h / heads) * mask_rows + r % mask_rows) * keys;
            double largest = -INFINITY, total = 0;
            for (size_t c = 0; c < keys; ++c) {
                double score = 0;
                for (size_t d = 0; d < width; ++d)
                    score += (double)q[(h * rows + r) * width + d] * k[(h * keys + c) * width + d];
                weights[c] = score + own[c];
                if (weights[c] > largest) largest = weights[c];
            }
            for (size_t c = 0; c < keys; ++c) total += weights[c] = exp(weights[c] - largest);
            for (size_t d = 0; d < width; ++d) {
                double exact = 0;
                for (size_t c = 0; c < keys; ++c) exact += weights[c] / total * v[(h * keys + c) * width + d];
                const float found = y[(h * rows + r) * width + d];
                if (isnan(exact) ? !isnan(found) : !(fabs(found - exact) <= 3e-6 * (1 + most))) {
                    printf("form %d, %zu×%zu, rows %zu, keys %zu, width %zu: %.9g, not %.9g\n", form, batch, heads, rows, keys,
                           width, found, exact);
                    off = 1;
                }
            }
        }
    free(q), free(k), free(v), free(mask), free(y), free(weights);
}

int main(void) {
    static const size_t keys[] = {1, 17, 63, 64, 65, 200}, widths[] = {3, 16, 20, 64, 80, 128, 256};
    for (size_t k = 0; k < sizeof keys / sizeof *keys; ++k)
        for (size_t w = 0; w < sizeof widths / sizeof *widths; ++w)
            for (int form = 0; form < FORMS; ++form) {
                attention(1, 1, 1, 1, keys[k], widths[w], form, 1.0f);
                attention(1, 3, 6, 2, keys[k], widths[w], form, 4.0f);
                attention(2, 2, 37, 37, keys[k], widths[w], form, 1.0f);
            }
    attention(1, 1, 4, 4, 90, 64, CAUSAL, 400.0f); /* scores far apart: one key takes it all */
    puts(off ? "off" : "all within their bounds");
    return off;
}
