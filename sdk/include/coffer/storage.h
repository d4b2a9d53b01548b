/* coffer/storage.h - "coffer.storage/1": a conditional, atomic, durable key-value store, one space per App.
 * Not trusted: values are ciphertext or signed, names and sizes are visible. */
#ifndef COFFER_STORAGE_H
#define COFFER_STORAGE_H
#include "abi.h"
#ifdef __cplusplus
extern "C" {
#endif
#define COFFER_STORAGE_ID "coffer.storage/1"

#define COFFER_STORF_SHARED \
  1u /* bits of coffer_storage.features: several processes may use one backend at once */

typedef struct coffer_storage_limits {
  uint32_t struct_size, max_ops;       /* per batch, >= 64 */
  uint64_t max_value, max_batch_bytes; /* >= 1.25 MiB; the core stores larger bodies in hashed parts */
  uint32_t max_key, max_space;         /* >= 512, >= 128 bytes */
} coffer_storage_limits;

/* key, space: [A-Za-z0-9._~-] and '/', no empty, "." or ".." segment; the host encodes anything else.
 * A space exists while it holds a key.
 * revision: of the commit that wrote the key; strictly increasing within a space, never reused (not even
 * after drop_space), never 0.
 * INVALID_ARGUMENT, and nothing is written: a name that is not as above, anything over the limits, a batch
 * without ops or with a key in two ops.  FAILED_PRECONDITION: a write to what was opened READONLY.
 * emit answers != 0: no more; the call then ends with OK. */
typedef int32_t (*coffer_emit_value)(void *ctx, coffer_str key, uint64_t revision,
                                     coffer_bytes value) COFFER_NOEXCEPT;
typedef int32_t (*coffer_emit_space)(void *ctx, coffer_str space) COFFER_NOEXCEPT;

#define COFFER_OP_PUT 1u
#define COFFER_OP_DELETE 2u
typedef struct coffer_op {
  uint32_t struct_size, kind;
  coffer_str key;
  coffer_bytes value;
} coffer_op;
typedef struct coffer_pre {
  uint32_t struct_size, reserved;
  coffer_str key;
  uint64_t revision;
} coffer_pre; /* 0 = must be absent */

typedef struct coffer_batch {
  uint32_t struct_size, flags;
  coffer_str space;
  const coffer_pre *const *pre;
  size_t n_pre; /* arrays of pointers, so that the structs can grow */
  const coffer_op *const *ops;
  size_t n_ops;
} coffer_batch;

typedef struct coffer_storage {
  uint32_t struct_size, minor;
  uint64_t features;
  coffer_status (*limits)(coffer_instance *, const coffer_call *, coffer_storage_limits *out) COFFER_NOEXCEPT;
  /* absent: NOT_FOUND and no emit */
  coffer_status (*get)(coffer_instance *, const coffer_call *, coffer_str space, coffer_str key,
                       coffer_emit_value, void *ctx) COFFER_NOEXCEPT;
  /* sorted bytewise, keys after `after`; at most `limit` (0 = no limit); with_values 0 = keys and revisions
   * only */
  coffer_status (*list)(coffer_instance *, const coffer_call *, coffer_str space, coffer_str prefix,
                        coffer_str after, uint64_t limit, uint32_t with_values, coffer_emit_value,
                        void *ctx) COFFER_NOEXCEPT;
  /* all or nothing, durable when it returns OK; ABORTED: a precondition failed, nothing was written.
   * Any other failure: all or nothing, re-read to know which.  Deleting an absent key is no error. */
  coffer_status (*commit)(coffer_instance *, const coffer_call *, const coffer_batch *,
                          uint64_t *revision) COFFER_NOEXCEPT;
  coffer_status (*spaces)(coffer_instance *, const coffer_call *, coffer_str prefix, coffer_emit_space,
                          void *ctx) COFFER_NOEXCEPT;
  coffer_status (*drop_space)(coffer_instance *, const coffer_call *,
                              coffer_str space) COFFER_NOEXCEPT; /* absent: OK */
} coffer_storage;

#ifdef __cplusplus
}
#endif
#endif
