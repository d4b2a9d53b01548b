#include "revoked.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "coffer/posix.hpp"

namespace coffer {
namespace {

constexpr size_t kLine = 33;  // 32 hex digits, newline

using sdk::Fd;

std::unexpected<Error> os_error(const std::filesystem::path &file) {
  return fail(ErrorCode::kUnavailable, file.string() + ": " + std::strerror(errno));
}

// Opens nothing but a regular file of our own or root's, that nobody else can write.
Result<int> open_own(const std::filesystem::path &file, int flags) {
  const int fd = ::open(file.c_str(), flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
  if (fd < 0) return errno == ENOENT ? Result<int>(-1) : os_error(file);
  struct stat st{};
  if (::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || (st.st_uid != ::geteuid() && st.st_uid != 0) ||
      (st.st_mode & 022)) {
    ::close(fd);
    return fail(ErrorCode::kPermissionDenied,
                file.string() + " is no file of ours that nobody else can change");
  }
  return fd;
}

}  // namespace

Result<RevokedIds> RevokedIds::read(const std::filesystem::path &file) {
  COFFER_TRY(const int opened, open_own(file, O_RDONLY));
  const Fd fd(opened);
  std::string lines;
  char chunk[16 * 1024];
  while (fd) {
    const ssize_t n = ::read(fd.get(), chunk, sizeof chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return os_error(file);
    if (n == 0) break;
    lines.append(chunk, static_cast<size_t>(n));
  }
  // What power loss left of a last line was never acknowledged.  In the file's middle nothing may be missing.
  lines.resize(lines.size() - lines.size() % kLine);
  for (size_t at = 0; at < lines.size(); at += kLine)
    if (lines.find_first_not_of("0123456789abcdef", at) != at + kLine - 1 || lines[at + kLine - 1] != '\n')
      return fail(ErrorCode::kDataLoss,
                  file.string() + ":" + std::to_string(at / kLine + 1) + ": the line is not a token's id",
                  "Correct or remove that line.");
  return RevokedIds(std::move(lines));
}

Result<void> RevokedIds::add(const std::filesystem::path &file, ByteSpan id) {
  COFFER_TRY(const RevokedIds known, read(file));
  if (known.contains(id)) return {};
  COFFER_TRY(const int opened, open_own(file, O_RDWR | O_CREAT));
  const Fd fd(opened);
  if (!fd) return os_error(file);
  if (::flock(fd.get(), LOCK_EX) != 0) return os_error(file);
  struct stat st{};
  if (::fstat(fd.get(), &st) != 0) return os_error(file);
  // What a power loss left of a line is written over.
  const off_t end = st.st_size - st.st_size % static_cast<off_t>(kLine);
  const std::string line = hex(id) + "\n";
  if (::pwrite(fd.get(), line.data(), line.size(), end) != static_cast<ssize_t>(line.size()) ||
      ::fsync(fd.get()) != 0)
    return os_error(file);
  const Fd folder(::open(file.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder || ::fsync(folder.get()) != 0) return os_error(file);
  return {};
}

}  // namespace coffer
