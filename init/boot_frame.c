#define _GNU_SOURCE
#include "boot_frame.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

const char *coffer_boot_error_text(enum coffer_boot_error e) {
  switch (e) {
    case COFFER_BOOT_OK:
      return "the frame is good";
    case COFFER_BOOT_NO_FRAME:
      return "standard input ended before a boot frame came";
    case COFFER_BOOT_TIMEOUT:
      return "no complete boot frame came within 10 seconds";
    case COFFER_BOOT_TRUNCATED:
      return "the boot frame is cut short";
    case COFFER_BOOT_IO:
      return "the boot frame cannot be read";
    case COFFER_BOOT_NO_MEMORY:
      return "there is no memory for the boot frame";
    case COFFER_BOOT_BAD_MAGIC:
      return "what came on standard input is no boot frame";
    case COFFER_BOOT_BAD_VERSION:
      return "the boot frame has a version that is not known here";
    case COFFER_BOOT_TOO_LARGE:
      return "the boot frame is larger than 4 MiB";
    case COFFER_BOOT_WRONG_INSTANCE:
      return "the boot frame is meant for another instance";
    case COFFER_BOOT_BAD_NAME:
      return "the boot frame holds an invalid variable name";
    case COFFER_BOOT_NUL_IN_ENV:
      return "the boot frame holds a variable with a NUL byte";
    case COFFER_BOOT_BAD_PATH:
      return "the boot frame holds an invalid file path";
    case COFFER_BOOT_BAD_ORDER:
      return "the boot frame holds a name twice or out of order";
    case COFFER_BOOT_MALFORMED:
      return "the boot frame is malformed";
  }
  return "the boot frame is not accepted";
}

static int below(const char *path, size_t size, const char *root, size_t root_size) {
  return size >= root_size && !memcmp(path, root, root_size) && (size == root_size || path[root_size] == '/');
}

const char *coffer_boot_path_error(const char *path, size_t size) {
  if (size == 0) return "is empty";
  if (path[0] != '/') return "is not absolute";
  if (size == 1) return "is the root folder";
  if (size > COFFER_BOOT_MAX_PATH) return "is longer than 4,095 bytes";
  for (size_t i = 0; i < size; ++i) {
    const unsigned char c = (unsigned char)path[i];
    if (c < 0x20 || c == 0x7f) return "holds a control character";
    if (c == ':' || c == ',') return "holds ':' or ','";
  }
  for (size_t begin = 1; begin <= size;) { /* each part between slashes */
    size_t end = begin;
    while (end < size && path[end] != '/') ++end;
    if (end == begin) return end == size ? "ends with '/'" : "holds '//'";
    if (path[begin] == '.' && (end - begin == 1 || (end - begin == 2 && path[begin + 1] == '.')))
      return "holds '.' or '..' as a part";
    if (end - begin > 255) return "has a part longer than 255 bytes";
    begin = end + 1;
  }
  if (below(path, size, "/proc", 5) || below(path, size, "/sys", 4) || below(path, size, "/dev", 4) ||
      below(path, size, "/.coffer", 8))
    return "is under /proc, /sys, /dev or /.coffer";
  return NULL;
}

static int name_ok(const char *name, size_t size) {
  if (size == 0) return 0;
  for (size_t i = 0; i < size; ++i) {
    const char c = name[i];
    const int letter = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
    if (!letter && !(i > 0 && c >= '0' && c <= '9')) return 0;
  }
  return 1;
}

static int ascending(const char *a, size_t a_size, const char *b, size_t b_size) {
  const int order = memcmp(a, b, a_size < b_size ? a_size : b_size);
  return order < 0 || (order == 0 && a_size < b_size);
}

static int has_nul(const uint8_t *p, size_t size) {
  for (size_t i = 0; i < size; ++i)
    if (p[i] == 0) return 1;
  return 0;
}

