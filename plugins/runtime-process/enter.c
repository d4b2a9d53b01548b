#define _GNU_SOURCE
#include "enter.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "record.h"
#include "stage.h"

#define ENVIRON_MAX (8 << 20)

/* setns, unless we are there already. */
static int join(int process, const char *name, int kind) {
  char own[32];
  struct stat theirs, ours;
  const int fd = openat(process, name, O_RDONLY | O_CLOEXEC);
  snprintf(own, sizeof own, "/proc/self/%s", name);
  if (fd < 0 || fstat(fd, &theirs) != 0 || stat(own, &ours) != 0) return errno;
  const int error =
      (theirs.st_ino == ours.st_ino && theirs.st_dev == ours.st_dev) || setns(fd, kind) == 0 ? 0 : errno;
  close(fd);
  return error;
}

int join_namespaces(int process) {
  const int error = join(process, "ns/user", CLONE_NEWUSER);
  return error ? error : join(process, "ns/mnt", CLONE_NEWNS);
}

/* The app's environment, straight from the kernel into memory that is not dumped, and then into execve. */
static char **read_environ(int process) {
  const int fd = openat(process, "environ", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return NULL;
  char *data = mmap(NULL, ENVIRON_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return NULL;
  madvise(data, ENVIRON_MAX, MADV_DONTDUMP);
  (void)mlock2(data, ENVIRON_MAX, MLOCK_ONFAULT);
  size_t used = 0, n = 0;
  ssize_t got;
  while (used < ENVIRON_MAX - 1 && (got = read(fd, data + used, ENVIRON_MAX - 1 - used)) != 0) {
    if (got < 0 && errno != EINTR) return NULL;
    if (got > 0) used += (size_t)got;
  }
  close(fd);
  if (used == ENVIRON_MAX - 1) {
    errno = E2BIG;
    return NULL;
  }
  for (size_t i = 0; i < used; ++i) n += data[i] == 0;
  char **env = calloc(n + 2, sizeof *env);
  if (!env) return NULL;
  n = 0;
  for (char *p = data; p < data + used; p += strlen(p) + 1) env[n++] = p;
  return env;
}

static _Noreturn void become_command(const struct spec *spec, int process, const char *workdir, char **argv,
                                     int channel) {
  reset_signals();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  setsid();
  umask(022);
  const int cwd = openat(process, "cwd", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (cwd < 0) stage_fail(channel, STEP_ENTER, errno, 0);
  int error = join_namespaces(process);
  if (error) stage_fail(channel, STEP_ENTER, error, 0);
  error = become_user(spec);
  if (error) stage_fail(channel, STEP_USER, error, 0);
  prctl(PR_SET_DUMPABLE, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (fchdir(cwd) != 0 || (*workdir && chdir(workdir) != 0)) stage_fail(channel, STEP_WORKDIR, errno, 0);
  char **env = read_environ(process);
  if (!env) stage_fail(channel, STEP_ENVIRON, errno, 0);
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) stage_fail(channel, STEP_SETUP, errno, 0);
  send_message(channel, STEP_READY, 0, 0);
  stage_fail(channel, STEP_EXEC, exec_in_path(argv, env), 0);
}

/* A pidfd of the very process that the record names, or -1. */
static int open_process(const char *record, const char *key, pid_t *pid) {
  uint64_t start;
  if (record_process(record, key, pid, &start) != 0) return -1;
  const int fd = (int)syscall(SYS_pidfd_open, *pid, 0);
  if (fd >= 0 && process_start(*pid) == start) return fd;
  if (fd >= 0) close(fd);
  errno = ESRCH;
  return -1;
}

struct running open_running(struct spec *spec) {
  char record[512], boot[64], path[32];
  pid_t app, supervisor;
  if (spec_load(FD_FOLDER, spec) != 0) stage_fail(FD_STATUS, STEP_SPEC, 0, 0);
  if (read_text_at(FD_FOLDER, "run", record, sizeof record) < 0 || boot_id(boot) != 0 ||
      !strstr(record, boot))
    stage_fail(FD_STATUS, STEP_ENTER, ESRCH, 0);
  const int guard = open_process(record, "supervisor", &supervisor);
  const int target = open_process(record, "app", &app);
  if (guard < 0 || target < 0) stage_fail(FD_STATUS, STEP_ENTER, ESRCH, 0);
  snprintf(path, sizeof path, "/proc/%d", (int)app);
  const int process = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
  struct pollfd gone = {target, POLLIN, 0}; /* alive after the open, so the folder is its own */
  if (process < 0 || poll(&gone, 1, 0) != 0) stage_fail(FD_STATUS, STEP_ENTER, ESRCH, 0);
  close(target);
  return (struct running){guard, process};
}

int enter(const char *workdir, char **argv) {
  static struct spec spec;
  harden();
  const struct running machine = open_running(&spec);
  const int guard = machine.guard, process = machine.process;
  sigset_t child;
  int channel[2];
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child, NULL);
  const int signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signals < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0 ||
      socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel) != 0)
    stage_fail(FD_STATUS, STEP_SETUP, errno, 0);
  const pid_t command = fork();
  if (command < 0) stage_fail(FD_STATUS, STEP_SETUP, errno, 0);
  if (command == 0) {
    close(channel[0]);
    become_command(&spec, process, workdir, argv, channel[1]);
  }
  close(channel[1]);
  close(process);
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd < 3; ++fd) dup2(null, fd); /* the pipes end with the command */

  int status = 0, ended = 0, ready = 0, stage = channel[0];
  struct supervisor_message failure = {STEP_OK, 0, 0};
  while (!ended) {
    struct pollfd fds[] = {{signals, POLLIN, 0}, {stage, POLLIN, 0}, {guard, POLLIN, 0}, {FD_STATUS, 0, 0}};
    poll(fds, 4, -1);
    if (fds[2].revents || fds[3].revents) kill(command, SIGKILL);
    struct signalfd_siginfo info;
    while (read(signals, &info, sizeof info) > 0) {
    }
    int how;
    for (pid_t pid; !ended && (pid = waitpid(-1, &how, WNOHANG)) > 0;)
      if (pid == command) {
        ended = 1;
        status = how;
      }
    struct supervisor_message got;
    while (stage >= 0) {
      const ssize_t n = recv(stage, &got, sizeof got, MSG_DONTWAIT);
      if (n == (ssize_t)sizeof got) {
        if (got.step == STEP_READY)
          ready = 1;
        else
          failure = got;
        continue;
      }
      if (n < 0 && (errno == EAGAIN || errno == EINTR)) break;
      close(stage);
      stage = -1;
      if (ready && failure.step == STEP_OK) send_message(FD_STATUS, STEP_RUNNING, 0, 0);
    }
  }
  kill_children();
  if (failure.step != STEP_OK)
    send_message(FD_STATUS, failure.step, failure.code, failure.index);
  else
    send_message(FD_STATUS, STEP_OK, WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status), 0);
  return 0;
}
