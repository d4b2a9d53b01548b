/* supervisor.h - what the plugin and coffer-process-supervisor agree on.
 *
 * The folder of a Machine, STATE_DIR/INSTANCE_ID, 0700 (no value of a secret is ever in it):
 *
 * spec: what to run: "coffer-process-spec 1" NUL, then "key=value" NUL ...; keys below.  Written at create.
 *
 * run: boot id, pid and start time of supervisor and app, lines "key value".  Written before the app runs,
 * and again with `started` when it does.
 *
 * stop: the order to stop, lines "signal N" and "timeout_ms N".  Its presence means "by order".
 *
 * exit: how it ended.  Written last, atomically; then the supervisor goes.
 *
 * log: output of the app; log.1: what came before.  See log_format below.
 *
 * lock: callers of start, update and destroy take it in turn.
 *
 * folderN: an empty folder; what the Machine has there: folders.h.
 *
 * alive: locked (F_OFD_SETLK) from just before the supervisor starts until its end, however it ends.
 *
 * log_format: *record, record = ("o" | "e") " " time_ns " " size "\n" size*byte "\n".  One record is what one
 * read gave, so it may hold several lines or a part of one; any bytes can be in it. */
#ifndef COFFER_RUNTIME_PROCESS_SUPERVISOR_H
#define COFFER_RUNTIME_PROCESS_SUPERVISOR_H
#include <stdint.h>

#define SPEC_MAGIC "coffer-process-spec 1"
/* Keys of a spec that the supervisor reads (others are the plugin's own):
 *   argv=WORD  env=NAME=VALUE  workdir=PATH  uid=N  gid=N  group=N  file=PATH  folder=PATH
 *   home=HOME=PATH, taken when nothing else sets HOME
 * uid, gid and group are there only when the Machine has a user of its own. */

#define LOG_RECORD_MAX 16384
#define LOG_FILE_MAX (8 << 20)

/* descriptors at the start of the supervisor; standard error is /dev/null or the command's */
#define FD_FRAME 0  /* run, update: the boot frame     */
#define FD_FOLDER 3 /* the Machine's folder            */
#define FD_ALIVE 4  /* run: open file with the lock    */
#define FD_STATUS 5 /* struct supervisor_message ...   */
#define FD_LAST 5

/* How far a boot, or a command in a Machine, came. */
#define STEP_OK 0u         /* the app runs (run); code = exit code of the command (exec) */
#define STEP_RUNNING 1u    /* exec: the command runs                                    */
#define STEP_SETUP 2u      /* code = errno: pipes, fork, limits                         */
#define STEP_SPEC 3u       /* the spec cannot be read                                   */
#define STEP_RECORD 4u     /* code = errno: `run` cannot be written                     */
#define STEP_FRAME 5u      /* code = enum coffer_boot_error                             */
#define STEP_NAMESPACE 6u  /* code = errno: no mount namespace of its own               */
#define STEP_TMPFS 7u      /* code = errno, 0 = not a tmpfs                             */
#define STEP_MOUNTPOINT 8u /* code = errno, index = which file: it cannot be made       */
#define STEP_NOT_A_FILE 9u /* index = which file: a folder, symlink or device is there  */
#define STEP_FILE 10u      /* code = errno, index = which file: write, owner, mount     */
#define STEP_USER 11u      /* code = errno                                              */
#define STEP_WORKDIR 12u   /* code = errno                                              */
#define STEP_EXEC 13u      /* code = errno                                              */
#define STEP_DIED 14u      /* ended before it was the app                               */
#define STEP_ENTER 15u     /* exec: code = errno: the Machine cannot be entered         */
#define STEP_ENVIRON 16u   /* exec: code = errno: its environment cannot be read        */
#define STEP_READY 17u     /* inside the supervisor alone                               */

struct supervisor_message {
  uint32_t step;
  int32_t code;
  uint32_t index;
};
#endif
