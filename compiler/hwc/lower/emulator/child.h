// Starts the emulator as a bounded child process.
#ifndef HWC_CHILD_H
#define HWC_CHILD_H

#include <sys/types.h>

// Starts `arguments` with `files[i]` as file 3 + i and nothing else open beside stdio; returns its id, or -1.
pid_t child_start(char *const arguments[], const int *files, int count);

// Tells on stderr how the child ended, if it did.
void child_tell(pid_t child);

#endif
