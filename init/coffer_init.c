/* coffer_init.c - the first process of a container: takes its secrets from standard input and becomes the
 * app.
 *
 *   run INSTANCE_ID [--workdir DIR] -- CMD ARGS...   one boot frame from fd 0, then CMD (README.md)
 *   exec [--workdir DIR] -- CMD ARGS...              CMD with the environment of PID 1
 *   probe tcp PORT TIMEOUT_MS                        one try of a check (probe.h)
 *   probe http PORT METHOD PATH TIMEOUT_MS
 *
 * One thread, no fork, nothing of the image but CMD: it has to work where there is no shell, no libc, no
 * right and (run) no /proc.  Whatever it says is one line that names things and never a value. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "boot_frame.h"
#include "probe.h"

#define SELF "/.coffer/init" /* where it is mounted in a container */
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define ENVIRON_MAX (8u << 20) /* the kernel takes at most 6 MiB */
#define FILE_NAME_MAX 8192u
#define PART_MAX 500u

enum { EXIT_NOT_PASSED = 1, EXIT_USAGE = 2, EXIT_CANNOT_RUN = 126, EXIT_NOT_FOUND = 127 };

/* One line of parts, NULL after the last; whatever the names hold, it stays one line. */
static _Noreturn void fail(int code, const char *const parts[]) {
  char line[8 * PART_MAX + 1];
  size_t size = 0;
  for (; *parts; ++parts)
    for (size_t i = 0; (*parts)[i] && i < PART_MAX && size < sizeof line - 1; ++i) {
      const unsigned char c = (unsigned char)(*parts)[i];
      line[size++] = c < 0x20 || c == 0x7f ? '?' : (char)c;
    }
  line[size++] = '\n';
  (void)!write(2, line, size);
  _exit(code);
}
#define FAIL(code, ...) fail(code, (const char *const[]){"coffer-init: ", __VA_ARGS__, NULL})

static _Noreturn void usage(void) {
  static const char text[] =
      "usage: coffer-init run INSTANCE_ID [--workdir DIR] -- CMD ARGS... | "
      "exec [--workdir DIR] -- CMD ARGS... | "
      "probe tcp PORT TIMEOUT_MS | probe http PORT METHOD PATH TIMEOUT_MS | --version\n";
  (void)!write(2, text, sizeof text - 1);
  _exit(EXIT_USAGE);
}

/* ---- signals ---- */
static void end(int s) { _exit(128 + s); }
static void go_on(int s) { (void)s; }

/* Until execve each signal does what it does by default, for PID 1 too, where the kernel drops one that is
 * merely left at its default: `docker stop` ends this process at once, with whatever signal the image wants.
 * Rationale: execve sets a caught signal back to its default, so there is no moment at which one is lost. */
