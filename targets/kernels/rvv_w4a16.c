/* W4A16 products for RISC-V vectors of any length: float32 activations by int4 weights in tiles of 16 columns.
 *
 * Columns lie in the lanes: an activation is a scalar that multiplies a vector of weights, and nothing is summed across
 * lanes. Codes become float32 once for up to six rows of activations, whose sums stay in registers; a group's scale, and
 * what its zeros add, come in when its sums are there. Weights that are not in tiles, or not aligned, and groups that are
 * no multiple of 8 go the portable way.
 *
 * The loop is written in instructions, since compilers that have RISC-V vectors in C (GCC 13, Clang 16) are newer than the
 * cross compilers that distributions ship. It needs V with float32; float16 is widened by integer instructions.
 */
#include "portable.h"

enum { MOST_ROWS = 6, MOST_GROUPS = 64 };

/* What the loop reads, 8 bytes each; its offsets are below. */
struct rvv_tile {
    const uint8_t *codes;   /* the next 8 of k are 64 bytes on */
    const uint16_t *scales; /* 16 a group */
    const void *zeros;      /* as many, int8_t or float16 */
    const float *x, *x_sums; /* first row of activations; [groups, MOST_ROWS] sums of each group's */
    float *y;               /* first row of results, which are added to */
    size_t x_bytes, y_bytes; /* from a row to the next */
    size_t lanes, groups, eights; /* eights of k in a group */
    uint64_t zeros_form, flip; /* `flip` makes two's complement of a word of stored codes */
};

#define SUM_0 "v8"
#define SUM_1 "v10"
#define SUM_2 "v12"
#define SUM_3 "v14"
#define SUM_4 "v16"
#define SUM_5 "v18"
#define ALL_0 "v20"
#define ALL_1 "v22"
#define ALL_2 "v24"
#define ALL_3 "v26"
#define ALL_4 "v28"
#define ALL_5 "v30"
#define EACH_1(of, with) of(0, with)
#define EACH_2(of, with) EACH_1(of, with) of(1, with)
#define EACH_3(of, with) EACH_2(of, with) of(2, with)
#define EACH_4(of, with) EACH_3(of, with) of(3, with)
#define EACH_5(of, with) EACH_4(of, with) of(4, with)
#define EACH_6(of, with) EACH_5(of, with) of(5, with)
#define EACH(rows, of, with) EACH_##rows(of, with)

/* Of one row: its pointer into x is t0 to t5, its scalar ft0 to ft5. */
#define POINT_AT(row, first) "mv t" #row ", " first "\n add " first ", " first ", a7\n "
#define CLEAR(row, registers) "vmv.v.i " registers##_##row ", 0\n "
#define ON(row, bytes) "addi t" #row ", t" #row ", " #bytes "\n "
#define SCALAR(row, at) "flw ft" #row ", 4*" #at "(t" #row ")\n "
#define ADD(row, weights) "vfmacc.vf " SUM_##row ", ft" #row ", " weights "\n "
#define GROUP_SUM(row, of) "flw ft" #row ", 4*" #row "(" of ")\n "
#define LESS_ZERO(row, zeros) "vfnmsac.vf " SUM_##row ", ft" #row ", " zeros "\n "
#define PLUS_OFFSET(row, offsets) "vfmacc.vf " ALL_##row ", ft" #row ", " offsets "\n "
#define SCALED(row, scales) "vfmacc.vv " ALL_##row ", " scales ", " SUM_##row "\n "
#define STORE(row, at) "vle32.v v2, (" at ")\n vfadd.vv v2, v2, " ALL_##row "\n vse32.v v2, (" at ")\n add " at ", " at ", a7\n "

/* The k-th of eight weights in each word of v0, sign and all, by the row's scalars. */
#define K(rows, k, weights)                                                                                           \
    EACH(rows, SCALAR, k)                                                                                             \
    "vsll.vi " weights ", v0, 28-4*" #k "\n vsra.vi " weights ", " weights ", 28\n "                                  \
    "vfcvt.f.x.v " weights ", " weights "\n " EACH(rows, ADD, weights)
/* float16 bits from an address on, widened: the exponent's bias is made up for by 2^112, in fa0, which is exact. */
#define HALVES(from, to)                                                                                              \
    "vle16.v v2, (" from ")\n vsext.vf2 " to ", v2\n vsll.vi " to ", " to ", 13\n "                                   \
    "li t6, -0x70002000\n vand.vx " to ", " to ", t6\n vfmul.vf " to ", " to ", fa0\n addi " from ", " from ", 32\n "

