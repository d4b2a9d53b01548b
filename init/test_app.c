/* test_app.c - the app of coffer-init's tests: static, needs nothing of its image, says what it was given.
 *
 *   env                 its environment, each entry with its NUL
 *   state               what else it was given, one fact a line
 *   wait                until SIGTERM
 *   setuid UID          the same, as another user without a new program */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static void quit(int s) {
  (void)s;
  _exit(0);
}

static int state(int argc, char **argv) {
  char cwd[4096], byte;
  struct stat in;
  printf("args");
  for (int i = 2; i < argc; ++i) printf(" %s", argv[i]);
  printf("\npid %d\nuser %u:%u files %d:%d\n", (int)getpid(), (unsigned)geteuid(), (unsigned)getegid(),
         setfsuid((uid_t)-1), setfsgid((gid_t)-1));
  printf("cwd %s\n", getcwd(cwd, sizeof cwd) ? cwd : "?");
  if (fstat(0, &in) == 0 && S_ISCHR(in.st_mode))
    printf("stdin device %u:%u, reads %d\n", major(in.st_rdev), minor(in.st_rdev), (int)read(0, &byte, 1));
  unsigned long mask = 0, action[8];
  syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, 8);
  printf("blocked %lx\nnot default", mask);
  for (int s = 1; s <= 64; ++s)
    if (syscall(SYS_rt_sigaction, s, NULL, action, 8) == 0 && action[0] != 0) printf(" %d", s);
  printf("\nopen");
  for (int fd = 0; fd < 256; ++fd)
    if (fcntl(fd, F_GETFD) >= 0) printf(" %d", fd);
  printf("\n");
  return 0;
}

int main(int argc, char **argv, char **env) {
  const char *mode = argc > 1 ? argv[1] : "";
  if (!strcmp(mode, "env")) {
    for (; *env; ++env) fwrite(*env, 1, strlen(*env) + 1, stdout);
    return 0;
  }
  if (!strcmp(mode, "state")) return state(argc, argv);
  signal(SIGTERM, quit);
  if (!strcmp(mode, "setuid") && argc > 2) {
    const uid_t uid = (uid_t)atoi(argv[2]);
    if (setresgid(uid, uid, uid) != 0 || setresuid(uid, uid, uid) != 0) return 1;
  } else if (strcmp(mode, "wait") != 0) {
    return 2;
  }
  (void)!write(1, "ready\n", 6);
  for (;;) pause();
}
