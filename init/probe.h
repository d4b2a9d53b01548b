/* probe.h - one try of a check: a TCP connection, or an HTTP request, to a port of the loopback of whoever
 * calls.  127.0.0.1 first; ::1 where nothing listens there.
 *
 * coffer-init makes it inside a container, runtime-process by itself: its Machines have the host's network.
 * Plain C11; of memory only a few KiB of the stack, whatever the server sends.  Of an answer the status line
 * alone is read, and none of its bytes is told to anybody but the status.
 * Thread rule: no globals. */
#ifndef COFFER_PROBE_H
#define COFFER_PROBE_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define COFFER_PROBE_MAX_PATH 2048u
#define COFFER_PROBE_MAX_METHOD 16u

struct coffer_probe {
  unsigned port;
  const char *method, *path; /* NULL: TCP only; else an HTTP request that passes with status 200 .. 299 */
  uint64_t deadline_ns;      /* CLOCK_MONOTONIC */
  int cancel_fd;             /* readable once cancelled; -1: none */
};

enum coffer_probe_result {
  COFFER_PROBE_PASSED = 0,
  COFFER_PROBE_NOT_PASSED, /* `why` says why */
  COFFER_PROBE_CANCELLED,
  COFFER_PROBE_IMPOSSIBLE /* it could not be tried; `why` says why */
};

/* Is this a method ("GET") and a path ("/health?deep=1") that a request line can hold? */
int coffer_probe_method_ok(const char *method, size_t size);
int coffer_probe_path_ok(const char *path, size_t size);

#define COFFER_PROBE_WHY 64u
/* REQUIRES: port 1 .. 65535; method and path as above.  Raises no SIGPIPE. */
enum coffer_probe_result coffer_probe_try(const struct coffer_probe *, char why[COFFER_PROBE_WHY]);

#ifdef __cplusplus
}
#endif
#endif
