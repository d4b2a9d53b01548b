/* stage.h - the part of a boot that runs in the child: from fork to execve of the app. */
#ifndef COFFER_RUNTIME_PROCESS_STAGE_H
#define COFFER_RUNTIME_PROCESS_STAGE_H
#include <stddef.h>
#include <sys/types.h>

#include "supervisor.h"

struct spec { /* a view of the mapped file `spec` */
  const char *data;
  size_t size;
  size_t n_argv, n_env, n_groups, n_files;
  const char *workdir, *home;
  int has_user;
  uid_t uid;
  gid_t gid;
};
/* Next value of `key`, from *at on; NULL: there is no more. */
const char *spec_next(const struct spec *, size_t *at, const char *key);
/* 0, or -1 when it is missing or damaged.  The mapping lives as long as the process. */
int spec_load(int folder, struct spec *out);

/* No debugger, no core dump (not even through a core handler), nothing inherited that was not meant to be. */
void harden(void);
void reset_signals(void);

/* Sends one message and ends with the exit code that belongs to it: 78 frame, 126/127 command, 125 else. */
_Noreturn void stage_fail(int channel, uint32_t step, int code, uint32_t index);
int send_message(int fd, uint32_t step, int code, uint32_t index);

/* "/proc/self/fd/N" */
const char *fd_path(char out[32], int fd);
/* The folders that lead to it, not itself.  0 or errno. */
int make_folders_to(char *path);
/* A tmpfs, not swapped where the kernel can: since Linux 6.4, and not in a user namespace.  0 or errno. */
int mount_tmpfs_on(int place, const char *mode, size_t bytes, size_t inodes, int *no_swap);

/* A new file, which belongs to whom the entry says, or to the Machine's user; the value is wiped.  0 or
 * errno. */
struct coffer_boot_entry;
int write_file(int folder, const char *name, const struct coffer_boot_entry *, const struct spec *);

/* Takes groups, gid and uid of the Machine's user for good; 0 or errno. */
int become_user(const struct spec *);

/* execve with a search in the PATH of `env`; answers errno. */
int exec_in_path(char **argv, char **env);

/* REQUIRES: descriptors 0 (frame), FD_FOLDER; one byte on `channel` says that the record is written. */
_Noreturn void stage_run(const struct spec *, const char *instance_id, int channel, int out, int err,
                         pid_t supervisor);
#endif
