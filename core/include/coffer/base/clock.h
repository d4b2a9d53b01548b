// The wall clock, for stamps that people read.  Nothing is decided by it except when a token ends.
#ifndef COFFER_BASE_CLOCK_H
#define COFFER_BASE_CLOCK_H

#include <chrono>
#include <cstdint>
#include <string>

namespace coffer {

inline uint64_t now_ms() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                   std::chrono::system_clock::now().time_since_epoch())
                                   .count());
}

// RFC 3339 in UTC: "2026-11-23T12:00:00Z", with milliseconds "2026-11-23T12:00:00.042Z".
std::string rfc3339(uint64_t ms);
std::string rfc3339_ms(uint64_t ms);

}  // namespace coffer
#endif
