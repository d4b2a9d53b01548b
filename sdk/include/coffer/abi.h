/* coffer/abi.h - plugin ABI, common part.  Pure C99: no C++ type, no enum or bool or bit-field in any
 * struct, no varargs, no errno.
 *
 * THE RULES (they hold for every function pointer in every coffer header)
 *  R1  Nothing unwinds across: no C++ exception, no Rust panic, no longjmp.  In C++17 the pointer
 *      types are noexcept, so assigning a throwing function does not compile.
 *  R2  Arguments are borrowed for the duration of the call.  To keep a value, copy it; to keep a
 *      SECRET value, copy it into host->secure_alloc memory and secure_free it.
 *  R3  Nothing allocated on one side is freed on the other.  Results go into host-owned sinks or
 *      through host-owned emit callbacks (whose arguments are borrowed until the callback returns).
 *      There is no free() in this ABI and no plugin-owned pointer that outlives a call, except the
 *      static const descriptor and interface tables.
 *  R4  Every struct that may grow starts with struct_size, set by its creator.  A reader never
 *      touches a byte at or beyond struct_size.  Fields are only ever appended.  A struct is never
 *      smaller than in 1.0, so only fields added later need COFFER_HAS().
 *  R5  A function pointer beyond struct_size, or NULL, means "not supported"; the caller answers
 *      COFFER_UNIMPLEMENTED itself.  Whatever was not required in x/N.0 is optional for ever.
 *  R6  Functions may be called on any thread.  Two calls on one instance overlap only if the
 *      descriptor has COFFER_PLUGIN_CONCURRENT.  coffer_host and coffer_call functions are thread-safe.
 *  R7  Everything must be remotable: a proxy in another process can implement any table here.
 *  R8  A plugin does not touch signal handlers, locale, umask, working directory, environment or stdout.
 */
#ifndef COFFER_ABI_H
#define COFFER_ABI_H
#include <stddef.h>
#include <stdint.h>

