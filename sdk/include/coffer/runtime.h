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

/* how a delivery can reach a Machine */
#define COFFER_VIA_ENV 1u   /* environment of the app (runtime-docker: through coffer-init's standard input) \
                             */
#define COFFER_VIA_TMPFS 2u /* file in memory only */
#define COFFER_DLV_SECRET 1u
#define COFFER_DLV_OWNER 2u /* uid and gid are given; else those of the Machine's user */
typedef struct coffer_delivery {
  uint32_t struct_size, via, flags, mode;
  coffer_str name;    /* variable name, or absolute path in the Machine */
  coffer_bytes value; /* borrowed; empty at create, there at start      */
  uint32_t uid, gid;
} coffer_delivery;

typedef struct coffer_machine_spec {
  uint32_t struct_size, flags;  /* no flag yet */
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
                        uint64_t timeout_ns) COFFER_NOEXCEPT; /* gone or stopped: OK */
  coffer_status (*destroy)(coffer_instance *, const coffer_call *, coffer_bytes handle,
                           uint32_t force) COFFER_NOEXCEPT; /* gone: OK; leaves no file of a delivery */
  coffer_status (*inspect)(coffer_instance *, const coffer_call *, coffer_bytes handle, coffer_emit_machine,
                           void *) COFFER_NOEXCEPT;
  coffer_status (*list)(coffer_instance *, const coffer_call *, const coffer_pair *labels, size_t n,
                        coffer_emit_machine, void *) COFFER_NOEXCEPT;
  coffer_status (*wait)(coffer_instance *, const coffer_call *, coffer_bytes handle, coffer_emit_machine,
                        void *) COFFER_NOEXCEPT; /* optional; blocks until the state changes */
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
  int64_t (*in)(void *ctx, void *buf,
                size_t size) COFFER_NOEXCEPT; /* called only when in_fd is readable; 0 = end, -1 = cancelled */
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

#ifdef __cplusplus
}
#endif
#endif