static void take_signals(void) {
  const unsigned long by_default[8] = {0}; /* struct sigaction of the kernel: libc refuses its own signals */
  for (int s = 1; s < NSIG; ++s) {
    syscall(SYS_rt_sigaction, s, by_default, NULL, 8);
    switch (s) {
      case SIGCHLD: /* ignored by default */
      case SIGCONT:
      case SIGURG:
      case SIGWINCH:
      case SIGTSTP: /* stop by default */
      case SIGTTIN:
      case SIGTTOU:
      case SIGILL: /* faults of our own, which the kernel does not drop */
      case SIGTRAP:
      case SIGBUS:
      case SIGFPE:
      case SIGSEGV:
      case SIGSYS:
        break;
      default: {
        /* a lost reader of standard error is no reason to end with another code */
        const struct sigaction action = {.sa_handler = s == SIGPIPE ? go_on : end};
        sigaction(s, &action, NULL);
      }
    }
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

/* ---- the command ---- */
static int exists(const char *file) {
  struct stat st;
  return stat(file, &st) == 0;
}

static const char *path_of(char **env) {
  for (; *env; ++env)
    if (!strncmp(*env, "PATH=", 5)) return *env + 5;
  return DEFAULT_PATH;
}

/* As execvpe, except that what the kernel does not know is not given to a shell, and that a folder of PATH
 * which must not be searched counts as one without the command.  Returns errno; `file` is then what it speaks
 * of, or "" when there is none. */
static int exec_in_path(char **argv, char **env, char file[FILE_NAME_MAX]) {
  file[0] = 0;
  if (strchr(argv[0], '/')) {
    execve(argv[0], argv, env);
    const int error = errno;
    if (strlen(argv[0]) < FILE_NAME_MAX) strcpy(file, argv[0]);
    return error;
  }
  int result = ENOENT;
  const char *path = path_of(env);
  for (const char *next; path; path = next) {
    const char *stop = strchrnul(path, ':');
    next = *stop ? stop + 1 : NULL;
    char candidate[FILE_NAME_MAX];
    const size_t folder = (size_t)(stop - path);
    if (folder + 2 + strlen(argv[0]) >= sizeof candidate) continue;
    memcpy(candidate, folder ? path : ".", folder ? folder : 1); /* an empty part is the working directory */
    candidate[folder ? folder : 1] = '/';
    strcpy(candidate + (folder ? folder : 1) + 1, argv[0]);
    execve(candidate, argv, env);
    const int error = errno;
    if (error != EACCES && error != ENOENT && error != ENOTDIR) {
      strcpy(file, candidate);
      return error;
    }
    if (exists(candidate) && (error == EACCES || !file[0])) {
      strcpy(file, candidate);
      result = error;
    }
  }
  return result;
}

static const char *reason(const char *command, const char *file, int error) {
  struct stat st;
  const int found = file[0] && stat(file, &st) == 0;
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      if (found) return "is there, but not the interpreter or loader that it needs";
      return strchr(command, '/') ? "not found in the image" : "not found in the image's PATH";
    case E2BIG:
      return "environment and arguments are too large for the kernel; mount large secrets as files";
    case ENOEXEC:
      return "not a program for this system: built for another architecture, or a script without #!";
    case EACCES:
      if (found && S_ISDIR(st.st_mode)) return "is a folder";
      break;
    default:
      break;
  }
  return strerror(error);
}

static _Noreturn void become(char **argv, char **env) {
  char file[FILE_NAME_MAX];
  if (!argv[0][0]) FAIL(EXIT_NOT_FOUND, "the command is empty");
  const int error = exec_in_path(argv, env, file);
  FAIL(error == ENOENT || error == ENOTDIR ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN, argv[0], ": ",
       reason(argv[0], file, error));
}

static void enter(const char *workdir) {
  if (chdir(workdir) != 0)
    FAIL(EXIT_CANNOT_RUN, "cannot enter the working directory ", workdir, ": ", strerror(errno));
}

/* ---- run ---- */
static void *memory(size_t size) {
  void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) FAIL(EXIT_CANNOT_RUN, "there is no memory for the environment");
  return p;
}

/* Order of two names that end with '=' or NUL, as a frame has them. */
static int compare_names(const char *a, const char *b) {
  const size_t a_size = strcspn(a, "="), b_size = strcspn(b, "=");
  const int order = memcmp(a, b, a_size < b_size ? a_size : b_size);
  return order ? order : (a_size > b_size) - (a_size < b_size);
}

/* `names` ascend. */
static int holds(char **names, size_t n, const char *name) {
  size_t low = 0;
  while (low < n) {
    const size_t middle = low + (n - low) / 2;
    const int order = compare_names(names[middle], name);
    if (order == 0) return 1;
    if (order < 0)
      low = middle + 1;
    else
      n = middle;
  }
  return 0;
}

/* The frame's variables, where they lie in it, and those of Docker that it does not override. */
static char **merge(const struct coffer_boot_frame *frame, char **docker) {
  size_t n_docker = 0, n = 0;
  while (docker[n_docker]) ++n_docker;
  char **env = memory((n_docker + frame->n_env + 1) * sizeof *env);
  struct coffer_boot_entry e;
  for (size_t at = 0; coffer_boot_next(frame, &at, &e);) env[n++] = e.name;
  for (; *docker; ++docker)
    if (!holds(env, frame->n_env, *docker)) env[n++] = *docker;
  return env;
}