#if defined(__cplusplus) && __cplusplus >= 201703L
#define COFFER_NOEXCEPT noexcept
#else
#define COFFER_NOEXCEPT
#endif
#if defined(_WIN32)
#define COFFER_EXPORT __declspec(dllexport)
#else
#define COFFER_EXPORT __attribute__((visibility("default")))
#endif
#ifdef __cplusplus
#define COFFER_STATIC_ASSERT(c, m) static_assert(c, m)
extern "C" {
#else
#define COFFER_STATIC_ASSERT(c, m) _Static_assert(c, m)
#endif

#define COFFER_ABI_MAGIC 0x31524643u /* "CFR1" */
#define COFFER_ABI_MAJOR 1u          /* in the entry symbol's name too */
#define COFFER_ABI_MINOR 0u

/* true when `p` (a struct with struct_size) really has field f */
#define COFFER_HAS(p, type, f) ((p) && (p)->struct_size >= offsetof(type, f) + sizeof(((type *)0)->f))

/* ---- primitives: frozen, never grow ---- */
typedef struct coffer_bytes {
  const uint8_t *data;
  size_t size;
} coffer_bytes; /* borrowed */
typedef struct coffer_str {
  const char *data;
  size_t size;
} coffer_str; /* borrowed UTF-8, no NUL needed */
typedef struct coffer_pair {
  coffer_str key;
  coffer_bytes value;
} coffer_pair;

/* ---- status: the gRPC canonical numbers, so that a remote adapter maps 1:1 ---- */
typedef int32_t coffer_status;
#define COFFER_OK 0
#define COFFER_CANCELLED 1
#define COFFER_UNKNOWN 2
#define COFFER_INVALID_ARGUMENT 3  /* caller must change the request            */
#define COFFER_DEADLINE_EXCEEDED 4 /* outcome unknown: re-read before retrying */
#define COFFER_NOT_FOUND 5
#define COFFER_ALREADY_EXISTS 6
#define COFFER_PERMISSION_DENIED 7
#define COFFER_RESOURCE_EXHAUSTED 8  /* retry after retry_after_ms                */
#define COFFER_FAILED_PRECONDITION 9 /* system state forbids it; retrying is vain */
#define COFFER_ABORTED 10            /* concurrency conflict: re-read, then retry */
#define COFFER_OUT_OF_RANGE 11
#define COFFER_UNIMPLEMENTED 12
#define COFFER_INTERNAL 13
#define COFFER_UNAVAILABLE 14 /* transient: retry with back-off            */
#define COFFER_DATA_LOSS 15
#define COFFER_UNAUTHENTICATED 16

typedef struct coffer_error { /* built by the plugin on its stack; the host copies it in fail() */
  uint32_t struct_size;
  uint32_t retry_after_ms;
  int64_t native_code;     /* errno, CKR_*, HTTP status, SQLSTATE as int ... */
  coffer_str domain;       /* "errno", "pkcs11", "http", "sqlite" ...        */
  coffer_str message;      /* for a person; must contain no secret           */
  coffer_str details_json; /* optional, machine-readable                     */
  coffer_str remedy;       /* later than 1.0: what a person can do about it, one sentence; may be empty */
} coffer_error;

/* ---- where a plugin writes its results: host-owned memory ---- */
#define COFFER_SINK_SECRET 1u /* memory is locked, not dumped, wiped by the host */
typedef struct coffer_sink {
  uint32_t struct_size;
  uint32_t flags;
  void *host_data;
  coffer_status (*write)(const struct coffer_sink *, const void *data, size_t size) COFFER_NOEXCEPT;
  uint8_t *(*reserve)(const struct coffer_sink *,
                      size_t size)COFFER_NOEXCEPT; /* NULL = no memory / over limit */
  coffer_status (*commit)(const struct coffer_sink *, size_t used) COFFER_NOEXCEPT; /* of the last reserve */
} coffer_sink;

/* ---- per-call context (deadline, cancellation, errors, correlation) ---- */
typedef struct coffer_call {
  uint32_t struct_size;
  int32_t cancel_fd;    /* poll()able: readable once cancelled; -1 = none */
  uint64_t deadline_ns; /* CLOCK_MONOTONIC, 0 = none */
  void *host_data;
  coffer_str request_id; /* for logs and for the backend's own audit trail */
  int32_t (*cancelled)(const struct coffer_call *)
      COFFER_NOEXCEPT; /* != 0: stop soon, return COFFER_CANCELLED */
  void (*fail)(const struct coffer_call *, coffer_status, const coffer_error *) COFFER_NOEXCEPT;
} coffer_call;

/* ---- what the host offers ---- */
#define COFFER_LOG_TRACE 0
#define COFFER_LOG_DEBUG 1
#define COFFER_LOG_INFO 2
#define COFFER_LOG_WARN 3
#define COFFER_LOG_ERROR 4
typedef struct coffer_host {
  uint32_t struct_size;
  uint16_t abi_major, abi_minor; /* what the host speaks */
  void *host_data;
  coffer_str name, version;
  int32_t (*log_enabled)(const struct coffer_host *, int32_t level) COFFER_NOEXCEPT;
  void (*log)(const struct coffer_host *, int32_t level, coffer_str target, coffer_str message,
              const coffer_pair *fields, size_t n_fields) COFFER_NOEXCEPT;
  void *(*secure_alloc)(const struct coffer_host *, size_t)COFFER_NOEXCEPT; /* zeroed, locked, not dumped */
  void (*secure_free)(const struct coffer_host *, void *, size_t) COFFER_NOEXCEPT; /* wipes */
  void (*cleanse)(const struct coffer_host *, void *, size_t) COFFER_NOEXCEPT;
  coffer_status (*random)(const struct coffer_host *, void *, size_t) COFFER_NOEXCEPT;
  const void *(*get_interface)(const struct coffer_host *,
                               const char *id)COFFER_NOEXCEPT; /* host extensions */
} coffer_host;

/* ---- self-description: static const data, readable without calling the plugin ---- */
#define COFFER_OPT_STRING 1
#define COFFER_OPT_INT 2
#define COFFER_OPT_BOOL 3
#define COFFER_OPT_DURATION 4 /* value arrives as decimal nanoseconds */
#define COFFER_OPT_BYTES 5    /* size, arrives as decimal bytes       */
#define COFFER_OPT_PATH 6
#define COFFER_OPT_ENUM 7
#define COFFER_OPT_URL 8
#define COFFER_OPT_LIST 9 /* JSON array of strings                */
#define COFFER_OPTF_REQUIRED 1u
#define COFFER_OPTF_SECRET                                                                            \
  2u                          /* resolved by the host from file:PATH, in locked memory, never printed \
                               */
#define COFFER_OPTF_EXISTS 8u /* PATH: must exist */
typedef struct coffer_option {
  uint32_t struct_size;
  uint16_t type, reserved;
  uint32_t flags;
  const char *key, *doc, *default_value, *example;
  const char *const *enum_values; /* NULL-terminated */
  int64_t min_value, max_value;   /* INT/DURATION/BYTES, when min <= max */
} coffer_option;

typedef struct coffer_interface_ref {
  const char *id;
  uint64_t flags;
} coffer_interface_ref;

#define COFFER_PLUGIN_CONCURRENT 1u /* instance calls may overlap */
typedef struct coffer_descriptor {
  uint32_t struct_size;
  uint32_t flags;
  const char *id; /* "org.example.postgres", unique */
  const char *name, *version /* semver */, *vendor, *license, *url, *doc;
  const coffer_interface_ref *interfaces;
  size_t n_interfaces;
  const coffer_option *const *options;
  size_t n_options; /* pointers: an option may grow */
} coffer_descriptor;

typedef struct coffer_instance coffer_instance; /* opaque, plugin-owned */

typedef struct coffer_open_args {
  uint32_t struct_size;
  uint32_t flags;           /* COFFER_OPEN_* */
  coffer_str instance_name; /* as in the configuration */
  const coffer_pair *options;
  size_t n_options;     /* validated against the schema, defaults filled in */
  coffer_str state_dir; /* private, 0700; may be empty */
} coffer_open_args;
#define COFFER_OPEN_ALLOW_ENV 1u /* without it: do not read environment variables or ambient credentials */
#define COFFER_OPEN_READONLY 2u

typedef struct coffer_plugin_entry {
  uint32_t magic, struct_size;
  uint16_t abi_major, abi_minor;     /* headers it was built with */
  uint16_t host_minor_min, reserved; /* lowest host minor it can work with */
  const coffer_descriptor *descriptor;
  coffer_status (*init)(const coffer_host *,
                        const coffer_call *) COFFER_NOEXCEPT; /* once per process, before all else */
  void (*deinit)(void) COFFER_NOEXCEPT; /* every thread of the plugin has ended when it returns */
  /* no I/O, no side effect: what is wrong with these options?  notes go to the sink, one per line */
  coffer_status (*validate)(const coffer_call *, const coffer_open_args *,
                            const coffer_sink *notes) COFFER_NOEXCEPT;
  coffer_status (*open)(const coffer_call *, const coffer_open_args *, coffer_instance **out) COFFER_NOEXCEPT;
  void (*close)(coffer_instance *) COFFER_NOEXCEPT; /* no call is in progress; *inst is gone afterwards */
  coffer_status (*probe)(coffer_instance *, const coffer_call *,
                         const coffer_sink *health_json) COFFER_NOEXCEPT;
  const void *(*get_interface)(coffer_instance *, const char *id)COFFER_NOEXCEPT; /* NULL = not supported */
} coffer_plugin_entry;

/* The one exported symbol.  A static (built-in) build defines COFFER_PLUGIN_SYMBOL to something else. */
#ifndef COFFER_PLUGIN_SYMBOL
#define COFFER_PLUGIN_SYMBOL coffer_plugin_entry_v1
#endif
#define COFFER_PLUGIN_SYMBOL_NAME "coffer_plugin_entry_v1"
COFFER_EXPORT extern const coffer_plugin_entry COFFER_PLUGIN_SYMBOL;

/* layout pins (LP64) */
#if UINTPTR_MAX == 0xffffffffffffffffu
COFFER_STATIC_ASSERT(sizeof(coffer_bytes) == 16, "frozen");
COFFER_STATIC_ASSERT(offsetof(coffer_plugin_entry, descriptor) == 16, "frozen");
COFFER_STATIC_ASSERT(offsetof(coffer_plugin_entry, get_interface) == 72, "frozen");
COFFER_STATIC_ASSERT(offsetof(coffer_call, fail) == 48, "frozen");
#endif
#ifdef __cplusplus
}
#endif
#endif
