/* A storage plugin in plain C: one log file, one frame per commit, everything else in memory.
 *
 *   file  = "coffer-log 1\n" frame*
 *   frame = header body        header = { magic, body size, checksum of the body, checksum of this header }
 *   body  = revision u64, space, op*       op = kind u8, key, value       strings = size u32, bytes
 *
 * A commit appends its frame under flock() and syncs it.  Readers take no lock: they read on from where they
 * were and stop at a frame that is not whole yet.  What a killed writer left there, the next writer cuts off.
 * The log is never compacted: this is an example, not a vault for years. */
#define _GNU_SOURCE
#include <coffer/storage.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
  MAX_OPS = 1 << 20,
  MAX_VALUE = 16 << 20,
  MAX_BATCH = 256 << 20,
  MAX_KEY = 512,
  MAX_SPACE = 128,
  OP_DROP = 3
};
static const char kMagic[] = "coffer-log 1\n";
#define MAGIC_SIZE (sizeof kMagic - 1)

typedef struct header {
  uint32_t magic, size;
  uint64_t body_sum, header_sum;
} header;

typedef struct record { /* points into a chunk */
  coffer_str space, key;
  coffer_bytes value;
  uint64_t revision;
} record;

typedef struct chunk { /* bodies as read; kept until close */
  struct chunk *next;
  uint8_t data[];
} chunk;

struct coffer_instance {
  int fd;
  int read_only;
  uint64_t offset, revision; /* how far the log has been read */
  chunk *chunks;
  record *records; /* sorted by space and key */
  size_t n, room;
  char path[PATH_MAX];
};

/* ---- errors ---- */

static coffer_status fail(const coffer_call *call, coffer_status status, int code, const char *message) {
  coffer_error e = {sizeof e, 0, code, {"errno", code ? 5 : 0}, {message, strlen(message)}, {NULL, 0}};
  if (call && call->fail) call->fail(call, status, &e);
  return status;
}
static coffer_status fail_errno(const coffer_call *call, int code, const char *message) {
  switch (code) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return fail(call, COFFER_RESOURCE_EXHAUSTED, code, message);
    case EACCES:
    case EPERM:
    case EROFS:
      return fail(call, COFFER_PERMISSION_DENIED, code, message);
    case ENOENT:
    case ENOTDIR:
    case ELOOP:
    case ENAMETOOLONG:
    case ENXIO:
    case EISDIR:
      return fail(call, COFFER_FAILED_PRECONDITION, code, message);
    default:
      return fail(call, COFFER_UNAVAILABLE, code, message);
  }
}
static coffer_status no_memory(const coffer_call *call) {
  return fail(call, COFFER_RESOURCE_EXHAUSTED, ENOMEM, "out of memory");
}

/* ---- bytes ---- */

static uint64_t checksum(const void *data, size_t n) { /* FNV-1a */
  uint64_t sum = 14695981039346656037u;
  for (const uint8_t *p = data; n--; ++p) sum = (sum ^ *p) * 1099511628211u;
  return sum;
}
static int compare(coffer_str a, coffer_str b) {
  const size_t n = a.size < b.size ? a.size : b.size;
  const int c = n ? memcmp(a.data, b.data, n) : 0;
  return c ? c : (a.size > b.size) - (a.size < b.size);
}
static int starts_with(coffer_str s, coffer_str prefix) {
  return s.size >= prefix.size && (!prefix.size || !memcmp(s.data, prefix.data, prefix.size));
}
static int is_path(coffer_str s, size_t limit) {
  size_t start = 0;
  if (!s.size || s.size > limit) return 0;
  for (size_t i = 0; i <= s.size; ++i) {
    if (i == s.size || s.data[i] == '/') {
      const size_t n = i - start;
      if (!n || (n == 1 && s.data[start] == '.') || (n == 2 && s.data[start] == '.' && s.data[i - 1] == '.'))
        return 0;
      start = i + 1;
    } else if (!memchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-", s.data[i], 66)) {
      return 0;
    }
  }
  return 1;
}

static void put_bytes(uint8_t **to, const void *data, size_t n) {
  const uint32_t size = (uint32_t)n;
  memcpy(*to, &size, 4);
  if (n) memcpy(*to + 4, data, n);
  *to += 4 + n;
}
static int take_bytes(const uint8_t **at, const uint8_t *end, coffer_str *out) {
  uint32_t size;
  if (end - *at < 4) return 0;
  memcpy(&size, *at, 4);
  if ((size_t)(end - *at) - 4 < size) return 0;
  out->data = (const char *)*at + 4;
  out->size = size;
  *at += 4 + (size_t)size;
  return 1;
}

