// Runs on the emulated core: loads the executable as it was shipped and calls its dispatches as the driver asks.
//   agent probe          prints what the core can do, as JSON
//   agent describe ELF   prints an executable's dispatches, one a line
//   agent serve VLEN     serves the driver until the channel closes; refuses a core whose vector registers are not
//                        VLEN bits long, on which the code would compute wrongly without a fault
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core_probe.h"
#include "elf_load.h"
#include "library_abi.h"
#include "wire.h"

static const volatile uint64_t *instructions_now; // counted by qemu's plugin; NULL without one
static uint8_t *arena;
static uint64_t arena_bytes;

static int take(void *into, size_t bytes) {
  for (uint8_t *at = into; bytes;) {
    ssize_t got = read(CHANNEL_FD, at, bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return 0; // the driver is gone
    at += got, bytes -= (size_t)got;
  }
  return 1;
}

static int give(const void *from, size_t bytes) {
  for (const uint8_t *at = from; bytes;) {
    ssize_t put = write(CHANNEL_FD, at, bytes);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return 0;
    at += put, bytes -= (size_t)put;
  }
  return 1;
}

static int refuse(uint32_t status, uint32_t vlen_bits, const char *why) {
  fprintf(stderr, "emulated chip: the executable is refused: %s\n", why);
  hello told = {.status = status, .vlen_bits = vlen_bits};
  give(&told, sizeof(told));
  return 1;
}

static const library *load(const library_environment *environment, const char **why) {
  struct stat facts;
  if (fstat(ELF_FD, &facts) != 0 || facts.st_size <= 0) return *why = "it cannot be read", NULL;
  const uint8_t *file = mmap(NULL, (size_t)facts.st_size, PROT_READ, MAP_PRIVATE, ELF_FD, 0);
  if (file == MAP_FAILED) return *why = "it cannot be read", NULL;
  library_query query = (library_query)elf_load(file, (size_t)facts.st_size, LIBRARY_QUERY, why);
  if (!query) return NULL;
  const library *found = query(LIBRARY_VERSION, environment);
  if (!found || found->header->version != LIBRARY_VERSION) return *why = "its library is of another version", NULL;
  if (found->imports.count != 0) return *why = "it imports functions", NULL;
  if (found->exports.count == 0 || found->exports.count > MAX_EXPORTS || !found->exports.attrs)
    return *why = "it exports no dispatches, or too many", NULL;
  return found;
}

static int map_arena(uint64_t bytes) {
  if (bytes <= arena_bytes) return 1;
  if (arena) munmap(arena, arena_bytes);
  arena = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ARENA_FD, 0);
  arena_bytes = arena == MAP_FAILED ? 0 : bytes;
  return arena_bytes != 0;
}

static int run_grid(dispatch_function function, const library_environment *environment, const dispatch_state *state,
                    uint32_t local_bytes) {
  static void *local;
  static uint32_t reserved_bytes;
  if (local_bytes > reserved_bytes) {
    free(local);
    reserved_bytes = local_bytes;
    if (!(local = aligned_alloc(4096, local_bytes))) return 1;
  }
  workgroup_state group = {.local_memory = local, .local_memory_bytes = local_bytes};
  int status = 0;
  for (uint32_t z = 0; z < state->workgroup_count_z; ++z)
    for (uint32_t y = 0; y < state->workgroup_count_y; ++y)
      for (uint32_t x = 0; x < state->workgroup_count_x && !status; ++x) {
        group.workgroup_id_x = x, group.workgroup_id_y = y, group.workgroup_id_z = (uint16_t)z;
        status = function(environment, state, &group);
      }
  return status;
}