/* v0 codes, v2 and v4 weights by turns, v6 scales; a1 codes, a2 scales, a3 zeros, a4 group sums, a5 groups, a6 eights. */
#define TILE(rows)                                                                                                    \
    ".pushsection .text.hwc_rvv_tile, \"ax\", @progbits\n .balign 4\n .type hwc_rvv_tile_" #rows ", @function\n"      \
    "hwc_rvv_tile_" #rows ":\n "                                                                                      \
    "ld t6, 64(a0)\n vsetvli zero, t6, e32, m2, ta, ma\n lui t6, 0x77800\n fmv.w.x fa0, t6\n "                        \
    "ld a1, 0(a0)\n ld a2, 8(a0)\n ld a3, 16(a0)\n ld a4, 32(a0)\n ld a5, 72(a0)\n "                                  \
    "ld t6, 24(a0)\n ld a7, 48(a0)\n " EACH(rows, POINT_AT, "t6") EACH(rows, CLEAR, ALL)                              \
    "1: ld a6, 80(a0)\n " EACH(rows, CLEAR, SUM)                                                                      \
    "2: vle32.v v0, (a1)\n ld t6, 96(a0)\n vxor.vx v0, v0, t6\n addi a1, a1, 64\n "                                   \
    K(rows, 0, "v2") K(rows, 1, "v4") K(rows, 2, "v2") K(rows, 3, "v4")                                               \
    K(rows, 4, "v2") K(rows, 5, "v4") K(rows, 6, "v2") K(rows, 7, "v4")                                               \
    EACH(rows, ON, 32) "addi a6, a6, -1\n bnez a6, 2b\n "                                                             \
    HALVES("a2", "v6") "ld t6, 88(a0)\n beqz t6, 4f\n " EACH(rows, GROUP_SUM, "a4")                                   \
    "addi t6, t6, -1\n bnez t6, 3f\n "                                                                                \
    "vle8.v v2, (a3)\n vsext.vf4 v4, v2\n vfcvt.f.x.v v4, v4\n addi a3, a3, 16\n "                                    \
    EACH(rows, LESS_ZERO, "v4") "j 4f\n "                                                                             \
    "3: " HALVES("a3", "v4") EACH(rows, PLUS_OFFSET, "v4")                                                            \
    "vmv.v.i v4, -8\n vfcvt.f.x.v v4, v4\n " EACH(rows, LESS_ZERO, "v4")                                              \
    "4: " EACH(rows, SCALED, "v6") "addi a4, a4, 24\n addi a5, a5, -1\n bnez a5, 1b\n "                               \
    "ld t6, 40(a0)\n ld a7, 56(a0)\n " EACH(rows, STORE, "t6")                                                        \
    "ret\n .size hwc_rvv_tile_" #rows ", .-hwc_rvv_tile_" #rows "\n .popsection\n"

__asm__(TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6));
void hwc_rvv_tile_1(const struct rvv_tile *), hwc_rvv_tile_2(const struct rvv_tile *),
    hwc_rvv_tile_3(const struct rvv_tile *), hwc_rvv_tile_4(const struct rvv_tile *),
    hwc_rvv_tile_5(const struct rvv_tile *), hwc_rvv_tile_6(const struct rvv_tile *);

static void multiply(const struct rvv_tile *t, size_t rows) {
    switch (rows) {
    case 1: hwc_rvv_tile_1(t); break;
    case 2: hwc_rvv_tile_2(t); break;
    case 3: hwc_rvv_tile_3(t); break;
    case 4: hwc_rvv_tile_4(t); break;
    case 5: hwc_rvv_tile_5(t); break;
    default: hwc_rvv_tile_6(t);
    }
}

/* Lanes of float32 in two registers, at most a tile's. */
static size_t lanes_of(void) {
    size_t bytes;
    __asm__("csrr %0, vlenb" : "=r"(bytes));
    return bytes / 2 < HWC_TILE ? bytes / 2 : HWC_TILE;
}

/* Columns from n_begin to n_end of some rows, over some groups. */
static void by_tiles(const struct hwc_dequantise_matmul *c, size_t m, size_t rows, size_t first, size_t groups,
                     size_t lanes) {
    float x_sums[MOST_GROUPS * MOST_ROWS];
    for (size_t row = 0; row < rows && c->zeros_form != HWC_ZEROS_NONE; ++row)
        for (size_t group = 0; group < groups; ++group) {
            const float *x = c->x + (m + row) * c->x_stride + (first + group) * c->group;
            float sum = 0.0f;
            for (size_t k = 0; k < c->group; ++k) sum += x[k];
            x_sums[group * MOST_ROWS + row] = sum;
        }
    const size_t zero_bytes = c->zeros_form == HWC_ZEROS_POINT ? 1 : 2;
    const uint8_t *zeros = c->zeros_form == HWC_ZEROS_POINT ? (const uint8_t *)c->zeros : (const uint8_t *)c->offsets;
    for (size_t n = c->n_begin; n < c->n_end; n += HWC_TILE)
        for (size_t lane = 0; lane < HWC_TILE; lane += lanes) {
            const size_t entry = hwc_group_at(c, n + lane, first);
            const struct rvv_tile tile = {
                .codes = c->codes + n * c->row_bytes + first * c->group / 8 * 4 * HWC_TILE + lane * 4,
                .scales = c->scales + entry, .zeros = zeros ? zeros + entry * zero_bytes : NULL,
                .x = c->x + m * c->x_stride + first * c->group, .x_sums = x_sums,
                .y = c->y + m * c->y_stride + n + lane, .x_bytes = c->x_stride * sizeof *c->x,
                .y_bytes = c->y_stride * sizeof *c->y, .lanes = lanes, .groups = groups, .eights = c->group / 8,
                .zeros_form = c->zeros_form, .flip = c->codes_form & HWC_CODES_SIGNED ? 0 : 0x88888888u};
            multiply(&tile, rows);
        }
}

HWC_DEQUANTISE_MATMUL_INT4(hwc_rvv_w4a16) {
    if (!(c->codes_form & HWC_CODES_TILED) || c->group % 8 || (uintptr_t)c->codes % 4) {
        portable_product(c, 4);
        return;
    }
    for (size_t m = 0; m < c->m; ++m)
        for (size_t n = c->n_begin; n < c->n_end; ++n) c->y[m * c->y_stride + n] = 0.0f;
    for (size_t first = 0; first < c->groups; first += MOST_GROUPS)
        for (size_t m = 0; m < c->m; m += MOST_ROWS)
            by_tiles(c, m, c->m - m < MOST_ROWS ? c->m - m : MOST_ROWS, first,
                     c->groups - first < MOST_GROUPS ? c->groups - first : MOST_GROUPS, lanes_of());
}
