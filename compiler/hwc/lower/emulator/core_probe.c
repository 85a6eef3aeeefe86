#include "core_probe.h"

#include <setjmp.h>
#include <signal.h>
#include <stdio.h>

static sigjmp_buf trapped;

static void on_trap(int number) { siglongjmp(trapped, number); }

// Whether the core executes two instructions; they are encoded here, as the assembler need not know them.
#define EXECUTES(first, second) \
  (sigsetjmp(trapped, 1) == 0   \
       ? ({ __asm__ volatile(".4byte " first "\n.4byte " second ::: "t0", "t1", "ft0", "memory"); 1; }) : 0)
#define NOP "0x00000013"

uint32_t core_vlen_bits(void) {
  signal(SIGILL, on_trap);
  uint64_t bytes = 0;
  if (sigsetjmp(trapped, 1) == 0)
    __asm__ volatile(".4byte 0xc22022f3\n mv %0, t0" : "=r"(bytes)::"t0"); // csrr t0, vlenb
  else
    bytes = 0;
  signal(SIGILL, SIG_DFL); // whatever traps from here on is no probe: it ends the program
  return (uint32_t)(bytes * 8);
}

static void print(const char *name, int is_there) {
  if (is_there) printf(", \"%s\"", name);
}

void core_print(void) {
  uint32_t vlen_bits = core_vlen_bits();
  signal(SIGILL, on_trap);
  printf("{\"vlen_bits\": %u, \"extensions\": [", vlen_bits);
  printf("\"i\", \"m\", \"a\", \"f\", \"d\", \"c\""); // this program is made of them
  print("v", vlen_bits != 0);
  print("zba", EXECUTES("0x2062a2b3", NOP));            // sh1add t0, t0, t1
  print("zbb", EXECUTES("0x60029293", NOP));            // clz t0, t0
  print("zbs", EXECUTES("0x286292b3", NOP));            // bset t0, t0, t1
  print("zfhmin", EXECUTES("0xe40002d3", NOP));         // fmv.x.h t0, ft0
  print("zfh", EXECUTES("0x04007053", NOP));            // fadd.h ft0, ft0, ft0
  printf("]}\n");
}
