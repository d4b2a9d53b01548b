// Preloaded: the time of day is COFFER_TEST_CLOCK_SHIFT seconds later, or earlier.
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>

namespace {
time_t shift() {
  const char *by = std::getenv("COFFER_TEST_CLOCK_SHIFT");
  return by ? std::atol(by) : 0;
}
}  // namespace

#pragma GCC visibility push(default)  // they stand in for those of the C library

extern "C" int clock_gettime(clockid_t clock, timespec *out) noexcept {
  const auto got = static_cast<int>(::syscall(SYS_clock_gettime, clock, out));
  if (got == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) out->tv_sec += shift();
  return got;
}
extern "C" time_t time(time_t *out) noexcept {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
extern "C" int gettimeofday(timeval *out, void *) noexcept {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  *out = {now.tv_sec, now.tv_nsec / 1000};
  return 0;
}
