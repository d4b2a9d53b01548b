#define _GNU_SOURCE
#include "folders.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
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
  errno = make_folders_to(path);
  if (errno || (mkdir(path, 0755) != 0 && errno != EEXIST)) return -1;
  return open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

static int open_here(int at, const char *name) {
  return openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* An empty tmpfs at this place in the Machine's folder: its descriptor, or -1. */
static int mount_at(const char *name, size_t n_files) {
  if (mkdirat(FD_FOLDER, name, 0700) != 0 && errno != EEXIST) return -1;
  const int place = open_here(FD_FOLDER, name);
  if (place < 0) return -1;
  /* Room for two generations of all that a frame holds, each file in pages of its own. */
  int no_swap;
  const int error = mount_tmpfs_on(place, "0755", 2 * (COFFER_BOOT_MAX_SIZE + 8192 * (n_files + 8)),
                                   4 * n_files + 64, &no_swap);
  close(place);
  errno = error;
  return error ? -1 : open_here(FD_FOLDER, name);
}

/* A read-only bind mount of it, made aside: a bind of that one is read-only from its first moment.  0 or
 * errno. */
static int show(int folder, const char *aside, int point) {
  char from[32], to[32];
  if (mkdirat(FD_FOLDER, aside, 0700) != 0 && errno != EEXIST) return errno;
  const int place = open_here(FD_FOLDER, aside);
  if (place < 0 || mount(fd_path(from, folder), fd_path(to, place), NULL, MS_BIND, NULL) != 0) return errno;
  close(place);
  const int view = open_here(FD_FOLDER, aside);
  if (view < 0) return errno;
  int error = 0;
  if (mount(NULL, fd_path(from, view), NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) !=
          0 ||
      mount(from, fd_path(to, point), NULL, MS_BIND, NULL) != 0 || umount2(from, MNT_DETACH) != 0)
    error = errno;
  close(view);
  unlinkat(FD_FOLDER, aside, AT_REMOVEDIR);
  return error;
}

static void remove_generation(const struct spec *s, const char *folder, int fd, const char *name) {
  const int generation = open_here(fd, name);
  if (generation < 0) return;
  const char *file;
  for (size_t at = 0; (file = spec_next(s, &at, "file"));)
    if (folder_of(s, file) == folder) unlinkat(generation, name_in(file), 0);
  close(generation);
  unlinkat(fd, name, AT_REMOVEDIR);
}

/* All files of the frame that belong there: the next generation, and an end of the ones before.  0 or errno.
 */
static int replace(const struct spec *s, const char *folder, int fd, const struct coffer_boot_frame *frame) {
  char now[GENERATION_MAX] = "", next[GENERATION_MAX];
  if (readlinkat(fd, "..data", now, sizeof now - 1) < 0 && errno != ENOENT) return errno;
  const unsigned long long number = now[0] ? strtoull(now + 2, NULL, 10) : 0;
  char older[GENERATION_MAX];
  snprintf(next, sizeof next, "..%llu", number + 1);
  snprintf(older, sizeof older, "..%llu", number - 1);
  remove_generation(s, folder, fd, next); /* of updates that were killed */
  if (number > 1) remove_generation(s, folder, fd, older);
  unlinkat(fd, "..next", 0);
  if (mkdirat(fd, next, 0755) != 0) return errno;
  const int generation = open_here(fd, next);
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
  return error;
}

/* The first file of the frame in this folder; -1: there is none. */
static int first_in(const struct spec *s, const char *folder, const struct coffer_boot_frame *frame) {
  struct coffer_boot_entry e;
  int index = 0;
  for (size_t at = 0; coffer_boot_next(frame, &at, &e);) {
    if (e.kind != COFFER_BOOT_FILE) continue;
    if (folder_of(s, e.name) == folder) return index;
    ++index;
  }
  return -1;
}

static const char *place_of(char out[32], int n) {
  snprintf(out, 32, "folder%d", n);
  return out;
}

void deliver_folders(const struct spec *s, const struct coffer_boot_frame *frame, int channel) {
  const char *folder;
  char name[32];
  int n = 0;
  for (size_t at = 0; (folder = spec_next(s, &at, "folder")); ++n) {
    const uint32_t index = (uint32_t)first_in(s, folder, frame);
    const int point = open_point(folder);
    if (point < 0) stage_fail(channel, STEP_MOUNTPOINT, errno, index);
    const int fd = mount_at(place_of(name, n), frame->n_files);
    struct statfs fs;
    if (fd < 0 || fstatfs(fd, &fs) != 0) stage_fail(channel, STEP_TMPFS, errno, 0);
    if (fs.f_type != TMPFS_MAGIC) stage_fail(channel, STEP_TMPFS, 0, 0);
    int error = replace(s, folder, fd, frame);
    if (!error) error = show(fd, "view", point);
    if (error) stage_fail(channel, STEP_FILE, error, index);
    close(fd);
    close(point);
  }
}

int update(const char *instance_id) {
  static struct spec spec;
  static char path[PATH_MAX]; /* of the Machine's folder: a descriptor does not come along */
  char own[32];
  harden();
  const struct running machine = open_running(&spec);
  const ssize_t size = readlink(fd_path(own, FD_FOLDER), path, sizeof path - 1);
  if (size < 0) stage_fail(FD_STATUS, STEP_SETUP, errno, 0);
  umask(022);
  const int joined = join_namespaces(machine.process);
  if (joined) stage_fail(FD_STATUS, STEP_ENTER, joined, 0);
  const int home = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (home < 0) stage_fail(FD_STATUS, STEP_ENTER, errno, 0);
  struct coffer_boot_frame frame;
  const enum coffer_boot_error bad =
      coffer_boot_read(FD_FRAME, instance_id, strlen(instance_id), COFFER_BOOT_TIMEOUT_MS, &frame);
  if (bad != COFFER_BOOT_OK) stage_fail(FD_STATUS, STEP_FRAME, (int)bad, 0);
  const char *folder;
  char name[32];
  int n = 0;
  for (size_t at = 0; (folder = spec_next(&spec, &at, "folder")); ++n) {
    const int index = first_in(&spec, folder, &frame);
    if (index < 0) continue;
    const int fd = open_here(home, place_of(name, n));
    struct statfs fs;
    struct stat st;
    int error = 0;
    if (fd < 0 || fstatfs(fd, &fs) != 0 || fstat(fd, &st) != 0)
      error = errno;
    else if (fs.f_type != TMPFS_MAGIC || st.st_uid != geteuid())
      error = ENODEV;
    else
      error = replace(&spec, folder, fd, &frame);
    if (error) {
      coffer_boot_wipe(&frame);
      stage_fail(FD_STATUS, STEP_FILE, error, (uint32_t)index);
    }
    close(fd);
  }
  coffer_boot_wipe(&frame);
  send_message(FD_STATUS, STEP_OK, 0, 0);
  return 0;
}