static int serve_one(const library *code, library_environment *environment, const request *asked, reply *answer) {
  static uint32_t constants[MAX_CONSTANTS], library_constants[MAX_CONSTANTS];
  static span spans[MAX_BINDINGS];
  static void *bindings[MAX_BINDINGS];
  static size_t lengths[MAX_BINDINGS];
  if (asked->constants > MAX_CONSTANTS || asked->library_constants > MAX_CONSTANTS ||
      asked->bindings > MAX_BINDINGS || asked->ordinal >= code->exports.count)
    return 0;
  if (!take(constants, asked->constants * 4) || !take(library_constants, asked->library_constants * 4) ||
      !take(spans, asked->bindings * sizeof(span)) || !map_arena(asked->arena_bytes))
    return 0;
  for (uint32_t i = 0; i < asked->bindings; ++i) {
    bindings[i] = spans[i].offset == NO_MEMORY ? NULL : arena + spans[i].offset;
    lengths[i] = spans[i].bytes;
  }
  environment->constants = library_constants;
  dispatch_state state = {
      .workgroup_size_x = asked->size[0], .workgroup_size_y = asked->size[1],
      .workgroup_size_z = (uint16_t)asked->size[2], .constant_count = (uint16_t)asked->constants,
      .workgroup_count_x = asked->count[0], .workgroup_count_y = asked->count[1],
      .workgroup_count_z = (uint16_t)asked->count[2], .max_concurrency = 1,
      .binding_count = (uint8_t)asked->bindings, .constants = constants, .bindings = bindings,
      .binding_lengths = lengths,
  };
  uint32_t local_bytes = code->exports.attrs[asked->ordinal].local_memory_pages * 4096u;
  uint64_t before = instructions_now ? *instructions_now : 0;
  answer->status = run_grid(code->exports.functions[asked->ordinal], environment, &state, local_bytes);
  answer->instructions = instructions_now ? *instructions_now - before : 0;
  return 1;
}

static int serve(uint32_t needed_vlen_bits) {
  uint32_t vlen_bits = core_vlen_bits();
  char told[96];
  snprintf(told, sizeof(told), "it is made for %u-bit vector registers, the core's have %u", needed_vlen_bits, vlen_bits);
  if (needed_vlen_bits && needed_vlen_bits != vlen_bits) return refuse(HELLO_VLEN, vlen_bits, told);
  void *counts = mmap(NULL, COUNTS_BYTES, PROT_READ, MAP_SHARED, COUNTS_FD, 0);
  instructions_now = counts == MAP_FAILED ? NULL : counts;
  static library_environment environment[2]; // the second is room for fields of a newer one
  const char *why = "";
  const library *code = load(environment, &why);
  if (!code) return refuse(HELLO_ELF, vlen_bits, why);
  hello greeting = {
      .status = HELLO_OK, .vlen_bits = vlen_bits,
      .export_count = code->exports.count, .library_constants = code->constants.count,
  };
  if (!give(&greeting, sizeof(greeting)) || !give(code->exports.attrs, code->exports.count * sizeof(dispatch_attrs)))
    return 1;
  request asked;
  while (take(&asked, sizeof(asked))) {
    reply answer = {0};
    if (!serve_one(code, environment, &asked, &answer) || !give(&answer, sizeof(answer))) return 1;
  }
  return 0;
}

static void print_name(const char *name) {
  for (int i = 0; name && name[i] && i < 256; ++i) putchar(name[i] > ' ' && name[i] < 127 ? name[i] : '?');
  putchar('\n');
}

static int describe(const char *path) {
  static library_environment environment[2];
  const char *why = "it cannot be opened";
  int file = open(path, O_RDONLY);
  if (file >= 0 && file != ELF_FD) dup2(file, ELF_FD);
  const library *code = file < 0 ? NULL : load(environment, &why);
  if (!code) return fprintf(stderr, "the executable is refused: %s\n", why), 1;
  for (uint32_t i = 0; i < code->exports.count; ++i) print_name(code->exports.names ? code->exports.names[i] : "");
  return 0;
}

int main(int count, char **arguments) {
  if (count == 2 && strcmp(arguments[1], "probe") == 0) return core_print(), 0;
  if (count == 3 && strcmp(arguments[1], "describe") == 0) return describe(arguments[2]);
  if (count == 3 && strcmp(arguments[1], "serve") == 0) return serve((uint32_t)strtoul(arguments[2], NULL, 10));
  fprintf(stderr, "usage: agent probe | agent describe ELF | agent serve VLEN\n");
  return 2;
}
