#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define REQUEST_MAX (COFFER_PROBE_MAX_METHOD + COFFER_PROBE_MAX_PATH + 128u)
#define STATUS_LINE_MAX 1024u

int coffer_probe_method_ok(const char *method, size_t size) {
  if (size == 0 || size > COFFER_PROBE_MAX_METHOD) return 0;
  for (size_t i = 0; i < size; ++i)
    if (method[i] < 'A' || method[i] > 'Z') return 0;
  return 1;
}

int coffer_probe_path_ok(const char *path, size_t size) {
  if (size == 0 || size > COFFER_PROBE_MAX_PATH || path[0] != '/') return 0;
  for (size_t i = 0; i < size; ++i)
    if (path[i] <= 0x20 || path[i] >= 0x7f) return 0;
  return 1;
}

/* ---- what comes of it ---- */
static enum coffer_probe_result say(enum coffer_probe_result result, char *why, const char *text) {
  size_t n = strlen(text);
  if (n >= COFFER_PROBE_WHY) n = COFFER_PROBE_WHY - 1;
  memcpy(why, text, n);
  why[n] = 0;
  return result;
}

static enum coffer_probe_result say_errno(int error, char *why) {
  switch (error) {
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
    case EACCES:
    case EPERM:
      return say(COFFER_PROBE_IMPOSSIBLE, why, strerror(error));
    case ECONNREFUSED:
      return say(COFFER_PROBE_NOT_PASSED, why, "connection refused");
    case ECONNRESET:
    case EPIPE:
      return say(COFFER_PROBE_NOT_PASSED, why, "the connection was reset");
    case ETIMEDOUT:
      return say(COFFER_PROBE_NOT_PASSED, why, "no answer in time");
    default:
      return say(COFFER_PROBE_NOT_PASSED, why, strerror(error));
  }
}

/* Waits for `events` of the socket.  PASSED: there they are. */
static enum coffer_probe_result await(const struct coffer_probe *p, int fd, short events, char *why) {
  for (;;) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    const uint64_t now = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    if (now >= p->deadline_ns) return say(COFFER_PROBE_NOT_PASSED, why, "no answer in time");
    const uint64_t left_ms = (p->deadline_ns - now) / 1000000u + 1;
    struct pollfd fds[2] = {{fd, events, 0}, {p->cancel_fd, POLLIN, 0}};
    const int n = poll(fds, 2, left_ms > 1000000u ? 1000000 : (int)left_ms);
    if (n < 0 && errno != EINTR) return say_errno(errno, why);
    if (n > 0 && fds[1].revents) return say(COFFER_PROBE_CANCELLED, why, "cancelled");
    if (n > 0 && fds[0].revents) return COFFER_PROBE_PASSED;
  }
}

/* ---- TCP ---- */
/* A connection to a port of the ephemeral range can become one with itself when nothing listens there. */
static int is_with_itself(int fd) {
  struct sockaddr_storage ours, theirs;
  socklen_t ours_size = sizeof ours, theirs_size = sizeof theirs;
  memset(&ours, 0, sizeof ours);
  memset(&theirs, 0, sizeof theirs);
  return getsockname(fd, (struct sockaddr *)&ours, &ours_size) == 0 &&
         getpeername(fd, (struct sockaddr *)&theirs, &theirs_size) == 0 && ours_size == theirs_size &&
         memcmp(&ours, &theirs, ours_size) == 0;
}

/* PASSED: *fd is connected. */
static enum coffer_probe_result connect_to(const struct coffer_probe *p, const struct sockaddr *address,
                                           socklen_t size, int *fd, char *why) {
  *fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (*fd < 0) return say_errno(errno, why);
  enum coffer_probe_result result = COFFER_PROBE_PASSED;
  int error = connect(*fd, address, size) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    result = await(p, *fd, POLLOUT, why);
    socklen_t error_size = sizeof error;
    if (result == COFFER_PROBE_PASSED && getsockopt(*fd, SOL_SOCKET, SO_ERROR, &error, &error_size) != 0)
      error = errno;
  }
  if (result == COFFER_PROBE_PASSED && !error && is_with_itself(*fd)) error = ECONNREFUSED;
  if (result == COFFER_PROBE_PASSED && error) result = say_errno(error, why);
  if (result != COFFER_PROBE_PASSED) close(*fd);
  return result;
}

