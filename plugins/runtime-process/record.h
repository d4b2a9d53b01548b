/* record.h - small text records of a Machine's folder ("key value" lines) and the identity of processes. */
#ifndef COFFER_RUNTIME_PROCESS_RECORD_H
#define COFFER_RUNTIME_PROCESS_RECORD_H
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#ifdef __cplusplus
extern "C" {
#endif

int64_t wall_ns(void);
int64_t monotonic_ms(void);

/* Reads a small file whole; its size, or -1.  `out` ends with NUL. */
ssize_t read_text_at(int folder, const char *name, char *out, size_t capacity);

/* Replaces `name` atomically and durably; 0 or errno. */
int write_text_at(int folder, const char *name, const char *text);

/* Number behind `key` at the start of a line; `fallback` without it. */
int64_t record_number(const char *text, const char *key, int64_t fallback);
/* "app PID START": 0, or -1 without such a line. */
int record_process(const char *text, const char *key, pid_t *pid, uint64_t *start);

int boot_id(char out[64]);
/* Field 22 of /proc/PID/stat; 0 when there is no such process, or only a zombie.  pid and start time together
 * name a process until the host reboots. */
uint64_t process_start(pid_t pid);

/* SIGKILL for every child, and for what they leave behind, until none is left.  REQUIRES: subreaper. */
void kill_children(void);
#ifdef __cplusplus
}
#endif
#endif