static _Noreturn void run(const char *instance_id, const char *workdir, char **argv) {
  struct coffer_boot_frame frame;
  enum coffer_boot_error bad =
      coffer_boot_read(0, instance_id, strlen(instance_id), COFFER_BOOT_TIMEOUT_MS, &frame);
  if (bad == COFFER_BOOT_OK && frame.n_files) bad = COFFER_BOOT_MALFORMED; /* files are mounted by the host */
  if (bad != COFFER_BOOT_OK)
    FAIL(COFFER_BOOT_EXIT_CODE, coffer_boot_error_text(bad),
         bad == COFFER_BOOT_NO_FRAME || bad == COFFER_BOOT_TIMEOUT
             ? ": this container was started behind Coffer's back; use `coffer machine restart`"
             : "");
  const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (null < 0 || dup2(null, 0) != 0) FAIL(EXIT_CANNOT_RUN, "cannot open /dev/null: ", strerror(errno));
  if (workdir) enter(workdir);
  become(argv, merge(&frame, environ));
}

/* ---- exec ---- */
static const char kNoEnviron[] = "cannot read the environment of the app: ";

/* PID 1 has become the app, or is in the middle of it (no command line at all). */
static int app_has_started(void) {
  static const char init[] = SELF "\0run"; /* with its NUL */
  char begin[sizeof init];
  const int fd = open("/proc/1/cmdline", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 1; /* reading the environment says why */
  const ssize_t n = read(fd, begin, sizeof begin);
  close(fd);
  return n > 0 && !(n == (ssize_t)sizeof begin && !memcmp(begin, init, sizeof begin));
}

/* The kernel shows an environment to processes of the same user.  Where this is another one that may change
 * its user (root), it takes the app's for the open alone.
 * Rationale: fsuid and fsgid are what the kernel asks for here, and nobody can signal or trace us by them; so
 * there is no second process that holds the values, and the identity that CMD gets is never given up. */
static int open_environ(void) {
  static const char name[] = "/proc/1/environ";
  const int fd = open(name, O_RDONLY | O_CLOEXEC);
  struct stat app;
  if (fd >= 0 || stat("/proc/1", &app) != 0) return fd;
  setfsgid(app.st_gid);
  setfsuid(app.st_uid);
  const int as_app = open(name, O_RDONLY | O_CLOEXEC);
  const int error = errno;
  setfsuid(geteuid());
  setfsgid(getegid());
  prctl(PR_SET_DUMPABLE, 0); /* again: a change of user sets it to fs.suid_dumpable */
  errno = error;
  return as_app;
}

static char *put_number(char *end, unsigned n) {
  do *--end = (char)('0' + n % 10);
  while (n /= 10);
  return end;
}

/* "UID:GID" at the end of `text`. */
static const char *user_text(char text[32], uid_t uid, gid_t gid) {
  text[31] = 0;
  char *p = put_number(text + 31, gid);
  *--p = ':';
  return put_number(p, uid);
}

static _Noreturn void no_environ(int error) {
  struct stat app;
  char theirs[32], ours[32];
  if ((error != EACCES && error != EPERM) || stat("/proc/1", &app) != 0)
    FAIL(EXIT_CANNOT_RUN, kNoEnviron, strerror(error));
  const int same = app.st_uid == geteuid() && app.st_gid == getegid();
  FAIL(EXIT_CANNOT_RUN, kNoEnviron, "it runs as user ", user_text(theirs, app.st_uid, app.st_gid),
       ", this command as ", user_text(ours, geteuid(), getegid()),
       same ? ", but the kernel does not show it" : "; run it as the app's user");
}

/* Bytes that /proc/1/environ held. */
static size_t read_environ(char *data) {
  const int fd = open_environ();
  if (fd < 0) no_environ(errno);
  size_t used = 0;
  for (ssize_t n; (n = read(fd, data + used, ENVIRON_MAX - used)) != 0;) {
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) no_environ(errno);
    used += (size_t)n;
    if (used == ENVIRON_MAX) no_environ(E2BIG);
  }
  close(fd);
  return used;
}

