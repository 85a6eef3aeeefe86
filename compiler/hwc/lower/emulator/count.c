// A plugin for qemu's user mode: counts the instructions that the emulated core executes, in word 0 of a shared file.
// Declares the few functions of qemu's plugin interface that it needs; Debian ships no header.
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "wire.h"

typedef uint64_t plugin_id;
struct plugin_tb;
enum plugin_op { ADD_U64 = 0 };

extern size_t qemu_plugin_tb_n_insns(const struct plugin_tb *);
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct plugin_tb *, enum plugin_op, void *, uint64_t);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

static uint64_t *counters;

static void translated(plugin_id id, struct plugin_tb *block) {
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &counters[COUNT_NOW], qemu_plugin_tb_n_insns(block));
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, const void *info, int count,
                                                              char **arguments) {
  (void)info, (void)count, (void)arguments;
  void *shared = mmap(NULL, COUNTS_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, COUNTS_FD, 0);
  if (shared == MAP_FAILED) return -1;
  counters = shared;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  return 0;
}
