// Botan's secure memory is the host's: secure_vector takes its blocks from there.
//
// Botan asks for all its secret memory through the functions below.  Its own definitions build a locked pool
// at the first use: about 1,000 system calls and 4 ms, at each start of a process that opens a secret.
// Linked statically, a definition in our object comes before the one in the archive, whose object and pool
// are then not linked at all.  If another version of Botan moves one of these functions to another object,
// the linker reports a duplicate or Botan's pool is used: slower, not less safe.
#include <botan/mem_ops.h>
#include <botan/secmem.h>
#include <botan/version.h>

#include <coffer/plugin.hpp>
#include <cstdlib>
#include <new>

namespace Botan {
namespace {
using coffer::sdk::Host;

// Keys and blocks are smaller.  Argon2id's 64 MiB are not for locked memory; Botan's pool has none for them
// either.
constexpr size_t kLargestLocked = 4096;
}  // namespace

void *allocate_memory(size_t elems, size_t elem_size) {
  size_t size = 0;
  if (__builtin_mul_overflow(elems, elem_size, &size)) throw std::bad_alloc();
  void *const p =
      size <= kLargestLocked ? Host::raw()->secure_alloc(Host::raw(), size) : std::calloc(size, 1);
  if (!p) throw std::bad_alloc();
  return p;
}

void deallocate_memory(void *p, size_t elems, size_t elem_size) {
  if (!p) return;
  const size_t size = elems * elem_size;
  if (size <= kLargestLocked) {
    Host::raw()->secure_free(Host::raw(), p, size);
  } else {
    Host::cleanse(p, size);
    std::free(p);
  }
}

void initialize_allocator() {}

#if BOTAN_VERSION_MAJOR < 3
// In Botan 2 it lives in the same object.  0xFF if equal, else 0; the time does not depend on the contents.
uint8_t ct_compare_u8(const uint8_t x[], const uint8_t y[], size_t len) {
  volatile uint8_t difference = 0;
  for (size_t i = 0; i < len; ++i) difference = difference | static_cast<uint8_t>(x[i] ^ y[i]);
  return static_cast<uint8_t>((uint32_t{difference} - 1) >> 8);
}
#endif

}  // namespace Botan
