// A mirror, in memory shared with the agent, of what dispatches read and write. It is compared before it is used, so
// it can be stale but never wrong; constants are copied once.
#ifndef HWC_MIRROR_H
#define HWC_MIRROR_H

#include <stddef.h>
#include <stdint.h>

#include "wire.h"

typedef struct {
  int file;
  uint8_t *base;
  uint64_t bytes; // of the file
} mirror;

int mirror_open(mirror *into);

// Brings the bindings' bytes in and says where each lies; returns 0 if there is no memory.
int mirror_bring(mirror *into, void *const *bindings, const size_t *lengths, uint32_t count, span *spans);

// Takes back what the last dispatch changed.
void mirror_take_back(mirror *from);

void mirror_close(mirror *gone);

#endif
