#define _GNU_SOURCE
#include "stage.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/magic.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "boot_frame.h"
#include "folders.h"

static const char kDefaultPath[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/* ---- spec ---- */
const char *spec_next(const struct spec *s, size_t *at, const char *key) {
  const size_t key_size = strlen(key);
  while (*at < s->size) {
    const char *field = s->data + *at;
    *at += strlen(field) + 1;
    if (!strncmp(field, key, key_size) && field[key_size] == '=') return field + key_size + 1;
  }
  return NULL;
}

static size_t spec_count(const struct spec *s, const char *key) {
  size_t n = 0;
  for (size_t at = 0; spec_next(s, &at, key);) ++n;
  return n;
}

static const char *spec_one(const struct spec *s, const char *key) {
  size_t at = 0;
  return spec_next(s, &at, key);
}

int spec_load(int folder, struct spec *out) {
  memset(out, 0, sizeof *out);
  const int fd = openat(folder, "spec", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return -1;
  struct stat st;
  if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size < (off_t)sizeof SPEC_MAGIC) {
    close(fd);
    return -1;
  }
  out->size = (size_t)st.st_size;
  out->data = mmap(NULL, out->size, PROT_READ, MAP_PRIVATE, fd, 0);
  close(fd);
  if (out->data == MAP_FAILED || out->data[out->size - 1] != 0 || strcmp(out->data, SPEC_MAGIC) != 0)
    return -1;
  out->n_argv = spec_count(out, "argv");
  out->n_env = spec_count(out, "env");
  out->n_groups = spec_count(out, "group");
  out->n_files = spec_count(out, "file");
  out->workdir = spec_one(out, "workdir");
  out->home = spec_one(out, "home");
  const char *uid = spec_one(out, "uid"), *gid = spec_one(out, "gid");
  if (uid && gid) {
    out->has_user = 1;
    out->uid = (uid_t)strtoul(uid, NULL, 10);
    out->gid = (gid_t)strtoul(gid, NULL, 10);
  }
  return out->n_argv > 0 ? 0 : -1;
}

/* ---- messages ---- */
int send_message(int fd, uint32_t step, int code, uint32_t index) {
  const struct supervisor_message m = {step, code, index};
  return send(fd, &m, sizeof m, MSG_NOSIGNAL) == (ssize_t)sizeof m ? 0 : -1;
}

void stage_fail(int channel, uint32_t step, int code, uint32_t index) {
  send_message(channel, step, code, index);
  if (step == STEP_FRAME) _exit(COFFER_BOOT_EXIT_CODE);
  if (step == STEP_EXEC) _exit(code == ENOENT || code == ENOTDIR ? 127 : 126);
  _exit(step == STEP_ENTER || step == STEP_ENVIRON ? 126 : 125);
}

/* ---- the process ---- */
void harden(void) {
  prctl(PR_SET_DUMPABLE, 0);
  /* Rationale: 1, not 0.  The kernel ignores 0 when core_pattern is a pipe (systemd-coredump, apport), but
   * refuses to start the handler at 1; and a core file of one byte is never written. */
  const struct rlimit core = {1, 1};
  setrlimit(RLIMIT_CORE, &core);
}

void reset_signals(void) {
  /* By hand: libc's signal() leaves out its own two, which posix_spawn hands down ignored. */
  const unsigned long by_default[8] = {0}; /* struct sigaction of the kernel */
  for (int s = 1; s < NSIG; ++s) syscall(SYS_rt_sigaction, s, by_default, NULL, 8);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

int become_user(const struct spec *s) {
  if (!s->has_user) return 0;
  gid_t *groups = calloc(s->n_groups + 1, sizeof *groups);
  if (!groups) return ENOMEM;
  size_t n = 0;
  const char *group;
  for (size_t at = 0; (group = spec_next(s, &at, "group"));) groups[n++] = (gid_t)strtoul(group, NULL, 10);
  if (setgroups(n, groups) != 0 || setresgid(s->gid, s->gid, s->gid) != 0 ||
      setresuid(s->uid, s->uid, s->uid) != 0)
    return errno;
  return 0;
}

int exec_in_path(char **argv, char **env) {
  if (argv[0][0] == 0) return ENOENT;
  if (strchr(argv[0], '/')) {
    execve(argv[0], argv, env);
    return errno;
  }
  const char *path = kDefaultPath + 5;
  for (char **e = env; *e; ++e)
    if (!strncmp(*e, "PATH=", 5)) path = *e + 5;
  int result = ENOENT;
  for (;;) {
    const char *end = strchrnul(path, ':');
    char candidate[8192];
    const int n = snprintf(candidate, sizeof candidate, "%.*s%s%s", (int)(end - path), path,
                           end == path ? "./" : "/", argv[0]);
    if (n > 0 && n < (int)sizeof candidate) {
      execve(candidate, argv, env);
      if (errno == EACCES)
        result = EACCES;
      else if (errno != ENOENT && errno != ENOTDIR)
        return errno;
    }
    if (!*end) return result;
    path = end + 1;
  }
}

/* ---- file deliveries ---- */
static int write_text(const char *path, const char *text) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  const int error = write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : errno;
  close(fd);
  return error;
}

/* A mount namespace of its own: mounts made here are seen by this Machine alone, mounts that the host makes
 * later still come in (slave).  Without root a user namespace with the same ids comes with it. */
static int own_namespace(void) {
  if (fchdir(FD_FOLDER) != 0) return errno; /* the working directory comes along, a descriptor does not */
  if (geteuid() == 0) {
    if (unshare(CLONE_NEWNS) != 0) return errno;
  } else {
    const unsigned uid = geteuid(), gid = getegid();
    char uid_map[64], gid_map[64];
    snprintf(uid_map, sizeof uid_map, "%u %u 1", uid, uid);
    snprintf(gid_map, sizeof gid_map, "%u %u 1", gid, gid);
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return errno;
    prctl(PR_SET_DUMPABLE, 1); /* else /proc/self belongs to root; there is no value in memory yet */
    int error = write_text("/proc/self/setgroups", "deny");
    if (!error) error = write_text("/proc/self/uid_map", uid_map);
    if (!error) error = write_text("/proc/self/gid_map", gid_map);
    prctl(PR_SET_DUMPABLE, 0);
    if (error) return error;
  }
  const int folder = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0 || dup3(folder, FD_FOLDER, O_CLOEXEC) < 0 || chdir("/") != 0) return errno;
  close(folder);
  return mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) == 0 ? 0 : errno;
}