/* ---- the records in memory ---- */

/* Index of the first record that is not before (space, key). */
static size_t lower_bound(const coffer_instance *self, coffer_str space, coffer_str key) {
  size_t low = 0, high = self->n;
  while (low < high) {
    const size_t mid = (low + high) / 2;
    int c = compare(self->records[mid].space, space);
    if (!c) c = compare(self->records[mid].key, key);
    if (c < 0)
      low = mid + 1;
    else
      high = mid;
  }
  return low;
}
static const record *find(const coffer_instance *self, coffer_str space, coffer_str key) {
  const size_t i = lower_bound(self, space, key);
  return i < self->n && !compare(self->records[i].space, space) && !compare(self->records[i].key, key)
             ? &self->records[i]
             : NULL;
}
static void erase(coffer_instance *self, size_t from, size_t to) {
  memmove(self->records + from, self->records + to, (self->n - to) * sizeof(record));
  self->n -= to - from;
}

/* Takes one body into memory.  REQUIRES: room for its ops.  0: the body is malformed. */
static int apply(coffer_instance *self, const uint8_t *at, const uint8_t *end) {
  record r;
  if (end - at < 8) return 0;
  memcpy(&r.revision, at, 8);
  at += 8;
  if (!take_bytes(&at, end, &r.space)) return 0;
  while (at < end) {
    const uint8_t kind = *at++;
    coffer_str value;
    if (!take_bytes(&at, end, &r.key) || !take_bytes(&at, end, &value)) return 0;
    r.value.data = (const uint8_t *)value.data;
    r.value.size = value.size;
    const size_t i = lower_bound(self, r.space, r.key);
    if (kind == OP_DROP) {
      size_t j = i;
      while (j < self->n && !compare(self->records[j].space, r.space)) ++j;
      erase(self, i, j);
      continue;
    }
    const int there = find(self, r.space, r.key) != NULL;
    if (kind == COFFER_OP_DELETE) {
      if (there) erase(self, i, i + 1);
      continue;
    }
    if (!there) {
      if (self->n == self->room) return 0;
      memmove(self->records + i + 1, self->records + i, (self->n - i) * sizeof(record));
      ++self->n;
    }
    self->records[i] = r;
  }
  self->revision = r.revision;
  return 1;
}

