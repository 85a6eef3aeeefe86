// The binary interface of an IREE executable, version 6, as both a 64-bit host and the emulated core lay it out.
// Declared here from its public description, so that no IREE header is needed; a wrong layout does not compile.
#ifndef HWC_LIBRARY_ABI_H
#define HWC_LIBRARY_ABI_H

#include <stddef.h>
#include <stdint.h>

#define LIBRARY_VERSION 6u
#define LIBRARY_QUERY "iree_hal_executable_library_query"

typedef struct {
  uint32_t version;
  const char *name;
  uint32_t features;
  uint32_t sanitizer;
} library_header;

typedef struct {
  uint64_t flags;
  uint16_t local_memory_pages;
  uint8_t constant_count;
  uint8_t binding_count;
  uint32_t workgroup_size_x, workgroup_size_y;
  uint16_t workgroup_size_z;
  uint16_t parameter_count;
  uint64_t reserved[5];
} dispatch_attrs;

typedef struct {
  const uint32_t *constants;
  void *import_thunk;
  void *const *imports;
  uint64_t processor[8];
} library_environment;

typedef struct {
  uint32_t workgroup_size_x, workgroup_size_y;
  uint16_t workgroup_size_z;
  uint16_t constant_count;
  uint32_t workgroup_count_x, workgroup_count_y;
  uint16_t workgroup_count_z;
  uint8_t max_concurrency;
  uint8_t binding_count;
  const uint32_t *constants;
  void *const *bindings;
  const size_t *binding_lengths;
} dispatch_state;

typedef struct {
  uint32_t workgroup_id_x, workgroup_id_y;
  uint16_t workgroup_id_z;
  uint16_t reserved;
  uint32_t processor_id;
  void *local_memory;
  uint32_t local_memory_bytes;
} workgroup_state;

typedef int (*dispatch_function)(const library_environment *, const dispatch_state *, const workgroup_state *);

typedef struct {
  uint32_t count;
  const dispatch_function *functions;
  const dispatch_attrs *attrs;
  const void *params, *occupancy;
  const char *const *names;
  const void *tags, *parameter_names, *source_locations, *stage_locations;
} export_table;

typedef struct {
  const library_header *header;
  struct { uint32_t count; const char *const *symbols; } imports;
  export_table exports;
  struct { uint32_t count; } constants;
  struct { uint32_t count; const void *files; } sources;
} library;

typedef const library *(*library_query)(uint32_t, const library_environment *);

_Static_assert(sizeof(void *) == 8, "both sides are 64-bit");
_Static_assert(sizeof(library_header) == 24, "library_header");
_Static_assert(sizeof(dispatch_attrs) == 64, "dispatch_attrs");
_Static_assert(sizeof(library_environment) == 88, "library_environment");
_Static_assert(offsetof(dispatch_state, constants) == 24 && sizeof(dispatch_state) == 48, "dispatch_state");
_Static_assert(offsetof(workgroup_state, local_memory) == 16 && sizeof(workgroup_state) == 32, "workgroup_state");
_Static_assert(offsetof(library, exports) == 24 && sizeof(export_table) == 80, "export_table");
_Static_assert(offsetof(library, constants) == 104 && sizeof(library) == 128, "library");

#endif
