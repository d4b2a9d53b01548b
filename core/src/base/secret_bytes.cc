#include "coffer/base/secret_bytes.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace coffer {
namespace {

// Blocks of 32 bytes .. 32 KiB, in powers of two, are cut from chunks; larger blocks are mappings of their
// own.
constexpr size_t kSmallest = 32, kLargest = 32 * 1024, kChunk = 256 * 1024;
constexpr int kClasses = std::bit_width(kLargest / kSmallest);

std::atomic<bool> overflowed{false};

void *map_pages(size_t size) {
  void *p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  // Rationale: a value that cannot be held safely is not held at all; there is nothing to hand back.
  if (p == MAP_FAILED) {
    std::fputs("Error: out of memory: no room for secret data\n", stderr);
    std::abort();
  }
  madvise(p, size, MADV_DONTDUMP);
  madvise(p, size, MADV_DONTFORK);
  if (mlock(p, size) != 0) overflowed = true;
  return p;
}

size_t page_rounded(size_t size) { return (size + 4095) & ~size_t{4095}; }

struct FreeBlock {
  FreeBlock *next;
};

class Arena {
 public:
  void *alloc(size_t size) {
    if (size > kLargest) return map_pages(page_rounded(size));
    const int c = class_of(size);
    const std::lock_guard lock(mutex_);
    if (FreeBlock *b = free_[c]) {
      free_[c] = b->next;
      b->next = nullptr;  // the rest was wiped when it was freed
      return b;
    }
    const size_t block = kSmallest << c;
    if (left_ < block) {
      // What is left of the old chunk goes to the free lists of the sizes it still fits.
      for (int k = kClasses - 1; k >= 0; --k)
        for (const size_t b = kSmallest << k; left_ >= b; left_ -= b, next_ += b) push(next_, k);
      next_ = static_cast<uint8_t *>(map_pages(kChunk));
      left_ = kChunk;
    }
    void *p = next_;
    next_ += block;
    left_ -= block;
    return p;
  }
  void free(void *p, size_t size) {
    if (size > kLargest) {
      munmap(p, page_rounded(size));
      return;
    }
    const std::lock_guard lock(mutex_);
    push(p, class_of(size));
  }

 private:
  static int class_of(size_t size) { return std::bit_width((std::max(size, kSmallest) - 1) / kSmallest); }
  void push(void *p, int c) {
    auto *b = static_cast<FreeBlock *>(p);
    b->next = free_[c];
    free_[c] = b;
  }

  std::mutex mutex_;
  FreeBlock *free_[kClasses] = {};
  uint8_t *next_ = nullptr;
  size_t left_ = 0;
};

Arena &arena() {
  static Arena *a = new Arena;  // never destroyed: static SecretBytes may outlive it
  return *a;
}

}  // namespace

void *secure_alloc(size_t size) { return arena().alloc(size); }

void secure_wipe(void *p, size_t size) noexcept {
  if (size) explicit_bzero(p, size);
}

void secure_free(void *p, size_t size) noexcept {
  if (!p) return;
  secure_wipe(p, size);
  arena().free(p, size);
}

bool locked_arena_overflowed() noexcept { return overflowed; }

SecretBytes SecretBytes::copy_of(ByteSpan source) {
  SecretBytes out(source.size());
  if (!source.empty()) std::memcpy(out.data_, source.data(), source.size());
  return out;
}

void SecretBuilder::append(ByteSpan bytes) {
  if (used_ + bytes.size() > buffer_.size()) {
    SecretBytes larger(std::max(std::bit_ceil(used_ + bytes.size()), size_t{4096}));
    if (used_) std::memcpy(larger.fill().data(), buffer_.reveal().data(), used_);
    buffer_ = std::move(larger);
  }
  if (!bytes.empty()) std::memcpy(buffer_.fill().data() + used_, bytes.data(), bytes.size());
  used_ += bytes.size();
}

SecretBytes SecretBuilder::take() {
  SecretBytes out = SecretBytes::copy_of(buffer_.reveal().first(used_));
  buffer_.reset();
  used_ = 0;
  return out;
}

}  // namespace coffer
