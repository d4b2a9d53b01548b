// Bytes that are wiped when they go: bodies of requests and answers may hold values.  They are bounded in
// number and life, but too large and too many for the locked arena (SecretBytes).
#ifndef COFFER_HTTP_WIPED_H
#define COFFER_HTTP_WIPED_H

#include <memory>
#include <string_view>
#include <vector>

#include "coffer/base/secret_bytes.h"

namespace coffer::http {

template <class T>
struct Wiping {
  using value_type = T;
  Wiping() = default;
  template <class U>
  Wiping(const Wiping<U> &) noexcept {}
  T *allocate(size_t n) { return std::allocator<T>{}.allocate(n); }
  void deallocate(T *p, size_t n) noexcept {
    secure_wipe(p, n * sizeof(T));
    std::allocator<T>{}.deallocate(p, n);
  }
  friend bool operator==(Wiping, Wiping) { return true; }
};

using WipedBytes = std::vector<char, Wiping<char>>;

inline std::string_view view(const WipedBytes &b) { return {b.data(), b.size()}; }
inline void append(WipedBytes &to, std::string_view bytes) {
  to.insert(to.end(), bytes.begin(), bytes.end());
}

}  // namespace coffer::http
#endif
