/* W4A16 products: int4 weights in groups by float32 activations.
 *
 * Where a CPU has vectors of bytes (dot4.h), activations become 16-bit block floating point (blocks.h) and codes bytes
 * 0..15; their dot products are exact integers, made float32 once a segment of at most 32 k. Elsewhere, and for groups that
 * are no multiple of 8: portable.h.
 */
#include "portable.h"
#include "dot4.h"

#ifdef DOT4
#include "w4_rows.h"

/* Most k at a time of so many rows: rows of codes are tiled in a buffer that holds less. */
static size_t chunk_of(size_t rows, int tiled) {
    if (rows > 8) return ROOM / MOST_ROWS;
    return tiled && rows <= 4 ? ROOM / (rows == 3 ? 4 : rows) : ROOM / 8;
}

static void multiply(const struct hwc_dequantise_matmul *c) {
    row_blocks x;
    const int tiled = c->codes_form & HWC_CODES_TILED;
    for (size_t m = 0; m < c->m; m += MOST_ROWS) {
        const size_t rows = c->m - m < MOST_ROWS ? c->m - m : MOST_ROWS, chunk = chunk_of(rows, tiled);
        const int few = !tiled && rows < FEWEST_TILED && lanes_fit(c);
        for (size_t begin = 0; begin < c->k; begin += chunk) {
            const part p = {.m = m, .rows = rows, .begin = begin, .end = c->k - begin < chunk ? c->k : begin + chunk};
            x.k = (p.end - begin + STEP - 1) / STEP * STEP;
            x.summed = few ? 1 : segment_of(c->group) / 8;
            for (size_t row = 0; row < p.rows;) {
                const size_t together = few ? 1 : together_of(p.rows - row);
                for (size_t one = 0; one < together; ++one)
                    block_row(c->x + (m + row + one) * c->x_stride + begin, p.end - begin, &x, few ? BY_VECTOR : BY_EIGHT,
                              row, one, together);
                row += together;
            }
            if (tiled) by_tiles(c, &x, &p);
            else if (few) by_rows(c, &x, &p);
            else by_tiled_rows(c, &x, &p);
        }
    }
}
#define FAST(c) ((c)->group % 8 == 0)
#else
static inline void multiply(const struct hwc_dequantise_matmul *c) { (void)c; }
#define FAST(c) 0
#endif

HWC_DEQUANTISE_MATMUL_INT4(hwc_w4a16) {
    if (FAST(c)) multiply(c);
    else portable_product(c, 4);
}
