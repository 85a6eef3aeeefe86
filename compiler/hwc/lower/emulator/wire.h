// What the driver on the host and the agent on the emulated core tell each other. Memory is shared, never sent.
#ifndef HWC_WIRE_H
#define HWC_WIRE_H

#include <stdint.h>

enum {
  ARENA_FD = 3,   // memory that both map: what a dispatch reads and writes
  CHANNEL_FD = 4, // requests and replies
  ELF_FD = 5,     // the executable, as it was shipped
  COUNTS_FD = 6,  // the agent's counter: see below
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

// The counter: one word of 64 bits, which qemu's plugin keeps and the agent reads. An agent has its own.
enum { COUNT_NOW = 0 };
#define COUNTS_BYTES 4096ul

// The rows that the driver keeps, in a file that whoever loads the module reads: word 0 is how many regions are taken,
// and each executable that is loaded takes one, in words of 64 bits. Both sizes are whole pages of any host.
enum { ROW_IDENTITY = 0, ROW_EXPORTS = 1, ROW_FIRST = 2 }; // then per export: dispatches, workgroups, instructions
#define REGIONS_AT 65536ul
#define REGION_BYTES 131072ul
_Static_assert((ROW_FIRST + 3 * MAX_EXPORTS) * 8 <= REGION_BYTES, "rows");

_Static_assert(sizeof(hello) == 16 && sizeof(request) == 48 && sizeof(span) == 16 && sizeof(reply) == 16, "wire");

#endif
