// The wall clock, for stamps that people read.  Nothing is decided by it except when a token ends.
#ifndef COFFER_BASE_CLOCK_H
#define COFFER_BASE_CLOCK_H

#include <chrono>
#include <cstdint>

namespace coffer {

inline uint64_t now_ms() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                   std::chrono::system_clock::now().time_since_epoch())
                                   .count());
}

}  // namespace coffer
#endif