static enum coffer_probe_result connect_loopback(const struct coffer_probe *p, int *fd, char *why) {
  struct sockaddr_in v4;
  memset(&v4, 0, sizeof v4);
  v4.sin_family = AF_INET;
  v4.sin_port = htons((uint16_t)p->port);
  v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const enum coffer_probe_result first = connect_to(p, (struct sockaddr *)&v4, sizeof v4, fd, why);
  if (first != COFFER_PROBE_NOT_PASSED) return first;
  struct sockaddr_in6 v6;
  memset(&v6, 0, sizeof v6);
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons((uint16_t)p->port);
  v6.sin6_addr.s6_addr[15] = 1;
  char why_not[COFFER_PROBE_WHY]; /* a host without IPv6 says nothing about the app */
  const enum coffer_probe_result second = connect_to(p, (struct sockaddr *)&v6, sizeof v6, fd, why_not);
  return second == COFFER_PROBE_PASSED || second == COFFER_PROBE_CANCELLED ? second : first;
}

/* ---- HTTP ---- */
static char *put(char *to, const char *text) {
  const size_t n = strlen(text);
  memcpy(to, text, n);
  return to + n;
}

static enum coffer_probe_result send_request(const struct coffer_probe *p, int fd, char *why) {
  char request[REQUEST_MAX], *end = put(request, p->method);
  end = put(put(put(end, " "), p->path), " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
  if (strcmp(p->method, "GET") != 0 && strcmp(p->method, "HEAD") != 0)
    end = put(end, "Content-Length: 0\r\n");
  end = put(end, "\r\n");
  for (const char *at = request; at < end;) {
    const ssize_t n = send(fd, at, (size_t)(end - at), MSG_NOSIGNAL);
    if (n > 0) at += n;
    if (n >= 0 || errno == EINTR) continue;
    if (errno == EPIPE || errno == ECONNRESET) break; /* there may be an answer none the less */
    if (errno != EAGAIN) return say_errno(errno, why);
    const enum coffer_probe_result ready = await(p, fd, POLLOUT, why);
    if (ready != COFFER_PROBE_PASSED) return ready;
  }
  return COFFER_PROBE_PASSED;
}

/* The status of "HTTP/1.1 204 No Content"; 0: it is no status line. */
static unsigned status_of(const char *line, size_t size) {
  static const char form[] = "HTTP/D.D DDD";
  const size_t n = sizeof form - 1;
  if (size < n || (size > n && line[n] != ' ' && line[n] != '\r')) return 0;
  for (size_t i = 0; i < n; ++i)
    if (form[i] == 'D' ? line[i] < '0' || line[i] > '9' : line[i] != form[i]) return 0;
  return (unsigned)(line[9] - '0') * 100 + (unsigned)(line[10] - '0') * 10 + (unsigned)(line[11] - '0');
}

static enum coffer_probe_result judge(const char *line, size_t size, char *why) {
  const unsigned status = status_of(line, size);
  if (status < 100) return say(COFFER_PROBE_NOT_PASSED, why, "the answer is not HTTP");
  if (status >= 200 && status <= 299) return COFFER_PROBE_PASSED;
  char text[] = "HTTP status NNN";
  memcpy(text + sizeof text - 4, line + 9, 3);
  return say(COFFER_PROBE_NOT_PASSED, why, text);
}

static enum coffer_probe_result read_status(const struct coffer_probe *p, int fd, char *why) {
  char line[STATUS_LINE_MAX];
  for (size_t used = 0;;) {
    const enum coffer_probe_result ready = await(p, fd, POLLIN, why);
    if (ready != COFFER_PROBE_PASSED) return ready;
    const ssize_t n = recv(fd, line + used, sizeof line - used, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (n < 0) return say_errno(errno, why);
    if (n == 0 && used == 0)
      return say(COFFER_PROBE_NOT_PASSED, why, "the connection was closed without an answer");
    const char *const end = memchr(line + used, '\n', (size_t)n);
    if (end) return judge(line, (size_t)(end - line), why);
    used += (size_t)n;
    if (n == 0 || used == sizeof line) return say(COFFER_PROBE_NOT_PASSED, why, "the answer is not HTTP");
  }
}

enum coffer_probe_result coffer_probe_try(const struct coffer_probe *p, char why[COFFER_PROBE_WHY]) {
  why[0] = 0;
  int fd;
  enum coffer_probe_result result = connect_loopback(p, &fd, why);
  if (result != COFFER_PROBE_PASSED) return result;
  if (p->method) {
    result = send_request(p, fd, why);
    if (result == COFFER_PROBE_PASSED) result = read_status(p, fd, why);
  }
  close(fd);
  return result;
}
