// Stands on the host in an executable's place, as a vendor's driver does: starts the emulated core, hands it the
// executable as it was shipped and has it run each dispatch over its whole grid.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "child.h"
#include "library_abi.h"
#include "mirror.h"
#include "wire.h"

// Of the part that is made for each executable.
extern const uint8_t hwc_elf[], hwc_elf_end[];
extern const uint64_t hwc_identity;                 // the first bytes of its digest
extern const char *const hwc_command[];             // the emulator with its arguments, ended by NULL
extern const dispatch_function hwc_dispatches[];    // one a dispatch; each calls hwc_dispatch with its ordinal
extern const char *const hwc_names[];
extern const uint32_t hwc_dispatch_count;
int hwc_dispatch(uint32_t, const library_environment *, const dispatch_state *, const workgroup_state *);

static struct {
  pid_t agent;
  int channel;
  mirror memory;
  uint64_t *rows;
  hello told;
  dispatch_attrs attrs[MAX_EXPORTS];
  pthread_mutex_t lock;
} chip = {.agent = -1, .channel = -1, .lock = PTHREAD_MUTEX_INITIALIZER};

static int transfer(int is_send, void *bytes, size_t count) {
  for (uint8_t *at = bytes; count;) {
    ssize_t moved = is_send ? send(chip.channel, at, count, MSG_NOSIGNAL) : recv(chip.channel, at, count, 0);
    if (moved < 0 && errno == EINTR) continue;
    if (moved <= 0) return 0;
    at += moved, count -= (size_t)moved;
  }
  return 1;
}

static int open_elf(void) {
  size_t bytes = (size_t)(hwc_elf_end - hwc_elf);
  int file = memfd_create("hwc-executable", MFD_CLOEXEC);
  for (size_t at = 0; file >= 0 && at < bytes;) {
    ssize_t put = write(file, hwc_elf + at, bytes - at);
    if (put <= 0) return close(file), -1;
    at += (size_t)put;
  }
  return file;
}

static int open_counter(void) {
  int file = memfd_create("hwc-counter", MFD_CLOEXEC);
  return file >= 0 && ftruncate(file, (off_t)COUNTS_BYTES) == 0 ? file : -1;
}

static uint64_t *shared_words(int file, size_t bytes, off_t at) {
  void *found = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, at);
  return found == MAP_FAILED ? NULL : found;
}

// Rows lie in the file HWC_EMULATED_COUNTS names, so that whoever started this process can read them.
static void open_rows(void) {
  const char *path = getenv("HWC_EMULATED_COUNTS");
  int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
  uint64_t *taken = file >= 0 ? shared_words(file, REGIONS_AT, 0) : NULL;
  if (taken) {
    off_t at = (off_t)(REGIONS_AT + REGION_BYTES * __atomic_fetch_add(taken, 1, __ATOMIC_RELAXED));
    if (pwrite(file, "", 1, at + (off_t)REGION_BYTES - 1) == 1) chip.rows = shared_words(file, REGION_BYTES, at);
    munmap(taken, REGIONS_AT);
  }
  if (file >= 0) close(file);
}

