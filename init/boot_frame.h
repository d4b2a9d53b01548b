/* boot_frame.h - how the values of one boot reach a Machine: one frame, on standard input, once.
 *
 * The runtime writes it, the first process of the Machine (coffer-init in a container, the init stage of
 * runtime-process' supervisor on the host) reads it, checks all of it and becomes the app.  Nothing of it
 * touches a file, an argument or an environment on the way.
 *
 * GRAMMAR (integers are 32-bit little-endian; nothing is aligned)
 *
 *   frame    = magic version length instance *env *file end
 *   magic    = "CofferBF"                        8 bytes
 *   version  = 1
 *   length   = bytes of the whole frame          25 .. 4,194,304
 *   instance = size bytes                        the instance_id: 1 .. 128 bytes
 *   env      = 1 name_size value_size name "=" value NUL
 *   file     = 2 path_size value_size mode flags uid gid path NUL value
 *   end      = 0                                 the last 4 bytes of the frame
 *
 *   name     [A-Za-z_][A-Za-z0-9_]*, strictly ascending as bytes, so none twice
 *   value    of an env entry: without NUL; of a file: any bytes
 *   path     see coffer_boot_path_error(); strictly ascending as bytes, so none twice
 *   mode     0 .. 0777
 *   flags    1 = uid and gid count, else the file belongs to the Machine's user and both are 0
 *
 * Rationale: an env entry lies in the frame as execve() wants it and a path ends with NUL, so the reader
 * points into the one buffer and copies no value.
 *
 * Plain C11.  Of libc only read, poll, clock_gettime, mmap, munmap, mlock, madvise, memcpy, memcmp, memset.
 * Thread rule: no globals. */
#ifndef COFFER_BOOT_FRAME_H
#define COFFER_BOOT_FRAME_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define COFFER_BOOT_MAGIC "CofferBF"
#define COFFER_BOOT_VERSION 1u
#define COFFER_BOOT_HEADER_SIZE 16u
#define COFFER_BOOT_MIN_SIZE 25u
#define COFFER_BOOT_MAX_SIZE 4194304u
#define COFFER_BOOT_MAX_INSTANCE_ID 128u
#define COFFER_BOOT_MAX_PATH 4095u
#define COFFER_BOOT_TIMEOUT_MS 10000
#define COFFER_BOOT_EXIT_CODE 78 /* of a first process that got no good frame (EX_CONFIG) */

#define COFFER_BOOT_ENV 1u
#define COFFER_BOOT_FILE 2u
#define COFFER_BOOT_OWNER 1u /* flag of a file: uid and gid count */

enum coffer_boot_error {
  COFFER_BOOT_OK = 0,
  COFFER_BOOT_NO_FRAME,       /* end of input before the first byte */
  COFFER_BOOT_TIMEOUT,        /* no complete frame in time          */
  COFFER_BOOT_TRUNCATED,      /* end of input inside the frame      */
  COFFER_BOOT_IO,             /* reading failed                     */
  COFFER_BOOT_NO_MEMORY,      /* no memory for the frame            */
  COFFER_BOOT_BAD_MAGIC,      /* not a boot frame                   */
  COFFER_BOOT_BAD_VERSION,    /* a version unknown to this reader   */
  COFFER_BOOT_TOO_LARGE,      /* over COFFER_BOOT_MAX_SIZE          */
  COFFER_BOOT_WRONG_INSTANCE, /* meant for another instance         */
  COFFER_BOOT_BAD_NAME,       /* an env name breaks the grammar     */
  COFFER_BOOT_NUL_IN_ENV,     /* an env value holds NUL             */
  COFFER_BOOT_BAD_PATH,       /* coffer_boot_path_error()           */
  COFFER_BOOT_BAD_ORDER,      /* names or paths not ascending       */
  COFFER_BOOT_MALFORMED       /* sizes, flags or the end are wrong  */
};

/* One plain sentence part for a person, never NULL: "the frame is cut short". */
const char *coffer_boot_error_text(enum coffer_boot_error);

/* NULL when `path` may be the place of a file in a Machine, else why not ("is not absolute").  Looks at the
 * text alone: absolute, no empty, "." or ".." part, no control character, ':' or ',', at most 4,095 bytes,
 * not
 * "/" and not under /proc, /sys, /dev or /.coffer. */
const char *coffer_boot_path_error(const char *path, size_t size);

/* ---- reading ---- */
struct coffer_boot_frame { /* a checked frame */
  uint8_t *data;
  size_t size, first; /* offset of the first entry */
  size_t n_env, n_files;
};
struct coffer_boot_entry { /* points into the frame */
  uint32_t kind;           /* COFFER_BOOT_ENV, COFFER_BOOT_FILE */
  uint32_t mode, flags, uid, gid;
  char *name; /* env: begin of "NAME=VALUE" NUL; file: the path, NUL at its end */
  size_t name_size;
  uint8_t *value;
  size_t value_size;
};

/* Reads one frame from `fd` into locked, undumped memory of its own and checks all of it.  Reads not one byte
 * more than the frame; takes at most `timeout_ms` in all.  On success the caller ends with
 * coffer_boot_wipe(); on failure nothing is left in memory. */
enum coffer_boot_error coffer_boot_read(int fd, const char *instance_id, size_t instance_id_size,
                                        int timeout_ms, struct coffer_boot_frame *out);

/* Checks a frame that lies in memory of the caller, which `out` then points into. */
enum coffer_boot_error coffer_boot_check(uint8_t *data, size_t size, const char *instance_id,
                                         size_t instance_id_size, struct coffer_boot_frame *out);

/* Next entry; *offset begins with 0.  Answers 0 at the end.  REQUIRES: a checked frame. */
int coffer_boot_next(const struct coffer_boot_frame *, size_t *offset, struct coffer_boot_entry *out);

/* Wipes and unmaps a frame of coffer_boot_read(). */
void coffer_boot_wipe(struct coffer_boot_frame *);

/* ---- writing: into memory of the caller, each value copied once ----
 * With data == NULL nothing is stored and `used` counts what a frame would take, so the same calls measure
 * and then write.  The first error sticks; coffer_boot_end() answers it. */
struct coffer_boot_writer {
  uint8_t *data;
  size_t capacity, used;
  enum coffer_boot_error error;
  uint32_t last_kind;
  const char *last_name; /* borrowed from the last entry */
  size_t last_name_size;
};
void coffer_boot_begin(struct coffer_boot_writer *, uint8_t *data, size_t capacity, const char *instance_id,
                       size_t instance_id_size);
/* REQUIRES: names ascending, all env entries before all files; name lives until the next call. */
void coffer_boot_put_env(struct coffer_boot_writer *, const char *name, size_t name_size, const void *value,
                         size_t value_size);
void coffer_boot_put_file(struct coffer_boot_writer *, const char *path, size_t path_size, const void *value,
                          size_t value_size, uint32_t mode, uint32_t flags, uint32_t uid, uint32_t gid);
enum coffer_boot_error coffer_boot_end(struct coffer_boot_writer *);

#ifdef __cplusplus
}
#endif
#endif
