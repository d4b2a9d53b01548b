// SecretBytes: the only form in which a value or a private key exists.
//
// Memory comes from one arena: locked, left out of core dumps, not inherited by a fork, wiped when it goes.
// Beyond the mlock limit pages are no longer locked (still not dumped), and locked_arena_overflowed() says
// so. Move-only; no copy, no ==, no <<, no formatter, no conversion to std::string.  reveal() is the only
// door out, and a test counts its uses. Thread rule: distinct objects may be used on distinct threads; the
// arena itself is thread-safe.
#ifndef COFFER_BASE_SECRET_BYTES_H
#define COFFER_BASE_SECRET_BYTES_H

#include <cstddef>
#include <cstdint>
#include <span>

#include "coffer/base/bytes.h"

namespace coffer {

// Zeroed memory of the arena.  Never nullptr: when the system has no memory, the process ends.
void *secure_alloc(size_t size);
void secure_free(void *p, size_t size) noexcept;  // wipes
void secure_wipe(void *p, size_t size) noexcept;  // is not optimised away
bool locked_arena_overflowed() noexcept;

class SecretBytes {
 public:
  SecretBytes() = default;
  explicit SecretBytes(size_t size)
      : data_(size ? static_cast<uint8_t *>(secure_alloc(size)) : nullptr), size_(size) {}
  static SecretBytes copy_of(ByteSpan source);
  SecretBytes(const SecretBytes &) = delete;
  SecretBytes &operator=(const SecretBytes &) = delete;
  SecretBytes(SecretBytes &&o) noexcept : data_(o.data_), size_(o.size_) { o.data_ = nullptr, o.size_ = 0; }
  SecretBytes &operator=(SecretBytes &&o) noexcept {
    if (this != &o) {
      reset();
      data_ = o.data_, size_ = o.size_;
      o.data_ = nullptr, o.size_ = 0;
    }
    return *this;
  }
  ~SecretBytes() { reset(); }

  SecretBytes clone() const { return copy_of(reveal()); }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  // The door out.  The view is valid as long as the object; do not copy it into ordinary memory.
  ByteSpan reveal() const { return {data_, size_}; }
  // The door in: for filling a fresh object.
  std::span<uint8_t> fill() { return {data_, size_}; }

  void reset() noexcept {
    if (data_) secure_free(data_, size_);
    data_ = nullptr, size_ = 0;
  }

  friend bool operator==(const SecretBytes &, const SecretBytes &) = delete;

 private:
  uint8_t *data_ = nullptr;
  size_t size_ = 0;
};

// Grows in secure memory: for input of unknown length (stdin, files, the terminal).
class SecretBuilder {
 public:
  void append(ByteSpan bytes);
  size_t size() const { return used_; }
  SecretBytes take();

 private:
  SecretBytes buffer_;
  size_t used_ = 0;
};

// A value or key never reaches a stream.
template <class Stream>
Stream &operator<<(Stream &, const SecretBytes &) = delete;

}  // namespace coffer
#endif