static int start(void) {
  int ends[2];
  if (!mirror_open(&chip.memory) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return 0;
  int elf = open_elf(), counter = open_counter();
  if (elf < 0 || counter < 0) return 0;
  open_rows();
  const int files[] = {[ARENA_FD - 3] = chip.memory.file, [CHANNEL_FD - 3] = ends[1], [ELF_FD - 3] = elf,
                       [COUNTS_FD - 3] = counter};
  chip.agent = child_start((char *const *)hwc_command, files, 4);
  close(ends[1]), close(elf), close(counter);
  chip.channel = ends[0];
  return chip.agent > 0;
}

static void stop(void) {
  if (chip.channel >= 0) close(chip.channel);
  chip.channel = -1;
  if (chip.agent > 0) child_tell(chip.agent);
  chip.agent = -1;
}

static int greet(void) {
  if (!transfer(0, &chip.told, sizeof(chip.told)) || chip.told.status != HELLO_OK) return 0;
  if (chip.told.export_count != hwc_dispatch_count || chip.told.export_count > MAX_EXPORTS ||
      chip.told.library_constants > MAX_CONSTANTS)
    return 0;
  if (!transfer(0, chip.attrs, chip.told.export_count * sizeof(dispatch_attrs))) return 0;
  for (uint32_t i = 0; i < chip.told.export_count; ++i) {
    if (chip.attrs[i].binding_count > MAX_BINDINGS) return 0;
    chip.attrs[i].local_memory_pages = 0; // the agent has the memory
    chip.attrs[i].parameter_count = 0;
  }
  if (chip.rows) chip.rows[ROW_IDENTITY] = hwc_identity, chip.rows[ROW_EXPORTS] = chip.told.export_count;
  return 1;
}

static int send_request(uint32_t ordinal, const library_environment *environment, const dispatch_state *state,
                        const span *spans) {
  uint8_t message[sizeof(request) + 8 * MAX_CONSTANTS + sizeof(span) * MAX_BINDINGS], *end = message;
  request asked = {
      .ordinal = ordinal,
      .size = {state->workgroup_size_x, state->workgroup_size_y, state->workgroup_size_z},
      .count = {state->workgroup_count_x, state->workgroup_count_y, state->workgroup_count_z},
      .constants = state->constant_count, .library_constants = chip.told.library_constants,
      .bindings = state->binding_count, .arena_bytes = chip.memory.bytes,
  };
  end = mempcpy(end, &asked, sizeof(asked));
  if (asked.constants) end = mempcpy(end, state->constants, asked.constants * 4);
  if (asked.library_constants) end = mempcpy(end, environment->constants, asked.library_constants * 4);
  end = mempcpy(end, spans, asked.bindings * sizeof(span));
  return transfer(1, message, (size_t)(end - message));
}

static void count(uint32_t ordinal, const dispatch_state *state, const reply *answer) {
  if (!chip.rows) return;
  uint64_t *row = &chip.rows[ROW_FIRST + 3 * ordinal];
  row[0] += 1;
  row[1] += (uint64_t)state->workgroup_count_x * state->workgroup_count_y * state->workgroup_count_z;
  row[2] += answer->instructions;
}

int hwc_dispatch(uint32_t ordinal, const library_environment *environment, const dispatch_state *state,
                 const workgroup_state *group) {
  if (group->workgroup_id_x || group->workgroup_id_y || group->workgroup_id_z) return 0; // done with the first
  span spans[MAX_BINDINGS];
  reply answer = {.status = 1};
  pthread_mutex_lock(&chip.lock);
  int done = chip.channel >= 0 && state->binding_count <= MAX_BINDINGS && state->constant_count <= MAX_CONSTANTS &&
             mirror_bring(&chip.memory, state->bindings, state->binding_lengths, state->binding_count, spans) &&
             send_request(ordinal, environment, state, spans) && transfer(0, &answer, sizeof(answer));
  if (done && answer.status == 0) {
    mirror_take_back(&chip.memory);
    count(ordinal, state, &answer);
  } else if (chip.channel >= 0) {
    fprintf(stderr, "emulated chip: dispatch %s failed\n", hwc_names[ordinal]);
    stop();
  }
  pthread_mutex_unlock(&chip.lock);
  return done && answer.status == 0 ? 0 : 1;
}

__attribute__((visibility("default"))) const void *iree_hal_executable_library_query(
    uint32_t version, const library_environment *environment) {
  (void)environment;
  static const library_header header = {.version = LIBRARY_VERSION, .name = "emulated chip"};
  static library stand_in;
  if (version < LIBRARY_VERSION) return NULL;
  pthread_mutex_lock(&chip.lock);
  int ready = chip.channel >= 0 || (start() && greet());
  if (!ready) stop();
  pthread_mutex_unlock(&chip.lock);
  if (!ready) return NULL;
  stand_in = (library){
      .header = &header, .constants.count = chip.told.library_constants,
      .exports = {.count = chip.told.export_count, .functions = hwc_dispatches, .attrs = chip.attrs,
                  .names = hwc_names},
  };
  return &stand_in;
}

__attribute__((destructor)) static void unload(void) {
  pthread_mutex_lock(&chip.lock);
  stop();
  pthread_mutex_unlock(&chip.lock);
}
