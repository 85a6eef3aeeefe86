// Loads a position-independent ELF that needs nothing but relative relocations; every offset is checked, since the
// file may be hostile.
#ifndef HWC_ELF_LOAD_H
#define HWC_ELF_LOAD_H

#include <stddef.h>
#include <stdint.h>

// Returns the address of the dynamic symbol `name`, or NULL with the reason in `*why`.
void *elf_load(const uint8_t *file, size_t bytes, const char *name, const char **why);

#endif
