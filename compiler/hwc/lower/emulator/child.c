#define _GNU_SOURCE
#include "child.h"
#include "confine.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FIRST_FILE = 3, MOST_FILES = 8, CPU_S = 3600 };
static const rlim_t ADDRESS_BYTES = (rlim_t)256 << 30; // room for the arena beside the emulator's own reservations

static void bound(int resource, rlim_t most) {
  struct rlimit limit;
  if (getrlimit(resource, &limit) == 0 && limit.rlim_max != RLIM_INFINITY && limit.rlim_max < most) most = limit.rlim_max;
  limit.rlim_cur = limit.rlim_max = most;
  setrlimit(resource, &limit);
}

// Between fork and exec: only calls that are safe there.
static void become(char *const arguments[], const int *files, int count, int dies_with_parent) {
  int aside[MOST_FILES];
  for (int i = 0; i < count; ++i) aside[i] = fcntl(files[i], F_DUPFD, FIRST_FILE + MOST_FILES);
  for (int i = 0; i < count; ++i) dup2(aside[i], FIRST_FILE + i); // without close-on-exec, unlike its source
  close_range(FIRST_FILE + (unsigned)count, ~0U, 0);
  int nothing = open("/dev/null", O_RDONLY);
  dup2(nothing, 0);
  dup2(2, 1);
  if (nothing > 2) close(nothing);
  if (dies_with_parent) prctl(PR_SET_PDEATHSIG, SIGKILL);
  signal(SIGINT, SIG_IGN); // Ctrl-C reaches the whole group; the agent ends when its channel closes
  signal(SIGXFSZ, SIG_IGN); // a full file is an error to whoever writes, not an end
  bound(RLIMIT_CPU, CPU_S);
  bound(RLIMIT_CORE, 0);
  bound(RLIMIT_FSIZE, 0);
  bound(RLIMIT_AS, ADDRESS_BYTES);
  confine(); // where the kernel cannot, the bounds above still hold
  execv(arguments[0], arguments);
  _exit(127);
}

pid_t child_start(char *const arguments[], const int *files, int count) {
  // The kernel ties this signal to the thread that forks: in any other thread it would come when the thread ends.
  int in_main_thread = getpid() == gettid();
  pid_t child = count > MOST_FILES ? -1 : fork();
  if (child == 0) become(arguments, files, count, in_main_thread);
  return child;
}

void child_tell(pid_t child) {
  int status = 0;
  pid_t ended;
  while ((ended = waitpid(child, &status, 0)) < 0 && errno == EINTR) continue;
  if (ended != child) return;
  if (WIFSIGNALED(status))
    fprintf(stderr, "emulated chip: the emulator was ended by signal %d (%s)\n", WTERMSIG(status),
            strsignal(WTERMSIG(status)));
  else if (WEXITSTATUS(status) != 0)
    fprintf(stderr, "emulated chip: the emulator exited with status %d\n", WEXITSTATUS(status));
}