static int read_at(int fd, uint64_t offset, void *to, size_t n) {
  for (uint8_t *p = to; n;) {
    const ssize_t got = pread(fd, p, n, (off_t)offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return 0;
    p += got;
    offset += (uint64_t)got;
    n -= (size_t)got;
  }
  return 1;
}

/* Reads what has been appended since the last time. */
static coffer_status catch_up(coffer_instance *self, const coffer_call *call) {
  struct stat s;
  if (fstat(self->fd, &s) != 0) return fail_errno(call, errno, "cannot read the log");
  const uint64_t size = (uint64_t)s.st_size;
  if (size < self->offset) return fail(call, COFFER_DATA_LOSS, 0, "the log is shorter than it was");
  while (size - self->offset >= sizeof(header)) {
    header h;
    if (!read_at(self->fd, self->offset, &h, sizeof h)) return fail_errno(call, EIO, "cannot read the log");
    if (h.magic != COFFER_ABI_MAGIC || h.header_sum != checksum(&h, offsetof(header, header_sum)))
      return fail(call, COFFER_DATA_LOSS, 0, "the log is damaged; restore it from a backup");
    if (h.size > size - self->offset - sizeof h) return COFFER_OK; /* being written, or left so */
    if (self->room < self->n + h.size / 9) {                       /* an op takes 9 bytes at least */
      const size_t room = (self->n + h.size / 9) * 2 + 64;
      record *grown = realloc(self->records, room * sizeof(record));
      if (!grown) return no_memory(call);
      self->records = grown;
      self->room = room;
    }
    chunk *c = malloc(sizeof *c + h.size);
    if (!c) return no_memory(call);
    const int whole = read_at(self->fd, self->offset + sizeof h, c->data, h.size) &&
                      checksum(c->data, h.size) == h.body_sum;
    c->next = self->chunks;
    self->chunks = c;
    if (!whole || !apply(self, c->data, c->data + h.size))
      return fail(call, COFFER_DATA_LOSS, 0, "the log is damaged; restore it from a backup");
    self->offset += sizeof h + h.size;
  }
  return COFFER_OK;
}

/* ---- writing ---- */

static coffer_status lock(coffer_instance *self, const coffer_call *call) {
  while (flock(self->fd, LOCK_EX | LOCK_NB) != 0) {
    struct timespec now, pause = {0, 1000000};
    if (errno != EWOULDBLOCK && errno != EINTR) return fail_errno(call, errno, "cannot lock the log");
    if (call->cancelled && call->cancelled(call)) return fail(call, COFFER_CANCELLED, 0, "cancelled");
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (call->deadline_ns && (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec >= call->deadline_ns)
      return fail(call, COFFER_DEADLINE_EXCEEDED, 0, "the log is locked by another process");
    nanosleep(&pause, NULL);
  }
  return COFFER_OK;
}

static int write_all(int fd, uint64_t offset, const uint8_t *p, size_t n) {
  while (n) {
    const ssize_t done = pwrite(fd, p, n, (off_t)offset);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return 0;
    p += done;
    offset += (uint64_t)done;
    n -= (size_t)done;
  }
  return 1;
}

/* Appends `frame`, whose body is complete.  REQUIRES: locked, caught up. */
static coffer_status append(coffer_instance *self, const coffer_call *call, uint8_t *frame, size_t size) {
  header h = {COFFER_ABI_MAGIC, (uint32_t)(size - sizeof h), 0, 0};
  h.body_sum = checksum(frame + sizeof h, size - sizeof h);
  h.header_sum = checksum(&h, offsetof(header, header_sum));
  memcpy(frame, &h, sizeof h);
  if (ftruncate(self->fd, (off_t)self->offset) != 0 || !write_all(self->fd, self->offset, frame, size))
    return fail_errno(call, errno, "cannot write the log");
  if (fsync(self->fd) != 0)
    return fail(call, COFFER_UNKNOWN, errno, "the log could not be synced; read it again");
  return catch_up(self, call);
}

static int by_key(const void *a, const void *b) {
  return compare((*(const coffer_op *const *)a)->key, (*(const coffer_op *const *)b)->key);
}

/* What can be judged without the log; *size: of the frame. */
static coffer_status check(const coffer_call *call, const coffer_batch *b, size_t *size) {
  uint64_t values = 0;
  if (!is_path(b->space, MAX_SPACE))
    return fail(call, COFFER_INVALID_ARGUMENT, 0, "the name of a space is not well-formed");
  if (!b->n_ops || b->n_ops > MAX_OPS)
    return fail(call, COFFER_INVALID_ARGUMENT, 0, "the batch has no ops or too many");
  for (size_t i = 0; i < b->n_pre; ++i)
    if (!is_path(b->pre[i]->key, MAX_KEY))
      return fail(call, COFFER_INVALID_ARGUMENT, 0, "a key is not well-formed");
  *size = sizeof(header) + 8 + 4 + b->space.size;
  for (size_t i = 0; i < b->n_ops; ++i) {
    const coffer_op *o = b->ops[i];
    if (o->kind != COFFER_OP_PUT && o->kind != COFFER_OP_DELETE)
      return fail(call, COFFER_INVALID_ARGUMENT, 0, "the batch holds an unknown operation");
    if (!is_path(o->key, MAX_KEY)) return fail(call, COFFER_INVALID_ARGUMENT, 0, "a key is not well-formed");
    const size_t value = o->kind == COFFER_OP_PUT ? o->value.size : 0;
    if (value > MAX_VALUE || (values += value) > MAX_BATCH)
      return fail(call, COFFER_INVALID_ARGUMENT, 0, "a value or the batch is too large");
    *size += 1 + 4 + o->key.size + 4 + value;
  }
  const coffer_op **sorted = malloc(b->n_ops * sizeof *sorted);
  if (!sorted) return no_memory(call);
  memcpy(sorted, b->ops, b->n_ops * sizeof *sorted);
  qsort(sorted, b->n_ops, sizeof *sorted, &by_key);
  int twice = 0;
  for (size_t i = 1; i < b->n_ops; ++i) twice |= !compare(sorted[i - 1]->key, sorted[i]->key);
  free(sorted);
  return twice ? fail(call, COFFER_INVALID_ARGUMENT, 0, "the batch names a key twice") : COFFER_OK;
}

static coffer_status locked_commit(coffer_instance *self, const coffer_call *call, const coffer_batch *b,
                                   size_t size) {
  coffer_status status = catch_up(self, call);
  if (status) return status;
  for (size_t i = 0; i < b->n_pre; ++i) {
    const record *r = find(self, b->space, b->pre[i]->key);
    if ((r ? r->revision : 0) != b->pre[i]->revision)
      return fail(call, COFFER_ABORTED, 0, "another write came first");
  }
  uint8_t *frame = malloc(size), *at = frame + sizeof(header);
  if (!frame) return no_memory(call);
  const uint64_t revision = self->revision + 1;
  memcpy(at, &revision, 8);
  at += 8;
  put_bytes(&at, b->space.data, b->space.size);
  for (size_t i = 0; i < b->n_ops; ++i) {
    const coffer_op *o = b->ops[i];
    *at++ = (uint8_t)o->kind;
    put_bytes(&at, o->key.data, o->key.size);
    put_bytes(&at, o->value.data, o->kind == COFFER_OP_PUT ? o->value.size : 0);
  }
  status = append(self, call, frame, size);
  free(frame);
  return status;
}

/* ---- the table of coffer.storage/1 ---- */

static coffer_status storage_limits(coffer_instance *self, const coffer_call *call,
                                    coffer_storage_limits *out) COFFER_NOEXCEPT {
  (void)self, (void)call;
  out->max_ops = MAX_OPS; /* the 1.0 fields are always there (R4) */
  out->max_value = MAX_VALUE;
  out->max_batch_bytes = MAX_BATCH;
  out->max_key = MAX_KEY;
  out->max_space = MAX_SPACE;
  return COFFER_OK;
}

static coffer_status storage_get(coffer_instance *self, const coffer_call *call, coffer_str space,
                                 coffer_str key, coffer_emit_value emit, void *ctx) COFFER_NOEXCEPT {
  if (!is_path(space, MAX_SPACE) || !is_path(key, MAX_KEY))
    return fail(call, COFFER_INVALID_ARGUMENT, 0, "a name is not well-formed");
  const coffer_status status = catch_up(self, call);
  if (status) return status;
  const record *r = find(self, space, key);
  if (!r) return fail(call, COFFER_NOT_FOUND, 0, "no such key");
  emit(ctx, r->key, r->revision, r->value);
  return COFFER_OK;
}

static coffer_status storage_list(coffer_instance *self, const coffer_call *call, coffer_str space,
                                  coffer_str prefix, coffer_str after, uint64_t limit, uint32_t with_values,
                                  coffer_emit_value emit, void *ctx) COFFER_NOEXCEPT {
  const coffer_bytes none = {NULL, 0};
  if (!is_path(space, MAX_SPACE))
    return fail(call, COFFER_INVALID_ARGUMENT, 0, "the name of a space is not well-formed");
  const coffer_status status = catch_up(self, call);
  if (status) return status;
  uint64_t n = 0;
  for (size_t i = lower_bound(self, space, compare(prefix, after) < 0 ? after : prefix); i < self->n; ++i) {
    const record *r = &self->records[i];
    if (compare(r->space, space)) break;
    if (after.size && !compare(r->key, after)) continue;
    if (!starts_with(r->key, prefix)) break;
    if (emit(ctx, r->key, r->revision, with_values ? r->value : none) || ++n == limit) break;
  }
  return COFFER_OK;
}

static coffer_status storage_commit(coffer_instance *self, const coffer_call *call, const coffer_batch *b,
                                    uint64_t *revision) COFFER_NOEXCEPT {
  size_t size = 0;
  if (self->read_only) return fail(call, COFFER_FAILED_PRECONDITION, 0, "the log is open for reading only");
  coffer_status status = check(call, b, &size);
  if (!status) status = lock(self, call);
  if (status) return status;
  status = locked_commit(self, call, b, size);
  if (!status) *revision = self->revision;
  flock(self->fd, LOCK_UN);
  return status;
}

static coffer_status storage_spaces(coffer_instance *self, const coffer_call *call, coffer_str prefix,
                                    coffer_emit_space emit, void *ctx) COFFER_NOEXCEPT {
  const coffer_status status = catch_up(self, call);
  if (status) return status;
  for (size_t i = 0; i < self->n; ++i) {
    const coffer_str space = self->records[i].space;
    if ((i && !compare(self->records[i - 1].space, space)) || !starts_with(space, prefix)) continue;
    if (emit(ctx, space)) break;
  }
  return COFFER_OK;
}

static coffer_status storage_drop_space(coffer_instance *self, const coffer_call *call,
                                        coffer_str space) COFFER_NOEXCEPT {
  uint8_t frame[sizeof(header) + 8 + 4 + MAX_SPACE + 9] = {0}, *at = frame + sizeof(header);
  if (self->read_only) return fail(call, COFFER_FAILED_PRECONDITION, 0, "the log is open for reading only");
  if (!is_path(space, MAX_SPACE))
    return fail(call, COFFER_INVALID_ARGUMENT, 0, "the name of a space is not well-formed");
  coffer_status status = lock(self, call);
  if (status) return status;
  status = catch_up(self, call);
  const size_t first = lower_bound(self, space, (coffer_str){NULL, 0});
  if (!status && first < self->n && !compare(self->records[first].space, space)) {
    const uint64_t revision = self->revision + 1;
    memcpy(at, &revision, 8);
    at += 8;
    put_bytes(&at, space.data, space.size);
    *at++ = OP_DROP;
    put_bytes(&at, NULL, 0);
    put_bytes(&at, NULL, 0);
    status = append(self, call, frame, (size_t)(at - frame));
  }
  flock(self->fd, LOCK_UN);
  return status;
}

static const coffer_storage kStorage = {sizeof(coffer_storage), 0,
                                        COFFER_STORF_SHARED,    &storage_limits,
                                        &storage_get,           &storage_list,
                                        &storage_commit,        &storage_spaces,
                                        &storage_drop_space};

/* ---- opening ---- */

/* Makes the file whole or not at all: under no name first. */
static coffer_status create(const coffer_call *call, const char *dir, const char *path) {
  char nameless[64];
  const int folder = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return fail_errno(call, errno, "cannot open the folder of the log");
  coffer_status status = COFFER_OK;
  const int fd = openat(folder, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  snprintf(nameless, sizeof nameless, "/proc/self/fd/%d", fd);
  if (fd < 0 || fchmod(fd, 0600) != 0 || !write_all(fd, 0, (const uint8_t *)kMagic, MAGIC_SIZE) ||
      fsync(fd) != 0 ||
      (linkat(AT_FDCWD, nameless, AT_FDCWD, path, AT_SYMLINK_FOLLOW) != 0 && errno != EEXIST) ||
      fsync(folder) != 0)
    status = fail_errno(call, errno, "cannot make the log");
  if (fd >= 0) close(fd);
  close(folder);
  return status;
}

static coffer_status open_log(coffer_instance *self, const coffer_call *call) {
  char dir[PATH_MAX], magic[MAGIC_SIZE];
  struct stat s;
  strcpy(dir, self->path);
  char *slash = strrchr(dir, '/');
  if (!slash)
    strcpy(dir, ".");
  else
    slash[slash == dir] = '\0';
  if (stat(dir, &s) != 0) return fail_errno(call, errno, "cannot use the folder of the log");
  if ((s.st_mode & S_IWOTH) && !(s.st_mode & S_ISVTX))
    return fail(call, COFFER_FAILED_PRECONDITION, 0,
                "the folder of the log is writable by everybody; chmod o-w it");
  const int flags = (self->read_only ? O_RDONLY : O_RDWR) | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
  self->fd = open(self->path, flags);
  if (self->fd < 0 && errno == ENOENT && !self->read_only) {
    const coffer_status status = create(call, dir, self->path);
    if (status) return status;
    self->fd = open(self->path, flags);
  }
  if (self->fd < 0) return fail_errno(call, errno, "cannot open the log");
  if (fstat(self->fd, &s) != 0) return fail_errno(call, errno, "cannot open the log");
  if (!S_ISREG(s.st_mode)) return fail(call, COFFER_FAILED_PRECONDITION, 0, "the log is not a regular file");
  if (s.st_uid != geteuid())
    return fail(call, COFFER_FAILED_PRECONDITION, 0, "the log belongs to another user");
  if (s.st_mode & (S_IWGRP | S_IWOTH))
    return fail(call, COFFER_FAILED_PRECONDITION, 0, "the log is writable by others; chmod 600 it");
  if (!read_at(self->fd, 0, magic, MAGIC_SIZE) || memcmp(magic, kMagic, MAGIC_SIZE))
    return fail(call, COFFER_DATA_LOSS, 0, "the file is not a log of this plugin");
  self->offset = MAGIC_SIZE;
  return catch_up(self, call);
}

static void plugin_close(coffer_instance *self) COFFER_NOEXCEPT {
  while (self->chunks) {
    chunk *c = self->chunks;
    self->chunks = c->next;
    free(c);
  }
  if (self->fd >= 0) close(self->fd);
  free(self->records);
  free(self);
}

/* The option `path`, or NULL and what is wrong with it. */
static const coffer_bytes *path_of(const coffer_open_args *args, const char **wrong) {
  *wrong = "path is missing";
  for (size_t i = 0; i < args->n_options; ++i) {
    const coffer_bytes *v = &args->options[i].value;
    if (args->options[i].key.size != 4 || memcmp(args->options[i].key.data, "path", 4)) continue;
    *wrong = "path is empty, too long, or holds a NUL or a newline";
    return v->size && v->size < PATH_MAX && !memchr(v->data, 0, v->size) && !memchr(v->data, '\n', v->size)
               ? v
               : NULL;
  }
  return NULL;
}

static coffer_status plugin_open(const coffer_call *call, const coffer_open_args *args,
                                 coffer_instance **out) COFFER_NOEXCEPT {
  const char *wrong;
  const coffer_bytes *path = path_of(args, &wrong);
  if (!path) return fail(call, COFFER_INVALID_ARGUMENT, 0, wrong);
  coffer_instance *self = calloc(1, sizeof *self);
  if (!self) return no_memory(call);
  self->fd = -1;
  self->read_only = (args->flags & COFFER_OPEN_READONLY) != 0;
  memcpy(self->path, path->data, path->size);
  const coffer_status status = open_log(self, call);
  if (status)
    plugin_close(self);
  else
    *out = self;
  return status;
}

static coffer_status plugin_init(const coffer_host *host, const coffer_call *call) COFFER_NOEXCEPT {
  (void)host, (void)call;
  return COFFER_OK;
}
static void plugin_deinit(void) COFFER_NOEXCEPT {}
static coffer_status plugin_validate(const coffer_call *call, const coffer_open_args *args,
                                     const coffer_sink *notes) COFFER_NOEXCEPT {
  const char *wrong;
  (void)notes;
  return path_of(args, &wrong) ? COFFER_OK : fail(call, COFFER_INVALID_ARGUMENT, 0, wrong);
}
static coffer_status plugin_probe(coffer_instance *self, const coffer_call *call,
                                  const coffer_sink *health) COFFER_NOEXCEPT {
  const coffer_status status = catch_up(self, call);
  return status ? status : health->write(health, "{}", 2);
}
static const void *plugin_interface(coffer_instance *self, const char *id) COFFER_NOEXCEPT {
  (void)self;
  return strcmp(id, COFFER_STORAGE_ID) ? NULL : &kStorage;
}

static const coffer_option kPath = {sizeof(coffer_option),
                                    COFFER_OPT_PATH,
                                    0,
                                    COFFER_OPTF_REQUIRED,
                                    "path",
                                    "the log file; made when absent",
                                    NULL,
                                    "vault.log",
                                    NULL,
                                    0,
                                    -1};
static const coffer_option *const kOptions[] = {&kPath};
static const coffer_interface_ref kInterfaces[] = {{COFFER_STORAGE_ID, 0}};
static const coffer_descriptor kDescriptor = {sizeof(coffer_descriptor),
                                              0,
                                              "coffer.example.storage-c",
                                              "storage-c",
                                              "0.1.0",
                                              "Coffer",
                                              "Apache-2.0",
                                              "",
                                              "an example in C: one log file",
                                              kInterfaces,
                                              1,
                                              kOptions,
                                              1};

const coffer_plugin_entry COFFER_PLUGIN_SYMBOL = {COFFER_ABI_MAGIC,
                                                  sizeof(coffer_plugin_entry),
                                                  COFFER_ABI_MAJOR,
                                                  COFFER_ABI_MINOR,
                                                  0,
                                                  0,
                                                  &kDescriptor,
                                                  &plugin_init,
                                                  &plugin_deinit,
                                                  &plugin_validate,
                                                  &plugin_open,
                                                  &plugin_close,
                                                  &plugin_probe,
                                                  &plugin_interface};
