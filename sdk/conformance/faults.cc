#undef _FORTIFY_SOURCE
#include "faults.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

namespace coffer::conformance {
namespace {
std::atomic<int> left = 0;  // 0 = no fault is ordered
std::atomic<int> error_number = 0;
std::atomic<bool> opens_alone = false, has_fired = false;
std::atomic<const char *> failed_call = "";

bool fails(const char *call, bool opens = false) {
  if (left.load() == 0 || (opens_alone && !opens)) return false;
  if (left.fetch_sub(1) != 1) return false;
  has_fired = true;
  failed_call = call;
  errno = error_number;
  return true;
}

template <class F>
F *real(F *, const char *name) {
  return reinterpret_cast<F *>(::dlsym(RTLD_NEXT, name));
}
}  // namespace

Fault::Fault(int n, int error, bool only_opens) {
  error_number = error;
  opens_alone = only_opens;
  has_fired = false;
  failed_call = "";
  left = n;
}
Fault::~Fault() { left = 0; }
bool Fault::fired() const { return has_fired; }
const char *Fault::where() const { return failed_call; }
}  // namespace coffer::conformance

using coffer::conformance::fails;
using coffer::conformance::real;

#define REAL(f) static const auto next = real(&::f, #f)
#define EXPORT extern "C" __attribute__((visibility("default")))
#define MODE_OF(flags)                   \
  mode_t mode = 0;                       \
  if ((flags) & (O_CREAT | O_TMPFILE)) { \
    va_list rest;                        \
    va_start(rest, flags);               \
    mode = va_arg(rest, mode_t);         \
    va_end(rest);                        \
  }

EXPORT int open(const char *path, int flags, ...) {
  REAL(open);
  MODE_OF(flags);
  return fails("open", true) ? -1 : next(path, flags, mode);
}
EXPORT int open64(const char *path, int flags, ...) {
  REAL(open64);
  MODE_OF(flags);
  return fails("open64", true) ? -1 : next(path, flags, mode);
}
EXPORT int openat(int at, const char *path, int flags, ...) {
  REAL(openat);
  MODE_OF(flags);
  return fails("openat", true) ? -1 : next(at, path, flags, mode);
}
EXPORT int openat64(int at, const char *path, int flags, ...) {
  REAL(openat64);
  MODE_OF(flags);
  return fails("openat64", true) ? -1 : next(at, path, flags, mode);
}

#define WRAP(type, name, params, args, ...) \
  EXPORT type name params __VA_ARGS__ {     \
    REAL(name);                             \
    return fails(#name) ? -1 : next args;   \
  }
WRAP(ssize_t, write, (int fd, const void *p, size_t n), (fd, p, n))
WRAP(ssize_t, pwrite, (int fd, const void *p, size_t n, off_t at), (fd, p, n, at))
WRAP(ssize_t, pwrite64, (int fd, const void *p, size_t n, off64_t at), (fd, p, n, at))
WRAP(ssize_t, writev, (int fd, const iovec *v, int n), (fd, v, n))
WRAP(int, fsync, (int fd), (fd))
WRAP(int, fdatasync, (int fd), (fd))
WRAP(int, ftruncate, (int fd, off_t n), (fd, n), noexcept)
WRAP(int, ftruncate64, (int fd, off64_t n), (fd, n), noexcept)
WRAP(int, rename, (const char *a, const char *b), (a, b), noexcept)
WRAP(int, renameat, (int x, const char *a, int y, const char *b), (x, a, y, b), noexcept)
WRAP(int, renameat2, (int x, const char *a, int y, const char *b, unsigned f), (x, a, y, b, f), noexcept)
WRAP(int, link, (const char *a, const char *b), (a, b), noexcept)
WRAP(int, linkat, (int x, const char *a, int y, const char *b, int f), (x, a, y, b, f), noexcept)
WRAP(int, unlink, (const char *a), (a), noexcept)
WRAP(int, unlinkat, (int at, const char *a, int f), (at, a, f), noexcept)
WRAP(int, mkdir, (const char *a, mode_t m), (a, m), noexcept)
WRAP(int, mkdirat, (int at, const char *a, mode_t m), (at, a, m), noexcept)