static char **environ_of_app(void) {
  char *data = memory(ENVIRON_MAX); /* zeroed, so that the last entry has its NUL in any case */
  (void)madvise(data, ENVIRON_MAX, MADV_DONTDUMP);
  (void)mlock2(data, ENVIRON_MAX, MLOCK_ONFAULT);
  /* Nothing is there for the moment in which PID 1 executes the next program, as an entrypoint script does.
   */
  size_t used = 0;
  const struct timespec millisecond = {0, 1000000};
  for (int tries = 0; tries < 10 && !(used = read_environ(data)); ++tries) nanosleep(&millisecond, NULL);
  size_t most = 1, n = 0;
  for (size_t i = 0; i < used; ++i) most += data[i] == 0;
  char **env = memory((most + 1) * sizeof *env);
  for (char *p = data; p < data + used; p += strlen(p) + 1)
    if (strchr(p, '=')) env[n++] = p; /* an app may have written something else there: its title */
  return env;
}

static _Noreturn void exec(const char *workdir, char **argv) {
  if (!app_has_started()) FAIL(EXIT_CANNOT_RUN, kNoEnviron, "the app has not started yet");
  char **env = environ_of_app();
  if (workdir)
    enter(workdir);
  else
    (void)!chdir("/proc/1/cwd"); /* else where Docker put us */
  become(argv, env);
}

/* ---- probe ---- */
/* 1 .. most; 0: it is none. */
static unsigned number(const char *text, unsigned most) {
  unsigned n = 0;
  for (; *text >= '0' && *text <= '9' && n <= most; ++text) n = n * 10 + (unsigned)(*text - '0');
  return *text || n > most ? 0 : n;
}

static _Noreturn void probe(int n_words, char **words) {
  struct coffer_probe p = {.cancel_fd = -1};
  const int http = n_words == 5 && !strcmp(words[0], "http");
  if (!http && (n_words != 3 || strcmp(words[0], "tcp") != 0)) usage();
  p.port = number(words[1], 65535);
  const unsigned timeout_ms = number(words[n_words - 1], 3600000);
  if (!p.port || !timeout_ms) usage();
  if (http) {
    p.method = words[2];
    p.path = words[3];
    if (!coffer_probe_method_ok(p.method, strlen(p.method)) || !coffer_probe_path_ok(p.path, strlen(p.path)))
      usage();
  }
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  p.deadline_ns =
      (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec + (uint64_t)timeout_ms * 1000000u;
  char why[COFFER_PROBE_WHY + 1];
  const enum coffer_probe_result result = coffer_probe_try(&p, why);
  if (result == COFFER_PROBE_IMPOSSIBLE) FAIL(EXIT_CANNOT_RUN, "the probe cannot be made: ", why);
  if (result == COFFER_PROBE_PASSED) _exit(0);
  const size_t size = strlen(why);
  why[size] = '\n';
  (void)!write(1, why, size + 1);
  _exit(EXIT_NOT_PASSED);
}

int main(int argc, char **argv) {
  prctl(PR_SET_DUMPABLE, 0); /* until execve */
  take_signals();
  if (argc == 2 && !strcmp(argv[1], "--version")) {
    static const char version[] = "coffer-init " COFFER_VERSION "\n";
    return write(1, version, sizeof version - 1) == (ssize_t)(sizeof version - 1) ? 0 : 1;
  }
  if (argc > 2 && !strcmp(argv[1], "probe")) probe(argc - 2, argv + 2);
  const char *mode = argc > 1 ? argv[1] : "", *instance_id = NULL, *workdir = NULL;
  int at = 2;
  if (!strcmp(mode, "run") && at < argc) instance_id = argv[at++];
  if (at + 1 < argc && !strcmp(argv[at], "--workdir")) {
    workdir = argv[at + 1];
    at += 2;
  }
  if (at + 1 >= argc || strcmp(argv[at], "--") != 0) usage();
  char **command = argv + at + 1;
  if (instance_id) run(instance_id, workdir, command);
  if (!strcmp(mode, "exec")) exec(workdir, command);
  usage();
}
