#define _GNU_SOURCE
#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int64_t wall_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t monotonic_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

ssize_t read_text_at(int folder, const char *name, char *out, size_t capacity) {
  const int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return -1;
  size_t used = 0;
  ssize_t n = 0;
  while (used < capacity - 1 && (n = read(fd, out + used, capacity - 1 - used)) > 0) used += (size_t)n;
  close(fd);
  if (n < 0) return -1;
  out[used] = 0;
  return (ssize_t)used;
}

int write_text_at(int folder, const char *name, const char *text) {
  char temporary[64];
  snprintf(temporary, sizeof temporary, "%s.new", name);
  const int fd = openat(folder, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return errno;
  const size_t size = strlen(text);
  int error = 0;
  errno = ENOSPC; /* of a short write */
  if (write(fd, text, size) != (ssize_t)size || fsync(fd) != 0) error = errno;
  close(fd);
  if (!error && renameat(folder, temporary, folder, name) != 0) error = errno;
  if (!error && fsync(folder) != 0) error = errno;
  return error;
}

static const char *record_line(const char *text, const char *key) {
  const size_t size = strlen(key);
  for (const char *line = text; line && *line;) {
    if (!strncmp(line, key, size) && line[size] == ' ') return line + size + 1;
    line = strchr(line, '\n');
    if (line) ++line;
  }
  return NULL;
}

int64_t record_number(const char *text, const char *key, int64_t fallback) {
  const char *value = record_line(text, key);
  return value ? strtoll(value, NULL, 10) : fallback;
}

int record_process(const char *text, const char *key, pid_t *pid, uint64_t *start) {
  const char *value = record_line(text, key);
  char *end;
  if (!value) return -1;
  *pid = (pid_t)strtol(value, &end, 10);
  *start = strtoull(end, NULL, 10);
  return *pid > 0 && *start > 0 ? 0 : -1;
}

int boot_id(char out[64]) {
  const ssize_t n = read_text_at(AT_FDCWD, "/proc/sys/kernel/random/boot_id", out, 64);
  if (n <= 0) return -1;
  out[strcspn(out, "\n")] = 0;
  return 0;
}

uint64_t process_start(pid_t pid) {
  char path[32], text[1024];
  snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  if (read_text_at(AT_FDCWD, path, text, sizeof text) <= 0) return 0;
  const char *p = strrchr(text, ')'); /* the name before it may hold anything */
  if (!p || p[1] != ' ' || p[2] == 'Z' || p[2] == 'X') return 0;
  for (int field = 2; field < 22; ++field) {
    p = strchr(p, ' ');
    if (!p) return 0;
    ++p;
  }
  return strtoull(p, NULL, 10);
}

void kill_children(void) {
  for (;;) {
    char path[64], text[8192];
    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    const ssize_t n = read_text_at(AT_FDCWD, path, text, sizeof text);
    if (n < 0) return; /* a kernel without this list: the app alone was ended */
    for (char *p = text, *end; *p; p = end) {
      const long pid = strtol(p, &end, 10);
      if (end == p) break;
      /* A cut list can only end inside a number; the whole numbers before it are children. */
      if (pid > 0 && (*end == ' ' || n < (ssize_t)sizeof text - 1)) kill((pid_t)pid, SIGKILL);
    }
    pid_t reaped;
    do reaped = waitpid(-1, NULL, 0);
    while (reaped < 0 && errno == EINTR);
    if (reaped < 0) return; /* ECHILD */
    while (waitpid(-1, NULL, WNOHANG) > 0) {
    }
  }
}
