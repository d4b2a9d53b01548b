#define _GNU_SOURCE
#include "folders.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "enter.h"

#define GENERATION_MAX 32

const char *folder_of(const struct spec *s, const char *file) {
  const size_t size = (size_t)(strrchr(file, '/') - file);
  const char *folder;
  for (size_t at = 0; (folder = spec_next(s, &at, "folder"));)
    if (strlen(folder) == size && !memcmp(folder, file, size)) return folder;
  return NULL;
}

static const char *name_in(const char *file) { return strrchr(file, '/') + 1; }

/* With the folders that lead to it. */
static int open_point(const char *folder) {
  char path[COFFER_BOOT_MAX_PATH + 1];
  if (snprintf(path, sizeof path, "%s", folder) >= (int)sizeof path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  for (char *slash = path; slash;) {
    slash = strchr(slash + 1, '/');
    if (slash) *slash = 0;
    const int made = mkdir(path, 0755);
    if (slash) *slash = '/';
    if (made != 0 && errno != EEXIST && errno != EROFS) return -1;
  }
  return open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

int folder_mount(const char *folder, size_t n_files) {
  const int point = open_point(folder);
  if (point < 0) return errno;
  char target[32], options[128];
  snprintf(target, sizeof target, "/proc/self/fd/%d", point);
  int error = 0;
  for (int no_swap = 1;; no_swap = 0) { /* since Linux 6.4, and not in a user namespace */
    /* Room for two generations of all that a frame holds. */
    snprintf(options, sizeof options, "mode=0755,size=%u,nr_inodes=%zu%s", 4 * COFFER_BOOT_MAX_SIZE,
             4 * n_files + 64, no_swap ? ",noswap" : "");
    error = mount("coffer", target, "tmpfs", MS_NOSUID | MS_NODEV, options) == 0 ? 0 : errno;
    if (!error || !no_swap) break;
  }
  close(point);
  return error;
}

/* The mount alone, not its file system: update() writes by way of another mount. */
static int remount(const char *folder, unsigned long flags) {
  return mount(NULL, folder, NULL, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | flags, NULL) == 0 ? 0
                                                                                                   : errno;
}

int folder_seal(const char *folder) { return remount(folder, MS_RDONLY); }

static void remove_generation(const struct spec *s, const char *folder, int fd, const char *name) {
  const int generation = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (generation < 0) return;
  const char *file;
  for (size_t at = 0; (file = spec_next(s, &at, "file"));)
    if (folder_of(s, file) == folder) unlinkat(generation, name_in(file), 0);
  close(generation);
  unlinkat(fd, name, AT_REMOVEDIR);
}

int folder_replace(const struct spec *s, const char *folder, const struct coffer_boot_frame *frame) {
  const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  struct statfs fs;
  if (fd < 0 || fstatfs(fd, &fs) != 0) return errno;
  if (fs.f_type != TMPFS_MAGIC) return ENODEV;
  char now[GENERATION_MAX] = "", next[GENERATION_MAX];
  if (readlinkat(fd, "..data", now, sizeof now - 1) < 0 && errno != ENOENT) return errno;
  snprintf(next, sizeof next, "..%llu", (now[0] ? strtoull(now + 2, NULL, 10) : 0) + 1);
  remove_generation(s, folder, fd, next); /* of an update that was killed */
  unlinkat(fd, "..next", 0);
  if (mkdirat(fd, next, 0755) != 0) return errno;
  const int generation = openat(fd, next, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (generation < 0) return errno;
  int error = 0;
  struct coffer_boot_entry e;
  for (size_t at = 0; !error && coffer_boot_next(frame, &at, &e);) {
    if (e.kind != COFFER_BOOT_FILE || folder_of(s, e.name) != folder) continue;
    char link[COFFER_BOOT_MAX_PATH + 16];
    snprintf(link, sizeof link, "..data/%s", name_in(e.name));
    error = write_file(generation, name_in(e.name), &e, s);
    if (!error && symlinkat(link, fd, name_in(e.name)) != 0 && errno != EEXIST) error = errno;
  }
  close(generation);
  if (!error && (symlinkat(next, fd, "..next") != 0 || renameat(fd, "..next", fd, "..data") != 0))
    error = errno;
  remove_generation(s, folder, fd, error ? next : now);
  close(fd);
  return error;
}

int update(const char *instance_id) {
  static struct spec spec;
  harden();
  const struct running machine = open_running(&spec);
  umask(022);
  const int error = join_namespaces(machine.process);
  if (error) stage_fail(FD_STATUS, STEP_ENTER, error, 0);
  /* A copy of its namespace: where its folders are opened for writing here, they stay as they are for it. */
  if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
    stage_fail(FD_STATUS, STEP_NAMESPACE, errno, 0);
  struct coffer_boot_frame frame;
  const enum coffer_boot_error bad =
      coffer_boot_read(FD_FRAME, instance_id, strlen(instance_id), COFFER_BOOT_TIMEOUT_MS, &frame);
  if (bad != COFFER_BOOT_OK) stage_fail(FD_STATUS, STEP_FRAME, (int)bad, 0);
  const char *folder;
  for (size_t at = 0; (folder = spec_next(&spec, &at, "folder"));) {
    struct coffer_boot_entry e;
    uint32_t index = 0;
    int has_some = 0;
    for (size_t of = 0; !has_some && coffer_boot_next(&frame, &of, &e); index += !has_some)
      has_some = e.kind == COFFER_BOOT_FILE && folder_of(&spec, e.name) == folder;
    if (!has_some) continue;
    int failed = remount(folder, 0);
    if (!failed) failed = folder_replace(&spec, folder, &frame);
    if (failed) {
      coffer_boot_wipe(&frame);
      stage_fail(FD_STATUS, STEP_FILE, failed, index);
    }
  }
  coffer_boot_wipe(&frame);
  send_message(FD_STATUS, STEP_OK, 0, 0);
  return 0;
}
