/* coffer/runtime.h - "coffer.runtime/1": runs Machines (Docker, local processes, Podman, nspawn, Kubernetes,
 * Nomad, Swarm ...). One instance = one create = one start; in doubt destroy and create anew.  Every call is
 * idempotent. */
#ifndef COFFER_RUNTIME_H
#define COFFER_RUNTIME_H
#include "abi.h"
#ifdef __cplusplus
extern "C" {
#endif
#define COFFER_RUNTIME_ID "coffer.runtime/1"
#define COFFER_RUNTIME_LOGS_ID "coffer.runtime.logs/1" /* optional, as below */
#define COFFER_RUNTIME_EXEC_ID "coffer.runtime.exec/1"
#define COFFER_RUNTIME_IMAGES_ID "coffer.runtime.images/1"
#define COFFER_RUNTIME_EVENTS_ID "coffer.runtime.events/1"
#define COFFER_RUNTIME_PROBE_ID "coffer.runtime.probe/1"
#define COFFER_RUNTIME_UPDATE_ID "coffer.runtime.update/1"

/* how a delivery can reach a Machine */
#define COFFER_VIA_ENV                                                                                       \
  1u                        /* environment of the app (runtime-docker: through coffer-init's standard input) \
                             */
#define COFFER_VIA_TMPFS 2u /* file in memory only */
#define COFFER_DLV_SECRET 1u
#define COFFER_DLV_OWNER 2u /* uid and gid are given; else those of the Machine's user */
/* COFFER_VIA_TMPFS, for runtimes with coffer.runtime.update/1; others need not look at it.  The folder of the
 * file is the Machine's alone and can be replaced while the app runs: it is mounted as a whole, hides what
 * the image has there, and holds nothing but the files that are delivered into it.  All files of one folder
 * have the flag, or none. */
#define COFFER_DLV_FOLDER 4u
typedef struct coffer_delivery {
  uint32_t struct_size, via, flags, mode;
  coffer_str name;    /* variable name, or absolute path in the Machine */
  coffer_bytes value; /* borrowed; empty at create, there at start      */
  uint32_t uid, gid;
} coffer_delivery;

typedef struct coffer_port {      /* a port of the Machine that is reachable on the host */
  uint32_t struct_size, protocol; /* 6 TCP, 17 UDP */
  uint32_t port, host_port;       /* host_port 0: the platform chooses one */
  coffer_str host_ip;             /* empty: every address of the host */
} coffer_port;
#define COFFER_MOUNT_READ_ONLY 1u
typedef struct coffer_mount { /* not for secrets */
  uint32_t struct_size, flags;
  coffer_str
      source; /* absolute path of the host, or the name of a volume, which is made when missing and kept */
  coffer_str target; /* absolute path in the Machine */
} coffer_mount;

#define COFFER_SPEC_READ_ONLY 1u /* the root file system */
typedef struct coffer_machine_spec {
  uint32_t struct_size, flags;  /* COFFER_SPEC_* */
  coffer_str name, instance_id; /* create again with the same instance_id answers the same handle */
  coffer_str image;
  const coffer_str *entrypoint;
  size_t n_entrypoint; /* 0 = the image's */
  const coffer_str *argv;
  size_t n_argv; /* 0 = the image's command */
  const coffer_pair *env;
  size_t n_env; /* plain, non-secret */
  const coffer_pair *labels;
  size_t n_labels;
  const coffer_delivery *const *deliveries;
  size_t n_deliveries;      /* where secrets will go; no values yet */
  coffer_str user, workdir; /* empty = the platform's default */
  /* Later than 1.0: COFFER_HAS().  A platform that lacks one of them refuses a spec that asks for it. */
  const coffer_port *const *ports;
  size_t n_ports;
  const coffer_mount *const *mounts;
  size_t n_mounts;
  const coffer_str *cap_drop; /* "NET_RAW", "ALL" */
  size_t n_cap_drop;
  coffer_str network;       /* empty = the platform's default */
  uint64_t memory_bytes;    /* 0 = no limit */
  coffer_str stop_signal;   /* "SIGTERM"; empty = the image's, else SIGTERM */
  uint64_t stop_timeout_ns; /* 0 = 10 s */
} coffer_machine_spec;

#define COFFER_M_UNKNOWN 0u
#define COFFER_M_CREATED 1u
#define COFFER_M_STARTING 2u
#define COFFER_M_STARTED 3u
#define COFFER_M_STOPPING 4u
#define COFFER_M_STOPPED 5u
#define COFFER_M_FAILED 6u
#define COFFER_M_GONE 7u
typedef struct coffer_machine_status {
  uint32_t struct_size, state;
  coffer_str name, instance_id, native_id, message;
  int32_t exit_code, exit_signal;
  uint32_t flags /* 1 out of memory */, reserved;
  int64_t created_ns, started_ns, finished_ns;
  coffer_bytes handle; /* opaque, <= 4 KiB, stored by the host; survives restarts of plugin and host */
  const coffer_pair *labels;
  size_t n_labels;
} coffer_machine_status;
typedef int32_t (*coffer_emit_machine)(void *ctx, const coffer_machine_status *) COFFER_NOEXCEPT;
typedef int32_t (*coffer_emit_chunk)(void *ctx, uint32_t stream /* 1 out, 2 err */, int64_t time_ns,
                                     coffer_bytes) COFFER_NOEXCEPT;

typedef struct coffer_runtime {
  uint32_t struct_size, minor;
  uint64_t features;
  uint32_t vias;         /* what it can do; probe() may narrow them: {"vias":["env","tmpfs"], ...} */
  uint32_t vias_exposed; /* those whose value the platform stores or shows: refused for secrets */
  coffer_status (*create)(coffer_instance *, const coffer_call *, const coffer_machine_spec *,
                          coffer_emit_machine, void *) COFFER_NOEXCEPT;
  coffer_status (*start)(coffer_instance *, const coffer_call *, coffer_bytes handle,
                         const coffer_delivery *const *deliveries,
                         size_t n) COFFER_NOEXCEPT; /* OK = the app itself runs */
  coffer_status (*stop)(coffer_instance *, const coffer_call *, coffer_bytes handle, coffer_str signal,
                        uint64_t timeout_ns) COFFER_NOEXCEPT; /* empty, 0: as its spec says.  Gone or
                                                                 stopped: OK */
  coffer_status (*destroy)(coffer_instance *, const coffer_call *, coffer_bytes handle,
                           uint32_t force) COFFER_NOEXCEPT; /* gone: OK; leaves no file of a delivery */
  coffer_status (*inspect)(coffer_instance *, const coffer_call *, coffer_bytes handle, coffer_emit_machine,
                           void *) COFFER_NOEXCEPT;
  coffer_status (*list)(coffer_instance *, const coffer_call *, const coffer_pair *labels, size_t n,
                        coffer_emit_machine, void *) COFFER_NOEXCEPT;
  coffer_status (*wait)(coffer_instance *, const coffer_call *, coffer_bytes handle, coffer_emit_machine,
                        void *) COFFER_NOEXCEPT; /* optional; blocks until the state changes */
  /* Optional.  Removes what deliveries have left of instances that are gone, as after a crash of the host. */
  coffer_status (*sweep)(coffer_instance *, const coffer_call *) COFFER_NOEXCEPT;
} coffer_runtime;

typedef struct coffer_log_query {
  uint32_t struct_size, flags /* 1 follow, 2 stdout, 4 stderr */;
  int64_t since_ns;
  uint64_t tail;
} coffer_log_query;
typedef struct coffer_runtime_logs {
  uint32_t struct_size, minor;
  uint64_t features;
  coffer_status (*logs)(coffer_instance *, const coffer_call *, coffer_bytes handle, const coffer_log_query *,
                        coffer_emit_chunk, void *) COFFER_NOEXCEPT;
} coffer_runtime_logs;

typedef struct coffer_exec_io { /* host-owned */
  uint32_t struct_size, flags;  /* 1 tty */
  void *ctx;
  coffer_emit_chunk out;
  int64_t (*in)(void *ctx, void *buf, size_t size)
      COFFER_NOEXCEPT; /* called only when in_fd is readable; 0 = end, -1 = cancelled */
  int32_t in_fd; /* poll()able: readable when in() would not block; -1 = no input.  So a command that ends
                    while nobody types leaves no call of in() behind. */
  int32_t reserved;
} coffer_exec_io;
typedef struct coffer_exec_spec {
  uint32_t struct_size, flags;
  const coffer_str *argv;
  size_t n_argv;
  coffer_str user, workdir;
} coffer_exec_spec;
typedef struct coffer_runtime_exec { /* the command gets the app's own environment, never values through the
                                        platform */
  uint32_t struct_size, minor;
  uint64_t features;
  coffer_status (*exec)(coffer_instance *, const coffer_call *, coffer_bytes handle, const coffer_exec_spec *,
                        const coffer_exec_io *, int32_t *exit_code) COFFER_NOEXCEPT;
} coffer_runtime_exec;

#define COFFER_IMAGE_PULL 1u /* ask where the image comes from, also when it is here */
typedef int32_t (*coffer_emit_text)(void *ctx, coffer_str) COFFER_NOEXCEPT;
typedef struct coffer_runtime_images { /* for platforms whose images can change under their names */
  uint32_t struct_size, minor;
  uint64_t features;
  /* Writes the immutable reference by which create() finds exactly this image, whatever becomes of its name.
   * Not here and no PULL: NOT_FOUND.  `progress` gets one line at a time. */
  coffer_status (*ensure)(coffer_instance *, const coffer_call *, coffer_str image, uint32_t flags,
                          coffer_emit_text progress, void *, const coffer_sink *reference) COFFER_NOEXCEPT;
} coffer_runtime_images;

typedef struct coffer_runtime_events {
  uint32_t struct_size, minor;
  uint64_t features;
  /* Blocks.  Emits once with state UNKNOWN and no instance_id when it listens: what happens from then on is
   * not missed.  Then the status of each Machine with these labels whenever it may have changed. UNAVAILABLE:
   * the platform is gone; listen again. */
  coffer_status (*events)(coffer_instance *, const coffer_call *, const coffer_pair *labels, size_t n,
                          coffer_emit_machine, void *) COFFER_NOEXCEPT;
} coffer_runtime_events;

#define COFFER_PROBE_TCP 1u  /* something listens on the port */
#define COFFER_PROBE_HTTP 2u /* a request to it is answered with a status of 200 to 299 */
typedef struct coffer_probe_spec {
  uint32_t struct_size, kind; /* COFFER_PROBE_* */
  uint32_t port, reserved; /* of the Machine's own loopback: 127.0.0.1, or ::1 where nothing listens there */
  coffer_str method, path; /* HTTP: "GET", "/health"; no body, no redirect is followed */
} coffer_probe_spec;
typedef struct coffer_runtime_probe { /* one try of a check, made from inside the Machine */
  uint32_t struct_size, minor;
  uint64_t features;
  /* OK: passed.  FAILED_PRECONDITION: not passed, this time; one sentence says why ("connection refused",
   * "HTTP status 503") and quotes nothing of an answer but its status.  Everything else: it could not be
   * tried. An app that has not answered at the call's deadline has not passed ("no answer in time"), so
   * DEADLINE_EXCEEDED is of the platform alone.  Without a deadline: 10 s. */
  coffer_status (*probe)(coffer_instance *, const coffer_call *, coffer_bytes handle,
                         const coffer_probe_spec *) COFFER_NOEXCEPT;
} coffer_runtime_probe;

typedef struct coffer_runtime_update { /* new values in files of a running Machine */
  uint32_t struct_size, minor;
  uint64_t features;
  /* `deliveries`: all files that create() was told of for one or more folders (COFFER_DLV_FOLDER), with
   * values; others are refused with INVALID_ARGUMENT.  Each folder changes at once: FOLDER/..data is a
   * symbolic link to a folder ..N with one generation of the files, FOLDER/NAME one to ..data/NAME.  Who
   * resolves ..data once reads files of one generation.  What was replaced is removed, once nobody has it
   * open.  Then the app gets `signal`; empty: none.  After any failure each folder is the old one or the new
   * one; the same call again is safe. FAILED_PRECONDITION: the Machine is not started. */
  coffer_status (*update)(coffer_instance *, const coffer_call *, coffer_bytes handle,
                          const coffer_delivery *const *deliveries, size_t n,
                          coffer_str signal) COFFER_NOEXCEPT;
} coffer_runtime_update;

#ifdef __cplusplus
}
#endif
#endif
