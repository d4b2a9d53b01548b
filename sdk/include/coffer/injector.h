/* coffer/injector.h - "coffer.injector/1": decides which secrets go where.  Two pure functions, no I/O.
 * The host plans with all names, opens only what was asked for, and renders.  Every delivery of render() was
 * announced by plan() with the same via, name, mode, flags and owner, and each announced one is made once.  An
 * emit callback that answers other than 0 ends the call, which is then OK. */
#ifndef COFFER_INJECTOR_H
#define COFFER_INJECTOR_H
#include "runtime.h"
#ifdef __cplusplus
extern "C" {
#endif
#define COFFER_INJECTOR_ID "coffer.injector/1"
#define COFFER_SECRET_TAKEN 1u /* bound by an earlier injector of the list */
typedef struct coffer_secret {
  uint32_t struct_size, flags;
  coffer_str name;
  coffer_bytes value;
} coffer_secret; /* value empty in plan() */
typedef struct coffer_inject_request {
  uint32_t struct_size, flags;
  uint32_t vias, reserved; /* what the runtime can do */
  coffer_str app, machine;
  coffer_str bindings_json; /* the part of the Machine config that belongs to this injector */
  const coffer_secret *const *secrets;
  size_t n_secrets; /* all names of the manifest in plan(), the needed ones in render() */
} coffer_inject_request;
/* secret empty = not a secret: render() takes the value from the bindings */
typedef int32_t (*coffer_emit_need)(void *ctx, coffer_str secret,
                                    const coffer_delivery *where) COFFER_NOEXCEPT;
typedef int32_t (*coffer_emit_delivery)(void *ctx, const coffer_delivery *)
    COFFER_NOEXCEPT; /* the host copies into its locked memory */
typedef struct coffer_injector {
  uint32_t struct_size, minor;
  uint64_t features;
  /* A secret that the bindings name and the manifest lacks: NOT_FOUND.  Bindings that are wrong:
   * INVALID_ARGUMENT, without quoting them.  A via that is not in `vias`: FAILED_PRECONDITION. */
  coffer_status (*plan)(coffer_instance *, const coffer_call *, const coffer_inject_request *,
                        coffer_emit_need, void *) COFFER_NOEXCEPT;
  /* A value that cannot go there: FAILED_PRECONDITION or INVALID_ARGUMENT, naming the secret and no byte of it. */
  coffer_status (*render)(coffer_instance *, const coffer_call *, const coffer_inject_request *,
                          coffer_emit_delivery, void *) COFFER_NOEXCEPT;
} coffer_injector;
#ifdef __cplusplus
}
#endif
#endif