const char *fd_path(char out[32], int fd) {
  snprintf(out, 32, "/proc/self/fd/%d", fd);
  return out;
}

int mount_tmpfs_on(int place, const char *mode, size_t bytes, size_t inodes, int *no_swap) {
  char target[32], options[128];
  for (*no_swap = 1;; *no_swap = 0) {
    snprintf(options, sizeof options, "mode=%s,size=%zu,nr_inodes=%zu%s", mode, bytes, inodes,
             *no_swap ? ",noswap" : "");
    if (mount("coffer", fd_path(target, place), "tmpfs", MS_NOSUID | MS_NODEV, options) == 0) return 0;
    if (!*no_swap) return errno;
  }
}

/* A private tmpfs over the Machine's folder: the one place that surely exists and that nothing else in this
 * namespace needs.  It is taken away again when its files are bound to their places. */
static int mount_tmpfs(const char *instance_id, size_t bytes, size_t files, int *no_swap) {
  char name[COFFER_BOOT_MAX_INSTANCE_ID + 8];
  errno = mount_tmpfs_on(FD_FOLDER, "0700", bytes, files + 16, no_swap);
  if (errno) return -1;
  snprintf(name, sizeof name, "../%s", instance_id);
  return openat(FD_FOLDER, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

/* 0, or errno; *step says what kind.  Looks and changes nothing. */
static int check_mount_point(const char *path, uint32_t *step) {
  struct stat st;
  *step = STEP_MOUNTPOINT;
  if (lstat(path, &st) != 0) return errno == ENOENT ? 0 : errno;
  *step = STEP_NOT_A_FILE;
  return S_ISREG(st.st_mode) ? 0 : EEXIST;
}

int make_folders_to(char *path) {
  for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = 0;
    const int made = mkdir(path, 0755);
    *slash = '/';
    if (made != 0 && errno != EEXIST) return errno;
  }
  return 0;
}

/* An existing regular file, else a new empty one, with the folders that lead to it. */
static int open_mount_point(char *path) {
  int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  if (fd >= 0 || errno != ENOENT) return fd;
  errno = make_folders_to(path);
  if (errno) return -1;
  fd = open(path, O_RDONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
  if (fd < 0) return -1;
  close(fd);
  return open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
}

int write_file(int folder, const char *name, const struct coffer_boot_entry *e, const struct spec *s) {
  const int fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return errno;
  int error = 0;
  for (size_t done = 0; done < e->value_size && !error;) {
    const ssize_t n = write(fd, e->value + done, e->value_size - done);
    if (n < 0 && errno != EINTR) error = errno;
    if (n > 0) done += (size_t)n;
  }
  explicit_bzero(e->value, e->value_size);
  const int given = (e->flags & COFFER_BOOT_OWNER) != 0;
  const uid_t uid = given ? e->uid : s->has_user ? s->uid : geteuid();
  const gid_t gid = given ? e->gid : s->has_user ? s->gid : getegid();
  if (!error && (uid != geteuid() || gid != getegid()) && fchown(fd, uid, gid) != 0) error = errno;
  if (!error && fchmod(fd, e->mode) != 0) error = errno;
  close(fd);
  return error;
}

static void deliver_files(const struct spec *s, const char *instance_id,
                          const struct coffer_boot_frame *frame, int channel) {
  struct coffer_boot_entry e;
  size_t bytes = 65536;
  uint32_t index = 0, step;
  for (size_t at = 0;
       coffer_boot_next(frame, &at, &e);) { /* first look at all places, then change anything */
    if (e.kind != COFFER_BOOT_FILE) continue;
    const int error = folder_of(s, e.name) ? 0 : check_mount_point(e.name, &step);
    if (error) stage_fail(channel, step, error, index);
    bytes += (e.value_size + 8191) & ~(size_t)4095;
    ++index;
  }
  int no_swap;
  const int tmpfs = mount_tmpfs(instance_id, bytes, frame->n_files, &no_swap);
  struct statfs fs;
  if (tmpfs < 0 || fstatfs(tmpfs, &fs) != 0) stage_fail(channel, STEP_TMPFS, errno, 0);
  if (fs.f_type != TMPFS_MAGIC) stage_fail(channel, STEP_TMPFS, 0, 0);

  char name[16], from[32], to[32], root[32];
  index = 0;
  for (size_t at = 0; coffer_boot_next(frame, &at, &e);) {
    if (e.kind != COFFER_BOOT_FILE) continue;
    snprintf(name, sizeof name, "%u", index);
    const int error = folder_of(s, e.name) ? 0 : write_file(tmpfs, name, &e, s);
    if (error) stage_fail(channel, STEP_FILE, error, index);
    ++index;
  }
  /* The whole file system, so that every bind of it is read-only too. */
  if (mount(NULL, fd_path(root, tmpfs), NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV,
            no_swap ? "noswap" : NULL) != 0)
    stage_fail(channel, STEP_TMPFS, errno, 0);
  index = 0;
  for (size_t at = 0; coffer_boot_next(frame, &at, &e);) {
    if (e.kind != COFFER_BOOT_FILE || folder_of(s, e.name)) {
      index += e.kind == COFFER_BOOT_FILE;
      continue;
    }
    const int point = open_mount_point(e.name);
    if (point < 0) stage_fail(channel, errno == ELOOP ? STEP_NOT_A_FILE : STEP_MOUNTPOINT, errno, index);
    struct stat st;
    if (fstat(point, &st) != 0 || !S_ISREG(st.st_mode)) stage_fail(channel, STEP_NOT_A_FILE, EEXIST, index);
    snprintf(name, sizeof name, "%u", index);
    const int file = openat(tmpfs, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (file < 0 || mount(fd_path(from, file), fd_path(to, point), NULL, MS_BIND, NULL) != 0)
      stage_fail(channel, STEP_FILE, errno, index);
    close(file);
    close(point);
    ++index;
  }
  if (umount2(root, MNT_DETACH) != 0) stage_fail(channel, STEP_TMPFS, errno, 0);
  close(tmpfs);
}

/* ---- environment ---- */
static int frame_has(const struct coffer_boot_frame *frame, const char *name, size_t size) {
  struct coffer_boot_entry e;
  for (size_t at = 0; coffer_boot_next(frame, &at, &e) && e.kind == COFFER_BOOT_ENV;)
    if (e.name_size == size && !memcmp(e.name, name, size)) return 1;
  return 0;
}

static int has_variable(char **env, size_t n, const char *name) {
  const size_t size = strlen(name);
  for (size_t i = 0; i < n; ++i)
    if (!strncmp(env[i], name, size) && env[i][size] == '=') return 1;
  return 0;
}

/* Plain entries whose name is not a secret's too, then the secrets where they lie in the frame. */
static char **build_env(const struct spec *s, const struct coffer_boot_frame *frame) {
  char **env = calloc(s->n_env + frame->n_env + 3, sizeof *env);
  if (!env) return NULL;
  size_t n = 0;
  const char *plain;
  for (size_t at = 0; (plain = spec_next(s, &at, "env"));)
    if (!frame_has(frame, plain, strcspn(plain, "="))) env[n++] = (char *)(uintptr_t)plain;
  struct coffer_boot_entry e;
  for (size_t at = 0; coffer_boot_next(frame, &at, &e) && e.kind == COFFER_BOOT_ENV;) env[n++] = e.name;
  if (!has_variable(env, n, "PATH")) env[n++] = (char *)(uintptr_t)kDefaultPath;
  if (s->home && !has_variable(env, n, "HOME")) env[n++] = (char *)(uintptr_t)s->home;
  return env;
}

void stage_run(const struct spec *s, const char *instance_id, int channel, int out, int err,
               pid_t supervisor) {
  reset_signals();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != supervisor) _exit(125);
  setsid();
  umask(022);
  close(FD_ALIVE);
  dup2(out, 1);
  dup2(err, 2);

  if (s->n_files) { /* before any value is here */
    const int error = own_namespace();
    if (error) stage_fail(channel, STEP_NAMESPACE, error, 0);
  }
  char go;
  if (read(channel, &go, 1) != 1) _exit(125);
  struct coffer_boot_frame frame;
  enum coffer_boot_error bad =
      coffer_boot_read(0, instance_id, strlen(instance_id), COFFER_BOOT_TIMEOUT_MS, &frame);
  if (bad == COFFER_BOOT_OK && frame.n_files != s->n_files) bad = COFFER_BOOT_MALFORMED;
  if (bad != COFFER_BOOT_OK) stage_fail(channel, STEP_FRAME, (int)bad, 0);
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0 || dup2(null, 0) != 0) stage_fail(channel, STEP_SETUP, errno, 0);
  close(null);

  if (frame.n_files) {
    deliver_files(s, instance_id, &frame, channel);
    deliver_folders(s, &frame, channel);
  }

  char **env = build_env(s, &frame), **argv = calloc(s->n_argv + 1, sizeof *argv);
  if (!env || !argv) stage_fail(channel, STEP_SETUP, ENOMEM, 0);
  const char *word;
  size_t n = 0;
  for (size_t at = 0; (word = spec_next(s, &at, "argv"));) argv[n++] = (char *)(uintptr_t)word;

  const int user = become_user(s);
  if (user) stage_fail(channel, STEP_USER, user, 0);
  prctl(PR_SET_DUMPABLE, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL); /* again: a change of user clears it */
  if (getppid() != supervisor) _exit(125);
  if (chdir(s->workdir ? s->workdir : "/") != 0) stage_fail(channel, STEP_WORKDIR, errno, 0);
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) stage_fail(channel, STEP_SETUP, errno, 0);
  if (send_message(channel, STEP_READY, 0, 0) != 0) _exit(125);
  stage_fail(channel, STEP_EXEC, exec_in_path(argv, env), 0);
}
