// Botan's secure memory is ours: secure_vector takes its blocks from the arena of SecretBytes.
//
// Botan asks for all its secret memory through the functions below.  Its own definitions build a locked pool
// at the first use, about 900 system calls and 4 ms, and can only be made smaller for a process that may
// raise its hard RLIMIT_MEMLOCK again.  Linked statically, a definition in our object comes before the one
// in the archive, whose object and pool are then not linked at all.  If another version of Botan moves one
// of these functions to another object, the linker reports a duplicate or Botan's pool is used: slower, not
// less safe.
//
// The arena is not inherited by a fork: a child that goes on without exec must not use crypto.
#include <botan/mem_ops.h>
#include <botan/secmem.h>
#include <botan/version.h>

#include <new>

#include "coffer/base/secret_bytes.h"

namespace Botan {

void *allocate_memory(size_t elems, size_t elem_size) {
  size_t size = 0;
  if (__builtin_mul_overflow(elems, elem_size, &size)) throw std::bad_alloc();
  return coffer::secure_alloc(size);
}

void deallocate_memory(void *p, size_t elems, size_t elem_size) {
  if (p) coffer::secure_free(p, elems * elem_size);
}

void initialize_allocator() {}  // the arena begins at its first use

#if BOTAN_VERSION_MAJOR < 3
// In Botan 2 it lives in the same object.  0xFF if equal, else 0; the time does not depend on the contents.
uint8_t ct_compare_u8(const uint8_t x[], const uint8_t y[], size_t len) {
  volatile uint8_t difference = 0;
  for (size_t i = 0; i < len; ++i) difference = difference | static_cast<uint8_t>(x[i] ^ y[i]);
  return static_cast<uint8_t>((uint32_t{difference} - 1) >> 8);
}
#endif

}  // namespace Botan
