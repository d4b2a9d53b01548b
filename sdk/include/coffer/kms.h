/* coffer/kms.h - "coffer.kms/1": wraps and unwraps keys.  Loaded by the key service only.
 * The core seals values itself; a KMS sees nothing but keys of at most 64 bytes, so a passphrase, an RSA
 * key in an HSM, a TPM object and a cloud KMS all fit. */
#ifndef COFFER_KMS_H
#define COFFER_KMS_H
#include "abi.h"
#ifdef __cplusplus
extern "C" {
#endif
#define COFFER_KMS_ID "coffer.kms/1"

#define COFFER_KEY_ENABLED 1u
#define COFFER_KEY_DISABLED 2u
#define COFFER_KEY_DESTROYING 3u
#define COFFER_KEY_DESTROYED 4u
#define COFFER_KEYF_PRIMARY 1u  /* wrap() uses this version                               */
#define COFFER_KEYF_HARDWARE 2u /* not exportable                                         */
#define COFFER_KEYF_CONTEXT 4u  /* the backend itself binds `context`; else the core does */

typedef struct coffer_key_info {
  uint32_t struct_size, flags, state, reserved;
  coffer_str key;     /* stable name                                   */
  coffer_str version; /* opaque, <= 256 bytes, never reused            */
  coffer_str algorithm;
  int64_t created_ns, destroy_at_ns;
} coffer_key_info;
typedef int32_t (*coffer_emit_key)(void *ctx, const coffer_key_info *) COFFER_NOEXCEPT;

typedef struct coffer_wrapped { /* stored by the core; non-secret */
  uint32_t struct_size, flags;
  coffer_str key, version;
  coffer_bytes ciphertext;  /* <= 8 KiB */
  coffer_bytes annotations; /* <= 4 KiB, opaque to the core: nonce, policy, resource name ... */
} coffer_wrapped;

typedef struct coffer_kms {
  uint32_t struct_size, minor;
  uint64_t features;
  /* key empty = every key; also the poll for rotation: wrap() uses the version flagged PRIMARY here.  A key
   * that does not exist emits nothing and is OK. */
  coffer_status (*keys)(coffer_instance *, const coffer_call *, coffer_str key, coffer_emit_key,
                        void *ctx) COFFER_NOEXCEPT;
  /* Durable when it returns.  A key that exists stays as it is: OK, and its versions are emitted; so two
   * callers at once both succeed with the same key. */
  coffer_status (*create)(coffer_instance *, const coffer_call *, coffer_str key, coffer_emit_key,
                          void *ctx) COFFER_NOEXCEPT;
  /* plaintext: 1..64 bytes, else INVALID_ARGUMENT; unknown key: NOT_FOUND.  Each sink is written once. */
  coffer_status (*wrap)(coffer_instance *, const coffer_call *, coffer_str key, coffer_bytes plaintext,
                        coffer_bytes context, const coffer_sink *ciphertext, const coffer_sink *version,
                        const coffer_sink *annotations) COFFER_NOEXCEPT;
  /* Unknown key or version: NOT_FOUND; does not verify: DATA_LOSS; the KMS refuses us: PERMISSION_DENIED.
   * The sink is written once, and only after everything was verified. */
  coffer_status (*unwrap)(coffer_instance *, const coffer_call *, const coffer_wrapped *,
                          coffer_bytes context, const coffer_sink *plaintext /* SECRET */) COFFER_NOEXCEPT;
  /* optional */
  coffer_status (*rotate)(coffer_instance *, const coffer_call *, coffer_str key, coffer_emit_key,
                          void *ctx) COFFER_NOEXCEPT;
  coffer_status (*destroy)(coffer_instance *, const coffer_call *, coffer_str key, coffer_str version,
                           uint64_t grace_ns) COFFER_NOEXCEPT;
} coffer_kms;
#ifdef __cplusplus
}
#endif
#endif
