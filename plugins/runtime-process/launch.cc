#include "launch.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

namespace coffer::runtime_process {
using sdk::Error;

int launch(const Launch &l) {
  // Sources first go above every target, so that no dup2 overwrites the source of the next.
  const int wanted[] = {l.in, l.out, l.err, l.folder, l.alive, l.status};
  Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC)), moved[FD_LAST + 1];
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  if (::posix_spawn_file_actions_init(&actions) != 0) throw std::bad_alloc();
  if (::posix_spawnattr_init(&attributes) != 0) {
    ::posix_spawn_file_actions_destroy(&actions);
    throw std::bad_alloc();
  }
  int error = 0;
  for (int target = 0; target <= FD_LAST && !error; ++target) {
    const int source = wanted[target] >= 0 ? wanted[target] : target < 3 ? null.get() : -1;
    if (source < 0) {
      error = ::posix_spawn_file_actions_addclose(&actions, target);
      continue;
    }
    moved[target] = Fd(::fcntl(source, F_DUPFD_CLOEXEC, FD_LAST + 1));
    error = moved[target] ? ::posix_spawn_file_actions_adddup2(&actions, moved[target].get(), target) : errno;
  }
  sigset_t none, all;
  ::sigemptyset(&none);
  ::sigfillset(&all);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setsigdefault(&attributes, &all);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::vector<char *> argv = {const_cast<char *>("coffer-process-supervisor")};
  for (const std::string &a : l.arguments) argv.push_back(const_cast<char *>(a.c_str()));
  argv.push_back(nullptr);
  char *env[] = {nullptr};
  pid_t pid = -1;
  if (!error) error = ::posix_spawn(&pid, l.supervisor.c_str(), &actions, &attributes, argv.data(), env);
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  if (error)
    throw errno_error(error == EAGAIN || error == ENOMEM || error == EMFILE ? COFFER_RESOURCE_EXHAUSTED
                                                                            : COFFER_FAILED_PRECONDITION,
                      "cannot start " + l.supervisor + " (option 'supervisor')", error);
  return pid;
}

int reap(int pid) {
  int status = 0;
  pid_t got;
  do got = ::waitpid(pid, &status, 0);
  while (got < 0 && errno == EINTR);
  return got == pid && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

namespace {
std::pair<Fd, Fd> both(int result, const int (&fds)[2]) {
  if (result != 0) throw errno_error(COFFER_RESOURCE_EXHAUSTED, "no descriptor left", errno);
  return {Fd(fds[0]), Fd(fds[1])};
}
}  // namespace

std::pair<Fd, Fd> message_pair() {
  int fds[2];
  const int result = ::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds);
  return both(result, fds);
}
std::pair<Fd, Fd> byte_pair() {
  int fds[2];
  const int result = ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds);
  return both(result, fds);
}
std::pair<Fd, Fd> pipe_pair() {
  int fds[2];
  const int result = ::pipe2(fds, O_CLOEXEC);
  return both(result, fds);
}

bool receive(int fd, supervisor_message &out) {
  ssize_t n;
  do n = ::recv(fd, &out, sizeof out, 0);
  while (n < 0 && errno == EINTR);
  return n == static_cast<ssize_t>(sizeof out);
}

}  // namespace coffer::runtime_process
