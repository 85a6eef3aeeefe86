// A plugin for qemu's user mode: counts the instructions that the emulated core executes, in word 0 of a shared file.
// Declares the few functions of qemu's plugin interface that it needs; Debian ships no header. They differ by version:
// before 9.0 a block adds to any address by code of its own; since then it does so to memory of qemu's alone, and here
// calls us instead. What a version lacks is a null pointer here.
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "wire.h"

typedef uint64_t plugin_id;
struct plugin_tb;
enum plugin_op { ADD_U64 = 0 };
enum callback_flags { NO_REGISTERS = 0 };
enum { WITH_INLINE = 1, WITH_SCOREBOARDS = 2 }; // of the interface

extern size_t qemu_plugin_tb_n_insns(const struct plugin_tb *);
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct plugin_tb *, void (*)(unsigned, void *), enum callback_flags,
                                                 void *);
extern __attribute__((weak)) void qemu_plugin_register_vcpu_tb_exec_inline(struct plugin_tb *, enum plugin_op, void *,
                                                                           uint64_t);

__attribute__((visibility("default"))) int qemu_plugin_version = WITH_INLINE;

static uint64_t *counters;

// Before qemu reads the version: each refuses what is too old or too new for it.
__attribute__((constructor)) static void choose_version(void) {
  if (!qemu_plugin_register_vcpu_tb_exec_inline) qemu_plugin_version = WITH_SCOREBOARDS;
}

static void executed(unsigned core, void *instructions) {
  (void)core;
  counters[COUNT_NOW] += (uint64_t)(uintptr_t)instructions;
}

static void translated(plugin_id id, struct plugin_tb *block) {
  (void)id;
  size_t instructions = qemu_plugin_tb_n_insns(block);
  if (qemu_plugin_register_vcpu_tb_exec_inline)
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &counters[COUNT_NOW], instructions);
  else
    qemu_plugin_register_vcpu_tb_exec_cb(block, executed, NO_REGISTERS, (void *)instructions);
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
