/* What Acme's kernels share: one output element at a time, sums in four lanes as the chip's array keeps them. */
#ifndef ACME_H
#define ACME_H

#include "hwc_kernels.h"

#define ACME_LANES 4

/* Sum of term(k) over k; lane by lane, as the order of a sum is part of its result. */
#define ACME_SUM(sum, extent, k, term)                      \
    do {                                                    \
        float lanes[ACME_LANES] = {0};                      \
        for (size_t k = 0; k < (extent); ++k)               \
            lanes[k % ACME_LANES] += (term);                \
        (sum) = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]); \
    } while (0)

#endif
