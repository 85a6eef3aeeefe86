#include "confine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define HERE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define HERE AUDIT_ARCH_AARCH64
#endif

#define OWN_ID 0 // replaced by this process's number
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define REFUSE BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define REFUSE_CALL(name) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1), REFUSE
#define CHANGES_FILES (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_APPEND)

// The emulator opens files to read as it starts, maps memory and makes threads. What is refused: changing files,
// reaching the network or other processes. (One execve is needed to start it; new programs cannot gain privileges.)
static struct sock_filter rules[] = {
    LOAD(arch),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, HERE, 1, 0),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    LOAD(nr),
    REFUSE_CALL(socket), REFUSE_CALL(socketpair), REFUSE_CALL(connect), REFUSE_CALL(bind), REFUSE_CALL(sendto),
    REFUSE_CALL(sendmsg), REFUSE_CALL(ptrace), REFUSE_CALL(process_vm_readv), REFUSE_CALL(process_vm_writev),
    REFUSE_CALL(unlinkat), REFUSE_CALL(renameat2), REFUSE_CALL(mkdirat), REFUSE_CALL(linkat), REFUSE_CALL(symlinkat),
    REFUSE_CALL(fchmod), REFUSE_CALL(fchmodat), REFUSE_CALL(fchownat), REFUSE_CALL(mknodat), REFUSE_CALL(truncate),
    REFUSE_CALL(mount), REFUSE_CALL(umount2), REFUSE_CALL(setxattr), REFUSE_CALL(utimensat),
    REFUSE_CALL(pidfd_send_signal), REFUSE_CALL(pidfd_open), REFUSE_CALL(io_uring_setup), REFUSE_CALL(bpf),
    REFUSE_CALL(openat2), REFUSE_CALL(execveat),
#if defined(__x86_64__)
    REFUSE_CALL(open), REFUSE_CALL(creat), REFUSE_CALL(unlink), REFUSE_CALL(rename), REFUSE_CALL(renameat),
    REFUSE_CALL(mkdir), REFUSE_CALL(rmdir), REFUSE_CALL(link), REFUSE_CALL(symlink), REFUSE_CALL(chmod),
    REFUSE_CALL(chown), REFUSE_CALL(mknod), REFUSE_CALL(fork), REFUSE_CALL(vfork),
    BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1), REFUSE, // the x32 interface, under other numbers
#endif
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 3),
    LOAD(args[2]),
    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CHANGES_FILES, 0, 1), REFUSE,
    LOAD(nr),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_kill, 0, 3),
    LOAD(args[0]),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OWN_ID, 1, 0), REFUSE, // a trap of the code is sent to the emulator itself
    ALLOW,
};

int confine(void) {
  const size_t count = sizeof(rules) / sizeof(*rules);
  rules[count - 3].k = (uint32_t)getpid();
  struct sock_fprog program = {.len = (unsigned short)count, .filter = rules};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}
