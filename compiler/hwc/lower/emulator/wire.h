// What the driver on the host and the agent on the emulated core tell each other. Memory is shared, never sent.
#ifndef HWC_WIRE_H
#define HWC_WIRE_H

#include <stdint.h>

enum {
  ARENA_FD = 3,   // memory that both map: what a dispatch reads and writes
  CHANNEL_FD = 4, // requests and replies
  ELF_FD = 5,     // the executable, as it was shipped
  COUNTS_FD = 6,  // counters: see below
};

enum { MAX_EXPORTS = 4096, MAX_BINDINGS = 64, MAX_CONSTANTS = 256 };

// Refusals of the agent, told in `hello.status`.
enum { HELLO_OK = 0, HELLO_VLEN = 1, HELLO_ELF = 2, HELLO_LIBRARY = 3 };

typedef struct {
  uint32_t status, vlen_bits;
  uint32_t export_count, library_constants;
} hello; // followed by `export_count` dispatch_attrs

typedef struct {
  uint32_t ordinal;
  uint32_t size[3], count[3];
  uint32_t constants, library_constants, bindings;
  uint64_t arena_bytes;
} request; // followed by its constants, the library's constants, and one `span` a binding

typedef struct {
  uint64_t offset, bytes;
} span; // of the arena; offset NO_MEMORY: a null binding

#define NO_MEMORY UINT64_MAX

typedef struct {
  int32_t status;
  uint32_t reserved;
  uint64_t instructions; // of the dispatch, over its whole grid; 0 where nothing counts
} reply;

// The counters' file: words of 64 bits. Word 0 is kept by qemu's plugin, the rest by the driver.
enum { COUNT_NOW = 0, COUNT_EXPORTS = 1, COUNT_FIRST = 2 }; // then per export: dispatches, workgroups, instructions
#define COUNTS_BYTES ((uint64_t)(COUNT_FIRST + 3 * MAX_EXPORTS) * 8)

_Static_assert(sizeof(hello) == 16 && sizeof(request) == 48 && sizeof(span) == 16 && sizeof(reply) == 16, "wire");

#endif
