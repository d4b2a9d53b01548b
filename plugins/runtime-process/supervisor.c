/* coffer-process-supervisor: stays beside one app of runtime-process until it ends.
 *
 *   run INSTANCE_ID                       starts and keeps the app that the folder on descriptor 3 describes
 *   exec INSTANCE_ID WORKDIR -- CMD ...   runs a command inside a started Machine (enter.c)
 *   update INSTANCE_ID                    puts new values into files of a started Machine (folders.c)
 *   probe                                 exit 0 when a mount namespace can be made here
 *
 * It never holds a value: the boot frame is read by its child, which becomes the app (stage.c).  It runs as
 * long as the app does, so it allocates nothing. */
#define _GNU_SOURCE
#include "supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "enter.h"
#include "folders.h"
#include "record.h"
#include "stage.h"

struct machine {
  pid_t app;
  uint64_t app_start, supervisor_start;
  int64_t started_ns; /* 0 until the app itself runs */
  int ended, wait_status, ready, reported;
  struct supervisor_message failure;
  int stage, out, err, signals; /* descriptors, -1 once closed */
  int64_t kill_at_ms;           /* 0 = no order to stop */
  int log;
  off_t log_size;
};

/* ---- log ---- */
static void open_log(struct machine *m) {
  m->log = openat(FD_FOLDER, "log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
  struct stat st;
  m->log_size = m->log >= 0 && fstat(m->log, &st) == 0 ? st.st_size : 0;
}

/* A full disk must not hold up the app: what cannot be stored is dropped, and the log stays well formed. */
static void append_log(struct machine *m, char stream, char *data, size_t size) {
  char head[64];
  const int head_size = snprintf(head, sizeof head, "%c %lld %zu\n", stream, (long long)wall_ns(), size);
  const off_t whole = head_size + (off_t)size + 1;
  if (m->log >= 0 && m->log_size + whole > LOG_FILE_MAX) {
    close(m->log);
    renameat(FD_FOLDER, "log", FD_FOLDER, "log.1");
    open_log(m);
  }
  if (m->log < 0) return;
  char end[] = "\n";
  const struct iovec parts[] = {{head, (size_t)head_size}, {data, size}, {end, 1}};
  const ssize_t n = writev(m->log, parts, 3);
  if (n == whole)
    m->log_size += whole;
  else if (n > 0 && ftruncate(m->log, m->log_size) != 0)
    m->log_size += n;
}

/* One read; 0 when there is nothing more for now. */
static int pump(struct machine *m, int *fd, char stream) {
  static char buffer[LOG_RECORD_MAX];
  if (*fd < 0) return 0;
  const ssize_t n = read(*fd, buffer, sizeof buffer);
  if (n > 0) {
    append_log(m, stream, buffer, (size_t)n);
    return 1;
  }
  if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
    close(*fd);
    *fd = -1;
  }
  return 0;
}

/* ---- records ---- */
static int write_run(const struct machine *m) {
  char boot[64], text[512];
  if (boot_id(boot) != 0) return errno;
  snprintf(text, sizeof text, "boot_id %s\nsupervisor %d %llu\napp %d %llu\n", boot, (int)getpid(),
           (unsigned long long)m->supervisor_start, (int)m->app, (unsigned long long)m->app_start);
  if (m->started_ns) {
    const size_t used = strlen(text);
    snprintf(text + used, sizeof text - used, "started %lld\n", (long long)m->started_ns);
  }
  return write_text_at(FD_FOLDER, "run", text);
}

static int ordered_to_stop(void) { return faccessat(FD_FOLDER, "stop", F_OK, 0) == 0; }

static void write_exit(const struct machine *m) {
  char text[512];
  const int signaled = WIFSIGNALED(m->wait_status);
  const int code = signaled ? 128 + WTERMSIG(m->wait_status) : WEXITSTATUS(m->wait_status);
  snprintf(text, sizeof text,
           "code %d\nsignal %d\nby_order %d\nstarted %lld\nfinished %lld\nstep %u\nstep_code %d\nindex %u\n",
           code, signaled ? WTERMSIG(m->wait_status) : 0, ordered_to_stop(), (long long)m->started_ns,
           (long long)wall_ns(), m->failure.step, m->failure.code, m->failure.index);
  write_text_at(FD_FOLDER, "exit", text); /* without space for it: inspect tells "no record" */
}

static void report(struct machine *m, uint32_t step, int code, uint32_t index) {
  if (m->reported) return;
  m->reported = 1;
  send_message(FD_STATUS, step, code, index); /* nobody there to hear it: the record says it too */
  close(FD_STATUS);
}

/* ---- the life of an app ---- */
static void follow_stage(struct machine *m) {
  while (m->stage >= 0) {
    struct supervisor_message got;
    const ssize_t n = recv(m->stage, &got, sizeof got, MSG_DONTWAIT);
    if (n == (ssize_t)sizeof got) {
      if (got.step == STEP_READY)
        m->ready = 1;
      else
        m->failure = got;
      continue;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n < 0 && errno == ECONNRESET) continue; /* it ended without reading the go; its message still waits */
    close(m->stage);
    m->stage = -1;
    /* The channel is closed by a successful execve, or by an end before it. */
    if (m->ready && m->failure.step == STEP_OK) {
      m->started_ns = wall_ns();
      const int error = write_run(m);
      if (error) {
        m->failure = (struct supervisor_message){STEP_RECORD, error, 0};
        kill(m->app, SIGKILL);
      } else {
        report(m, STEP_OK, 0, 0);
      }
    } else if (m->failure.step == STEP_OK) {
      m->failure.step = STEP_DIED;
    }
  }
}