static uint32_t get32(const uint8_t *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Wipes in a way that the compiler cannot leave out. */
static void wipe(void *p, size_t size) {
  memset(p, 0, size);
  __asm__ __volatile__("" : : "r"(p) : "memory");
}

/* One entry at *at; kind 0 is the end.  Never reads at or beyond `size`. */
static enum coffer_boot_error entry_at(uint8_t *data, size_t size, size_t *at, struct coffer_boot_entry *e) {
  size_t p = *at;
  memset(e, 0, sizeof *e);
  if (size - p < 4) return COFFER_BOOT_MALFORMED;
  e->kind = get32(data + p);
  p += 4;
  if (e->kind == 0) {
    *at = p;
    return p == size ? COFFER_BOOT_OK : COFFER_BOOT_MALFORMED;
  }
  if (e->kind != COFFER_BOOT_ENV && e->kind != COFFER_BOOT_FILE) return COFFER_BOOT_MALFORMED;
  const size_t fixed = e->kind == COFFER_BOOT_ENV ? 8 : 24;
  if (size - p < fixed) return COFFER_BOOT_MALFORMED;
  const uint8_t *f = data + p;
  e->name_size = get32(f);
  e->value_size = get32(f + 4);
  if (e->kind == COFFER_BOOT_FILE) {
    e->mode = get32(f + 8);
    e->flags = get32(f + 12);
    e->uid = get32(f + 16);
    e->gid = get32(f + 20);
  }
  p += fixed;
  const size_t extra = e->kind == COFFER_BOOT_ENV ? 2 : 1; /* "=" and NUL, or NUL */
  if (e->name_size > size - p || e->value_size > size - p) return COFFER_BOOT_MALFORMED;
  if (e->name_size + e->value_size + extra > size - p) return COFFER_BOOT_MALFORMED;
  e->name = (char *)data + p;
  p += e->name_size + 1;
  e->value = data + p;
  p += e->value_size;
  if (e->kind == COFFER_BOOT_ENV && data[p++] != 0) return COFFER_BOOT_MALFORMED;
  if (e->name[e->name_size] != (e->kind == COFFER_BOOT_ENV ? '=' : 0)) return COFFER_BOOT_MALFORMED;
  *at = p;
  return COFFER_BOOT_OK;
}

static enum coffer_boot_error check_entry(const struct coffer_boot_entry *e) {
  if (e->kind == COFFER_BOOT_ENV) {
    if (!name_ok(e->name, e->name_size)) return COFFER_BOOT_BAD_NAME;
    if (has_nul(e->value, e->value_size)) return COFFER_BOOT_NUL_IN_ENV;
    return COFFER_BOOT_OK;
  }
  if (coffer_boot_path_error(e->name, e->name_size)) return COFFER_BOOT_BAD_PATH;
  if (e->mode > 0777 || e->flags > COFFER_BOOT_OWNER) return COFFER_BOOT_MALFORMED;
  if (!(e->flags & COFFER_BOOT_OWNER) && (e->uid || e->gid)) return COFFER_BOOT_MALFORMED;
  return COFFER_BOOT_OK;
}

static enum coffer_boot_error check_header(const uint8_t *header, size_t *length) {
  if (memcmp(header, COFFER_BOOT_MAGIC, 8) != 0) return COFFER_BOOT_BAD_MAGIC;
  if (get32(header + 8) != COFFER_BOOT_VERSION) return COFFER_BOOT_BAD_VERSION;
  *length = get32(header + 12);
  if (*length > COFFER_BOOT_MAX_SIZE) return COFFER_BOOT_TOO_LARGE;
  return *length < COFFER_BOOT_MIN_SIZE ? COFFER_BOOT_MALFORMED : COFFER_BOOT_OK;
}

enum coffer_boot_error coffer_boot_check(uint8_t *data, size_t size, const char *instance_id,
                                         size_t instance_id_size, struct coffer_boot_frame *out) {
  size_t length = 0;
  memset(out, 0, sizeof *out);
  if (size < COFFER_BOOT_HEADER_SIZE) return COFFER_BOOT_TRUNCATED;
  const enum coffer_boot_error header = check_header(data, &length);
  if (header != COFFER_BOOT_OK) return header;
  if (size < length) return COFFER_BOOT_TRUNCATED;
  if (size > length) return COFFER_BOOT_MALFORMED;
  size_t at = COFFER_BOOT_HEADER_SIZE;
  const size_t id_size = get32(data + at);
  at += 4;
  if (id_size == 0 || id_size > COFFER_BOOT_MAX_INSTANCE_ID || id_size > size - at)
    return COFFER_BOOT_MALFORMED;
  if (id_size != instance_id_size || memcmp(data + at, instance_id, id_size) != 0)
    return COFFER_BOOT_WRONG_INSTANCE;
  at += id_size;

  out->data = data;
  out->size = size;
  out->first = at;
  struct coffer_boot_entry last = {0}, e;
  for (;; last = e) {
    enum coffer_boot_error error = entry_at(data, size, &at, &e);
    if (error != COFFER_BOOT_OK) return error;
    if (e.kind == 0) return COFFER_BOOT_OK;
    error = check_entry(&e);
    if (error != COFFER_BOOT_OK) return error;
    if (e.kind < last.kind ||
        (e.kind == last.kind && !ascending(last.name, last.name_size, e.name, e.name_size)))
      return COFFER_BOOT_BAD_ORDER;
    ++*(e.kind == COFFER_BOOT_ENV ? &out->n_env : &out->n_files);
  }
}

int coffer_boot_next(const struct coffer_boot_frame *frame, size_t *offset, struct coffer_boot_entry *out) {
  size_t at = *offset ? *offset : frame->first;
  if (entry_at(frame->data, frame->size, &at, out) != COFFER_BOOT_OK || out->kind == 0) return 0;
  *offset = at;
  return 1;
}

static int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Fills p or says why not; the deadline holds for the whole frame, so a trickle does not extend it. */
static enum coffer_boot_error read_full(int fd, uint8_t *p, size_t size, int64_t deadline_ms, size_t *got) {
  while (*got < size) {
    const int64_t left = deadline_ms - now_ms();
    if (left <= 0) return COFFER_BOOT_TIMEOUT;
    struct pollfd ready = {fd, POLLIN, 0};
    const int polled = poll(&ready, 1, (int)left);
    if (polled < 0 && errno != EINTR) return COFFER_BOOT_IO;
    if (polled <= 0) continue;
    const ssize_t n = read(fd, p + *got, size - *got);
    if (n == 0) return *got == 0 ? COFFER_BOOT_NO_FRAME : COFFER_BOOT_TRUNCATED;
    if (n < 0 && errno != EINTR && errno != EAGAIN) return COFFER_BOOT_IO;
    if (n > 0) *got += (size_t)n;
  }
  return COFFER_BOOT_OK;
}

enum coffer_boot_error coffer_boot_read(int fd, const char *instance_id, size_t instance_id_size,
                                        int timeout_ms, struct coffer_boot_frame *out) {
  const int64_t deadline = now_ms() + timeout_ms;
  uint8_t header[COFFER_BOOT_HEADER_SIZE];
  size_t got = 0, length = 0;
  memset(out, 0, sizeof *out);
  enum coffer_boot_error error = read_full(fd, header, sizeof header, deadline, &got);
  if (error == COFFER_BOOT_OK) error = check_header(header, &length);
  if (error != COFFER_BOOT_OK) return error;

  uint8_t *data = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return COFFER_BOOT_NO_MEMORY;
  /* Neither may fail the boot: a small mlock limit is common. */
  (void)mlock(data, length);
  (void)madvise(data, length, MADV_DONTDUMP);
  memcpy(data, header, sizeof header);
  error = read_full(fd, data, length, deadline, &got);
  if (error == COFFER_BOOT_OK) error = coffer_boot_check(data, length, instance_id, instance_id_size, out);
  if (error != COFFER_BOOT_OK) {
    struct coffer_boot_frame failed = {.data = data, .size = length};
    coffer_boot_wipe(&failed);
    memset(out, 0, sizeof *out);
  }
  return error;
}

void coffer_boot_wipe(struct coffer_boot_frame *frame) {
  if (!frame->data) return;
  wipe(frame->data, frame->size);
  munmap(frame->data, frame->size);
  memset(frame, 0, sizeof *frame);
}

/* ---- writing ---- */
static void put(struct coffer_boot_writer *w, const void *p, size_t size) {
  if (w->error != COFFER_BOOT_OK || size == 0) return;
  if (size > COFFER_BOOT_MAX_SIZE - w->used || (w->data && size > w->capacity - w->used)) {
    w->error = COFFER_BOOT_TOO_LARGE;
    return;
  }
  if (w->data) memcpy(w->data + w->used, p, size);
  w->used += size;
}

static void put32(struct coffer_boot_writer *w, uint32_t v) {
  const uint8_t b[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};
  put(w, b, sizeof b);
}

static void accept_entry(struct coffer_boot_writer *w, const struct coffer_boot_entry *e) {
  if (w->error != COFFER_BOOT_OK) return;
  w->error = e->name_size > COFFER_BOOT_MAX_SIZE || e->value_size > COFFER_BOOT_MAX_SIZE
                 ? COFFER_BOOT_TOO_LARGE
                 : check_entry(e);
  if (w->error == COFFER_BOOT_OK &&
      (e->kind < w->last_kind ||
       (e->kind == w->last_kind && !ascending(w->last_name, w->last_name_size, e->name, e->name_size))))
    w->error = COFFER_BOOT_BAD_ORDER;
  w->last_kind = e->kind;
  w->last_name = e->name;
  w->last_name_size = e->name_size;
}

void coffer_boot_begin(struct coffer_boot_writer *w, uint8_t *data, size_t capacity, const char *instance_id,
                       size_t instance_id_size) {
  memset(w, 0, sizeof *w);
  w->data = data;
  w->capacity = capacity;
  if (instance_id_size == 0 || instance_id_size > COFFER_BOOT_MAX_INSTANCE_ID)
    w->error = COFFER_BOOT_WRONG_INSTANCE;
  put(w, COFFER_BOOT_MAGIC, 8);
  put32(w, COFFER_BOOT_VERSION);
  put32(w, 0); /* length, known at the end */
  put32(w, (uint32_t)instance_id_size);
  put(w, instance_id, instance_id_size);
}

void coffer_boot_put_env(struct coffer_boot_writer *w, const char *name, size_t name_size, const void *value,
                         size_t value_size) {
  const struct coffer_boot_entry e = {.kind = COFFER_BOOT_ENV,
                                      .name = (char *)(uintptr_t)name,
                                      .name_size = name_size,
                                      .value = (uint8_t *)(uintptr_t)value,
                                      .value_size = value_size};
  accept_entry(w, &e);
  put32(w, COFFER_BOOT_ENV);
  put32(w, (uint32_t)name_size);
  put32(w, (uint32_t)value_size);
  put(w, name, name_size);
  put(w, "=", 1);
  put(w, value, value_size);
  put(w, "", 1);
}

void coffer_boot_put_file(struct coffer_boot_writer *w, const char *path, size_t path_size, const void *value,
                          size_t value_size, uint32_t mode, uint32_t flags, uint32_t uid, uint32_t gid) {
  const struct coffer_boot_entry e = {.kind = COFFER_BOOT_FILE,
                                      .mode = mode,
                                      .flags = flags,
                                      .uid = uid,
                                      .gid = gid,
                                      .name = (char *)(uintptr_t)path,
                                      .name_size = path_size,
                                      .value = (uint8_t *)(uintptr_t)value,
                                      .value_size = value_size};
  accept_entry(w, &e);
  put32(w, COFFER_BOOT_FILE);
  put32(w, (uint32_t)path_size);
  put32(w, (uint32_t)value_size);
  put32(w, mode);
  put32(w, flags);
  put32(w, uid);
  put32(w, gid);
  put(w, path, path_size);
  put(w, "", 1);
  put(w, value, value_size);
}

enum coffer_boot_error coffer_boot_end(struct coffer_boot_writer *w) {
  put32(w, 0);
  if (w->error == COFFER_BOOT_OK && w->data) {
    const uint8_t length[4] = {(uint8_t)w->used, (uint8_t)(w->used >> 8), (uint8_t)(w->used >> 16),
                               (uint8_t)(w->used >> 24)};
    memcpy(w->data + 12, length, sizeof length);
  }
  return w->error;
}
