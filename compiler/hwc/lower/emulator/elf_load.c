#include "elf_load.h"

#include <elf.h>
#include <string.h>
#include <sys/mman.h>

enum { MOST_IMAGE_BYTES = 256 << 20, MOST_SEGMENTS = 64, R_RELATIVE = 3 };

typedef struct {
  uint8_t *base;
  uint64_t bytes;
} image;

static int inside(uint64_t offset, uint64_t length, uint64_t whole) {
  return offset <= whole && length <= whole - offset;
}

static const char *header_fault(const uint8_t *file, size_t bytes) {
  const Elf64_Ehdr *header = (const Elf64_Ehdr *)file;
  if (bytes < sizeof(*header) || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) return "not an ELF file";
  if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB) return "not 64-bit LE";
  if (header->e_machine != EM_RISCV || header->e_type != ET_DYN) return "not a RISC-V shared object";
  if (header->e_phentsize != sizeof(Elf64_Phdr) || header->e_phnum > MOST_SEGMENTS || header->e_phoff % 8 != 0 ||
      !inside(header->e_phoff, (uint64_t)header->e_phnum * sizeof(Elf64_Phdr), bytes))
    return "its program headers lie outside";
  return NULL;
}

static const char *map_segments(const uint8_t *file, size_t bytes, image *into) {
  const Elf64_Ehdr *header = (const Elf64_Ehdr *)file;
  const Elf64_Phdr *segments = (const Elf64_Phdr *)(file + header->e_phoff);
  uint64_t end = 0;
  for (int i = 0; i < header->e_phnum; ++i) {
    const Elf64_Phdr *one = &segments[i];
    if (one->p_type == PT_INTERP || one->p_type == PT_TLS) return "it asks for an interpreter or thread storage";
    if (one->p_type != PT_LOAD) continue;
    if (!inside(one->p_offset, one->p_filesz, bytes) || one->p_filesz > one->p_memsz) return "a segment lies outside";
    if (!inside(one->p_vaddr, one->p_memsz, MOST_IMAGE_BYTES)) return "it is larger than 256 MiB";
    if ((one->p_flags & PF_W) && (one->p_flags & PF_X)) return "a segment is writable and executable";
    if (one->p_vaddr + one->p_memsz > end) end = one->p_vaddr + one->p_memsz;
  }
  if (end == 0) return "it has nothing to load";
  into->bytes = (end + 4095) & ~(uint64_t)4095;
  into->base = mmap(NULL, into->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (into->base == MAP_FAILED) return "no memory for it";
  for (int i = 0; i < header->e_phnum; ++i)
    if (segments[i].p_type == PT_LOAD)
      memcpy(into->base + segments[i].p_vaddr, file + segments[i].p_offset, segments[i].p_filesz);
  return NULL;
}

typedef struct {
  uint64_t rela, rela_bytes, symbols, strings, strings_bytes, hash;
} dynamic;

static const char *read_dynamic(const uint8_t *file, const image *loaded, dynamic *found) {
  const Elf64_Ehdr *header = (const Elf64_Ehdr *)file;
  const Elf64_Phdr *segments = (const Elf64_Phdr *)(file + header->e_phoff);
  for (int i = 0; i < header->e_phnum; ++i) {
    if (segments[i].p_type != PT_DYNAMIC) continue;
    if (!inside(segments[i].p_vaddr, segments[i].p_memsz, loaded->bytes) || segments[i].p_vaddr % 8 != 0)
      return "its dynamic table lies outside";
    const Elf64_Dyn *entry = (const Elf64_Dyn *)(loaded->base + segments[i].p_vaddr);
    for (uint64_t left = segments[i].p_memsz / sizeof(*entry); left && entry->d_tag != DT_NULL; --left, ++entry) {
      uint64_t value = entry->d_un.d_val;
      switch (entry->d_tag) {
        case DT_RELA: found->rela = value; break;
        case DT_RELASZ: found->rela_bytes = value; break;
        case DT_SYMTAB: found->symbols = value; break;
        case DT_STRTAB: found->strings = value; break;
        case DT_STRSZ: found->strings_bytes = value; break;
        case DT_HASH: found->hash = value; break;
        case DT_NEEDED: case DT_REL: case DT_RELR: case DT_JMPREL: case DT_INIT: case DT_INIT_ARRAY: case DT_TEXTREL:
          return "it needs other libraries, initialisers or other than relative relocations";
        default: break;
      }
    }
  }
  return found->symbols && found->strings && found->hash ? NULL : "it has no table of symbols";
}

static const char *relocate(const image *loaded, const dynamic *found) {
  if (found->rela_bytes == 0) return NULL;
  if (!inside(found->rela, found->rela_bytes, loaded->bytes) || found->rela % 8 != 0)
    return "its relocations lie outside";
  const Elf64_Rela *entry = (const Elf64_Rela *)(loaded->base + found->rela);
  for (uint64_t left = found->rela_bytes / sizeof(*entry); left; --left, ++entry) {
    if (ELF64_R_TYPE(entry->r_info) != R_RELATIVE) return "it has other than relative relocations";
    if (!inside(entry->r_offset, 8, loaded->bytes) || (uint64_t)entry->r_addend > loaded->bytes)
      return "a relocation points outside";
    uint64_t address = (uint64_t)(loaded->base + entry->r_addend);
    memcpy(loaded->base + entry->r_offset, &address, 8);
  }
  return NULL;
}

static void *symbol(const image *loaded, const dynamic *found, const char *name) {
  if (!inside(found->hash, 8, loaded->bytes) || !inside(found->strings, found->strings_bytes, loaded->bytes)) return NULL;
  uint32_t count;
  memcpy(&count, loaded->base + found->hash + 4, 4); // a hash table's chains are as many as the symbols
  if (!inside(found->symbols, (uint64_t)count * sizeof(Elf64_Sym), loaded->bytes)) return NULL;
  size_t length = strlen(name) + 1;
  for (uint32_t i = 0; i < count; ++i) {
    Elf64_Sym one;
    memcpy(&one, loaded->base + found->symbols + i * sizeof(one), sizeof(one));
    if (one.st_shndx == SHN_UNDEF || !inside(one.st_name, length, found->strings_bytes)) continue;
    if (memcmp(loaded->base + found->strings + one.st_name, name, length) == 0 && one.st_value < loaded->bytes)
      return loaded->base + one.st_value;
  }
  return NULL;
}

static const char *protect(const uint8_t *file, const image *loaded) {
  const Elf64_Ehdr *header = (const Elf64_Ehdr *)file;
  const Elf64_Phdr *segments = (const Elf64_Phdr *)(file + header->e_phoff);
  for (int i = 0; i < header->e_phnum; ++i) {
    if (segments[i].p_type != PT_LOAD || !(segments[i].p_flags & PF_X)) continue;
    uint64_t first = segments[i].p_vaddr & ~(uint64_t)4095;
    uint64_t last = (segments[i].p_vaddr + segments[i].p_memsz + 4095) & ~(uint64_t)4095;
    if (mprotect(loaded->base + first, last - first, PROT_READ | PROT_EXEC) != 0) return "its code cannot be protected";
    __builtin___clear_cache((char *)loaded->base + first, (char *)loaded->base + last);
  }
  return NULL;
}

void *elf_load(const uint8_t *file, size_t bytes, const char *name, const char **why) {
  image loaded;
  dynamic found = {0};
  if ((*why = header_fault(file, bytes)) || (*why = map_segments(file, bytes, &loaded)) ||
      (*why = read_dynamic(file, &loaded, &found)) || (*why = relocate(&loaded, &found)) ||
      (*why = protect(file, &loaded)))
    return NULL;
  void *address = symbol(&loaded, &found, name);
  if (!address) *why = "it does not export the library's query";
  return address;
}