/* The order lies in `stop`; each new one repeats the signal and can only shorten the time. */
static void obey(struct machine *m) {
  char text[128];
  if (read_text_at(FD_FOLDER, "stop", text, sizeof text) < 0) return;
  const int64_t at = monotonic_ms() + record_number(text, "timeout_ms", 10000);
  if (!m->kill_at_ms || at < m->kill_at_ms) m->kill_at_ms = at;
  kill(m->app, (int)record_number(text, "signal", SIGTERM));
}

static void follow_signals(struct machine *m) {
  struct signalfd_siginfo info;
  while (read(m->signals, &info, sizeof info) == (ssize_t)sizeof info) {
    if (info.ssi_signo == SIGUSR1) obey(m);
    if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT) { /* the host goes down */
      if (!ordered_to_stop()) write_text_at(FD_FOLDER, "stop", "signal 15\ntimeout_ms 10000\n");
      obey(m);
    }
  }
  int status;
  pid_t pid;
  while (!m->ended && (pid = waitpid(-1, &status, WNOHANG)) > 0)
    if (pid == m->app) {
      m->ended = 1;
      m->wait_status = status;
    }
}

static _Noreturn void give_up(struct machine *m, uint32_t step, int code) {
  if (m->app > 0) kill(m->app, SIGKILL);
  report(m, step, code, 0);
  _exit(125);
}

static void keep(struct machine *m) {
  while (!m->ended) {
    struct pollfd fds[] = {
        {m->signals, POLLIN, 0}, {m->stage, POLLIN, 0}, {m->out, POLLIN, 0}, {m->err, POLLIN, 0}};
    int timeout = -1;
    if (m->kill_at_ms) {
      const int64_t left = m->kill_at_ms - monotonic_ms();
      timeout = left <= 0 ? 0 : left > 3600000 ? 3600000 : (int)left;
      if (left <= 0) {
        kill(m->app, SIGKILL);
        timeout = 1000;
      }
    }
    if (poll(fds, 4, timeout) < 0 && errno != EINTR) give_up(m, STEP_SETUP, errno);
    if (fds[1].revents) follow_stage(m);
    if (fds[2].revents) pump(m, &m->out, 'o');
    if (fds[3].revents) pump(m, &m->err, 'e');
    follow_signals(m);
  }
  kill_children();
  follow_stage(m);
  while (pump(m, &m->out, 'o') || pump(m, &m->err, 'e')) {
  }
  write_exit(m);
  report(m, m->failure.step, m->failure.code, m->failure.index);
}

static int run(const char *instance_id) {
  static struct machine m = {.stage = -1, .out = -1, .err = -1, .log = -1};
  static struct spec spec;
  /* A grandchild of the caller, so that whoever adopts orphans reaps it. */
  const pid_t twin = fork();
  if (twin != 0) _exit(twin < 0 ? 125 : 0);
  setsid();
  harden();
  if (spec_load(FD_FOLDER, &spec) != 0) give_up(&m, STEP_SPEC, 0);

  sigset_t watched;
  sigemptyset(&watched);
  sigaddset(&watched, SIGCHLD);
  sigaddset(&watched, SIGUSR1);
  sigaddset(&watched, SIGTERM);
  sigaddset(&watched, SIGINT);
  sigprocmask(SIG_BLOCK, &watched, NULL);
  signal(SIGHUP, SIG_IGN);
  int stage[2], out[2], err[2];
  m.signals = signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
  if (m.signals < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0 ||
      socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, stage) != 0 || pipe2(out, O_CLOEXEC) != 0 ||
      pipe2(err, O_CLOEXEC) != 0)
    give_up(&m, STEP_SETUP, errno);
  open_log(&m);
  if (m.log < 0) give_up(&m, STEP_RECORD, errno);

  const pid_t self = getpid();
  m.app = fork();
  if (m.app < 0) give_up(&m, STEP_SETUP, errno);
  if (m.app == 0) {
    close(stage[0]);
    stage_run(&spec, instance_id, stage[1], out[1], err[1], self);
  }
  close(stage[1]);
  close(out[1]);
  close(err[1]);
  dup2(1, FD_FRAME); /* /dev/null: from here on the frame is the child's alone */
  m.stage = stage[0];
  m.out = out[0];
  m.err = err[0];
  fcntl(m.out, F_SETFL, O_NONBLOCK);
  fcntl(m.err, F_SETFL, O_NONBLOCK);
  m.app_start = process_start(m.app);
  m.supervisor_start = process_start(self);

  const int error = write_run(&m);
  if (error) give_up(&m, STEP_RECORD, error);
  if (send(m.stage, "", 1, MSG_NOSIGNAL) == 1 && ordered_to_stop()) obey(&m);
  keep(&m);
  return 0;
}

int main(int argc, char **argv) {
  reset_signals();
  if (argc == 2 && !strcmp(argv[1], "probe"))
    return unshare(geteuid() == 0 ? CLONE_NEWNS : CLONE_NEWUSER | CLONE_NEWNS) == 0 ? 0 : 1;
  for (int fd = FD_FOLDER; fd <= FD_LAST; ++fd) fcntl(fd, F_SETFD, FD_CLOEXEC);
  close_range(FD_LAST + 1, ~0u, 0);
  if (chdir("/") != 0) return 125;
  umask(077);
  if (argc == 3 && !strcmp(argv[1], "run")) return run(argv[2]);
  if (argc >= 6 && !strcmp(argv[1], "exec") && !strcmp(argv[4], "--")) return enter(argv[3], argv + 5);
  if (argc == 3 && !strcmp(argv[1], "update")) return update(argv[2]);
  static const char usage[] = "coffer-process-supervisor is started by runtime-process alone\n";
  return write(2, usage, sizeof usage - 1) > 0 ? 2 : 3;
}
