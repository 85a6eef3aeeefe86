// What the core that this runs on can do, found by doing it.
#ifndef HWC_CORE_PROBE_H
#define HWC_CORE_PROBE_H

#include <stdint.h>

uint32_t core_vlen_bits(void); // 0: no vector registers
void core_print(void);         // all of it, as JSON on stdout

#endif
