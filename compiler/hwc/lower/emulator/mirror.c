#define _GNU_SOURCE
#include "mirror.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096, CHUNK_BYTES = 64 << 10, MOST_RANGES = 512 };
#define FIRST_BYTES ((uint64_t)64 << 20)

typedef struct {
  uint8_t *low;
  uint64_t bytes;
  uint64_t offset; // of the arena
} range;

static range kept[MOST_RANGES]; // ranges that have a place in the arena
static int kept_count;
static uint64_t used_bytes;
static int current[MAX_BINDINGS]; // those of the dispatch under way
static int current_count;

int mirror_open(mirror *into) {
  into->file = memfd_create("hwc-emulated-chip", MFD_CLOEXEC);
  into->base = NULL, into->bytes = 0;
  return into->file >= 0;
}

void mirror_close(mirror *gone) {
  if (gone->base) munmap(gone->base, gone->bytes);
  close(gone->file);
}

static int grow(mirror *into, uint64_t needed) {
  if (needed <= into->bytes) return 1;
  uint64_t bytes = into->bytes ? into->bytes : FIRST_BYTES;
  while (bytes < needed) bytes *= 2;
  if (ftruncate(into->file, (off_t)bytes) != 0) return 0;
  void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, into->file, 0);
  if (base == MAP_FAILED) return 0;
  if (into->base) munmap(into->base, into->bytes);
  into->base = base, into->bytes = bytes;
  return 1;
}

static int by_address(const void *left, const void *right) {
  const range *a = left, *b = right;
  return (a->low > b->low) - (a->low < b->low);
}

// Joins bindings that overlap: mirrored apart, one's stale bytes would undo what was written through the other.
static int join(range *ranges, int count) {
  qsort(ranges, (size_t)count, sizeof(range), by_address);
  int last = 0;
  for (int i = 1; i < count; ++i) {
    uint8_t *end = ranges[last].low + ranges[last].bytes;
    if (ranges[i].low < end) {
      uint8_t *other = ranges[i].low + ranges[i].bytes;
      if (other > end) ranges[last].bytes = (uint64_t)(other - ranges[last].low);
    } else {
      ranges[++last] = ranges[i];
    }
  }
  return count ? last + 1 : 0;
}

static int place(mirror *into, const range *wanted) {
  for (int i = 0; i < kept_count; ++i)
    if (kept[i].low == wanted->low && kept[i].bytes == wanted->bytes) return i;
  uint64_t within = (uintptr_t)wanted->low % PAGE_BYTES; // code may rely on the alignment that the host gave
  uint64_t offset = used_bytes + within;
  uint64_t end = offset + wanted->bytes;
  if (kept_count == MOST_RANGES || !grow(into, end)) return -1;
  used_bytes = (end + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
  kept[kept_count] = (range){.low = wanted->low, .bytes = wanted->bytes, .offset = offset};
  return kept_count++;
}

static int place_all(mirror *into, const range *ranges, int count) {
  for (int attempt = 0; attempt < 2; ++attempt) {
    int i = 0;
    for (current_count = 0; i < count; ++i) {
      int found = place(into, &ranges[i]);
      if (found < 0) break;
      current[current_count++] = found;
    }
    if (i == count) return 1;
    kept_count = 0, used_bytes = 0; // full: forget everything and begin again
  }
  return 0;
}

static void copy_changed(uint8_t *to, const uint8_t *from, uint64_t bytes) {
  for (uint64_t at = 0; at < bytes; at += CHUNK_BYTES) {
    uint64_t part = bytes - at < CHUNK_BYTES ? bytes - at : CHUNK_BYTES;
    if (memcmp(to + at, from + at, part) != 0) memcpy(to + at, from + at, part);
  }
}

int mirror_bring(mirror *into, void *const *bindings, const size_t *lengths, uint32_t count, span *spans) {
  range ranges[MAX_BINDINGS];
  int known = 0;
  for (uint32_t i = 0; i < count; ++i)
    if (bindings[i] && lengths[i]) ranges[known++] = (range){.low = bindings[i], .bytes = lengths[i]};
  known = join(ranges, known);
  if (!place_all(into, ranges, known)) return 0;
  for (int i = 0; i < current_count; ++i) {
    const range *one = &kept[current[i]];
    copy_changed(into->base + one->offset, one->low, one->bytes);
  }
  for (uint32_t i = 0; i < count; ++i) {
    spans[i] = (span){.offset = NO_MEMORY, .bytes = lengths[i]};
    for (int j = 0; j < current_count && bindings[i] && lengths[i]; ++j) {
      const range *one = &kept[current[j]];
      uint8_t *low = bindings[i];
      if (low >= one->low && low < one->low + one->bytes)
        spans[i].offset = one->offset + (uint64_t)(low - one->low);
    }
  }
  return 1;
}

void mirror_take_back(mirror *from) {
  for (int i = 0; i < current_count; ++i) {
    const range *one = &kept[current[i]];
    copy_changed(one->low, from->base + one->offset, one->bytes);
  }
}
