/* Prints every float16 and E4M3 code as the float32 bits hwc_kernels.h makes of it, and float32 bits as float16. */
#include <stdio.h>

#include "hwc_kernels.h"
#ifdef __x86_64__
#include <xmmintrin.h>
#endif

static uint32_t bits(float value) {
    union { float f; uint32_t u; } whole = {value};
    return whole.u;
}

int main(void) {
#ifdef __x86_64__
    _mm_setcsr(_mm_getcsr() | 0x8040); /* as on the threads that run kernels: subnormals are flushed */
#endif
    for (uint32_t code = 0; code < 65536; ++code) printf("%u ", bits(hwc_half((uint16_t)code)));
    printf("\n");
    for (uint32_t code = 0; code < 256; ++code) printf("%u ", bits(hwc_e4m3((uint8_t)code)));
    printf("\n");
    for (uint64_t code = 0; code < 4294967296u; code += 65537) {
        union { uint32_t u; float f; } value = {(uint32_t)code};
        printf("%u ", hwc_to_half(value.f));
    }
    printf("\n");
    return 0;
}
